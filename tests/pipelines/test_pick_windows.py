import numpy as np
import pytest

from jaxmodels.pipelines import pick_windows
from jaxmodels.pipelines.pick_segments import Piece, segments
from jaxmodels.train.errors import ConfigError

LENGTH, RATE = 64, 20.0


def windows(overlap=0.5, blinding=0, stacking="avg", batch_size=4):
    return pick_windows.make_windows(
        LENGTH,
        overlap=overlap,
        blinding=blinding,
        stacking=stacking,
        batch_size=batch_size,
    )


def segment(count=500, first=37, seed=0):
    """Three components between 0 and 0.5 at 20 Hz, so that they look like P, S."""
    samples = np.random.default_rng(seed).random((count, 3)) / 2
    start = first * 50_000_000
    pieces = [Piece(c, "HHZ", start, RATE, samples[:, c]) for c in range(3)]
    ((found,), _) = segments(pieces, RATE, 3)
    assert (found.first, found.stop) == (first, first + count)
    return found


def same(x):
    return x


def stacked(segment, windows, part=None, normalize=same, predict=same):
    part = (segment.first, segment.stop) if part is None else part
    found = list(pick_windows.probabilities(segment, part, windows, normalize, predict))
    ends = [first + len(values) for first, values, _ in found]
    assert [first for first, *_ in found] == [part[0], *ends[:-1]]
    assert ends[-1] == part[1]
    return np.concatenate([values for _, values, _ in found])


@pytest.mark.parametrize("stacking", ["avg", "max"])
@pytest.mark.parametrize(
    "overlap, blinding", [(0.5, 0), (0.0, 0), (0.9, (3, 7)), (30, 10), (63, 5)]
)
@pytest.mark.parametrize("count", [500, 64, 65, 130])
def test_windows_that_agree_give_what_they_agree_on(stacking, overlap, blinding, count):
    one = segment(count)
    expected = one.read(one.first, one.stop)
    if stacking == "max":
        expected[:, 2] = 1 - expected[:, :2].sum(axis=1)
    found = stacked(one, windows(overlap, blinding, stacking))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_record_shorter_than_a_window_gives_what_it_has():
    one = segment(LENGTH - 3)
    expected = one.read(one.first, one.stop)
    np.testing.assert_allclose(stacked(one, windows()), expected, atol=1e-6)


def test_windows_start_at_multiples_of_the_hop_and_at_both_ends():
    found = pick_windows.starts(37, 300, windows(0.75))
    assert found[0] == 37 and found[-1] == 300 - LENGTH
    np.testing.assert_array_equal(found[1:-1] % 16, 0)
    assert np.diff(found).max() <= 16 and np.diff(found).min() > 0
    assert pick_windows.starts(37, 50, windows()).tolist() == [37]
    assert pick_windows.starts(37, 37 + LENGTH, windows()).tolist() == [37]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_where_a_component_begins_again_nothing_is_trusted(batch_size):
    """Unless it was away for less than a second, or all were away together."""
    samples = np.random.default_rng(0).random((500, 3))
    spans = {0: [(0, 300), (330, 500)], 1: [(0, 100), (121, 200), (215, 300)]}
    spans |= {2: [(0, 300), (330, 500)]}
    pieces = [
        Piece(c, "HHZ", low * 50_000_000, RATE, samples[low:high, c])
        for c, parts in spans.items()
        for low, high in parts
    ]
    ((one,), _) = segments(pieces, RATE, 3)
    found = pick_windows.probabilities(
        one, (0, 500), windows(0.0, batch_size=batch_size), same, same
    )
    recorded = np.concatenate([part[2] for part in found])
    wanted = np.ones(500, bool)
    wanted[300:330] = False
    wanted[121 - 20 : 121 + 10] = False
    np.testing.assert_array_equal(recorded, wanted)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_a_part_gives_what_the_whole_gives(batch_size):
    def position(inputs):
        # Depends on where in a window a sample is.
        return inputs * np.linspace(0.1, 1, LENGTH)[:, None]

    one = segment()
    whole = stacked(one, windows(), predict=position)
    part = one.first + 123, one.first + 301
    found = stacked(one, windows(batch_size=batch_size), part, predict=position)
    np.testing.assert_array_equal(found, whole[123:301])


