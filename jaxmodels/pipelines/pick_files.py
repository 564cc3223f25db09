"""Seismograms of a user's files, one instrument at a time and a few hours at a time.

Headers of all files are read first, so that components in files of their own, as SDS
archives and SAC have them, come together. A file that is long is read in blocks that
reach beyond their ends, so that a day needs as little memory as four hours and gives
the same picks as in one piece.
"""

import collections
import glob
import math
import pathlib
import warnings
from typing import NamedTuple

import numpy as np

from jaxmodels.data.records import first_line
from jaxmodels.data.seismic_records import optional
from jaxmodels.pipelines import broaden_formats as formats
from jaxmodels.pipelines import broaden_npz, pick_segments, pick_stream
from jaxmodels.train.errors import ConfigError

SECOND = pick_segments.SECOND
BLOCK = 4 * 3600 * SECOND
SMALL = 5_000_000  # samples of a file that is read as a whole
HELD = 40_000_000  # samples of files that are kept for the next instrument
EXAMPLE = "example"  # the record that ObsPy shows its users
PACKED = (".gz", ".bz2", ".zip", ".tgz", ".tar")  # what ObsPy unpacks


class Header(NamedTuple):
    """A trace of a file, without its samples.

    Attributes:
        key: network, station, location, and the channel without its last letter.
        start, stop: nanoseconds since 1970.
        path: of the file, or EXAMPLE.
    """

    key: tuple[str, str, str, str]
    start: int
    stop: int
    path: str


class Block(NamedTuple):
    """A part of the time of an instrument.

    Attributes:
        start, stop: what is wanted of it, nanoseconds since 1970.
        seconds: in it of which something was recorded.
    """

    start: int
    stop: int
    seconds: float


