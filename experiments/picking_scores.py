"""Residuals and found arrivals of picking systems on crops and on whole records.

A system's pick of a window is its surest one of each phase. Precision, recall and F1
are of all its picks above a threshold that was chosen on other records.
"""

import time
from typing import NamedTuple

import numpy as np

from experiments import picking_windows
from experiments.picking_systems import PHASES, Candidates
from jaxmodels.metrics import detection, picking
from jaxmodels.train.errors import ConfigError

TOLERANCE = 0.5  # seconds, of a pick that counts as found
WHOLE = "whole records"
SUBSETS = ("all", "three components")
REPORT_SECONDS = 5.0


class Row(NamedTuple):
    """What all systems found in one window.

    Attributes:
        condition: which windows these are.
        name: of the window.
        three: whether a horizontal component moves.
        true: {phase: seconds, NaN where unknown}.
        found: {system: {phase: `Candidates`}}.
    """

    condition: str
    name: str
    three: bool
    true: dict[str, float]
    found: dict[str, dict[str, Candidates]]


class Example(NamedTuple):
    """A window for a figure.

    Attributes:
        window: `picking_windows.Window`.
        picked: {phase: seconds} of one system, NaN for none.
        curves: (times, {label: values}) of the same system.
    """

    window: picking_windows.Window
    picked: dict[str, float]
    curves: tuple


def crops_of(seconds):
    """The name of the condition of random crops."""
    return f"random crops of {seconds:g} s"


def evaluate(records, systems, *, seconds, num_crops, seed, examples=0, report=print):
    """Lets every system pick in crops of every record, and in it as a whole.

    Args:
        records: iterable of `picking_windows.Window`; those without any arrival are
            left out.
        systems: {name: function of waveform and rate}.
        seconds: length of a crop.
        num_crops: of each record.
        seed: of the crops.
        examples: number of crops to keep with the curves of the last system, of
            records chosen by the seed.
        report: takes a line of progress now and then.

    Returns:
        A list of `Row`s, and a list of `Example`s.

    Raises:
        ConfigError: no record has an arrival.
    """
    rows: list[Row] = []
    kept: list[Example] = []
    count = 0
    said = time.monotonic()
    for index, record in enumerate(records):
        if not (np.isfinite(record.p) or np.isfinite(record.s)):
            continue
        rng = picking_windows.generator(seed, index)
        parts = picking_windows.crops(record, seconds, num_crops, rng)
        for number, part in enumerate([*parts, record]):
            condition = crops_of(seconds) if number < num_crops else WHOLE
            row, last = _pick(part, condition, systems)
            rows.append(row)
            if number == 0:
                _keep(kept, part, last, examples, count, rng)
        count += 1
        if time.monotonic() - said > REPORT_SECONDS:
            said = time.monotonic()
            report(f"picked in {count} records, last {record.name}")
    if not rows:
        raise ConfigError("no record has an arrival to score; choose another split")
    return rows, kept


def _keep(kept, window, found, examples, count, rng):
    """Each of the records so far has the same chance to be kept (Vitter, 1985)."""
    picked = {phase: found.candidates(phase).best for phase in PHASES}
    place = count if count < examples else int(rng.integers(count + 1))
    if place < examples:
        kept[place : place + 1] = [Example(window, picked, found.curves)]


def _pick(window, condition, systems):
    """The `Row` of a window, and what the last system found."""
    found, last = {}, None
    for name, find in systems.items():
        last = find(window.waveform, window.sampling_rate)
        found[name] = {phase: last.candidates(phase) for phase in PHASES}
    true = {"P": window.p, "S": window.s}
    return Row(condition, window.name, window.three, true, found), last


def thresholds(rows, system, num_candidates=50):
    """{(condition, phase): threshold with the highest F1}; NaN where nothing is found.

    Of equally good ones it is chosen as in `detection.best_threshold`.

    Args:
        rows: of other records than those to be scored.
        system: its name.
        num_candidates: thresholds tried, evenly spaced in the order of the values of
            the surest picks.
    """
    found = {}
    for condition in dict.fromkeys(row.condition for row in rows):
        for phase in PHASES:
            chosen = labeled(rows, condition, phase)
            given = [np.sort(row.found[system][phase].values) for row in chosen]
            values = np.concatenate([np.zeros(0), *(one[-1:] for one in given)])
            if not values.size:
                found[condition, phase] = float("nan")
                continue
            others = np.concatenate([np.zeros(1), *(one[:-1] for one in given)])
            tried = detection.candidates(values, num_candidates)[::-1]
            scores = [found_scores(chosen, system, phase, one).f1 for one in tried]
            found[condition, phase] = detection.halfway(
                tried[int(np.argmax(scores))], np.concatenate([values, others])
            )
    return found


def labeled(rows, condition, phase, subset="all"):
    """The rows of a condition and subset in which the arrival of a phase is known."""
    return [
        row
        for row in rows
        if row.condition == condition
        and np.isfinite(row.true[phase])
        and (row.three or subset == "all")
    ]


def found_scores(rows, system, phase, threshold):
    """`detection.Scores` of the picks above a threshold, within `TOLERANCE`."""
    counts = sum(
        (
            picking.pick_counts(
                row.found[system][phase].above(threshold), [row.true[phase]], TOLERANCE
            )
            for row in rows
        ),
        np.zeros(3, np.int64),
    )
    return picking.pick_scores(counts)


def residuals(rows, system, phase):
    """Seconds that the surest pick of each row is late, NaN where there is none."""
    picked = [row.found[system][phase].best for row in rows]
    return picking.residuals(picked, [row.true[phase] for row in rows])


def summarize(rows, systems, chosen, num_crops):
    """What the table shows.

    Args:
        rows: of `evaluate`.
        systems: names.
        chosen: {system: `thresholds`}.
        num_crops: of each record.

    Returns:
        A list of dicts with condition, subset, system, phase, those of
        `picking.residual_table`, threshold, precision, recall and f1. Systems that
        never pick a phase have no row of it; a subset that is everything has none.
    """
    summaries = []
    conditions = dict.fromkeys(row.condition for row in rows)
    subsets = SUBSETS[:1] if all(row.three for row in rows) else SUBSETS
    for condition in conditions:
        for subset in subsets:
            for phase in PHASES:
                part = labeled(rows, condition, phase, subset)
                for system in systems if part else ():
                    if np.isnan(threshold := chosen[system][condition, phase]):
                        continue
                    true = [row.true[phase] for row in part]
                    picked = [row.found[system][phase].best for row in part]
                    repeats = 1 if condition == WHOLE else num_crops
                    scores = found_scores(part, system, phase, threshold)
                    summaries.append(
                        {
                            "condition": condition,
                            "subset": subset,
                            "phase": phase,
                            "system": system,
                            "records": len(part) // repeats,
                            **picking.residual_table(picked, true, repeats=repeats),
                            "threshold": threshold,
                            **scores._asdict(),
                        }
                    )
    return summaries


def content(rows):
    """Of each window the surest picks, as time and value, for `scores.json`."""
    return [
        {
            "condition": row.condition,
            "name": row.name,
            "three_components": row.three,
            "true": row.true,
            "picked": {
                system: {
                    phase: [one.best, float(one.values.max(initial=0))]
                    for phase, one in phases.items()
                }
                for system, phases in row.found.items()
            },
        }
        for row in rows
    ]
