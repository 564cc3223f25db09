import pickle

import pytest

from jaxmodels.data.records import BadRecordError, CheckedRecords
from jaxmodels.train.errors import ConfigError


class Listed:
    """Records 0, 10, 20, ...; some cannot be read."""

    def __init__(self, length, unreadable=()):
        self.length = length
        self.unreadable = unreadable

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if index in self.unreadable:
            raise RuntimeError("chunk hash mismatch\nand more lines")
        return 10 * index

    def __getitems__(self, indexes):
        return [self[index] for index in indexes]

    def where(self, index):
        return f"file-{index // 4}: record {index % 4}"


def refuse(*values):
    def check(value):
        if value in values:
            raise ValueError(f"value {value} is refused")
        return value + 1

    return check


def test_a_record_that_fails_its_check_stops_with_place_and_reason():
    records = CheckedRecords(Listed(9), refuse(50))
    assert records[4] == 41
    with pytest.raises(BadRecordError) as caught:
        records[5]
    assert str(caught.value) == (
        'file-1: record 1: value 50 is refused; remove it or set on_bad_record="skip"'
        " and max_bad_fraction to the share to allow"
    )
    assert caught.value.exit_code == 64


def test_a_record_that_cannot_be_read_stops_with_one_line():
    records = CheckedRecords(Listed(9, [2]), refuse())
    with pytest.raises(BadRecordError) as caught:
        records[2]
    assert str(caught.value).startswith("file-0: record 2: chunk hash mismatch; ")
    assert "\n" not in str(caught.value)


def test_a_skipped_record_becomes_the_next_good_one():
    records = CheckedRecords(Listed(6, [2, 5]), refuse(30), "skip", 0.5)
    assert [records[i] for i in range(6)] == [1, 11, 41, 41, 41, 1]
    assert sorted(records.bad.seen) == [2, 3, 5]
    assert records.bad.seen[3] == ("file-0: record 3", "value 30 is refused")


def test_what_an_index_gives_does_not_depend_on_what_was_read_before():
    def fresh():
        return CheckedRecords(Listed(9, [2, 8]), refuse(30, 40), "skip", 0.5)

    forward = fresh()
    forward = [forward[i] for i in range(9)]
    backward = fresh()
    backward = [backward[i] for i in reversed(range(9))]
    assert forward == backward[::-1] == [fresh()[i] for i in range(9)]


def test_walking_over_the_good_records_leaves_the_bad_ones_out():
    records = CheckedRecords(Listed(5, [0]), refuse(30), "skip", 0.5)
    assert list(records.good()) == [(1, 11), (2, 21), (4, 41)]
    assert sorted(records.bad.seen) == [0, 3]


def test_walking_in_blocks_gives_what_reading_one_by_one_gives():
    bad = [5, 127, 128, 299]
    walked = CheckedRecords(Listed(300, bad), refuse(2000), "skip", 0.5)
    single = CheckedRecords(Listed(300, bad), refuse(2000), "skip", 0.5)
    expected = [(i, single.read(i)) for i in range(300) if single.read(i) is not None]
    assert list(walked.good()) == expected
    assert walked.bad.seen == single.bad.seen and len(single.bad.seen) == 5


def test_too_many_bad_records_stop_a_run_that_skips():
    records = CheckedRecords(Listed(10), refuse(10, 30, 50), "skip", 0.2)
    assert [records[i] for i in (1, 3, 1)] == [21, 41, 21]
    with pytest.raises(BadRecordError) as caught:
        records[5]
    assert str(caught.value) == (
        "file-1: record 1: value 50 is refused; with it 3 of 10 records are bad, more"
        " than max_bad_fraction=0.2 allows"
    )


def test_no_good_record_at_all_is_a_config_error():
    records = CheckedRecords(Listed(3), refuse(0, 10, 20), "skip", 1.0)
    with pytest.raises(ConfigError, match="file-0: record 1: no record is good"):
        records[1]


def test_a_bug_in_a_check_is_no_bad_record():
    def check(value):
        return value.missing

    with pytest.raises(AttributeError):
        CheckedRecords(Listed(3), check, "skip", 1.0)[0]


def test_an_index_out_of_range_is_an_index_error():
    with pytest.raises(IndexError, match="record 3 of 3"):
        CheckedRecords(Listed(3), refuse())[3]


def test_impossible_policies_are_config_errors():
    with pytest.raises(ConfigError, match='\'ignore\', not "stop" or "skip"'):
        CheckedRecords(Listed(3), refuse(), "ignore")
    with pytest.raises(ConfigError, match="is 1.5, not between 0 and 1"):
        CheckedRecords(Listed(3), refuse(), "skip", 1.5)


def test_the_error_crosses_process_borders():
    error = pickle.loads(
        pickle.dumps(BadRecordError("a: record 1", "empty", "do this"))
    )
    assert (error.where, error.reason) == ("a: record 1", "empty")
    assert str(error) == "a: record 1: empty; do this"
