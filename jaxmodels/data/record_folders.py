"""Folders of records of a user's own, made a data set once.

A folder with `metadata*.csv` is in SeisBench's format; any other is one of miniSEED or
SAC files.
"""

import dataclasses
import hashlib
import json
import math
import pathlib
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
import tqdm
from absl import logging

from jaxmodels.data import broadband, builder, miniseed, seisbench, seismic_records
from jaxmodels.data.records import BadRecords, first_line
from jaxmodels.data.seismic_records import COMPONENTS, NO_ARRIVAL
from jaxmodels.data.units import ACCELERATION, COUNTS, VELOCITY, plain
from jaxmodels.train.errors import ConfigError

MISSING = ("zeros", "copy")
SPLIT_BY = ("file", "event")
BY_INSTRUMENT = "by_instrument"


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
        label: column of the metadata of a SeisBench folder that tells the class of a
            trace; None reads none.
        min_seconds: shorter records are left out, which is logged; None takes all.

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
    label: str | None = None
    min_seconds: float | None = None

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
            for name in ("sensitivity", "sampling_rate", "min_seconds")
            if getattr(self, name) is not None and not getattr(self, name) > 0
        ]
        units = (*ACCELERATION, *VELOCITY, COUNTS, BY_INSTRUMENT)
        if self.unit is not None and plain(self.unit) not in units:
            errors.append(f"reader unit {self.unit!r} is none of {', '.join(units)}")
        given = [self.sensitivity, self.inventory, self.unit]
        scales = sum(one is not None for one in given)
        if scales > (2 if plain(self.unit) == COUNTS and self.sensitivity else 1):
            errors.append(
                "reader sensitivity and inventory are each for records in counts; give"
                " one of sensitivity, inventory and a unit other than counts"
            )
        if errors:
            raise ConfigError("; ".join(errors))


def reader_of(fields, **more):
    """A `Reader` of a dict of its fields; those that are None count as not given.

    Raises:
        ConfigError: there is no such field, or its value is out of range.
    """
    given = {name: x for name, x in dict(fields or {}).items() if x is not None}
    try:
        return Reader(**{**more, **given})
    except TypeError as error:
        names = ", ".join(field.name for field in dataclasses.fields(Reader))
        raise ConfigError(f"reader {dict(fields)}: its fields are {names}") from error


def check_unit(where, unit, reader):
    """Raises `ConfigError` where records in `unit` cannot become m/s^2.

    Args:
        where: the folder or file, for the message.
        unit: as it is written there; None or "" for unknown.
    """
    if reader.amplitude and not _is_known(plain(reader.unit or unit), reader):
        raise ConfigError(f"{where} {_no_size(plain(reader.unit or unit))}")


def _is_known(unit, reader):
    """Whether records in a unit can become m/s^2."""
    known = unit in ACCELERATION or unit in VELOCITY or unit == BY_INSTRUMENT
    return known or reader.sensitivity is not None


def _no_size(unit):
    return (
        f"is in {unit}, not in m/s^2; give reader unit if it is another, for counts"
        " reader sensitivity (counts per m/s^2) or for miniSEED reader inventory, or"
        " set amplitude to False"
    )


def to_acceleration(waveform, sampling_rate, unit, channel, reader):
    """A record [T, C] in m/s^2, or as it is where amplitudes do not matter.

    Raises:
        ValueError: amplitudes matter, and nothing tells what is one m/s^2.
    """
    unit = plain(reader.unit or unit)
    if unit == BY_INSTRUMENT:
        unit = "m/s^2" if channel[1:2] == "N" else "m/s"
    if unit in ACCELERATION:
        return waveform * ACCELERATION[unit]
    if unit in VELOCITY:
        return differentiate(waveform, sampling_rate) * VELOCITY[unit]
    if _is_known(unit, reader):
        return waveform / reader.sensitivity
    if reader.amplitude:
        raise ValueError(_no_size(unit))
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
    policy: tuple[str, float] = ("stop", 0.0)


