"""Where probabilities rise above a threshold, found while they arrive.

A run begins where a probability reaches its threshold and ends where it falls below
half of it, so that noise on the flank of a peak makes no second pick. It gives one
pick, at the largest probability of a sample that was recorded.

Shapes use T samples, K series.
"""

from typing import NamedTuple

import numpy as np

RELEASE = 0.5  # of the threshold, as SeisBench has it


class Run(NamedTuple):
    """Where one series is above its threshold.

    Attributes:
        series: its place, 0 to K - 1.
        first, last: the first sample at the threshold, the last one at half of it.
        peak: the sample of the largest value.
        value: there.
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
        peak, value: of what was recorded; None, 0 while there is nothing.
    """

    first: int | None
    last: int
    peak: int | None
    value: float


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
            masked = np.where(recorded[low:high], part, -1.0)
            best = int(masked.argmax())
            stretch = _Open(
                first + low + int(reached[0]) if reached.size else None,
                first + high - 1,
                first + low + best if masked[best] >= 0 else None,
                float(max(masked[best], 0.0)),
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
    larger = after if after.value > before.value else before
    first = after.first if before.first is None else before.first
    return _Open(first, after.last, larger.peak, larger.value)


def _finished(series, stretch, threshold):
    """The run of a stretch that is over, in a list; an empty one where it is none."""
    if stretch is None or stretch.peak is None or stretch.value < threshold:
        return []
    return [Run(series, stretch.first, stretch.last, stretch.peak, stretch.value)]
