"""Records with a label: its number, its name, and those that have none.

Shapes use D documents.
"""

import hashlib
import json
import pathlib

import numpy as np
import tensorflow_datasets as tfds

from jaxmodels.data import cache, records, tokens
from jaxmodels.train.errors import ConfigError

MAX_CLASSES = 10_000


def label_of(record, field):
    """The label of a record as text, or as an int where it is a number.

    Raises:
        ValueError: it is neither.
    """
    value = record[field]
    if isinstance(value, bytes):
        value = value.decode("utf-8")
    if isinstance(value, str):
        if not value:
            raise ValueError("an empty label")
        return value
    if not np.issubdtype(np.asarray(value).dtype, np.integer) or np.ndim(value):
        raise ValueError(f"the label {str(value)[:40]} is neither text nor whole")
    return int(value)


def has_codes(prepared, field):
    """Whether the records hold the number of a class rather than its name."""
    return isinstance(prepared.info.features[field], tfds.features.ClassLabel)


def label_names(prepared, train, field, directory, policy):
    """The names of the labels, in the order of their numbers.

    Args:
        prepared: a builder.
        train: records of the train split.
        directory: where the labels found in the records are kept.
        policy: keywords for `records.CheckedRecords`.

    Raises:
        BadRecordError: see `jaxmodels.data.records`.
        ConfigError: there is no such field, or its labels are too few or too many.
    """
    features = prepared.info.features
    if field not in features:
        raise ConfigError(
            f"label_field is {field!r}; {prepared.info.full_name} has the fields"
            f" {', '.join(sorted(features))}"
        )
    if has_codes(prepared, field):
        names = features[field].names
    else:
        names = _found_labels(train, field, directory, policy)
    if not 2 <= len(names) <= MAX_CLASSES:
        raise ConfigError(
            f"{prepared.info.full_name} has {len(names)} different labels in {field!r}:"
            f" {', '.join(names[:5])}; it takes 2 to {MAX_CLASSES}"
        )
    return tuple(names)


def _found_labels(source, field, directory, policy):
    """The labels in records, sorted."""

    def write(folder):
        checked = records.CheckedRecords(
            source, lambda record: label_of(record, field), **policy
        )
        found = {label for _, label in checked.good()}
        ordered = sorted(found, key=lambda label: (isinstance(label, str), label))
        (folder / "labels.json").write_text(json.dumps(list(map(str, ordered))))

    key = json.dumps([tokens.FORMAT, source.identity, field])
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    folder = cache.build_once(directory / f"labels-{digest}", write)
    return json.loads((folder / "labels.json").read_text("utf-8"))


class LabeledRecords:
    """Records, of which those without a known label cannot be read.

    Args:
        source: a `builder.RecordFiles`.
        field: the entry that is the label.
        names: of the labels.
        coded: the entry is the number of a label, not its name.
    """

    def __init__(self, source, field, names, coded):
        self._source, self._field = source, field
        self._numbers = {
            number if coded else name: number for number, name in enumerate(names)
        }
        self.where = source.where
        self.identity = json.dumps([source.identity, field, names, coded])

    def __len__(self):
        return len(self._source)

    def __getitem__(self, index):
        record = self._source[index]
        self.label(record)
        return record

    def __getitems__(self, indexes):
        found = self._source.__getitems__(indexes)
        for record in found:
            self.label(record)
        return found

    def label(self, record):
        """The number of a record's label.

        Raises:
            ValueError: it is no label that the train split has.
        """
        label = label_of(record, self._field)
        # What is no class may be a number all the same; names are texts.
        label = label if label in self._numbers else str(label)
        if label not in self._numbers:
            raise ValueError(f"the label {label!r} is none of the {len(self._numbers)}")
        return self._numbers[label]


def labels_of(stream, source, directory):
    """The label of each document of a stream, int32 [D], read once.

    Raises:
        StorageError: the file of an earlier read is damaged.
    """

    def write(folder):
        index = stream.index
        labels = np.empty(len(index), np.int32)
        for begin in range(0, len(index), records.BLOCK):
            block = index[begin : begin + records.BLOCK].tolist()
            found = source.__getitems__(block)
            labels[begin : begin + len(block)] = [source.label(one) for one in found]
        np.save(folder / "labels.npy", labels)

    name = f"{pathlib.Path(stream.directory).name}-labels"
    folder = cache.build_once(directory / name, write)
    with cache.opened(folder):
        labels = np.load(folder / "labels.npy")
    return labels
