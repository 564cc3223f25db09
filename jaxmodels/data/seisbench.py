"""Folders of labeled seismograms in SeisBench's format (Woollam et al., 2022).

`metadata<chunk>.csv` has a row a trace, `waveforms<chunk>.hdf5` the samples; a file
`chunks` lists the chunks. A trace is named by the key of its array, or by the key of a
block of many traces and, after a `$`, the part of the block that it is:
"bucket0$12,:3,:1200". Each block is read once a split.
"""

import collections
import csv
import dataclasses
import functools
import hashlib
import math
import pathlib
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from jaxmodels.data import seismic_records
from jaxmodels.data.records import first_line
from jaxmodels.data.seismic_records import NO_ARRIVAL
from jaxmodels.train.errors import ConfigError

# Where a set does not say which trace is for what.
SHARES = {"train": 0.6, "dev": 0.1, "test": 0.3}
P_PHASES = ("p", "P", "pP", "P1", "Pg", "Pn", "PmP", "pwP", "pwPm")
S_PHASES = ("s", "S", "S1", "Sg", "SmS", "Sn")
MAGNITUDES = ("source_magnitude",)
DISTANCES = ("path_hyp_distance_km", "path_ep_distance_km")
CHANNELS = ("trace_channel", "station_channels", "trace_channels")
NAMES = ("trace_name_original", "trace_name")


class Trace(NamedTuple):
    """One trace as its file has it.

    Attributes:
        where: file and trace, for messages.
        fields: arguments of `record_folders.finished`.
        reason: why it could not be read, in one line; "" where it could.
    """

    where: str
    fields: dict[str, Any]
    reason: str = ""


class Row(NamedTuple):
    """What the metadata say of a trace.

    Attributes:
        key: of its array in the file.
        part: of that array; () for all of it.
        name, source_id, station, split, components, channel: "" where not stated.
        rate: Hz, NaN where the trace has none of its own.
        p_sample, s_sample: `NO_ARRIVAL` where there is none.
        magnitude, distance: NaN where unknown.
        label: the class, "" where there is none.
    """

    key: str
    part: tuple
    name: str
    source_id: str
    station: str
    split: str
    components: str
    channel: str
    rate: float
    p_sample: float
    s_sample: float
    magnitude: float
    distance: float
    label: str = ""


@dataclasses.dataclass(frozen=True)
class Chunk:
    """A pair of files.

    Attributes:
        metadata, waveforms: paths.
        dimensions: of a trace, "CW" (components, samples) or "WC".
        components: a letter each, where a trace has none of its own.
        rate: Hz, NaN where each trace has its own.
        unit: as it is written, "" where it is not.
    """

    metadata: pathlib.Path
    waveforms: pathlib.Path
    dimensions: str
    components: str
    rate: float
    unit: str


@dataclasses.dataclass(frozen=True)
class SeisBenchFolder:
    """A folder in SeisBench's format.

    Attributes:
        where: the folder, for messages.
        chunks: its pairs of files.
        digest: hash of the metadata, and of size and time of the waveforms.
        label: column of the metadata that tells the class of a trace; None for none.
    """

    where: str
    chunks: tuple[Chunk, ...]
    digest: str
    label: str | None = None

    @property
    def units(self):
        """(file, unit) of each chunk."""
        return [(str(chunk.waveforms), chunk.unit) for chunk in self.chunks]

    @functools.cached_property
    def _rows(self):
        """Rows of each chunk."""
        rows = [read_metadata(chunk.metadata, self.label) for chunk in self.chunks]
        nameless = sum(not row.source_id for chunk in rows for row in chunk)
        if nameless:
            logging.warning(
                "%s: %d traces have no source_id, so nothing tells whether splits share"
                " an event",
                self.where,
                nameless,
            )
        return rows

    def _split_of(self, row, split_by):
        if row.split and split_by == "file":
            return row.split
        if not row.source_id:
            raise ConfigError(
                f"{self.where}: {row.name} has no source_id, so its event may be in"
                " several splits; fill in the column source_id of the metadata, or the"
                ' column split and set reader split_by to "file"'
            )
        return seismic_records.hashed_split(row.source_id, SHARES)

    def splits(self, split_by="file"):
        """split -> number of its traces, train first."""
        counts = collections.Counter(
            self._split_of(row, split_by) for rows in self._rows for row in rows
        )
        usual = [split for split in SHARES if split in counts]
        return {s: counts[s] for s in usual + sorted(set(counts) - set(usual))}

    def traces(self, split, split_by="file"):
        """Yields the `Trace`s of a split, block by block, bad ones with the reason.

        Raises:
            ConfigError: a file cannot be read.
        """
        h5py = seismic_records.optional("h5py")
        for chunk, rows in zip(self.chunks, self._rows, strict=True):
            blocks: dict[str, list] = {}
            for row in rows:
                if self._split_of(row, split_by) == split:
                    blocks.setdefault(row.key, []).append(row)
            if not blocks:
                continue
            with _open(h5py, chunk.waveforms) as file:
                for key, members in blocks.items():
                    yield from _block(file, chunk, key, members, self.label)


