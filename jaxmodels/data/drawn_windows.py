"""Windows of stored records, drawn anew at each visit, and the arrivals in them.

Shapes use N samples of a window, C components, E events in a window.
"""

import dataclasses
import math

import numpy as np

from jaxmodels.data import waveform_augmentations as augmentations
from jaxmodels.data.instruments import Instruments, above_band, onset_size
from jaxmodels.data.motion_rows import GOLDEN
from jaxmodels.data.noise_records import NoiseRecords
from jaxmodels.data.waveform_augmentations import WaveformAugmentation
from jaxmodels.data.waveform_store import StoredWaveforms
from jaxmodels.data.waveform_windows import WindowPreprocessing

FIXED = 42  # seed of fixed windows
MARGIN = 0.05  # share of a window at both ends that fixed windows keep arrivals out of
LATER = 1.0  # seconds from the S of one event to the P of the next
FADE = 0.5  # seconds over which a second event with noise of its own sets in
ADDED_SNR = (6.0, 30.0)  # dB, where records with noise get more of it
SECOND_SNR = (6.0, 30.0)  # dB, of a second event over what it follows


@dataclasses.dataclass(frozen=True)
class Windows:
    """Windows of records and the arrivals in them, one for each row.

    Attributes:
        stored: `StoredWaveforms`.
        chosen: int64 [rows], records of them.
        preprocessing: `WindowPreprocessing`.
        augmentation: of training; None for none.
        instruments: of records without noise; None leaves them as they are.
        noise: real noise; None for none.
        noise_share: of the noise that is real.
        whole: whether windows of training hold P and S, as those of evaluation do.
        seed: of what is random in training.
    """

    stored: StoredWaveforms
    chosen: np.ndarray
    preprocessing: WindowPreprocessing
    augmentation: WaveformAugmentation | None = None
    instruments: Instruments | None = None
    noise: NoiseRecords | None = None
    noise_share: float = 0.0
    whole: bool = False
    seed: int = 0

    def __len__(self):
        return len(self.chosen)

    def labels(self, row):
        """Name, event, station and label of the record of a row."""
        return self.stored.names[self.chosen[row]]

    def fixed(self, row):
        """The window that a row is evaluated on, for any seed; see `varied`."""
        rng = np.random.default_rng([FIXED, row])
        start = self.whole_start(row, (0.5 + row * GOLDEN) % 1)
        window, arrivals = self._recorded(rng, row, start, 1.0, None)
        return self._finished(window), arrivals

    def varied(self, row, place):
        """A window of training.

        Args:
            place: of the row in the order of the run; all that is random follows it.

        Returns:
            Normalized, float32 [N, C]; float64 [E, 2], samples of P and S of each
            event, possibly outside of the window, NaN where there is none.
        """
        rng = np.random.default_rng([self.seed, place])
        vary = self.augmentation
        if vary is None:
            start = self.whole_start(row, rng.uniform())
            window, arrivals = self._recorded(rng, row, start, 1.0, None)
            return self._finished(window), arrivals
        index, count = self.chosen[row], self.preprocessing.num_samples
        clean = self.stored.clean[index]
        if rng.uniform() < vary.noise_only and (self._draws(clean) or self.noise):
            window = self._noise(rng)
            if self.instruments is not None:
                window = self.instruments.write(rng, 0.0 * window, window, None)
            arrivals = np.full((1, 2), np.nan)
        else:
            pace = 1.0 + vary.stretch * rng.uniform(-1.0, 1.0)
            if self.whole:
                start = self.whole_start(row, rng.uniform())
            else:
                length = len(self.stored.record(index))
                times, seen = self.stored.arrivals[index], math.ceil(count * pace)
                start = augmentations.choose_start(
                    rng, vary, times, seen, length, self._draws(clean)
                )
            window, arrivals = self._recorded(rng, row, start, pace, vary)
        window = augmentations.turned(rng, vary, window)
        window = augmentations.with_losses(rng, vary, window, arrivals)
        return self._finished(window), arrivals

    def whole_start(self, row, share):
        """Where a window begins that holds P and S, or as much of both as it can.

        Args:
            share: 0 to 1, from where P comes late in the window to where it is early.
        """
        index, count = self.chosen[row], self.preprocessing.num_samples
        spare = len(self.stored.record(index)) - count
        p_sample, s_sample = self.stored.arrivals[index]
        times = [time for time in (p_sample, s_sample) if not math.isnan(time)]
        if not times:
            return round(share * spare)
        margin = MARGIN * count
        room = max(count - 2 * margin - (max(times) - min(times)), 0.0)
        start = round(min(times) - margin - (1 - share) * room)
        if self._draws(self.stored.clean[index]):
            return start
        return int(np.clip(start, min(spare, 0), max(spare, 0)))

    def _draws(self, clean):
        """Whether what surrounds a record is drawn, so that windows may leave it."""
        return bool(clean) and self.instruments is not None

    def _noise(self, rng):
        """Noise [N, 3] of size 1, real or drawn."""
        rate, count = self.preprocessing.sampling_rate, self.preprocessing.num_samples
        real = rng.uniform() < self.noise_share or self.instruments is None
        if self.noise is not None and real:
            return self.noise.cut(rng, count)
        return (self.instruments or Instruments()).noise(rng, count, rate)

    def _recorded(self, rng, row, start, pace, vary):
        """A window [N, 3] that begins at a sample of the row's record, and arrivals."""
        index = self.chosen[row]
        if self.stored.clean[index] and self.instruments is not None:
            return self._written(self.instruments, rng, index, start, pace, vary)
        count = self.preprocessing.num_samples
        window = augmentations.cut(self.stored.record(index), start, count, pace)
        arrivals = (self.stored.arrivals[index][None] - start) / pace
        if vary is not None:
            if rng.uniform() < vary.superpose:
                window, arrivals = self._followed(rng, window, arrivals)
            if rng.uniform() < vary.noise:
                window = self._noisier(rng, window, arrivals)
        return window, arrivals

    def _written(self, instruments, rng, index, start, pace, vary):
        """What one of the instruments writes of a record without noise."""
        count, rate = self.preprocessing.num_samples, self.preprocessing.sampling_rate
        p_sample, s_sample = self.stored.arrivals[index]
        place = round((p_sample - start) / pace)
        arrivals = np.array([[place, place + (s_sample - p_sample) / pace]])
        signal, size = np.zeros((count, 3)), 0.0
        if place < count:
            record = self.stored.record(index)
            motion = augmentations.cut(record, p_sample, count - place, pace)
            if vary is not None and rng.uniform() < vary.superpose:
                motion, later = self._followed(rng, motion, arrivals - place)
                arrivals = later + place
            motion = instruments.respond(rng, motion, rate)
            size = onset_size(motion, rate)
            signal[max(place, 0) :] = motion[max(-place, 0) :]
        return instruments.write(rng, signal, self._noise(rng), size), arrivals

    def _followed(self, rng, window, arrivals):
        """A window [T, 3] with a second event after the S of the first, if one fits."""
        rate = self.preprocessing.sampling_rate
        other = self.chosen[rng.integers(len(self.chosen))]
        p_sample, s_sample = self.stored.arrivals[other]
        last = arrivals[np.isfinite(arrivals)].max(initial=0.0)
        first = max(math.ceil(last + LATER * rate), 0)
        room = len(window) - first - round(rate)
        ratio = 10 ** (rng.uniform(*SECOND_SNR) / 20)
        if room < 1 or math.isnan(p_sample):
            return window, arrivals
        place = first + int(rng.integers(room))
        fade = 0 if self.stored.clean[other] else round(FADE * rate)
        lead = min(fade, place)
        event = augmentations.cut(
            self.stored.record(other),
            round(p_sample) - lead,
            len(window) - place + lead,
        )
        rise = np.sin(0.5 * np.pi * np.arange(lead) / max(lead, 1)) ** 2
        event[:lead] *= rise[:, None]
        around = above_band(window[max(place - round(rate), 0) : place, 0], rate)
        level, size = around.std(), onset_size(event[lead:], rate)
        if not level > 0 or not size > 1e-29:
            return window, arrivals
        window = np.array(window)
        window[place - lead :] += event * (ratio * level / size)
        shift = place - round(p_sample)
        more = [[p_sample + shift, s_sample + shift]]
        return window, np.concatenate([arrivals, more])

    def _noisier(self, rng, window, arrivals):
        """A window of a record with noise, in which there is more of it."""
        rate = self.preprocessing.sampling_rate
        ratio = 10 ** (rng.uniform(*ADDED_SNR) / 20)
        noise, place = self._noise(rng), arrivals[0, 0]
        if 0 <= place < len(window) - rate:
            size = onset_size(window[int(place) :], rate)
        else:
            size = above_band(window[:, 0], rate).std()
        return window + noise * (size / ratio) * window.any(axis=0)

    def _finished(self, window):
        channels = self.preprocessing.channels
        return self.preprocessing.normalize(window[:, :channels])
