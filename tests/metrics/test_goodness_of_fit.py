import numpy as np
import pytest

from jaxmodels.metrics import goodness_of_fit as gof

RATE = 50.0
LENGTH = 500


def record(seed=0, channels=2, length=LENGTH):
    rng = np.random.default_rng(seed)
    time = np.arange(length) / RATE
    shape = time * np.exp(-time)
    return rng.standard_normal((length, channels)) * shape[:, None]


@pytest.fixture(scope="module")
def observed():
    return record()


def test_anderson_of_equal_records_is_10_in_every_score_and_band(observed):
    result = gof.anderson(observed, observed, RATE, low=0.5)
    assert result["mean"] == 10
    assert result["scores"].shape == (len(result["bands"]), len(gof.SCORES))
    np.testing.assert_array_equal(result["scores"], 10)


def test_anderson_scores_the_bands_within_the_range_and_the_range(observed):
    result = gof.anderson(observed, observed, RATE, low=0.5, high=20)
    assert result["bands"] == [
        (0.5, 1.0), (1.0, 2.0), (2.0, 5.0), (5.0, 10.0), (10.0, 20.0), (0.5, 20)
    ]  # fmt: skip
    everything = gof.anderson(record(length=64), record(length=64), 400.0, high=100)
    assert len(everything["bands"]) == 10


@pytest.mark.parametrize("factor", [0.5, 2.0, 3.0])
def test_anderson_of_a_scaled_record_follows_the_formula(observed, factor):
    scores = gof.anderson(factor * observed, observed, RATE, low=0.5)["scores"]
    larger = max(factor, 1 / factor)
    linear = 10 * np.exp(-((larger - 1) ** 2))
    squared = 10 * np.exp(-((larger**2 - 1) ** 2))
    # Shapes and correlation do not see a factor.
    for name, expected in zip(
        gof.SCORES,
        [10, 10, squared, squared, *[linear] * 5, 10],
        strict=True,
    ):
        column = scores[:, gof.SCORES.index(name)]
        np.testing.assert_allclose(column, expected, rtol=1e-6, err_msg=name)


def test_anderson_correlation_of_a_turned_record_is_0_and_its_amplitudes_agree(
    observed,
):
    scores = gof.anderson(-observed, observed, RATE, low=0.5)["scores"]
    correlation = gof.SCORES.index("correlation")
    np.testing.assert_array_equal(scores[:, correlation], 0)
    np.testing.assert_allclose(np.delete(scores, correlation, axis=1), 10)


def test_anderson_duration_falls_with_the_largest_gap_of_the_integrals():
    pulse = np.zeros((LENGTH, 1))
    pulse[100] = 1
    late = np.roll(pulse, 300, axis=0)
    both = pulse + late
    place = gof.SCORES.index("arias_duration")
    apart = gof.anderson(pulse, late, RATE, low=2)["scores"][-1, place]
    half = gof.anderson(pulse, both, RATE, low=2)["scores"][-1, place]
    assert apart == pytest.approx(0, abs=0.05)
    assert half == pytest.approx(5, abs=0.05)


def test_anderson_takes_a_silent_record(observed):
    silent = np.zeros_like(observed)
    scores = gof.anderson(silent, observed, RATE, low=0.5)["scores"]
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(scores, 0, atol=1e-9)
    assert gof.anderson(silent, silent, RATE, low=0.5)["mean"] == 10


