import numpy as np
import pytest

from jaxmodels.data.pick_labels import pick_labels
from jaxmodels.train.errors import ConfigError

NAN = float("nan")


def test_labels_are_gaussians_at_the_arrivals():
    labels = pick_labels(40.0, 160.0, 200, sigma=5.0)
    time = np.arange(200)
    expected = np.exp(-0.5 * ((time - 40) / 5) ** 2)
    np.testing.assert_allclose(labels[:, 0], expected, atol=1e-7)
    assert labels[:, 1].argmax() == 160 and labels[160, 1] == 1.0
    assert labels.dtype == np.float32 and labels.shape == (200, 3)


@pytest.mark.parametrize("shape", ["gaussian", "triangle"])
@pytest.mark.parametrize("gap", [0.0, 1.0, 36.0, 90.0])
def test_every_sample_adds_up_to_one_and_nothing_is_negative(shape, gap):
    labels = pick_labels(100.3, 100.3 + gap, 300, sigma=20.0, shape=shape)
    np.testing.assert_allclose(labels.sum(axis=1), 1.0, rtol=1e-6)
    assert labels.min() >= 0.0


def test_close_phases_share_what_there_is():
    labels = pick_labels(50.0, 50.0, 100, sigma=10.0)
    np.testing.assert_allclose(labels[50], [0.5, 0.5, 0.0])


def test_a_triangle_ends_at_sigma():
    labels = pick_labels(10.0, -1, 20, sigma=4.0, shape="triangle")
    np.testing.assert_allclose(
        labels[6:15, 0], [0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25, 0]
    )
    assert not labels[:6, 0].any() and not labels[15:, 0].any()


@pytest.mark.parametrize("nothing", [-1, -1.0, NAN, [NAN, -1.0], []])
def test_what_does_not_arrive_is_noise(nothing):
    labels = pick_labels(nothing, nothing, 10)
    np.testing.assert_array_equal(labels, [[0, 0, 1]] * 10)


def test_the_tail_of_an_arrival_outside_the_window_counts():
    whole = pick_labels(50.0, 260.0, 300, sigma=20.0)
    cut = pick_labels(50.0 - 60, 260.0 - 60, 180, sigma=20.0)
    np.testing.assert_allclose(cut, whole[60:240], atol=1e-7)
    assert cut[0, 0] > 0.8 and cut[-1, 1] > 0.5
    assert not pick_labels(-5000.0, 5000.0, 100)[:, :2].any()


def test_arrivals_between_samples_count_where_they_are():
    labels = pick_labels(50.5, -1, 100, sigma=3.0)
    np.testing.assert_allclose(labels[50], labels[51], rtol=1e-6)


def test_of_several_arrivals_of_a_phase_the_nearest_counts():
    both = pick_labels([40.0, 55.0], [NAN, 150.0], 200, sigma=10.0)
    ones = [pick_labels(p, -1, 200, sigma=10.0)[:, 0] for p in (40.0, 55.0)]
    np.testing.assert_allclose(both[:, 0], np.maximum(*ones), atol=1e-7)
    assert both[150, 1] == 1.0


def test_impossible_labels_are_refused():
    with pytest.raises(ConfigError, match="shape 'box' are none of gaussian, triangle"):
        pick_labels(1.0, 2.0, 10, shape="box")
    with pytest.raises(ConfigError, match="sigma 0 of labels must be greater than 0"):
        pick_labels(1.0, 2.0, 10, sigma=0)
