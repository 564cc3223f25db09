"""Pairs of texts as input of a sequence-to-sequence model.

Shapes use B batch, S source length, T target length, N pairs.
"""

import dataclasses
import functools

import numpy as np
from absl import logging

from jaxmodels.data import (
    builder,
    docstrings,
    generated,
    language,
    pipeline,
    rows,
    tokens,
)
from jaxmodels.data.records import BadRecords
from jaxmodels.train.errors import ConfigError


def pair_data(
    dataset,
    *,
    source_length,
    target_length,
    batch_size,
    source_field="source",
    target_field="target",
    vocabulary="bytes",
    vocab_size=None,
    source_vocabulary=None,
    source_vocab_size=None,
    train_split="train",
    eval_split="validation",
    num_eval_batches=None,
    seed=0,
    on_bad_record="stop",
    max_bad_fraction=0.001,
    data_dir=None,
    cache_dir=None,
):
    """Padded rows of pairs of texts for an encoder and a decoder.

    The first call on a machine builds the data set and its tokens, later ones open
    them. Any number of processes may make the first call at once. Of a text longer
    than its row the beginning is kept; a warning and the preprocessing count such
    texts.

    Args:
        dataset: "copy", "reverse" or "number_to_words" (see `generated`);
            "python_docstrings"; files of rows (see `jaxmodels.data.rows`), written with
            a leading `/`, `./`, `../` or `~`; or the name of a prepared TFDS data set,
            such as "ted_hrlr_translate/pt_to_en", "wmt14_translate/de-en", "billsum",
            "multi_news" or "cnn_dailymail".
        source_length: S, tokens of a source.
        target_length: T, tokens of a target with its end.
        batch_size: pairs of a global batch.
        source_field, target_field: the entries of the records that are the two texts.
        vocabulary: "bytes"; "sentencepiece", trained on the train split; the path of a
            `.model` file; or a vocabulary.
        vocab_size: needed by "sentencepiece", else only compared.
        source_vocabulary: the same, of the source alone; None for one vocabulary, which
            is then trained on both texts.
        source_vocab_size: of `source_vocabulary`.
        train_split, eval_split: splits of the data set, or parts such as "train[:99%]".
        num_eval_batches: at most so many, of pairs spread evenly; None for all pairs.
        seed: of the order of the pairs.
        on_bad_record, max_bad_fraction: see `jaxmodels.data.records`; a pair is bad
            where one of its texts is.
        data_dir: folder of TFDS data sets, see `builder.data_directory`.
        cache_dir: local folder for tokens; `data_dir` when omitted.

    Returns:
        `Data` with the arrays of `TextPairs.batch`, and the bits per byte of a unigram
        byte model of the targets as `baselines["unigram_bits_per_byte"]`.

    Raises:
        BadRecordError: see `jaxmodels.data.records`.
        ConfigError: an argument is impossible, or there is no such data.
        StorageError: the disk is full, or a cache is damaged.
    """
    errors = argument_errors(
        source_length=source_length,
        target_length=target_length,
        batch_size=batch_size,
        num_eval_batches=num_eval_batches,
        vocabulary=vocabulary,
        vocab_size=vocab_size,
        source_vocabulary=source_vocabulary,
        source_vocab_size=source_vocab_size,
        on_bad_record=on_bad_record,
        max_bad_fraction=max_bad_fraction,
    )
    if errors:
        raise ConfigError("; ".join(errors))
    prepared = open_dataset(dataset, data_dir, source_field)
    fields = {"source_field": source_field, "target_field": target_field}
    for label, field in fields.items():
        language.check_field(prepared, field, label)
    policy = {"on_bad_record": on_bad_record, "max_bad_fraction": max_bad_fraction}
    files = {s: builder.RecordFiles(prepared, s) for s in (train_split, eval_split)}
    directory = language.token_directory(prepared, data_dir, cache_dir)

    def vocabulary_of(kind, size, *names):
        return language.make_vocabulary(
            kind, size, files[train_split], names, directory, policy
        )

    if source_vocabulary is None:
        vocab = vocabulary_of(vocabulary, vocab_size, source_field, target_field)
        source_vocab = vocab
    else:
        vocab = vocabulary_of(vocabulary, vocab_size, target_field)
        source_vocab = vocabulary_of(source_vocabulary, source_vocab_size, source_field)

    def paired(split):
        name = f"{prepared.info.full_name} {split}"
        source, target = (
            tokens.tokenize(
                files[split], own, directory, name=name, field=field, **policy
            )
            for own, field in ((source_vocab, source_field), (vocab, target_field))
        )
        check_pairs(source, target, **policy)
        sizes = language.bytes_of_ids(target, vocab)
        made = TextPairs(
            source, target, source_length, target_length, vocab.end_id, sizes
        )
        warn_of_cuts(made, name)
        return made

    train, held_out = paired(train_split), paired(eval_split)
    return pipeline.batched(
        train,
        held_out,
        batch_size=batch_size,
        num_eval_batches=num_eval_batches,
        seed=seed,
        unit="tokens",
        preprocessing={
            "kind": "pairs",
            "dataset": prepared.info.full_name,
            "splits": {"train": train_split, "eval": eval_split},
            **fields,
            "source_length": source_length,
            "target_length": target_length,
            "truncated": {"train": train.truncated, "eval": held_out.truncated},
            "vocabulary": vocab.to_json(),
            "source_vocabulary": (
                None if source_vocabulary is None else source_vocab.to_json()
            ),
        },
        baselines={
            "unigram_bits_per_byte": functools.partial(unigram_baseline, vocab=vocab)
        },
    )


