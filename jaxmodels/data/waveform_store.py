"""Records at one sampling rate in one array, with their arrivals, made once.

In a folder of `motion_folder`, without the records' means, with names of name, event,
station and label, and

    arrivals.npy   float64 [R, 2], samples of P and S in it, NaN where there is none
    clean.npy      bool [R], records without noise, in which nothing moves before P

Shapes use R records, T samples of a record.
"""

import dataclasses
import functools
import math
import pathlib

import numpy as np
import tqdm

from jaxmodels.data import broadband, motion_folder, seismic_records
from jaxmodels.data.records import CheckedRecords
from jaxmodels.data.seismic_records import NO_ARRIVAL, text_of
from jaxmodels.train.errors import ConfigError

FORMAT = 1
ARRAYS = ("starts", "arrivals", "clean")


@dataclasses.dataclass(frozen=True)
class StoredWaveforms:
    """Records, opened for reading; pickles as its folder's path if it has one.

    Attributes:
        directory: its folder, or None for what is in memory.
        sampling_rate: Hz, of all records.
        motion: float32 [sum of T, 3].
        starts: int64 [R + 1].
        arrivals: float64 [R, 2], P and S, NaN where there is none.
        clean: bool [R].
        names: R lists (name, event, station, label); a label is "" where there is none.
        meta: number of "records", and of those that were "bad".
    """

    directory: pathlib.Path | None
    sampling_rate: float
    motion: np.ndarray
    starts: np.ndarray
    arrivals: np.ndarray
    clean: np.ndarray
    names: list
    meta: dict

    def __reduce__(self):
        if self.directory is None:
            return super().__reduce__()
        return open_waveforms, (self.directory,)

    def __len__(self):
        return len(self.starts) - 1

    def record(self, index):
        """Record `index`, float32 [T, 3]."""
        return self.motion[self.starts[index] : self.starts[index + 1]]

    @property
    def events(self):
        return {event for _, event, _, _ in self.names}

    @property
    def stations(self):
        return {station for _, _, station, _ in self.names}


def open_waveforms(directory):
    """Opens the records in a folder.

    Raises:
        StorageError: the files are damaged.
    """
    found = motion_folder.read(directory, ARRAYS, per_record=("arrivals", "clean"))
    return StoredWaveforms(
        pathlib.Path(directory),
        found.meta["sampling_rate"],
        # An array that is no memory map slices five times as fast.
        found.motion.view(np.ndarray),
        names=found.names,
        meta=found.meta,
        **found.arrays,
    )


def store_waveforms(
    source,
    sampling_rate,
    *,
    name,
    directory=None,
    on_bad_record="stop",
    max_bad_fraction=0.001,
):
    """Brings the records of a split to one rate, or opens what was made before.

    Any number of processes may call this at once. Where the rate changes, arrivals move
    with it.

    Args:
        source: records, as `builder.RecordFiles` gives them.
        sampling_rate: Hz.
        name: data set and split, for messages.
        directory: parent of the folder; None keeps all in memory.
        on_bad_record, max_bad_fraction: see `jaxmodels.data.records`.

    Raises:
        BadRecordError: see `jaxmodels.data.records`.
        ConfigError: no record is left, or `directory` cannot be written.
        StorageError: the disk is full, or the folder is damaged.
    """
    checked = CheckedRecords(source, _check_record, on_bad_record, max_bad_fraction)
    made = functools.partial(_stream, checked, sampling_rate=sampling_rate, name=name)
    if directory is None:
        motion, index = motion_folder.in_memory(made)
        return StoredWaveforms(None, sampling_rate, motion, **index)
    key = [FORMAT, name, sampling_rate, source.identity]
    folder = motion_folder.build(
        directory, "waveforms", key, made, ARRAYS, sampling_rate=sampling_rate
    )
    stored = open_waveforms(folder)
    motion_folder.check_bad(stored.meta, on_bad_record, max_bad_fraction)
    return stored


def _stream(checked, write, *, sampling_rate, name):
    """Passes every good record's motion to `write`; returns all else there is to know.

    Raises:
        ConfigError: no record is left.
    """
    progress = tqdm.tqdm(
        checked.good(),
        f"storing {name}",
        total=len(checked),
        unit=" records",
        disable=None,
        leave=False,
    )
    made = seismic_records.in_threads(
        lambda item: stored_record(item[1], sampling_rate), progress
    )
    names: list[list[str]] = []
    ends, arrivals, clean = [0], [], []
    for motion, times, is_clean, labels in made:
        names.append(labels)
        arrivals.append(times)
        clean.append(is_clean)
        ends.append(ends[-1] + len(motion))
        write(motion)
    bad = list(checked.bad.seen.values())
    if not names:
        raise ConfigError(
            f"none of the {len(checked)} records of {name} can be used"
            + (f"; the first says: {bad[0][0]}: {bad[0][1]}" if bad else "")
        )
    meta = {"records": len(checked), "bad": len(bad)}
    return {
        "starts": np.asarray(ends, np.int64),
        "arrivals": np.asarray(arrivals, np.float64).reshape(-1, 2),
        "clean": np.asarray(clean, bool),
        "names": names,
        "meta": meta | {"first_bad": bad[0] if bad else None},
    }


def _check_record(record):
    """The record itself.

    Raises:
        ValueError: it cannot be used; says which it is, and why.
    """
    name, waveform = text_of(record["name"]), record["waveform"]
    if not len(waveform):
        raise ValueError(name)  # it could not be read, and this says why
    bad = np.argwhere(~np.isfinite(waveform))
    if len(bad):
        sample, component = bad[0]
        raise ValueError(
            f"{name}: sample {sample} of component {component} is"
            f" {waveform[sample, component]}, the first of {len(bad)} that are not"
            " finite; cut the record there or fill the gap"
        )
    if not (waveform != waveform[0]).any():
        raise ValueError(f"{name}: no component moves")
    return record


def stored_record(record, sampling_rate):
    """A record as it is stored.

    Returns:
        float32 [T, 3] without its mean; (P, S) in its samples, NaN where there is none;
        whether it is without noise; [name, event, station, label].
    """
    own_rate = float(record["sampling_rate"])
    clean = math.isinf(float(record.get("snr", math.nan)))
    waveform = broadband.resample(record["waveform"], own_rate, sampling_rate)
    if not clean:
        # What does not move is zero, not what resampling and rounding make of it.
        moves = (record["waveform"] != record["waveform"][0]).any(axis=0)
        waveform = (waveform - waveform.mean(axis=0, dtype=np.float64)) * moves
    arrivals = [
        float(sample) * sampling_rate / own_rate if sample != NO_ARRIVAL else math.nan
        for sample in (record["p_sample"], record["s_sample"])
    ]
    label = record.get("label", record.get("region", ""))
    texts = [record["name"], record["source_id"], record["station"], label]
    motion = np.ascontiguousarray(waveform, np.float32)
    return motion, arrivals, clean, [text_of(text) for text in texts]
