import math

import numpy as np
import pytest

from jaxmodels.metrics import ground_motion, spectra
from jaxmodels.signal import filters

RATE = 50.0


@pytest.fixture(scope="module")
def record():
    rng = np.random.default_rng(0)
    envelope = np.exp(-(np.linspace(-1.5, 3, 1000) ** 2))[:, None]
    noise = filters.zero_phase_bandpass(rng.standard_normal((1000, 3)), RATE, 0.1, 20.0)
    return envelope * noise


def test_intensities_of_a_sine_follow_their_closed_forms():
    frequency, amplitude, seconds = 2.0, 3.0, 20
    time = np.arange(seconds * 1000 + 1) / 1000.0
    sine = amplitude * np.sin(2 * np.pi * frequency * time)
    energy = amplitude**2 / 2 * seconds
    np.testing.assert_allclose(
        ground_motion.arias(sine, 1000.0), math.pi / (2 * 9.80665) * energy, rtol=1e-6
    )
    np.testing.assert_allclose(
        ground_motion.cav(sine, 1000.0), 2 / math.pi * amplitude * seconds, rtol=1e-4
    )
    np.testing.assert_allclose(ground_motion.pga(sine), amplitude, rtol=1e-6)
    for low, high in ((0.05, 0.75), (0.05, 0.95)):
        duration = ground_motion.significant_duration(sine, 1000.0, low, high)
        np.testing.assert_allclose(duration, (high - low) * seconds, atol=0.05)


def test_velocity_and_displacement_integrate_a_burst():
    time = np.arange(4000) / 100.0
    displacement = np.exp(-((time - 20) ** 2)) * np.sin(2 * np.pi * time)
    velocity = np.gradient(displacement, time)
    acceleration = np.gradient(velocity, time)[:, None]
    np.testing.assert_allclose(
        ground_motion.velocity(acceleration, 100.0)[:, 0], velocity, atol=0.01
    )
    np.testing.assert_allclose(
        ground_motion.displacement(acceleration, 100.0)[:, 0], displacement, atol=0.002
    )
    np.testing.assert_allclose(
        ground_motion.pgv(acceleration, 100.0), np.abs(velocity).max(), rtol=2e-3
    )
    np.testing.assert_allclose(
        ground_motion.pgd(acceleration, 100.0), np.abs(displacement).max(), rtol=2e-3
    )


def test_duration_interpolates_between_samples():
    # The squares are 0 1 1 1 1, their running trapezoid 0 .5 1.5 2.5 3.5 samples.
    steps = np.array([0.0, 1, 1, 1, 1])
    got = ground_motion.significant_duration(steps, 1.0, 1 / 7, 6 / 7)
    np.testing.assert_allclose(got, 2.5)
    with pytest.raises(ValueError, match="from 0.9 to 0.1 is not inside 0 to 1"):
        ground_motion.significant_duration(steps, 1.0, 0.9, 0.1)
    with pytest.raises(ValueError, match="zero throughout and has no duration"):
        ground_motion.significant_duration(np.zeros((5, 1)), 1.0)


def test_lf_snr_counts_what_is_wrong_below_the_corner_only(record):
    condition = filters.zero_phase_lowpass(record, RATE, 2.0)
    assert ground_motion.lf_snr(record, condition, RATE, 2.0) == math.inf
    wrong = record + 0.1 * condition
    low = filters.zero_phase_lowpass(condition, RATE, 2.0)
    expected = 20 * math.log10(np.linalg.norm(condition) / np.linalg.norm(0.1 * low))
    got = ground_motion.lf_snr(wrong, condition, RATE, 2.0)
    np.testing.assert_allclose(got, expected)
    time = np.arange(1000)[:, None] / RATE
    high = record + np.hanning(1000)[:, None] * np.sin(2 * np.pi * 15 * time)
    assert ground_motion.lf_snr(high, condition, RATE, 2.0) > 100
    # A causal filter delays, which only the causal comparison forgives.
    late = filters.causal_lowpass(record, RATE, 2.0)
    assert ground_motion.lf_snr(record, late, RATE, 2.0) < 3
    assert ground_motion.lf_snr(record, late, RATE, 2.0, causal=True) == math.inf
    correlation = ground_motion.lf_correlation(3 * record, condition, RATE, 2.0)
    np.testing.assert_allclose(correlation, 1)


def test_envelope_correlation_sees_when_the_high_frequencies_come(record):
    rng = np.random.default_rng(1)
    shape = np.exp(-(np.linspace(-1.5, 3, 1000) ** 2))[:, None]
    same, other = (
        envelope * rng.standard_normal((1000, 3)) for envelope in (shape, shape[::-1])
    )
    assert ground_motion.envelope_correlation(record, record, RATE, 1.0) > 1 - 1e-9
    assert ground_motion.envelope_correlation(same, record, RATE, 1.0) > 0.7
    assert ground_motion.envelope_correlation(other, record, RATE, 1.0) < 0.3


