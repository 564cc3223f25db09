import json

import numpy as np
import pytest
import scipy.signal

from jaxmodels.data import broadband
from jaxmodels.data.broadband import Preprocessing
from jaxmodels.train.errors import ConfigError

RATE, SAMPLES = 50.0, 400
FIELDS = dict(sampling_rate=RATE, num_samples=SAMPLES, channels=3, corner=1.0)


@pytest.fixture
def window():
    """Red noise, so that the low-pass holds some of it."""
    rng = np.random.default_rng(0)
    return np.cumsum(rng.standard_normal((SAMPLES, 3)), axis=0) * [1.0, 2.0, 3.0] * 1e-3


def preprocessing(**fields):
    return Preprocessing(**{**FIELDS, **fields})


def test_a_record_is_prepared_as_scipy_would():
    rng = np.random.default_rng(1)
    record = rng.standard_normal((1500, 3)) + np.arange(1500)[:, None] + 7
    own = preprocessing(taper=0.05)
    tapered = scipy.signal.detrend(record, axis=0)
    tapered *= scipy.signal.windows.tukey(1500, 0.1)[:, None]
    silence = np.zeros((5000, 3))
    padded = np.concatenate([silence, tapered, silence])
    sections = scipy.signal.butter(4, (0.1, 20.0), "bandpass", fs=RATE, output="sos")
    filtered = scipy.signal.sosfiltfilt(sections, padded, axis=0, padlen=0)
    np.testing.assert_allclose(own.prepare(record), filtered[5000:6500], atol=1e-6)


def test_the_taper_of_a_long_record_is_short():
    assert preprocessing().tapered(1000) == 50
    assert preprocessing().tapered(100_000) == 5 * RATE


def test_the_band_ends_below_half_the_rate():
    assert preprocessing(sampling_rate=100.0).band == (0.1, 30.0)
    assert preprocessing(sampling_rate=50.0).band == (0.1, 20.0)


def test_both_waveforms_have_one_scale_for_all_components(window):
    own = preprocessing()
    example = own.example(window, 1.0)
    for name in ("targets", "condition"):
        assert example[name].dtype == np.float32
        centered = example[name] - example[name].mean(axis=0)
        assert np.sqrt(np.mean(centered**2)) == pytest.approx(1.0, rel=1e-4)
    condition = own.low_pass(window, 1.0)
    size = np.sqrt(np.mean((condition - condition.mean(axis=0)) ** 2))
    np.testing.assert_allclose(example["condition"] * size, condition, rtol=1e-4)
    assert example["scalars"] == pytest.approx([np.log10(size), 0.0], abs=1e-4)
    ratio = np.sqrt(np.mean((window - window.mean(axis=0)) ** 2)) / size
    assert example["amplitude"] == pytest.approx(np.log10(ratio), abs=1e-4)


@pytest.mark.parametrize("normalization", broadband.NORMALIZATIONS)
@pytest.mark.parametrize("target", broadband.TARGETS)
def test_what_is_normalized_comes_back_but_for_the_mean(window, normalization, target):
    own = preprocessing(normalization=normalization, target=target)
    example = own.example(window, 2.0)
    condition = own.low_pass(window, 2.0)
    restored = own.restore(
        example["targets"], example["scalars"][0], example["amplitude"], condition
    )
    moved = window - restored
    np.testing.assert_allclose(moved, moved.mean(axis=0)[None] + 0 * moved, atol=1e-6)
    if normalization == "by_x":
        assert example["amplitude"] == 0.0
    if normalization == "joint_peak":
        peaks = np.abs(example["condition"]).max(axis=0)
        assert peaks.max() == pytest.approx(1.0) and peaks.min() < 0.9


def test_a_residual_target_needs_the_low_pass_to_be_restored(window):
    own = preprocessing(target="residual")
    with pytest.raises(ValueError, match="low_passed"):
        own.restore(window, 0.0, 0.0)


def test_samples_of_several_amplitudes_are_restored_at_once(window):
    own = preprocessing()
    several = np.stack([window, window])
    restored = own.restore(several, -1.0, np.array([0.0, 1.0]))
    np.testing.assert_allclose(restored[1], 10 * restored[0])


def test_a_batch_equals_its_examples(window):
    own = preprocessing(corner=(0.5, 5.0))
    windows = np.stack([window, -2 * window[::-1]])
    batch = own.examples(windows, np.array([1.0, 4.0]))
    for row, corner in enumerate((1.0, 4.0)):
        for name, value in own.example(windows[row], corner).items():
            np.testing.assert_allclose(batch[name][row], value, atol=1e-6)


def test_the_size_is_not_told_without_amplitude(window):
    own = preprocessing(amplitude=None, units="any")
    example = own.example(window, 1.0)
    assert np.isnan(example["scalars"][0]) and example["scalars"][1] == 0.0
    assert np.isfinite(example["amplitude"])


