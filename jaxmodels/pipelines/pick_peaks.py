"""Where probabilities rise above a threshold, found while they arrive.

A run begins where a probability reaches its threshold and ends where it falls below
half of it, so that noise on the flank of a peak makes no second pick. It gives one
pick, in the middle of the top of its highest peak, of samples that were recorded: the
highest sample itself jumps along a broad top where windows begin at other samples. A
peak whose middle was not recorded gives none, unless a few samples from it were.

Shapes use T samples, K series.
"""

from typing import NamedTuple

import numpy as np

RELEASE = 0.5  # of the threshold, as SeisBench has it
TOP = 0.8  # of the largest value, where the top of a peak begins
NEAR = 10  # samples from the middle of a peak to one that was recorded


class Run(NamedTuple):
    """Where one series is above its threshold.

    Attributes:
        series: its place, 0 to K - 1.
        first, last: the first sample at the threshold, the last one at half of it.
        peak: the sample in the middle of the top, see `middle`.
        value: the largest.
    """

    series: int
    first: int
    last: int
    peak: int
    value: float


class _Open(NamedTuple):
    """A stretch above half of the threshold that may go on.

    Attributes:
        first: the first sample at the threshold; None while there is none.
        last: the last sample so far.
        values: [T] up to the last sample.
        recorded: bool [T].
    """

    first: int | None
    last: int
    values: np.ndarray
    recorded: np.ndarray


class Finder:
    """Runs of K series that come in parts.

    Args:
        thresholds: [K].
    """

    def __init__(self, thresholds):
        self._thresholds = np.asarray(thresholds, np.float64)
        self._open: list[_Open | None] = [None] * len(self._thresholds)
        self._next: int | None = None

    def feed(self, first, values, recorded):
        """Runs that are over by the end of a part.

        Args:
            first: sample of the first value; where it does not follow the part before,
                what was open is over.
            values: [T, K].
            recorded: bool [T].

        Returns:
            List of `Run`, by series and time.
        """
        found = self.close() if self._next not in (None, first) else []
        self._next = first + len(values)
        for series, threshold in enumerate(self._thresholds):
            found += self._series(series, threshold, first, values[:, series], recorded)
        return found

    def close(self):
        """The runs that are still open."""
        found = []
        for series, stretch in enumerate(self._open):
            found += _finished(series, stretch, self._thresholds[series])
        self._open = [None] * len(self._open)
        return found

    def _series(self, series, threshold, first, values, recorded):
        above = values >= RELEASE * threshold
        edges = np.flatnonzero(np.diff(np.concatenate([[False], above, [False]])))
        spans = edges.reshape(-1, 2).tolist()
        found, before = [], self._open[series]
        self._open[series] = None
        if before is not None and not (spans and spans[0][0] == 0):
            found += _finished(series, before, threshold)
            before = None
        for low, high in spans:
            part = values[low:high]
            reached = np.flatnonzero(part >= threshold)
            stretch = _Open(
                first + low + int(reached[0]) if reached.size else None,
                first + high - 1,
                part,
                recorded[low:high],
            )
            if before is not None:
                stretch, before = _together(before, stretch), None
            if high == len(values):
                self._open[series] = stretch
            else:
                found += _finished(series, stretch, threshold)
        return found


def _together(before, after):
    """One stretch of two that follow each other."""
    first = after.first if before.first is None else before.first
    values = np.concatenate([before.values, after.values])
    recorded = np.concatenate([before.recorded, after.recorded])
    return _Open(first, after.last, values, recorded)


def _finished(series, stretch, threshold):
    """The run of a stretch that is over, in a list; an empty one where it is none."""
    if stretch is None:
        return []
    values = np.where(stretch.recorded, stretch.values, -1.0)
    highest = int(values.argmax())
    if values[highest] < threshold:
        return []
    center = middle(stretch.values, highest)
    there = np.flatnonzero(stretch.recorded)
    peak = int(there[np.lexsort((-values[there], np.abs(there - center)))[0]])
    if abs(peak - center) > NEAR:
        return []
    start = stretch.last + 1 - len(values)
    value = float(values[highest])
    return [Run(series, stretch.first, stretch.last, start + peak, value)]


def middle(values, highest):
    """The sample in the middle of the top of a peak.

    Args:
        values: [T].
        highest: place of the peak.

    Returns:
        The center of mass of what is at `TOP` of the peak or above, without a sample
        below in between; a place of it.
    """
    below = np.flatnonzero(values < TOP * values[highest])
    after = int(np.searchsorted(below, highest))
    low = int(below[after - 1]) + 1 if after else 0
    high = int(below[after]) if after < len(below) else len(values)
    top = np.asarray(values[low:high], np.float64)
    return low + round(float(np.arange(len(top)) @ top / top.sum()))
