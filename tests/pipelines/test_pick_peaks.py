import numpy as np
import pytest

from jaxmodels.pipelines.pick_peaks import Finder, Run


def runs(values, thresholds, recorded=None, size=None, first=100):
    values = np.asarray(values, float)
    values = values[:, None] if values.ndim == 1 else values
    recorded = np.ones(len(values), bool) if recorded is None else recorded
    finder, found = Finder(thresholds), []
    size = len(values) if size is None else size
    for at in range(0, len(values), size):
        part = slice(at, at + size)
        found += finder.feed(first + at, values[part], recorded[part])
    return sorted(found + finder.close())


def test_a_run_begins_at_the_threshold_and_ends_below_half_of_it():
    values = [0, 0.25, 0.4, 0.9, 0.3, 0.25, 0.5, 0.1, 0.3, 0]
    assert runs(values, [0.4]) == [Run(0, 102, 106, 103, 0.9)]


def test_what_does_not_reach_the_threshold_is_no_run():
    assert runs([0, 0.39, 0.39, 0], [0.4]) == []


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
def test_parts_of_any_size_give_the_runs_of_the_whole(size):
    generator = np.random.default_rng(0)
    smooth = np.convolve(generator.random(400), np.ones(5) / 5, "same")
    values = np.stack([smooth, smooth[::-1]], axis=1)
    recorded = generator.random(400) > 0.2
    whole = runs(values, [0.6, 0.5], recorded)
    assert len(whole) > 10
    assert runs(values, [0.6, 0.5], recorded, size) == whole


def test_a_peak_is_never_where_nothing_was_recorded():
    values = [0.1, 0.5, 0.9, 0.6, 0.1]
    recorded = np.array([True, True, False, True, True])
    assert runs(values, [0.4], recorded) == [Run(0, 101, 103, 103, 0.6)]
    recorded[:] = False
    assert runs(values, [0.4], recorded) == []


def test_a_few_samples_that_were_not_recorded_move_no_peak():
    place = np.arange(100)
    values = np.exp(-0.5 * np.square((place - 50) / 20.0))
    recorded = (place != 47) & (place != 52)
    assert runs(values, [0.4], recorded) == runs(values, [0.4])
    # Where the arrival itself was not recorded, what is beside it is no pick.
    recorded = (place < 35) | (place > 65)
    assert runs(values, [0.4], recorded) == []


@pytest.mark.parametrize("size", [1, 4, 50])
def test_a_pick_is_in_the_middle_of_a_broad_top(size):
    """The highest sample is wherever a network ripples; the middle stays."""
    place = np.arange(40)
    bump = np.exp(-0.5 * np.square((place - 20) / 5.0))
    for ripple in (14, 17, 20, 23):
        values = 0.9 * bump
        values[17:24] = np.minimum(values[17:24], 0.85)
        values[ripple] = max(values[ripple], 0.8) + 0.02
        (found,) = runs(values, [0.4], size=size)
        assert abs(found.peak - 120) <= 1
    # What is high beyond a dip is another peak.
    values = [0.3, 0.9, 0.5, 0.8, 0.8, 0.8, 0.3]
    assert runs(values, [0.4], size=size) == [Run(0, 101, 106, 101, 0.9)]


def test_a_part_that_does_not_follow_ends_what_is_open():
    finder = Finder([0.5])
    assert finder.feed(0, np.full((3, 1), 0.6), np.ones(3, bool)) == []
    found = finder.feed(10, np.full((3, 1), 0.7), np.ones(3, bool))
    assert found == [Run(0, 0, 2, 1, 0.6)]
    assert finder.close() == [Run(0, 10, 12, 11, 0.7)]
    assert finder.close() == []
