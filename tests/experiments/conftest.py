"""Fixtures of the small run."""

import pytest

from experiments import config_file
from jaxmodels.train import distributed
from tests.experiments import small_run


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    """A folder of texts."""
    return small_run.write_texts(tmp_path_factory.mktemp("texts"))


@pytest.fixture
def small(texts, tmp_path, tmp_path_factory, monkeypatch):
    """--config of a small run; data sets are kept out of the home directory."""
    data = tmp_path_factory.getbasetemp() / "tensorflow_datasets"
    monkeypatch.setenv("TFDS_DATA_DIR", str(data))
    # A cluster of one has to be joined before the first device is touched, which is
    # too late in a test process; tests of whole processes join one.
    monkeypatch.setattr(distributed, "initialize", lambda: None)
    return small_run.write_config(tmp_path, texts)


@pytest.fixture
def parts(small):
    """The config of the small run."""
    config, _ = config_file.load(small.partition("=")[2])
    return config.unlock()