def test_misfits_of_equal_records_are_0_and_goodness_10(observed):
    result = gof.kristekova(observed, observed, RATE, low=0.5, num_frequencies=8)
    assert result == {"EM": 0, "PM": 0, "EG": 10, "PG": 10}


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.8])
def test_a_scaled_record_has_an_envelope_misfit_alone(observed, factor):
    """Kristekova et al. (2006): a change of amplitude by q has EM = |q - 1|, PM = 0."""
    result = gof.kristekova(
        factor * observed, observed, RATE, low=0.5, num_frequencies=8
    )
    assert result["EM"] == pytest.approx(abs(factor - 1), abs=1e-6)
    assert result["EG"] == pytest.approx(10 * np.exp(-abs(factor - 1)), abs=1e-5)
    assert result["PM"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("shift", [np.pi / 4, -np.pi / 2, 0.9 * np.pi, 1.5 * np.pi])
def test_a_turned_phase_has_a_phase_misfit_alone(observed, shift):
    # The turn is circular: silence keeps it from carrying one end to the other.
    observed = np.pad(observed, ((LENGTH // 2, LENGTH // 2), (0, 0)))
    spectrum = np.fft.rfft(observed, axis=0)
    spectrum[1:] *= np.exp(1j * shift)
    turned = np.fft.irfft(spectrum, len(observed), axis=0)
    result = gof.kristekova(turned, observed, RATE, low=2, num_frequencies=8)
    expected = min(abs(shift), 2 * np.pi - abs(shift)) / np.pi
    assert result["PM"] == pytest.approx(expected, abs=1e-4)
    assert result["PG"] == pytest.approx(10 * (1 - expected), abs=1e-3)
    assert result["EM"] < 0.01


def test_misfits_are_means_over_components(observed):
    half = observed * np.array([0.5, 0.8])
    result = gof.kristekova(half, observed, RATE, low=0.5, num_frequencies=8)
    assert result["EM"] == pytest.approx((0.5 + 0.2) / 2, abs=1e-6)
    assert result["EG"] == pytest.approx(5 * (np.exp(-0.5) + np.exp(-0.2)), abs=1e-5)


def test_morlet_transform_is_the_convolution_with_the_wavelet():
    waveform = record(1, channels=1)[:64, 0]
    frequency, omega = 5.0, 6.0
    scale = omega / (2 * np.pi * frequency)
    time = np.arange(-63, 64) / RATE
    wavelet = np.exp(1j * omega * time / scale - (time / scale) ** 2 / 2)
    expected = np.convolve(waveform, wavelet)[63 : 63 + 64] / np.sqrt(scale)
    found = gof.morlet_transform(waveform, RATE, [frequency])[0]
    factor = np.vdot(expected, found) / np.vdot(expected, expected)
    assert abs(factor.imag) < 1e-5 * factor.real
    np.testing.assert_allclose(
        found, factor * expected, atol=1e-4 * np.abs(found).max()
    )


def test_the_transform_weighs_frequencies_as_the_wavelet_of_unit_energy_does():
    """A wave of each frequency has |W| in proportion to the root of the scale."""
    frequencies = np.array([2.0, 8.0])
    time = np.arange(2000) / RATE
    waves = np.cos(2 * np.pi * frequencies[:, None] * time)
    transform = np.abs(gof.morlet_transform(waves, RATE, frequencies))
    middle = transform[np.arange(2), np.arange(2), 1000]
    assert middle[0] / middle[1] == pytest.approx(2, rel=1e-4)


def test_refuses_what_cannot_be_compared(observed):
    for measure in (gof.anderson, gof.kristekova):
        with pytest.raises(ValueError, match=r"\(499, 2\).*\(500, 2\).*one shape"):
            measure(observed[1:], observed, RATE)
        with pytest.raises(ValueError, match=r"low 30 Hz and high 18 Hz"):
            measure(observed, observed, RATE, low=30)
        with pytest.raises(ValueError, match=r"high 25 Hz must .* < 25 Hz"):
            measure(observed, observed, RATE, high=25)
        bad = observed.copy()
        bad[7:9, 1] = np.nan, np.inf
        with pytest.raises(ValueError, match="generated has 2 samples.* first at 7"):
            measure(bad, observed, RATE)
    silent = observed * np.array([1, 0])
    with pytest.raises(ValueError, match="observed component 1 is zero"):
        gof.kristekova(observed, silent, RATE)
    with pytest.raises(ValueError, match="generated component 1 is zero"):
        gof.kristekova(silent, observed, RATE)
