import pickle

import numpy as np
import pytest

from jaxmodels.data import prepared_motions
from jaxmodels.data.broadband import Preprocessing
from jaxmodels.data.motion_rows import MotionRows
from jaxmodels.data.prepared_motions import prepare_motions
from jaxmodels.data.records import BadRecordError
from jaxmodels.train.errors import ConfigError, StorageError
from tests.data.motion_sources import SMALL, Listed, shaking

PREPROCESSING = Preprocessing(**SMALL)


def prepare(*records, **options):
    options = {"name": "list train", "min_snr": 3.0, **options}
    return prepare_motions(Listed(*records), PREPROCESSING, **options)


def test_motion_is_prepared_and_found_again():
    records = [shaking(seed, length=400 + 10 * seed) for seed in range(3)]
    motions = prepare(*records)
    assert len(motions) == 3 and motions.events == {"e0", "e1", "e2"}
    for row, record in enumerate(records):
        first, end = motions.starts[row : row + 2]
        expected = PREPROCESSING.prepare(record["waveform"])
        np.testing.assert_array_equal(motions.motion[first:end], expected)
        assert motions.onsets[row].tolist() == [row, 100]


def test_a_folder_holds_what_memory_would(tmp_path):
    records = [shaking(0), shaking(1)]
    in_memory = prepare(*records)
    stored = prepare(*records, directory=tmp_path)
    again = prepare(*records, directory=tmp_path)
    unpickled = pickle.loads(pickle.dumps(stored))
    for other in (stored, again, unpickled, pickle.loads(pickle.dumps(in_memory))):
        np.testing.assert_array_equal(other.motion, in_memory.motion)
        np.testing.assert_array_equal(other.onsets, in_memory.onsets)
        assert other.names == in_memory.names
    assert len(list(tmp_path.glob("motions-*"))) == 1
    assert len(pickle.dumps(stored)) < 1000


def test_a_damaged_folder_says_to_delete_it(tmp_path):
    stored = prepare(shaking(0), directory=tmp_path)
    path = stored.directory / "motion.bin"
    content = bytearray(path.read_bytes())
    content[100] ^= 255
    path.write_bytes(content)
    with pytest.raises(StorageError, match="is damaged; delete it"):
        prepare(shaking(0), directory=tmp_path)


def test_the_onset_lies_at_three_to_twelve_sixtieths_of_a_window():
    motions = prepare(shaking(0))
    starts = [motions.place(0, share, 200)[1] for share in (0, 0.5, 1)]
    assert starts == [100 - 10, 100 - 25, 100 - 40]
    late, early = prepare(shaking(0, onset=380)), prepare(shaking(0, onset=5))
    assert late.place(0, 0.0, 200)[1] == 200  # the window ends with the record
    assert early.place(0, 1.0, 200)[1] == 0


def test_a_picked_onset_moves_with_the_rate():
    record = shaking(0, length=800, onset=200, rate=40.0)
    assert prepare(record).onsets.tolist() == [[0, 100]]


def test_records_without_enough_low_frequency_motion_are_left_out():
    rng = np.random.default_rng(0)
    quiet = shaking(1)
    quiet["waveform"] = rng.standard_normal((400, 3)).astype(np.float32)
    motions = prepare(shaking(0), quiet)
    assert motions.meta["quiet"] == 1 and motions.events == {"e0"}
    with pytest.raises(ConfigError, match="none of the 1 records .* lower min_snr"):
        prepare(quiet)
    assert len(prepare(quiet, min_snr=0.0)) == 1


def test_onsets_are_found_where_none_is_picked():
    length, onsets = 3000, (700, 1500, 2200)
    waveform = sum(
        size * shaking(seed, length, onset)["waveform"]
        for seed, (onset, size) in enumerate(zip(onsets, (1, 0.5, 3), strict=True))
    )
    record = shaking(0, p_sample=-1.0) | {"waveform": waveform}
    found = prepare(record).onsets[:, 1]
    assert len(found) == 3
    # The half second that is looked at may lie around the onset.
    assert np.abs(found - onsets).max() <= 10


