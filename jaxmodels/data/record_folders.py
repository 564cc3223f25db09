"""Folders of records of a user's own, made a data set once.

A folder with `metadata*.csv` is in SeisBench's format; any other is one of miniSEED or
SAC files.
"""

import dataclasses
import hashlib
import json
import math
import pathlib

import numpy as np
import tensorflow_datasets as tfds
import tqdm

from jaxmodels.data import broadband, builder, miniseed, seisbench, seismic_records
from jaxmodels.data.seismic_records import COMPONENTS, NO_ARRIVAL, STANDARD_GRAVITY
from jaxmodels.train.errors import ConfigError

MISSING = ("zeros", "copy")
SPLIT_BY = ("file", "event")
BY_INSTRUMENT = "by_instrument"
# What is written for a unit -> m/s^2 of acceleration, or m/s of velocity.
ACCELERATION = {
    **dict.fromkeys(("m/s^2", "m/s**2", "m/s2", "m/s/s", "mps2", "m s^-2"), 1.0),
    **dict.fromkeys(("cm/s^2", "cm/s**2", "cm/s2", "gal"), 0.01),
    "g": STANDARD_GRAVITY,
}
VELOCITY = {
    **dict.fromkeys(("m/s", "mps", "m s^-1"), 1.0),
    **dict.fromkeys(("cm/s",), 0.01),
    **dict.fromkeys(("nm/s",), 1e-9),
}


@dataclasses.dataclass(frozen=True)
class Reader:
    """How records of a folder are read.

    Attributes:
        amplitude: whether records have to be in m/s^2. False takes any unit as it is.
        sensitivity: counts per m/s^2, for records in counts.
        inventory: path of a StationXML file with the responses, for miniSEED in counts.
        unit: what the records are in, where the folder does not say so or is wrong:
            "counts", "m/s^2", "cm/s^2", "g", "m/s", or "by_instrument": accelerometers
            (second letter of the channel N) in m/s^2 and all others in m/s.
        sampling_rate: Hz, to resample to; None keeps the rate of each record.
        missing: "zeros" or "copy" of another one, for components that are not there.
        split_by: "file": the splits that the folder states, and by event where it
            states none. "event": by event in any case.

    Raises:
        ConfigError: fields out of range.
    """

    amplitude: bool = True
    sensitivity: float | None = None
    inventory: str | None = None
    unit: str | None = None
    sampling_rate: float | None = None
    missing: str = "zeros"
    split_by: str = "file"

    def __post_init__(self):
        errors = [
            f"reader {name} {value!r} is none of {', '.join(allowed)}"
            for name, value, allowed in (
                ("missing", self.missing, MISSING),
                ("split_by", self.split_by, SPLIT_BY),
            )
            if value not in allowed
        ]
        errors += [
            f"reader {name} {getattr(self, name)} must be greater than 0"
            for name in ("sensitivity", "sampling_rate")
            if getattr(self, name) is not None and not getattr(self, name) > 0
        ]
        units = (*ACCELERATION, *VELOCITY, "counts", BY_INSTRUMENT)
        if self.unit is not None and self.unit.lower() not in units:
            errors.append(f"reader unit {self.unit!r} is none of {', '.join(units)}")
        if errors:
            raise ConfigError("; ".join(errors))


def reader_of(fields, **more):
    """A `Reader` of a dict of its fields.

    Raises:
        ConfigError: there is no such field, or its value is out of range.
    """
    try:
        return Reader(**{**more, **(fields or {})})
    except TypeError as error:
        names = ", ".join(field.name for field in dataclasses.fields(Reader))
        raise ConfigError(f"reader {dict(fields)}: its fields are {names}") from error


def check_unit(where, unit, reader):
    """Raises `ConfigError` where records in `unit` cannot become m/s^2.

    Args:
        where: the folder or file, for the message.
        unit: as it is written there; None or "" for unknown.
    """
    unit = (reader.unit or unit or "unknown").lower()
    known = unit in ACCELERATION or unit in VELOCITY or unit == BY_INSTRUMENT
    if reader.amplitude and not known and reader.sensitivity is None:
        raise ConfigError(
            f"{where} is in {unit}, not in m/s^2; give reader sensitivity (counts per"
            " m/s^2), for miniSEED reader inventory, the reader unit if it is another,"
            " or set amplitude to False"
        )


def to_acceleration(waveform, sampling_rate, unit, channel, reader):
    """A record [T, C] in m/s^2, or as it is where amplitudes do not matter."""
    unit = (reader.unit or unit or "unknown").lower()
    if unit == BY_INSTRUMENT:
        unit = "m/s^2" if channel[1:2] == "N" else "m/s"
    if unit in ACCELERATION:
        return waveform * ACCELERATION[unit]
    if unit in VELOCITY:
        return differentiate(waveform, sampling_rate) * VELOCITY[unit]
    if reader.sensitivity is not None:
        return waveform / reader.sensitivity
    return waveform


