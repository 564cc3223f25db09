import numpy as np
import pytest

from experiments import picking_protocol, picking_report, picking_scores
from experiments.picking_protocol import Answer
from experiments.picking_scores import WHOLE, Row
from experiments.picking_systems import NOTHING, Candidates
from experiments.picking_windows import Window
from jaxmodels.train.errors import ConfigError

NAN = float("nan")


def candidates(*pairs):
    times, values = np.array(pairs, float).T
    return Candidates(times, values, np.zeros(len(pairs)))


def rows_of(*found, true=10.0, three=True, condition=WHOLE):
    """A row of one system for each of the candidates of P."""
    return [
        Row(condition, "r", three, {"P": true, "S": NAN}, {"a": {"P": p, "S": NOTHING}})
        for p in found
    ]


def test_threshold_is_the_one_with_the_highest_f1_and_is_not_of_the_scored_rows():
    # At 0.5, two of three picks are right; at 0.3 a wrong one comes in.
    rows = rows_of(
        candidates((10.1, 0.9)),
        candidates((10.2, 0.5), (30.0, 0.3)),
        candidates((40.0, 0.3)),
    )
    chosen = picking_scores.thresholds(rows, "a")
    assert chosen[WHOLE, "P"] == 0.4
    assert np.isnan(chosen[WHOLE, "S"])
    assert picking_scores.found_scores(rows, "a", "P", 0.5) == (1.0, 2 / 3, 0.8)
    assert picking_scores.found_scores(rows, "a", "P", 0.3) == (0.5, 2 / 3, 4 / 7)


def test_summary_is_of_the_surest_pick_and_of_each_subset():
    rows = rows_of(candidates((10.05, 0.9), (20, 0.1)), NOTHING)
    rows += rows_of(candidates((11.0, 0.4)), three=False)
    chosen = {"a": {(WHOLE, "P"): 0.3, (WHOLE, "S"): NAN}}
    every, three = picking_scores.summarize(rows, ["a"], chosen, 1)
    assert (every["subset"], three["subset"]) == ("all", "three components")
    assert (every["count"], every["missed"], every["records"]) == (3, 1, 3)
    np.testing.assert_allclose(every["mean"], (0.05 + 1.0) / 2)
    assert every["within"][0.1].value == 1 / 3
    assert three["within"][0.1].value == 1 / 2
    assert (every["precision"], every["recall"]) == (1 / 2, 1 / 3)


def test_crops_of_one_record_count_as_one_trial():
    condition = picking_scores.crops_of(30)
    rows = rows_of(*[candidates((10.0, 0.9))] * 8, condition=condition)
    chosen = {"a": {(condition, "P"): 0.3, (condition, "S"): NAN}}
    (found,) = picking_scores.summarize(rows, ["a"], chosen, 4)
    assert (found["records"], found["count"]) == (2, 8)
    assert found["within"][0.1].low == pytest.approx(2 / (2 + 1.96**2), abs=1e-3)
    text = picking_report.picks_table([found], title="t", notes=["n"])
    assert "| P | a | 8 of 2 records | 0.000 | 1.00 [0.34, 1.00] |" in text


def oracle(delay):
    """Knows the arrivals of `record`, whose samples are their own numbers."""

    def find(waveform, rate):
        first = waveform[0, 0] / rate

        class Found:
            detection = None
            curves = np.zeros(0), {}

            def candidates(self, phase):
                return candidates((30.0 - first + delay, 1.0))

        return Found()

    return find


def record(index, p=30.0):
    place = np.arange(900, dtype=np.float32)
    return Window(f"r{index}", np.stack([place] * 3, axis=1), 10.0, p, NAN, True)


def test_every_record_is_cropped_and_given_as_a_whole():
    records = [record(n) for n in range(5)] + [record(5, NAN)]
    rows, kept = picking_scores.evaluate(
        records, {"a": oracle(0.25)}, seconds=30, num_crops=3, seed=0, examples=2
    )
    assert len(rows) == 5 * 4 and len(kept) == 2
    condition = picking_scores.crops_of(30)
    for name, count in ((condition, 15), (WHOLE, 5)):
        part = picking_scores.labeled(rows, name, "P")
        found = picking_scores.residuals(part, "a", "P")
        np.testing.assert_allclose(found, np.full(count, 0.25), atol=1e-6)
    assert not picking_scores.labeled(rows, WHOLE, "S")
    with pytest.raises(ConfigError, match="no record has an arrival"):
        picking_scores.evaluate(
            [record(0, NAN)], {"a": oracle(0)}, seconds=30, num_crops=1, seed=0
        )


