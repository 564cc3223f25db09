"""How training varies windows of seismograms, and where their arrivals are then.

Shapes use N samples of a window, T samples of a record, E events.
"""

import dataclasses
import math

import numpy as np

from jaxmodels.data.instruments import made_of, share_errors
from jaxmodels.train.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class WaveformAugmentation:
    """How training varies a window at each visit; all but `stretch` are shares of them.

    Attributes:
        around: windows that hold a pick, anywhere in them. The others lie anywhere in
            the record.
        superpose: windows in which a second event follows the first.
        noise: windows of records with noise of their own that get more of it.
        noise_only: windows that hold noise and nothing else.
        vertical_only: windows of three components without the horizontal ones.
        drop: windows of three components without one of them.
        gap: windows of which a part was not recorded.
        rotate: windows whose horizontal components are turned by a random angle.
        polarity: windows of which all components may change their sign.
        stretch: time runs up to so much faster or slower, at most 0.05.

    Raises:
        ConfigError: fields out of range.
    """

    around: float = 2 / 3
    superpose: float = 0.1
    noise: float = 0.3
    noise_only: float = 0.15
    vertical_only: float = 0.2
    drop: float = 0.05
    gap: float = 0.03
    rotate: float = 1.0
    polarity: float = 1.0
    stretch: float = 0.05

    def __post_init__(self):
        errors = share_errors(self)
        if self.stretch > 0.05:
            errors.append(f"stretch {self.stretch} is more than 0.05")
        if errors:
            raise ConfigError("augment: " + "; ".join(errors))


def make_waveform_augmentation(augment):
    """`WaveformAugmentation` of True or a dict of its fields; None of False or None.

    Raises:
        ConfigError: there is no such field, or its value is out of range.
    """
    return made_of(WaveformAugmentation, augment, "augment")


def cut(record, start, length, pace=1.0):
    """A part of a record, with zeros outside of it, float64 [N, 3].

    Args:
        record: [T, 3].
        start: sample of the record that comes first, not necessarily whole.
        length: N.
        pace: samples of the record from one of the part to the next.

    Returns:
        Sample i is the record at `start` + i `pace`, between its samples along the
        cubic through the four nearest (Keys, 1981, with a = -1/2).
    """
    part = np.zeros((length, record.shape[1]))
    if pace == 1.0 and float(start).is_integer():
        first, end = max(int(start), 0), min(int(start) + length, len(record))
        if first < end:
            part[first - int(start) : end - int(start)] = record[first:end]
        return part
    place = start + pace * np.arange(length)
    inside = np.flatnonzero((place >= 0) & (place <= len(record) - 1))
    if not inside.size:
        return part
    place = place[inside]
    whole = np.minimum(np.floor(place).astype(np.int64), max(len(record) - 2, 0))
    share = (place - whole)[:, None]
    before, left, right, after = (
        record[np.clip(whole + shift, 0, len(record) - 1)] for shift in (-1, 0, 1, 2)
    )
    slope = 0.5 * (right - before)
    square = before - 2.5 * left + 2.0 * right - 0.5 * after
    cube = 1.5 * (left - right) + 0.5 * (after - before)
    part[inside] = left + share * (slope + share * (square + share * cube))
    return part


def choose_start(rng, augmentation, arrivals, num_samples, length, free):
    """The sample of a record at which a window of training begins.

    Args:
        augmentation: `WaveformAugmentation`.
        arrivals: float [2], P and S in the record, NaN where there is none.
        num_samples: N.
        length: T.
        free: whether windows may begin before a record and end after it.
    """
    known = arrivals[np.isfinite(arrivals)]
    near, place, chosen = rng.uniform(size=3)
    low, high = min(length - num_samples, 0), max(length - num_samples, 0)
    if free:
        low, high = -num_samples, length
    if known.size and near < augmentation.around:
        start = known[int(chosen * known.size)] - place * num_samples
    else:
        start = low + place * (high - low)
    return int(np.clip(round(start), low, high))


def turned(rng, augmentation, window):
    """A window [N, 3] with its horizontals turned and its sign changed, perhaps."""
    rotates, angle, flips = rng.uniform(size=3)
    if rotates < augmentation.rotate and window[:, 1:].any(axis=0).all():
        angle *= 2 * math.pi
        cos, sin = math.cos(angle), math.sin(angle)
        window[:, 1:] = window[:, 1:] @ np.array([[cos, sin], [-sin, cos]])
    if flips < 0.5 * augmentation.polarity:
        window = -window
    return window


def with_losses(rng, augmentation, window, arrivals):
    """A window [N, 3] of which components or a part were not recorded, perhaps.

    Args:
        arrivals: float [E, 2], P and S in the window. What arrives in the part that was
            not recorded becomes NaN, in place.
    """
    vertical, drops, component, gap = rng.uniform(size=4)
    if vertical < augmentation.vertical_only and window[:, 0].any():
        window[:, 1:] = 0.0
    elif drops < augmentation.drop and window.any(axis=0).all():
        window[:, int(3 * component)] = 0.0
    if gap < augmentation.gap:
        seconds = int(len(window) * rng.uniform(0.01, 0.2))
        first = int(rng.integers(len(window) - seconds + 1))
        mean = window.mean(axis=0)
        window[first : first + seconds] = mean
        lost = (arrivals >= first) & (arrivals < first + seconds)
        arrivals[lost] = np.nan
    return window