def _open(h5py, path):
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read as HDF5: {error}") from error


def _block(file, chunk, key, rows, label=None):
    """Yields the traces that lie in one array of a file, which is read once."""
    try:
        values = file["data"][key][()]
    except (KeyError, OSError, TypeError) as error:
        # Of a group h5py says what it takes and not what it is.
        is_group = isinstance(error, TypeError)
        reason = "is a group, not an array" if is_group else first_line(error)
        where = f"{chunk.waveforms}, data/{key}"
        yield from (Trace(where, {}, reason) for _ in rows)
        return
    for row in rows:
        where = f"{chunk.waveforms}: {row.name}"
        try:
            check_part(row.part, values.shape)
            waveform = values[row.part]
        except IndexError as error:
            yield Trace(where, {}, first_line(error))
            continue
        rate = chunk.rate if math.isnan(row.rate) else row.rate
        if waveform.ndim != 2 or not rate > 0:
            reason = f"shape {waveform.shape} at {rate} Hz is no trace of some"
            yield Trace(where, {}, f"{reason} components with a sampling rate")
            continue
        if chunk.dimensions.index("C") < chunk.dimensions.index("W"):
            waveform = waveform.T
        fields = {
            "waveform": waveform,
            "rate": rate,
            "components": row.components or chunk.components,
            "unit": chunk.unit,
            "channel": row.channel,
            "name": row.name,
            "source_id": row.source_id or row.name,
            "station": row.station,
            "p_sample": row.p_sample,
            "s_sample": row.s_sample,
            "magnitude": row.magnitude,
            "distance": row.distance,
        }
        if label is not None:
            fields["label"] = row.label
        yield Trace(where, fields)


def parse_name(name):
    """The key of an array and the part of it: "b$1,:3,5:9" is "b" at [1, :3, 5:9].

    Raises:
        ValueError: the part is none.
    """
    key, _, part = name.partition("$")
    return key, tuple(_parse_index(word) for word in part.split(",")) if part else ()


def _parse_index(word):
    numbers = [int(number) if number.strip() else None for number in word.split(":")]
    return numbers[0] if len(numbers) == 1 else slice(*numbers)


def check_part(part, shape):
    """Raises `IndexError` where slices end outside of an array, or hold nothing.

    Of what lies outside, a slice would be silent: the trace would just be shorter.
    """
    for axis, (index, size) in enumerate(zip(part, shape, strict=False)):
        if not isinstance(index, slice):
            continue
        if max(index.start or 0, index.stop or 0) > size:
            raise IndexError(
                f"part {index.start}:{index.stop} is out of bounds for axis {axis} with"
                f" size {size}"
            )
        if not len(range(*index.indices(size))):
            raise IndexError(f"part {index.start}:{index.stop} of axis {axis} is empty")


