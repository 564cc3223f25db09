"""Files of rows of a user's own, TSV or JSON Lines, made a data set of text fields.

A `.tsv` file names its columns in the first line; nothing in it is quoted. A `.jsonl`
file holds an object of texts and numbers a line. A folder holds one file a split,
`train`, `validation` and `test`; of a single file, each row falls into a split by a
hash of the field that a model reads, so that equal inputs share a split, whatever else
their rows hold, and stay in it whatever else is added.
"""

import dataclasses
import hashlib
import json
import pathlib

import tensorflow_datasets as tfds
import tqdm

from jaxmodels.data import builder, text
from jaxmodels.train.errors import ConfigError

SUFFIXES = (".tsv", ".jsonl")


@dataclasses.dataclass(frozen=True)
class RowFiles:
    """Files of rows.

    Attributes:
        files: (split or None, path) pairs; None for a file that is split by row.
        columns: names of the fields, in the order of the first file.
        digest: hash of the contents, and of how a single file is split.
        split_by: the field whose text says the split of a row of a single file.
    """

    files: tuple[tuple[str | None, pathlib.Path], ...]
    columns: tuple[str, ...]
    digest: str
    split_by: str

    @property
    def splits(self):
        if self.files[0][0] is None:
            return text.SPLITS
        return tuple(split for split, _ in self.files)

    def rows(self, split):
        """Yields the rows of a split, {column: text}.

        Raises:
            ConfigError: a line is no row; names file and line.
        """
        for own, path in self.files:
            if own not in (None, split):
                continue
            for row in read_rows(path, self.columns):
                if own == split or text.hashed_split(row[self.split_by]) == split:
                    yield row


def _files_of_splits(folder):
    candidates = (
        (split, folder / f"{split}{suffix}")
        for split in text.SPLITS
        for suffix in SUFFIXES
    )
    return tuple((split, path) for split, path in candidates if path.is_file())


def row_files(path, split_by=None):
    """The rows in a file, or in a folder with a file for each split.

    Every start reads and hashes all of it.

    Args:
        split_by: the field by whose text a single file is split; its first by default.

    Raises:
        ConfigError: there is no such file or field, two files are of one split, or one
            has no rows.
    """
    path = pathlib.Path(path).expanduser()
    if path.is_dir():
        files = _files_of_splits(path)
        splits = [split for split, _ in files]
        if not files or len(set(splits)) < len(splits):
            raise ConfigError(
                f"{path} must hold one file for each of train, validation and test, as"
                f" {' or '.join(SUFFIXES)}; it has"
                f" {', '.join(file.name for _, file in files) or 'none'}"
            )
    elif path.suffix in SUFFIXES and path.is_file():
        files = ((None, path),)
    else:
        raise ConfigError(f"{path} is no folder and no {' or '.join(SUFFIXES)} file")
    digest = hashlib.sha256()
    for split, file in files:
        try:
            content = hashlib.sha256(file.read_bytes()).hexdigest()
        except OSError as error:
            raise ConfigError(f"{file}: {error.strerror}") from error
        digest.update(f"{split} {file.suffix} {content}\n".encode())
    columns = columns_of(files[0][1])
    split_by = columns[0] if split_by is None else split_by
    if split_by not in columns:
        raise ConfigError(
            f"{path} has no field {split_by!r}; it has {', '.join(columns)}"
        )
    if path.is_file():
        digest.update(f"split by {split_by}\n".encode())
    return RowFiles(files, columns, digest.hexdigest()[:16], split_by)


def columns_of(path):
    """The names of the fields of a file of rows.

    Raises:
        ConfigError: it has no first line, or that names no fields.
    """
    for number, line in _lines(path):
        if path.suffix == ".tsv":
            columns = line.split("\t")
        else:
            columns = list(_parse_object(path, number, line))
        if len(set(columns)) < len(columns) or not all(columns):
            raise ConfigError(f"{path}, line {number}: {columns} are no column names")
        return tuple(columns)
    raise ConfigError(f"{path} holds no rows")


def read_rows(path, columns):
    """Yields the rows of one file as {column: text}.

    Raises:
        ConfigError: a line is no row with these columns; names the line.
    """
    lines = _lines(path)
    if path.suffix == ".tsv":
        _, header = next(lines, (0, ""))
        if set(header.split("\t")) != set(columns):
            raise ConfigError(
                f"{path}: the columns {', '.join(header.split(chr(9)))} are not"
                f" {', '.join(columns)}"
            )
        columns = header.split("\t")
    for number, line in lines:
        if path.suffix == ".tsv":
            values = line.split("\t")
            if len(values) != len(columns):
                raise ConfigError(
                    f"{path}, line {number}: {len(values)} values for"
                    f" {len(columns)} columns"
                )
            yield dict(zip(columns, values, strict=True))
            continue
        row = _parse_object(path, number, line)
        missing = [name for name in columns if name not in row]
        if missing:
            raise ConfigError(f"{path}, line {number}: no field {missing[0]!r}")
        yield {name: _as_text(path, number, row[name]) for name in columns}


def _lines(path):
    """Yields (number from 1, line) of the lines that are not empty."""
    try:
        # Not `splitlines`, which also breaks at characters that texts may hold.
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(file, 1):
                line = line.rstrip("\r\n")
                if line:
                    yield number, line
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8: {error.reason}") from error


def _parse_object(path, number, line):
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{path}, line {number}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ConfigError(f"{path}, line {number}: {line[:40]} is no JSON object")
    return row


def _as_text(path, number, value):
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return json.dumps(value)
    raise ConfigError(
        f"{path}, line {number}: {str(value)[:40]} is neither text nor number"
    )


@dataclasses.dataclass(eq=False)
class RowsConfig(tfds.core.BuilderConfig):
    """Names a data set by the content of its files."""

    source: RowFiles | None = None


class TextRows(builder.ArrayRecordBuilder):
    """Makes records {column: text} of files of rows.

    The version goes up when the same files are to give other records.
    """

    name = "text_rows"
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        columns = self.builder_config.source.columns
        features = {column: tfds.features.Text() for column in columns}
        return builder.LocalInfo(
            builder=self,
            description=self.builder_config.description,
            features=tfds.features.FeaturesDict(features),
        )

    def _split_generators(self, dl_manager):
        splits = self.builder_config.source.splits
        return {split: self._generate_examples(split) for split in splits}

    def _generate_examples(self, split):
        rows = self.builder_config.source.rows(split)
        progress = tqdm.tqdm(
            rows, f"building {split}", unit=" rows", disable=None, leave=False
        )
        number = -1
        for number, row in enumerate(progress):
            yield number, row
        if number < 0:
            paths = ", ".join(str(path) for _, path in self.builder_config.source.files)
            raise ConfigError(
                f"no row of {paths} is of the split {split!r}; add rows, or make a"
                f" folder with one file for each of {', '.join(text.SPLITS)}"
            )


def prepare_rows(source, data_dir=None):
    """Opens the data set of `RowFiles`, building it when its content is new.

    Raises:
        ConfigError, StorageError: see `builder.prepare`; or a line is no row.
    """
    config = RowsConfig(
        name=source.digest,
        version=TextRows.VERSION,
        description=f"rows of {', '.join(str(path) for _, path in source.files)}",
        source=source,
    )
    return builder.prepare(TextRows, config, data_dir)
