import numpy as np
import pytest

from jaxmodels.metrics import ensemble


def test_spread_skill_by_hand():
    samples = np.array([[0.0, 2.0], [1.0, 5.0]])
    observed = np.array([2.0, 0.0])
    spread = (np.sqrt(2) + np.sqrt(8)) / 2
    error = np.sqrt((1**2 + 3**2) / 2)
    assert ensemble.spread_skill(samples, observed) == pytest.approx(spread / error)


def test_a_calibrated_ensemble_has_spread_skill_of_one_but_for_its_size():
    rng = np.random.default_rng(0)
    draws = rng.standard_normal((4000, 9)) + rng.standard_normal((4000, 1))
    found = ensemble.spread_skill(draws[:, 1:], draws[:, 0])
    # The mean of M samples adds 1 / M to the variance; the root of the mean variance
    # is above the mean deviation by 1.036 for 8 samples.
    assert found == pytest.approx(np.sqrt(8 / 9) / 1.036, rel=0.02)


def test_spread_skill_of_a_perfect_ensemble_without_spread_is_one():
    assert ensemble.spread_skill(np.ones((3, 2)), np.ones(3)) == 1


@pytest.mark.parametrize("count", [1, 2, 5])
def test_crps_is_the_mean_over_pairs_of_different_samples(count):
    rng = np.random.default_rng(count)
    samples, observed = rng.standard_normal((3, count)), rng.standard_normal(3)
    for row, true, found in zip(
        samples, observed, ensemble.crps(samples, observed), strict=True
    ):
        pairs = [abs(a - b) for i, a in enumerate(row) for b in row[:i]]
        expected = np.abs(row - true).mean() - (np.mean(pairs) / 2 if pairs else 0)
        assert found == pytest.approx(expected)


def test_crps_of_many_normal_samples_is_the_closed_form():
    """Of N(0, 1) at 0: (sqrt(2) - 1) / sqrt(pi) (Gneiting and Raftery, 2007)."""
    samples = np.random.default_rng(0).standard_normal((1, 20000))
    found = ensemble.crps(samples, np.zeros(1))[0]
    assert found == pytest.approx((np.sqrt(2) - 1) / np.sqrt(np.pi), rel=0.03)


def test_frechet_distance_of_a_set_and_its_shifted_scaled_copy():
    rows = np.random.default_rng(0).standard_normal((50, 2))
    assert ensemble.frechet_distance(rows, rows) == pytest.approx(0, abs=1e-9)
    # m differs by (3, 4), the roots of the covariances by a factor of 2.
    moved = 2 * (rows - rows.mean(0)) + rows.mean(0) + np.array([3.0, 4.0])
    expected = 25 + np.trace(np.cov(rows.T))
    assert ensemble.frechet_distance(rows, moved) == pytest.approx(expected)


def test_diagonal_frechet_distance_compares_single_features():
    first = np.array([[0.0, 0.0], [2.0, 2.0]])
    second = np.array([[0.0, 2.0], [2.0, 0.0]])
    assert ensemble.frechet_distance(first, second, diagonal=True) == 0
    # Covariances [[2, 2], [2, 2]] and [[2, -2], [-2, 2]] share no direction.
    assert ensemble.frechet_distance(first, second) == pytest.approx(8)


def test_refuses_sets_that_do_not_fit():
    with pytest.raises(ValueError, match=r"\(3, 2\) and observed \(2,\)"):
        ensemble.crps(np.zeros((3, 2)), np.zeros(2))
    with pytest.raises(ValueError, match="draw at least 2"):
        ensemble.spread_skill(np.zeros((3, 1)), np.zeros(3))
    with pytest.raises(ValueError, match="1 of 6 values are not finite"):
        ensemble.crps(np.array([[0, 1], [2, np.nan], [0, 0]]), np.zeros(3))
    with pytest.raises(ValueError, match=r"\(3, 2\) and \(3, 4\)"):
        ensemble.frechet_distance(np.zeros((3, 2)), np.zeros((3, 4)))
    with pytest.raises(ValueError, match="1 and 3 rows"):
        ensemble.frechet_distance(np.zeros((1, 2)), np.zeros((3, 2)))


def test_interfrequency_correlation_is_pearsons_of_each_pair():
    values = np.random.default_rng(0).standard_normal((20, 4))
    values[:, 1] += 2 * values[:, 0]
    found = ensemble.interfrequency_correlation(values)
    np.testing.assert_allclose(found, np.corrcoef(values.T))
    constant = values * [1, 1, 0, 1] + 0.1
    found = ensemble.interfrequency_correlation(constant)
    assert np.isnan(found[2]).all() and np.isnan(found).sum() == 7
    with pytest.raises(ValueError, match="at least 2 rows"):
        ensemble.interfrequency_correlation(values[:1])
