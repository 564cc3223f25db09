import numpy as np
import pytest

from jaxmodels.data import noise_records
from jaxmodels.data.noise_records import NoiseRecords, noise_of, noise_of_file
from jaxmodels.data.waveform_store import store_waveforms
from jaxmodels.train.errors import ConfigError
from tests.data.motion_sources import RATE, Listed, shaking


def store(*records):
    return store_waveforms(Listed(*records), RATE, name="list")


def test_noise_is_what_comes_before_p():
    loud = shaking(0, length=800, onset=400)
    noise = noise_of(store(loud, shaking(1, length=800, onset=60)))
    assert len(noise.pieces) == 1
    (piece,) = noise.pieces
    assert len(piece) == 400 - RATE
    original = loud["waveform"][: len(piece), 0]
    correlation = np.corrcoef(piece[:, 0], original)[0, 1]
    assert correlation > 0.999


def test_records_of_noise_alone_are_all_noise_but_unpicked_p_is_not():
    silent = shaking(0, p_sample=-1.0)
    half = shaking(1, p_sample=-1.0, s_sample=200.0)
    noise = noise_of(store(silent, half))
    assert [len(piece) for piece in noise.pieces] == [400]
    with pytest.raises(ConfigError, match="have no piece of 5 s"):
        noise_of(store(half))


def test_a_short_recording_goes_on_as_its_mirror_image():
    trace = np.arange(5.0)
    made = noise_records.mirrored(trace, 3, 10)
    np.testing.assert_array_equal(made, [3, 4, 3, 2, 1, 0, 1, 2, 3, 4])
    np.testing.assert_array_equal(noise_records.mirrored(trace, 1, 3), [1, 2, 3])


def test_components_that_were_not_recorded_are_those_of_another_time():
    piece = np.zeros((500, 3), np.float32)
    piece[:, 0] = np.random.default_rng(0).standard_normal(500)
    for seed in range(5):
        cut = NoiseRecords((piece,)).cut(np.random.default_rng(seed), 200)
        assert cut.shape == (200, 3) and np.ptp(cut, axis=0).min() > 1
        assert abs(np.corrcoef(cut[:, 0], cut[:, 1])[0, 1]) < 0.5


def test_recordings_are_read_from_npz_files_in_either_order(tmp_path):
    values = np.random.default_rng(0).standard_normal((3, 1200)).cumsum(axis=1)
    path = tmp_path / "noise.npz"
    np.savez(path, a=values, b=values.T, name="x", sampling_rate=50.0)
    first, second = noise_of_file(path, 100.0).pieces
    np.testing.assert_array_equal(first, second)
    assert len(first) == 2400
    np.savez(path, a=values[:, :50])
    with pytest.raises(ConfigError, match="have no piece of 5 s"):
        noise_of_file(path, 100.0)
    path.write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="is no npz file"):
        noise_of_file(path, 100.0)
    with pytest.raises(ConfigError, match="is no npz file"):
        noise_of_file(tmp_path / "none.npz", 100.0)
