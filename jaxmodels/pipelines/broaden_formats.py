"""Seismograms and the files they are in: miniSEED and SAC (ObsPy), ASDF (h5py).

Shapes use T samples, C components.
"""

import datetime
import hashlib
import io
import math
import pathlib
import re
from typing import NamedTuple

import numpy as np

from jaxmodels.data.records import first_line
from jaxmodels.data.seismic_records import optional
from jaxmodels.train.errors import ConfigError

ORDER = "ZNE"
COMPONENTS = {"Z": "Z", "N": "N", "E": "E", "1": "N", "2": "E"}  # last letters
ASDF_SUFFIXES = (".h5", ".hdf5", ".asdf")
ASDF_ATTRIBUTES = ("starttime", "sampling_rate")
RAW_TAG = "raw_recording"
SECOND = 1_000_000_000  # nanoseconds
UNKNOWN = "unknown"  # units where a file should say them, and does not
MOTIONS = ("displacement", "velocity")
SAC_UNITS = {6: "displacement", 7: "velocity", 8: None}  # IDEP; no unit is certain


class Trace(NamedTuple):
    """One component without gaps.

    Attributes:
        network, station, location, channel: codes, each may be empty.
        start: nanoseconds since 1970.
        sampling_rate: Hz.
        samples: [T], of the type that the file has.
        file: path.
        inventory: StationXML that the file holds, or None.
        units: as in `Record`.
        notes: lines about what is not taken from its file.
    """

    network: str
    station: str
    location: str
    channel: str
    start: int
    sampling_rate: float
    samples: np.ndarray
    file: str
    inventory: bytes | None = None
    units: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def name(self):
        """NET.STA.LOC.CHA."""
        return ".".join((self.network, self.station, self.location, self.channel))

    @property
    def end(self):
        """Nanoseconds since 1970 at which the sample after the last one would be."""
        return self.start + round(len(self.samples) * SECOND / self.sampling_rate)


class Record(NamedTuple):
    """Components of one instrument over one time, as they were recorded.

    Attributes:
        name: for the files that are made of it.
        waveform: float64 [T, C].
        sampling_rate: Hz.
        components: C letters of "ZNE", in this order.
        units: what the file says, "counts" for whole numbers, UNKNOWN, or None.
        network, station, location: codes.
        channels: C codes.
        start: nanoseconds since 1970; None where the file does not say.
        files: paths.
        inventory: StationXML that the file holds, or None.
        sensitivity: counts a m/s^2 that the file holds, or None.
        notes: lines about how it was read.
    """

    name: str
    waveform: np.ndarray
    sampling_rate: float
    components: str
    units: str | None
    network: str
    station: str
    location: str
    channels: tuple[str, ...]
    start: int | None
    files: tuple[str, ...]
    inventory: bytes | None = None
    sensitivity: float | None = None
    notes: tuple[str, ...] = ()


def whole_numbers(samples):
    """Whether samples are counts by their look: no fractions, and not all zero."""
    if samples.dtype.kind in "iu":
        return True
    return bool(np.any(samples) and np.all(samples == np.round(samples)))


def rate_of(path, value):
    """A sampling rate in Hz as a float.

    Raises:
        ConfigError: it is none.
    """
    rate = float(value)
    if not (math.isfinite(rate) and rate > 0):
        raise ConfigError(
            f"{path} has a sampling rate of {rate:g} Hz; write the real one into it"
        )
    return rate


def time_text(start):
    """UTC of nanoseconds since 1970, to the microsecond: 2019-07-06T03:19:52.500000."""
    seconds, rest = divmod(start, SECOND)
    whole = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return whole.strftime("%Y-%m-%dT%H:%M:%S") + f".{rest // 1000:06d}"


def nanoseconds(time):
    """Nanoseconds since 1970 of seconds since then, or of a text in ISO 8601.

    A text without an offset, or with Z, is in UTC.

    Raises:
        ValueError: it is neither, or not between 1678 and 2262.
    """
    if not isinstance(time, str):
        whole = math.floor(time)
        # A float of seconds is good for a microsecond, not for more.
        return _known_time(whole * SECOND + round((time - whole) * 1e6) * 1000, time)
    text, offset = time.strip().removesuffix("Z"), 0
    if found := re.fullmatch(r"(.+T.+)([+-])(\d\d):?(\d\d)", text):
        text, sign, hours, minutes = found.groups()
        offset = (int(hours) * 3600 + int(minutes) * 60) * SECOND
        offset = -offset if sign == "-" else offset
    # Of more than a year's digits it is a number, that of seconds.
    if re.fullmatch(r"-?\d{9,}(\.\d+)?", text):
        return nanoseconds(float(text) if "." in text else int(text))
    stamp = np.datetime64(text)
    if np.isnat(stamp):
        raise ValueError(f"{time!r} is no time")
    seconds = int(stamp.astype("datetime64[s]").astype(np.int64))
    rest = stamp - stamp.astype("datetime64[s]")
    fraction = int(rest.astype("timedelta64[ns]").astype(np.int64))
    return _known_time(seconds * SECOND + fraction - offset, time)


