"""Folders of miniSEED or SAC files as records of three components.

Traces of one instrument that overlap in time make a record. Records that overlap in
time, of whatever stations, are of one event, and share a split.
"""

import dataclasses
import hashlib
import math
import pathlib
from typing import NamedTuple

import numpy as np
from absl import logging

from jaxmodels.data import instrument_response, seismic_records
from jaxmodels.data.records import BadRecords, first_line
from jaxmodels.data.seisbench import Trace
from jaxmodels.train.errors import ConfigError

SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
SUFFIXES = (".mseed", ".miniseed", ".ms", ".msd", ".seed", ".sac")
VERTICAL, FIRST, SECOND = "Z3", "N1", "E2"
SHORTEST = 1.0  # seconds of a record


class Piece(NamedTuple):
    """A trace without gaps, as the header of its file has it.

    Attributes:
        instrument: network, station, location and the first two letters of the channel.
        letter: the third letter.
        start, end: of the first and last sample, in ns since 1970.
        rate: Hz.
        path: of the file.
    """

    instrument: tuple[str, str, str, str]
    letter: str
    start: int
    end: int
    rate: float
    path: pathlib.Path


class Together(NamedTuple):
    """Pieces of one instrument that make a record, and the time they share."""

    pieces: tuple[Piece, ...]
    start: int
    end: int
    event: str


@dataclasses.dataclass(frozen=True)
class MiniSeedFolder:
    """A folder of miniSEED or SAC files.

    Attributes:
        where: the folder, for messages.
        found: its records.
        inventory: path of a StationXML file, or None.
        digest: hash of names, sizes and times of the files.
    """

    where: str
    found: tuple[Together, ...]
    inventory: str | None
    digest: str

    @property
    def units(self):
        """The folder, and the unit of what `traces` gives."""
        return [(self.where, "counts" if self.inventory is None else "m/s^2")]

    def splits(self, split_by="event"):
        """split -> number of its records; a split without records is left out."""
        counts = dict.fromkeys(SHARES, 0)
        for together in self.found:
            counts[seismic_records.hashed_split(together.event, SHARES)] += 1
        return {split: count for split, count in counts.items() if count}

    def traces(self, split, split_by="event"):
        """Yields the `Trace`s of a split, bad ones with the reason.

        Raises:
            ConfigError: the inventory cannot be read.
        """
        inventory = None
        if self.inventory is not None:
            inventory = read_inventory(self.inventory)
        for together in self.found:
            if seismic_records.hashed_split(together.event, SHARES) == split:
                first = together.pieces[0]
                where = f"{first.path}: {'.'.join(first.instrument)}"
                try:
                    yield Trace(where, _fields(together, inventory))
                except ValueError as error:
                    yield Trace(where, {}, first_line(error))


def read_inventory(path):
    """A StationXML file.

    Raises:
        ConfigError: it cannot be read.
    """
    obspy = seismic_records.optional("obspy")
    try:
        return obspy.read_inventory(str(path))
    except Exception as error:  # each format raises its own
        raise ConfigError(
            f"inventory {path} cannot be read: {first_line(error)}"
        ) from error


def _fields(together, inventory):
    """What `record_folders.finished` takes; `ValueError` where it cannot be read."""
    obspy = seismic_records.optional("obspy")
    first = together.pieces[0]
    columns = []
    for piece in together.pieces:
        start, end = (obspy.UTCDateTime(ns=t) for t in (together.start, together.end))
        # Half a sample around, since components need not be sampled at one instant.
        half = 0.5 / piece.rate
        stream = _read(piece.path, starttime=start - half, endtime=end + half)
        channel = piece.instrument[3] + piece.letter
        stream = stream.select(*piece.instrument[:3], channel=channel)
        trace = max(stream, key=len, default=None)
        if trace is None:
            raise ValueError(f"channel {channel} has gone from {piece.path}")
        if inventory is not None:
            trace = _without_response(trace, inventory)
        columns.append(np.asarray(trace.data, np.float64))
    length = min(map(len, columns))
    network, station, location, band = first.instrument
    begin = obspy.UTCDateTime(ns=together.start).strftime("%Y%m%dT%H%M%S")
    return {
        "waveform": np.stack([column[:length] for column in columns], axis=1),
        "rate": first.rate,
        "components": "".join(piece.letter for piece in together.pieces),
        "unit": "counts" if inventory is None else "m/s^2",
        "channel": band,
        "name": f"{network}.{station}.{location}.{band}.{begin}",
        "source_id": together.event,
        "station": f"{network}.{station}",
    }


