import json

import numpy as np
import pytest

from jaxmodels.data.waveform_windows import WindowPreprocessing
from jaxmodels.train.errors import ConfigError


def noise(seed=0, length=200, components=3, offset=1e6):
    rng = np.random.default_rng(seed)
    return offset + 5.0 * rng.standard_normal((length, components)) * [1, 2, 3]


def make(**fields):
    return WindowPreprocessing(**{"sampling_rate": 100.0, "num_samples": 200, **fields})


def test_each_component_has_mean_zero_and_deviation_one():
    window = make().normalize(noise())
    assert window.dtype == np.float32
    np.testing.assert_allclose(window.mean(axis=0), 0.0, atol=1e-6)
    np.testing.assert_allclose(window.std(axis=0), 1.0, rtol=1e-6)


def test_a_common_size_keeps_the_ratios_of_components():
    raw = noise()
    window = make(per_component=False).normalize(raw)
    np.testing.assert_allclose(np.square(window).mean(), 1.0, rtol=1e-6)
    ratio = raw.std(axis=0) / window.std(axis=0)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)


def test_peaks_are_one():
    window = make(normalization="peak").normalize(noise())
    np.testing.assert_allclose(np.abs(window).max(axis=0), 1.0, rtol=1e-6)
    joint = make(normalization="peak", per_component=False).normalize(noise())
    assert np.sort(np.abs(joint).max(axis=0))[-1] == pytest.approx(1.0)
    assert np.abs(joint).max(axis=0).min() < 0.9


def test_no_normalization_takes_away_the_mean_alone():
    raw = noise()
    window = make(normalization="none").normalize(raw)
    np.testing.assert_allclose(window, raw - raw.mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize("normalization", ["std", "peak", "none"])
def test_what_does_not_move_stays_zero_or_is_a_copy(normalization):
    raw = noise()
    raw[:, 1] = 7.0
    zeros = make(normalization=normalization).normalize(raw)
    assert not zeros[:, 1].any() and zeros[:, 2].any()
    copied = make(normalization=normalization, fill="copy").normalize(raw)
    np.testing.assert_array_equal(copied[:, 1], copied[:, 0])
    np.testing.assert_array_equal(copied[:, 2], zeros[:, 2])


def test_dead_components_do_not_change_the_size_of_the_others():
    raw = noise()
    raw[:, 1:] = 3.0
    one = make(per_component=False).normalize(raw)
    np.testing.assert_allclose(one[:, 0].std(), 1.0, rtol=1e-6)


def test_a_window_without_any_motion_is_zero():
    assert not make(highpass=1.0, fill="copy").normalize(np.full((50, 3), 4.0)).any()


def test_windows_in_a_stack_are_normalized_one_by_one():
    stack = np.stack([noise(0), 100 * noise(1)])
    preprocessing = make(highpass=2.0)
    together = preprocessing.normalize(stack)
    for window, raw in zip(together, stack, strict=True):
        np.testing.assert_allclose(window, preprocessing.normalize(raw), atol=1e-6)


def test_gain_and_offset_of_an_instrument_change_nothing():
    raw = noise(offset=0.0)
    preprocessing = make(highpass=1.0)
    expected = preprocessing.normalize(raw)
    scaled = preprocessing.normalize(raw * [3.0, 0.1, 70.0] + [5.0, -2.0, 90.0])
    np.testing.assert_allclose(scaled, expected, atol=1e-5)


def test_the_high_pass_takes_slow_motion_and_leaves_fast():
    time = np.arange(2000)[:, None] / 100.0
    slow, fast = np.sin(2 * np.pi * 0.1 * time + 1), np.sin(2 * np.pi * 10.0 * time)
    preprocessing = make(channels=1, normalization="none", highpass=1.0)
    kept = preprocessing.normalize(30 * slow + 5 * time + fast)
    assert np.abs(kept - fast)[100:-100].max() < 0.01
    # The ends, where the window cuts through the slow motion, do not ring.
    assert np.abs(kept - fast).max() < 0.6
    at_corner = np.sin(2 * np.pi * 1.0 * time)
    half = preprocessing.normalize(at_corner)[500:1500]
    np.testing.assert_allclose(half, 0.5 * at_corner[500:1500], atol=0.01)


def test_json_makes_the_same_preprocessing_again():
    preprocessing = make(highpass=1, normalization="peak", fill="copy")
    entry = json.loads(json.dumps(preprocessing.to_json()))
    assert entry["kind"] == "waveform_windows"
    assert WindowPreprocessing.from_json(entry) == preprocessing
    with pytest.raises(ConfigError, match="kind 'broadband' is not 'waveform_windows'"):
        WindowPreprocessing.from_json({"kind": "broadband"})
    del entry["fill"]
    with pytest.raises(ConfigError, match="has no 'fill'"):
        WindowPreprocessing.from_json(entry)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(normalization="l2"), "normalization 'l2' is none of std, peak, none"),
        (dict(fill="mean"), "fill 'mean' is none of zeros, copy"),
        (dict(channels=2), "channels 2 is none of 1, 3"),
        (dict(sampling_rate=0.0), "sampling_rate 0.0 is not positive"),
        (dict(highpass=50.0), "highpass 50.0 Hz does not lie within 0 to 50 Hz"),
        (dict(num_samples=0), "num_samples 0 is not at least 1"),
    ],
)
def test_impossible_fields_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        make(**fields)


def test_windows_that_cannot_be_used_are_refused():
    with pytest.raises(ValueError, match=r"shape \(200, 2\) is not \[samples, 3\]"):
        make().normalize(noise()[:, :2])
    raw = noise()
    raw[3, 1] = np.nan
    with pytest.raises(ValueError, match="1 of 600 samples of a window are not finite"):
        make().normalize(raw)
    with pytest.raises(ValueError, match="is not"):
        make().normalize(np.zeros((0, 3)))
