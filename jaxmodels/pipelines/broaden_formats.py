"""Seismograms in files: NPZ, miniSEED and SAC (ObsPy), ASDF (h5py).

Shapes use T samples, C components.
"""

import datetime
import hashlib
import io
import pathlib
from typing import NamedTuple

import numpy as np

from jaxmodels.data.records import first_line
from jaxmodels.data.seismic_records import optional
from jaxmodels.train.errors import ConfigError

ORDER = "ZNE"
COMPONENTS = {"Z": "Z", "N": "N", "E": "E", "1": "N", "2": "E"}  # last letters
ASDF_SUFFIXES = (".h5", ".hdf5", ".asdf")
RAW_TAG = "raw_recording"
NAMES = {  # entries of an NPZ file, the first that is there
    "rate": ("sampling_rate", "fs"),
    "order": ("components", "order"),
    "units": ("units", "unit"),
    "start": ("starttime", "start"),
    "sensitivity": ("sensitivity", "sens"),
}
SECOND = 1_000_000_000  # nanoseconds


class Trace(NamedTuple):
    """One component without gaps.

    Attributes:
        network, station, location, channel: codes, each may be empty.
        start: nanoseconds since 1970.
        sampling_rate: Hz.
        samples: [T], of the type that the file has.
        file: path.
        inventory: StationXML that the file holds, or None.
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
        units: what the file says, "counts" for integers, or None.
        network, station, location: codes.
        channels: C codes.
        start: nanoseconds since 1970; None where the file does not say.
        files: paths.
        inventory: StationXML that the file holds, or None.
        sensitivity: counts a m/s^2 that the file holds, or None.
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


def time_text(start):
    """UTC of nanoseconds since 1970, to the microsecond: 2019-07-06T03:19:52.500000."""
    seconds, rest = divmod(start, SECOND)
    whole = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return whole.strftime("%Y-%m-%dT%H:%M:%S") + f".{rest // 1000:06d}"


def sha256(path):
    """Digest of a file, hexadecimal."""
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def read_file(path, tag):
    """The records and the traces of one file."""
    if not path.is_file():
        raise ConfigError(f"there is no file {path}; check the name")
    if path.suffix.lower() == ".npz":
        return read_npz(path), []
    if path.suffix.lower() in ASDF_SUFFIXES:
        return [], _read_asdf(path, tag)
    return [], _read_obspy(path)


def read_npz(path):
    """The records of an NPZ file.

    The file holds `waveform` [T, C] or [C, T], or one such array a station, named
    "NET_STA"; a rate (`sampling_rate` or `fs`, in Hz); and where known `components`
    (or `order`), `units` (`unit`), `sensitivity` (`sens`), `starttime` (`start`),
    `network`, `station`, `location` and `channels`.

    Args:
        path: of the file.

    Raises:
        ConfigError: it cannot be read, or lacks something.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            held = {key: file[key] for key in file.files}
    except Exception as error:  # zipfile, zlib and numpy raise what they like
        raise ConfigError(f"{path} cannot be read: {first_line(error)}") from None

    def entry(what):
        found = [held.pop(key) for key in NAMES[what] if key in held]
        return found[0] if found else None

    rate, order, units = entry("rate"), entry("order"), entry("units")
    start, sensitivity = entry("start"), entry("sensitivity")
    try:
        rate = float(rate)
        start = None if start is None else _nanoseconds(str(start))
        sensitivity = None if sensitivity is None else float(sensitivity)
    except (TypeError, ValueError):
        raise ConfigError(
            f"{path} has a rate, starttime or sensitivity that cannot be read; an NPZ "
            "file holds waveform [T, C] and sampling_rate"
        ) from None
    arrays = {key: x for key, x in held.items() if x.dtype.kind in "iuf" and x.ndim > 0}
    for key in ("waveform", "x"):
        arrays = {"": arrays[key]} if key in arrays else arrays
    if not arrays:
        raise ConfigError(f"{path} holds no waveform; it has {', '.join(held)}")
    shared = dict(sampling_rate=rate, start=start, sensitivity=sensitivity)
    return [
        _npz_record(path, key, x, order, units, held, shared)
        for key, x in arrays.items()
    ]


def _npz_record(path, key, x, order, units, held, shared):
    """The record of the array of an NPZ file, by the name `key` if it has several."""
    network, station = str(held.get("network", "")), str(held.get("station", ""))
    label = ""
    if key:
        network, _, station = key.partition("_")
        label = ".".join(filter(None, (network, station)))
    letters, places, waveform = _oriented(path, x, order)
    channels = [str(code) for code in np.atleast_1d(held.get("channels", ()))]
    if len(channels) == len(letters):
        channels = [channels[place] for place in places]
    else:
        channels = [f"HN{letter}" for letter in letters]
    if units is None and (shared["sensitivity"] is not None or x.dtype.kind != "f"):
        units = "counts"
    return Record(
        name=label or pathlib.Path(path).stem,
        waveform=waveform,
        components=letters,
        units=None if units is None else str(units),
        network=network,
        station=station,
        location=str(held.get("location", "")),
        channels=tuple(channels),
        files=(str(path),),
        **shared,
    )


def _oriented(path, x, order):
    """Letters in the order of ORDER, their places in `x`, and float64 [T, C]."""
    if x.ndim == 1:
        x = x[:, None]
    if x.ndim != 2:
        raise ConfigError(f"{path} holds an array of shape {x.shape}, not [T, C]")
    waveform = x.T if x.shape[0] < x.shape[1] else x
    count = waveform.shape[1]
    if order is None:
        given = list(ORDER[:count])
    else:
        given = list("".join(str(letter) for letter in np.atleast_1d(order)))
    letters = [COMPONENTS.get(letter.upper(), "") for letter in given]
    if "" in letters or len(set(letters)) != len(letters) or len(letters) != count:
        raise ConfigError(
            f"{path} has {count} component(s) named {''.join(given)!r}; name each "
            "once, of Z, N or 1, and E or 2"
        )
    places = sorted(range(count), key=lambda place: ORDER.index(letters[place]))
    ordered = "".join(letters[place] for place in places)
    return ordered, places, waveform[:, places].astype(np.float64)


def _read_obspy(path):
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
            float(one.stats.sampling_rate),
            np.asarray(one.data),
            str(path),
        )
        for one in stream
    ]


def _read_asdf(path, tag):
    """Traces of an ASDF file (Krischer et al., 2016): /Waveforms/NET.STA/..."""
    h5py = optional("h5py")
    try:
        with h5py.File(path, "r") as file:
            stations = file.get("Waveforms")
            if stations is None:
                raise ConfigError(f"{path} is HDF5 without Waveforms, so no ASDF file")
            return [
                trace
                for station in stations.values()
                for trace in _asdf_station(path, station, tag)
            ]
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {first_line(error)}") from None


def _asdf_station(path, station, tag):
    found: dict[str, list] = {}
    inventory = None
    for name, data in station.items():
        if name == "StationXML":
            inventory = bytes(data[:].tobytes())
            continue
        codes, _, rest = name.partition("__")
        found.setdefault(rest.rpartition("__")[2], []).append((codes, data))
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
        start = int(data.attrs["starttime"])
        rate = float(data.attrs["sampling_rate"])
        where = str(path)
        trace = Trace(
            network, code, location, channel, start, rate, data[:], where, inventory
        )
        traces.append(trace)
    return traces


def _nanoseconds(text):
    return int(np.datetime64(text.removesuffix("Z"), "ns").astype(np.int64))


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
