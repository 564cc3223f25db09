"""Prepared records of one split in one array, and the windows that may be cut of them.

Preparing a record takes longer than all that is done to it at each visit, so it is done
once and kept in a folder of `motion_folder`, with names of name, event and station, and

    onsets.npy   int64 [W, 2], the record of a window and the onset in it
    alive.npy    bool [R, 3], the components that were recorded

Shapes use R records, W windows, T samples of a record, C components.
"""

import dataclasses
import functools
import pathlib

import numpy as np
import tqdm
from absl import logging

from jaxmodels.data import broadband, motion_folder, seismic_records
from jaxmodels.data.records import CheckedRecords
from jaxmodels.signal import filters
from jaxmodels.train.errors import ConfigError

FORMAT = 2
ARRAYS = ("starts", "onsets", "alive")
# Where an onset lies in a window: 3 to 12 s of a minute.
EARLIEST, LATEST = 3 / 60, 12 / 60
QUALITY_CORNER = 1.0  # Hz; above it, a model has nothing to go by
SHORTEST = 2.0  # seconds that tell the size of noise
# Of the search for onsets: seconds after and before, and the ratio of their powers.
SHORT, LONG, THRESHOLD = 0.5, 10.0, 4.0


@dataclasses.dataclass(frozen=True)
class PreparedMotions:
    """Prepared records, opened for reading; pickles as its folder's path if it has one.

    Attributes:
        directory: its folder, or None for what is in memory.
        motion: float32 [sum of T, C], in the records' unit.
        starts: int64 [R + 1].
        onsets: int64 [W, 2], (record, sample in it).
        alive: bool [R, C]; a component that is not is zero throughout.
        names: R triples (name, event, station).
        meta: numbers of "records", "quiet" ones left out, "bad" ones.
    """

    directory: pathlib.Path | None
    motion: np.ndarray
    starts: np.ndarray
    onsets: np.ndarray
    alive: np.ndarray
    names: list
    meta: dict

    def __reduce__(self):
        if self.directory is None:
            return super().__reduce__()
        return open_motions, (self.directory,)

    def __len__(self):
        return len(self.onsets)

    @property
    def events(self):
        return {event for _, event, _ in self.names}

    @property
    def stations(self):
        return {station for _, _, station in self.names}

    def place(self, row, share, num_samples):
        """The record of a window, [T, C], and the sample at which the window begins.

        Args:
            share: 0 to 1, from the earliest place of the onset in it to the latest.
        """
        record, onset = map(int, self.onsets[row])
        first, end = map(int, self.starts[record : record + 2])
        start = int(window_start(onset, share, num_samples, end - first))
        return self.motion[first:end], start


def window_start(onset, share, num_samples, length):
    """Where windows begin in a record of `length` samples; [...] like `onset`.

    Args:
        onset: samples of the record.
        share: 0 to 1, from the earliest place of the onset in a window to the latest.
        num_samples: of a window.
    """
    place = round((EARLIEST + (LATEST - EARLIEST) * share) * num_samples)
    return np.clip(onset - place, 0, length - num_samples)


def open_motions(directory):
    """Opens the prepared records in a folder.

    Raises:
        StorageError: the files are damaged.
    """
    found = motion_folder.read(directory, ARRAYS)
    return PreparedMotions(
        pathlib.Path(directory),
        found.motion,
        names=found.names,
        meta=found.meta,
        **found.arrays,
    )


