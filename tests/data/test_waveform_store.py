import math
import pickle

import numpy as np
import pytest

from jaxmodels.data.records import BadRecordError
from jaxmodels.data.waveform_store import open_waveforms, store_waveforms
from jaxmodels.train.errors import ConfigError, StorageError
from tests.data.motion_sources import RATE, Listed, shaking

SKIP = dict(on_bad_record="skip", max_bad_fraction=0.5)


def store(*records, rate=RATE, **options):
    return store_waveforms(Listed(*records), rate, name="list", **options)


def test_records_are_stored_without_their_mean_and_with_their_arrivals():
    record = shaking(0, s_sample=150.0)
    record["waveform"] += 7.0
    stored = store(record, shaking(1, length=300, onset=50))
    assert len(stored) == 2 and stored.record(1).shape == (300, 3)
    expected = record["waveform"] - record["waveform"].mean(axis=0)
    np.testing.assert_allclose(stored.record(0), expected, atol=1e-5)
    np.testing.assert_array_equal(stored.arrivals, [[100, 150], [50, math.nan]])
    assert not stored.clean.any() and stored.events == {"e0", "e1"}


def test_components_that_do_not_move_are_zero():
    record = shaking(0)
    record["waveform"][:, 2] = 0.1
    for rate in (RATE, 5 * RATE):
        stored = store(record, rate=rate).record(0)
        assert not stored[:, 2].any() and stored[:, 1].any()


def test_resampling_moves_the_arrivals_to_where_the_motion_is():
    stored = store(shaking(0), rate=5 * RATE)
    record = stored.record(0)
    assert len(record) == 2000 and stored.arrivals[0, 0] == 500.0
    quiet, loud = np.abs(record[:480]).max(), np.abs(record[500:520]).max()
    assert loud > 10 * quiet


def test_records_without_noise_keep_the_silence_before_p():
    record = shaking(0, snr=math.inf)
    record["waveform"][:100] = 0.0
    stored = store(record)
    assert stored.clean.all() and not stored.record(0)[:100].any()


def test_a_folder_is_written_once_and_opened_again(tmp_path):
    records = [shaking(seed) for seed in range(3)]
    first = store(*records, directory=tmp_path)
    again = store(*records, directory=tmp_path)
    assert first.directory == again.directory
    np.testing.assert_array_equal(again.record(2), first.record(2))
    copy = pickle.loads(pickle.dumps(again))
    np.testing.assert_array_equal(copy.record(1), first.record(1))
    assert copy.names == first.names and copy.sampling_rate == RATE
    other = store(*records, rate=2 * RATE, directory=tmp_path)
    assert other.directory != first.directory


def test_damaged_files_are_noticed(tmp_path):
    stored = store(shaking(0), directory=tmp_path)
    folder = stored.directory
    data = bytearray((folder / "motion.bin").read_bytes())
    data[5] ^= 1
    (folder / "motion.bin").write_bytes(bytes(data))
    with pytest.raises(StorageError, match="is damaged; delete it"):
        open_waveforms(folder)


def test_bad_records_stop_or_are_left_out(tmp_path):
    broken, dead, lost = shaking(1), shaking(2), shaking(3, length=0, onset=0)
    broken["waveform"][7, 1] = np.nan
    dead["waveform"][:] = 3.0
    for bad, reason in (
        (broken, "r1: sample 7 of component 1 is nan, the first of 1"),
        (dead, "r2: no component moves"),
        (lost, "list: record 1: r3"),
    ):
        with pytest.raises(BadRecordError, match=reason):
            store(shaking(0), bad)
        assert len(store(shaking(0), bad, **SKIP)) == 1
    store(shaking(0), dead, directory=tmp_path, **SKIP)
    with pytest.raises(BadRecordError, match="r2: no component moves"):
        store(shaking(0), dead, directory=tmp_path)
    with pytest.raises(
        ConfigError, match="none of the 1 records .* no component moves"
    ):
        store(dead, on_bad_record="skip", max_bad_fraction=1.0)
