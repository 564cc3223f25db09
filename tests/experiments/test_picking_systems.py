import numpy as np
import pytest

from experiments import picking_systems as systems
from jaxmodels.pipelines import pick_baselines, pick_peaks
from tests.pipelines import picking_runs

RATE = 10.0


def probabilities(seed=0, length=300, start=0.0):
    rng = np.random.default_rng(seed)
    smooth = np.convolve(rng.uniform(size=length + 20), np.hanning(21), "valid")
    curve = (smooth - smooth.min()) / np.ptp(smooth)
    values = np.stack([curve, curve[::-1], np.zeros(length)], axis=1) / 2
    values[:, 2] = 1 - values.sum(axis=1)
    return systems.Probabilities(values.astype(np.float32), RATE, start)


@pytest.mark.parametrize("threshold", [0.05, 0.2, 0.3, 0.45, 0.499])
def test_picks_at_a_threshold_are_those_of_the_pipeline(threshold):
    for seed in range(5):
        found = probabilities(seed)
        finder = pick_peaks.Finder([threshold])
        runs = finder.feed(0, found.values[:, :1], np.ones(len(found.values), bool))
        runs += finder.close()
        expected = np.array([run.peak for run in runs]) / RATE
        times = found.candidates("P").above(threshold)
        np.testing.assert_allclose(times, expected)


def test_a_plateau_is_one_pick_in_its_middle():
    values = np.zeros((50, 3), np.float32)
    values[20:31, 1] = values[34:40, 1] = 1
    values[31:34, 1] = 0.7
    found = systems.Probabilities(values, RATE, 5.0).candidates("S")
    assert found.best == 7.5
    np.testing.assert_allclose(found.above(0.9), [7.5])


def test_the_surest_pick_is_the_largest_value_even_at_an_end():
    values = np.full((50, 3), 0.001, np.float32)
    values[-1, 0] = 0.002
    found = systems.Probabilities(values, RATE)
    assert found.candidates("P").best == 4.9
    assert found.candidates("P").above(0.01).size == 0
    assert found.score("P") == pytest.approx(0.002)
    assert found.detection == pytest.approx(0.999)


def test_a_part_has_the_samples_from_its_start_to_before_its_end():
    whole = probabilities(start=2.0)
    part = whole.within(5.05, 8.0)
    assert part.start == pytest.approx(5.1)
    np.testing.assert_array_equal(part.values, whole.values[31:60])
    assert len(whole.within(0.0, 100.0).values) == 300
    nothing = whole.within(40.0, 50.0)
    assert np.isnan(nothing.candidates("P").best) and nothing.detection == 0


def test_triggers_are_picks_of_p_with_their_peaks():
    ratio = np.array([0, 0, 4, 9, 4, 0, 5, 0], float)
    found = systems.Ratio(ratio, RATE, pick_baselines.StaLta(level=3), 1.0)
    picks = found.candidates("P")
    np.testing.assert_allclose(picks.times, [1.2, 1.6])
    np.testing.assert_array_equal(picks.values, [9, 5])
    np.testing.assert_allclose(picks.above(6), [1.2])
    assert found.candidates("S").times.size == 0
    assert found.score("P") is None and found.detection == 9
    assert found.within(1.5, 1.8).candidates("P").best == pytest.approx(1.6)


def test_the_ar_picker_has_one_pick_a_phase_and_no_score():
    found = systems.Fixed(pick_baselines.Arrivals(3.0, np.nan))
    assert found.candidates("P").best == 3.0
    np.testing.assert_array_equal(found.candidates("P").above(1.0), [3.0])
    assert np.isnan(found.candidates("S").best)
    assert found.detection is None and found.score("P") is None
    assert np.isnan(found.within(0, 2).candidates("P").best)


def test_a_picker_is_asked_at_the_rate_of_the_record():
    picker = picking_runs.picker()
    waveform = picking_runs.seismogram(30, [(0, 12.0), (1, 16.0)], rate=50.0)
    found = systems.of_picker(picker)(waveform, 50.0)
    assert found.sampling_rate == picking_runs.RATE
    assert found.candidates("P").best == pytest.approx(12.0, abs=0.03)
    assert found.candidates("S").best == pytest.approx(16.0, abs=0.03)
    times, curves = found.curves
    assert list(curves) == ["P", "S"] and len(times) == len(curves["P"])
