import fractions
import math

import numpy as np
import pytest
import scipy.signal

from jaxmodels.pipelines import pick_segments
from jaxmodels.pipelines.pick_segments import SECOND, Grid, Piece, segments

RATE = 100.0


def piece(samples, start=0, component=0, rate=RATE):
    return Piece(component, "HHZ", start, rate, np.asarray(samples))


def random(count, seed=0):
    return np.random.default_rng(seed).standard_normal(count)


@pytest.mark.parametrize("ratio", [2.0, 0.5, 100 / 75.19, 0.2, 5.0])
def test_resampling_is_that_of_scipy_where_it_begins_on_a_sample(ratio):
    samples = np.cumsum(random(1000))
    share = fractions.Fraction(ratio).limit_denominator(10_000)
    expected = scipy.signal.resample_poly(
        samples, share.numerator, share.denominator, padtype="mean"
    )
    found = pick_segments.resample_from(samples, 0.0, len(expected), ratio)
    inner = slice(len(expected) // 5, -len(expected) // 5)
    spread = expected.std()
    np.testing.assert_allclose(found[inner], expected[inner], atol=1e-3 * spread)
    level = pick_segments.resample_from(np.full(1000, 1e6), 0.3, 100, ratio)
    np.testing.assert_allclose(level, 1e6, rtol=1e-12)


@pytest.mark.parametrize("place", [0.0, 7.3, 99.99])
def test_resampling_begins_anywhere_between_two_samples(place):
    def sine(time):
        return np.sin(2 * np.pi * 3.0 * time)

    found = pick_segments.resample_from(sine(np.arange(900) / 100), place, 400, 2.0)
    expected = sine(place / 100 + np.arange(400) / 200)
    assert np.abs(found - expected)[50:].max() < 2e-3


def test_a_part_of_a_resampled_piece_is_that_part_of_the_whole():
    whole = piece(random(2000), start=123_456_789, rate=125.0)
    ((segment,), _) = segments([whole], RATE, 1)
    first, stop = segment.first, segment.stop
    everything = segment.read(first, stop)
    assert stop - first == 1599 and np.isfinite(everything).all()
    part = segment.read(first + 700, first + 900)
    np.testing.assert_allclose(part, everything[700:900], atol=1e-12)
    # A block that begins elsewhere in the record gives the same as well.
    cut = piece(
        whole.samples[333:], start=whole.start + 333 * SECOND // 125, rate=125.0
    )
    ((block,), _) = segments([cut], RATE, 1)
    np.testing.assert_allclose(block.read(first + 700, first + 900), part, atol=1e-9)


def test_samples_of_the_rate_of_the_grid_are_taken_as_they_are():
    start = 5 * SECOND + 3_000_000  # 0.3 samples after one of the grid
    ((segment,), _) = segments([piece(np.arange(300), start)], RATE, 1)
    assert (segment.first, segment.stop) == (500, 800)
    np.testing.assert_array_equal(segment.read(500, 800)[:, 0], np.arange(300))
    assert segment.time(510) == start + SECOND // 10


def test_a_rate_that_is_slightly_off_loses_no_time_in_a_day():
    rate = 99.9998
    start, count = 0, 8_000_000
    spike = np.zeros(count, np.float32)
    spike[7_900_000] = 1.0
    ((segment,), _) = segments([piece(spike, start, rate=rate)], RATE, 1)
    at = round(7_900_000 / rate * RATE)
    values = segment.read(at - 100, at + 100)[:, 0]
    assert at - 100 + values.argmax() == at != 7_900_000


def test_short_gaps_are_bridged_and_long_ones_divide():
    pieces = [
        piece(np.ones(300)),
        piece(np.ones(300), start=4 * SECOND),
        piece(np.ones(300), start=10 * SECOND),
    ]
    found, short = segments(pieces, RATE, 1)
    assert [(one.first, one.stop) for one in found] == [(0, 700), (1000, 1300)]
    assert short == []
    missing = np.isnan(found[0].read(0, 700)[:, 0])
    np.testing.assert_array_equal(np.flatnonzero(missing), np.arange(300, 400))


def test_components_need_not_be_there_together_unless_that_is_asked_for():
    pieces = [
        piece(np.ones(1000)),
        piece(np.ones(1000), start=3 * SECOND, component=1),
        piece(np.ones(800), start=5 * SECOND, component=2),
    ]
    ((whole,), _) = segments(pieces, RATE, 3)
    assert (whole.first, whole.stop) == (0, 1300)
    there = np.isfinite(whole.read(0, 1300)).sum(axis=0)
    np.testing.assert_array_equal(there, [1000, 1000, 800])
    ((shared,), _) = segments(pieces, RATE, 3, strict=True)
    assert (shared.first, shared.stop) == (500, 1000)
    assert segments(pieces[:2], RATE, 3, strict=True) == ([], [])


def test_what_is_too_short_is_told():
    found, short = segments([piece(np.ones(40))], RATE, 1)
    assert found == [] and short == [0.4]


def test_of_pieces_that_overlap_the_earlier_is_taken():
    pieces = [piece(np.full(500, 1.0)), piece(np.full(500, 2.0), start=3 * SECOND)]
    ((segment,), _) = segments(pieces, RATE, 1)
    values = segment.read(0, 800)[:, 0]
    np.testing.assert_array_equal(values, [1.0] * 500 + [2.0] * 300)


def test_masked_samples_and_samples_that_are_not_finite_end_a_piece():
    samples = np.ma.masked_array(np.arange(10.0), mask=np.arange(10) == 3)
    samples.data[6:8] = np.nan
    found, left_out = pick_segments.pieces_of(0, "HHZ", SECOND, RATE, samples)
    assert [one.samples.tolist() for one in found] == [[0, 1, 2], [4, 5], [8, 9]]
    assert [one.start - SECOND for one in found] == [0, 40_000_000, 80_000_000]
    assert left_out == 3
    assert pick_segments.pieces_of(0, "HHZ", 0, RATE, np.full(3, np.nan)) == ([], 3)
    assert pick_segments.pieces_of(0, "HHZ", 0, RATE, np.zeros(0)) == ([], 0)


def test_the_amplitude_is_the_largest_deviation_after_from_the_mean_before():
    samples = np.full(1000, 50, np.int32)
    samples[[420, 450, 700]] = 57, 41, 1000
    ((segment,), _) = segments([piece(samples), piece(samples, component=1)], RATE, 2)
    assert segment.amplitude(4 * SECOND, 2.0, 2.0) == 9.0
    assert math.isnan(segment.amplitude(40 * SECOND, 2.0, 2.0))


def test_the_amplitude_is_that_of_all_pieces_of_a_component_the_earlier_first():
    samples = np.full(1000, 50)
    samples[410] = 41
    whole = piece(samples)
    cut = [piece(samples[:410]), piece(samples[410:], start=410 * SECOND // 100)]
    # What is hidden behind an earlier piece does not count.
    hidden = piece(np.full(300, 9000), start=3 * SECOND)
    # The parts meet to the nanosecond, or nearly so.
    late = cut[1]._replace(start=cut[1].start - 1)
    for pieces in ([whole], cut, [cut[0], late], [whole, hidden]):
        ((segment,), _) = segments(pieces, RATE, 1)
        assert segment.amplitude(4 * SECOND, 2.0, 2.0) == 9.0


def test_a_record_half_a_sample_off_the_grid_keeps_its_intervals():
    samples = np.arange(1000)
    for start in (5_000_000, 15_000_000, 7 * SECOND + 5_000_000):
        ((segment,), _) = segments([piece(samples, start=start)], RATE, 1)
        found = segment.read(segment.first, segment.stop)[:, 0]
        np.testing.assert_array_equal(found, samples)
        times = [segment.time(segment.first + n) - start for n in range(1000)]
        assert times == [n * SECOND // 100 for n in range(1000)]


def test_times_of_the_grid_are_exact_to_the_nanosecond():
    grid = Grid.of(RATE)
    for index in (0, 170_000_000_001, -5):
        assert grid.time(index) == index * 10_000_000
        assert grid.nearest(grid.time(index) + 4_999_999) == index
