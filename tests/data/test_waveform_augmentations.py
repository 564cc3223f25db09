import numpy as np
import pytest

from jaxmodels.data import waveform_augmentations as augmentations
from jaxmodels.data.waveform_augmentations import (
    WaveformAugmentation,
    make_waveform_augmentation,
)
from jaxmodels.train.errors import ConfigError

NONE = {name: 0.0 for name in WaveformAugmentation.__dataclass_fields__}
NAN = float("nan")


def rng(seed=0):
    return np.random.default_rng(seed)


def only(**shares):
    return WaveformAugmentation(**{**NONE, **shares})


def noise(length=400, seed=0):
    return rng(seed).standard_normal((length, 3))


def test_a_whole_start_cuts_samples_as_they_are():
    record = noise()
    np.testing.assert_array_equal(augmentations.cut(record, 30, 50), record[30:80])
    around = augmentations.cut(record, -10, 420)
    np.testing.assert_array_equal(around[10:410], record)
    assert not around[:10].any() and not around[410:].any()


@pytest.mark.parametrize("pace", [0.95, 1.0, 1.05])
def test_samples_are_where_the_pace_puts_them(pace):
    time = np.arange(400.0)
    slow = np.stack([np.sin(0.1 * time), time, time**2], axis=1)
    part = augmentations.cut(slow, 20.25, 300, pace)
    place = 20.25 + pace * np.arange(300)
    np.testing.assert_allclose(part[:, 0], np.sin(0.1 * place), atol=1e-4)
    np.testing.assert_allclose(part[:, 1:], np.stack([place, place**2], 1), rtol=1e-9)


def test_a_stretched_part_is_zero_outside_of_the_record():
    part = augmentations.cut(np.ones((50, 3)), -20.5, 100, 1.05)
    inside = (-20.5 + 1.05 * np.arange(100) >= 0) & (
        -20.5 + 1.05 * np.arange(100) <= 49
    )
    np.testing.assert_allclose(part[:, 0], inside)


def test_two_windows_of_three_hold_a_pick_and_lie_everywhere_around_it():
    arrivals = np.array([3000.0, NAN])
    starts = [
        augmentations.choose_start(
            rng(seed), WaveformAugmentation(), arrivals, 500, 20_000, False
        )
        for seed in range(600)
    ]
    place = 3000 - np.array(starts)
    near = (place >= 0) & (place < 500)
    assert near.mean() == pytest.approx(2 / 3, abs=0.08)
    assert np.histogram(place[near], 5, (0, 500))[0].min() > 40
    assert min(starts) >= 0 and max(starts) <= 19_500


def test_windows_stay_in_the_record_unless_it_is_free():
    arrivals = np.array([20.0, 60.0])
    for length, low, high in ((1000, 0, 700), (100, -200, 0)):
        starts = [
            augmentations.choose_start(
                rng(i), only(around=0.5), arrivals, 300, length, False
            )
            for i in range(50)
        ]
        assert low <= min(starts) and max(starts) <= high
    free = [
        augmentations.choose_start(rng(i), only(around=1.0), arrivals, 300, 1000, True)
        for i in range(50)
    ]
    assert min(free) < -150


def test_turning_keeps_the_vertical_and_the_energy_of_the_horizontals():
    window = noise()
    turned = augmentations.turned(rng(), only(rotate=1.0), window.copy())
    np.testing.assert_array_equal(turned[:, 0], window[:, 0])
    energy = np.square(window[:, 1:]).sum(axis=1)
    np.testing.assert_allclose(np.square(turned[:, 1:]).sum(axis=1), energy)
    assert not np.allclose(turned[:, 1], window[:, 1])


def test_a_missing_horizontal_is_not_filled_by_turning():
    window = noise()
    window[:, 2] = 0.0
    turned = augmentations.turned(rng(), only(rotate=1.0), window.copy())
    np.testing.assert_array_equal(turned, window)


def test_polarity_changes_the_sign_of_half_of_the_windows():
    window = noise(20)
    signs = [
        (augmentations.turned(rng(i), only(polarity=1.0), window.copy()) / window)[0, 0]
        for i in range(200)
    ]
    assert set(np.round(signs)) == {-1.0, 1.0}
    assert abs(np.mean(signs)) < 0.3


def test_components_are_lost_as_named():
    arrivals = np.array([[10.0, 20.0]])
    alone = augmentations.with_losses(rng(), only(vertical_only=1.0), noise(), arrivals)
    assert alone[:, 0].any() and not alone[:, 1:].any()
    lost = augmentations.with_losses(rng(), only(drop=1.0), noise(), arrivals)
    assert lost.any(axis=0).sum() == 2
    np.testing.assert_array_equal(arrivals, [[10.0, 20.0]])


def test_what_arrives_in_a_gap_has_no_label_and_all_else_keeps_its_own():
    gone = kept = 0
    for seed in range(60):
        arrivals = np.array([[100.0, 150.0], [300.0, NAN]])
        window = augmentations.with_losses(rng(seed), only(gap=1.0), noise(), arrivals)
        flat = (np.diff(window, axis=0) == 0).all(axis=1)
        inside = np.concatenate([flat, [False]]) | np.concatenate([[False], flat])
        for event, phase, sample in ((0, 0, 100), (0, 1, 150), (1, 0, 300)):
            assert np.isnan(arrivals[event, phase]) == inside[sample]
            gone += inside[sample]
            kept += not inside[sample]
    assert gone > 5 and kept > 50


def test_impossible_augmentations_are_refused():
    with pytest.raises(ConfigError, match="augment: stretch 0.1 is more than 0.05"):
        make_waveform_augmentation({"stretch": 0.1})
    with pytest.raises(ConfigError, match="gap -1 is not between 0 and 1"):
        make_waveform_augmentation({"gap": -1})
    with pytest.raises(ConfigError, match="augment {'shift': True}: its fields are"):
        make_waveform_augmentation({"shift": True})
    assert make_waveform_augmentation(False) is None
