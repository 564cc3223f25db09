"""Whether a set of samples is as uncertain as it is wrong.

Shapes use R records, M samples of each, F features.
"""

import numpy as np


def spread_skill(samples, observed):
    """Mean standard deviation of the samples over the rmse of their mean.

    1 for samples whose spread tells their error (but for a factor sqrt(M / (M + 1))
    that a finite ensemble leaves), below 1 where they are too sure of themselves.

    Args:
        samples: [R, M], such as ln PSA at one period.
        observed: [R].

    Raises:
        ValueError: the shapes do not fit, M is 1, or a value is not finite.
    """
    samples, observed = _checked(samples, observed)
    if samples.shape[1] < 2:
        raise ValueError("one sample of each record has no spread; draw at least 2")
    spread = samples.std(axis=1, ddof=1).mean()
    error = np.sqrt(np.mean((samples.mean(axis=1) - observed) ** 2))
    if error == 0:
        return 1.0 if spread == 0 else float("inf")
    return float(spread / error)


def crps(samples, observed):
    """Continuous ranked probability score of each record, in the unit of the samples.

    E|x - y| - E|x - x'| / 2 over samples x, x' (Gneiting and Raftery, 2007, eq. 21),
    with x and x' different samples, so that it does not favor many samples or few
    (Ferro, 2014). With one sample it is the absolute error.

    Args:
        samples: [R, M].
        observed: [R].

    Returns:
        [R]; lower is better.

    Raises:
        ValueError: the shapes do not fit, or a value is not finite.
    """
    samples, observed = _checked(samples, observed)
    count = samples.shape[1]
    error = np.abs(samples - observed[:, None]).mean(axis=1)
    if count == 1:
        return error
    # In rising order, sample i is the larger of i pairs and the smaller of the others.
    weights = 2 * np.arange(count) - (count - 1)
    distance = 2 * np.sort(samples, axis=1) @ weights / (count * (count - 1))
    return error - distance / 2


def frechet_distance(first, second, *, diagonal=False):
    """Squared Frechet distance of two sets, each taken for a normal distribution.

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) (Dowson and Landau, 1982, eq. 4).

    Args:
        first: [R, F], such as log amplitudes of R records.
        second: [another R, F].
        diagonal: compare the variances of each feature alone; all there is to compare
            where records are fewer than features.

    Raises:
        ValueError: the shapes do not fit, fewer than 2 rows, or a value is not finite.
    """
    first, second = (np.asarray(rows, np.float64) for rows in (first, second))
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(
            f"sets {first.shape} and {second.shape} must be [R, F] with the same F"
        )
    if min(len(first), len(second)) < 2:
        raise ValueError(
            f"sets of {len(first)} and {len(second)} rows: a variance needs at least 2"
        )
    _check_finite(first, second)
    means = np.sum((first.mean(axis=0) - second.mean(axis=0)) ** 2)
    if diagonal:
        return float(means + np.sum((first.std(0) - second.std(0)) ** 2))
    one, two = np.atleast_2d(np.cov(first.T)), np.atleast_2d(np.cov(second.T))
    root = _square_root(one)
    cross = np.linalg.eigvalsh(root @ two @ root)
    cross_trace = np.sqrt(np.clip(cross, 0, None)).sum()
    return float(max(0.0, means + np.trace(one) + np.trace(two) - 2 * cross_trace))


def interfrequency_correlation(values):
    """Pearson correlation of each two features over the rows, [F, F].

    Of PSA residuals it says whether motion that is too strong at one period is so at
    others (Baker and Jayaram, 2008, use it of recorded motion). Undefined where a
    feature does not vary: NaN.

    Args:
        values: [R, F], such as residuals of ln PSA at F periods.

    Raises:
        ValueError: another number of axes, fewer than 2 rows, or a value is not finite.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or len(values) < 2:
        raise ValueError(f"values {values.shape} must be [R, F] with at least 2 rows")
    _check_finite(values)
    rounding = 1e-9 * np.sqrt(np.sum(values**2, axis=0))
    values = values - values.mean(axis=0)
    size = np.sqrt(np.sum(values**2, axis=0))
    size = np.where(size > rounding, size, 0.0)
    product, sizes = values.T @ values, np.outer(size, size)
    return np.divide(product, sizes, np.full_like(product, np.nan), where=sizes > 0)


def _square_root(matrix):
    """Of a symmetric matrix without negative eigenvalues, but for rounding."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


def _checked(samples, observed):
    samples, observed = np.asarray(samples, float), np.asarray(observed, float)
    if samples.ndim != 2 or observed.shape != samples.shape[:1] or not samples.size:
        raise ValueError(
            f"samples {samples.shape} and observed {observed.shape} must be [R, M] and "
            "[R], with at least one of each"
        )
    _check_finite(samples, observed)
    return samples, observed


def _check_finite(*arrays):
    for array in arrays:
        bad = int(np.sum(~np.isfinite(array)))
        if bad:
            raise ValueError(f"{bad} of {array.size} values are not finite")
