"""How well a score tells two classes apart.

Shapes use R examples.
"""

from typing import NamedTuple

import numpy as np
from scipy import stats


class Scores(NamedTuple):
    """Precision, recall and F1; 0 where nothing was found or nothing is there."""

    precision: float
    recall: float
    f1: float


class Confusion(NamedTuple):
    """Counts of examples by what was said of them and what they are."""

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int


def roc_auc(scores, labels):
    """Area under the receiver operating characteristic (Hanley and McNeil, 1982).

    The share of pairs of a positive and a negative in which the positive has the
    higher score, ties counted half.

    Args:
        scores: [R], higher for positives; infinite is allowed, NaN is not.
        labels: bool [R].

    Returns:
        0 to 1; NaN where one of the classes is missing.

    Raises:
        ValueError: shapes differ, or a score is NaN.
    """
    scores, labels = _checked(scores, labels)
    positives = int(labels.sum())
    negatives = labels.size - positives
    if not positives or not negatives:
        return float("nan")
    ranks = stats.rankdata(scores)
    above = ranks[labels].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def confusion(scores, labels, threshold):
    """`Confusion` where a score of at least `threshold` says positive.

    Raises:
        ValueError: shapes differ, or a score is NaN.
    """
    scores, labels = _checked(scores, labels)
    said = scores >= threshold
    return Confusion(
        int(np.sum(said & labels)),
        int(np.sum(said & ~labels)),
        int(np.sum(~said & labels)),
        int(np.sum(~said & ~labels)),
    )


def precision_recall_f1(hits, predicted, true):
    """`Scores` of counts.

    Args:
        hits: true positives.
        predicted: all that was said to be positive.
        true: all that is.

    Raises:
        ValueError: more hits than positives.
    """
    if not 0 <= hits <= min(predicted, true):
        raise ValueError(f"hits {hits} must be 0 to {predicted} found and {true} there")
    return Scores(
        float(hits / predicted) if predicted else 0.0,
        float(hits / true) if true else 0.0,
        float(2 * hits / (predicted + true)) if predicted + true else 0.0,
    )


def scores_of(counts):
    """`Scores` of a `Confusion`."""
    found = counts.true_positives
    return precision_recall_f1(
        found, found + counts.false_positives, found + counts.false_negatives
    )


def matthews(counts):
    """Correlation of what was said and what is (Matthews, 1975), -1 to 1.

    Args:
        counts: `Confusion`.

    Returns:
        0 where all is said to be, or is, of one class.
    """
    hit, false, missed, right = (float(count) for count in counts)
    product = (hit + false) * (hit + missed) * (right + false) * (right + missed)
    return (hit * right - false * missed) / product**0.5 if product else 0.0


CRITERIA = {"f1": lambda counts: scores_of(counts).f1, "mcc": matthews}


def candidates(scores, count=50):
    """Thresholds to try: scores that occur, evenly spaced in their order.

    Args:
        scores: [R].
        count: at most so many.

    Returns:
        [count] rising, without repetition.

    Raises:
        ValueError: no score, or `count` below 1.
    """
    scores = np.sort(np.asarray(scores, np.float64).reshape(-1))
    if not scores.size or count < 1:
        raise ValueError(f"{count} thresholds of {scores.size} scores; give more")
    places = np.linspace(0, scores.size - 1, count).astype(int)
    return np.unique(scores[places])


def best_threshold(scores, labels, criterion="f1", num_candidates=50):
    """The threshold with the highest F1 or Matthews correlation.

    To be chosen on other examples than those that are scored with it. Of thresholds
    that are equally good it is the one halfway from the highest score that will do to
    the next lower one, so that as much as possible may change elsewhere.

    Args:
        scores: [R], labels: bool [R].
        criterion: "f1" or "mcc".
        num_candidates: of `candidates`.

    Returns:
        A threshold between two scores that occur, or the lowest one.

    Raises:
        ValueError: unknown criterion, shapes differ, no score, or a score is NaN.
    """
    if criterion not in CRITERIA:
        raise ValueError(f"criterion {criterion!r} is none of {', '.join(CRITERIA)}")
    scores, labels = _checked(scores, labels)
    tried = candidates(scores, num_candidates)[::-1]
    values = [CRITERIA[criterion](confusion(scores, labels, t)) for t in tried]
    return halfway(tried[int(np.argmax(values))], scores)


def halfway(threshold, scores):
    """Between a threshold and the next lower finite score; itself where none is."""
    lower = scores[np.isfinite(scores) & (scores < threshold)]
    if not lower.size or not np.isfinite(threshold):
        return float(threshold)
    return float(0.5 * (threshold + lower.max()))


def _checked(scores, labels):
    scores = np.asarray(scores, np.float64)
    labels = np.asarray(labels, bool)
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise ValueError(f"scores {scores.shape} and labels {labels.shape}: give [R]")
    if np.isnan(scores).any():
        raise ValueError("a score is NaN; leave the example out")
    return scores, labels
