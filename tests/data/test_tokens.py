"""Records that are bad, and the token streams made of what is left."""

import numpy as np
import pytest

from jaxmodels.data.language import language_model_data
from jaxmodels.data.records import BadRecordError
from jaxmodels.train.errors import ConfigError, StorageError


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def bad_texts(*indexes, total=40):
    texts = [f"text number {i}\n".encode() for i in range(total)]
    for index, bad in indexes:
        texts[index] = bad
    return texts


def listed_data(tmp_path, **options):
    options = {"data_dir": tmp_path / "tfds", **options}
    return language_model_data("listed", length=8, batch_size=4, **options)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"a\xffb", "'utf-8' codec can't decode byte 0xff in position 1: invalid"),
        (b"ab\0c", "a NUL character, at character 2"),
        (b"", "empty text"),
    ],
)
def test_a_bad_record_stops_with_file_index_and_reason(
    bad, reason, prepare_listed, tmp_path
):
    prepare_listed(bad_texts((7, bad)))
    with pytest.raises(BadRecordError) as caught:
        listed_data(tmp_path)
    path, _, rest = str(caught.value).partition(": ")
    assert path.endswith("listed-train.array_record-00000-of-00001")
    assert rest.startswith(f"record 7: {reason}") and "\n" not in rest


def test_skipped_records_leave_an_order_that_is_a_function_of_the_step(
    prepare_listed, tmp_path
):
    prepare_listed(bad_texts((7, b"\xff"), (8, b"")))
    skip = {"on_bad_record": "skip", "max_bad_fraction": 0.05}
    made = listed_data(tmp_path, **skip)
    assert len(made.train.rows.stream.starts) == 38 + 1
    fresh = listed_data(tmp_path, cache_dir=tmp_path / "other", **skip)
    for step in (4, 0, 9):
        assert_equal(fresh.train(step, 0, 1), made.train(step, 0, 1))
    names = {name for step in range(40) for name in made.records(step)}
    expected = {f"listed/plain/1.0.0 train[{i}]" for i in range(40) if i not in (7, 8)}
    assert names == expected


def test_too_many_bad_records_stop_a_run_that_skips(prepare_listed, tmp_path):
    prepare_listed(bad_texts((7, b"\xff"), (8, b"")))
    with pytest.raises(
        BadRecordError, match="2 of 40 records are bad, more than max_b"
    ):
        listed_data(tmp_path, on_bad_record="skip", max_bad_fraction=0.04)


def test_tokens_made_under_skip_are_refused_under_a_stricter_policy(
    prepare_listed, tmp_path
):
    prepare_listed(bad_texts((7, b"\xff"), (8, b"")))
    listed_data(tmp_path, on_bad_record="skip", max_bad_fraction=0.05)
    with pytest.raises(
        BadRecordError, match="record 7: .*; remove it or set on_bad_rec"
    ):
        listed_data(tmp_path)
    with pytest.raises(BadRecordError, match="2 of 40 records are bad"):
        listed_data(tmp_path, on_bad_record="skip", max_bad_fraction=0.01)


def test_a_damaged_record_file_is_named(prepare_listed, tmp_path):
    prepared = prepare_listed(bad_texts())
    (file,) = prepared.data_path.glob("*validation*")
    content = file.read_bytes()
    for damaged in (content[:-1], b"", b"garbage" * 20_000):
        file.write_bytes(damaged)
        for policy in ("stop", "skip"):
            with pytest.raises(BadRecordError) as caught:
                listed_data(tmp_path, on_bad_record=policy)
            assert str(caught.value).startswith(f"{file}: record 0: ")
            assert "\n" not in str(caught.value)


def test_a_damaged_token_stream_is_a_storage_error(data, tmp_path):
    made = data()
    file = made.train.rows.stream.directory / "tokens.bin"
    content = file.read_bytes()
    flipped = bytes([content[0] ^ 1]) + content[1:]
    for damaged in (content[:-1], b"", flipped):
        file.write_bytes(damaged)
        with pytest.raises(
            StorageError, match="is damaged.*; delete it, it is made again"
        ):
            data()


def test_text_fields_and_splits_are_those_of_the_data_set(prepare_listed, tmp_path):
    prepare_listed(bad_texts())
    message = "text_field is 'size'; listed/plain/1.0.0 has the texts text"
    with pytest.raises(ConfigError, match=message):
        listed_data(tmp_path, text_field="size")
    with pytest.raises(ConfigError, match="has no split 'dev'"):
        listed_data(tmp_path, eval_split="dev")
    parts = listed_data(tmp_path, train_split="train[:50%]", eval_split="train[50%:]")
    assert parts.preprocessing["splits"]["eval"] == "train[50%:]"
    assert len(parts.train.rows.stream.starts) == 20 + 1


def test_tokens_of_a_bucket_need_a_local_folder(prepare_listed, tmp_path):
    prepare_listed(bad_texts())
    with pytest.raises(
        ConfigError, match="gs://bucket is not a local folder: set cache"
    ):
        listed_data(tmp_path, cache_dir="gs://bucket")
