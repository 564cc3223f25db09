import math

import numpy as np
import pytest

from jaxmodels.metrics import spectra

RATE = 100.0


@pytest.fixture(scope="module")
def record():
    rng = np.random.default_rng(0)
    envelope = np.hanning(2000)[:, None]
    return envelope * rng.standard_normal((2000, 3)) * np.array([0.5, 1.0, 2.0])


def test_fourier_amplitude_holds_the_energy_and_a_pulse_is_white(record):
    frequencies, amplitude = spectra.fourier_amplitude(record, RATE)
    assert frequencies[[0, 1, -1]].tolist() == [0, 0.05, 50]
    # Parseval: both signs of every frequency but zero and half the rate.
    weights = np.full(len(frequencies), 2.0)
    weights[[0, -1]] = 1.0
    energy = weights @ amplitude**2 * 0.05
    np.testing.assert_allclose(energy, np.sum(record**2, axis=0) / RATE)
    pulse = np.eye(1, 100, 40)[0]
    np.testing.assert_allclose(spectra.fourier_amplitude(pulse, RATE)[1], 1 / RATE)


def test_konno_ohmachi_is_the_weighted_mean_of_its_formula(record):
    frequencies, amplitude = spectra.fourier_amplitude(record[:200], RATE)
    center, bandwidth = 7.3, 40.0
    total = weights = 0.0
    for frequency, value in zip(frequencies[1:], amplitude[1:], strict=True):
        angle = bandwidth * math.log10(frequency / center)
        weight = (math.sin(angle) / angle) ** 4
        total, weights = total + weight * value, weights + weight
    got = spectra.konno_ohmachi(frequencies, amplitude, [center], bandwidth)
    np.testing.assert_allclose(got[0], total / weights)
    level = spectra.konno_ohmachi(frequencies, np.ones(101), [1.0, 9.5], bandwidth)
    np.testing.assert_allclose(level, 1.0)


def test_a_record_twice_as_large_differs_by_ln_2_and_6_db(record):
    residual = spectra.fas_residual(2 * record, record, RATE)
    np.testing.assert_allclose(residual, math.log(2))
    assert residual.shape == spectra.CENTERS.shape == (30,)
    distance = spectra.log_spectral_distance(2 * record, record, RATE)
    np.testing.assert_allclose(distance, math.log(2))
    decibels = spectra.log_spectral_distance(2 * record, record, RATE, decibels=True)
    np.testing.assert_allclose(decibels, 20 * math.log10(2))
    assert spectra.log_spectral_distance(record, record, RATE) == 0
    means = spectra.band_means(residual)
    assert list(means) == list(spectra.BANDS)
    np.testing.assert_allclose(list(means.values()), math.log(2))


def test_spectrum_of_a_record_is_the_geometric_mean_of_its_components(record):
    each = [
        spectra.smoothed_spectrum(record, RATE, component=component)
        for component in range(3)
    ]
    mean = spectra.smoothed_spectrum(record, RATE)
    np.testing.assert_allclose(mean**3, np.prod(each, axis=0))


def test_band_means_take_each_center_once():
    centers = np.array([0.1, 1.0, 2.0, 5.0, 30.0])
    means = spectra.band_means(np.arange(5.0), centers)
    assert means == {(0.1, 1.0): 0.5, (1.0, 5.0): 2.5, (10.0, 30.0): 4.0}


def test_resolved_centers_depend_on_length_and_rate():
    assert len(spectra.resolved_centers(6000, 100.0)) == 30
    short = spectra.resolved_centers(100, 50.0)
    assert short.min() >= 0.5 and short.max() <= 20
    assert set(short) < set(spectra.CENTERS)
    record = np.random.default_rng(0).standard_normal((100, 1))
    assert np.isfinite(spectra.fas_residual(record, record, 50.0, short)).all()


def test_bad_records_and_centers_raise(record):
    with pytest.raises(
        ValueError, match="center 30 Hz is outside of the 0.05 to 10 Hz"
    ):
        spectra.smoothed_spectrum(record[:400], 20.0, [1.0, 30.0])
    with pytest.raises(ValueError, match="component 1 is zero throughout"):
        spectra.smoothed_spectrum(record * [1, 0, 1], RATE)
    broken = record.copy()
    broken[3, 0] = np.nan
    with pytest.raises(ValueError, match="1 of 6000 samples are not finite"):
        spectra.smoothed_spectrum(broken, RATE)
    with pytest.raises(ValueError, match=r"\[length, components\], not \[2000\]"):
        spectra.smoothed_spectrum(record[:, 0], RATE)