def prepare_motions(
    source,
    preprocessing,
    *,
    name,
    min_snr,
    directory=None,
    on_bad_record="stop",
    max_bad_fraction=0.001,
):
    """Prepares the records of a split, or opens what was prepared before.

    Any number of processes may call this at once. A record without a window of enough
    low-frequency motion is left out, and a log line counts those. For a model of one
    component, a record is as good as the components that work.

    Args:
        source: records, as `builder.RecordFiles` gives them.
        preprocessing: a `broadband.Preprocessing`.
        name: data set and split, for messages.
        min_snr: least ratio, at 0.1 to 1 Hz, of the rms of a window to that of the
            noise.
        directory: parent of the folder; None keeps all in memory.
        on_bad_record, max_bad_fraction: see `jaxmodels.data.records`.

    Raises:
        BadRecordError: see `jaxmodels.data.records`.
        ConfigError: no window is left, or `directory` cannot be written.
        StorageError: the disk is full, or the folder is damaged.
    """
    checked = CheckedRecords(
        source,
        functools.partial(_check_record, preprocessing=preprocessing),
        on_bad_record,
        max_bad_fraction,
    )
    made = functools.partial(
        _stream, checked, preprocessing=preprocessing, min_snr=min_snr, name=name
    )
    if directory is None:
        motion, index = motion_folder.in_memory(made)
        return PreparedMotions(None, motion, **index)
    # What the windows are cut to, and the rest of the preprocessing, is done later.
    kept = ("sampling_rate", "num_samples", "order", "band", "taper", "units")
    fields = [getattr(preprocessing, field) for field in kept]
    single = preprocessing.channels == 1
    key = [FORMAT, name, fields, single, min_snr, source.identity]
    folder = motion_folder.build(directory, "motions", key, made, ARRAYS)
    motions = open_motions(folder)
    motion_folder.check_bad(motions.meta, on_bad_record, max_bad_fraction)
    return motions


def _stream(checked, write, *, preprocessing, min_snr, name):
    """Passes every good record's motion to `write`; returns all else there is to know.

    Raises:
        ConfigError: no window is left.
    """
    progress = tqdm.tqdm(
        checked.good(),
        f"preparing {name}",
        total=len(checked),
        unit=" records",
        disable=None,
        leave=False,
    )
    prepare = functools.partial(
        prepare_record, preprocessing=preprocessing, min_snr=min_snr
    )
    names: list[list[str]] = []
    ends, onsets, alive, quiet = [0], [], [], 0
    found = seismic_records.in_threads(lambda item: prepare(item[1]), progress)
    for motion, places, works, labels in found:
        if not places:
            quiet += 1
            continue
        onsets += [(len(names), place) for place in places]
        alive.append(works)
        names.append(labels)
        ends.append(ends[-1] + len(motion))
        write(motion)
    bad = list(checked.bad.seen.values())
    if not names:
        raise ConfigError(
            f"none of the {len(checked)} records of {name} has a window of"
            f" {preprocessing.seconds:g} s with {min_snr:g} times its noise at 0.1 to"
            f" {QUALITY_CORNER:g} Hz ({len(bad)} are bad); lower min_snr"
        )
    if quiet:
        logging.info(
            "%s: %d of %d records have no window with %g times their noise",
            name,
            quiet,
            len(checked),
            min_snr,
        )
    meta = {"records": len(checked), "quiet": quiet, "bad": len(bad)}
    return {
        "starts": np.asarray(ends, np.int64),
        "onsets": np.asarray(onsets, np.int64),
        "alive": np.asarray(alive, bool),
        "names": names,
        "meta": meta | {"first_bad": bad[0] if bad else None},
    }


def _check_record(record, preprocessing):
    """The record itself.

    Raises:
        ValueError: it cannot be used; says which it is, and why.
    """
    name, waveform = seismic_records.text_of(record["name"]), record["waveform"]
    if not len(waveform):
        raise ValueError(name)  # it could not be read, and this says why
    alive = _alive(waveform, preprocessing)
    try:
        # Without any, the check has to find what is wrong with all of them.
        broadband.check_waveform(waveform[:, alive] if alive.any() else waveform)
        rate = float(record["sampling_rate"])
        broadband.check_window(len(waveform), rate, preprocessing)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    return record


def _alive(waveform, preprocessing):
    """The components of [T, 3] that a model needs, bool [3]; of one, any that work."""
    if preprocessing.channels > 1:
        return np.ones(waveform.shape[1], bool)
    return np.isfinite(waveform).all(axis=0) & (waveform != waveform[0]).any(axis=0)


