"""Records of ground motion: their fields, and the real ones that come with the package.

Every data set of records here, synthetic, read from files or embedded, has the fields
of `features`. Components are vertical, north, east; shapes use T samples.
"""

import concurrent.futures
import hashlib
import importlib
import importlib.resources
import itertools
import math
import os
import warnings

import numpy as np
import tensorflow_datasets as tfds

from jaxmodels.data.units import STANDARD_GRAVITY
from jaxmodels.train.errors import ConfigError

COMPONENTS = "ZNE"
NO_ARRIVAL = -1.0

RECORDINGS = {
    "ridgecrest": "ridgecrest2019_100hz_ug.npz",
    "napa": "napa2014_ce68150_200hz_counts.npz",
}


def features(**more):
    """The TFDS features of a record.

    waveform float32 [T, 3], in m/s^2 unless the data set says otherwise; sampling_rate
    in Hz; p_sample, s_sample: where P and S begin, `NO_ARRIVAL` where unknown; name of
    the record, source_id of the event, station; magnitude, distance in km, NaN where
    unknown.

    Args:
        more: features of one data set beyond these.
    """
    number = tfds.features.Scalar(np.float32)
    text = tfds.features.Text()
    return tfds.features.FeaturesDict(
        {
            "waveform": tfds.features.Tensor(
                shape=(None, len(COMPONENTS)),
                dtype=np.float32,
                encoding=tfds.features.Encoding.BYTES,
            ),
            "sampling_rate": tfds.features.Scalar(np.float64),
            "p_sample": number,
            "s_sample": number,
            "name": text,
            "source_id": text,
            "station": text,
            "magnitude": number,
            "distance": number,
            **more,
        }
    )


def record(waveform, sampling_rate, name, source_id, station, **known):
    """A record as a dict with all fields of `features`, those not known filled in."""
    unknown = {
        "p_sample": NO_ARRIVAL,
        "s_sample": NO_ARRIVAL,
        "magnitude": math.nan,
        "distance": math.nan,
    }
    return {
        "waveform": np.asarray(waveform, np.float32),
        "sampling_rate": float(sampling_rate),
        "name": name,
        "source_id": source_id,
        "station": station,
        **unknown,
        **known,
    }


def text_of(value):
    """A text field of a record, which is bytes where TFDS read it."""
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def hashed_split(source_id, shares):
    """The split of an event, from its name alone: it stays in it whatever is added.

    Args:
        shares: split -> share of the events; they add up to 1.
    """
    digest = hashlib.sha256(source_id.encode("utf-8", "surrogateescape")).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    for split, share in shares.items():
        place -= share
        if place < 0:
            return split
    return next(reversed(shares))


def optional(library):
    """`obspy` or `h5py`, which the extra `seismic` installs.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        with warnings.catch_warnings():
            # ObsPy reads its entry points in a way that Python 3.11 announces the end
            # of.
            warnings.simplefilter("ignore", DeprecationWarning)
            return importlib.import_module(library)
    except ImportError as error:
        raise ConfigError(
            f"{library} is missing; pip install 'jaxmodels[seismic]'"
        ) from error


def in_threads(function, arguments, block=256):
    """Yields the values in order; transforms of arrays run outside Python's lock."""
    arguments = iter(arguments)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        while taken := list(itertools.islice(arguments, block)):
            yield from pool.map(function, taken)


def recording(name):
    """The file of a name of `RECORDINGS` in the package."""
    return importlib.resources.files("jaxmodels.data") / "recordings" / RECORDINGS[name]


def embedded(name):
    """The real records of a name of `RECORDINGS`, in m/s^2, at the rate they have.

    Returns:
        A list of records: of "ridgecrest" three stations of one event, of "napa" one.
        Where the file has it, `start` is added to the fields: UTC of the first sample.
    """
    with importlib.resources.as_file(recording(name)) as path:
        with np.load(path) as archive:
            arrays = {key: archive[key] for key in archive.files}
    known = {"start": str(arrays["start"])} if "start" in arrays else {}
    if name == "napa":
        waveform = arrays["x"].T / float(arrays["sens"])
        station, event, magnitude = "CE.68150", "nc72282711", float(arrays["M"])
        waveforms = {station: waveform}
    else:
        event, magnitude = "ci38457511", 7.1
        waveforms = {
            key.replace("_", "."): arrays[key].T * (1e-6 * STANDARD_GRAVITY)
            for key in arrays
            if key.startswith("CI_")
        }
    return [
        record(
            waveform,
            float(arrays["fs"]),
            f"{event}.{station}",
            event,
            station,
            magnitude=magnitude,
            **known,
        )
        for station, waveform in waveforms.items()
    ]


class EmbeddedRecords:
    """Records of `embedded` as a split: random access as in `builder.RecordFiles`.

    Args:
        name: "ridgecrest" or "napa".
        split: "all"; stations, such as "CI.CCC,CI.CLC"; or all stations but some, with
            a minus before each, "-CI.TOW2".

    Raises:
        ConfigError: there is no such station, or none is left.
    """

    def __init__(self, name, split):
        found = embedded(name)
        stations = [one["station"] for one in found]
        chosen = choose_stations(name, split, stations)
        self._records = [one for one in found if one["station"] in chosen]
        self._name = name
        self.identity = f"{name} {RECORDINGS[name]} {chosen}"

    def __len__(self):
        return len(self._records)

    def __getitem__(self, index):
        return self._records[index]

    def __getitems__(self, indexes):
        return [self._records[index] for index in indexes]

    def where(self, index):
        """The name of a record, for messages."""
        return f"{self._name}: {self._records[index]['name']}"


def choose_stations(name, split, stations):
    """The stations that a split names; see `EmbeddedRecords`."""
    words = [word.strip() for word in split.split(",") if word.strip()]
    left_out = [word[1:] for word in words if word.startswith("-")]
    named = [word for word in words if not word.startswith("-") and word != "all"]
    unknown = [word for word in named + left_out if word not in stations]
    mixed = bool(left_out) and (bool(named) or "all" in words)
    chosen = [
        station
        for station in stations
        if station not in left_out and (not named or station in named)
    ]
    if unknown or mixed or not chosen or not words:
        raise ConfigError(
            f"{name} has no split {split!r}; it has all, {', '.join(stations)}, and"
            f" -{stations[0]} for all but that station"
        )
    return chosen
