import shutil
import sys

import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import registered

from jaxmodels.data import builder, text
from jaxmodels.train.errors import ConfigError, StorageError


def test_building_and_reading_need_no_tensorflow(prepare_listed):
    prepared = prepare_listed([b"one", b"two"])
    files = builder.RecordFiles(prepared, "train")
    assert [files[i]["text"] for i in range(len(files))] == [b"one", b"two"]
    assert files[1]["size"] == 3
    assert "tensorflow" not in sys.modules


def test_builders_are_in_no_registry():
    known = registered._DATASET_REGISTRY | registered._ABSTRACT_DATASET_REGISTRY
    assert not {"python_source", "text_folder", "array_record_builder"} & set(known)


def test_building_prints_nothing(folder, tmp_path, capfd):
    text.prepare_corpus(text.folder_corpus(folder), tmp_path / "tfds")
    assert capfd.readouterr() == ("", "")


def test_the_folder_comes_from_the_argument_then_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "environment"))
    assert builder.data_directory() == tmp_path / "environment"
    assert builder.data_directory(tmp_path) == tmp_path
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert builder.data_directory() == tmp_path / "tensorflow_datasets"


def test_a_prepared_data_set_opens_by_name(prepare_listed, tmp_path):
    prepared = prepare_listed([b"one"])
    for name in ("listed", "listed/plain", "listed/plain:1.0.0"):
        found = builder.open_prepared(name, tmp_path / "tfds")
        assert found.data_path == prepared.data_path


def test_the_newest_of_several_versions_opens(prepare_listed, tmp_path):
    prepared = prepare_listed([b"one"])
    newer = prepared.data_path.parent / "1.10.0"
    shutil.copytree(prepared.data_path, newer)
    assert builder.open_prepared("listed", tmp_path / "tfds").data_path == newer
    older = builder.open_prepared("listed:1.0.0", tmp_path / "tfds")
    assert older.data_path == prepared.data_path


def test_parts_of_splits_know_where_their_records_lie(prepare_listed):
    prepared = prepare_listed([bytes([97 + i]) for i in range(10)])
    part = builder.RecordFiles(prepared, "train[60%:]")
    assert [part[i]["text"] for i in range(len(part))] == [b"g", b"h", b"i", b"j"]
    assert part.where(1).endswith("listed-train.array_record-00000-of-00001: record 7")
    assert part.identity != builder.RecordFiles(prepared, "train").identity


def test_an_unknown_split_lists_those_there_are(prepare_listed):
    with pytest.raises(ConfigError) as caught:
        builder.RecordFiles(prepare_listed([b"one"]), "dev[:10%]")
    assert str(caught.value) == (
        "listed/plain/1.0.0 has no split 'dev'; it has test, train, validation, and"
        " parts such as 'train[:95%]'"
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "lm1b",
            r"no prepared data set lm1b in .*; prepare it once: pip install"
            r" 'jaxmodels\[prepare\]' .* with TensorFlow\), then python -c .*'lm1b'",
        ),
        ("lm1c", "TFDS has none of that name; did you mean lm1b?"),
        ("qqqq", "and TFDS has none of that name$"),
        ("wiki40b/en", r"prepare it once: pip install .*'wiki40b/en'"),
    ],
)
def test_a_data_set_that_is_not_there_says_how_to_get_it(name, message, tmp_path):
    with pytest.raises(ConfigError, match=message) as caught:
        builder.open_prepared(name, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_given_without_a_dot_is_recognized(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "books").mkdir()
    with pytest.raises(ConfigError, match=r"of that name write \./books$"):
        builder.open_prepared("books", tmp_path / "tfds")


def test_several_configs_are_ambiguous(prepare_listed, tmp_path):
    prepared = prepare_listed([b"one"])
    config = prepared.data_path.parent
    config.rename(config.parent / "other")
    prepare_listed([b"one"])
    message = "listed has several configs: name one of listed/other, listed/plain"
    with pytest.raises(ConfigError, match=message):
        builder.open_prepared("listed", tmp_path / "tfds")


def test_files_without_random_access_are_a_config_error(prepare_listed, tmp_path):
    prepared = prepare_listed([b"one"])
    info = prepared.data_path / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(ConfigError, match="holds tfrecord files, which have no random"):
        builder.open_prepared("listed", tmp_path / "tfds")


def test_a_damaged_description_names_the_folder(prepare_listed, tmp_path):
    prepared = prepare_listed([b"one"])
    (prepared.data_path / "dataset_info.json").write_text("{")
    with pytest.raises(ConfigError, match=r"plain/1\.0\.0 is damaged .*; delete it"):
        prepare_listed([b"one"])


def test_a_bucket_is_no_place_to_build_in(folder):
    with pytest.raises(ConfigError, match="gs://bucket is not a local folder"):
        text.prepare_corpus(text.folder_corpus(folder), "gs://bucket")


def test_a_place_that_cannot_be_written_is_a_config_error(folder, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        ConfigError, match="cannot write .*file.* name a folder that can"
    ):
        text.prepare_corpus(text.folder_corpus(folder), tmp_path / "file")


def test_a_full_disk_is_a_storage_error(folder, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tfds.core.GeneratorBasedBuilder, "download_and_prepare", full)
    with pytest.raises(StorageError, match="cannot write .*: No space left on device"):
        text.prepare_corpus(text.folder_corpus(folder), tmp_path / "tfds")
