"""The recordings of one instrument on one grid of time, read a part at a time.

Sample k of the grid is at k / rate seconds since 1970, whatever part of a record is at
hand: a day in one piece and the same day in blocks give the same numbers. Samples that
have the grid's rate already are taken as they are, the nearest to each time of the
grid; others are resampled onto it.

Shapes use T samples, C components.
"""

import dataclasses
import fractions
import math
from typing import NamedTuple

import numpy as np
import scipy.signal

SECOND = 1_000_000_000  # nanoseconds
BRIDGED = 2.0  # seconds without samples that do not end a segment
SHORTEST = 3.0  # seconds of a segment, in less all looks like an arrival
SAME_RATE = 1e-6  # relative
SLACK = fractions.Fraction(1, 1000)  # samples, for times that were rounded
HALF = fractions.Fraction(1, 2)
# Of the filter of `scipy.signal.resample_poly`, which training records went through.
HALF_WIDTH, KAISER = 10, 5.0


class Piece(NamedTuple):
    """Samples of one component without gaps.

    Attributes:
        component: 0 vertical, 1 north, 2 east.
        channel: code.
        start: of the first sample, nanoseconds since 1970.
        rate: Hz.
        samples: [T], finite.
    """

    component: int
    channel: str
    start: int
    rate: float
    samples: np.ndarray

    @property
    def stop(self):
        """Where the sample after the last one would be, nanoseconds since 1970."""
        return self.start + round(len(self.samples) * SECOND / self.rate)


class Grid(NamedTuple):
    """Times k / rate.

    Attributes:
        rate: Hz.
    """

    rate: fractions.Fraction

    @classmethod
    def of(cls, rate):
        return cls(fractions.Fraction(rate).limit_denominator(10_000))

    def time(self, index):
        """Nanoseconds since 1970 of a sample of the grid."""
        return round(int(index) * SECOND / self.rate)

    def nearest(self, time):
        """The sample next to a time in nanoseconds since 1970, of two the earlier."""
        return math.ceil(time * self.rate / SECOND - HALF - SLACK)

    def covered(self, piece):
        """(first, stop), the samples of the grid that a piece gives."""
        if self.has(piece.rate):
            first = self.nearest(piece.start)
            return first, first + max(1, self.nearest(piece.stop - piece.start))
        last = _time_of(piece, len(piece.samples) - 1)
        first, last = (time * self.rate / SECOND for time in (piece.start, last))
        return math.ceil(first - SLACK), math.floor(last + SLACK) + 1

    def has(self, rate):
        """Whether a rate is the grid's own."""
        return abs(rate / float(self.rate) - 1) < SAME_RATE

    def lag(self, piece, index):
        """Nanoseconds from a time of the grid to the sample that stands for it."""
        if not self.has(piece.rate):
            return 0
        return _time_of(piece, self._place(piece, index)) - self.time(index)

    def read(self, piece, first, count):
        """float64 [count] of a piece, from a sample of the grid; within `covered`."""
        if self.has(piece.rate):
            low = min(max(0, self._place(piece, first)), len(piece.samples) - 1)
            found = np.asarray(piece.samples[low : low + count], np.float64)
            return np.pad(found, (0, count - len(found)), mode="edge")
        place = (self.time(first) - piece.start) * piece.rate / SECOND
        return resample_from(piece.samples, place, count, float(self.rate) / piece.rate)

    def _place(self, piece, index):
        """The sample next to a time of the grid, of two the later: as `nearest`."""
        place = (self.time(index) - piece.start) * piece.rate / SECOND
        return math.floor(place + float(HALF + SLACK))


def _time_of(piece, place):
    return piece.start + round(place * SECOND / piece.rate)


def resample_from(samples, place, count, ratio):
    """Samples of a signal at another rate, from any place between two of its own.

    The filter is that of `scipy.signal.resample_poly`, moved by a part of a sample, and
    exact on a constant; outside of the signal its first and last values go on.

    Args:
        samples: [T].
        place: of the first result, in samples of the signal.
        count: of results.
        ratio: of the new rate to that of the signal.

    Returns:
        float64 [count].
    """
    share = fractions.Fraction(ratio).limit_denominator(10_000)
    up, down = share.numerator, share.denominator
    half = HALF_WIDTH * max(up, down)
    margin = half // up + 2
    low = math.floor(place) - margin
    stop = math.ceil(place + count * down / up) + margin
    inside = np.asarray(samples[max(low, 0) : max(stop, 1)], np.float64)
    if not inside.size:
        inside = np.asarray(samples[-1:], np.float64)
    # Counts are often far from zero; a filter is exact on what is near it.
    base = inside.mean()
    before = min(max(-low, 0), stop - low)
    after = max(0, stop - low - before - len(inside))
    padded = np.pad(inside - base, (before, after), mode="edge")
    offset = (place - low) * up
    whole = math.floor(offset)
    taps = _taps(half, offset - whole, max(up, down), up)
    lead = whole + half + 1
    spare = -lead % down
    taps = np.concatenate([np.zeros(spare), taps])
    found = scipy.signal.upfirdn(taps, padded, up, down)
    skipped = (lead + spare) // down
    return found[skipped : skipped + count] + base


def _taps(half, shift, width, up):
    """A low-pass of 2 half + 2 taps moved by `shift` of 0 to 1.

    Each result is made of every `up`-th tap; those have a sum of 1.
    """
    place = np.arange(-half - 1, half + 1) + shift
    inside = np.sqrt(np.maximum(0.0, 1 - np.square(place / half)))
    taps = np.sinc(place / width) * np.i0(KAISER * inside) * (np.abs(place) <= half)
    taps = np.pad(taps, (0, -len(taps) % up)).reshape(-1, up)
    return (taps / taps.sum(axis=0)).ravel()


