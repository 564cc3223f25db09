import numpy as np
import pytest

from jaxmodels.metrics import spectra
from jaxmodels.pipelines import broaden_baselines as baselines
from jaxmodels.signal import filters
from jaxmodels.train.errors import ConfigError

RATE, CORNER, LENGTH, CHANNELS = 50.0, 1.0, 1000, 2


def low_pass(waveform):
    return filters.zero_phase_lowpass(waveform, RATE, CORNER)


def colored(seed, power=-1.0):
    """Noise with amplitudes that fall as f^power, under a smooth envelope."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((LENGTH, CHANNELS))
    frequencies = np.fft.rfftfreq(LENGTH, 1 / RATE)
    gain = np.maximum(frequencies, 0.2) ** power
    waveform = np.fft.irfft(np.fft.rfft(noise, axis=0) * gain[:, None], LENGTH, axis=0)
    return waveform * np.hanning(LENGTH)[:, None]


@pytest.fixture(scope="module")
def windows():
    return [(y, low_pass(y)) for y in map(colored, range(6))]


@pytest.fixture(scope="module")
def noise(windows):
    return baselines.ShapedNoise.fit(windows, RATE, CORNER)


def test_low_pass_baseline_is_the_record_as_one_sample(windows):
    condition = windows[0][1]
    np.testing.assert_array_equal(baselines.low_pass_only(condition)[0], condition)
    assert baselines.low_pass_only(condition).shape == (1, LENGTH, CHANNELS)


def test_samples_keep_the_low_frequencies_of_the_record(noise, windows):
    condition = windows[0][1]
    samples = noise.sample(condition, seed=0, num_samples=2)
    assert samples.shape == (2, LENGTH, CHANNELS)
    for sample in samples:
        error = np.sum((low_pass(sample) - condition) ** 2)
        assert 10 * np.log10(np.sum(condition**2) / error) > 25


def test_a_causal_low_pass_is_merged_as_one():
    def causal(waveform):
        return filters.causal_lowpass(waveform, RATE, CORNER)

    windows = [(y, causal(y)) for y in map(colored, range(2))]
    noise = baselines.ShapedNoise.fit(windows, RATE, CORNER, causal=True)
    condition = windows[0][1]
    sample = noise.sample(condition, seed=0, num_samples=1)[0]
    error = np.sum((causal(sample) - condition) ** 2)
    assert 10 * np.log10(np.sum(condition**2) / error) > 20


def test_samples_have_the_mean_ratio_above_and_below_the_corner(noise):
    record = 3 * colored(100)
    condition = low_pass(record)
    samples = noise.sample(condition, seed=0, num_samples=8)
    ratio = (samples - condition).std(axis=1).mean(axis=0) / condition.std(axis=0)
    # In the flank of the filter, the merge replaces some of the noise.
    np.testing.assert_allclose(ratio, np.exp(noise.log_ratio), rtol=0.12)


def test_samples_have_the_mean_spectrum_of_the_training_records(noise):
    """Amplitudes that fall as 1 / f."""
    centers = np.array([3.0, 7.0, 16.0])
    condition = low_pass(colored(100))
    samples = noise.sample(condition, seed=0, num_samples=8)
    spectrum = np.mean(
        [np.log(spectra.smoothed_spectrum(s, RATE, centers)) for s in samples], axis=0
    )
    slope = np.diff(spectrum) / np.diff(np.log(centers))
    np.testing.assert_allclose(slope, -1, atol=0.2)


def test_noise_follows_the_record_in_time(noise):
    condition = low_pass(colored(100))
    condition[: LENGTH // 2] = 0
    sample = noise.sample(condition, seed=0, num_samples=1)[0]
    high = sample - low_pass(sample)
    quiet, loud = high[: LENGTH // 2 - 100], high[LENGTH // 2 :]
    assert quiet.std() < 0.05 * loud.std()


def test_more_smoothing_lets_the_noise_reach_further(windows):
    pulse = np.zeros((LENGTH, CHANNELS))
    pulse[LENGTH // 2] = 1
    condition = low_pass(pulse)
    widths = []
    for smoothing in (0.5, 8.0):
        noise = baselines.ShapedNoise.fit(windows, RATE, CORNER, smoothing=smoothing)
        high = noise.sample(condition, 0, 4) - condition
        share = np.mean(high**2, axis=(0, 2))
        share /= share.sum()
        place = np.arange(LENGTH)
        widths.append(np.sqrt(share @ (place - share @ place) ** 2))
    assert widths[1] > 2 * widths[0]


def test_large_records_count_as_much_as_small_ones(windows):
    scaled = [(1000 * y, 1000 * x) if i else (y, x) for i, (y, x) in enumerate(windows)]
    plain = baselines.ShapedNoise.fit(windows, RATE, CORNER)
    other = baselines.ShapedNoise.fit(scaled, RATE, CORNER)
    np.testing.assert_allclose(other.log_ratio, plain.log_ratio)
    np.testing.assert_allclose(other.log_amplitude, plain.log_amplitude)


def test_the_seed_decides_and_the_scale_of_the_record_carries_over(noise, windows):
    condition = windows[0][1]
    first = noise.sample(condition, 7, 2)
    np.testing.assert_array_equal(first, noise.sample(condition, 7, 2))
    assert np.abs(first - noise.sample(condition, 8, 2)).max() > 0
    assert np.abs(first[0] - first[1]).max() > 0
    np.testing.assert_allclose(noise.sample(10 * condition, 7, 2), 10 * first)


def test_systems_are_functions_of_condition_and_seed(noise, windows):
    condition = windows[0][1]
    made = baselines.systems(noise, num_samples=3)
    assert list(made) == [baselines.LOW_PASS, baselines.SHAPED_NOISE]
    shapes = [system(condition, 5).shape[0] for system in made.values()]
    assert shapes == [1, 3]
    np.testing.assert_array_equal(
        made[baselines.SHAPED_NOISE](condition, 5), noise.sample(condition, 5, 3)
    )


def test_refuses_what_it_cannot_fit_or_broaden(noise, windows):
    fit = baselines.ShapedNoise.fit
    broadband, low_passed = windows[0]
    with pytest.raises(ConfigError, match="at least one training window, got 0"):
        fit([], RATE, CORNER)
    with pytest.raises(ConfigError, match=r"window 0: broadband \(999, 2\)"):
        fit([(broadband[1:], low_passed)], RATE, CORNER)
    with pytest.raises(ConfigError, match="window 1: standard deviations .* above 0"):
        fit([windows[0], (broadband, low_passed * [1, 0])], RATE, CORNER)
    with pytest.raises(ConfigError, match="window 0: standard deviations .* finite"):
        fit([(np.full_like(broadband, np.nan), low_passed)], RATE, CORNER)
    with pytest.raises(ConfigError, match="window 1 has 1 components, .* 2"):
        fit([windows[0], (broadband[:, :1], low_passed[:, :1])], RATE, CORNER)
    with pytest.raises(ConfigError, match="smoothing 0 s"):
        fit(windows, RATE, CORNER, smoothing=0)
    with pytest.raises(ConfigError, match="record has 1 components, .* fitted on 2"):
        noise.sample(low_passed[:, :1], 0, 1)