def test_blinding_leaves_the_ends_of_windows_to_others_but_not_those_of_a_record():
    def wrong_ends(inputs):
        changed = np.array(inputs)
        changed[:, :5] = changed[:, -9:] = 1.0
        return changed

    one = segment()
    expected = one.read(one.first, one.stop)
    found = stacked(one, windows(0.5, (5, 9)), predict=wrong_ends)
    np.testing.assert_allclose(found[5:-9], expected[5:-9], atol=1e-6)
    np.testing.assert_allclose(found[[0, 4, -9, -1]], 1.0)
    assert np.abs(stacked(one, windows(), predict=wrong_ends) - expected).max() > 0.1


def test_the_largest_value_of_each_phase_is_stacked_and_noise_is_the_rest():
    values = iter([[0.2, 0.1, 0.7], [0.6, 0.3, 0.1]] * 2)

    def predict(inputs):
        return np.broadcast_to(next(values), (1, LENGTH, 3))

    one = segment(LENGTH + 32, first=0)
    found = stacked(one, windows(0.5, 0, "max", batch_size=1), predict=predict)
    np.testing.assert_allclose(found[0], [0.2, 0.1, 0.7], atol=1e-6)
    np.testing.assert_allclose(found[40], [0.6, 0.3, 0.1], atol=1e-6)


def test_a_window_without_motion_is_noise_whatever_a_network_makes_of_it():
    samples = np.zeros(200)
    ((one,), _) = segments([Piece(0, "HHZ", 0, RATE, samples)], RATE, 1)
    found = stacked(one, windows(), predict=lambda x: np.ones((*x.shape[:2], 3)) / 3)
    np.testing.assert_array_equal(found, np.tile([0, 0, 1], (200, 1)))


def test_samples_that_were_not_recorded_are_told():
    samples = np.random.default_rng(0).random(300)
    pieces = [
        Piece(0, "HHZ", 0, RATE, samples),
        Piece(0, "HHZ", 16 * 10**9, RATE, samples),
    ]
    ((one,), _) = segments(pieces, RATE, 1)

    def predict(inputs):
        assert np.isfinite(inputs).all()
        return np.tile(inputs, 3)

    parts = pick_windows.probabilities(one, (0, 700), windows(), same, predict)
    recorded = np.concatenate([recorded for *_, recorded in parts])
    np.testing.assert_array_equal(np.flatnonzero(~recorded), np.arange(300, 320))


def test_a_fill_is_a_line_in_a_gap_and_falls_to_the_mean_at_the_ends():
    window = np.full((500, 2), np.nan)
    window[100:150, 0] = 6.0
    window[200:250, 0] = 8.0
    pick_windows.fill(window, 100.0)
    column = window[:, 0]
    np.testing.assert_allclose(column[150:200], 6 + 2 * np.arange(1, 51) / 51)
    np.testing.assert_allclose(column[[0, 350, 499]], 7.0)
    assert np.abs(np.diff(column)).max() < 0.05  # no step
    np.testing.assert_array_equal(window[:, 1], 0.0)


@pytest.mark.parametrize("count", [1, 7, 16, 23, 32, 48, 100])
def test_batches_add_up_and_have_few_sizes(count):
    sizes = pick_windows.batches(count)
    assert sum(sizes) == count
    assert set(sizes) <= {1, 4, 16, 64, count}
    small = pick_windows.batches(count, 4)
    assert sum(small) == count and set(small) <= {1, 4}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"overlap": 1.0}, None),
        ({"overlap": 64}, "overlap 64 must be a share below 1, or 1 to 63 samples"),
        ({"overlap": -0.1}, "overlap -0.1 must be"),
        ({"overlap": float("nan")}, "overlap nan must be"),
        ({"blinding": (1, 2, 3)}, "must be one or two numbers of samples"),
        ({"blinding": -1}, "blinding -1 must be"),
        ({"blinding": 0.5}, "blinding 0.5 must be"),
        (
            {"blinding": (20, 13)},
            "leaves 31 of 64 samples a window, and windows are 32",
        ),
        ({"stacking": "mean"}, "stacking 'mean' is none of avg, max"),
        ({"batch_size": 0}, "batch_size 0 must be a whole number, 1 to 4096"),
        ({"batch_size": 2.5}, "batch_size 2.5 must be a whole number"),
        ({"batch_size": "8"}, "batch_size '8' must be a whole number"),
        ({"overlap": "half"}, "overlap 'half' must be a share below 1"),
    ],
)
def test_windows_out_of_range_are_refused(changes, message):
    if message is None:
        assert windows(**changes).hop == LENGTH - 1  # one sample, as in SeisBench
        return
    with pytest.raises(ConfigError, match=message):
        windows(**changes)
