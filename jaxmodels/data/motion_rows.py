"""Windows of prepared records as arrays for a model, and how training varies them.

Shapes use B batch, N samples of a window, C components.
"""

import dataclasses
import functools
import math

import numpy as np

from jaxmodels.data.broadband import Preprocessing
from jaxmodels.data.prepared_motions import PreparedMotions
from jaxmodels.train.errors import ConfigError

GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples fill an interval evenly


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How training varies a window at each visit.

    Attributes:
        shift: the onset lies anywhere between its earliest and latest place.
        rotate: the horizontal components are turned by a random angle.
        polarity: all components may change their sign.
        gain: the motion is up to so much larger or smaller, in log10.
        surroundings: share of the windows whose low-pass sees the record around them,
            as that of a part of a long record does. The others are cut out first.
    """

    shift: bool = True
    rotate: bool = True
    polarity: bool = True
    gain: float = 0.3
    surroundings: float = 0.5

    def apply(self, rng, window):
        """A varied copy of a window [N, 3] or [N, 1]."""
        angle, sign, gain = rng.uniform(size=3)
        size = 10 ** (self.gain * (2 * gain - 1))
        if self.polarity and sign < 0.5:
            size = -size
        window = window * np.float32(size)
        if self.rotate and window.shape[1] == 3:
            cos, sin = np.cos(2 * np.pi * angle), np.sin(2 * np.pi * angle)
            turn = np.array([[cos, sin], [-sin, cos]], window.dtype)
            window[:, 1:] = window[:, 1:] @ turn
        return window


NO_AUGMENTATION = Augmentation(False, False, False, gain=0.0, surroundings=0.0)


def make_augmentation(augment):
    """An `Augmentation` of True, False or a dict of its fields.

    Raises:
        ConfigError: there is no such field, or the gain is negative.
    """
    if isinstance(augment, bool) or augment is None:
        return Augmentation() if augment else NO_AUGMENTATION
    try:
        made = Augmentation(**augment)
    except TypeError as error:
        names = ", ".join(field.name for field in dataclasses.fields(Augmentation))
        raise ConfigError(f"augment {dict(augment)}: its fields are {names}") from error
    if made.gain < 0 or not 0 <= made.surroundings <= 1:
        raise ConfigError(
            f"augment gain {made.gain} must be at least 0, and surroundings"
            f" {made.surroundings} between 0 and 1"
        )
    return made


@dataclasses.dataclass(frozen=True)
class MotionRows:
    """Windows of prepared records as arrays for a model.

    Attributes:
        motions: `PreparedMotions`.
        preprocessing: `Preprocessing`.
        augmentation: of `varied`.
        seed: of `varied`.
    """

    motions: PreparedMotions
    preprocessing: Preprocessing
    augmentation: Augmentation = NO_AUGMENTATION
    seed: int = 0

    @functools.cached_property
    def _singles(self):
        """window * C + component of each row of a model of one component."""
        return np.flatnonzero(self.motions.alive[self.motions.onsets[:, 0]])

    def _place(self, row):
        """The window of a row, and a slice of its components."""
        if self.preprocessing.channels > 1:
            return row, slice(None)
        count = self.motions.alive.shape[1]
        window, component = divmod(int(self._singles[row]), count)
        return window, slice(component, component + 1)

    def __len__(self):
        single = self.preprocessing.channels == 1
        return len(self._singles) if single else len(self.motions)

    def batch(self, rows):
        """Stacks rows as they are; None gives a row of padding.

        Returns:
            {targets, condition: [B, N, C]; scalars: [B, 2]; amplitude, weights: [B]},
            all float32, see `Preprocessing.example`; weights are 0 for padding.
        """
        kept = [place for place, row in enumerate(rows) if row is not None]
        batch = self._examples(
            [self.window(row)[0] for row in rows if row is not None],
            [self._corner((0.5 + row * GOLDEN) % 1) for row in rows if row is not None],
        )
        padded = {}
        for name, value in batch.items():
            padded[name] = np.zeros((len(rows), *value.shape[1:]), np.float32)
            padded[name][kept] = value
        return padded

    def varied(self, rows, places):
        """Stacks rows, varied as their places in the order of the run say."""
        windows, corners, vary = [], [], self.augmentation
        margin = self.preprocessing.margin if vary.surroundings else 0
        for row, place in zip(rows, places, strict=True):
            rng = np.random.default_rng([self.seed, place])
            share, corner, seen = rng.uniform(size=3)
            window = self._cut(row, share if vary.shift else 0.5, margin)[0]
            if margin and seen >= vary.surroundings:
                window[:margin] = window[-margin:] = 0.0
            windows.append(self._component(vary.apply(rng, window), row))
            corners.append(self._corner(corner))
        return self._examples(windows, corners, margin)

    def window(self, row):
        """The fixed window of a row, [N, C], and its first sample in the record."""
        window, start = self._cut(row, 0.5)
        return self._component(window, row), start

    def _cut(self, row, share, margin=0):
        """A window with `margin` samples around it, zeros outside its record."""
        count = self.preprocessing.num_samples
        record, start = self.motions.place(self._place(row)[0], share, count)
        window = np.zeros((count + 2 * margin, record.shape[1]), np.float32)
        before = max(start - margin, 0)
        seen = record[before : start + count + margin]
        offset = before - start + margin
        window[offset : offset + len(seen)] = seen
        return window, start

    def _component(self, window, row):
        return window[:, self._place(row)[1]]

    def _corner(self, share):
        return float(self.preprocessing.corner_at(share))

    def _examples(self, windows, corners, margin=0):
        shape = (0, self.preprocessing.num_samples, self.preprocessing.channels)
        stacked = np.stack(windows) if windows else np.zeros(shape, np.float32)
        batch = self.preprocessing.examples(stacked, np.asarray(corners, float), margin)
        return batch | {"weights": np.ones(len(stacked), np.float32)}

    def labels(self, row):
        """Name, event and station of the record of a row."""
        record = self.motions.onsets[self._place(row)[0], 0]
        return self.motions.names[record]

    def names(self, row):
        """The name of the record in the row."""
        return [self.labels(row)[0]]
