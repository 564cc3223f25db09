"""Metrics of a run: pairs that add up, lines in a file, TensorBoard events, a plot.

A metric is a pair (sum, count), so it adds up over devices, microbatches and ragged
last batches. What is written can be cut back to the step that a run resumes from.
"""

import errno
import io
import json
import math
import operator
import os
import pathlib
import socket
import struct
import sys
import time

import jax
import numpy as np
from google.protobuf.message import DecodeError
from tensorboardX.proto import event_pb2, summary_pb2
from tensorboardX.record_writer import masked_crc32c

from jaxmodels.train import plot
from jaxmodels.train.errors import StorageError

RESERVED = ("step", "split", "not_finite")


def means(metrics):
    """{name: (sum, count)} to {name: sum / count}, nan where nothing was counted.

    Raises:
        ValueError: a sum or a count is no single number.
    """
    metrics = jax.device_get(metrics)
    for name, pair in metrics.items():
        shapes = [np.shape(number) for number in pair]
        if shapes != [(), ()]:
            raise ValueError(
                f"metric {name} has shapes {shapes}, not a sum and a count; "
                "reduce it in the loss or give the task its own `summarize`"
            )
    return {
        name: float(total) / float(count) if count else math.nan
        for name, (total, count) in metrics.items()
    }


def add(a, b):
    """Metrics of two batches together. Both hold the same names."""
    return jax.tree.map(operator.add, a, b)


class MetricsWriter:
    """Writes `metrics.jsonl`, TensorBoard events and `loss.png` into a workdir.

    Each line of `metrics.jsonl` is a JSON object: `step`, `split`, then the values by
    name. A value that is not finite is null, and `not_finite` says by name what it
    was. A disk that refuses a line costs one warning; the line is kept and written
    with the next one.

    Args:
        workdir: folder, made where missing. One process writes.
        resume_step: the step that the run goes on from; what was written of later
            ones is dropped.
        warn: called with a line of warning; prints to standard error when omitted.

    Raises:
        StorageError: what a run left behind cannot be cut back.
    """

    def __init__(self, workdir, *, resume_step=0, warn=None):
        self._workdir = pathlib.Path(workdir)
        self._warn = _print_warning if warn is None else warn
        self._resume_step = resume_step
        try:
            self._workdir.mkdir(parents=True, exist_ok=True)
            lines = self._workdir / "metrics.jsonl"
            _drop_lines(lines, resume_step)
            for path in self._workdir.glob("events.out.tfevents.*"):
                _drop_events(path, resume_step)
        except OSError as error:
            raise StorageError(
                f"{error.filename or self._workdir} cannot be cut back to step "
                f"{resume_step}: {error.strerror}; free it or take another workdir"
            ) from error
        self._lines = _AppendedFile(lines, self._warn)
        self._events = None

    def write(self, step, split, values):
        """Adds the values (name -> number) of a split after `step` updates."""
        clash = sorted(set(values) & set(RESERVED))
        if clash:
            raise ValueError(f"metric {clash[0]!r} would hide that field of the line")
        values = {name: _plain(value) for name, value in values.items()}
        finite = {n: v if math.isfinite(v) else None for n, v in values.items()}
        record = {"step": int(step), "split": split, **finite}
        bad = {name: str(v) for name, v in values.items() if finite[name] is None}
        if bad:
            record["not_finite"] = bad
        self._lines.append(json.dumps(record, allow_nan=False).encode() + b"\n")
        if self._events is None:
            self._events = self._open_events()
        self._events.append(_event(step, split, values))

    def plot(self, *, baselines=None, log_x=False):
        """Writes `loss.png`: curves of the losses and of what has a baseline.

        Args:
            baselines: {name: value}; `unigram_bits_per_byte` is a line named
                "unigram" across the panel of the metric `bits_per_byte`.
            log_x: steps on a logarithmic axis.
        """
        try:
            path = self._workdir / "metrics.jsonl"
            records = _read_lines(path)[0] if path.exists() else []
            title = self._workdir.resolve().name
            figure = plot.curves(records, baselines, title=title, log_x=log_x)
            if figure is not None:
                image = io.BytesIO()
                figure.savefig(image, format="png", dpi=120)
                _replace(self._workdir / "loss.png", image.getvalue())
        except OSError as error:
            self._warn(f"warning: loss.png could not be written: {error.strerror}")

    def close(self):
        """Tries once more to write what the disk refused before."""
        for file in (self._lines, self._events):
            if file is not None:
                file.append(b"")

    def _open_events(self):
        """A fresh file; TensorBoard forgets later steps that it has read already."""
        name = f"{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        path = self._workdir / f"events.out.tfevents.{name}"
        file = _AppendedFile(path, self._warn)
        version = event_pb2.Event(wall_time=time.time(), file_version="brain.Event:2")
        start = event_pb2.Event(wall_time=time.time(), step=self._resume_step + 1)
        start.session_log.status = event_pb2.SessionLog.START
        file.append(_framed(version) + _framed(start))
        return file