class SeismicFolder(builder.ArrayRecordBuilder):
    """Makes records of a folder's files.

    The version goes up when the same files are to give other records. A trace that
    cannot be read becomes a record without samples, named by the reason: whoever reads
    the records holds it against a policy of their own.
    """

    name = "seismic_folder"
    VERSION = tfds.core.Version("1.0.1")

    def _info(self):
        return builder.LocalInfo(
            builder=self,
            description=self.builder_config.description,
            features=seismic_records.features(**self._more()),
            disable_shuffling=True,
        )

    def _more(self):
        """Features that not every folder has."""
        labeled = self.builder_config.reader.label is not None
        return {"label": tfds.features.Text()} if labeled else {}

    def _split_generators(self, dl_manager):
        sizes = self.builder_config.folder.splits(self.builder_config.reader.split_by)
        bad = BadRecords(sum(sizes.values()), *self.builder_config.policy)
        return {
            split: self._generate_examples(split, total, bad)
            for split, total in sizes.items()
        }

    def _generate_examples(self, split, total, bad):
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
        short = 0
        for number, (record, where, reason) in enumerate(progress):
            if reason:
                bad.add((split, number), where, reason)
                logging.warning("%s: %s; left out", where, reason)
            elif _is_short(record, reader):
                short += 1
                continue
            yield number, record
        if short:
            logging.warning(
                "split %s: %d of %d records are shorter than min_seconds %g; left out",
                split,
                short,
                total,
                reader.min_seconds,
            )
        if short == total:
            raise ConfigError(
                f"all {total} records of split {split} are shorter than reader "
                f"min_seconds {reader.min_seconds:g}; lower it"
            )


def _is_short(record, reader):
    seconds = len(record["waveform"]) / record["sampling_rate"]
    return reader.min_seconds is not None and seconds < reader.min_seconds


def _record(trace, reader):
    """The record of a `Trace`, where it is, and what is wrong with it or ""."""
    reason = trace.reason
    if not reason:
        try:
            return finished(reader=reader, **trace.fields), trace.where, ""
        except ValueError as error:
            reason = first_line(error)
    nothing = np.zeros((0, len(COMPONENTS)), np.float32)
    name = f"{trace.where}: {reason}"
    known = {} if reader.label is None else {"label": ""}
    record = seismic_records.record(nothing, 1.0, name, "", "", **known)
    return record, trace.where, reason


def prepare_folder(
    path, reader, data_dir=None, *, on_bad_record="stop", max_bad_fraction=0.001
):
    """Opens the data set of a folder of records, building it when its content is new.

    Args:
        reader: a `Reader`.
        on_bad_record, max_bad_fraction: see `jaxmodels.data.records`; of the files of a
            folder of miniSEED, and of the records.

    Raises:
        BadRecordError: see `jaxmodels.data.records`.
        ConfigError: there is no such folder, a file that all records of a folder or
            chunk need cannot be read, or its unit is none that a model can be told the
            size in; or see `builder.prepare`.
        StorageError: the disk is full.
    """
    path = pathlib.Path(path).expanduser()
    if not path.is_dir():
        raise ConfigError(f"{path} is no folder of records")
    policy = on_bad_record, max_bad_fraction
    folder: Any
    if any(path.glob("metadata*.csv")):
        if reader.inventory is not None:
            raise ConfigError(
                f"{path} is in SeisBench's format, and reader inventory is for miniSEED"
                " alone; leave it out, and give reader sensitivity if it is in counts"
            )
        folder = seisbench.scan(path, reader.label)
    else:
        if reader.label is not None:
            raise ConfigError(
                f"{path} is a folder of miniSEED, which has no column {reader.label};"
                " reader label is for SeisBench's format"
            )
        folder = miniseed.scan(path, reader.inventory, *policy)
    for where, unit in folder.units:
        check_unit(where, unit, reader)
    given = dataclasses.asdict(reader)
    # Without these the name is that from before there were any.
    for later in ("label", "min_seconds"):
        if given[later] is None:
            del given[later]
    fields = json.dumps(given, sort_keys=True)
    digest = hashlib.sha256(f"{folder.digest} {fields}".encode()).hexdigest()[:16]
    config = FolderConfig(
        name=digest,
        version=SeismicFolder.VERSION,
        description=f"records of {path}, read with {fields}",
        folder=folder,
        reader=reader,
        policy=policy,
    )
    return builder.prepare(SeismicFolder, config, data_dir)
