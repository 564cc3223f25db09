"""Times, ratios and memory of things that do the same work.

Everything is timed in rounds: each round runs every contender once, so that what else
the machine does in these seconds meets all of them, and a ratio is the median of the
ratios within the rounds. What is short runs once, untimed, right before it is timed:
whoever follows a heavy contender would pay for cold caches and for memory on its way
back to the system. Memory is that of a fresh process for each.
"""

import ctypes
import itertools
import json
import math
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[2]
# Idle threads of OpenMP spin for some milliseconds after their work.
PAUSE_SECONDS = 0.01
# Runs shorter than this are warmed up in every round.
SHORT_SECONDS = 0.5
LEAST_ROUNDS = 3
DOT_SIZE = 1024
DOT_OPERATIONS = 2 * DOT_SIZE**3
PACKAGES = ("jax", "jaxlib", "flax", "torch", "performer-pytorch", "numpy")


class Prepared(NamedTuple):
    """Something compiled and ready, with its inputs in place.

    Attributes:
        run: does the work once and waits until it is done; returns the result.
        temporaries: bytes that its compiled program needs beside inputs and outputs;
            None where no compiler knows.
        facts: what else to report of it, such as a number of parameters.
    """

    run: Callable
    temporaries: int | None = None
    facts: dict = {}


class Sample(NamedTuple):
    """One run: seconds on the clock, and seconds of all cores."""

    wall: float
    cpu: float


class Budget:
    """Seconds that a benchmark may take, counted from when this is made."""

    def __init__(self, seconds, clock=time.monotonic):
        self.seconds, self._clock, self._start = seconds, clock, clock()

    def left(self):
        return self.seconds - (self._clock() - self._start)


def sample(run):
    """Times one call of `run`."""
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    return Sample(time.perf_counter() - wall, time.process_time() - cpu)


def interleave(runs, rounds, *, short=(), pause=PAUSE_SECONDS):
    """Runs all in turn, round after round; each round begins with another one.

    Args:
        runs: {name: callable}.
        rounds: {name: rounds it takes part in}, the first ones.
        short: names that run once, untimed, right before each timed run.
        pause: seconds between two runs.

    Returns:
        {name: [Sample of round 0, of round 1, ...]}.
    """
    samples: dict = {name: [] for name in runs}
    names = list(runs)
    for number in range(max(rounds.values(), default=0)):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            if number < rounds[name]:
                time.sleep(pause)
                if name in short:
                    runs[name]()
                samples[name].append(sample(runs[name]))
    return samples


def num_rounds(seconds, share, *, least=LEAST_ROUNDS, most=11):
    """Rounds of a run of `seconds` that fit in `share` seconds."""
    return max(least, min(most, int(share / max(seconds, 1e-9))))


def median_ratio(samples, base, field="wall"):
    """Median over the rounds that both took part in of samples / base."""
    pairs = zip(samples, base, strict=False)
    return statistics.median(getattr(a, field) / getattr(b, field) for a, b in pairs)


def exponent(points):
    """Slope of log y against log x between the least and the greatest x.

    Args:
        points: (x, y) pairs; None where there are fewer than two.
    """
    points = sorted(points)
    if len(points) < 2 or points[0][1] <= 0 or points[-1][1] <= 0:
        return None
    (x0, y0), (x1, y1) = points[0], points[-1]
    return math.log(y1 / y0) / math.log(x1 / x0)


def crossover(points):
    """Where a ratio passes 1 from below for the last time, linear in the logarithms.

    Args:
        points: (length, time of the other / time of ours).

    Returns:
        The length from which on ours is faster at every point; the least length where
        it is faster throughout, None where it is slower at the greatest.
    """
    points = sorted(points)
    if not points or points[-1][1] < 1:
        return None
    below = [index for index, (_, ratio) in enumerate(points) if ratio < 1]
    if not below:
        return points[0][0]
    (x0, y0), (x1, y1) = points[below[-1]], points[below[-1] + 1]
    fraction = math.log(1 / y0) / math.log(y1 / y0)
    return math.exp(math.log(x0) + fraction * math.log(x1 / x0))


def rises(points):
    """Whether the ratio grows with the length from each point to the next."""
    ratios = [ratio for _, ratio in sorted(points)]
    return all(a < b for a, b in itertools.pairwise(ratios))


def dot(size=DOT_SIZE):
    """A float32 product of two square matrices, the yardstick of the machine."""
    import jax
    import jax.numpy as jnp

    x = jnp.full((size, size), 1e-3, jnp.float32)
    product = jax.jit(lambda x: x @ x).lower(x).compile()
    prepared = Prepared(lambda: jax.block_until_ready(product(x)))
    prepared.run()
    return prepared


def peak_growth(run):
    """Bytes by which the resident memory of this process peaks above its start.

    What earlier runs freed is given back to the system first, so that it counts.

    Returns:
        The growth and the peak itself, in bytes; None where the system keeps no count.
    """
    _trim()
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
        before = _resident("VmRSS")
        run()
        peak = _resident("VmHWM")
    except OSError:
        run()
        return None, None
    return max(0, peak - before), peak


def _trim():
    """Hands freed memory back to the system, where the C library can."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return


def _resident(field):
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def available_memory():
    """Bytes that the machine can give without swapping; None where unknown."""
    try:
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    fields = {name: value for name, _, value in (line.partition(":") for line in lines)}
    return int(fields["MemAvailable"].split()[0]) * 1024


def memory_limit(gibibytes=None, *, share=0.65):
    """Bytes that one process may take: as given, or this share of what is free."""
    if gibibytes is not None:
        return gibibytes * 2**30
    free = available_memory()
    return math.inf if free is None else share * free


def probe(prepared):
    """What a fresh process reports of one contender: memory and the time of a run."""
    seconds = []
    growth, peak = peak_growth(lambda: seconds.append(sample(prepared.run).wall))
    return {
        "seconds": seconds[0],
        "growth": growth,
        "peak": peak,
        "temporaries": prepared.temporaries,
        **prepared.facts,
    }


def fresh_process(module, arguments, *, timeout):
    """Runs `python -m module arguments`, whose last line of output is JSON.

    Returns:
        That value.

    Raises:
        RuntimeError: it failed or took longer than `timeout` seconds; says which.
    """
    command = [sys.executable, "-m", module, *arguments]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"took more than {timeout:.0f} s in one run") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"code {done.returncode}"]
        raise RuntimeError(f"the process that measures its memory failed: {lines[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def machine():
    """What the figures were taken on, PyTorch's threads where it has been used."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    names = [
        line.partition(":")[2].strip()
        for line in _lines("/proc/cpuinfo")
        if line.startswith("model name")
    ]
    torch = sys.modules.get("torch")
    return {
        "torch_threads": torch.get_num_threads() if torch else None,
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
    }


def _lines(path):
    try:
        return pathlib.Path(path).read_text().splitlines()
    except OSError:
        return []
