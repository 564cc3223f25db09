import time

import numpy as np
import pytest

from experiments.benchmarks import compare, measure, report
from experiments.benchmarks.compare import Case, Contender
from experiments.benchmarks.measure import Prepared, Sample


def test_rounds_interleave_and_start_with_another_contender_each():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in "abc"}
    samples = measure.interleave(runs, {"a": 3, "b": 3, "c": 2}, pause=0)
    assert "".join(order) == "abc" + "bca" + "ab"
    assert {name: len(own) for name, own in samples.items()} == {"a": 3, "b": 3, "c": 2}


def test_what_is_short_runs_once_untimed_before_each_timed_run():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in "ab"}
    samples = measure.interleave(runs, {"a": 2, "b": 1}, short={"a"}, pause=0)
    assert "".join(order) == "aab" + "aa"
    assert {name: len(own) for name, own in samples.items()} == {"a": 2, "b": 1}


def test_a_sample_tells_waiting_from_working():
    slept = measure.sample(lambda: time.sleep(0.05))
    assert slept.wall >= 0.05 > slept.cpu


def test_the_ratio_is_a_median_within_rounds():
    """A slow round of both leaves no trace, though it moves the ratio of medians."""
    ours = [Sample(1.0, 1.0), Sample(10.0, 1.0), Sample(12.0, 1.0)]
    other = [Sample(2.0, 3.0), Sample(20.0, 3.0), Sample(25.0, 3.0)]
    assert measure.median_ratio(other, ours) == 2.0
    assert measure.median_ratio(other[:1], ours) == 2.0
    assert measure.median_ratio(other, ours, "cpu") == 3.0


def test_rounds_fill_their_share_within_bounds():
    assert measure.num_rounds(1.0, 5.0) == 5
    assert measure.num_rounds(100.0, 5.0) == 3
    assert measure.num_rounds(100.0, 5.0, least=2) == 2
    assert measure.num_rounds(0.0, 5.0) == 11


def test_exponents_and_crossovers_have_closed_forms():
    assert measure.exponent([(4, 3 * 4**1.5), (64, 3 * 64**1.5)]) == pytest.approx(1.5)
    assert measure.exponent([(4, 1.0)]) is None
    # A quadratic time over a linear one: 1 at 1,000.
    ratios = [(n, n / 1000) for n in (256, 512, 2048, 4096)]
    assert measure.crossover(ratios) == pytest.approx(1000)
    assert measure.crossover([(256, 1.5), (512, 2.0)]) == 256
    assert measure.crossover([(256, 0.5), (512, 0.9)]) is None


def test_a_crossover_among_points_that_fall_again_is_the_last_and_is_marked():
    points = [(256, 1.2), (512, 0.5), (1024, 2.0), (2048, 3.0)]
    assert measure.crossover(points) == pytest.approx(512 * 2**0.5)
    assert not measure.rises(points)
    assert measure.rises(points[1:])
    assert measure.crossover([*points, (4096, 0.9)]) is None


def test_peak_memory_sees_what_was_freed_again():
    growth, peak = measure.peak_growth(lambda: np.ones(8_000_000).sum())
    if growth is None:
        pytest.skip("this system keeps no peak of resident memory")
    assert 60e6 < growth < 200e6 and peak > growth
    assert measure.peak_growth(lambda: None)[0] < 20e6


def test_a_fresh_process_answers_in_json_or_says_why_not():
    with pytest.raises(RuntimeError, match="failed: .*No module named"):
        measure.fresh_process("experiments.benchmarks.absent", [], timeout=60)
    with pytest.raises(RuntimeError, match="took more than 0 s"):
        measure.fresh_process("json.tool", [], timeout=0.01)


class Bench:
    """Contenders of known cost, on a clock that only they move."""

    def __init__(self, seconds, growth=1e6, sleep=None):
        self.sleep = sleep or {}
        self.now, self.seconds, self.growth = 0.0, seconds, growth
        self.ran = []

    def prepare(self, name, case):
        def run():
            self.ran.append((name, case.length))
            time.sleep(self.sleep.get(name, 0))

        return Prepared(run)

    def probe(self, name, case, timeout):
        seconds = self.seconds[name] * case.length
        self.now += seconds
        if seconds > timeout:
            raise RuntimeError(f"took more than {timeout:.0f} s in one run")
        growth = self.growth * case.length
        return dict(seconds=seconds, growth=growth, peak=growth, temporaries=None)

    def compare(self, contenders, lengths, budget=1000.0, memory_limit=1e12):
        budget = measure.Budget(budget, clock=lambda: self.now)
        return compare.compare(
            contenders,
            [Case(length, "forward") for length in lengths],
            compare.Settings(budget, memory_limit, seconds=0.01, most=2),
            base="ours",
            prepare=self.prepare,
            probe=self.probe,
            check=lambda name, case, result: {"error": 0.0},
            temporaries=lambda name, case: 8_000_000 * case.length,
        )


def test_what_will_not_fit_in_memory_is_foreseen_and_named():
    bench = Bench({"ours": 0.0, "other": 0.0})
    contenders = {"ours": Contender(), "other": Contender(memory_power=2.0)}
    found = bench.compare(contenders, [10, 40], memory_limit=100e6)
    assert [(r["name"], r["length"]) for r in found.rows] == [
        ("ours", 10),
        ("other", 10),
        ("ours", 40),
    ]
    (entry,) = found.skipped
    assert (entry["name"], entry["length"]) == ("other", 40)
    assert entry["reason"] == "needs about 0.1 GiB, above the limit of 0.1 GiB"
    assert ("other", 40) not in bench.ran
    # Its compiler's figure is reported all the same.
    assert entry["temporaries"] == 320_000_000
    assert report.skipped(found.skipped) == [
        "- other, forward, length 40: needs about 0.1 GiB, above the limit of 0.1 GiB; "
        "compiled only, it needs 320 MB of temporaries."
    ]


