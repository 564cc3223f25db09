"""Text corpora: folders of text files, and the one that is always there.

A corpus is split by file into train, validation and test, by a hash of the path
within the folder: a file stays in its split whatever else is added.
"""

import dataclasses
import hashlib
import os
import pathlib
import sysconfig

import tensorflow_datasets as tfds
import tqdm
from absl import logging

from jaxmodels.data import builder
from jaxmodels.train.errors import ConfigError

SPLITS = ("train", "validation", "test")
HELD_OUT = 0.05  # share of the files in each of validation and test

# Of the standard library, what is no program text that one would write: tests, tables
# of character codes, pages of documentation as one string, pickled grammars.
NOT_SOURCE = {
    *("test", "tests", "idle_test", "lib2to3", "encodings", "pydoc_data"),
    *("site-packages", "dist-packages", "__pycache__"),
}


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Text files below a folder.

    Attributes:
        name: of the data set made of it.
        root: the folder.
        files: paths within it, sorted; each is UTF-8 text without NUL, not empty.
        skipped: paths of files that are neither that nor empty.
        digest: hash of names and contents of `files`.
    """

    name: str
    root: pathlib.Path
    files: tuple[str, ...]
    skipped: tuple[str, ...]
    digest: str

    def splits(self):
        """split -> [(name of the document, file, part of the file to take)].

        The part is a split's name where a file is cut, else None. Fewer than three
        files cannot be split by file; each is cut at line breaks instead.
        """
        if len(self.files) < len(SPLITS):
            return {s: [(f"{f}[{s}]", f, s) for f in self.files] for s in SPLITS}
        documents: dict[str, list] = {split: [] for split in SPLITS}
        for file in self.files:
            documents[hashed_split(file)].append((file, file, None))
        for split in SPLITS:
            if not documents[split]:  # as the hash may leave it in a small folder
                documents[split].append(max(documents.values(), key=len).pop())
        return documents

    def read(self, file, part=None):
        text = (self.root / file).read_bytes().decode("utf-8")
        return text if part is None else cut(text)[part]


def _hash(name):
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()


def hashed_split(name):
    """The split of a file, from its path within the folder."""
    share = int.from_bytes(_hash(name)[:8], "big") / 2**64
    if share < 1 - 2 * HELD_OUT:
        return "train"
    return "validation" if share < 1 - HELD_OUT else "test"


def cut(text):
    """Cuts one text at line breaks into the shares of the splits, in order."""
    lines = text.splitlines(keepends=True)
    held_out = max(1, round(HELD_OUT * len(lines)))
    ends = max(0, len(lines) - 2 * held_out), len(lines) - held_out
    parts = lines[: ends[0]], lines[ends[0] : ends[1]], lines[ends[1] :]
    return dict(zip(SPLITS, map("".join, parts), strict=True))


def scan(name, root, files, what):
    """Reads every file once and makes a `Corpus` of the good ones.

    Args:
        name: of the data set.
        root: folder.
        files: paths within it.
        what: names the corpus in messages.

    Raises:
        ConfigError: no file is usable, or one cannot be read.
    """
    digest, good, skipped = hashlib.sha256(), [], []
    progress = tqdm.tqdm(
        sorted(files), f"reading {name}", unit=" files", disable=None, leave=False
    )
    for file in progress:
        try:
            data = (root / file).read_bytes()
        except OSError as error:
            raise ConfigError(f"{root / file}: {error.strerror}") from error
        if not data:
            continue
        if not _is_text(data):
            skipped.append(file)
            continue
        good.append(file)
        digest.update(_hash(file) + hashlib.sha256(data).digest())
    corpus = Corpus(name, root, tuple(good), tuple(skipped), digest.hexdigest()[:16])
    if not good:
        raise ConfigError(
            f"{what} holds no text: {len(skipped)} files that are not UTF-8 text, and"
            " none that is"
        )
    if len(good) < len(SPLITS):
        for file in good:
            if not all(cut(corpus.read(file)).values()):
                raise ConfigError(
                    f"{root / file} is too short to be cut into {', '.join(SPLITS)}:"
                    f" {len(SPLITS)} lines at least, or {len(SPLITS)} files"
                )
    return corpus


def _is_text(data):
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return b"\0" not in data


def _walk(root, excluded=()):
    """Paths of the files below `root` that are not hidden, with forward slashes."""
    for folder, folders, files in os.walk(root):
        folders[:] = [f for f in folders if f not in excluded and f[0] != "."]
        for file in files:
            if not file.startswith("."):
                yield pathlib.Path(folder, file).relative_to(root).as_posix()


def python_source_files(root):
    """Paths of the standard library's own modules below its folder `root`."""
    return [
        file
        for file in _walk(root, NOT_SOURCE)
        if file.endswith(".py") and not file.startswith("_sysconfigdata")
    ]