def differentiate(waveform, sampling_rate):
    """The time derivative of [T, C] by its spectrum, as far as half the rate.

    The line between its ends apart, the waveform goes on at each of them as its mirror
    image of opposite sign, so that it has no step and no kink there.
    """
    length = len(waveform)
    change = (waveform[-1] - waveform[0]) / max(length - 1, 1)
    rest = waveform - waveform[0] - np.arange(length)[:, None] * change
    rest = np.concatenate([rest, -rest[-2:0:-1]])
    omega = 2j * math.pi * np.fft.rfftfreq(len(rest), 1 / sampling_rate)
    if len(rest) % 2 == 0:
        omega[-1] = 0.0  # no sign can be told of the highest frequency
    spectrum = np.fft.rfft(rest, axis=0) * omega[:, None]
    slope = np.fft.irfft(spectrum, len(rest), axis=0)[:length]
    return slope + change * sampling_rate


def ordered(waveform, components, missing):
    """[T, C] of named components as [T, 3], vertical, north, east.

    Args:
        components: a letter each, as "ENZ", "Z12" or "Z".
        missing: see `Reader`.

    Raises:
        ValueError: none of the components has a known name.
    """
    letters = components.upper().replace("1", "N").replace("2", "E").replace("3", "Z")
    places = [letters.find(letter) for letter in COMPONENTS]
    known = [place for place in places if 0 <= place < waveform.shape[1]]
    if not known:
        raise ValueError(f"components {components!r} are none of Z, N, E, 1, 2")
    found = np.zeros((len(waveform), len(COMPONENTS)), waveform.dtype)
    for place, own in enumerate(places):
        if own in known:
            found[:, place] = waveform[:, own]
        elif missing == "copy":
            found[:, place] = waveform[:, known[0]]
    return found


def finished(waveform, rate, components, unit, channel, reader, **fields):
    """The record of `seismic_records.record` of what a file holds.

    Args:
        waveform: [T, C].
        rate: Hz.
        components, unit, channel: what the file says of it.
        fields: of the record; arrivals are moved where the rate changes.

    Raises:
        ValueError: the components are unknown.
    """
    waveform = ordered(np.asarray(waveform, np.float64), components, reader.missing)
    waveform = to_acceleration(waveform, rate, unit, channel, reader)
    if reader.sampling_rate is not None and reader.sampling_rate != rate:
        waveform = broadband.resample(waveform, rate, reader.sampling_rate)
        for name in ("p_sample", "s_sample"):
            if fields.get(name, NO_ARRIVAL) != NO_ARRIVAL:
                fields[name] *= reader.sampling_rate / rate
        rate = reader.sampling_rate
    return seismic_records.record(waveform, rate, **fields)


@dataclasses.dataclass(eq=False)
class FolderConfig(tfds.core.BuilderConfig):
    """Names a data set by the content of a folder and how it is read."""

    folder: seisbench.SeisBenchFolder | miniseed.MiniSeedFolder | None = None
    reader: Reader | None = None


class SeismicFolder(builder.ArrayRecordBuilder):
    """Makes records of a folder's files.

    The version goes up when the same files are to give other records.
    """

    name = "seismic_folder"
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return builder.LocalInfo(
            builder=self,
            description=self.builder_config.description,
            features=seismic_records.features(),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        sizes = self.builder_config.folder.splits(self.builder_config.reader.split_by)
        return {split: self._generate_examples(split, n) for split, n in sizes.items()}

    def _generate_examples(self, split, total):
        reader = self.builder_config.reader
        raw = self.builder_config.folder.traces(split, reader.split_by)
        made = seismic_records.in_threads(lambda trace: _record(trace, reader), raw)
        progress = tqdm.tqdm(
            made,
            f"building {split}",
            total=total,
            unit=" records",
            disable=None,
            leave=False,
        )
        yield from enumerate(progress)


def _record(trace, reader):
    try:
        return finished(reader=reader, **trace.fields)
    except ValueError as error:
        raise ConfigError(f"{trace.where}: {error}") from error


def prepare_folder(path, reader, data_dir=None):
    """Opens the data set of a folder of records, building it when its content is new.

    Args:
        reader: a `Reader`.

    Raises:
        ConfigError: there is no such folder, a file cannot be read, or its unit is none
            that a model can be told the size in; or see `builder.prepare`.
        StorageError: the disk is full.
    """
    path = pathlib.Path(path).expanduser()
    if not path.is_dir():
        raise ConfigError(f"{path} is no folder of records")
    if any(path.glob("metadata*.csv")):
        folder = seisbench.scan(path)
    else:
        folder = miniseed.scan(path, reader.inventory)
    check_unit(folder.where, folder.unit, reader)
    fields = json.dumps(dataclasses.asdict(reader), sort_keys=True)
    digest = hashlib.sha256(f"{folder.digest} {fields}".encode()).hexdigest()[:16]
    config = FolderConfig(
        name=digest,
        version=SeismicFolder.VERSION,
        description=f"records of {path}, read with {fields}",
        folder=folder,
        reader=reader,
    )
    return builder.prepare(SeismicFolder, config, data_dir)