def _known_time(start, time):
    if abs(start) >= 2**63:
        raise ValueError(f"{time} is no time between 1678 and 2262, in seconds")
    return start


def sha256(path):
    """Digest of a file, hexadecimal."""
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def read_obspy(path):
    """Traces of a miniSEED or SAC file, or of any other that ObsPy reads."""
    obspy = optional("obspy")
    try:
        stream = obspy.read(str(path), check_compression=False)
    except Exception as error:  # each format raises its own
        raise ConfigError(
            f"{path} cannot be read as miniSEED or SAC: {first_line(error)}"
        ) from None
    return [
        Trace(
            one.stats.network,
            one.stats.station,
            one.stats.location,
            one.stats.channel,
            one.stats.starttime.ns,
            rate_of(path, one.stats.sampling_rate),
            np.asarray(one.data),
            str(path),
            units=_sac_units(one.stats),
        )
        for one in stream
    ]


def _sac_units(stats):
    """What the header of a SAC file says; None for other formats."""
    if "sac" not in stats:
        return None
    return SAC_UNITS.get(int(stats.sac.get("idep", 0)), UNKNOWN)


def read_asdf(path, tag):
    """Traces of an ASDF file (Krischer et al., 2016): /Waveforms/NET.STA/..."""
    h5py = optional("h5py")
    try:
        with h5py.File(path, "r") as file:
            stations = file.get("Waveforms")
            if stations is None:
                raise ConfigError(f"{path} is HDF5 without Waveforms, so no ASDF file")
            tags: set[str] = set()
            traces = [
                trace
                for station in stations.values()
                for trace in _asdf_station(path, station, tag, tags)
            ]
    except ConfigError:
        raise
    except Exception as error:  # h5py, and what looks for more than a file has
        raise ConfigError(
            f"{path} cannot be read as ASDF: {first_line(error)}"
        ) from None
    if not traces and tags and tag not in tags:
        raise ConfigError(
            f"{path} has no waveforms tagged {tag!r}; its tags are "
            f"{', '.join(sorted(tags))}"
        )
    return traces


def _asdf_station(path, station, tag, tags):
    """Traces of one station; the tags that it has are added to `tags`."""
    found: dict[str, list] = {}
    inventory = None
    for name, data in station.items():
        if name == "StationXML":
            inventory = bytes(data[:].tobytes())
            continue
        codes, _, rest = name.partition("__")
        found.setdefault(rest.rpartition("__")[2], []).append((codes, data))
    tags.update(found)
    if tag is None:
        tag = RAW_TAG if RAW_TAG in found else next(iter(found), None)
        if len(found) > 1 and tag != RAW_TAG:
            raise ConfigError(
                f"{path} holds {station.name} more than once, tagged "
                f"{', '.join(sorted(found))}; choose one with --tag"
            )
    traces = []
    for codes, data in found.get(tag, []):
        network, code, location, channel = (*codes.split(".", 3), "", "", "")[:4]
        missing = [key for key in ASDF_ATTRIBUTES if key not in data.attrs]
        if missing or data.ndim != 1 or data.dtype.kind not in "iuf":
            fault = f"no {' and no '.join(missing)}" if missing else "no 1-D numbers"
            raise ConfigError(
                f"{path}: {data.name} has {fault}; write the file again, with pyasdf"
            )
        start = int(data.attrs["starttime"])
        rate = rate_of(path, data.attrs["sampling_rate"])
        where = str(path)
        trace = Trace(
            network, code, location, channel, start, rate, data[:], where, inventory
        )
        traces.append(trace)
    return traces


def inventory_of(source):
    """An ObsPy inventory of a path or of the bytes of StationXML.

    Raises:
        ConfigError: it cannot be read.
    """
    obspy = optional("obspy")
    label = "the StationXML in the file" if isinstance(source, bytes) else source
    try:
        if isinstance(source, bytes):
            source = io.BytesIO(source.rstrip(b"\0"))
        return obspy.read_inventory(source)
    except Exception as error:
        raise ConfigError(
            f"inventory {label} cannot be read: {first_line(error)}"
        ) from None
