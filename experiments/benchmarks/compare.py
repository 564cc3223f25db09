"""Compares contenders case by case: memory first, each in a process of its own, then
time in rounds, until the budget is spent.
"""

import statistics
import sys
from collections.abc import Callable
from typing import NamedTuple

from experiments.benchmarks import measure

# Of what is left of the budget, what one contender may take of it in one case.
SHARE = 0.6
# Seconds that starting a process and compiling take, beside the runs themselves.
START_SECONDS = 6.0
# A first run says how long the next ones take only where it takes longer than this.
LONG_SECONDS = 2.0
GIB = 2**30
# Of an attention; a training step has one of its own.
MODES = ("forward", "forward+backward")


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
        probe_runs: runs in the process that measures the memory of one.
    """

    budget: measure.Budget
    memory_limit: float
    seconds: float = 12.0
    most: int = 11
    probe_runs: int = 1

    def rest(self, seconds):
        """Seconds of the runs that follow the probe of a contender, all its rounds."""
        rounds = min(self.most * seconds, self.seconds)
        return seconds + max(measure.LEAST_ROUNDS * seconds, rounds)


class Report:
    """Rows and reasons of a comparison as they come in.

    Args:
        temporaries: (name, case) -> bytes that a case needs, from its compiler
            alone; None where there is none.

    Attributes:
        rows: dicts with name, length, mode and figures.
        skipped: dicts with name, length, mode, reason and temporaries.
    """

    def __init__(self, temporaries=None):
        self.rows, self.skipped = [], []
        self._probes = {}
        self._temporaries = temporaries

    def skip(self, name, case, reason):
        size = self._temporaries(name, case) if self._temporaries else None
        entry = {"name": name, **case._asdict(), "reason": reason}
        self.skipped.append(entry | {"temporaries": size})
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
    temporaries: Callable | None = None,
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
        temporaries: (name, case) -> bytes, without a run, for what is left out.

    Returns:
        `Report`.
    """
    report, yardstick = Report(temporaries), measure.dot()
    for case in cases:
        probes: dict = {}
        for name, contender in contenders.items():
            promised = sum(settings.rest(one["seconds"]) for one in probes.values())
            left = settings.budget.left() - promised
            found = _probe(report, name, contender, case, settings, probe, left)
            if found is not None:
                probes[name] = found
        if probes:
            rows = _time(probes, case, settings, base, prepare, check, yardstick)
            report.rows += rows
            for row in rows:
                found = probes[row["name"]]
                if found["seconds"] <= LONG_SECONDS:
                    found = found | {"seconds": row["seconds"]}
                report.remember(row["name"], case, found)
    return report


def no_probe(name, case, timeout):
    """For `compare`: nothing is known of memory, and a run takes a few milliseconds."""
    return {"seconds": 0.0, "growth": None, "peak": None, "temporaries": None}


def _probe(report, name, contender, case, settings, probe, left):
    """Memory and seconds of one contender; None where it is left out.

    Args:
        left: seconds of the budget that are not promised to others of this case.
    """
    seconds, memory = report.foresee(name, contender, case)
    if memory is not None and memory > settings.memory_limit:
        report.skip(
            name,
            case,
            f"needs about {memory / GIB:.1f} GiB, above the limit of "
            f"{settings.memory_limit / GIB:.1f} GiB",
        )
        return None
    # For memory, once to warm up, and the rounds.
    runs = settings.probe_runs + 1 + measure.LEAST_ROUNDS
    needed = START_SECONDS + runs * (seconds or 0)
    if needed > SHARE * left:
        report.skip(
            name,
            case,
            f"would take about {needed:.0f} s, more than {100 * SHARE:.0f} % of the "
            f"{max(left, 0):.0f} s left of the budget",
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
        warm[name] = (
            first if first > LONG_SECONDS else measure.sample(prepared.run).wall
        )
    short = {name for name, one in warm.items() if one < measure.SHORT_SECONDS}
    rounds = _rounds(warm, short, settings)
    runs["dot"], rounds["dot"] = yardstick.run, max(rounds.values())
    samples = measure.interleave(runs, rounds, short={*short, "dot"})
    dots = samples.pop("dot")
    rows = []
    for name, own in samples.items():
        figures = _figures(own, samples.get(base), dots)
        kept = {key: value for key, value in probes[name].items() if key != "seconds"}
        rows.append({"name": name, **case._asdict(), **figures, **kept, **facts[name]})
        _say(
            f"{case.mode} {case.length} {name}: {1e3 * figures['seconds']:.1f} ms, "
            f"x{figures.get('ratio', float('nan')):.2f}, {figures['rounds']} rounds"
        )
    return rows


def _rounds(warm, short, settings):
    """Rounds of each: three at least, or two where not all have time for three."""
    costs = {name: (1 + (name in short)) * one for name, one in warm.items()}
    left = settings.budget.left()
    least = measure.LEAST_ROUNDS
    if least * sum(costs.values()) > left:
        least = 2
    return {
        name: measure.num_rounds(
            cost, settings.seconds, least=least, most=settings.most
        )
        for name, cost in costs.items()
    }


def _figures(own, base, dots):
    """Figures of one contender, from the rounds that it shares with the base if any."""
    compared = {}
    if base is not None:
        own, base = own[: len(base)], base[: len(own)]
        compared = {
            "base_seconds": statistics.median(one.wall for one in base),
            "ratio": measure.median_ratio(own, base),
            "cpu_ratio": measure.median_ratio(own, base, "cpu"),
        }
    return compared | {
        "seconds": statistics.median(one.wall for one in own),
        "best_cpu_seconds": min(one.cpu for one in own),
        "rounds": len(own),
        # The time in products of the yardstick: in the same rounds, and best to best.
        "dots": measure.median_ratio(own, dots),
        "dots_best": min(x.wall for x in own) / min(x.wall for x in dots),
        "dot_flops": measure.DOT_OPERATIONS / min(one.wall for one in dots),
    }


def _say(line):
    print(line, file=sys.stderr, flush=True)