def read_metadata(path, label=None):
    """The `Row`s of a metadata file, in its order.

    Args:
        label: column of the classes, or None.

    Raises:
        ConfigError: it cannot be read, or a line is not as it should be; names it.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file)
            columns = {name: place for place, name in enumerate(next(lines, []))}
            for needed in ("trace_name", *([label] if label else ())):
                if needed not in columns:
                    raise ConfigError(f"{path} has no column {needed}")
            picks = [
                [f"trace_{phase}_arrival_sample" for phase in phases]
                for phases in (P_PHASES, S_PHASES)
            ]
            return [
                _row(path, number, line, columns, picks, label)
                for number, line in enumerate(lines, 2)
                if line
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def _row(path, number, line, columns, picks, label):
    def text(*names):
        for name in names:
            place = columns.get(name, len(line))
            if place < len(line) and line[place] not in ("", "nan", "NaN"):
                return line[place]
        return ""

    def value(*names):
        return float(text(*names) or "nan")

    def first(names):
        # An arrival before the trace is not in it, and hides none that is.
        found = [sample for sample in map(value, names) if 0 <= sample < math.inf]
        return min(found, default=NO_ARRIVAL)

    try:
        key, part = parse_name(text("trace_name"))
        rate = value("trace_sampling_rate_hz")
        if math.isnan(rate) and text("trace_dt_s"):
            rate = 1 / value("trace_dt_s")
        station = [text("station_network_code"), text("station_code")]
        return Row(
            key=key,
            part=part,
            name=text(*NAMES),
            source_id=text("source_id"),
            station=".".join(word for word in station if word),
            split=text("split"),
            components=text("trace_component_order"),
            channel=text(*CHANNELS),
            rate=rate,
            p_sample=first(picks[0]),
            s_sample=first(picks[1]),
            magnitude=value(*MAGNITUDES),
            distance=value(*DISTANCES),
            label=text(label) if label else "",
        )
    except (ValueError, ZeroDivisionError) as error:
        raise ConfigError(f"{path}, line {number}: {error}") from error


def scan(path, label=None):
    """Looks at the files of a folder; the waveforms are not read.

    Args:
        label: column of the metadata that tells the class of a trace; None for none.

    Raises:
        ConfigError: a file is missing or cannot be read.
    """
    path = pathlib.Path(path)
    listed = path / "chunks"
    if listed.is_file():
        names = listed.read_text("utf-8").split()
    else:
        files = sorted(path.glob("metadata*.csv"))
        names = [file.stem.removeprefix("metadata") for file in files]
    chunks, digest = [], hashlib.sha256()
    for name in names:
        metadata = path / f"metadata{name}.csv"
        waveforms = path / f"waveforms{name}.hdf5"
        try:
            digest.update(hashlib.sha256(metadata.read_bytes()).digest())
            stat = waveforms.stat()
        except OSError as error:
            raise ConfigError(f"{error.filename}: {error.strerror}") from error
        digest.update(f"{name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        chunks.append(_chunk(metadata, waveforms))
    if not chunks:
        raise ConfigError(f"{path} has no metadata*.csv")
    return SeisBenchFolder(str(path), tuple(chunks), digest.hexdigest()[:16], label)


def _chunk(metadata, waveforms):
    """Reads the group `data_format`, in which each entry may be missing."""
    with _open(seismic_records.optional("h5py"), waveforms) as file:
        stated = {k: v[()] for k, v in file.get("data_format", {}).items()}
    texts = {k: seismic_records.text_of(v) for k, v in stated.items()}
    dimensions = texts.get("dimension_order", "CW").upper().replace("N", "")
    if sorted(dimensions) != ["C", "W"]:
        raise ConfigError(
            f"{waveforms}: dimension_order {dimensions!r} is not CW or WC"
        )
    rate = np.asarray(stated.get("sampling_rate", math.nan))
    return Chunk(
        metadata,
        waveforms,
        dimensions,
        texts.get("component_order", "ZNE"),
        float(rate) if rate.dtype.kind in "iuf" else math.nan,
        texts.get("unit", ""),
    )
