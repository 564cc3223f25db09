"""Ends a run that stands still, and says where it stands."""

import contextlib
import faulthandler
import os
import pathlib
import sys
import threading
import time

from jaxmodels.train.errors import HangError

TICKS = 20  # looks at the time within one limit
HANDLER_SECONDS = 5.0


class Watchdog:
    """Context that kills the process when no step finishes for too long.

    A thread of its own looks on, so a loader that sleeps, a lock that nobody gives
    back, a device program without an end and a callback that never returns are all
    seen. The stacks of all threads and one line of error go to standard error; then
    the process ends with exit code 85, without clean-up, which could hang as well.
    Time in which the whole process was stopped (Ctrl-Z, a sleeping laptop) does not
    count.

    Args:
        seconds: longest time between two beats; None never kills.
        first_seconds: longest time to the first beat, and in `pause`, in which
            programs compile and files are written; `seconds` if that is longer.
            None waits for ever.
        heartbeat: path of a file that holds "step time" (updates, seconds since the
            epoch) of the newest beat, at most one second old, for probes of a
            cluster; None writes none.
        on_hang: called with the line of error before the process ends; it has
            five seconds.
    """

    def __init__(self, seconds, *, first_seconds, heartbeat=None, on_hang=None):
        for name, limit in (("seconds", seconds), ("first_seconds", first_seconds)):
            if limit is not None and limit <= 0:
                raise ValueError(f"{name} {limit} must be positive, or None for never")
        self._seconds = seconds
        if seconds is None or first_seconds is None:
            self._first_seconds = None
        else:
            self._first_seconds = max(seconds, first_seconds)
        self._heartbeat = pathlib.Path(heartbeat) if heartbeat else None
        self._on_hang = on_hang
        self._step, self._beats, self._pauses = None, 0, 0
        self._written, self._warned = -1.0, False
        self._left = threading.Event()
        self._thread = None

    def __enter__(self):
        if self._seconds is not None:
            self._thread = threading.Thread(
                target=self._watch, name="watchdog", daemon=True
            )
            self._thread.start()
        return self

    def __exit__(self, *exception):
        self._left.set()
        if self._thread is not None:
            self._thread.join()

    def beat(self, step):
        """Says that the run moves: an update or a batch of evaluation is done.

        Args:
            step: completed updates.
        """
        self._step = step
        self._beats += 1
        now = time.monotonic()
        if self._heartbeat is not None and not 0 <= now - self._written < 1:
            self._written = now
            self._write_heartbeat(self._heartbeat)

    @contextlib.contextmanager
    def pause(self):
        """Context with the limit of the first step; beats in it still count."""
        self._pauses += 1
        self._beats += 1
        try:
            yield
        finally:
            self._beats += 1
            self._pauses -= 1

    def _limit(self):
        first = self._step is None or self._pauses
        return self._first_seconds if first else self._seconds

    def _watch(self):
        tick = min(1.0, self._seconds / TICKS)
        seen, still, before = self._beats, 0.0, time.monotonic()
        while not self._left.wait(tick):
            now = time.monotonic()
            # A longer gap than this: the process was stopped, not the run.
            still += min(now - before, 5 * tick)
            before = now
            if seen != self._beats:
                seen, still = self._beats, 0.0
            limit = self._limit()
            if limit is not None and still > limit:
                self._kill(limit)

    def _kill(self, limit):
        since = "the start" if self._step is None else f"step {self._step}"
        message = (
            f"error: no step finished in {limit:g} s since {since}; the stacks above "
            "show where each thread stands; raise the limit if steps are this slow"
        )
        try:
            # The descriptor itself: standard error may be redirected to no file.
            faulthandler.dump_traceback(2, all_threads=True)
            os.write(2, f"{message}\n".encode())
            if self._on_hang is not None:
                handler = threading.Thread(target=self._on_hang, args=(message,))
                handler.daemon = True
                handler.start()
                handler.join(HANDLER_SECONDS)
        finally:
            os._exit(HangError.exit_code)

    def _write_heartbeat(self, path):
        beside = path.with_name(f".{path.name}.tmp")
        try:
            beside.write_text(f"{self._step} {time.time():.3f}\n")
            os.replace(beside, path)
        except OSError as error:
            if not self._warned:
                print(
                    f"warning: {path} could not be written: {error.strerror}",
                    file=sys.stderr,
                    flush=True,
                )
            self._warned = True
