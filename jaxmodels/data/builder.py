"""TFDS data sets without TensorFlow: building our own, opening prepared ones.

Preparing those of others is TFDS's work, and takes TensorFlow: it unpacks archives with
it, and most data sets come in one. It need not be where models are trained.

A data set lies in `<data_dir>/<name>[/<config>]/<version>` as ArrayRecord files.
Whoever has such a folder can read it with TFDS alone, without this package.
"""

import bisect
import contextlib
import difflib
import io
import itertools
import os
import pathlib
from typing import Any

import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from jaxmodels.data import cache, records
from jaxmodels.train.errors import ConfigError

INFO_FILE = "dataset_info.json"


def data_directory(data_dir=None):
    """The folder of TFDS data sets: `data_dir`, $TFDS_DATA_DIR or the usual one."""
    data_dir = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return epath.Path(data_dir).expanduser()


def is_path(dataset):
    """Whether a data set is given as a file or folder of the user's own.

    Those begin with `/`, `./`, `../` or `~`; anything else is a name.
    """
    return str(dataset).startswith(("/", "./", "../", "~"))


def is_local(path):
    """Whether `path` is on a mounted file system rather than in a bucket."""
    return "://" not in os.fspath(path)


class LocalInfo(tfds.core.DatasetInfo):
    """The description of a data set that is in no public bucket."""

    def initialize_from_bucket(self):
        """Looks nowhere: the network is not asked about our own data sets."""


class ArrayRecordBuilder(
    tfds.core.GeneratorBasedBuilder,
    skip_registration=True,  # type: ignore[call-arg]
):
    """Base class of the builders here. Subclasses are not put in TFDS's registry.

    Writes ArrayRecord files: the usual format needs TensorFlow to write, and has no
    random access. A subclass describes its features with `LocalInfo(builder=self,
    features=...)`, and gives arrays of numbers the encoding BYTES, which builds eight
    times as fast as lists of floats and is exact.
    """

    def __init_subclass__(cls, **options):
        super().__init_subclass__(skip_registration=True, **options)  # type: ignore

    pkg_dir_path = None

    def __init__(self, **options):
        super().__init__(**{"file_format": "array_record", **options})


def prepare(builder_class, config, data_dir=None):
    """Opens the data set of `builder_class` and `config`, building it if need be.

    Any number of processes may call this at once.

    Args:
        builder_class: an `ArrayRecordBuilder`.
        config: a `tfds.core.BuilderConfig`. Its name carries a hash of what the
            records are made from, so that other content is another data set.
        data_dir: see `data_directory`.

    Returns:
        A builder with `as_data_source` and `info`.

    Raises:
        ConfigError: the folder is in a bucket or cannot be written.
        StorageError: the disk is full.
    """
    root = data_directory(data_dir)
    if not is_local(root):
        raise ConfigError(
            f"{root} is not a local folder, and {builder_class.name} is built in one;"
            " set data_dir"
        )
    folder = root / builder_class.name / config.name / str(builder_class.VERSION)
    if not (folder / INFO_FILE).exists():
        lock = pathlib.Path(folder.parent) / f".{folder.name}.lock"
        with cache.locked(lock), _quiet():
            if not (folder / INFO_FILE).exists():
                _build(builder_class(config=config, data_dir=root), folder)
    return _open(folder)


def _build(builder, folder):
    download = tfds.download.DownloadConfig(try_download_gcs=False)
    try:
        # Builds in a temporary folder beside `folder` and renames it.
        builder.download_and_prepare(download_config=download)
    except OSError as error:
        raise cache.explain(folder, error) from error


def _open(folder):
    """A builder of the prepared data set in a version folder."""
    try:
        # Damaged descriptions raise the errors of several JSON readers.
        return tfds.builder_from_directory(folder)
    except Exception as error:
        raise ConfigError(
            f"{folder} is damaged ({records.first_line(error)}); delete it and prepare"
            " it again"
        ) from error


