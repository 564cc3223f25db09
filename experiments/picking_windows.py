"""Labeled records, and the windows of them that pickers are scored on.

Where every record of a set begins at the same time before its P, whole records would
reward a picker that knows that time: crops begin at random, and each is drawn from the
seed and the place of its record alone. Shapes use T samples of a record, N of a window.
"""

from typing import NamedTuple

import numpy as np

from jaxmodels.data import ground_motions, pipeline, record_folders, seismic_records
from jaxmodels.data.instruments import onset_size
from jaxmodels.data.noise_records import noise_of_file
from jaxmodels.train.errors import ConfigError

MARGIN = 1.0  # seconds between an arrival and the ends of a window
DETECTION_SECONDS, PHASE_SECONDS = 30.0, 10.0
PHASE_MARGIN = 0.5  # seconds, of windows around one arrival
PROTOCOL_SEED = 42
WRITTEN_SEED = 1
LEAD = 30.0  # seconds of noise before a record that had none
NOISE, EARTHQUAKE = "noise", "earthquake"


class Window(NamedTuple):
    """A record, or a part of it.

    Attributes:
        name: of the record, and of the part where it begins.
        waveform: [N, 3].
        sampling_rate: Hz.
        p, s: seconds after the first sample, NaN where unknown or outside.
        three: whether a horizontal component moves.
    """

    name: str
    waveform: np.ndarray
    sampling_rate: float
    p: float
    s: float
    three: bool

    @property
    def seconds(self):
        """Length."""
        return len(self.waveform) / self.sampling_rate

    def part(self, start, length):
        """The `length` samples from `start`."""
        name = f"{self.name}+{start / self.sampling_rate:.2f}s"
        waveform = self.waveform[start : start + length]
        ends = len(waveform) / self.sampling_rate
        times = [time - start / self.sampling_rate for time in (self.p, self.s)]
        p, s = (time if 0 <= time < ends else np.nan for time in times)
        return self._replace(name=name, waveform=waveform, p=p, s=s)


class Target(NamedTuple):
    """A window of the protocol in its record.

    Attributes:
        task: 1 for detection, 2 for phase and onset.
        label: "noise" or "earthquake" of task 1, "P" or "S" of task 2.
        start, end: seconds after the record's first sample.
        onset: of the arrival of task 2, likewise.
    """

    task: int
    label: str
    start: float
    end: float
    onset: float = np.nan


def records(
    dataset,
    split,
    *,
    limit=None,
    data_dir=None,
    synthetic=None,
    reader=None,
    instruments=None,
):
    """Yields the labeled records of a split, each a `Window` of its own length.

    Args:
        dataset, data_dir, synthetic: as in `ground_motions.open_split`.
        limit: at most so many, spread evenly; None for all.
        reader: fields of `record_folders.Reader`; amplitudes are taken as they are.
        instruments: `Instruments` that write records without noise; None for records
            that are as they are.

    Raises:
        ConfigError: there is no such data, or a record could not be read.
    """
    found, _ = ground_motions.open_split(
        dataset,
        split,
        data_dir=data_dir,
        synthetic=synthetic,
        reader=record_folders.reader_of(reader, amplitude=False),
    )
    for index in pipeline.spread(len(found), limit).tolist():
        record = found[index]
        name = seismic_records.text_of(record["name"])
        waveform = np.asarray(record["waveform"], np.float32)
        if not len(waveform):  # it could not be read; the name says why
            raise ConfigError(name)
        rate = float(record["sampling_rate"])
        samples = np.array([record["p_sample"], record["s_sample"]], np.float64)
        inside = (samples >= 0) & (samples < len(waveform))
        p, s = np.where(inside, samples / rate, np.nan)
        three = bool((np.ptp(waveform[:, 1:], axis=0) > 0).any())
        window = Window(name, waveform, rate, float(p), float(s), three)
        if instruments is not None:
            window = written(window, instruments, generator(WRITTEN_SEED, index))
        yield window


def written(window, instruments, rng):
    """A record without noise as an instrument writes it, after `LEAD` seconds of noise.

    Args:
        window: of acceleration, with a P.
        instruments: `Instruments`.
        rng: numpy `Generator`.
    """
    rate = window.sampling_rate
    first, lead = round(window.p * rate), round(LEAD * rate)
    motion = instruments.respond(rng, window.waveform[first:], rate)
    signal = np.zeros((len(window.waveform) + lead, 3))
    signal[first + lead :] = motion
    noise = instruments.noise(rng, len(signal), rate)
    waveform = instruments.write(rng, signal, noise, onset_size(motion, rate))
    return window._replace(
        waveform=waveform.astype(np.float32),
        p=window.p + lead / rate,
        s=window.s + lead / rate,
    )