def _without_response(trace, inventory):
    """A trace in m/s^2, its instrument taken away above 0.02 Hz."""
    try:
        return instrument_response.without_response(trace, inventory)
    except Exception as error:  # a response that is missing, or none that it knows
        raise ValueError(
            f"no response in the inventory ({first_line(error)}); give reader"
            " sensitivity instead"
        ) from error


def _read(path, **options):
    """The stream of a file; `ValueError` where it cannot be read."""
    obspy = seismic_records.optional("obspy")
    try:
        return obspy.read(str(path), check_compression=False, **options)
    except Exception as error:  # each format raises its own
        reason = first_line(error).removesuffix(str(path)).rstrip(" :")
        raise ValueError(f"{path} cannot be read ({reason})") from error


def scan(path, inventory=None, on_bad_record="stop", max_bad_fraction=0.001):
    """Reads the headers of all files in a folder and below it.

    Args:
        inventory: path of a StationXML file, or None.
        on_bad_record, max_bad_fraction: see `jaxmodels.data.records`; of files that
            cannot be read.

    Raises:
        BadRecordError: see `jaxmodels.data.records`.
        ConfigError: there is no record of three components.
    """
    path = pathlib.Path(path)
    files = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in SUFFIXES and file.is_file()
    )
    bad = BadRecords(len(files), on_bad_record, max_bad_fraction)
    digest, pieces = hashlib.sha256(), []
    for index, file in enumerate(files):
        stat = file.stat()
        name = file.relative_to(path).as_posix()
        digest.update(f"{name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        try:
            stream = _read(file, headonly=True)
        except ValueError as error:
            reason = first_line(error).removeprefix(f"{file} ")
            bad.add(index, str(file), reason)
            logging.warning("%s: %s; left out", file, reason)
            continue
        for trace in stream:
            stats = trace.stats
            instrument = (stats.network, stats.station, stats.location)
            pieces.append(
                Piece(
                    (*instrument, stats.channel[:2]),
                    stats.channel[2:3].upper(),
                    stats.starttime.ns,
                    stats.endtime.ns,
                    float(stats.sampling_rate),
                    file,
                )
            )
    found, alone = _group(pieces)
    if alone:
        logging.warning(
            "%s: %d traces are not part of a record of three components", path, alone
        )
    if not found:
        raise ConfigError(
            f"{path} holds no record of three components: {len(files)} files with"
            f" {len(pieces)} traces; it takes {', '.join(SUFFIXES)} with channels that"
            " end in Z, N, E or Z, 1, 2"
        )
    if inventory is not None:
        try:
            digest.update(pathlib.Path(inventory).read_bytes())
        except OSError as error:
            raise ConfigError(f"inventory {inventory}: {error.strerror}") from error
    return MiniSeedFolder(str(path), found, inventory, digest.hexdigest()[:16])


def _group(pieces):
    """Records of pieces, and the number of pieces that are part of none."""
    instruments: dict[tuple, list[Piece]] = {}
    for piece in sorted(pieces, key=lambda piece: piece.start):
        instruments.setdefault((piece.instrument, piece.rate), []).append(piece)
    spans, used = [], set[int]()
    for members in instruments.values():
        by_letter = [
            [piece for piece in members if piece.letter and piece.letter in letters]
            for letters in (VERTICAL, FIRST, SECOND)
        ]
        for vertical in by_letter[0]:
            for first in _overlapping(by_letter[1], vertical):
                for second in _overlapping(by_letter[2], first):
                    triple = (vertical, first, second)
                    start = max(piece.start for piece in triple)
                    end = min(piece.end for piece in triple)
                    if end - start >= SHORTEST * 1e9:
                        spans.append((start, end, triple))
                        used.update(map(id, triple))
    return tuple(_name_events(spans)), len(pieces) - len(used)


def _overlapping(pieces, other):
    return [p for p in pieces if p.start <= other.end and p.end >= other.start]


def _name_events(spans):
    """Records of (start, end, pieces), with an event for all that overlap in time."""
    latest, event = -math.inf, ""
    for start, end, pieces in sorted(spans):
        if start > latest:
            event = f"{start / 1e9:.3f}"
        latest = max(latest, end)
        yield Together(pieces, start, end, event)