class Archive:
    """What files hold, and their samples on demand.

    Attributes:
        headers: {key: list of `Header`}.
        failures: lines about files that cannot be read.
        damaged: lines about files of which a part cannot be read.
    """

    def __init__(self):
        self.headers: dict[tuple, list[Header]] = {}
        self.failures: list[str] = []
        self.damaged: list[str] = []
        self._counts: dict[str, int] = {}
        self._partial: set[str] = set()
        self._held: collections.OrderedDict = collections.OrderedDict()
        self._named: dict[str, tuple[str, str]] = {}

    def add(self, path):
        """Reads the headers of a file; one that cannot be read becomes a failure."""
        path = str(path)
        try:
            found = [trace.stats for trace in self._headers(path)]
        except ConfigError as error:
            self.failures.append(str(error))
            return
        self._counts[path] = sum(int(stats.npts) for stats in found)
        for stats in found:
            band = stats.channel[:-1].upper()
            key = stats.network, stats.station, stats.location, band
            rate = stats.sampling_rate
            # What is not picked is not looked through block by block.
            is_picked = pick_stream.LOWEST <= rate <= pick_stream.HIGHEST
            length = round(stats.npts * SECOND / rate) if is_picked else 0
            start = stats.starttime.ns
            self.headers.setdefault(key, []).append(
                Header(key, start, start + length, path)
            )

    def blocks(self, key):
        """The blocks of time in which an instrument has traces."""
        ends: dict[int, int] = {}
        seconds: dict[int, float] = {}
        for header in sorted(self.headers[key], key=lambda header: header.start):
            for place in range(header.start // BLOCK, -(-header.stop // BLOCK)):
                low = max(header.start, place * BLOCK, ends.get(place, header.start))
                high = min(header.stop, (place + 1) * BLOCK)
                ends[place] = max(high, ends.get(place, high))
                added = max(0, high - low) / SECOND
                seconds[place] = seconds.get(place, 0.0) + added
        found = [
            Block(place * BLOCK, (place + 1) * BLOCK, seconds[place])
            for place in sorted(seconds)
        ]
        # A record without length is one block, which says why nothing is picked.
        if not found:
            start = self.headers[key][0].start
            found.append(Block(start, start + SECOND, 0.0))
        return found

    def read(self, key, start, stop):
        """The traces of an instrument that touch a time; nanoseconds since 1970.

        A file that cannot be read becomes a failure, once.
        """
        obspy = optional("obspy")
        found = obspy.Stream()
        paths = dict.fromkeys(
            header.path
            for header in self.headers[key]
            if header.start <= stop and header.stop >= start
        )
        for path in paths:
            try:
                stream = self._read(path, key, start, stop)
            except ConfigError as error:
                if str(error) not in self.failures:
                    self.failures.append(str(error))
                continue
            for trace in stream:
                stats = trace.stats
                own = stats.network, stats.station, stats.location
                if (*own, stats.channel[:-1].upper()) == key:
                    found.append(trace)
        return found

    def _read(self, path, key, start, stop):
        obspy = optional("obspy")
        begin, end = obspy.UTCDateTime(ns=start), obspy.UTCDateTime(ns=stop)
        if path in self._partial and self._counts[path] > SMALL:
            # Of the channel any letters: those of a key are upper case.
            name = f"{'_'.join(key[:3])}_*"
            options = {"starttime": begin, "endtime": end, "sourcename": name}
            return self._obspy(path, **options)
        if path not in self._held:
            self._held[path] = self._whole(path)
            while len(self._held) > 1 and self._size() > HELD:
                self._held.popitem(last=False)
        self._held.move_to_end(path)
        return self._held[path].slice(begin, end)

    def _size(self):
        return sum(self._counts.get(path, 0) for path in self._held)

    def _headers(self, path):
        if path != EXAMPLE and not pathlib.Path(path).is_file():
            raise ConfigError(f"there is no file {path}; check the name")
        if path != EXAMPLE and not pathlib.Path(path).stat().st_size:
            raise ConfigError(f"{path} cannot be read: it is empty")
        if path == EXAMPLE or pathlib.Path(path).suffix.lower() in (
            ".npz",
            *formats.ASDF_SUFFIXES,
        ):
            self._held[path] = self._whole(path)
            return self._held[path]
        stream = self._obspy(path, headonly=True)
        if not len(stream):
            raise ConfigError(f"{path} holds no waveforms; name a file that does")
        of_blocks = all(getattr(t.stats, "_format", "") == "MSEED" for t in stream)
        if of_blocks and not _is_packed(path):
            self._partial.add(path)
            length = min(trace.stats.mseed.record_length for trace in stream)
            if pathlib.Path(path).stat().st_size % length:
                self._tell(path, "it ends within a miniSEED record, or has other bytes")
        return stream

    def _whole(self, path):
        """All traces of a file."""
        if path == EXAMPLE:
            return optional("obspy").read()
        suffix = pathlib.Path(path).suffix.lower()
        if suffix == ".npz":
            records = broaden_npz.read_npz(pathlib.Path(path))
            return _of_records(records, lambda name: self._station(path, name))
        if suffix in formats.ASDF_SUFFIXES:
            return _stream(trace[:7] for trace in formats.read_asdf(path, None))
        return self._obspy(path)

    def _obspy(self, path, **options):
        obspy = optional("obspy")
        try:
            # ObsPy takes names for patterns.
            name = glob.escape(str(path))
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                found = obspy.read(name, check_compression=_is_packed(path), **options)
        except Exception as error:  # each format raises its own
            reason = first_line(error).removesuffix(name).rstrip(" :")
            raise ConfigError(f"{path} cannot be read: {reason}") from None
        if caught:
            self._tell(path, first_line(caught[0].message))
        return found

    def _station(self, path, name):
        """What stands for the station of a record: its name, or more of its path.

        Files of one name in several folders are several stations.
        """
        folder = pathlib.Path(path).resolve().parent
        station = name
        while self._named.setdefault(station, (path, name)) != (path, name):
            station, folder = f"{folder.name}_{station}", folder.parent
        return station

    def _tell(self, path, damage):
        """Keeps one line about each file; ObsPy has one about each 128 bytes."""
        if not any(line.startswith(f"{path}: ") for line in self.damaged):
            self.damaged.append(f"{path}: {damage}; it is picked as far as it is read")


def margin(window_seconds):
    """Nanoseconds to read beyond both ends of a block of windows of a length."""
    return math.ceil(2 * window_seconds + 4 * pick_segments.BRIDGED + 2) * SECOND


def _is_packed(path):
    return pathlib.Path(path).suffix.lower() in PACKED


def _of_records(records, station_of):
    """Traces of NPZ records, which begin in 1970 where no time is known.

    Args:
        station_of: name of a record -> what stands for a station that is not known.
    """
    rows = []
    for record in records:
        station = record.station or station_of(record.name)
        codes = record.network, station, record.location
        start, rate = record.start or 0, record.sampling_rate
        for channel, column in zip(record.channels, record.waveform.T, strict=True):
            rows.append((*codes, channel, start, rate, column))
    return _stream(rows)


def _stream(rows):
    obspy = optional("obspy")
    found = obspy.Stream()
    for network, station, location, channel, start, rate, samples in rows:
        header = {
            "network": network,
            "station": station,
            "location": location,
            "channel": channel,
            "starttime": obspy.UTCDateTime(ns=start),
            "sampling_rate": rate,
        }
        found.append(obspy.Trace(np.ascontiguousarray(samples), header))
    return found