@dataclasses.dataclass(frozen=True)
class Segment:
    """What an instrument recorded between two long gaps.

    Attributes:
        grid: of its samples.
        first, stop: samples of the grid.
        pieces: that lie in it, the earlier first.
        spans: int [pieces, 2], samples [first, stop) of the grid that each gives.
        channels: C.
    """

    grid: Grid
    first: int
    stop: int
    pieces: tuple[Piece, ...]
    spans: np.ndarray
    channels: int

    def read(self, first, stop):
        """float64 [stop - first, C], NaN where nothing was recorded."""
        found = np.full((stop - first, self.channels), np.nan)
        low_end, high_end = max(first, self.first), min(stop, self.stop)
        for index in self._inside(low_end, high_end):
            piece = self.pieces[index]
            low, high = np.clip(self.spans[index], low_end, high_end).tolist()
            column = found[low - first : high - first, piece.component]
            missing = np.isnan(column)
            if missing.any():
                values = self.grid.read(piece, low, high - low)
                column[missing] = values[missing]
        return found

    def time(self, index):
        """Nanoseconds since 1970 of what was recorded at a sample of the grid."""
        for place in self._inside(index, index + 1):
            return self.grid.time(index) + self.grid.lag(self.pieces[place], index)
        return self.grid.time(index)

    def amplitude(self, time, before, after):
        """The largest deviation after a time, of any component, from the mean before.

        Args:
            time: nanoseconds since 1970.
            before, after: seconds.

        Returns:
            In the unit of the samples, as they were recorded; NaN where there are none.
        """
        found = math.nan
        near = self.grid.nearest(time)
        reach = [math.ceil(seconds * self.grid.rate) + 1 for seconds in (before, after)]
        inside = self._inside(near - reach[0], near + reach[1])
        for component in range(self.channels):
            early, late = [], []
            taken = 0  # up to here another piece gives the samples
            for index in inside:
                piece = self.pieces[index]
                if piece.component != component:
                    continue
                behind = (taken - piece.start) * piece.rate / SECOND
                first = max(0, math.ceil(behind - float(SLACK)))
                middle = round((time - piece.start) * piece.rate / SECOND)
                low = middle - round(before * piece.rate)
                high = middle + max(1, round(after * piece.rate))
                early.append(piece.samples[max(first, low) : max(first, middle)])
                late.append(piece.samples[max(first, middle) : max(first, high)])
                taken = max(taken, piece.stop)
            values = np.concatenate(late) if late else np.zeros(0)
            if len(values):
                noise = np.concatenate(early)
                level = np.mean(noise if len(noise) else values, dtype=np.float64)
                found = np.fmax(found, np.abs(values - level).max())
        return float(found)

    def _inside(self, first, stop):
        """Places of the pieces that give samples of a part."""
        low, high = self.spans.T
        return np.flatnonzero((low < stop) & (high > first)).tolist()


def segments(pieces, rate, channels, *, strict=False):
    """Segments of one instrument.

    Args:
        pieces: `Piece`s with components below `channels`.
        rate: of the grid, Hz.
        channels: C.
        strict: only where all C components were recorded.

    Returns:
        List of `Segment`, the earlier first, and seconds of each that is too short.
    """
    grid = Grid.of(rate)
    pieces = sorted(pieces, key=lambda piece: (piece.start, piece.component))
    bridged = round(BRIDGED * grid.rate)
    covered = [grid.covered(piece) for piece in pieces]
    kept = _joined(covered, bridged)
    for component in range(channels if strict else 0):
        own = [
            span
            for piece, span in zip(pieces, covered, strict=True)
            if piece.component == component
        ]
        kept = _shared(kept, _joined(own, bridged))
    spans = np.array(covered, np.int64).reshape(-1, 2)
    found, short = [], []
    for first, stop in kept:
        seconds = float((stop - first) / grid.rate)
        if seconds < SHORTEST:
            short.append(seconds)
            continue
        inside = np.flatnonzero((spans[:, 0] < stop) & (spans[:, 1] > first))
        held = tuple(pieces[place] for place in inside)
        found.append(Segment(grid, first, stop, held, spans[inside], channels))
    return found, short


def _joined(spans, bridged):
    """Spans [first, stop) in order, those less than `bridged` apart made one."""
    found: list[tuple[int, int]] = []
    for first, stop in sorted(spans):
        if stop <= first:
            continue
        if found and first - found[-1][1] <= bridged:
            found[-1] = (found[-1][0], max(found[-1][1], stop))
        else:
            found.append((first, stop))
    return found


def _shared(spans, others):
    """What two lists of spans have both."""
    found = []
    for first, stop in spans:
        for low, high in others:
            if max(first, low) < min(stop, high):
                found.append((max(first, low), min(stop, high)))
    return found


def pieces_of(component, channel, start, rate, samples):
    """Pieces of a trace, cut where samples are masked or not finite.

    Args:
        samples: [T], a masked array or not.

    Returns:
        List of `Piece`, and how many samples are left out.
    """
    data = np.ma.getdata(samples)
    valid = ~np.ma.getmaskarray(samples)
    if data.dtype.kind == "f":
        valid &= np.isfinite(data)
    if valid.all():
        return [Piece(component, channel, start, rate, data)] if len(data) else [], 0
    edges = np.flatnonzero(np.diff(np.concatenate([[False], valid, [False]])))
    found = [
        Piece(
            component, channel, start + round(low * SECOND / rate), rate, data[low:hi]
        )
        for low, hi in edges.reshape(-1, 2).tolist()
    ]
    return found, int(len(data) - valid.sum())