def python_source_corpus():
    """The source of the running Python's standard library, 9 MB in some 500 files.

    Raises:
        ConfigError: this Python came without its sources.
    """
    root = pathlib.Path(sysconfig.get_path("stdlib"))
    files = python_source_files(root)
    return scan("python_source", root, files, f"the standard library in {root}")


def folder_corpus(path):
    """All text files in a folder and below it, or one file; hidden ones left out.

    Every start reads and hashes all of it, at about 1 GB/s: corpora of many gigabytes
    are better made a TFDS data set once.

    Raises:
        ConfigError: nothing is there, or no text.
    """
    path = pathlib.Path(path).expanduser()
    if path.is_file():
        return scan("text_folder", path.parent, [path.name], str(path))
    if not path.is_dir():
        raise ConfigError(f"{path} is neither a folder nor a file")
    return scan("text_folder", path, list(_walk(path)), str(path))


class CorpusBuilder(builder.ArrayRecordBuilder):
    """Makes records {"name", "text"} of a corpus's files.

    The version goes up when the same files are to give other records.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        text = tfds.features.Text()
        return builder.LocalInfo(
            builder=self,
            description=self.builder_config.description,
            features=tfds.features.FeaturesDict({"name": text, "text": text}),
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split):
        corpus = self.builder_config.corpus
        documents = corpus.splits()[split]
        progress = tqdm.tqdm(
            documents, f"building {split}", unit=" files", disable=None, leave=False
        )
        for name, file, part in progress:
            # A file name need not be UTF-8; a record's name must.
            name = name.encode("utf-8", "backslashreplace").decode("utf-8")
            yield name, {"name": name, "text": corpus.read(file, part)}


class PythonSource(CorpusBuilder):
    """Builds `python_source`."""


class TextFolder(CorpusBuilder):
    """Builds `text_folder`."""


@dataclasses.dataclass(eq=False)
class CorpusConfig(tfds.core.BuilderConfig):
    """Names a data set by the content of its corpus."""

    corpus: Corpus | None = None


def prepare_corpus(corpus, data_dir=None, builder_class=None):
    """Opens the data set of a corpus, building it when its content is new.

    Args:
        builder_class: a `CorpusBuilder`; by default the one that the corpus's name
            stands for.

    Raises:
        ConfigError, StorageError: see `builder.prepare`.
    """
    if corpus.skipped:
        logging.warning(
            "%s: skipped %d files that are not UTF-8 text, first %s",
            corpus.root,
            len(corpus.skipped),
            corpus.skipped[0],
        )
    builders = {"python_source": PythonSource, "text_folder": TextFolder}
    builder_class = builder_class or builders[corpus.name]
    config = CorpusConfig(
        name=corpus.digest,
        version=builder_class.VERSION,
        description=f"{len(corpus.files)} text files of {corpus.root}",
        corpus=corpus,
    )
    return builder.prepare(builder_class, config, data_dir)