def argument_errors(
    *,
    source_length,
    target_length,
    vocabulary="bytes",
    vocab_size=None,
    source_vocabulary=None,
    source_vocab_size=None,
    **others,
):
    """What is wrong with arguments of `pair_data`, one line each; reads no data."""
    errors = [
        f"{name} is {length}, not at least 1"
        for name, length in (
            ("source_length", source_length),
            ("target_length", target_length),
        )
        if length < 1
    ]
    errors += language.argument_errors(
        length=1, vocabulary=vocabulary, vocab_size=vocab_size, **others
    )
    if source_vocabulary is None and source_vocab_size is not None:
        errors.append(
            f"source_vocab_size is {source_vocab_size}, but source_vocabulary is None:"
            " one vocabulary is on both sides"
        )
    elif source_vocabulary is not None:
        own = language.argument_errors(
            length=1,
            batch_size=1,
            vocabulary=source_vocabulary,
            vocab_size=source_vocab_size,
        )
        errors += [f"the source's {line}" for line in own]
    return errors


def open_dataset(dataset, data_dir=None, source_field=None):
    """Opens, or builds, the data set that a name or a path stands for.

    Args:
        source_field: by which a single file of rows is split, see `rows.row_files`.

    Raises:
        ConfigError: there is none.
    """
    if generated.is_generated(dataset):
        return generated.prepare(dataset, data_dir)
    if dataset == "python_docstrings":
        return docstrings.prepare(data_dir)
    if builder.is_path(dataset):
        return rows.prepare_rows(rows.row_files(dataset, source_field), data_dir)
    return builder.open_prepared(dataset, data_dir)