def test_what_takes_too_long_is_left_out_and_the_budget_holds():
    bench = Bench({"ours": 0.0, "other": 1.0})
    contenders = {"ours": Contender(), "other": Contender(time_power=2.0)}
    found = bench.compare(contenders, [10, 40, 80], budget=200.0)
    assert [r["length"] for r in found.rows if r["name"] == "ours"] == [10, 40, 80]
    assert [r["length"] for r in found.rows if r["name"] == "other"] == [10]
    assert found.skipped[0]["reason"] == (
        "would take about 806 s, more than 60 % of the 190 s left of the budget"
    )
    assert bench.now <= 200.0


def test_rows_hold_ratios_within_rounds_error_and_the_yardstick():
    sleep = {"ours": 0.01, "other": 0.04}
    bench = Bench({"ours": 0.0, "other": 0.0}, sleep=sleep)
    found = bench.compare({"other": Contender(), "ours": Contender()}, [10])
    rows = {row["name"]: row for row in found.rows}
    assert rows["ours"]["ratio"] == rows["ours"]["cpu_ratio"] == 1.0
    # About 4; sleeps overrun on a busy machine, but never fall short.
    other = rows["other"]
    assert 1.5 < other["ratio"] < 8 and other["seconds"] >= 0.04
    assert other["base_seconds"] == rows["ours"]["seconds"] >= 0.01
    for row in found.rows:
        assert row["rounds"] == 3 and row["error"] == 0.0
        assert row["dot_flops"] > 1e8
        assert row["dots"] > 0 and row["dots_best"] > 0


def test_figures_come_from_the_rounds_that_both_took_part_in():
    def samples(*walls):
        return [Sample(wall, 2 * wall) for wall in walls]

    dots = samples(0.5, 1.0, 0.25, 0.25)
    long = compare._figures(samples(8.0, 12.0), samples(2.0, 4.0, 90.0, 90.0), dots)
    assert (long["seconds"], long["base_seconds"]) == (10.0, 3.0)
    assert long["ratio"] == long["cpu_ratio"] == 3.5 and long["rounds"] == 2
    # In its own rounds 16 and 12 products; the best of each gives 8 / 0.25.
    assert (long["dots"], long["dots_best"]) == (14.0, 32.0)
    short = compare._figures(samples(8.0, 12.0, 90.0), samples(2.0, 4.0), dots)
    assert short["seconds"] == 10.0 and short["rounds"] == 2
    alone = compare._figures(samples(8.0), None, dots)
    assert "ratio" not in alone and alone["seconds"] == 8.0


def test_a_long_contender_gets_two_rounds_where_three_do_not_fit():
    budget = measure.Budget(100.0, clock=lambda: 0.0)
    settings = compare.Settings(budget, 1e9)
    assert compare._rounds({"a": 30.0, "b": 0.3}, {"b"}, settings)["a"] == 3
    rounds = compare._rounds({"a": 40.0, "b": 0.3}, {"b"}, settings)
    # A short one runs twice in every round: 20 of its pairs fit in 12 seconds.
    assert rounds == {"a": 2, "b": 11}
    assert compare._rounds({"b": 0.8}, {"b"}, settings) == {"b": 7}


def test_a_short_first_run_foresees_nothing_of_a_longer_case():
    """It holds start-up that no later run pays for; the measured time is used."""
    bench = Bench({"ours": 0.01, "other": 0.19})
    contenders = {"ours": Contender(), "other": Contender(time_power=3.0)}
    found = bench.compare(contenders, [10, 100], budget=200.0)
    # From 1.9 s it would be 1,900.
    assert [r["length"] for r in found.rows if r["name"] == "other"] == [10, 100]
    assert found.skipped == []


def test_what_is_promised_to_one_contender_is_not_left_to_the_next():
    bench = Bench({"ours": 1.0, "other": 1.0})
    contenders = {"ours": Contender(), "other": Contender()}
    found = bench.compare(contenders, [10, 20], budget=220.0)
    assert [(r["name"], r["length"]) for r in found.rows] == [
        ("ours", 10),
        ("other", 10),
        ("ours", 20),
    ]
    # Of 220 s the probes took 40; a run and three rounds of ours will take 80.
    assert found.skipped[0]["reason"] == (
        "would take about 106 s, more than 60 % of the 100 s left of the budget"
    )


def test_exponents_leave_out_short_lengths_and_single_points():
    rows = [
        dict(name=n, mode="forward", length=t, seconds=s, temporaries=m, growth=None)
        for n, t, s, m in (
            ("a", 1024, 9.0, 10),
            ("a", 4096, 1.0, 10),
            ("a", 16384, 4.0, 160),
            ("b", 4096, 1.0, 10),
        )
    ]
    (found,) = report.scaling(rows, ["forward"])
    assert found["name"] == "a" and (found["from"], found["to"]) == (4096, 16384)
    assert found["time"] == pytest.approx(1)
    assert found["temporaries"] == pytest.approx(2)
    # The growth of resident memory has no exponent.
    for row in rows:
        row.update(growth=row["temporaries"], temporaries=None)
    assert report.scaling(rows, ["forward"])[0]["temporaries"] is None


@pytest.mark.parametrize(
    "value, text",
    [
        (None, "-"),
        (0.0, "0.00"),
        (12.345, "12.3"),
        (0.0044, "0.00440"),
        (0.9648, "0.965"),
        (1234.5, "1,234"),
        (2e-7, "2.00e-07"),
    ],
)
def test_figures_have_three_digits(value, text):
    assert report.number(value) == text
