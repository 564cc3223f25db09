import numpy as np
import pytest

from jaxmodels.data.drawn_windows import Windows
from jaxmodels.data.pick_labels import pick_labels
from jaxmodels.data.waveform_rows import EventRows, MixedRows, PickRows, WaveformRows
from jaxmodels.data.waveform_store import store_waveforms
from jaxmodels.data.waveform_windows import WindowPreprocessing
from tests.data.motion_sources import RATE, Listed, shaking

COUNT = 200


def windows(*seeds, count=COUNT, **fields):
    fields = {"s_sample": 160.0, **fields}
    records = [shaking(seed, label=f"{seed % 2}", **fields) for seed in seeds]
    stored = store_waveforms(Listed(*records), RATE, name="list")
    return Windows(stored, np.arange(len(seeds)), WindowPreprocessing(RATE, count))


def test_rows_hold_their_windows_and_padding_is_zero():
    rows = WaveformRows(windows(0, 1))
    batch = rows.batch([1, None])
    assert set(batch) == {"inputs", "weights"}
    np.testing.assert_array_equal(batch["inputs"][0], rows.windows.fixed(1)[0])
    assert not batch["inputs"][1].any()
    np.testing.assert_array_equal(batch["weights"], [1.0, 0.0])
    assert rows.names(1) == ["r1"] and len(rows) == 2


def test_targets_are_the_labels_of_the_arrivals():
    rows = PickRows(windows(0, 1, 2), sigma=4.0, shape="triangle")
    batch = rows.batch([0, 2])
    for place, row in enumerate((0, 2)):
        p_sample, s_sample = batch["p_sample"][place], batch["s_sample"][place]
        assert s_sample - p_sample == 60.0
        expected = pick_labels(p_sample, s_sample, COUNT, sigma=4.0, shape="triangle")
        np.testing.assert_allclose(batch["targets"][place], expected, atol=1e-6)
        assert row in (0, 2) and rows.windows.fixed(row)[1][0, 0] == p_sample


def test_an_arrival_outside_of_the_window_is_no_sample_of_it():
    rows = PickRows(windows(0, s_sample=-1.0))
    batch = rows.batch([0, None])
    assert batch["p_sample"][0] >= 0
    np.testing.assert_array_equal(batch["s_sample"], [-1.0, -1.0])
    assert batch["p_sample"][1] == -1.0 and batch["weights"][1] == 0.0
    short = PickRows(windows(0, count=40)).batch([0])
    assert (short["p_sample"] >= 0).sum() + (short["s_sample"] >= 0).sum() <= 1


@pytest.mark.parametrize("make", [WaveformRows, PickRows])
def test_a_batch_does_not_depend_on_what_is_beside_it(make):
    rows = make(windows(0, 1, 2))
    together = rows.varied([0, 1, 2], [10, 11, 12])
    alone = rows.varied([1], [11])
    for name, value in alone.items():
        np.testing.assert_array_equal(value[0], together[name][1])


def test_targets_of_events_are_the_classes_of_their_labels():
    rows = EventRows(windows(0, 1, 2), {"0": 0, "1": 1})
    batch = rows.batch([0, 1, 2, None])
    np.testing.assert_array_equal(batch["targets"], [0, 1, 0, 0])
    assert batch["targets"].dtype == np.int32
    np.testing.assert_array_equal(rows.varied([1], [0])["targets"], [1])


def test_two_sets_are_mixed_by_their_share_and_each_is_seen_whole():
    first, second = PickRows(windows(0, 1, 2)), PickRows(windows(10, 11, 12, 13, 14))
    for share in (0.25, 0.5, 0.8):
        mixed = MixedRows(first, second, share)
        names = [mixed.names(row)[0] for row in range(len(mixed))]
        others = [name for name in names if len(name) == 3]
        assert len(others) / len(names) == pytest.approx(share, abs=0.06)
        assert set(names) == {f"r{i}" for i in (0, 1, 2, 10, 11, 12, 13, 14)}
    last = len(mixed) - 1
    batch = mixed.batch([0, last, None])
    np.testing.assert_array_equal(batch["inputs"][0], first.batch([0])["inputs"][0])
    np.testing.assert_array_equal(batch["weights"], [1.0, 1.0, 0.0])
    varied = mixed.varied([last], [3])
    own = int(mixed.names(last)[0][1:]) - 10
    np.testing.assert_array_equal(varied["inputs"], second.varied([own], [3])["inputs"])
