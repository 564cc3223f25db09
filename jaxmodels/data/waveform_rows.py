"""Windows of stored records as arrays for a model.

Shapes use B batch, N samples of a window, C components.
"""

import dataclasses
import math

import numpy as np

from jaxmodels.data.drawn_windows import Windows
from jaxmodels.data.pick_labels import bumps, stacked
from jaxmodels.data.seismic_records import NO_ARRIVAL


@dataclasses.dataclass(frozen=True)
class WaveformRows:
    """Windows alone, for a model that learns without labels."""

    windows: Windows

    def __len__(self):
        return len(self.windows)

    def names(self, row):
        """The name of the record in the row."""
        return [self.windows.labels(row)[0]]

    def batch(self, rows):
        """Stacks fixed windows; None gives a row of padding.

        Returns:
            {inputs: [B, N, C]; weights: [B]}, float32; weights are 0 for padding.
        """
        return padded(rows, lambda row: self._example(*self.windows.fixed(row)))

    def varied(self, rows, places):
        """Stacks windows of training."""
        drawn = map(self.windows.varied, rows, places)
        return stack([self._example(*one) for one in drawn])

    def _example(self, window, arrivals):
        return {"inputs": window}


@dataclasses.dataclass(frozen=True)
class PickRows:
    """Windows with the probabilities of P, S and noise.

    Attributes:
        windows: `Windows`.
        sigma, shape: see `pick_labels.pick_labels`.
    """

    windows: Windows
    sigma: float = 20.0
    shape: str = "gaussian"

    def __len__(self):
        return len(self.windows)

    def names(self, row):
        """The name of the record in the row."""
        return [self.windows.labels(row)[0]]

    def batch(self, rows):
        """Stacks fixed windows; None gives a row of padding.

        Returns:
            {inputs: [B, N, C]; targets: [B, N, 3], P, S and noise; weights: [B];
             p_sample, s_sample: [B], of the first event, -1 where there is none in the
             window}, float32. Of padding, weights are 0 and nothing arrives.
        """
        batch = padded(rows, lambda row: self._example(*self.windows.fixed(row)))
        for name in ("p_sample", "s_sample"):
            batch[name][batch["weights"] == 0] = NO_ARRIVAL
        return batch

    def varied(self, rows, places):
        """Stacks windows of training."""
        drawn = map(self.windows.varied, rows, places)
        return stack([self._example(*one) for one in drawn])

    def _example(self, window, arrivals):
        count = len(window)
        phases = [
            bumps(times[np.isfinite(times)], count, self.sigma, self.shape)
            for times in arrivals.T
        ]
        inside = [
            np.float32(time if 0 <= time <= count - 1 else NO_ARRIVAL)
            for time in arrivals[0]
        ]
        return {
            "inputs": window,
            "targets": stacked(*phases),
            "p_sample": inside[0],
            "s_sample": inside[1],
        }


@dataclasses.dataclass(frozen=True)
class EventRows:
    """Windows with the class of their record.

    Attributes:
        windows: `Windows`.
        classes: label -> class.
    """

    windows: Windows
    classes: dict[str, int]

    def __len__(self):
        return len(self.windows)

    def names(self, row):
        """The name of the record in the row."""
        return [self.windows.labels(row)[0]]

    def batch(self, rows):
        """Stacks fixed windows; None gives a row of padding.

        Returns:
            {inputs: float32 [B, N, C]; targets: int32 [B]; weights: float32 [B]}.
        """
        return padded(rows, lambda row: self._example(row, self.windows.fixed(row)[0]))

    def varied(self, rows, places):
        """Stacks windows of training."""
        drawn = zip(rows, map(self.windows.varied, rows, places), strict=True)
        return stack([self._example(row, window) for row, (window, _) in drawn])

    def _example(self, row, window):
        label = self.windows.labels(row)[3]
        return {"inputs": window, "targets": np.int32(self.classes[label])}


@dataclasses.dataclass(frozen=True)
class MixedRows:
    """Rows of two sets, of which the second has a share; each comes as often as due.

    Attributes:
        first, second: rows of one kind.
        share: of `second`, above 0 and below 1.
    """

    first: WaveformRows | PickRows | EventRows
    second: WaveformRows | PickRows | EventRows
    share: float

    @property
    def _sizes(self):
        odds = self.share / (1 - self.share)
        first = max(len(self.first), math.ceil(len(self.second) / odds))
        return first, round(first * odds)

    def __len__(self):
        return sum(self._sizes)

    def _place(self, row):
        first = self._sizes[0]
        if row < first:
            return self.first, row % len(self.first)
        return self.second, (row - first) % len(self.second)

    def names(self, row):
        """The name of the record in the row."""
        rows, own = self._place(row)
        return rows.names(own)

    def batch(self, rows):
        """Stacks fixed windows; None gives a row of padding."""
        places = [
            (self.first, None) if row is None else self._place(row) for row in rows
        ]
        return joined([rows.batch([own]) for rows, own in places])

    def varied(self, rows, places):
        """Stacks windows of training."""
        drawn = zip(map(self._place, rows), places, strict=True)
        return joined([rows.varied([own], [place]) for (rows, own), place in drawn])


def stack(examples):
    """A batch of examples, each of weight 1."""
    batch = {name: np.stack([one[name] for one in examples]) for name in examples[0]}
    return batch | {"weights": np.ones(len(examples), np.float32)}


def joined(batches):
    """One batch of several."""
    return {name: np.concatenate([one[name] for one in batches]) for name in batches[0]}


def padded(rows, example):
    """A batch of rows, zeros of weight 0 for those that are None.

    Args:
        example: row -> its arrays; of padding, the arrays have the shapes of row 0.
    """
    kept = [place for place, row in enumerate(rows) if row is not None]
    examples = [example(rows[place]) for place in kept] or [example(0)]
    batch = stack(examples)
    whole = {}
    for name, value in batch.items():
        whole[name] = np.zeros((len(rows), *value.shape[1:]), value.dtype)
        whole[name][kept] = value[: len(kept)]
    return whole
