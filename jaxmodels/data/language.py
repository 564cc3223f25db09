"""Language-model input: a data set's name and a few numbers in, `Data` out."""

import functools
import hashlib
import json
import os
import pathlib

import grain
import numpy as np
import tqdm

from jaxmodels.data import builder, cache, pipeline, records, text, tokens
from jaxmodels.data.pipeline import PackedText
from jaxmodels.data.vocabulary import (
    ByteVocabulary,
    SentencePieceVocabulary,
    Vocabulary,
    train_sentencepiece,
)
from jaxmodels.train.errors import ConfigError


def language_model_data(
    dataset="python_source",
    *,
    length,
    batch_size,
    vocabulary="bytes",
    vocab_size=None,
    text_field="text",
    train_split="train",
    eval_split="validation",
    num_eval_batches=None,
    seed=0,
    on_bad_record="stop",
    max_bad_fraction=0.001,
    data_dir=None,
    cache_dir=None,
):
    """Packed rows of text for a causal language model.

    The first call on a machine builds the data set and its tokens, later ones open
    them. Any number of processes may make the first call at once.

    Args:
        dataset: "python_source" (the standard library's own modules); a folder or file
            of text, written with a leading `/`, `./`, `../` or `~`; or the name of a
            prepared TFDS data set, such as "lm1b" or "pg19".
        length: T, tokens of a row.
        batch_size: rows of a global batch.
        vocabulary: "bytes"; "sentencepiece", trained on the train split; the path of a
            `.model` file; or a vocabulary.
        vocab_size: needed by "sentencepiece", else only compared.
        text_field: the entry of the records that is the text.
        train_split, eval_split: splits of the data set, or parts such as "train[:99%]".
        num_eval_batches: at most so many, of rows spread evenly; None for all rows.
        seed: of the order of the rows.
        on_bad_record, max_bad_fraction: see `jaxmodels.data.records`.
        data_dir: folder of TFDS data sets, see `builder.data_directory`.
        cache_dir: local folder for tokens; `data_dir` when omitted.

    Returns:
        `Data` with the arrays of `PackedText.batch`, and the bits per byte of a unigram
        byte model as `baselines["unigram_bits_per_byte"]`.

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
    )
    if errors:
        raise ConfigError("; ".join(errors))
    prepared = open_dataset(dataset, data_dir)
    check_field(prepared, text_field)
    policy = {"on_bad_record": on_bad_record, "max_bad_fraction": max_bad_fraction}
    files = {s: builder.RecordFiles(prepared, s) for s in (train_split, eval_split)}
    directory = token_directory(prepared, data_dir, cache_dir)
    vocab = make_vocabulary(
        vocabulary, vocab_size, files[train_split], text_field, directory, policy
    )

    def packed(split):
        stream = tokens.tokenize(
            files[split],
            vocab,
            directory,
            name=f"{prepared.info.full_name} {split}",
            field=text_field,
            **policy,
        )
        return PackedText(stream, length, vocab.end_id, bytes_of_ids(stream, vocab))

    train, held_out = packed(train_split), packed(eval_split)
    return pipeline.batched(
        train,
        held_out,
        batch_size=batch_size,
        num_eval_batches=num_eval_batches,
        seed=seed,
        unit="tokens",
        preprocessing={
            "dataset": prepared.info.full_name,
            "splits": {"train": train_split, "eval": eval_split},
            "text_field": text_field,
            "length": length,
            "vocabulary": vocab.to_json(),
        },
        baselines={
            "unigram_bits_per_byte": functools.partial(unigram_baseline, vocab=vocab)
        },
    )


def argument_errors(
    *,
    length,
    batch_size,
    num_eval_batches=None,
    vocabulary="bytes",
    vocab_size=None,
    on_bad_record="stop",
    max_bad_fraction=0.001,
):
    """What is wrong with arguments of `language_model_data`, one line each.

    Reads no data, so that a launcher can ask before anything is started.
    """
    numbers = {"length": length, "batch_size": batch_size}
    if num_eval_batches is not None:
        numbers["num_eval_batches"] = num_eval_batches
    errors = [f"{k} is {v}, not at least 1" for k, v in numbers.items() if v < 1]
    if vocabulary == "sentencepiece" and vocab_size is None:
        errors.append('vocabulary "sentencepiece" needs a vocab_size')
    if vocabulary == "bytes" and vocab_size not in (None, ByteVocabulary.vocab_size):
        errors.append(f"vocab_size is {vocab_size}, but there are 256 bytes")
    return errors + records.policy_errors(on_bad_record, max_bad_fraction)


def open_dataset(dataset, data_dir=None):
    """Opens, or builds, the data set that a name or a path stands for.

    Raises:
        ConfigError: there is none.
    """
    if dataset == "python_source":
        return text.prepare_corpus(text.python_source_corpus(), data_dir)
    if builder.is_path(dataset):
        return text.prepare_corpus(text.folder_corpus(dataset), data_dir)
    return builder.open_prepared(dataset, data_dir)


def check_field(prepared, field, label="text_field"):
    """Raises `ConfigError` unless the records have an entry `field` that is text.

    Args:
        label: what messages call it.
    """
    features = prepared.info.features
    # `Text` is a subclass of `Tensor` that holds one string.
    texts = [name for name in features if features[name].np_dtype == np.object_]
    if field not in texts:
        raise ConfigError(
            f"{label} is {field!r}; {prepared.info.full_name} has the texts"
            f" {', '.join(sorted(texts)) or '(none)'}"
        )


def token_directory(prepared, data_dir=None, cache_dir=None):
    """The folder for streams and vocabularies made of a data set.

    Raises:
        ConfigError: it would be in a bucket.
    """
    root = builder.data_directory(cache_dir or data_dir)
    if not builder.is_local(root):
        raise ConfigError(f"{root} is not a local folder: set cache_dir to one")
    return pathlib.Path(root) / "tokens" / prepared.info.full_name


def make_vocabulary(kind, vocab_size, source, field, directory, policy):
    """Builds, loads or trains a vocabulary; arguments as in `language_model_data`.

    Args:
        source: records of the train split.
        field: the entry of the records that is the text, or several.
        directory: where a trained vocabulary is kept.
        policy: keywords for `CheckedRecords`.

    Raises:
        ConfigError: there is no such vocabulary, or it has another size.
    """
    vocab: Vocabulary
    if kind == "bytes":
        vocab = ByteVocabulary()
    elif kind == "sentencepiece":
        vocab = _trained_vocabulary(vocab_size, source, field, directory, policy)
    elif isinstance(kind, str | os.PathLike):
        try:
            model = pathlib.Path(kind).expanduser().read_bytes()
        except OSError as error:
            raise ConfigError(
                f'vocabulary {str(kind)!r}: {error.strerror}; it is "bytes",'
                ' "sentencepiece" or the path of a SentencePiece .model file'
            ) from error
        vocab = SentencePieceVocabulary(model)
    else:
        vocab = kind
    if vocab_size is not None and vocab_size != vocab.vocab_size:
        raise ConfigError(
            f"vocab_size is {vocab_size}, but the vocabulary has {vocab.vocab_size} ids"
        )
    return vocab


def _trained_vocabulary(vocab_size, source, field, directory, policy):
    fields = (field,) if isinstance(field, str) else tuple(field)
    # One field is kept under the name that it always had.
    label = fields[0] if len(fields) == 1 else fields

    def texts_of(record):
        return [tokens.text_of(record, name) for name in fields]

    def write(folder):
        checked = records.CheckedRecords(source, texts_of, **policy)
        # Texts in a scattered order, so that a sample of them is a fair one.
        order = grain.MapDataset.range(len(source)).shuffle(seed=0)
        places = tqdm.tqdm(
            range(len(source)),
            f"training a vocabulary of {vocab_size} pieces",
            unit=" records",
            disable=None,
            leave=False,
        )
        read = (checked.read(int(order[place])) for place in places)
        texts = (text for found in read for text in found or ())
        trained = train_sentencepiece(texts, vocab_size)
        (folder / "sentencepiece.model").write_bytes(trained.model)

    key = json.dumps([tokens.FORMAT, source.identity, label, vocab_size])
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    folder = cache.build_once(directory / f"sentencepiece-{vocab_size}-{digest}", write)
    return SentencePieceVocabulary((folder / "sentencepiece.model").read_bytes())


def bytes_of_ids(stream, vocab):
    """Bytes of text that each id stands for, float32 [vocab_size].

    They are scaled so that they add up to the bytes of the stream's text. The scale is
    1 unless the vocabulary normalizes, which must not change what a byte is.
    """
    sizes = np.asarray([len(piece) for piece in vocab.token_bytes], np.float64)
    written = float(stream.counts @ sizes)
    return (sizes * (stream.meta["text_bytes"] / max(written, 1.0))).astype(np.float32)


def unigram_baseline(train, evaluation, vocab):
    """Bits per byte that a unigram byte model spends on the batches of `evaluation`.

    The model is fitted to the train split; the end of a document is its 257th symbol,
    which costs bits and stands for no byte.
    """
    rows = evaluation.rows
    if len(evaluation.chosen) == len(rows):
        counts = rows.stream.counts
    else:
        counts = np.zeros(vocab.vocab_size, np.int64)
        for row in evaluation.chosen.tolist():
            begin = row * rows.length
            targets = rows.stream.tokens[begin : begin + rows.length]
            counts += np.bincount(targets, minlength=vocab.vocab_size)
    return unigram_bits(train.stream.counts, counts, rows.target_bytes, vocab)


def unigram_bits(train_counts, counts, target_bytes, vocab):
    """Bits per byte of a unigram byte model.

    Args:
        train_counts, counts: [vocab_size], how often each id occurs in what the model
            is fitted to, with one added for each symbol, and in what it is tried on.
        target_bytes: [vocab_size], bytes that each id stands for.
    """
    fitted = 1 + byte_counts(train_counts, vocab)
    bits = -np.log2(fitted / fitted.sum()) @ byte_counts(counts, vocab)
    return float(bits / max(counts @ target_bytes.astype(np.float64), 1.0))


def byte_counts(counts, vocab):
    """How often each byte value, and the end, occurs in ids.

    Args:
        counts: [vocab_size], how often each id occurs.

    Returns:
        float64 [257].
    """
    sizes = np.asarray([len(piece) for piece in vocab.token_bytes])
    values = np.frombuffer(b"".join(vocab.token_bytes), np.uint8)
    repeated = np.repeat(np.asarray(counts, np.float64), sizes)
    result = np.bincount(values, repeated, minlength=257)
    result[256] += counts[vocab.end_id]
    return result
