import itertools

import numpy as np
import pytest

from jaxmodels.metrics import picking

NAN = float("nan")


def test_the_interval_of_a_share_solves_the_score_equation():
    """Its ends are the shares p with |p - successes / n| = z sqrt(p (1 - p) / n)."""
    z = 1.959963984540054
    for successes, count in ((0, 7), (3, 7), (7, 7), (19.5, 23)):
        share, low, high = picking.wilson(successes, count)
        assert share == successes / count
        for end in (low, high):
            squared = z**2 * end * (1 - end) / count
            np.testing.assert_allclose((end - share) ** 2, squared, atol=1e-12)
        assert 0 <= low <= share <= high <= 1


def test_nothing_is_known_of_no_trial():
    share, low, high = picking.wilson(0, 0)
    assert np.isnan(share) and (low, high) == (0, 1)


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="successes 4 must be 0 to count 3"):
        picking.wilson(4, 3)
    with pytest.raises(ValueError, match="level 1 must be between 0 and 1"):
        picking.wilson(1, 3, level=1)


def test_residuals_are_positive_for_late_picks():
    np.testing.assert_array_equal(picking.residuals([2.0, NAN], [1.5, 1.0]), [0.5, NAN])
    with pytest.raises(ValueError, match=r"predicted \(1,\) and true \(2,\)"):
        picking.residuals([1.0], [1.0, 2.0])


def test_table_of_residuals_has_the_values_by_hand():
    found = picking.residual_table([1.1, 1.7, 4.0, NAN, 3.0], [1.0, 2.0, 2.0, 1.0, NAN])
    assert (found["count"], found["missed"]) == (4, 1)
    np.testing.assert_allclose(found["mean"], (0.1 - 0.3 + 2.0) / 3)
    np.testing.assert_allclose(found["mae"], 0.8)
    np.testing.assert_allclose(found["rmse"], np.sqrt((0.01 + 0.09 + 4.0) / 3))
    np.testing.assert_allclose(found["median_absolute"], 0.3)
    np.testing.assert_allclose(found["rmse"] ** 2, found["std"] ** 2 + 0.36)
    assert found["within"][0.1] == picking.wilson(1, 4)
    assert found["within"][0.5] == picking.wilson(2, 4)


def test_a_distance_equal_to_the_tolerance_is_within_it():
    true = np.arange(100) / 7
    found = picking.residual_table(true + 0.1, true)
    assert found["within"][0.1].value == 1


def test_repeated_windows_of_a_record_do_not_narrow_the_interval():
    once = picking.residual_table([1.0, 9.0], [1.0, 1.0])
    repeated = picking.residual_table([1.0, 9.0] * 4, [1.0, 1.0] * 4, repeats=4)
    assert repeated["within"] == once["within"]
    with pytest.raises(ValueError, match="repeats 0 must be at least 1"):
        picking.residual_table([1.0], [1.0], repeats=0)


def test_without_any_pick_there_are_shares_and_no_residuals():
    found = picking.residual_table([NAN], [1.0])
    assert found["missed"] == 1 and found["within"][0.5].value == 0
    assert np.isnan([found[name] for name in ("mean", "std", "mae", "rmse")]).all()


def best_by_trying_all(predicted, true, tolerance):
    """Number of pairs and sum of distances, of all one-to-one pairings."""
    best = (0, 0.0)
    for count in range(1, min(len(predicted), len(true)) + 1):
        for picks in itertools.combinations(range(len(predicted)), count):
            for arrivals in itertools.permutations(range(len(true)), count):
                distance = np.abs(predicted[list(picks)] - true[list(arrivals)])
                if (distance <= tolerance).all():
                    best = max(best, (count, -distance.sum()))
    return best


def test_picks_are_paired_as_the_best_of_all_pairings():
    rng = np.random.default_rng(0)
    for _ in range(30):
        predicted, true = rng.uniform(0, 3, 4), rng.uniform(0, 3, 3)
        found = picking.match_picks(predicted, true, 0.5)
        assert len(set(found.predicted)) == len(set(found.true)) == len(found.true)
        distance = np.abs(predicted[found.predicted] - true[found.true])
        assert (distance <= 0.5 + 1e-5).all()
        count, total = best_by_trying_all(predicted, true, 0.5)
        assert len(distance) == count
        np.testing.assert_allclose(distance.sum(), -total)


def test_one_arrival_is_found_once():
    counts = picking.pick_counts([1.0, 1.1, 5.0], [1.05], 0.5)
    np.testing.assert_array_equal(counts, [1, 3, 1])
    scores = picking.pick_scores(counts)
    assert scores == (1 / 3, 1.0, 0.5)


def test_many_far_apart_picks_are_paired_without_a_table_of_all_pairs():
    true = 10.0 * np.arange(20_000)
    found = picking.match_picks(true[::-1] + 0.2, true, 0.5)
    np.testing.assert_array_equal(found.true, np.arange(20_000)[::-1])


def test_no_pick_and_no_arrival_make_no_pair():
    assert picking.match_picks([], [1.0], 0.5).true.size == 0
    assert picking.match_picks([1.0], [], 0.5).true.size == 0
    with pytest.raises(ValueError, match="times must be finite"):
        picking.match_picks([NAN], [1.0], 0.5)
    with pytest.raises(ValueError, match="tolerance -1 s"):
        picking.match_picks([1.0], [1.0], -1)
