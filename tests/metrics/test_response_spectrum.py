import math

import numpy as np
import pytest
from scipy import integrate

from jaxmodels.metrics import response_spectrum

RATE = 100.0


@pytest.fixture(scope="module")
def record():
    rng = np.random.default_rng(0)
    shape = np.hanning(800)[:, None]
    # Smooth enough to be straight between samples at the periods below.
    noise = np.stack(
        [np.convolve(x, np.hanning(15), "same") for x in rng.normal(size=(3, 800))]
    )
    return shape * noise.T


def peak_by_integration(acceleration, period, damping):
    """Solves the oscillator's differential equation with a general solver."""
    omega = 2 * math.pi / period
    time = np.arange(len(acceleration)) / RATE

    def slope(t, state):
        force = np.interp(t, time, acceleration)
        return state[1], -force - 2 * damping * omega * state[1] - omega**2 * state[0]

    solved = integrate.solve_ivp(
        slope, time[[0, -1]], [0, 0], t_eval=time, max_step=0.5 / RATE, rtol=1e-7
    )
    return omega**2 * np.abs(solved.y[0]).max()


@pytest.mark.parametrize("damping", [0.05, 0.2])
def test_psa_solves_the_equation_of_the_oscillator(record, damping):
    periods = [0.3, 1.0]
    got = response_spectrum.psa(record[:, 0], RATE, periods, damping)
    expected = [peak_by_integration(record[:, 0], p, damping) for p in periods]
    np.testing.assert_allclose(got, expected, rtol=1e-3)


def test_a_window_that_starts_within_the_shaking_starts_at_rest(record):
    """A ramp from 0 to the first sample would kick a soft oscillator."""
    window = record[400:, 0] * np.exp(-np.arange(400) / 20.0)
    for period in (1.0, 5.0):
        got = response_spectrum.psa(window, RATE, [period])
        expected = peak_by_integration(window, period, 0.05)
        np.testing.assert_allclose(got, expected, rtol=1e-3)


def test_resonance_reaches_its_closed_form():
    """Steady state at resonance amplifies by 1 / (2 damping)."""
    for period in (0.1, 0.15, 1.0):
        time = np.arange(round(40 * period * RATE)) / RATE
        sine = np.sin(2 * np.pi * time / period)
        got = response_spectrum.psa(sine, RATE, [period], 0.05)
        np.testing.assert_allclose(got, 10.0, rtol=0.02)


def test_a_stiff_oscillator_follows_the_ground_and_a_soft_one_stays(record):
    got = response_spectrum.psa(record[:, 0], RATE, [0.005, 500.0])
    np.testing.assert_allclose(got[0], np.abs(record[:, 0]).max(), rtol=0.03)
    displacement = got[1] * (500 / (2 * np.pi)) ** 2
    ground = np.cumsum(np.cumsum(record[:, 0])) / RATE**2
    np.testing.assert_allclose(displacement, np.abs(ground).max(), rtol=0.02)


def test_short_periods_need_the_interpolation():
    """A 10 Hz sine sampled ten times a period, against one sampled finely."""
    coarse, fine = (
        np.sin(2 * np.pi * 10 * np.arange(3 * rate) / rate) for rate in (100, 3200)
    )
    got = response_spectrum.psa(coarse, 100.0, [0.05, 0.1])
    expected = response_spectrum.psa(fine, 3200.0, [0.05, 0.1])
    np.testing.assert_allclose(got, expected, rtol=0.02)


def test_rotd50_is_the_median_over_all_directions(record):
    periods = [0.1, 0.5, 2.0]
    directions = []
    for degrees in range(180):
        angle = math.radians(degrees)
        turned = math.cos(angle) * record[:, 1] + math.sin(angle) * record[:, 2]
        directions.append(response_spectrum.psa(turned, RATE, periods))
    expected = np.median(directions, axis=0)
    got = response_spectrum.psa_rotd50(record, RATE, periods)
    np.testing.assert_allclose(got, expected, rtol=1e-9)
    both = response_spectrum.psa_rotd50_and_geometric_mean(record, RATE, periods)
    np.testing.assert_array_equal(both[0], got)


@pytest.mark.parametrize("kind", ["polarized", "circular", "short"])
def test_rotd50_holds_for_motions_of_any_shape(kind):
    phase = np.linspace(0, 12 * np.pi, 5 if kind == "short" else 600)
    first = np.sin(phase) * np.hanning(len(phase))
    second = {"polarized": 0.3 * first, "circular": np.cos(phase)}.get(kind, phase)
    record = np.stack([first, second], axis=1)
    got = response_spectrum.psa_rotd50(record, RATE, [0.3])
    turns = [math.radians(degrees) for degrees in range(180)]
    expected = np.median(
        [
            response_spectrum.psa(record @ [math.cos(a), math.sin(a)], RATE, [0.3])[0]
            for a in turns
            if (record @ [math.cos(a), math.sin(a)]).any()
        ]
    )
    np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_rotd50_finds_the_peak_of_motion_along_any_line(record):
    """A polygon around points of one line has edges of rounding errors alone."""
    (along,) = response_spectrum.psa(record[:, 1], RATE, [0.3])
    for degrees in np.linspace(1, 179, 200):
        line = [math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]
        turned = response_spectrum.ANGLES - math.radians(degrees)
        expected = along * np.median(np.abs(np.cos(turned)))
        got = response_spectrum.psa_rotd50(np.outer(record[:, 1], line), RATE, [0.3])
        np.testing.assert_allclose(got, expected, rtol=1e-9, err_msg=f"{degrees}")


def test_geometric_mean_leaves_the_vertical_out(record):
    got = response_spectrum.psa_geometric_mean(record, RATE, [0.5])
    each = [response_spectrum.psa(x, RATE, [0.5]) for x in record.T]
    np.testing.assert_allclose(got, np.sqrt(each[1] * each[2]))
    single = response_spectrum.psa_rotd50(record[:, :1], RATE, [0.5])
    np.testing.assert_array_equal(single, each[0])


def test_bad_input_raises(record):
    cases = (
        (record, [0.5], 0.05, r"one component \[length\], not \[800, 3\]"),
        (record[:, 0], [0.0], 0.05, "period 0 s is not positive"),
        (record[:, 0], [0.5], 1.5, r"damping 1.5 is not in \[0, 1\)"),
    )
    for values, periods, damping, message in cases:
        with pytest.raises(ValueError, match=message):
            response_spectrum.psa(values, RATE, periods, damping)
    with pytest.raises(ValueError, match="4 components are more than"):
        response_spectrum.psa_rotd50(np.ones((9, 4)), RATE)