@dataclasses.dataclass(frozen=True)
class TextPairs:
    """Documents of two token streams that came from one record each.

    Attributes:
        source, target: a `tokens.TokenStream` of each side.
        source_length, target_length: S, T.
        end_id: of the target's vocabulary.
        target_bytes: float32 [vocab_size], bytes of text that each id stands for.
    """

    source: tokens.TokenStream
    target: tokens.TokenStream
    source_length: int
    target_length: int
    end_id: int
    target_bytes: np.ndarray

    def __reduce__(self):
        # Places are found again rather than sent to every worker.
        fields = dataclasses.fields(self)
        return TextPairs, tuple(getattr(self, field.name) for field in fields)

    @functools.cached_property
    def places(self):
        """Documents of source and target of each pair, two int64 [N]."""
        _, source, target = np.intersect1d(
            self.source.index,
            self.target.index,
            assume_unique=True,
            return_indices=True,
        )
        return source, target

    def __len__(self):
        return len(self.places[0])

    @functools.cached_property
    def truncated(self):
        """How many texts do not fit in their rows, of how many pairs."""
        source, target = (
            np.diff(stream.starts)[places]
            for stream, places in zip(
                (self.source, self.target), self.places, strict=True
            )
        )
        # In a stream, a document's end takes a place, as it does in a target's row.
        return {
            "source": int(np.count_nonzero(source - 1 > self.source_length)),
            "target": int(np.count_nonzero(target > self.target_length)),
            "pairs": len(self),
        }

    def batch(self, rows):
        """Stacks pairs; None gives a row of padding.

        The decoder reads the target behind `end_id` and predicts the target and then
        `end_id`; the end of a target that does not fit is not predicted.

        Returns:
            {source: int32 [B, S]; source_mask: bool [B, S];
             inputs, targets: int32 [B, T];
             weights, target_bytes: float32 [B, T], 0 on padding}.
        """
        shapes = (len(rows), self.source_length), (len(rows), self.target_length)
        source, mask = np.zeros(shapes[0], np.int32), np.zeros(shapes[0], bool)
        inputs, targets = (np.full(shapes[1], self.end_id, np.int32) for _ in range(2))
        weights = np.zeros(shapes[1], np.float32)
        for place, row in enumerate(rows):
            if row is None:
                continue
            ids = self.ids("source", row)[: self.source_length]
            source[place, : len(ids)], mask[place, : len(ids)] = ids, True
            # With its end, as it stands in the stream.
            ids = self.ids("target", row, end=True)[: self.target_length]
            targets[place, : len(ids)], weights[place, : len(ids)] = ids, 1.0
            inputs[place, 1 : len(ids)] = ids[:-1]
        return {
            "source": source,
            "source_mask": mask,
            "inputs": inputs,
            "targets": targets,
            "weights": weights,
            "target_bytes": self.target_bytes[targets] * weights,
        }

    def ids(self, side, row, end=False):
        """All ids of the "source" or the "target" of a pair, with the end or without.

        Returns:
            [n] of the stream's dtype; see `source_length` for what a model reads.
        """
        stream = self.source if side == "source" else self.target
        document = self.places[0 if side == "source" else 1][row]
        begin, stop = map(int, stream.starts[document : document + 2])
        return stream.tokens[begin : stop if end else stop - 1]

    def names(self, row):
        """The name of the record that the pair came from."""
        return [self.source.name(int(self.places[0][row]))]


def check_pairs(source, target, on_bad_record, max_bad_fraction):
    """Holds the records that are bad on either side to the policy on them.

    Raises:
        BadRecordError: they are too many.
        ConfigError: no pair is left.
    """
    total = source.meta["records"]
    good = len(np.intersect1d(source.index, target.index, assume_unique=True))
    first = source.meta["first_bad"] or target.meta["first_bad"]
    if first:
        bad = BadRecords(total, on_bad_record, max_bad_fraction)
        bad.check_fraction(total - good, *first)
    if not good:
        raise ConfigError(f"{source.meta['source']} holds no pair of two good texts")


def warn_of_cuts(pairs, name):
    """Logs how many texts are longer than their rows."""
    cut, limits = pairs.truncated, (pairs.source_length, pairs.target_length - 1)
    for side, limit in zip(("source", "target"), limits, strict=True):
        if cut[side]:
            logging.warning(
                "%s: %d of %d %ss have more than %d tokens, the rest is cut off",
                name,
                cut[side],
                cut["pairs"],
                side,
                limit,
            )


def unigram_baseline(train, evaluation, vocab):
    """Bits per byte that a unigram byte model spends on the targets of `evaluation`.

    It is fitted to all good targets of the train split, in full, those whose source is
    bad among them; see `language.unigram_bits`.
    """
    rows = evaluation.rows
    counts = np.zeros(vocab.vocab_size, np.int64)
    for row in evaluation.chosen.tolist():
        ids = rows.ids("target", row, end=True)[: rows.target_length]
        counts += np.bincount(ids, minlength=vocab.vocab_size)
    return language.unigram_bits(train.target.counts, counts, rows.target_bytes, vocab)
