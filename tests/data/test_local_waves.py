import numpy as np
import pytest

from jaxmodels.data import local_waves
from jaxmodels.data.synthetic_motions import SyntheticMotions, draw_record
from jaxmodels.train.errors import ConfigError

LOCAL = dict(magnitude=(0.0, 4.0), distance=(2.5, 40.0), seconds=20.0, noise=None)
VARIED = SyntheticMotions(waves="varied", **LOCAL)


@pytest.fixture(scope="module")
def records():
    return [draw_record(VARIED, event, 0) for event in range(24)]


def size(waveform):
    return np.sqrt(np.mean(np.square(waveform)))


def test_nothing_moves_before_p_and_p_itself_moves(records):
    for record in records:
        onset = int(record["p_sample"])
        assert not record["waveform"][:onset].any()
        assert np.abs(record["waveform"][onset : onset + 3]).max() > 0
        assert record["snr"] == np.inf


def test_s_is_stronger_than_what_p_left_before_it(records):
    ratios = []
    for record in records:
        horizontal = record["waveform"][:, 1:]
        s_sample, p_sample = int(record["s_sample"]), int(record["p_sample"])
        before = horizontal[s_sample - (s_sample - p_sample) // 2 : s_sample]
        ratios.append(size(horizontal[s_sample : s_sample + 50]) / size(before))
    # 12 dB in the median of records of Northern California, 8 to 17 their quartiles.
    assert 2.0 < np.median(ratios) < 12.0
    assert np.quantile(ratios, 0.75) > 1.5 * np.quantile(ratios, 0.25)


def test_p_leaves_a_coda_until_s(records):
    for record in records:
        s_sample = int(record["s_sample"])
        assert size(record["waveform"][s_sample - 10 : s_sample]) > 0


def test_onsets_are_impulsive_and_emergent(records):
    rises = []
    for record in records:
        vertical = np.cumsum(record["waveform"][int(record["p_sample"]) :, 0])
        rises.append(size(vertical[:10]) / size(vertical[:50]))
    assert min(rises) < 0.5 and max(rises) > 1.2


def test_a_record_without_noise_fades_out(records):
    for record in records:
        assert (
            np.abs(record["waveform"][-2:]).max()
            <= 1e-3 * np.abs(record["waveform"]).max()
        )


def test_soil_amplifies_at_some_frequencies_and_nothing_else():
    frequency = np.linspace(0.0, 50.0, 501)
    gains = [
        local_waves.resonances(np.random.default_rng(i), frequency) for i in range(20)
    ]
    gains = np.array(gains)
    assert gains.shape == (20, 2, 501) and gains.min() >= 0.0
    assert any(not gain.any() for gain in gains)
    assert 1.0 < gains.max() < 7.0
    assert (gains[:, 0] <= gains[:, 1]).all()


def test_waves_that_there_are_not_are_refused():
    with pytest.raises(ConfigError, match="waves 'flat' are none of usual, varied"):
        SyntheticMotions(waves="flat")
