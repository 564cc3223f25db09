"""Probabilities of a long record from overlapping windows.

Windows start at multiples of the hop on the grid of time, and at both ends of a
segment. So a part of a record gives what the whole gives, away from the ends of the
part. What is stacked is the average over the windows that hold a sample, with weights
that fall towards their ends, or the largest value of each phase.

Shapes use W windows, N samples of a window, T samples of a record, C components;
probabilities are P, S, noise.
"""

import math
from typing import NamedTuple

import numpy as np

from jaxmodels.pipelines import broaden_windows
from jaxmodels.train.errors import ConfigError

NOISE = 2
CLASSES = 3
DECAY = 1.0  # seconds in which a fill falls to the mean
# A component that begins again after so many seconds, while another one goes on, looks
# like an arrival; seconds before and after it in which there are no picks.
ABSENT = 1.0
BEFORE, AFTER = 1.0, 0.5
STACKINGS = ("avg", "max")


class Windows(NamedTuple):
    """How a record is cut and put together.

    Attributes:
        num_samples: N.
        hop: samples between windows.
        blinding: samples left out at the start and at the end of a window, but for
            the ends of a segment, which no other window holds.
        stacking: "avg" or "max".
        batch_size: windows that the network reads at once.
    """

    num_samples: int
    hop: int
    blinding: tuple[int, int]
    stacking: str
    batch_size: int


def make_windows(num_samples, *, overlap, blinding, stacking, batch_size):
    """Windows of what a user asks for.

    Args:
        num_samples: N.
        overlap: of neighbors; a share of N below 1, else samples.
        blinding: samples at both ends, or a pair.
        stacking, batch_size: see `Windows`.

    Raises:
        ConfigError: one is out of its range, or blinding leaves samples to no window.
    """
    is_number = isinstance(overlap, (int, float, np.number))
    shared = float(overlap) if is_number else math.nan
    shared = shared * num_samples if 0 <= shared < 1 else shared
    if not 0 <= shared <= num_samples - 1:
        raise ConfigError(
            f"overlap {overlap!r} must be a share below 1, or 1 to {num_samples - 1} "
            "samples"
        )
    hop = num_samples - round(shared)
    pair = np.atleast_1d(np.asarray(blinding))
    if pair.dtype.kind not in "iu" or pair.shape not in ((1,), (2,)) or min(pair) < 0:
        raise ConfigError(
            f"blinding {blinding!r} must be one or two numbers of samples, at least 0"
        )
    before, after = int(pair[0]), int(pair[-1])
    if before + after + hop > num_samples:
        raise ConfigError(
            f"blinding {before} and {after} leaves {num_samples - before - after} of "
            f"{num_samples} samples a window, and windows are {hop} apart; raise "
            "overlap or lower blinding"
        )
    if stacking not in STACKINGS:
        raise ConfigError(f"stacking {stacking!r} is none of {', '.join(STACKINGS)}")
    if not (isinstance(batch_size, (int, np.integer)) and 1 <= batch_size <= 4096):
        raise ConfigError(
            f"batch_size {batch_size!r} must be a whole number, 1 to 4096"
        )
    return Windows(num_samples, hop, (before, after), stacking, int(batch_size))