class _AppendedFile:
    """A file that grows by whole records; what the disk refuses waits in memory."""

    def __init__(self, path, warn):
        self._path, self._warn = path, warn
        self._waiting, self._refused = b"", False

    def append(self, data):
        self._waiting += data
        if not self._waiting:
            return
        try:
            _append(self._path, self._waiting)
        except OSError as error:
            if not self._refused:
                self._warn(
                    f"warning: {self._path.name} could not be written: "
                    f"{error.strerror}; what it misses is kept for later"
                )
            self._refused = True
        else:
            self._waiting, self._refused = b"", False


def _append(path, data):
    """One write; on a disk that takes only a part of it, none."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        if os.write(descriptor, data) < len(data):
            os.ftruncate(descriptor, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    finally:
        os.close(descriptor)


def _replace(path, data):
    """Puts `data` in the place of a file; it has the old content or the new one."""
    beside = path.with_name(f".{path.name}.tmp")
    try:
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def _print_warning(text):
    print(text, file=sys.stderr, flush=True)


def _plain(value):
    return int(value) if isinstance(value, int | np.integer) else float(value)


def _read_lines(path):
    """Records of a file and the lines they come from; torn lines are left out."""
    records, lines = [], []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        known = isinstance(record, dict) and isinstance(record.get("step"), int)
        if known and line.endswith(b"\n"):
            records.append(record)
            lines.append(line)
    return records, lines


def _drop_lines(path, last_step):
    if not path.exists():
        return
    pairs = zip(*_read_lines(path), strict=True)
    kept = b"".join(line for record, line in pairs if record["step"] <= last_step)
    if len(kept) < path.stat().st_size:
        _replace(path, kept)


def _drop_events(path, last_step):
    data, kept, any_values = path.read_bytes(), b"", False
    for frame, event in _events(data):
        if event.step <= last_step:
            kept += frame
            any_values |= event.HasField("summary")
    if not any_values:
        path.unlink()
    elif len(kept) < len(data):
        _replace(path, kept)


def _events(data):
    """Framed bytes and event of each record, up to the first that is torn."""
    start = 0
    while start + 16 <= len(data):
        size, checksum = struct.unpack_from("<QI", data, start)
        end = start + 16 + size
        if end > len(data) or checksum != masked_crc32c(data[start : start + 8]):
            return
        try:
            event = event_pb2.Event.FromString(data[start + 12 : end - 4])
        except DecodeError:
            return
        yield data[start:end], event
        start = end


def _event(step, split, values):
    scalars = [
        summary_pb2.Summary.Value(tag=f"{split}/{name}", simple_value=value)
        for name, value in values.items()
    ]
    summary = summary_pb2.Summary(value=scalars)
    return _framed(
        event_pb2.Event(wall_time=time.time(), step=int(step), summary=summary)
    )


def _framed(event):
    """A record of an event file: length, its checksum, event, its checksum."""
    data = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    checksums = [struct.pack("<I", masked_crc32c(part)) for part in (length, data)]
    return length + checksums[0] + data + checksums[1]
