import types

import numpy as np
import pytest

from experiments import picking_sources, picking_windows
from experiments.picking_windows import Target, Window
from jaxmodels.data.instruments import Instruments
from jaxmodels.train.errors import ConfigError
from tests.data.test_seisbench import NAN, row, write_set

RATE = 20.0


def window(p=30.0, s=33.0, seconds=90.0):
    """A record whose samples are their own numbers."""
    place = np.arange(round(seconds * RATE), dtype=np.float32)
    return Window("r", np.stack([place] * 3, axis=1), RATE, p, s, True)


def test_records_have_the_arrivals_in_seconds_and_know_their_horizontals(tmp_path):
    rng = np.random.default_rng(0)
    blocks = {f"r{n}": rng.standard_normal((3, 100)) for n in range(3)}
    blocks["r1"][1:] = 0
    picks = [(40, 50), (NAN, 60.5), (2, 100)]
    rows = [
        row(f"r{n}", trace_P_arrival_sample=p, trace_S_arrival_sample=s)
        for n, (p, s) in enumerate(picks)
    ]
    folder = write_set(tmp_path / "set", rows, blocks, unit="counts")
    found = list(picking_windows.records(str(folder), "train", data_dir=tmp_path / "d"))
    assert [one.name for one in found] == ["r0", "r1", "r2"]
    times = [(one.p, one.s) for one in found]
    # The last S is after the last sample.
    np.testing.assert_array_equal(times, [(2.0, 2.5), (NAN, 3.025), (0.1, NAN)])
    assert [one.three for one in found] == [True, False, True]
    few = picking_windows.records(
        str(folder), "train", data_dir=tmp_path / "d", limit=1
    )
    assert len(list(few)) == 1


def test_crops_begin_at_random_and_hold_the_arrivals_away_from_their_ends():
    rng = np.random.default_rng(0)
    found = picking_windows.crops(window(), 30.0, 200, rng)
    assert {len(one.waveform) for one in found} == {600}
    places = np.array([(one.p, one.s) for one in found])
    assert places.min() >= 1 and places.max() <= 29
    # P comes at any time from 1 to 26 s.
    counts, _ = np.histogram(places[:, 0], [1, 6, 11, 16, 21, 26.01])
    assert counts.min() > 20
    for one in found:
        assert one.waveform[0, 0] == round((30 - one.p) * RATE)


def test_crops_of_a_late_s_hold_p_alone():
    rng = np.random.default_rng(0)
    found = picking_windows.crops(window(s=59.5), 30.0, 50, rng)
    assert all(1 <= one.p <= 29 for one in found)
    assert all(np.isnan(one.s) or one.s < 30 for one in found)


def test_crops_stay_within_the_record():
    rng = np.random.default_rng(0)
    for p in (0.2, 89.9):
        found = picking_windows.crops(window(p=p, s=np.nan), 30.0, 5, rng)
        assert all(len(one.waveform) == 600 and 0 <= one.p < 30 for one in found)
    short = window(p=2.0, s=3.0, seconds=20.0)
    assert picking_windows.crops(short, 30.0, 2, rng) == [short, short]


def test_the_seed_and_the_place_of_a_record_decide_its_crops():
    def starts(seed, index):
        rng = picking_windows.generator(seed, index)
        return [one.name for one in picking_windows.crops(window(), 30.0, 3, rng)]

    assert starts(0, 5) == starts(0, 5)
    assert starts(0, 5) != starts(0, 6) and starts(0, 5) != starts(1, 5)


def test_windows_of_the_protocol_hold_what_they_should():
    for seed in range(50):
        rng = picking_windows.generator(42, seed)
        found = picking_windows.targets(window(p=31.0, s=40.0), rng)
        assert [one.label for one in found] == ["earthquake", "noise", "P", "S"]
        event, noise, *phases = found
        assert event.start + 1 <= 31 <= event.end - 1
        assert event.end - event.start == pytest.approx(30)
        # At P itself its probability is high already before it.
        assert 0 <= noise.start and noise.end <= 31 - 1
        for one, onset, other in zip(phases, (31, 40), (40, 31), strict=True):
            assert one.end - one.start == pytest.approx(10)
            assert one.start + 0.5 <= onset <= one.end - 0.5
            assert not one.start - 0.5 < other < one.end + 0.5


