"""The three tasks of Muenchmeyer et al. (2022): detection, phase, and onset.

Detection is scored by the highest probability of anything but noise, the phase by the
ratio of the highest probabilities of P and S, the onset by where the probability of
its phase is highest. Thresholds come from another split.
"""

import math
import time
from typing import NamedTuple

import numpy as np

from experiments import picking_windows
from experiments.picking_systems import PHASES
from jaxmodels.metrics import detection, picking
from jaxmodels.train.errors import ConfigError

REPORT_SECONDS = 5.0
FLOOR = 1e-6  # of probabilities, before their ratio is taken
FALSE_THRESHOLDS = (0.3, 0.5, 0.7, 0.9)  # of picks in noise


class Answer(NamedTuple):
    """What one system says of one window.

    Attributes:
        task, label: of the `picking_windows.Target`.
        name: of the record.
        detection: None where the system has no score.
        ratio: log10 of that of the probabilities of P and S, or None.
        residual: of the onset in seconds; NaN for none.
        picks: numbers of P and of S in a window of noise at `FALSE_THRESHOLDS`, 2 F of
            them; None elsewhere, and where the system has no probabilities.
        seconds: of the window.
    """

    task: int
    label: str
    name: str
    detection: float | None
    ratio: float | None
    residual: float
    picks: tuple[int, ...] | None = None
    seconds: float = 0.0


def evaluate(records, systems, *, seconds, report=print):
    """Lets every system answer on every window of the protocol.

    Args:
        records: iterable of `picking_windows.Window`.
        systems: {name: function of waveform and rate}.
        seconds: of the record that a system sees around a window.
        report: takes a line of progress now and then.

    Returns:
        {system: list of `Answer`}.

    Raises:
        ConfigError: no window fits into any record.
    """
    answers: dict[str, list[Answer]] = {name: [] for name in systems}
    said = time.monotonic()
    for index, record in enumerate(records):
        rng = picking_windows.generator(picking_windows.PROTOCOL_SEED, index)
        for target in picking_windows.targets(record, rng):
            part, begin = picking_windows.context(record, target, seconds)
            for name, find in systems.items():
                found = find(part.waveform, part.sampling_rate)
                found = found.within(target.start - begin, target.end - begin)
                answers[name].append(_answer(record, target, found, begin))
        if time.monotonic() - said > REPORT_SECONDS:
            said = time.monotonic()
            report(f"answered on {index + 1} records, last {record.name}")
    if not any(answers.values()):
        raise ConfigError(
            "no window of the protocol fits into a record; records must be longer than "
            f"{picking_windows.DETECTION_SECONDS:g} s, or choose --task picks"
        )
    return answers


def _answer(record, target, found, begin):
    if target.task == 1:
        answer = Answer(1, target.label, record.name, found.detection, None, np.nan)
        if target.label == picking_windows.EARTHQUAKE or found.score("P") is None:
            return answer
        peaks = [found.candidates(phase) for phase in PHASES]
        picks = (len(one.above(t)) for one in peaks for t in FALSE_THRESHOLDS)
        return answer._replace(picks=tuple(picks), seconds=target.end - target.start)
    p, s = (found.score(phase) for phase in PHASES)
    ratio = None if p is None else math.log10(max(p, FLOOR) / max(s, FLOOR))
    onset = begin + found.candidates(target.label).best
    return Answer(2, target.label, record.name, None, ratio, onset - target.onset)


def summarize(answers, others):
    """The three tables, and one of picks in noise.

    Args:
        answers: {system: list of `Answer`}, to be scored.
        others: the same of the split that thresholds come from.

    Returns:
        {"detection": rows, "phase": rows, "onset": rows, "false": rows} of dicts; a
        system that does not answer a question has no row there.
    """
    names = ("detection", "phase", "onset", "false")
    tables: dict[str, list[dict]] = {name: [] for name in names}
    for system, given in answers.items():
        tuned = others[system]
        row = _classes(given, tuned, 1, picking_windows.EARTHQUAKE, "detection")
        if row is not None:
            tables["detection"].append({"system": system, **row})
        row = _classes(given, tuned, 2, "P", "ratio", with_mcc=True)
        if row is not None:
            tables["phase"].append({"system": system, **row})
        tables["false"] += _false(system, given)
    for phase in PHASES:
        for system, given in answers.items():
            chosen = [one for one in given if one.task == 2 and one.label == phase]
            error = np.array([one.residual for one in chosen])
            if np.isfinite(error).any():
                row = picking.residual_table(error, np.zeros(len(error)))
                tables["onset"].append({"phase": phase, "system": system, **row})
    return tables


def _false(system, given):
    """Rows of P and of S: picks an hour of noise at `FALSE_THRESHOLDS`."""
    noise = [one for one in given if one.picks is not None]
    if not noise:
        return []
    hours = sum(one.seconds for one in noise) / 3600
    counts = np.sum([one.picks for one in noise], axis=0).reshape(len(PHASES), -1)
    return [
        {
            "phase": phase,
            "system": system,
            "hours": hours,
            **{
                f"at_{threshold:g}": float(count / hours)
                for threshold, count in zip(FALSE_THRESHOLDS, row, strict=True)
            },
        }
        for phase, row in zip(PHASES, counts, strict=True)
    ]


def _classes(given, tuned, task, positive, field, with_mcc=False):
    """A row of scores for two classes.

    None where the system has no score, or there are no windows of one of the classes:
    real records often have no 30 s of noise before P.
    """
    values, labels = _column(given, task, positive, field)
    known, classes = _column(tuned, task, positive, field)
    if not all(len(set(one.tolist())) == 2 for one in (labels, classes)):
        return None
    threshold = detection.best_threshold(known, classes)
    counts = detection.confusion(values, labels, threshold)
    row = {
        "positive": int(labels.sum()),
        "negative": int((~labels).sum()),
        "auc": detection.roc_auc(values, labels),
        "threshold": threshold,
        **detection.scores_of(counts)._asdict(),
    }
    if with_mcc:
        threshold = detection.best_threshold(known, classes, "mcc")
        row["mcc"] = detection.matthews(detection.confusion(values, labels, threshold))
    return row


def _column(answers, task, positive, field):
    """Scores [R] and labels bool [R] of a task."""
    pairs = [
        (getattr(one, field), one.label == positive)
        for one in answers
        if one.task == task and getattr(one, field) is not None
    ]
    values = np.array([value for value, _ in pairs], np.float64)
    return values, np.array([label for _, label in pairs], bool)


def content(answers):
    """Every answer, for `scores.json`."""
    return {
        system: [one._asdict() for one in given] for system, given in answers.items()
    }
