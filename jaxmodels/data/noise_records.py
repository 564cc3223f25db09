"""Real noise to train among: what records hold before P, or recordings of nothing.

Shapes use T samples of a recording, N samples of a window.
"""

import dataclasses
import pathlib

import numpy as np

from jaxmodels.data import broadband
from jaxmodels.data.instruments import above_band
from jaxmodels.data.pipeline import spread
from jaxmodels.data.records import first_line
from jaxmodels.train.errors import ConfigError

BEFORE_P = 1.0  # seconds that are left out, for picks that came late
SHORTEST = 5.0  # seconds of a recording that is of use
LIMIT = 2000  # records whose noise is held in memory


@dataclasses.dataclass(frozen=True)
class NoiseRecords:
    """Recordings of noise, each of size 1 above 1 Hz in its first living component.

    Attributes:
        pieces: float32 [T, 3] each; a component that was not recorded is zero.
    """

    pieces: tuple[np.ndarray, ...]

    def cut(self, rng, length):
        """Noise of a random place of a random recording, float64 [length, 3].

        A recording that is shorter goes on as its mirror image. A component that was
        not recorded is that of another time; signs are drawn, and north and east may
        change places.
        """
        piece = self.pieces[rng.integers(len(self.pieces))]
        alive = piece.any(axis=0)
        first, last = int(alive.argmax()), max(len(piece) - length, 0)
        place = int(rng.integers(last + 1 if last else 2 * len(piece)))
        noise = np.empty((length, 3))
        for column, own in enumerate((0, 1, 2) if rng.uniform() < 0.5 else (0, 2, 1)):
            start, component = place, own
            if not alive[own]:
                start, component = int(rng.integers(2 * len(piece))), first
            noise[:, column] = mirrored(piece[:, component], start, length)
        return noise * rng.choice([-1.0, 1.0], 3)


def mirrored(trace, start, length):
    """[length] from `start` on of [T], which goes on as its mirror image."""
    if start + length <= len(trace):
        return trace[start : start + length]
    period = max(2 * (len(trace) - 1), 1)
    place = np.arange(start, start + length) % period
    return trace[np.minimum(place, period - place)]


def noise_of(stored, limit=LIMIT):
    """What the records of `StoredWaveforms` hold before P, or all of those without P.

    Args:
        limit: at most so many records are looked at, spread evenly.

    Raises:
        ConfigError: none of them has as much noise as is of use.
    """
    rate = stored.sampling_rate
    pieces = []
    for index in spread(len(stored), limit).tolist():
        record, p_sample = stored.record(index), stored.arrivals[index, 0]
        if stored.clean[index]:
            continue
        if not np.isnan(p_sample):
            record = record[: max(round(p_sample - BEFORE_P * rate), 0)]
        elif not np.isnan(stored.arrivals[index, 1]):
            continue  # P, though not picked, comes at a time that nobody knows
        pieces.append(record)
    return _scaled(pieces, rate, "the records of noise")


def noise_of_file(path, sampling_rate):
    """The recordings in an npz file: arrays [3, T] or [T, 3] of any names.

    Args:
        path: of the file; an array `sampling_rate` in it tells its rate in Hz, 100
            when there is none.
        sampling_rate: Hz, to resample to.

    Raises:
        ConfigError: it cannot be read, or has no such array.
    """
    path = pathlib.Path(path).expanduser()
    try:
        with np.load(path) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is no npz file: {first_line(error)}") from error
    own_rate = float(arrays.get("sampling_rate", 100.0))
    pieces = [
        array.T if array.shape[0] == 3 else array
        for array in arrays.values()
        if array.ndim == 2 and 3 in array.shape
    ]
    resampled = [broadband.resample(one, own_rate, sampling_rate) for one in pieces]
    return _scaled(resampled, sampling_rate, path)


def _scaled(pieces, sampling_rate, where):
    scaled = []
    for piece in pieces:
        if len(piece) < SHORTEST * sampling_rate or not np.isfinite(piece).all():
            continue
        piece = np.asarray(piece - piece.mean(axis=0, dtype=np.float64), np.float64)
        piece *= np.abs(piece).max(axis=0) > 1e-12 * np.abs(piece).max()
        if not piece.any():
            continue
        first = piece[:, piece.any(axis=0).argmax()]
        size = above_band(first, sampling_rate)[round(sampling_rate) :].std()
        if size > 0:
            scaled.append(np.asarray(piece / size, np.float32))
    if not scaled:
        raise ConfigError(
            f"{where} have no piece of {SHORTEST:g} s of three components without an"
            " arrival; name other noise, or leave it out"
        )
    return NoiseRecords(tuple(scaled))
