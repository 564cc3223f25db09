import numpy as np
import pytest

from jaxmodels.data import town_noise
from jaxmodels.data.instruments import Instruments

RATE = 100.0
LENGTH = 3072


def added(kind, seed, rate=RATE, length=LENGTH):
    noise = np.zeros((length, 3))
    kind(np.random.default_rng(seed), noise, rate)
    return noise


@pytest.mark.parametrize("kind", town_noise.KINDS)
@pytest.mark.parametrize("rate", [20.0, 100.0, 250.0])
def test_each_is_finite_and_moves_every_component(kind, rate):
    found = [added(kind, seed, rate) for seed in range(40)]
    assert all(np.isfinite(one).all() for one in found)
    moving = [one.any(axis=0).all() for one in found]
    assert np.mean(moving) > 0.9
    peaks = [
        np.abs(one).max() for one, moves in zip(found, moving, strict=True) if moves
    ]
    assert 1 < np.median(peaks) < 100


@pytest.mark.parametrize("length", [2, 50])
def test_windows_may_be_short(length):
    for kind in town_noise.KINDS:
        for seed in range(20):
            assert np.isfinite(added(kind, seed, length=length)).all()


def test_a_vehicle_comes_and_goes():
    """Of the three, only a vehicle is as slow to come as it is to go."""
    rises, falls = [], []
    for seed in range(60):
        power = np.square(added(town_noise.add_vehicle, seed)).sum(axis=1)
        power = np.convolve(power, np.ones(100) / 100, "same")
        peak = power.argmax()
        if 500 < peak < LENGTH - 500:
            above = np.flatnonzero(power > 0.5 * power[peak])
            rises.append(peak - above[0])
            falls.append(above[-1] - peak)
    assert 0.5 < np.mean(rises) / np.mean(falls) < 2


def test_footsteps_are_of_one_direction():
    wave = added(town_noise.add_footsteps, 3)
    assert np.linalg.matrix_rank(wave) == 1


def test_a_machine_leaves_the_rest_of_the_window_alone():
    shares = [
        np.any(added(town_noise.add_machine, seed), axis=1).mean() for seed in range(60)
    ]
    assert np.mean(np.array(shares) < 0.95) > 0.5


def test_without_a_town_noise_is_what_it_was():
    plain, none, town = (
        Instruments(town=share).noise(np.random.default_rng(5), LENGTH, RATE)
        for share in (0.0, 1e-12, 1.0)
    )
    np.testing.assert_array_equal(plain, none)
    assert not np.array_equal(plain, town)