def test_a_causal_low_pass_shows_nothing_before_an_onset():
    impulse = np.zeros((SAMPLES, 3))
    impulse[200] = 1.0
    causal = preprocessing(causal=True).low_pass(impulse, 1.0)
    assert np.abs(causal[:200]).max() < 1e-9 < np.abs(causal[200:]).max()
    assert np.abs(preprocessing().low_pass(impulse, 1.0)[:200]).max() > 1e-3


def test_corners_lie_evenly_on_a_logarithmic_scale():
    own = preprocessing(corner=(0.5, 5.0))
    assert own.corner_at(np.array([0, 0.5, 1])) == pytest.approx([0.5, 2.5**0.5, 5.0])
    assert preprocessing(corner=(2.0, 2.0)) == preprocessing(corner=2.0)


def test_preprocessing_survives_json():
    own = preprocessing(corner=(0.5, 5.0), causal=True)
    entry = json.loads(json.dumps({**own.to_json(), "dataset": "napa"}))
    assert Preprocessing.from_json(entry) == own


def test_preprocessing_of_another_kind_is_named():
    own = preprocessing()
    with pytest.raises(ConfigError, match="not trained on ground motion"):
        Preprocessing.from_json({"kind": "labels"})
    entry = own.to_json()
    del entry["order"]
    with pytest.raises(ConfigError, match="no 'order'"):
        Preprocessing.from_json(entry)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(corner=30.0), "corner 30.0 Hz does not lie within 0.1 to 20 Hz"),
        (dict(corner=(0.05, 5.0)), "does not lie within 0.1"),
        (dict(band=(0.1, 30.0)), r"band \(0.1, 30.0\) Hz does not rise within 0 to 25"),
        (dict(sampling_rate=0.0), "sampling_rate 0.0 is not positive"),
        (dict(channels=2), "channels 2 is none of 1, 3"),
        (dict(normalization="max"), "'max' is none of own_std, joint_peak, by_x"),
        (dict(units="any"), "set amplitude to None"),
        (dict(num_samples=0), "must be at least 1"),
        (dict(taper=0.5), "taper 0.5 is not"),
    ],
)
def test_impossible_preprocessing_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message) as caught:
        preprocessing(**fields)
    assert "\n" not in str(caught.value)


def test_a_window_without_motion_or_of_another_shape_is_refused(window):
    with pytest.raises(ValueError, match="window 0 of 1 holds no motion"):
        preprocessing().example(0 * window, 1.0)
    with pytest.raises(ValueError, match=r"\(1, 399, 3\), not \(1, 400, 3\)"):
        preprocessing().example(window[1:], 1.0)


def test_resampling_moves_sample_i_to_i_times_the_ratio():
    time = np.arange(2000) / 200.0
    sine = np.sin(2 * np.pi * 3 * time)[:, None] + 5
    slower = broadband.resample(sine, 200.0, 100.0)
    assert slower.shape == (1000, 1)
    np.testing.assert_allclose(slower[50:-50], sine[::2][50:-50], atol=1e-3)
    assert broadband.resample(sine, 200.0, 200.0).shape == sine.shape
    with pytest.raises(ValueError, match="cannot resample from 0"):
        broadband.resample(sine, 0.0, 100.0)


def test_resampling_leaves_nothing_above_half_the_new_rate():
    time = np.arange(2000) / 200.0
    fast = np.sin(2 * np.pi * 80 * time)[:, None]
    assert np.abs(broadband.resample(fast, 200.0, 100.0)[50:-50]).max() < 1e-3


def broken(kind):
    record = np.random.default_rng(0).standard_normal((100, 3))
    if kind in ("nan", "inf"):
        record[7, 1] = float(kind)
    if kind == "still":
        record[:, 2] = 4.0
    if kind == "two":
        record = record[:, :2]
    return record[:, 0] if kind == "flat" else record


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nan", "sample 7 of component 1 is nan, the first of 1"),
        ("inf", "sample 7 of component 1 is inf"),
        ("still", "component 2 is 4 throughout"),
        ("two", r"2 component\(s\), and the model takes 3"),
        ("flat", r"shape \(100,\) is not"),
    ],
)
def test_a_bad_record_is_refused_in_one_line(kind, message):
    with pytest.raises(ValueError, match=message) as caught:
        broadband.check_waveform(broken(kind), channels=3)
    assert "\n" not in str(caught.value)


def test_a_record_has_to_be_fast_and_long_enough():
    own = preprocessing(corner=(0.5, 5.0))
    broadband.check_window(SAMPLES, RATE, own)
    with pytest.raises(ValueError, match="10 Hz ends at 5 Hz, .* corner 5 Hz"):
        broadband.check_window(10**6, 10.0, own)
    with pytest.raises(ValueError, match="7.9 s is shorter than the window of 8 s"):
        broadband.check_window(395, RATE, own)
