"""Records of ground motion in one array, in a folder that is made once.

    motion.bin  float32 [sum of T, 3], every record after the other
    starts.npy  int64 [R + 1], where each begins
    names.json  R lists of texts: name, event, station, ...
    meta.json   a checksum, and the records that were bad

Other arrays stand beside `starts.npy`. Shapes use R records, T samples of a record.
"""

import functools
import hashlib
import json
import pathlib
import zlib
from typing import Any, NamedTuple

import numpy as np

from jaxmodels.data import cache, seismic_records
from jaxmodels.data.records import BadRecordError, BadRecords


class MotionFolder(NamedTuple):
    """What a folder holds.

    Attributes:
        motion: [sum of T, 3], a memory map.
        arrays: name to array, `starts` among them.
        names, meta: of the JSON files.
    """

    motion: np.ndarray
    arrays: dict[str, np.ndarray]
    names: list
    meta: dict[str, Any]


def read(directory, arrays, per_record=()):
    """Opens a folder as a `MotionFolder`.

    Args:
        arrays: names of its arrays.
        per_record: those of them that have a row for each record.

    Raises:
        StorageError: the files are damaged.
    """
    directory = pathlib.Path(directory)
    with cache.opened(directory):
        meta = json.loads((directory / "meta.json").read_text("utf-8"))
        names = json.loads((directory / "names.json").read_text("utf-8"))
        found = {name: np.load(directory / f"{name}.npy") for name in arrays}
        flat = np.memmap(directory / "motion.bin", np.float32, mode="r")
        motion = flat.reshape(-1, len(seismic_records.COMPONENTS))
        starts = found["starts"]
        rows = [len(names), *(len(found[name]) for name in per_record)]
        complete = len(motion) == starts[-1] and set(rows) == {len(starts) - 1}
        cache.check_whole(directory, motion, meta["crc32"], complete)
    return MotionFolder(motion, found, names, meta)


def build(parent, prefix, key, made, arrays, **more):
    """Makes the folder of a key below `parent`, once; returns its path.

    Args:
        prefix: of its name.
        key: JSON-able, all that decides what is in it.
        made: (write) -> {"names": ..., "meta": ..., and each of `arrays`}; passes the
            motion of record after record to `write`.
        arrays: names of its arrays.
        more: JSON-able, added to the meta.

    Raises:
        ConfigError, StorageError: see `cache.build_once`; and what `made` raises.
    """
    digest = hashlib.sha256(json.dumps(key).encode("utf-8")).hexdigest()[:16]
    return cache.build_once(
        pathlib.Path(parent) / f"{prefix}-{digest}",
        functools.partial(_write, made=made, arrays=arrays, more=more),
    )


def in_memory(made):
    """What `made` of `build` makes, without a folder: the motion, and the rest."""
    pieces: list[np.ndarray] = []
    index = made(pieces.append)
    return np.concatenate(pieces), index


def check_bad(meta, on_bad_record, max_bad_fraction):
    """Holds the bad records of a folder that is there against a policy.

    They were met by an earlier call, under another policy perhaps.

    Raises:
        BadRecordError: see `jaxmodels.data.records`.
    """
    if not meta["bad"]:
        return
    where, reason = meta["first_bad"]
    if on_bad_record == "stop":
        raise BadRecordError(where, reason)
    bad = BadRecords(meta["records"], on_bad_record, max_bad_fraction)
    bad.check_fraction(meta["bad"], where, reason)


def _write(directory, made, arrays, more):
    """Writes the files into an empty folder."""
    crc = 0
    with open(directory / "motion.bin", "wb") as file:

        def write(motion):
            nonlocal crc
            crc = zlib.crc32(motion.data, crc)
            file.write(motion.data)

        index = made(write)
    for name in arrays:
        np.save(directory / f"{name}.npy", index[name])
    (directory / "names.json").write_text(json.dumps(index["names"]), "utf-8")
    meta = {**index["meta"], "crc32": crc, **more}
    (directory / "meta.json").write_text(json.dumps(meta), "utf-8")