def noise_windows(path, sampling_rate, half):
    """Yields recordings of noise as `Window`s without arrivals.

    Args:
        path: of an npz file, as `noise_records.noise_of_file` takes it.
        sampling_rate: Hz.
        half: 0 for the first halves of the recordings, 1 for the others.
    """
    length = round(DETECTION_SECONDS * sampling_rate)
    for number, piece in enumerate(noise_of_file(path, sampling_rate).pieces):
        middle = len(piece) // 2
        part = piece[middle:] if half else piece[:middle]
        for start in range(0, len(part) - length + 1, length):
            name = f"noise {number}, half {half}, {start / sampling_rate:g} s"
            waveform = np.asarray(part[start : start + length], np.float32)
            yield Window(name, waveform, sampling_rate, np.nan, np.nan, True)


def crops(window, seconds, count, rng):
    """Parts of a record with its arrivals at random places.

    Each holds P and S at least `MARGIN` from its ends, or P alone where S is too late
    or unknown; where the record ends too soon for a margin, it is smaller. A record
    that is no longer than the parts is one part itself.

    Args:
        window: `Window` with an arrival.
        seconds: length of a part.
        count: of parts.
        rng: numpy `Generator`.

    Returns:
        A list of `Window`s.
    """
    length = round(seconds * window.sampling_rate)
    spare = len(window.waveform) - length
    if spare <= 0:
        return [window] * count
    arrivals = [time for time in (window.p, window.s) if np.isfinite(time)]
    first = min(arrivals)
    last = max(arrivals) if np.ptp(arrivals) + 2 * MARGIN <= seconds else first
    earliest = round((last + MARGIN) * window.sampling_rate) - length
    latest = round((first - MARGIN) * window.sampling_rate)
    earliest, latest = np.clip([earliest, latest], 0, spare)
    starts = rng.integers(earliest, latest, count, endpoint=True)
    return [window.part(int(start), length) for start in starts]


def generator(seed, index):
    """The random numbers of the record at a place of a split."""
    return np.random.default_rng([seed, index])


def targets(window, rng):
    """The windows of the protocol (Muenchmeyer et al., 2022) in one record.

    Task 1 has windows of 30 s: one with the first arrival at least 1 s from its ends,
    and one of noise that ends at least 1 s before it; a record without arrivals gives
    noise. Task 2, whose windows also serve for the onsets of task 3, has windows of
    10 s that hold one arrival at least 0.5 s from their ends and lie at least 0.5 s
    from any other. Windows that do not fit into the record are left out.

    Args:
        window: a record.
        rng: numpy `Generator`.

    Returns:
        A list of `Target`s.
    """
    known = [(window.p, "P"), (window.s, "S")]
    arrivals = sorted(one for one in known if np.isfinite(one[0]))
    found = []
    first = arrivals[0][0] if arrivals else window.seconds
    if arrivals:
        start = _draw(rng, 0.0, window.seconds, DETECTION_SECONDS, first, MARGIN)
        if start is not None:
            found.append(Target(1, EARTHQUAKE, start, start + DETECTION_SECONDS))
    # What is before P is noise, but for the rise of its probability.
    quiet = first - MARGIN if arrivals else first
    if quiet >= DETECTION_SECONDS:
        start = rng.uniform(0.0, quiet - DETECTION_SECONDS)
        found.append(Target(1, NOISE, start, start + DETECTION_SECONDS))
    for place, (onset, phase) in enumerate(arrivals):
        low = arrivals[place - 1][0] + PHASE_MARGIN if place else 0.0
        high = window.seconds
        if place + 1 < len(arrivals):
            high = arrivals[place + 1][0] - PHASE_MARGIN
        start = _draw(rng, low, high, PHASE_SECONDS, onset, PHASE_MARGIN)
        if start is not None:
            found.append(Target(2, phase, start, start + PHASE_SECONDS, onset))
    return found


def _draw(rng, low, high, seconds, onset, margin):
    """The start of a window between `low` and `high` around an onset, or None."""
    earliest = max(low, onset + margin - seconds)
    latest = min(high - seconds, onset - margin)
    return float(rng.uniform(earliest, latest)) if earliest <= latest else None


def context(window, target, seconds):
    """The part of a record that a system sees for a target, and where it begins.

    It is as long as the target or `seconds`, whichever is more, with the target in its
    middle as far as the record allows.

    Args:
        window: the record.
        target: `Target`.
        seconds: length.

    Returns:
        A `Window`, and seconds of its first sample after that of the record.
    """
    rate = window.sampling_rate
    length = round(max(seconds, target.end - target.start) * rate)
    middle = (target.start + target.end) / 2
    start = round(middle * rate - length / 2)
    start = min(max(start, 0), max(len(window.waveform) - length, 0))
    return window.part(start, length), start / rate
