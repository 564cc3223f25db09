"""Texts with labels as input of a classifier.

Shapes use B batch, T length, D documents.
"""

import dataclasses
import functools

import numpy as np
from absl import logging

from jaxmodels.data import builder, language, pipeline, rows, tokens
from jaxmodels.data.label_records import (
    LabeledRecords,
    has_codes,
    label_names,
    labels_of,
)
from jaxmodels.data.listops import ListOps, listops_vocabulary, prepare_listops
from jaxmodels.data.vocabulary import Vocabulary
from jaxmodels.train.errors import ConfigError

LISTOPS = "listops"


def label_data(
    dataset,
    *,
    length,
    batch_size,
    vocabulary="bytes",
    vocab_size=None,
    num_classes=None,
    text_field="text",
    label_field="label",
    train_split="train",
    eval_split="validation",
    num_eval_batches=None,
    seed=0,
    on_bad_record="stop",
    max_bad_fraction=0.001,
    data_dir=None,
    cache_dir=None,
    listops=None,
):
    """Padded rows of text, each with one of a few labels.

    The first call on a machine builds the data set and its tokens, later ones open
    them. Any number of processes may make the first call at once. Of a text longer
    than the row the beginning is kept; a warning counts such texts.

    Args:
        dataset: "listops"; files of rows (see `jaxmodels.data.rows`), written with a
            leading `/`, `./`, `../` or `~`; or the name of a prepared TFDS data set,
            such as "imdb_reviews".
        length: T, tokens of a row, with the end id that stands before each text.
        batch_size: rows of a global batch.
        vocabulary: "bytes"; "listops"; "sentencepiece", trained on the train split; the
            path of a `.model` file; or a vocabulary.
        vocab_size: needed by "sentencepiece", else only compared.
        num_classes: compared with the labels that there are.
        text_field, label_field: entries of the records. A label is a class, a text or
            a whole number; the classes of the latter two are those of the train split.
        train_split, eval_split: splits of the data set, or parts such as "train[:90%]".
        num_eval_batches: at most so many, of rows spread evenly; None for all rows.
        seed: of the order of the rows.
        on_bad_record, max_bad_fraction: see `jaxmodels.data.records`.
        data_dir: folder of TFDS data sets, see `builder.data_directory`.
        cache_dir: local folder for tokens; `data_dir` when omitted.
        listops: fields of `listops.ListOps`, for the data set of that name.

    Returns:
        `Data` with the arrays of `LabeledText.batch`, and how often the most common
        label of the train split is right as `baselines["majority_accuracy"]`.

    Raises:
        BadRecordError: see `jaxmodels.data.records`.
        ConfigError: an argument is impossible, or there is no such data.
        StorageError: the disk is full, or a cache is damaged.
    """
    errors = argument_errors(
        length=length,
        batch_size=batch_size,
        num_eval_batches=num_eval_batches,
        vocabulary=vocabulary,
        vocab_size=vocab_size,
        on_bad_record=on_bad_record,
        max_bad_fraction=max_bad_fraction,
        listops=listops,
    )
    if errors:
        raise ConfigError("; ".join(errors))
    prepared = open_dataset(dataset, data_dir, listops, text_field)
    language.check_field(prepared, text_field)
    policy = {"on_bad_record": on_bad_record, "max_bad_fraction": max_bad_fraction}
    files = {s: builder.RecordFiles(prepared, s) for s in (train_split, eval_split)}
    directory = language.token_directory(prepared, data_dir, cache_dir)
    names = label_names(prepared, files[train_split], label_field, directory, policy)
    coded = has_codes(prepared, label_field)
    if num_classes is not None and num_classes != len(names):
        raise ConfigError(
            f"num_classes is {num_classes}, but {prepared.info.full_name} has"
            f" {len(names)} labels: {', '.join(names[:10])}"
        )
    vocab = make_vocabulary(
        vocabulary, vocab_size, files[train_split], text_field, directory, policy
    )

    def labeled(split):
        source = LabeledRecords(files[split], label_field, names, coded)
        stream = tokens.tokenize(
            source,
            vocab,
            directory,
            name=f"{prepared.info.full_name} {split}",
            field=text_field,
            **policy,
        )
        texts = LabeledText(
            stream, labels_of(stream, source, directory), length, vocab.end_id
        )
        if cut := texts.num_cut:
            logging.warning(
                "%s: %d of %d texts have more than %d tokens, the rest is cut off",
                stream.meta["source"],
                cut,
                len(texts),
                length - 1,
            )
        return texts

    train, held_out = labeled(train_split), labeled(eval_split)
    return pipeline.batched(
        train,
        held_out,
        batch_size=batch_size,
        num_eval_batches=num_eval_batches,
        seed=seed,
        unit="texts",
        preprocessing={
            "kind": "labels",
            "dataset": prepared.info.full_name,
            "splits": {"train": train_split, "eval": eval_split},
            "text_field": text_field,
            "label_field": label_field,
            "length": length,
            "listops": _listops_fields(dataset, listops),
            "labels": list(names),
            "vocabulary": vocab.to_json(),
        },
        baselines={"majority_accuracy": majority_baseline},
    )


