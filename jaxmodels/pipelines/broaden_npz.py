"""Seismograms in NPZ files.

Shapes use T samples, C components.
"""

import pathlib
import zipfile

import numpy as np

from jaxmodels.data.records import first_line
from jaxmodels.pipelines import broaden_formats as formats
from jaxmodels.pipelines.broaden_formats import COMPONENTS, ORDER, Record
from jaxmodels.train.errors import ConfigError

NAMES = {  # entries of an NPZ file, the first that is there
    "rate": ("sampling_rate", "fs"),
    "order": ("components", "order"),
    "units": ("units", "unit"),
    "start": ("starttime", "start"),
    "sensitivity": ("sensitivity", "sens"),
}


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
    held = _content(path)

    def entry(what):
        found = [held.pop(key) for key in NAMES[what] if key in held]
        return found[0] if found else None

    rate, order, units = entry("rate"), entry("order"), entry("units")
    start, sensitivity = entry("start"), entry("sensitivity")
    if rate is None:
        raise ConfigError(
            f"{path} has no sampling_rate (or fs), in Hz; an NPZ file holds it beside "
            "waveform [T, C]"
        )
    rate = _number(path, "sampling_rate", rate, float)
    rate = formats.rate_of(path, rate)
    if start is not None:
        start = _number(path, "starttime", start, formats.nanoseconds)
    if sensitivity is not None:
        sensitivity = _number(path, "sensitivity", sensitivity, float)
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


def _content(path):
    """{name: array} of an NPZ file."""
    if not zipfile.is_zipfile(path):
        raise ConfigError(f"{path} cannot be read: it is no NPZ file, or a cut one")
    held = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            for key in file.files:
                try:
                    held[key] = file[key]
                except ValueError:  # of objects, whose code is not to be run
                    raise ConfigError(
                        f"{path}: {key} cannot be read; save it as numbers or as text"
                    ) from None
    except ConfigError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise what they like
        raise ConfigError(f"{path} cannot be read: {first_line(error)}") from None
    return held


def _number(path, name, value, kind):
    """`kind` of the one value of an array."""
    try:
        return kind(value.item() if value.dtype.kind in "iufU" else str(value))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{path} has a {name} that cannot be read: {first_line(error)}"
        ) from None


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
    counts = shared["sensitivity"] is not None or formats.whole_numbers(x)
    if units is None and counts:
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