def starts(first, stop, windows):
    """First samples of the windows of a segment [first, stop), int64 [W], rising.

    The last window of a segment shorter than N ends after it.
    """
    last = max(first, stop - windows.num_samples)
    hop = windows.hop
    inner = np.arange(-(-(first + 1) // hop) * hop, last, hop, dtype=np.int64)
    ends = [first] if last == first else [first, last]
    return np.concatenate([ends[:1], inner, ends[1:]]).astype(np.int64)


def probabilities(segment, part, windows, normalize, predict, tick=None):
    """Probabilities of a part of a segment.

    Args:
        segment: `pick_segments.Segment`.
        part: (first, stop) samples of the grid, within the segment.
        windows: `Windows`.
        normalize: [W, N, C] without gaps -> what the model takes.
        predict: that -> [W, N, 3].
        tick: called with the number of samples done.

    Yields:
        (first, float32 [T, 3], recorded): parts that follow each other without a gap;
        `recorded` is bool [T], True where a component was recorded and none has just
        begun again.
    """
    length = windows.num_samples
    absent, before, after = (
        round(x * float(segment.grid.rate)) for x in (ABSENT, BEFORE, AFTER)
    )
    first, stop = part
    begins = starts(segment.first, segment.stop, windows)
    begins = begins[(begins + length > first) & (begins < stop)]
    stack = _Stack(begins[0], windows)
    done = first
    for at in range(0, len(begins), windows.batch_size):
        batch = begins[at : at + windows.batch_size]
        low, high = int(batch[0]), int(batch[-1]) + length
        around = segment.read(low - absent - after, high + before)
        there = ~np.isnan(around)
        trusted = there.any(axis=1) & ~resumed(there, absent, before, after)
        inner = slice(absent + after, len(around) - before)
        values = around[inner]
        views = np.stack([values[i : i + length] for i in (batch - low)])
        inputs, alive = _inputs(views, float(segment.grid.rate), normalize)
        stack.extend(high, trusted[inner])
        stack.add(batch, segment, predict(inputs), alive)
        rest = begins[at + len(batch) :]
        ready = min(stop, int(rest[0]) if len(rest) else stop)
        if ready > done:
            yield done, *stack.take(done, ready)
            if tick is not None:
                tick(ready - done)
            done = ready


def resumed(there, absent, before, after):
    """Where a component begins again while another one goes on, bool [T].

    Args:
        there: bool [T, C], what was recorded.
        absent: samples that the component was not recorded before.
        before, after: samples that count as near it.
    """
    found = np.zeros(len(there), bool)
    some = there.any(axis=1)
    for column in there.T:
        for at in (np.flatnonzero(column[1:] & ~column[:-1]) + 1).tolist():
            gap = slice(at - absent, at)
            if at >= absent and not column[gap].any() and some[gap].all():
                found[max(0, at - before) : at + after] = True
    return found


def _inputs(views, rate, normalize):
    """Normalized windows, and which of them hold any motion."""
    for view in views:
        if np.isnan(view).any():
            fill(view, rate)
    inputs = normalize(views)
    return inputs, (views != views[:, :1]).any(axis=(1, 2))


def fill(window, rate):
    """Fills what is NaN in a window [N, C], in place.

    A line goes from one end of a gap to the other; before the first and after the last
    sample the value falls to the mean within a second, since a step would look like an
    arrival. A component without samples becomes zero.
    """
    place = np.arange(len(window))
    for column in window.T:
        missing = np.isnan(column)
        if missing.all():
            column[:] = 0.0
        elif missing.any():
            held = np.flatnonzero(~missing)
            mean = column[held].mean()
            away = np.maximum(held[0] - place, place - held[-1])
            fall = 0.5 + 0.5 * np.cos(np.pi * np.clip(away / (DECAY * rate), 0, 1))
            known = np.interp(place, held, column[held])
            column[missing] = (mean + (known - mean) * fall)[missing]


class _Stack:
    """Sums, or largest values, of windows where they overlap."""

    def __init__(self, first, windows):
        self._first = int(first)
        self._windows = windows
        # Of P, S and noise, and of the weight.
        self._held = np.zeros((0, CLASSES + 1))
        self._recorded = np.zeros(0, bool)
        self._weights = broaden_windows.weights(windows.num_samples)

    def extend(self, stop, recorded):
        """Makes room up to `stop`; `recorded` tells about the last samples before."""
        needed = stop - self._first - len(self._held)
        self._held = np.pad(self._held, ((0, needed), (0, 0)))
        self._recorded = np.pad(self._recorded, (0, needed))
        self._recorded[-len(recorded) :] = recorded

    def add(self, begins, segment, found, alive):
        length = self._windows.num_samples
        for begin, values, moves in zip(begins.tolist(), found, alive, strict=True):
            # Without motion there is no arrival, whatever a network makes of zeros.
            values = values if moves else np.array([[0.0, 0.0, 1.0]])
            before, after = self._windows.blinding
            low = 0 if begin <= segment.first else before
            high = length if begin + length >= segment.stop else length - after
            at = begin - self._first
            held = self._held[at + low : at + high]
            values = np.broadcast_to(values, (length, CLASSES))[low:high]
            if self._windows.stacking == "max":
                np.maximum(held[:, :CLASSES], values, out=held[:, :CLASSES])
                held[:, CLASSES] = 1.0
            else:
                weight = self._weights[low:high, None]
                held[:, :CLASSES] += weight * values
                held[:, CLASSES:] += weight

    def take(self, first, stop):
        """float32 [T, 3] and bool [T]; what is before `stop` is given up."""
        low, high = first - self._first, stop - self._first
        found, recorded = self._held[low:high], self._recorded[low:high]
        self._held, self._recorded = self._held[high:], self._recorded[high:]
        self._first = stop
        values = found[:, :CLASSES] / found[:, CLASSES:]
        if self._windows.stacking == "max":
            values[:, NOISE] = np.maximum(0.0, 1 - values[:, :NOISE].sum(axis=1))
        return values.astype(np.float32), recorded


def batches(count, most=None):
    """Sizes of batches that add up to `count`: few sizes, so that few are compiled.

    Args:
        most: no batch is larger, a power of 4; None for any size.
    """
    limit = count if most is None else min(count, most)
    if limit == count >= 16 and count & (count - 1) == 0:
        return [count]
    size, found = 1, []
    while 4 * size <= limit:
        size *= 4
    while count:
        found += [size] * (count // size)
        count %= size
        size //= 4
    return found
