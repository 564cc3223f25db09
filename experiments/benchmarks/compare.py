"""Compares contenders case by case: memory first, each in a process of its own, then
time in rounds, until the budget is spent.
"""

import statistics
import sys
from collections.abc import Callable
from typing import NamedTuple

from experiments.benchmarks import measure

# Of what is left of the budget, what one contender may take of it in one case.
SHARE = 0.4
# Seconds that starting a process and compiling take, beside the runs themselves.
START_SECONDS = 6.0
GIB = 2**30


class Contender(NamedTuple):
    """How a contender grows with the length, to foresee what would not fit.

    Attributes:
        time_power, memory_power: exponents of the length.
        note: what to know of it when reading its row.
    """

    time_power: float = 1.0
    memory_power: float = 1.0
    note: str = ""


class Case(NamedTuple):
    """What is measured together: one length, one mode."""

    length: int
    mode: str


class Settings(NamedTuple):
    """How much a comparison may take.

    Attributes:
        budget: `measure.Budget`.
        memory_limit: bytes of one process.
        seconds: that a contender may spend on its rounds in one case.
        most: rounds.
    """

    budget: measure.Budget
    memory_limit: float
    seconds: float = 12.0
    most: int = 11


class Report:
    """Rows and reasons of a comparison as they come in.

    Attributes:
        rows: dicts with name, length, mode and figures.
        skipped: dicts with name, length, mode and reason.
    """

    def __init__(self):
        self.rows, self.skipped = [], []
        self._probes = {}

    def skip(self, name, case, reason):
        self.skipped.append({"name": name, **case._asdict(), "reason": reason})
        _say(f"{case.mode} {case.length} {name}: skipped, {reason}")

    def foresee(self, name, contender, case):
        """Seconds and bytes that a case will take, by the length before it."""
        known = self._probes.get((name, case.mode))
        if known is None:
            return None, None
        length, found = known
        growth = case.length / length
        memory = found["growth"]
        return (
            found["seconds"] * growth**contender.time_power,
            None if memory is None else memory * growth**contender.memory_power,
        )

    def remember(self, name, case, found):
        self._probes[name, case.mode] = case.length, found


def compare(
    contenders,
    cases,
    settings,
    *,
    base,
    prepare: Callable,
    probe: Callable,
    check: Callable | None = None,
):
    """Measures every contender in every case that it fits in.

    Args:
        contenders: {name: `Contender`}.
        cases: `Case`s, of each mode the shorter ones first.
        settings: `Settings`.
        base: the contender that the others are compared with.
        prepare: (name, case) -> `measure.Prepared`.
        probe: (name, case, timeout) -> `measure.probe` of a fresh process.
        check: (name, case, result of a run) -> figures of its error.

    Returns:
        `Report`.
    """
    report, yardstick = Report(), measure.dot()
    for case in cases:
        probes = {}
        for name, contender in contenders.items():
            found = _probe(report, name, contender, case, settings, probe)
            if found is not None:
                probes[name] = found
        if probes:
            report.rows += _time(
                probes, case, settings, base, prepare, check, yardstick
            )
    return report


def no_probe(name, case, timeout):
    """For `compare`: nothing is known of memory, and a run takes a few milliseconds."""
    return {"seconds": 0.0, "growth": None, "peak": None, "temporaries": None}


def _probe(report, name, contender, case, settings, probe):
    """Memory and seconds of one contender; None where it is left out."""
    seconds, memory = report.foresee(name, contender, case)
    if memory is not None and memory > settings.memory_limit:
        report.skip(
            name,
            case,
            f"needs about {memory / GIB:.1f} GiB, above the limit of "
            f"{settings.memory_limit / GIB:.1f} GiB",
        )
        return None
    left = settings.budget.left()
    # Once for memory, once to warm up, and at least two rounds.
    needed = START_SECONDS + 4 * (seconds or 0)
    if needed > SHARE * left:
        report.skip(
            name,
            case,
            f"would take about {needed:.0f} s with {max(left, 0):.0f} s of the budget "
            "left",
        )
        return None
    try:
        found = probe(name, case, max(left * SHARE, START_SECONDS))
    except RuntimeError as error:
        report.skip(name, case, str(error))
        return None
    report.remember(name, case, found)
    return found


def _time(probes, case, settings, base, prepare, check, yardstick):
    """Rows of one case."""
    runs, facts, warm = {}, {}, {}
    for name in probes:
        prepared = prepare(name, case)
        result = prepared.run()
        facts[name] = check(name, case, result) if check else {}
        runs[name] = prepared.run
        del result
        first = probes[name]["seconds"]
        # The first run of a process is a slow one, unless it is long.
        warm[name] = first if first > 2 else measure.sample(prepared.run).wall
    dot, operations = yardstick
    quick = {
        name: measure.num_rounds(seconds, settings.seconds, most=settings.most)
        for name, seconds in warm.items()
    }
    runs["dot"], quick["dot"] = dot.run, max(quick.values())
    samples = measure.interleave(runs, quick)
    peak = operations / min(one.wall for one in samples.pop("dot"))
    rows = []
    for name, own in samples.items():
        row = {
            "name": name,
            **case._asdict(),
            "seconds": statistics.median(one.wall for one in own),
            "best_cpu_seconds": min(one.cpu for one in own),
            "rounds": len(own),
            "dot_flops": peak,
            **{key: probes[name][key] for key in probes[name] if key != "seconds"},
            **facts[name],
        }
        if base in samples:
            row["ratio"] = measure.median_ratio(own, samples[base])
            row["cpu_ratio"] = measure.median_ratio(own, samples[base], "cpu")
        rows.append(row)
        _say(
            f"{case.mode} {case.length} {name}: {1e3 * row['seconds']:.1f} ms, "
            f"x{row.get('ratio', float('nan')):.2f}, {row['rounds']} rounds"
        )
    return rows


def _say(line):
    print(line, file=sys.stderr, flush=True)
