"""Pseudo-spectral acceleration of damped oscillators.

Shapes use T length, C components, P periods, A angles.
"""

import functools
import math

import numpy as np
from scipy import fft, linalg, signal

from jaxmodels.metrics.spectra import check_record

PERIODS = np.array(
    [0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75]
    + [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.5, 10.0]
)
UPSAMPLING = 8
# Up to so many samples a period the interpolation by straight lines, which the
# recursion assumes, takes amplitude from the ground motion: 20 samples are 0.2 s at
# 100 Hz.
SAMPLES_A_PERIOD = 20.0
SHORT_PERIOD = 0.2
QUIET_SECONDS = 2.0
ANGLES = np.pi / 180 * np.arange(180)
POLYGON_MARGIN = 1e-9  # parts of the largest response


def psa(acceleration, sampling_rate, periods=PERIODS, damping=0.05):
    """Pseudo-spectral acceleration (2 pi / T)^2 max |displacement| of one component.

    The oscillator's response is exact for ground motion that is straight between
    samples (Nigam and Jennings, 1969); for periods up to 0.2 s, or 20 samples,
    the ground motion is interpolated to eight times its rate first. The oscillator is
    at rest at the first sample, and what it does after the last does not count.

    Args:
        acceleration: [T], m/s^2.
        sampling_rate: Hz.
        periods: [P], seconds.
        damping: part of critical damping.

    Returns:
        [P], m/s^2.

    Raises:
        ValueError: periods or damping outside of their range; as `check_record`.
    """
    acceleration = np.asarray(acceleration)
    if acceleration.ndim != 1:
        raise ValueError(
            f"psa takes one component [length], not {list(acceleration.shape)}; "
            f"psa_rotd50 and psa_geometric_mean take records"
        )
    responses = _responses(acceleration[:, None], sampling_rate, periods, damping)
    return np.array([np.abs(response).max() for response in responses])


def psa_geometric_mean(acceleration, sampling_rate, periods=PERIODS, damping=0.05):
    """Geometric mean over the horizontal components of `psa`.

    Args:
        acceleration: [T, C] in the order vertical, horizontals; one component stands
            for itself.
        sampling_rate, periods, damping: as in `psa`.

    Returns:
        [P], m/s^2.
    """
    record = horizontals(acceleration)
    responses = _responses(record, sampling_rate, periods, damping)
    return np.array([_geometric_mean(response) for response in responses])


def psa_rotd50(acceleration, sampling_rate, periods=PERIODS, damping=0.05):
    """Median over all horizontal directions of `psa` (RotD50; Boore, 2010).

    Args and returns are those of `psa_geometric_mean`; directions are one degree apart.
    """
    record = horizontals(acceleration)
    responses = _responses(record, sampling_rate, periods, damping)
    return np.array([np.median(_rotated_peaks(response)) for response in responses])


def psa_rotd50_and_geometric_mean(
    acceleration, sampling_rate, periods=PERIODS, damping=0.05
):
    """`psa_rotd50` and `psa_geometric_mean` for the price of one: [2, P]."""
    record = horizontals(acceleration)
    both = [
        (np.median(_rotated_peaks(response)), _geometric_mean(response))
        for response in _responses(record, sampling_rate, periods, damping)
    ]
    return np.array(both).T


