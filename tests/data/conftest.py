"""Tiny corpora."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaxmodels.data import builder, text
from jaxmodels.data.language import language_model_data

WORDS = "def return self None while über naïve 日本 😀 \t x=1 # -- ''".split(" ")


def make_text(seed, words=40):
    """Reproducible text of lines, with multi-byte characters."""
    rng = np.random.default_rng(seed)
    chosen = rng.choice(WORDS, words)
    gaps = rng.choice([" ", "  ", "\n"], words)
    return "".join(word + gap for word, gap in zip(chosen, gaps, strict=True))


@pytest.fixture
def some_text():
    return make_text


@pytest.fixture
def folder(tmp_path):
    """A folder of 24 text files, some in a folder below."""
    root = tmp_path / "corpus"
    (root / "below").mkdir(parents=True)
    for i in range(24):
        name = f"below/{i}.txt" if i % 3 == 0 else f"{i}.md"
        (root / name).write_bytes(make_text(i, 10 + 5 * i).encode())
    return root


@pytest.fixture
def data(folder, tmp_path):
    """Makes language-model data of the folder."""

    def make(length=16, batch_size=8, **options):
        options = {"data_dir": tmp_path / "tfds", **options}
        return language_model_data(
            folder, length=length, batch_size=batch_size, **options
        )

    return make


class Listed(builder.ArrayRecordBuilder):
    """Records of given bytes, in three equal splits, in the order given."""

    VERSION = tfds.core.Version("1.0.0")
    name = "listed"
    texts: tuple[bytes, ...] = ()

    def _info(self):
        features = {
            "text": tfds.features.Text(),
            "size": tfds.features.Scalar(np.int32),
        }
        return builder.LocalInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples() for split in text.SPLITS}

    def _generate_examples(self):
        for i, entry in enumerate(self.texts):
            yield i, {"text": entry, "size": len(entry)}


@pytest.fixture
def prepare_listed(tmp_path):
    """Prepares the TFDS data set `listed` of the given byte strings."""

    def make(texts):
        made = type("Listed", (Listed,), {"texts": tuple(texts), "name": "listed"})
        config = tfds.core.BuilderConfig(name="plain", version="1.0.0")
        return builder.prepare(made, config, tmp_path / "tfds")

    return make