def argument_errors(
    *, length, vocabulary="bytes", vocab_size=None, listops=None, **others
):
    """What is wrong with arguments of `label_data`, one line each; reads no data."""
    errors = [] if listops is None else listops_errors(listops)
    if length == 1:
        errors.append("length is 1, and the end id before a text takes that place")
    if vocabulary == LISTOPS:
        known = listops_vocabulary().vocab_size
        if vocab_size not in (None, known):
            errors.append(f"vocab_size is {vocab_size}, but ListOps has {known} ids")
        vocabulary, vocab_size = "bytes", None
    return errors + language.argument_errors(
        length=length, vocabulary=vocabulary, vocab_size=vocab_size, **others
    )


def listops_errors(fields):
    """What is wrong with fields of `listops.ListOps`, one line each."""
    try:
        ListOps(**fields)
    except (TypeError, ValueError) as error:
        return [f"listops: {line}" for line in str(error).splitlines()]
    return []


def _listops_fields(dataset, given):
    """All that the data set "listops" is made from; None for any other."""
    return dataclasses.asdict(ListOps(**(given or {}))) if dataset == LISTOPS else None


def open_dataset(dataset, data_dir=None, fields=None, text_field=None):
    """Opens, or builds, the data set that a name or a path stands for.

    Args:
        fields: of `listops.ListOps`, for the data set of that name.
        text_field: by which a single file of rows is split, see `rows.row_files`.

    Raises:
        ConfigError: there is none.
    """
    if dataset == LISTOPS:
        return prepare_listops(ListOps(**(fields or {})), data_dir)
    if builder.is_path(dataset):
        return rows.prepare_rows(rows.row_files(dataset, text_field), data_dir)
    return builder.open_prepared(dataset, data_dir)


def make_vocabulary(kind, vocab_size, *source):
    """As `language.make_vocabulary`, which does not know "listops"."""
    vocab: Vocabulary | str = listops_vocabulary() if kind == LISTOPS else kind
    return language.make_vocabulary(vocab, vocab_size, *source)


@dataclasses.dataclass(frozen=True)
class LabeledText:
    """Documents of a token stream with a label each, as arrays for a classifier.

    Attributes:
        stream: a `tokens.TokenStream`.
        labels: int32 [D].
        length: T.
        end_id: of the vocabulary.
    """

    stream: tokens.TokenStream
    labels: np.ndarray
    length: int
    end_id: int

    def __len__(self):
        return len(self.labels)

    @functools.cached_property
    def num_cut(self):
        """Number of texts that do not fit in a row."""
        # A document takes one place more than it has tokens, here as in a row.
        return int(np.count_nonzero(np.diff(self.stream.starts) > self.length))

    def batch(self, rows):
        """Stacks rows; None gives a row of padding.

        Returns:
            {inputs: int32 [B, T], the end id and then the text; mask: bool [B, T], True
             on both; targets: int32 [B]; weights: float32 [B], 0 for padding}.
        """
        count = len(rows)
        inputs = np.full((count, self.length), self.end_id, np.int32)
        mask = np.zeros((count, self.length), bool)
        targets, weights = np.zeros(count, np.int32), np.zeros(count, np.float32)
        mask[:, 0] = True
        for place, row in enumerate(rows):
            if row is None:
                continue
            begin, end = map(int, self.stream.starts[row : row + 2])
            ids = self.stream.tokens[begin : end - 1]
            fill_row(inputs[place], mask[place], ids)
            targets[place], weights[place] = self.labels[row], 1.0
        return {"inputs": inputs, "mask": mask, "targets": targets, "weights": weights}

    def names(self, row):
        """The name of the document in the row."""
        return [self.stream.name(row)]


def fill_row(inputs, mask, ids):
    """Writes ids into a row after its first place, as many as fit."""
    taken = min(len(ids), len(inputs) - 1)
    inputs[1 : 1 + taken] = ids[:taken]
    mask[1 : 1 + taken] = True


def majority_baseline(train, evaluation):
    """How often the most common label of `train` is right in `evaluation`."""
    common = np.bincount(train.labels).argmax()
    held_out = evaluation.rows.labels[evaluation.chosen]
    return float(np.mean(held_out == common))
