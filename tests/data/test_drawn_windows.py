import dataclasses
import math

import numpy as np
import pytest

from jaxmodels.data.drawn_windows import Windows
from jaxmodels.data.instruments import Instruments
from jaxmodels.data.noise_records import NoiseRecords
from jaxmodels.data.waveform_augmentations import WaveformAugmentation
from jaxmodels.data.waveform_store import store_waveforms
from jaxmodels.data.waveform_windows import WindowPreprocessing
from tests.data.motion_sources import Listed, shaking

RATE = 100.0
COUNT = 600
NONE = {name: 0.0 for name in WaveformAugmentation.__dataclass_fields__}
LOUD = Instruments(
    kinds=("accelerometer",),
    snr=(60.0, 60.0),
    lowpassed=0.0,
    quantized=0.0,
    clipped=0.0,
    bursts=0.0,
    microseism=0.0,
)


def record(seed, clean=True, length=1500, **fields):
    """P at 500 and S at 620, before which nothing moves."""
    made = shaking(seed, length, 500, RATE, s_sample=620.0, **fields)
    if clean:
        made["waveform"][:500] = 0.0
        made["snr"] = math.inf
    made["waveform"][620:] *= 8.0
    return made


def windows(*records, vary=None, **options):
    stored = store_waveforms(Listed(*records), RATE, name="list")
    preprocessing = WindowPreprocessing(RATE, COUNT, normalization="none")
    return Windows(
        stored,
        np.arange(len(stored)),
        preprocessing,
        augmentation=None if vary is None else WaveformAugmentation(**{**NONE, **vary}),
        **options,
    )


def onset(window):
    """The first sample that is a hundredth of the largest."""
    size = np.abs(window - window[:1]).max(axis=1)
    return int(np.argmax(size > 0.01 * size.max()))


@pytest.mark.parametrize(
    "vary",
    [
        dict(around=1.0),
        dict(around=1.0, stretch=0.05),
        dict(around=1.0, rotate=1.0, polarity=1.0),
        dict(around=1.0, vertical_only=1.0),
        dict(around=1.0, drop=1.0),
        dict(around=1.0, superpose=1.0),
    ],
    ids=lambda vary: "-".join(vary),
)
def test_p_is_where_a_clean_record_begins_to_move(vary):
    rows = windows(record(0), record(1), vary=vary, instruments=LOUD)
    seen = 0
    for place in range(40):
        window, arrivals = rows.varied(place % 2, place)
        p_sample = arrivals[0, 0]
        if 50 <= p_sample < COUNT - 50:
            end = int(arrivals[1, 0]) if len(arrivals) > 1 else COUNT
            assert abs(onset(window[:end]) - p_sample) <= 3
            seen += 1
    assert seen > 10


@pytest.mark.parametrize("stretch", [0.0, 0.05])
@pytest.mark.parametrize("clean", [True, False])
def test_s_is_where_the_motion_grows(clean, stretch):
    rows = windows(
        record(0, clean),
        vary=dict(around=1.0, stretch=stretch),
        instruments=dataclasses.replace(LOUD, snr=(80.0, 80.0)),
    )
    seen = 0
    for place in range(40):
        window, arrivals = rows.varied(0, place)
        s_sample = arrivals[0, 1]
        if not 40 <= s_sample < COUNT - 40:
            continue
        s_sample = round(s_sample)
        before = np.abs(window[s_sample - 30 : s_sample - 2]).mean()
        assert np.abs(window[s_sample + 2 : s_sample + 30]).mean() > 3 * before
        assert (arrivals[0, 1] - arrivals[0, 0]) == pytest.approx(
            120, rel=stretch + 1e-9
        )
        seen += 1
    assert seen > 10


def test_a_second_event_follows_the_first_with_arrivals_of_its_own():
    rows = windows(
        record(0), record(1), vary=dict(around=1.0, superpose=1.0), instruments=LOUD
    )
    seen = 0
    for place in range(60):
        window, arrivals = rows.varied(0, place)
        if len(arrivals) < 2 or arrivals[1, 0] > COUNT - 40:
            continue
        first, second = arrivals[0], arrivals[1]
        assert second[0] >= first[1] + RATE and second[1] == second[0] + 120
        at = int(second[0])
        before = np.abs(window[at - 30 : at - 2, 0]).max()
        assert np.abs(window[at + 2 : at + 30, 0]).max() > 1.1 * before
        seen += 1
    assert seen > 5


def test_windows_of_clean_records_go_on_as_noise_outside_of_them():
    rows = windows(
        record(0, length=900), vary=dict(around=1.0), instruments=Instruments()
    )
    for place in range(30):
        window, _ = rows.varied(0, place)
        still = (np.diff(window, axis=0) == 0).all(axis=1)
        assert window.shape == (COUNT, 3) and still.mean() < 0.9