def test_windows_of_one_record_do_not_overlap():
    rng = np.random.default_rng(0)
    waveform = shaking(0, 2000, 500)["waveform"]
    for onset in range(500, 1900, 60):
        waveform[onset : onset + 10] += 50 * rng.standard_normal((10, 3))
    record = shaking(0, p_sample=-1.0) | {"waveform": waveform}
    motions = prepare(record, min_snr=0.0)
    starts = [motions.place(row, 0.5, 200)[1] for row in range(len(motions))]
    assert len(starts) > 2 and np.diff(starts).min() >= 200


def test_the_first_bad_record_is_named(tmp_path):
    bad = shaking(1)
    bad["waveform"][7, 1] = np.nan
    with pytest.raises(
        BadRecordError, match="list: record 1: r1: sample 7 of component 1"
    ):
        prepare(shaking(0), bad)
    skip = dict(on_bad_record="skip", directory=tmp_path)
    motions = prepare(shaking(0), bad, max_bad_fraction=0.5, **skip)
    assert motions.meta["bad"] == 1 and len(motions) == 1
    # What was prepared under one policy is held to another.
    with pytest.raises(BadRecordError, match="list: record 1"):
        prepare(shaking(0), bad, directory=tmp_path)
    with pytest.raises(BadRecordError, match="more than max_bad_fraction=0.1"):
        prepare(shaking(0), bad, max_bad_fraction=0.1, **skip)


def test_a_short_or_slow_record_is_a_bad_one():
    with pytest.raises(BadRecordError, match="9 s is shorter than the window of 10 s"):
        prepare(shaking(0, length=180))
    with pytest.raises(BadRecordError, match="not above the corner 1 Hz"):
        prepare(shaking(0, rate=1.5))


def test_a_model_of_one_component_reads_those_that_work(tmp_path):
    vertical, gap, dead = shaking(0), shaking(1), shaking(2)
    vertical["waveform"][:, 1:] = 0.0
    gap["waveform"][30, 2] = np.nan
    dead["waveform"][:] = 1.0
    single = Preprocessing(**SMALL | {"channels": 1})
    source = Listed(vertical, gap, shaking(3))
    options = dict(name="list train", min_snr=3.0, directory=tmp_path)
    motions = prepare_motions(source, single, **options)
    assert motions.alive.tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    np.testing.assert_array_equal(
        motions.motion[:400, :1], PREPROCESSING.prepare(vertical["waveform"][:, :1])
    )
    rows = MotionRows(motions, single)
    assert len(rows) == 6
    assert [rows.names(row)[0] for row in range(6)] == ["r0", *2 * ["r1"], *3 * ["r3"]]
    for batch in (rows.batch(range(6)), rows.varied(range(6), range(6))):
        assert np.isfinite(batch["targets"]).all() and batch["weights"].all()
    with pytest.raises(BadRecordError, match="record 0: r2: component 0 is 1 thro"):
        prepare_motions(Listed(dead), single, **options)
    with pytest.raises(BadRecordError, match="r0: component 1 is 0 .* max_bad_frac"):
        prepare_motions(source, PREPROCESSING, **options)


def test_noise_is_taken_before_the_onset_or_where_it_is_quietest():
    time = np.arange(2000) / 20.0
    slow = 3.0 * np.sin(2 * np.pi * 0.5 * time)[:, None] + np.zeros(3)
    fast = 9.0 * np.sin(2 * np.pi * 6.0 * time)[:, None] + 100
    noise = prepared_motions.noise_before(slow + fast, 20.0)
    assert noise == pytest.approx(3 * 4.5, rel=0.03)
    assert prepared_motions.noise_before(slow[:39], 20.0) == np.inf
    levels = np.r_[np.full(100, 9.0), np.full(60, 1.0), np.full(200, 4.0)]
    power = np.concatenate([[0.0], np.cumsum(levels)])
    assert prepared_motions.quietest(power, 10, 20.0) == pytest.approx(1.0)
    assert prepared_motions.quietest(power, 130, 20.0) == pytest.approx(1.75)
    assert prepared_motions.quietest(power, 170, 20.0) == pytest.approx(1.0)


def test_a_strong_motion_of_long_period_is_no_noise_of_its_own():
    record = shaking(0, length=800, onset=200)
    time = np.arange(600)[:, None] / 20.0
    record["waveform"][200:] += 5 * np.sin(2 * np.pi * 0.1 * time).astype(np.float32)
    motions = prepare(record, min_snr=100.0)
    # The filtered motion itself is far from quiet just before its onset.
    assert np.abs(motions.motion[120:180]).max() > 0.05
    assert len(motions) == 1