@contextlib.contextmanager
def _quiet():
    """Keeps TFDS from announcing on stdout and stderr what our builders report."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    tfds.display_progress_bar(False)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.display_progress_bar(True)
        logging.set_verbosity(verbosity)


def open_prepared(name, data_dir=None):
    """Opens a TFDS data set that was prepared before, by its files alone.

    Args:
        name: "name", "name/config", with ":version" where several are prepared.
        data_dir: see `data_directory`.

    Raises:
        ConfigError: it is not there, is ambiguous, or has no random access. The
            message holds the command that prepares it.
    """
    root = data_directory(data_dir)
    path, _, version = name.partition(":")
    versions = _prepared_versions(root / path)
    if version:
        versions = [folder for folder in versions if folder.name == version]
    if not versions:
        raise ConfigError(_missing(name, path, root))
    parents = {folder.parent for folder in versions}
    if len(parents) > 1:
        configs = ", ".join(sorted(f"{path}/{parent.name}" for parent in parents))
        raise ConfigError(f"{name} has several configs: name one of {configs}")
    newest = max(versions, key=lambda folder: tfds.core.Version(folder.name))
    builder = _open(newest)
    file_format = builder.info.file_format.value
    if file_format != "array_record":
        raise ConfigError(
            f"{newest} holds {file_format} files, which have no random access; prepare"
            f" it in another folder: {_command(path)}"
        )
    return builder


def _prepared_versions(folder):
    """Version folders directly below `folder`, or below its config folders."""
    if not folder.is_dir():
        return []
    below = [child for child in folder.iterdir() if child.is_dir()]
    below += [child for config in below for child in config.iterdir()]
    return [
        child
        for child in below
        if tfds.core.Version.is_valid(child.name) and (child / INFO_FILE).exists()
    ]


def _command(name):
    """What prepares a data set, in this environment or in one of its own."""
    return (
        "pip install 'jaxmodels[prepare]' (TFDS unpacks archives with TensorFlow), then"
        ' python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{name}', file_format='array_record').download_and_prepare()\""
    )


def _missing(name, path, root):
    """Says why a data set is not there and how to get it, in one line."""
    missing = f"no prepared data set {name} in {root}"
    if pathlib.Path(name).exists():
        return f"{missing}; for the folder or file of that name write ./{name}"
    base = path.split("/")[0]
    try:
        tfds.builder_cls(base)
    except tfds.core.DatasetNotFoundError:
        # Either there is none, or its module asks for TensorFlow.
        known = _known_names()
        if base not in known:
            near = difflib.get_close_matches(base, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            return f"{missing}, and TFDS has none of that name{hint}"
    return f"{missing}; prepare it once: {_command(path)}"


def _known_names():
    """Names of the data sets that the installed TFDS has code for."""
    package = pathlib.Path(tfds.__file__).parent
    topics = [d for d in package.iterdir() if d.is_dir() and d.name != "core"]
    entries = itertools.chain.from_iterable(topic.iterdir() for topic in topics)
    return sorted({entry.stem for entry in entries if not entry.stem.startswith("_")})


class RecordFiles:
    """The records of one split, which knows in which file each of them lies.

    Args:
        builder: of a prepared data set.
        split: a split of it, or a part such as "train[:90%]".

    Attributes:
        identity: a string that changes with the records, for caches of them.

    Raises:
        ConfigError: there is no such split.
    """

    def __init__(self, builder, split):
        splits = builder.info.splits
        base = split.split("[")[0]
        if base not in splits:
            raise ConfigError(
                f"{builder.info.full_name} has no split {base!r}; it has"
                f" {', '.join(sorted(splits))}, and parts such as 'train[:95%]'"
            )
        self._files = splits[split].file_instructions
        self._ends = list(itertools.accumulate(part.take for part in self._files))
        parts = [(epath.Path(f.filename).name, f.skip, f.take) for f in self._files]
        size = int(splits[base].num_bytes)
        self.identity = f"{builder.info.full_name} {size} {parts}"
        self._records: Any = builder.as_data_source(split) if self._files else ()

    def __len__(self):
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index):
        return self._records[index]

    def __getitems__(self, indexes):
        return self._records.__getitems__(indexes)

    def where(self, index):
        """File and position of a record, for messages."""
        part = bisect.bisect_right(self._ends, index)
        before = self._ends[part - 1] if part else 0
        position = index - before + self._files[part].skip
        return f"{self._files[part].filename}: record {position}"