@pytest.mark.parametrize("corner", [0.5, 1.0])
def test_envelopes_of_independent_noise_do_not_correlate(corner):
    """Not even by the ends that any two windows have."""
    found = [
        ground_motion.envelope_correlation(*noise, RATE, corner)
        for noise in np.random.default_rng(3).standard_normal((30, 2, 1000, 3))
    ]
    assert abs(np.mean(found)) < 0.05


def test_a_record_too_short_for_its_envelope_is_refused(record):
    short = record[300:500]
    with pytest.raises(ValueError, match="a record of 4 s is too short .* 2 s at each"):
        ground_motion.envelope_correlation(short, short, RATE, 0.5)


def test_envelope_of_a_wave_is_its_amplitude():
    wave = 3 * np.sin(2 * np.pi * np.arange(1000) / RATE)[:, None]
    middle = ground_motion.smoothed_envelope(wave, RATE)[200:-200]
    np.testing.assert_allclose(middle, 3, rtol=1e-2)


def test_the_ends_of_a_window_do_not_look_like_motion():
    drift = np.linspace(0, 1, 1000)[:, None]
    # Its two ends differ by 1, which is a peak of 5 in the plain analytic signal.
    assert ground_motion.smoothed_envelope(drift, 1).max() < 1.3


def test_envelope_of_a_sine_burst_is_its_amplitude():
    time = np.arange(2000) / RATE
    amplitude = np.exp(-(((time - 20) / 6) ** 2))
    burst = (amplitude * np.sin(2 * np.pi * 10 * time))[:, None]
    got = ground_motion.high_frequency_envelope(burst, RATE, 1.0, seconds=0.1)
    np.testing.assert_allclose(got[:, 0], amplitude, atol=5e-3)


def test_measures_of_a_record_beside_itself_are_perfect(record):
    condition = filters.zero_phase_lowpass(record, RATE, 1.0)
    found = ground_motion.measures(record, record, condition, RATE, 1.0)
    perfect = {"envelope_correlation": 1, "lf_correlation": 1, "lf_snr": math.inf}
    perfect |= {"anderson": 10, "eg": 10, "pg": 10}
    assert all(type(value) is float for value in found.values())
    for name, value in found.items():
        np.testing.assert_allclose(value, perfect.get(name, 0), atol=1e-9, err_msg=name)


@pytest.mark.parametrize("low_pass", [dict(order=2), dict(causal=True)], ids=str)
def test_the_condition_is_that_of_its_own_low_pass(record, low_pass):
    condition = filters.lowpass(record, RATE, 1.0, **low_pass)
    found, plain = (
        ground_motion.measures(
            record, record, condition, RATE, 1.0, time_frequency=False, **how
        )
        for how in (low_pass, {})
    )
    assert found["lf_snr"] == math.inf and plain["lf_snr"] < 20
    assert found["lf_correlation"] > 1 - 1e-12 > plain["lf_correlation"]


def test_measures_of_a_record_twice_as_large(record):
    condition = filters.zero_phase_lowpass(record, RATE, 1.0)
    known = ground_motion.features(record, RATE, 1.0, periods=[0.2, 1.0])
    found = ground_motion.measures(
        2 * record,
        record,
        condition,
        RATE,
        1.0,
        observed_features=known,
        time_frequency=False,
    )
    assert "eg" not in found and "psa_gm_0.2s" in found and "psa_3s" not in found
    expected = {"lf_snr": 0.0, "lf_correlation": 1.0, "envelope_correlation": 1.0}
    expected |= {"d5_75": 0.0, "d5_95": 0.0, "arias": 2 * math.log(2)}
    expected["lsd_db"] = math.log(2) * spectra.DECIBELS
    del found["anderson"]
    # The second pass of the filter takes the flank from the condition.
    np.testing.assert_allclose(found.pop("lf_snr"), expected.pop("lf_snr"), atol=0.8)
    for name, value in found.items():
        np.testing.assert_allclose(
            value, expected.get(name, math.log(2)), atol=1e-9, err_msg=name
        )


def test_bad_pairs_raise(record):
    condition = filters.zero_phase_lowpass(record, RATE, 1.0)
    with pytest.raises(ValueError, match=r"\[900, 3\] and observed record \[1000, 3\]"):
        ground_motion.measures(record[:900], record, condition, RATE, 1.0)
    with pytest.raises(ValueError, match=r"\[1000, 3\] and condition \[1000, 1\]"):
        ground_motion.lf_snr(record, condition[:, :1], RATE, 1.0)
    with pytest.raises(ValueError, match="component 2 is zero throughout"):
        ground_motion.measures(record * [1, 1, 0], record, condition, RATE, 1.0)
    with pytest.raises(ValueError, match="is below 1.5 times the corner 15 Hz"):
        ground_motion.measures(
            record, record, condition, RATE, 15.0, time_frequency=False
        )