def prepare_record(record, preprocessing, min_snr):
    """The prepared motion of a record, onsets in it, and what it is called.

    Returns:
        float32 [T, C]; samples at which the shaking of a window begins, none where no
        window is good enough; bool [C], the components that work: others are zero;
        (name, event, station).
    """
    rate, own_rate = preprocessing.sampling_rate, float(record["sampling_rate"])
    alive = _alive(record["waveform"], preprocessing)
    waveform = broadband.resample(record["waveform"][:, alive], own_rate, rate)
    motion = np.zeros((len(waveform), len(alive)), np.float32)
    motion[:, alive] = preprocessing.prepare(waveform)
    names = ("name", "source_id", "station")
    labels = [seismic_records.text_of(record[name]) for name in names]
    picked = float(record["p_sample"])
    margin = preprocessing.tapered(len(motion))
    if picked >= 0:
        places = [min(round(picked * rate / own_rate), len(motion) - 1)]
    else:
        places = find_onsets(motion, rate, preprocessing.num_samples, margin)
    power = np.concatenate([[0.0], np.cumsum(_slow_power(motion, rate))])
    noise = np.inf
    if picked >= 0:
        noise = noise_before(waveform[: places[0]], rate)
    if noise == np.inf:
        noise = quietest(power, margin, rate)

    def is_good(place):
        end = min(place + preprocessing.num_samples, len(motion))
        return power[end] - power[place] > min_snr**2 * noise * (end - place)

    return motion, [place for place in places if is_good(place)], alive, labels


def _slow_power(waveform, sampling_rate):
    """The power below `QUALITY_CORNER` at each sample of [T, C], [T]."""
    slow = filters.zero_phase_lowpass(waveform, sampling_rate, QUALITY_CORNER)
    return np.square(slow, dtype=float).sum(axis=1)


def noise_before(waveform, sampling_rate):
    """Mean low-frequency power of a record's part before its onset, [T, C].

    It is filtered by itself: the zero-phase filters of the whole record let a strong
    motion of long period begin many seconds before its onset.

    Returns:
        A float; infinite where the part is shorter than `SHORTEST`.
    """
    if len(waveform) < SHORTEST * sampling_rate:
        return np.inf
    return _slow_power(broadband.detrend(waveform), sampling_rate).mean()


def quietest(power, margin, sampling_rate):
    """Mean power of the quietest `SHORTEST` seconds of a record.

    Args:
        power: float [T + 1], running sum.
        margin: samples at both ends that the taper changes.
    """
    length = round(SHORTEST * sampling_rate)
    last = len(power) - 1 - margin
    if last - margin < 2 * length:
        margin, last = 0, len(power) - 1
    segments = power[margin + length : last + 1] - power[margin : last + 1 - length]
    return segments.min(initial=np.inf) / length


def find_onsets(motion, sampling_rate, num_samples, margin):
    """Samples at which shaking sets in, no two of which share their fixed windows.

    Where the power of the next half second is largest over that of the ten seconds
    before, or of as many as there are from two on, and at least four times it (Allen,
    1978).

    Args:
        motion: [T, C].
        num_samples: of a window.
        margin: samples at both ends that do not count.

    Returns:
        Increasing list of int.
    """
    short, long = round(SHORT * sampling_rate), round(LONG * sampling_rate)
    power = np.square(motion, dtype=float).sum(axis=1)
    # Next to a large event, what is a thousandth of it does not count.
    floor = 1e-6 * power.max()
    total = np.concatenate([[0.0], np.cumsum(power)])
    least = round(SHORTEST * sampling_rate)
    places = np.arange(margin + least, len(motion) - margin - short)
    if not len(places):
        return []
    later = (total[places + short] - total[places]) / short
    begin = np.maximum(places - long, margin)
    earlier = (total[places] - total[begin]) / (places - begin)
    ratio = later / (earlier + floor)
    starts = window_start(places, 0.5, num_samples, len(motion))
    found = []
    while ratio.max() >= THRESHOLD:
        best = int(ratio.argmax())
        found.append(int(places[best]))
        ratio[np.abs(starts - starts[best]) < num_samples] = 0.0
    return sorted(found)