def test_windows_that_do_not_fit_are_left_out():
    def labels(record):
        found = picking_windows.targets(record, np.random.default_rng(0))
        return [one.label for one in found]

    # P and S nearer to each other than their margins.
    assert labels(window(p=31.0, s=31.9)) == ["earthquake", "noise"]
    assert labels(window(p=30.9, s=31.8)) == ["earthquake"]
    assert labels(window(p=29.9)) == ["earthquake", "P", "S"]
    assert labels(window(p=5.0, s=7.0, seconds=20.0)) == ["S"]
    assert labels(window(p=np.nan, s=np.nan)) == ["noise"]


def test_context_surrounds_a_target_as_far_as_the_record_goes():
    record = window()
    for start, first in ((40.0, 30.0), (2.0, 0.0), (79.0, 60.0)):
        part, begin = picking_windows.context(
            record, Target(2, "P", start, start + 10), 30
        )
        assert begin == first and part.seconds == 30
        assert part.waveform[0, 0] == first * RATE
    part, begin = picking_windows.context(record, Target(1, "noise", 0.0, 30.0), 10)
    assert (part.seconds, begin) == (30, 0)


def test_a_record_without_noise_is_written_with_its_p_where_it_was():
    rng = np.random.default_rng(0)
    still = window(p=10.0, s=14.0, seconds=40.0)
    motion = rng.standard_normal((800, 3)).astype(np.float32)
    motion[:200] = 0
    still = still._replace(waveform=motion)
    loud = Instruments(snr=(60, 60), quantized=0, clipped=0)
    found = picking_windows.written(still, loud, rng)
    assert (found.p, found.s, found.seconds) == (40.0, 44.0, 70.0)
    size = np.abs(found.waveform[:, 0])
    assert size[: 40 * 20].max() < 0.05 * size[40 * 20 : 42 * 20].max()


def test_halves_of_noise_have_nothing_in_common(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "noise.npz"
    np.savez(path, a=rng.standard_normal((3, 3000)), sampling_rate=RATE)
    halves = [list(picking_windows.noise_windows(path, RATE, half)) for half in (0, 1)]
    assert [len(one) for one in halves] == [2, 2]
    firsts = {float(one.waveform[0, 0]) for half in halves for one in half}
    assert len(firsts) == 4 and np.isnan(halves[0][0].p)


def picker(**about):
    return types.SimpleNamespace(about=about)


def test_synthetic_records_are_made_as_those_that_a_model_was_trained_on():
    source = picking_sources.source_of("synthetic_motions", {})
    assert source["synthetic"]["noise"] is None
    assert source["instruments"] == Instruments()
    told = {"synthetic": {"num_records": 8}, "instruments": {"snr": (9, 9)}}
    models = {
        "a": picker(dataset="./x", second={"dataset": "synthetic_motions"}, **told)
    }
    found = picking_sources.source_of("synthetic_motions", models)
    assert found["synthetic"]["num_records"] == 8
    assert found["instruments"].snr == (9, 9)
    noisy = {"synthetic": {"noise": (-4.0, 0.6)}, "instruments": True}
    models = {"a": picker(dataset="synthetic_motions", **noisy)}
    assert picking_sources.source_of("synthetic_motions", models)["instruments"] is None
    models["b"] = picker(dataset="synthetic_motions", **told)
    with pytest.raises(ConfigError, match="b and a were trained on different"):
        picking_sources.source_of("synthetic_motions", models)
    assert picking_sources.source_of("./folder", models) == {"reader": None}


@pytest.mark.parametrize(
    "one, other, shared",
    [
        ("train", "train", True),
        ("train[:60%]", "train", True),
        ("train", "train[:60%]", True),
        ("train[:60%]", "train[60%:]", False),
        ("train", "dev", False),
        ("train2", "train", False),
    ],
)
def test_a_part_of_a_split_shares_its_records(one, other, shared):
    assert picking_sources.share_records(one, other) == shared