def answers(scores, ratios):
    """Of classes in turn: earthquake and noise, P and S."""
    labels = ("earthquake", "noise")
    found = [
        Answer(1, labels[n % 2], "r", score, None, NAN)
        for n, score in enumerate(scores)
    ]
    return found + [
        Answer(2, "PS"[n % 2], "r", None, ratio, 0.1) for n, ratio in enumerate(ratios)
    ]


def test_protocol_takes_thresholds_from_the_other_split():
    given = {"a": answers([0.9, 0.2, 0.6, 0.5], [3.0, 0.2, 0.9, 0.5])}
    other = {"a": answers([0.8, 0.6, 0.7, 0.1], [2.0, 0.4, 0.8, 0.1])}
    tables = picking_protocol.summarize(given, other)
    (detection,) = tables["detection"]
    assert detection["auc"] == 1 and detection["threshold"] == pytest.approx(0.65)
    assert (detection["precision"], detection["recall"]) == (1.0, 0.5)
    (phase,) = tables["phase"]
    assert phase["threshold"] == pytest.approx(0.6)
    assert (phase["f1"], phase["mcc"]) == (1.0, 1.0)
    assert [one["phase"] for one in tables["onset"]] == ["P", "S"]
    np.testing.assert_allclose(tables["onset"][0]["mean"], 0.1)


def test_a_system_without_scores_has_onsets_alone():
    found = {"a": answers([None] * 4, [None] * 4)}
    tables = picking_protocol.summarize(found, found)
    assert not tables["detection"] and not tables["phase"]
    assert len(tables["onset"]) == 2
    text = picking_report.protocol_table(tables, title="t", notes=[])
    assert "Detection:\n\n" not in text and "Onset:" in text


def test_picks_in_noise_are_counted_by_the_hour():
    noise = Answer(1, "noise", "r", 0.9, None, NAN, (3, 2, 1, 0, 1, 0, 0, 0), 30.0)
    quiet = noise._replace(picks=(0,) * 8)
    other = answers([0.9, 0.2, 0.6, 0.5], [3.0, 0.2, 0.9, 0.5])
    given = {"a": [*other, noise, quiet], "b": other}
    tables = picking_protocol.summarize(given, given)
    p, s = tables["false"]
    assert (p["phase"], s["phase"], p["system"]) == ("P", "S", "a")
    assert p["hours"] == pytest.approx(1 / 60)
    assert [p[f"at_{t}"] for t in (0.3, 0.5, 0.7, 0.9)] == [180, 120, 60, 0]
    assert [s[f"at_{t}"] for t in (0.3, 0.5, 0.7, 0.9)] == [60, 0, 0, 0]
    text = picking_report.protocol_table(tables, title="t", notes=[])
    assert "| P | a | 0.02 | 180.0 | 120.0 | 60.0 | 0.0 |" in text


def test_classes_of_which_one_is_missing_are_not_scored():
    """Every record of the NCEDC set has its P 30 s after its start: no noise fits."""
    found = answers([0.9, 0.2, 0.6, 0.5], [3.0, 0.2, 0.9, 0.5])
    events = {"a": [one for one in found if one.label != "noise"]}
    for given, other in ((events, {"a": found}), ({"a": found}, events)):
        tables = picking_protocol.summarize(given, other)
        assert not tables["detection"] and len(tables["phase"]) == 1


def test_numbers_that_are_none_are_a_dash_or_null():
    assert picking_report.number(NAN) == "–"
    assert picking_report.number(-0.001) == "0.00"
    plain = picking_report.plain({"a": (NAN, 1.23456789), "b": "x"})
    assert plain == {"a": [None, 1.2346], "b": "x"}


def test_csv_has_a_column_for_each_end_of_each_interval():
    rows = [{"system": "a", "within": {0.1: picking_scores.picking.wilson(1, 2)}}]
    text = picking_report.comma_separated([*rows, {"system": "b", "auc": 0.5}])
    header, first, second = text.splitlines()
    names = "system,within_0.1_value,within_0.1_low,within_0.1_high,auc"
    assert header == names
    assert first == "a,0.5,0.094531,0.90547," and second == "b,,,,0.5"
