"""The tokens of one split as a stream on disk, made once and mapped into memory.

A stream is a folder:

    tokens.bin   every document followed by the end id, in the vocabulary's dtype
    starts.npy   int64 [D + 1], see `packing.document_starts`
    index.npy    int64 [D], the record that each document came from
    counts.npy   int64 [vocab_size], how often each id occurs
    names.json   the names of the documents, where the records have names
    meta.json    sizes, a checksum, and the records that were bad
"""

import array
import dataclasses
import functools
import hashlib
import json
import pathlib
import zlib

import numpy as np
import tqdm

from jaxmodels.data import cache, packing, vocabulary
from jaxmodels.data.records import BadRecordError, BadRecords, CheckedRecords
from jaxmodels.train.errors import ConfigError

FORMAT = 1
CHUNK = 2**20  # tokens written at a time


@dataclasses.dataclass(frozen=True)
class TokenStream:
    """A stream, opened for reading; pickles as its folder's path."""

    directory: pathlib.Path
    meta: dict
    tokens: np.ndarray  # [N]
    starts: np.ndarray  # int64 [D + 1]

    def __reduce__(self):
        return open_stream, (self.directory,)

    @property
    def counts(self):
        """How often each id occurs, int64 [vocab_size]."""
        return np.load(self.directory / "counts.npy")

    @property
    def index(self):
        """The record that each document came from, int64 [D], increasing."""
        return np.load(self.directory / "index.npy", mmap_mode="r")

    @functools.cached_property
    def _names(self):
        path = self.directory / "names.json"
        return json.loads(path.read_text("utf-8")) if path.exists() else None

    def name(self, document):
        """The name of a document, or the number of the record it came from."""
        if self._names is not None:
            return self._names[document]
        return f"{self.meta['source']}[{self.index[document]}]"


def open_stream(directory):
    """Opens the stream in a folder.

    Raises:
        StorageError: the files are damaged.
    """
    directory = pathlib.Path(directory)
    with cache.opened(directory):
        meta = json.loads((directory / "meta.json").read_text("utf-8"))
        starts = np.load(directory / "starts.npy", mmap_mode="r")
        tokens = np.memmap(directory / "tokens.bin", meta["dtype"], mode="r")
        complete = len(tokens) == meta["tokens"] == starts[-1]
        cache.check_whole(directory, tokens, meta["crc32"], complete)
    return TokenStream(directory, meta, tokens, starts)


def text_of(record, field):
    """The text of one record.

    Raises:
        ValueError: it is empty, not UTF-8, or holds NUL.
    """
    text = record[field]
    text = text.decode("utf-8") if isinstance(text, bytes) else text
    if not text:
        raise ValueError("empty text")
    if "\0" in text:
        raise ValueError(f"a NUL character, at character {text.index(chr(0))}")
    return text


def encode_record(record, field, vocab):
    """The name, ids and bytes of text of one record.

    Raises:
        ValueError: see `text_of`, or the vocabulary refuses the text.
    """
    text = text_of(record, field)
    name = record.get("name") if field != "name" else None
    name = name.decode("utf-8") if isinstance(name, bytes) else None
    return name, vocab.encode(text), len(text.encode("utf-8"))


def tokenize(
    source,
    vocab,
    directory,
    *,
    name,
    field="text",
    on_bad_record="stop",
    max_bad_fraction=0.001,
):
    """Opens the token stream of a split, making it first if need be.

    Any number of processes may call this at once. A bad record is left out of the
    stream.

    Args:
        source: records with a text, as `builder.RecordFiles` gives them.
        vocab: see `jaxmodels.data.vocabulary`.
        directory: parent of the stream's folder.
        name: data set and split, such as "lm1b/1.1.0 train".
        field: the records' entry that is the text.
        on_bad_record, max_bad_fraction: see `jaxmodels.data.records`.

    Raises:
        BadRecordError: see `jaxmodels.data.records`.
        ConfigError: no text at all, or `directory` cannot be written.
        StorageError: the disk is full, or the stream is damaged.
    """
    checked = CheckedRecords(
        source,
        functools.partial(encode_record, field=field, vocab=vocab),
        on_bad_record,
        max_bad_fraction,
    )
    key = json.dumps([FORMAT, name, field, vocabulary.digest(vocab), source.identity])
    digest = hashlib.sha256(key.encode("utf-8")).hexdigest()[:16]
    slug = "".join(c if c.isalnum() else "-" for c in name.split()[-1])
    folder = cache.build_once(
        pathlib.Path(directory) / f"{slug}-{digest}",
        functools.partial(_write, checked=checked, vocab=vocab, name=name),
    )
    stream = open_stream(folder)
    _check_policy(stream.meta, on_bad_record, max_bad_fraction)
    return stream


def _check_policy(meta, on_bad_record, max_bad_fraction):
    """Holds a stream made earlier, under another policy perhaps, to this one."""
    if meta["bad"]:
        where, reason = meta["first_bad"]
        bad = BadRecords(meta["records"], on_bad_record, max_bad_fraction)
        if on_bad_record == "stop":
            raise BadRecordError(where, reason)
        bad.check_fraction(meta["bad"], where, reason)


def _write(directory, checked, vocab, name):
    """Writes the files of a stream into an empty folder."""
    counts = np.zeros(vocab.vocab_size, np.int64)
    lengths, index = array.array("q"), array.array("q")
    names = []
    crc, text_bytes = 0, 0
    end = np.asarray([vocab.end_id], vocab.dtype)
    progress = tqdm.tqdm(
        checked.good(),
        f"tokenizing {name}",
        total=len(checked),
        unit=" records",
        disable=None,
        leave=False,
    )
    with open(directory / "tokens.bin", "wb") as file:
        for chunk in _chunks(progress):
            pieces = []
            for record, (document, ids, size) in chunk:
                pieces += [ids, end]
                lengths.append(len(ids))
                index.append(record)
                if document is not None:
                    names.append(document)
                text_bytes += size
            tokens = np.concatenate(pieces)
            counts += np.bincount(tokens, minlength=len(counts))
            crc = zlib.crc32(tokens.data, crc)
            file.write(tokens.data)
    if not lengths:
        raise ConfigError(f"{name} holds no text")
    starts = packing.document_starts(lengths)
    np.save(directory / "starts.npy", starts)
    np.save(directory / "index.npy", np.asarray(index, np.int64))
    np.save(directory / "counts.npy", counts)
    if len(names) == len(lengths):
        (directory / "names.json").write_text(json.dumps(names), "utf-8")
    bad = list(checked.bad.seen.values())
    meta = {
        "source": name,
        "dtype": vocab.dtype.name,
        "tokens": int(starts[-1]),
        "crc32": crc,
        "text_bytes": text_bytes,
        "records": len(checked),
        "bad": len(bad),
        "first_bad": bad[0] if bad else None,
    }
    (directory / "meta.json").write_text(json.dumps(meta), "utf-8")


def _chunks(documents):
    """Groups documents so that each group has about `CHUNK` tokens."""
    group, tokens = [], 0
    for record, document in documents:
        group.append((record, document))
        tokens += len(document[1])
        if tokens >= CHUNK:
            yield group
            group, tokens = [], 0
    if group:
        yield group
