"""How far picked arrivals lie from those of an analyst, and how many are found.

Times are seconds; NaN is an arrival that is not there or was not picked. Shapes use R
records, K picks of one record, M arrivals of one record.
"""

from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

from jaxmodels.metrics.detection import precision_recall_f1

TOLERANCES = (0.1, 0.5)  # seconds
# Added to a tolerance, so that ten samples of 100 Hz are within 0.1 s after rounding.
ROUNDING = 1e-6


class Share(NamedTuple):
    """A share and its confidence interval.

    Attributes:
        value: 0 to 1, NaN of nothing.
        low, high: ends of the interval.
    """

    value: float
    low: float
    high: float


class Matches(NamedTuple):
    """Pairs of picks and arrivals.

    Attributes:
        predicted, true: int [K'], places in the two lists of times.
    """

    predicted: np.ndarray
    true: np.ndarray


def wilson(successes, count, level=0.95):
    """The score interval of a share (Wilson, 1927), which keeps within 0 and 1.

    Args:
        successes: 0 to `count`; a fraction where repeated trials count as one.
        count: of independent trials.
        level: of confidence.

    Returns:
        `Share`; NaN, 0 and 1 for no trial.

    Raises:
        ValueError: numbers out of range.
    """
    if not 0 <= successes <= count:
        raise ValueError(f"successes {successes} must be 0 to count {count}")
    if not 0 < level < 1:
        raise ValueError(f"level {level} must be between 0 and 1, such as 0.95")
    if count == 0:
        return Share(float("nan"), 0.0, 1.0)
    share = successes / count
    deviate = stats.norm.ppf(0.5 + level / 2)
    spread = deviate**2 / count
    center = (share + spread / 2) / (1 + spread)
    half = deviate * np.sqrt(share * (1 - share) / count + spread / (4 * count))
    half /= 1 + spread
    # Without the share itself, rounding may leave it outside at 0 and 1.
    low, high = min(max(center - half, 0.0), share), max(min(center + half, 1.0), share)
    return Share(float(share), float(low), float(high))


def residuals(predicted, true):
    """Picked less true times, [R]: positive where the pick is late.

    Raises:
        ValueError: the shapes differ or are not [R].
    """
    predicted = np.asarray(predicted, np.float64)
    true = np.asarray(true, np.float64)
    if predicted.ndim != 1 or predicted.shape != true.shape:
        raise ValueError(
            f"predicted {predicted.shape} and true {true.shape} must both be [R]"
        )
    return predicted - true


def residual_table(predicted, true, *, tolerances=TOLERANCES, repeats=1, level=0.95):
    """What the residuals of one phase come to (Muenchmeyer et al., 2022, task 3).

    Args:
        predicted: [R] picked times, NaN for none.
        true: [R], NaN for records without an arrival, which do not count.
        tolerances: in seconds, of the shares.
        repeats: how many of the R rows belong to one record: intervals are those of
            R / repeats independent trials.
        level: of confidence.

    Returns:
        dict of count (arrivals), missed (those without any pick); mean, std, mae, rmse
        and median_absolute in seconds, of the arrivals with a pick (NaN for none); and
        within, {tolerance: `Share`} of all arrivals: one without a pick is not within.

    Raises:
        ValueError: shapes differ, or `repeats` is below 1.
    """
    if repeats < 1:
        raise ValueError(f"repeats {repeats} must be at least 1")
    known = np.isfinite(np.asarray(true, np.float64))
    error = residuals(predicted, true)[known]
    found = error[np.isfinite(error)]
    size = np.abs(found)

    def of(function, values):
        return float(function(values)) if values.size else float("nan")

    hits = [int(np.sum(size <= tolerance + ROUNDING)) for tolerance in tolerances]
    return {
        "count": int(known.sum()),
        "missed": int(known.sum() - found.size),
        "mean": of(np.mean, found),
        "std": of(np.std, found),
        "mae": of(np.mean, size),
        "rmse": of(lambda x: np.sqrt(np.mean(x**2)), found),
        "median_absolute": of(np.median, size),
        "within": {
            tolerance: wilson(hit / repeats, known.sum() / repeats, level)
            for tolerance, hit in zip(tolerances, hits, strict=True)
        },
    }


def match_picks(predicted_times, true_times, tolerance):
    """Pairs picks and arrivals one to one, none further apart than the tolerance.

    Of all ways to make as many pairs as possible, the one with the smallest sum of
    distances.

    Args:
        predicted_times: [K] finite, in any order.
        true_times: [M] finite.
        tolerance: in seconds.

    Returns:
        `Matches`, in the order of the picks' places.

    Raises:
        ValueError: a time is not finite, or the tolerance is below 0.
    """
    predicted = np.asarray(predicted_times, np.float64).reshape(-1)
    true = np.asarray(true_times, np.float64).reshape(-1)
    if not (np.isfinite(predicted).all() and np.isfinite(true).all()):
        raise ValueError("times must be finite; leave out what was not picked")
    if not tolerance >= 0:
        raise ValueError(f"tolerance {tolerance} s must be at least 0")
    tolerance += ROUNDING
    pairs = [
        pair
        for picks, arrivals in _neighbors(predicted, true, tolerance)
        for pair in _assign(predicted, true, picks, arrivals, tolerance)
    ]
    found = np.array(sorted(pairs), np.int64).reshape(-1, 2)
    return Matches(found[:, 0], found[:, 1])


def _neighbors(predicted, true, tolerance):
    """Yields places of picks and arrivals that no gap above the tolerance parts."""
    times = np.concatenate([predicted, true])
    order = np.argsort(times, kind="stable")
    gaps = np.flatnonzero(np.diff(times[order]) > tolerance) + 1
    for group in np.split(order, gaps):
        picks = group[group < predicted.size]
        arrivals = group[group >= predicted.size] - predicted.size
        if picks.size and arrivals.size:
            yield picks, arrivals


def _assign(predicted, true, picks, arrivals, tolerance):
    """The pairs of one group of `_neighbors`."""
    distance = np.abs(predicted[picks][:, None] - true[arrivals])
    # One pair more is worth any sum of distances.
    far = 1 + tolerance * (1 + min(distance.shape))
    cost = np.where(distance <= tolerance, distance, far)
    rows, columns = optimize.linear_sum_assignment(cost)
    near = distance[rows, columns] <= tolerance
    return zip(picks[rows[near]], arrivals[columns[near]], strict=True)


def pick_counts(predicted_times, true_times, tolerance):
    """Matched picks, picks, and arrivals: sums that add up over records.

    Args:
        predicted_times, true_times: as in `match_picks`.
    """
    matches = match_picks(predicted_times, true_times, tolerance)
    return np.array([matches.true.size, np.size(predicted_times), np.size(true_times)])


def pick_scores(counts):
    """`Scores` of a sum of `pick_counts`."""
    return precision_recall_f1(*counts)
