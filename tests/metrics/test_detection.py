import numpy as np
import pytest

from jaxmodels.metrics import detection


def test_area_is_the_share_of_pairs_in_the_right_order():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 5, 40).astype(float)
    labels = rng.uniform(size=40) < 0.4
    pairs = scores[labels][:, None] - scores[~labels]
    expected = np.mean((pairs > 0) + 0.5 * (pairs == 0))
    np.testing.assert_allclose(detection.roc_auc(scores, labels), expected)


def test_area_is_one_for_parted_classes_and_nothing_for_one_class():
    assert detection.roc_auc([1, 2, 3, np.inf], [False, False, True, True]) == 1
    assert detection.roc_auc([1, 2, 3, 4], [True, True, False, False]) == 0
    assert np.isnan(detection.roc_auc([1, 2], [True, True]))


def test_counts_and_scores_by_hand():
    scores, labels = [0.9, 0.8, 0.3, 0.2, 0.1], [True, False, True, False, False]
    counts = detection.confusion(scores, labels, 0.3)
    assert counts == (2, 1, 0, 2)
    assert detection.scores_of(counts) == (2 / 3, 1.0, 0.8)
    expected = np.corrcoef(np.asarray(scores) >= 0.3, labels)[0, 1]
    np.testing.assert_allclose(detection.matthews(counts), expected)


def test_nothing_found_scores_zero():
    assert detection.precision_recall_f1(0, 0, 3) == (0, 0, 0)
    assert detection.precision_recall_f1(0, 3, 0) == (0, 0, 0)
    assert detection.matthews(detection.Confusion(3, 2, 0, 0)) == 0
    with pytest.raises(ValueError, match="hits 3 must be 0 to 2 found"):
        detection.precision_recall_f1(3, 2, 5)


@pytest.mark.parametrize("criterion", ["f1", "mcc"])
def test_best_threshold_is_the_best_of_all_that_occur(criterion):
    rng = np.random.default_rng(1)
    labels = rng.uniform(size=30) < 0.5
    scores = rng.standard_normal(30) + labels
    chosen = detection.best_threshold(scores, labels, criterion)
    value = detection.CRITERIA[criterion]
    found = [value(detection.confusion(scores, labels, t)) for t in scores]
    assert value(detection.confusion(scores, labels, chosen)) == max(found)


def test_threshold_of_parted_classes_is_halfway_between_them():
    labels = [True, True, False, False]
    assert detection.best_threshold([9.0, 5.0, 3.0, 1.0], labels) == 4.0
    assert detection.best_threshold([np.inf, np.inf, 3.0, 1.0], labels) == np.inf
    assert detection.best_threshold([2.0, 2.0], [True, True]) == 2.0


def test_candidates_are_spread_over_the_order_of_the_scores():
    scores = np.arange(100.0) ** 3
    tried = detection.candidates(scores[::-1], 5)
    np.testing.assert_array_equal(tried, scores[[0, 24, 49, 74, 99]])
    assert detection.candidates([1.0, 1.0], 50).size == 1


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(ValueError, match="a score is NaN"):
        detection.roc_auc([np.nan], [True])
    with pytest.raises(ValueError, match=r"scores \(2,\) and labels \(1,\)"):
        detection.confusion([1, 2], [True], 1)
    with pytest.raises(ValueError, match="criterion 'f2' is none of f1, mcc"):
        detection.best_threshold([1.0], [True], "f2")
    with pytest.raises(ValueError, match="50 thresholds of 0 scores"):
        detection.best_threshold([], [])