def test_windows_of_real_records_stay_inside_of_them():
    rows = windows(record(0, clean=False), vary=dict(around=0.0))
    stored = rows.stored.record(0)
    for place in range(20):
        window, arrivals = rows.varied(0, place)
        start = round(500 - arrivals[0, 0])
        assert 0 <= start <= 900
        part = stored[start : start + COUNT]
        np.testing.assert_allclose(window, part - part.mean(axis=0), atol=1e-5)


def test_stretched_windows_of_real_records_have_no_end_of_zeros():
    rows = windows(
        record(0, clean=False, length=700), vary=dict(around=0.5, stretch=0.05)
    )
    for place in range(30):
        window, _ = rows.varied(0, place)
        assert np.ptp(window[-3:], axis=0).all() and np.ptp(window[:3], axis=0).all()


def test_a_window_is_a_function_of_row_and_place():
    rows = windows(
        record(0),
        record(1),
        vary=dict(around=1.0, stretch=0.05, rotate=1.0),
        instruments=Instruments(),
    )
    for first, again in zip(rows.varied(1, 7), rows.varied(1, 7), strict=True):
        np.testing.assert_array_equal(first, again)
    assert not np.array_equal(rows.varied(1, 7)[0], rows.varied(1, 8)[0])
    other = dataclasses.replace(rows, seed=5)
    for first, again in zip(rows.fixed(1), other.fixed(1), strict=True):
        np.testing.assert_array_equal(first, again)
    assert not np.array_equal(rows.varied(1, 7)[0], other.varied(1, 7)[0])


def test_fixed_windows_hold_both_arrivals_at_many_places():
    rows = windows(
        *(record(seed, clean=seed % 2) for seed in range(12)), instruments=Instruments()
    )
    arrivals = np.array([rows.fixed(row)[1][0] for row in range(12)])
    assert arrivals.min() >= 0.04 * COUNT and arrivals.max() <= 0.96 * COUNT
    assert len(np.unique(arrivals[:, 0] // 100)) >= 4


def test_whole_windows_of_training_hold_both_arrivals():
    rows = windows(
        record(0),
        vary=dict(around=1.0, rotate=1.0),
        whole=True,
        instruments=Instruments(),
    )
    arrivals = np.array([rows.varied(0, place)[1][0] for place in range(30)])
    assert (
        arrivals.min() >= 0 and arrivals.max() < COUNT and np.ptp(arrivals[:, 0]) > 200
    )


def test_windows_of_noise_have_no_arrivals():
    piece = np.random.default_rng(0).standard_normal((2000, 3)).astype(np.float32)
    rows = windows(
        record(0),
        vary=dict(noise_only=1.0),
        noise=NoiseRecords((piece,)),
        noise_share=1.0,
    )
    window, arrivals = rows.varied(0, 3)
    assert np.isnan(arrivals).all() and window.std() > 0.5


def test_noise_is_added_to_the_components_that_were_recorded():
    made = record(0, clean=False)
    made["waveform"][:, 2] = 0.0
    piece = np.random.default_rng(0).standard_normal((2000, 3)).astype(np.float32)
    rows = windows(
        made,
        vary=dict(around=1.0, noise=1.0),
        noise=NoiseRecords((piece,)),
        noise_share=1.0,
    )
    for place in range(10):
        window, arrivals = rows.varied(0, place)
        if not 150 < arrivals[0, 0] < COUNT - 150:
            continue
        assert not window[:, 2].any()
        before = int(arrivals[0, 0])
        noise, signal = window[: before - 5, 0], window[before : before + 50, 0]
        assert noise.std() > 1e-3 and signal.std() > 1.5 * noise.std()


def test_the_real_share_of_noise_is_real():
    piece = np.full((2000, 3), 7.0, np.float32)
    options = dict(noise=NoiseRecords((piece,)), instruments=LOUD)
    real = windows(record(0), noise_share=1.0, **options)
    drawn = windows(record(0), noise_share=0.0, **options)
    np.testing.assert_array_equal(np.abs(real._noise(np.random.default_rng(0))), 7.0)
    assert np.abs(drawn._noise(np.random.default_rng(0))).std() > 0.1


def test_a_model_of_one_component_sees_the_vertical():
    rows = windows(record(0, clean=False))
    single = Windows(
        rows.stored,
        rows.chosen,
        WindowPreprocessing(RATE, COUNT, channels=1, normalization="none"),
    )
    np.testing.assert_array_equal(single.fixed(0)[0][:, 0], rows.fixed(0)[0][:, 0])
