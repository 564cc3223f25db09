"""Waves of small local earthquakes as pickers meet them: no two records are alike.

`seismograms` draws shaking as engineers need it, all from one recipe. What tells a
picker's records apart is drawn here from wide ranges: onsets from impulsive to
emergent, the coda that P leaves until S comes, radiation, conversions below the
station, and soil that rings at a few frequencies. The ranges are such that the records
look like those of networks of several kinds of instruments.

Shapes use K arrivals, F frequencies.
"""

import math

import numpy as np

from jaxmodels.data import seismograms

VARIED_VELOCITY_RATIO = 0.05  # standard deviation of the logarithm of that of P to S
DIRECT = (-2.0, -0.1)  # log10 of the share of the energy of P or S in its first pulse


def varied_arrivals(rng, source, distance, p, s, length, padded, sampling_rate):
    """When each wave comes and how it is polarized, as `scattered_arrivals` says.

    Returns:
        [3, 3, `padded`]: P with its coda, S and coda by vertical, radial, transverse.
    """
    trains = np.zeros((3, 3, padded))
    duration = (1 / source.corner_frequency + 0.03 * distance) * _spread(rng, 0.5)
    incidence = rng.uniform(0.0, 0.6)  # rad from the vertical
    to_s = max((s - p) / sampling_rate, 0.2)
    strength = 1.3 * _spread(rng, 0.6)  # of P by the source's radiation
    # P: along the ray at first.
    delay, size = _scattered(rng, 0.7 * duration * _spread(rng, 0.5))
    loss = np.minimum(delay / to_s, 1.0) + rng.uniform(0.0, 0.3)
    tilt = incidence + 0.7 * loss * rng.standard_normal(len(delay))
    aside = 0.5 * loss * rng.standard_normal(len(delay))
    aside[0] *= 0.2
    polarization = np.stack([np.cos(tilt), np.sin(tilt), aside])
    _put(trains[0], p, delay * sampling_rate, strength * size * polarization, length)
    # Its coda, which there is until S and under it.
    delay, size = _coda(rng, (length - p) / sampling_rate, duration + to_s)
    size *= strength * math.sqrt(10 ** rng.uniform(-0.3, 1.1))
    isotropic = rng.standard_normal((3, len(delay)))
    isotropic[1:] *= rng.uniform(0.3, 1.0)
    _put(trains[0], p, delay * sampling_rate, size * isotropic, length)
    _converted(rng, trains[0], p, s, strength, length)
    # S: across the ray, at an angle that the source sets for the direct wave.
    delay, size = _scattered(rng, duration)
    loss = np.minimum(delay / duration, 1.0)
    angle = rng.uniform(0, math.pi) + 1.5 * loss * rng.standard_normal(len(delay))
    tilt = incidence + 0.5 * loss * rng.standard_normal(len(delay))
    across = np.cos(angle)
    polarization = np.stack(
        [-across * np.sin(tilt), across * np.cos(tilt), np.sin(angle)]
    )
    _put(trains[1], s, delay * sampling_rate, size * polarization, length)
    # Coda of S: from everywhere, at first ever more.
    delay, size = _coda(rng, (length - s) / sampling_rate, duration + 0.5 * to_s)
    size *= math.sqrt(10 ** rng.uniform(-1.2, 0.3)) * np.minimum(delay / duration, 1)
    isotropic = rng.standard_normal((3, len(delay)))
    _put(trains[2], s, delay * sampling_rate, size * isotropic, length)
    return trains


def resonances(rng, frequency):
    """Logarithm of the amplification by up to three layers of soil, [2, F].

    Args:
        frequency: Hz, [F].

    Returns:
        Vertical and horizontal; Lorentzian peaks of 0.4 to 2.2, that is up to a factor
        of nine, at 1 to 25 Hz.
    """
    gain = np.zeros((2, len(frequency)))
    for _ in range(rng.integers(4)):
        center = math.exp(rng.uniform(0.0, math.log(25.0)))
        width = center / math.exp(rng.uniform(math.log(3.0), math.log(20.0)))
        peak = rng.uniform(0.4, 2.2) / (1 + np.square((frequency - center) / width))
        gain += np.array([[rng.uniform(0.0, 1.0)], [1.0]]) * peak
    return gain


def _spread(rng, size):
    return math.exp(size * rng.standard_normal())


def _scattered(rng, duration):
    """Delays [K] in s after the direct wave, which is the first, and amplitudes [K].

    The squares of the amplitudes add up to 1.
    """
    count = 1 + rng.poisson(seismograms.ARRIVALS_PER_SECOND * max(duration, 0.3))
    times = seismograms.envelope_times(rng, count, duration)
    delay = np.concatenate([[0.0], times])
    size = rng.standard_normal(count + 1)
    size *= np.exp(rng.uniform(0.0, 0.8) * rng.standard_normal(count + 1))
    direct = math.sqrt(10 ** rng.uniform(*DIRECT))
    size[1:] *= math.sqrt((1 - direct**2) / np.sum(np.square(size[1:])))
    size[0] = math.copysign(direct, size[0])
    return delay, size


def _coda(rng, seconds, scale):
    """Delays [K] all over `seconds`, and sizes whose squares add up to about 1.

    The sizes fall off like (1 + t / tau)^-a, tau about `scale`.
    """
    rate = seismograms.ARRIVALS_PER_SECOND
    delay = rng.uniform(0.0, max(seconds, 0.0), rng.poisson(rate * max(seconds, 0.0)))
    tau, power = scale * _spread(rng, 0.7), rng.uniform(0.8, 2.5)
    size = np.power(1 + delay / tau, -power)
    return delay, size / max(math.sqrt(np.sum(np.square(size))), 1e-9)


def _converted(rng, train, p, s, strength, length):
    """Adds waves between P and S that are neither, in three records of ten."""
    if rng.uniform() < 0.7:
        return
    count = rng.integers(1, 3)
    delay = rng.uniform(0.2, 0.95, count) * (s - p)
    size = strength * rng.uniform(0.1, 0.5, count) * rng.choice([-1.0, 1.0], count)
    polarization = np.stack([np.ones(count), rng.uniform(-0.5, 0.5, count)])
    values = size * np.concatenate([polarization, np.zeros((1, count))])
    _put(train, p, delay, values, length)


def _put(train, first, delay, values, length):
    """Adds values [3, K] to a train [3, padded] at `first` + `delay` samples."""
    seismograms.put(train, first + delay, values, length)
