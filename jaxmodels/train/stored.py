"""One checkpoint on disk: its layout, its digests, and how it is read and verified.

A step is a folder named by its number. Orbax writes it and renames it in place when it
is whole. It holds the arrays (`state`) and `digests/digests.json`: for every array its
shape, dtype and digest, under a checksum of their own. Orbax itself notices neither
flipped bits nor a dtype that differs; the digests, taken again after reading, do.
"""

import hashlib
import json
import logging as log
import os
import re
import sys
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from jaxmodels.train import digest
from jaxmodels.train.errors import ConfigError, StorageError

FORMAT = 1
STATE, DIGESTS = "state", "digests"
PREPROCESSING = "preprocessing"  # in a record
UNFINISHED = ".orbax-checkpoint-tmp"  # in the name of what Orbax has not finished
CORRUPT = ".corrupt"  # ends the name of what was moved aside
MOST_STEPS = 1024  # listed at once; the newest ones
ORBAX = os.path.join("", "orbax", "checkpoint", "")  # in the paths of its files
TENSORSTORE = ('" driver: ', " OCDBT database ")  # in the texts of its errors
DETAILS = re.compile(r" \[\w+(?:\[\d+\])?='| See full TensorStore details")
LATE = ("exception was never retrieved", "was destroyed but it is pending")
CLOSED = "Event loop is closed"

_hook_before: Callable | None = None


class CorruptError(Exception):
    """A stored step cannot be read, or does not hold what was saved."""


class Loaded(NamedTuple):
    """A verified step.

    Attributes:
        record: what it holds, as `read_record` returns it.
        leaves: the arrays that were asked for, by name.
        bad: newer steps that were passed over, with the reason.
    """

    record: dict
    leaves: dict
    bad: dict


def handlers():
    """What Orbax writes the two items of a step with."""
    return ocp.CompositeCheckpointHandler(
        **{
            STATE: ocp.PyTreeCheckpointHandler(),
            DIGESTS: ocp.JsonCheckpointHandler(f"{DIGESTS}.json"),
        }
    )


def quiet_orbax():
    """Keeps Orbax's own text off the console; its errors reach us as exceptions.

    Where one array cannot be read, Orbax abandons the reads of the others, and each
    of them reports itself in pages: from a coroutine that is collected, a task that
    nobody awaits, or a thread that finds the event loop closed.
    """
    global _hook_before
    for logger in (logging.get_absl_logger(), log.getLogger("asyncio")):
        if _not_orbax not in logger.filters:
            logger.addFilter(_not_orbax)
    if _hook_before is None:
        _hook_before, sys.unraisablehook = sys.unraisablehook, _not_abandoned


def _not_orbax(record):
    if ORBAX in record.pathname:
        return False
    message = record.getMessage() if record.name == "asyncio" else ""
    late = any(text in message for text in LATE)
    return not late or not any(text in message for text in (ORBAX, *TENSORSTORE))


def _not_abandoned(unraisable):
    code = getattr(unraisable.object, "cr_code", None)
    late = unraisable.object is None and str(unraisable.exc_value) == CLOSED
    abandoned = code is not None and ORBAX in code.co_filename
    if _hook_before is not None and not late and not abandoned:
        _hook_before(unraisable)


def first_line(error):
    """The first line of an error's text without the specifications in it.

    The errors of TensorStore go from the general to the cause, so what is too long
    loses its middle.
    """
    line = next((line for line in str(error).splitlines() if line.strip()), "")
    line = DETAILS.split(line.strip())[0]
    line = f"{type(error).__name__}: {line}" if line else type(error).__name__
    return line if len(line) <= 200 else f"{line[:80]} ... {line[-115:]}"


def open_folder(path):
    """The absolute path that Orbax wants; a URL is one already."""
    path = epath.Path(path)
    return path if "://" in str(path) else path.absolute()


def agree(code):
    """The largest of the integers that the processes bring."""
    if jax.process_count() == 1:
        return code
    return int(np.max(multihost_utils.process_allgather(np.int32(code))))


def from_primary(numbers):
    """The integers that the first process holds, on every process."""
    if jax.process_count() == 1:
        return list(numbers)
    padded = np.full(MOST_STEPS, -1, np.int32)
    newest = list(numbers)[-MOST_STEPS:]
    padded[: len(newest)] = newest
    shared = np.asarray(multihost_utils.broadcast_one_to_all(padded))
    return [int(number) for number in shared if number >= 0]


def list_steps(directory):
    """Steps on disk, ascending, as the first process sees them.

    Raises:
        StorageError: the folder is there and cannot be listed.
    """
    found, failure = [], None
    try:
        if jax.process_index() == 0 and directory.exists():
            names = (path.name for path in directory.iterdir() if path.is_dir())
            found = sorted(int(name) for name in names if is_step(name))
    except OSError as error:
        failure = first_line(error)
    if agree(failure is not None):
        raise StorageError(
            f"the checkpoints in {directory} cannot be listed: {failure}"
        )
    return from_primary(found)


def is_step(name):
    return name.isascii() and name.isdecimal() and str(int(name)) == name