def horizontals(acceleration):
    """All components but the first of a record [T, C]; the only one if there is one.

    Raises:
        ValueError: more than three components; as `check_record`.
    """
    acceleration = check_record(acceleration)
    components = acceleration.shape[1]
    if components > 3:
        raise ValueError(
            f"{components} components are more than a vertical and two horizontals; "
            f"give the record of one station"
        )
    # Two components are both taken as horizontal.
    return acceleration[:, components // 3 :]


def _geometric_mean(response):
    return np.exp(np.mean(np.log(np.abs(response).max(axis=1))))


def _responses(record, sampling_rate, periods, damping):
    """Yields, a period, the pseudo-acceleration of the oscillators [C, T or 8 T]."""
    record = check_record(record)
    periods = np.atleast_1d(np.asarray(periods, np.float64))
    if not (periods > 0).all():
        raise ValueError(f"period {periods.min():g} s is not positive")
    if not 0 <= damping < 1:
        raise ValueError(f"damping {damping:g} is not in [0, 1), a part of critical")
    coarse = np.ascontiguousarray(record.T)
    short = periods <= max(SHORT_PERIOD, SAMPLES_A_PERIOD / sampling_rate)
    fine = _upsampled(coarse, sampling_rate) if short.any() else coarse
    for period, is_short in zip(periods, short, strict=True):
        rate = sampling_rate * UPSAMPLING if is_short else sampling_rate
        numerator, denominator, start = _recursion(
            float(period), 1 / rate, float(damping)
        )
        ground = fine if is_short else coarse
        start = ground[:, :1] * start
        yield signal.lfilter(numerator, denominator, ground, zi=start)[0]


def _upsampled(record, sampling_rate):
    """Band-limited interpolation of [C, T] to eight times the rate.

    The zeros keep the end of the record from acting on its start.
    """
    length = record.shape[1]
    padded = fft.next_fast_len(length + round(QUIET_SECONDS * sampling_rate), real=True)
    padded += padded % 2
    spectrum = fft.rfft(record, n=padded)
    # Half the rate stands for two frequencies, of which the result keeps one.
    spectrum[:, -1] /= 2
    fine = fft.irfft(spectrum * UPSAMPLING, n=padded * UPSAMPLING)
    return np.ascontiguousarray(fine[:, : length * UPSAMPLING])


@functools.lru_cache(maxsize=1024)
def _recursion(period, interval, damping):
    """Filter from ground acceleration to (2 pi / T)^2 displacement, and its start.

    The state (displacement, velocity) obeys s[n+1] = E s[n] + b0 a[n] + b1 a[n+1],
    exactly, for an acceleration that is straight between samples. E, b0 and b1 come
    from one exponential of the system that also has the acceleration and its slope as
    states; eliminating the velocity leaves a filter of second order.

    Returns:
        Numerator [3], denominator [3], and the state of `lfilter` [2], for a first
        sample of 1, that lets the displacement and the velocity there be 0.
    """
    omega = 2 * math.pi / period
    system = np.zeros((4, 4))
    system[0, 1] = 1
    system[1] = -(omega**2), -2 * damping * omega, -1, 0
    system[2, 3] = 1
    step = linalg.expm(system * interval)
    (e11, e12), (e21, e22) = step[:2, :2]
    after = step[:2, 3] / interval
    before = step[:2, 2] - after
    numerator = np.array(
        [
            after[0],
            before[0] - e22 * after[0] + e12 * after[1],
            e12 * before[1] - e22 * before[0],
        ]
    )
    denominator = np.array([1.0, -(e11 + e22), e11 * e22 - e12 * e21])
    start = np.array([-after[0], before[0] - numerator[1]])
    return numerator * omega**2, denominator, start * omega**2


def _rotated_peaks(response):
    """Peak over time of the response in each direction, [A], from [C, T]."""
    if len(response) == 1:
        return np.abs(response).max(axis=1)
    outer = _outer_points(response)
    turns = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)  # A 2
    return np.abs(turns @ outer).max(axis=1)


def _outer_points(points):
    """Drops points [2, T] that are extreme in no direction, up to a change of sign.

    Sixteen points, far out in as many directions, span a polygon; what lies inside of
    it is the extreme of no direction. They are searched among every eighth point, and
    the circle inside of the polygon drops most of the others at little cost.
    """
    angles = np.pi / 8 * np.arange(8)
    turns = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    some = points[:, ::UPSAMPLING]
    projections = turns @ some  # 8 T/8
    extremes = np.argmax(np.abs(projections), axis=1)
    signs = np.sign(projections[np.arange(8), extremes])
    corners = some[:, extremes] * signs  # 2 8
    following = np.concatenate([corners[:, 1:], -corners[:, :1]], axis=1)
    edges = following - corners
    # Where one point is extreme in two directions, the edge between has no length.
    length = np.hypot(*edges)
    normals = np.stack([edges[1], -edges[0]], axis=1)[length > 0]  # outward
    normals /= length[length > 0, None]
    # Motion along one line makes a polygon without an inside, whose edges lie where
    # rounding puts them: within the margin nothing is dropped.
    margin = POLYGON_MARGIN * np.hypot(*corners).max()
    offsets = np.maximum(np.sum(normals * corners.T[length > 0], axis=1) - margin, 0)
    if not offsets.size:
        return points
    points = points[:, points[0] ** 2 + points[1] ** 2 >= offsets.min() ** 2]
    outside = np.abs(normals @ points) >= offsets[:, None]
    return points[:, outside.any(axis=0)]
