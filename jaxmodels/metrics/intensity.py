"""Intensity measures of one accelerogram.

Every function takes accelerations [T, C] (or [T]) in m/s^2 and returns one number a
component, [C] (or a scalar).
"""

import math

import numpy as np
from scipy import integrate

from jaxmodels.signal import filters

GRAVITY = 9.80665
# Integration multiplies noise of long periods; below this there is no ground motion
# in records that were band-passed from 0.1 Hz.
LOWEST_FREQUENCY = 0.05


def arias(acceleration, sampling_rate):
    """Arias intensity pi / (2 g) int a^2 dt (Arias, 1970), m/s."""
    return _husid(acceleration, sampling_rate)[-1]


def significant_duration(acceleration, sampling_rate, low=0.05, high=0.75):
    """Seconds between `low` and `high` of the Arias intensity (Trifunac, Brady, 1975).

    Args:
        acceleration: [T, C] or [T], m/s^2.
        sampling_rate: Hz.
        low, high: parts of the whole intensity; .05 to .75 is D5-75.

    Raises:
        ValueError: parts out of order, or a component that is zero throughout.
    """
    if not 0 <= low < high <= 1:
        raise ValueError(f"duration from {low:g} to {high:g} is not inside 0 to 1")
    husid = _husid(acceleration, sampling_rate)
    columns = husid.reshape(len(husid), -1).T
    if not columns[:, -1].all():
        raise ValueError(
            "a component is zero throughout and has no duration; leave it out"
        )
    seconds = [
        np.diff([_crossing(column / column[-1], part) for part in (low, high)])[0]
        for column in columns
    ]
    return np.reshape(seconds, husid.shape[1:])[()] / sampling_rate


def cav(acceleration, sampling_rate):
    """Cumulative absolute velocity int |a| dt (EPRI, 1988), m/s."""
    return integrate.trapezoid(np.abs(acceleration), dx=1 / sampling_rate, axis=0)


def pga(acceleration):
    """Peak ground acceleration, m/s^2."""
    return np.abs(acceleration).max(axis=0)


def pgv(acceleration, sampling_rate, low=LOWEST_FREQUENCY):
    """Peak of `velocity`, m/s."""
    return np.abs(velocity(acceleration, sampling_rate, low)).max(axis=0)


def pgd(acceleration, sampling_rate, low=LOWEST_FREQUENCY):
    """Peak of `displacement`, m."""
    return np.abs(displacement(acceleration, sampling_rate, low)).max(axis=0)


def velocity(acceleration, sampling_rate, low=LOWEST_FREQUENCY):
    """Ground velocity above `low` Hz, m/s, with the shape of the acceleration.

    A window that was cut from a record does not start at rest, and its running sum
    would drift. So the integral is taken in the frequency domain, under a zero-phase
    high-pass of fourth order.
    """
    return _integrated(acceleration, sampling_rate, low, 1)


def displacement(acceleration, sampling_rate, low=LOWEST_FREQUENCY):
    """Ground displacement above `low` Hz, m; see `velocity`."""
    return _integrated(acceleration, sampling_rate, low, 2)


def _husid(acceleration, sampling_rate):
    """Arias intensity up to each sample."""
    squared = np.square(np.asarray(acceleration, np.float64))
    running = integrate.cumulative_trapezoid(
        squared, dx=1 / sampling_rate, axis=0, initial=0.0
    )
    return math.pi / (2 * GRAVITY) * running


def _crossing(husid, part):
    """Sample, with a fraction, where a rising curve [T] first reaches `part`."""
    after = int(np.argmax(husid >= part))
    if not after:
        return 0.0
    below, above = husid[after - 1], husid[after]
    return after - 1 + (part - below) / (above - below)


def _integrated(acceleration, sampling_rate, low, times):
    acceleration = np.asarray(acceleration, np.float64)
    length = len(acceleration)
    padded = filters.padded_length(
        length, sampling_rate, filters.PERIODS_OF_PADDING / low
    )
    gain = 1 - filters.lowpass_gain(padded, sampling_rate, low)
    angular = 2 * math.pi * np.fft.rfftfreq(padded, 1 / sampling_rate)
    angular[0] = 1.0
    multiplier = gain / (1j * angular) ** times
    spectrum = np.fft.rfft(acceleration, n=padded, axis=0)
    spectrum = (spectrum.T * multiplier).T
    return np.fft.irfft(spectrum, n=padded, axis=0)[:length]