def make_record(step, leaves, digests, preprocessing=None):
    """What is stored beside the arrays, to judge them by when they are read."""
    entries = {
        name: {
            "shape": list(leaf.shape),
            "dtype": str(leaf.dtype),
            "digest": digests[name],
        }
        for name, leaf in leaves.items()
    }
    record = {"format": FORMAT, "step": step, "leaves": entries}
    return record if preprocessing is None else record | {PREPROCESSING: preprocessing}


def seal(record):
    """The record as it is written, with its own checksum."""
    return {**record, "sha256": _checksum(record)}


def _checksum(record):
    text = json.dumps(record, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_record(directory, step):
    """The record of one step.

    Raises:
        CorruptError: it is missing, unreadable, changed, or of another step.
        ConfigError: a newer release wrote it.
    """
    path = directory / str(step) / DIGESTS / f"{DIGESTS}.json"
    try:
        record = json.loads(path.read_bytes())
        checksum = record.pop("sha256")
    except FileNotFoundError:
        raise CorruptError(f"{path.name} is missing") from None
    except (OSError, ValueError, RecursionError, AttributeError, KeyError) as error:
        raise CorruptError(f"{path.name} is unreadable, {first_line(error)}") from None
    except TypeError:
        raise CorruptError(f"{path.name} is not a JSON object") from None
    if checksum != _checksum(record):
        raise CorruptError(f"{path.name} does not match its checksum")
    if record["format"] != FORMAT:
        raise ConfigError(
            f"{path.parent.parent} has checkpoint format {record['format']}, this "
            f"release reads {FORMAT}; read it with the release that wrote it"
        )
    if record["step"] != step:
        raise CorruptError(f"it holds step {record['step']}")
    return record


def describe(leaf):
    """float32[256, 64], of an array or of an entry of a record."""
    if isinstance(leaf, dict):
        return f"{leaf['dtype']}{leaf['shape']}"
    return f"{leaf.dtype}{list(leaf.shape)}"


def newest(directory, steps, choose, warn=logging.warning):
    """Reads the newest step that verifies, in all processes the same one.

    Args:
        directory: of the steps.
        steps: the candidates, ascending.
        choose: record -> {name: jax.ShapeDtypeStruct with a sharding}, what to read;
            raises ConfigError where the record is not what the caller can use.
        warn: called with a line about each step that is passed over.

    Returns:
        `Loaded`; nothing on disk was changed.

    Raises:
        ConfigError: from `choose`.
        StorageError: no step verifies.
    """
    bad = {}
    for step in reversed(steps):
        try:
            record, leaves = _load(directory, step, choose)
        except CorruptError as error:
            bad[step] = str(error)
            warn(f"checkpoint {step} in {directory} is corrupt, passed over: {error}")
        else:
            return Loaded(record, leaves, bad)
    tried = "; ".join(f"step {step}: {reason}" for step, reason in bad.items())
    raise StorageError(
        f"no checkpoint in {directory} can be restored ({tried}); nothing was moved: "
        "bring a good copy back, or name another workdir to start anew"
    )


def _load(directory, step, choose):
    def plan():
        record = read_record(directory, step)
        return record, choose(record)

    def read():
        return _read_arrays(directory / str(step) / STATE, wanted)

    def compare():
        for name, leaf in leaves.items():
            entry = record["leaves"][name]
            if describe(leaf) != describe(entry):
                raise CorruptError(f"{name} came back as {describe(leaf)}")
            if digests[name] != entry["digest"]:
                raise CorruptError(f"the digest of {name} differs")

    record, wanted = _together(plan)
    leaves = _together(read)
    digests, _ = digest.inspect(leaves)
    _together(compare)
    return record, leaves


def _together(work):
    """Runs `work` in every process; all return, or all raise the same kind of error."""
    result, error, code = None, None, 0
    try:
        result = work()
    except (CorruptError, ConfigError) as caught:
        error, code = caught, 2 if isinstance(caught, ConfigError) else 1
    verdict = agree(code)
    if error is not None and code == verdict:
        raise error
    if verdict:
        kind = CorruptError if verdict == 1 else ConfigError
        raise kind("another process found it so")
    return result


def _read_arrays(path, wanted):
    """Arrays by name, read by Orbax and by no more than `wanted` names."""
    if not wanted:
        return {}
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    tree = digest.nest(wanted)
    arguments = jax.tree.map(
        lambda leaf: ocp.ArrayRestoreArgs(
            sharding=leaf.sharding or here, global_shape=leaf.shape, strict=True
        ),
        tree,
    )
    # The handler by itself: a checkpointer would wait for the other processes, and one
    # of them may be about to fail.
    handler = ocp.PyTreeCheckpointHandler()
    try:
        restored = handler.restore(
            path,
            args=ocp.args.PyTreeRestore(
                tree, restore_args=arguments, partial_restore=True
            ),
        )
    except Exception as error:  # Orbax and TensorStore raise bare Exception too.
        raise CorruptError(f"its arrays are unreadable, {first_line(error)}") from None
    restored = digest.flatten(restored)
    # Orbax hands back the request itself where its metadata lacks an array.
    for name in wanted:
        if not isinstance(restored.get(name), jax.Array):
            raise CorruptError(f"{name} is missing")
    return {name: restored[name] for name in wanted}
