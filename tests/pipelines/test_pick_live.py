import numpy as np
import pytest

from jaxmodels.models.streaming_picker import StreamingPicker
from jaxmodels.pipelines import pick_live, pick_model
from jaxmodels.train.errors import ConfigError
from tests.pipelines import picking_runs as runs


@pytest.fixture(scope="module")
def picker():
    return runs.trained(runs.streaming_model())


def seismogram(count, seed=0):
    """Noise on a large offset, as counts are."""
    return 1e5 + 100 * np.random.default_rng(seed).standard_normal((count, 3))


def scripted(picker, monkeypatch, values, **keywords):
    """A `LivePicker` whose model gives `values` [T, 2], whatever arrives."""
    live = pick_live.LivePicker(picker, **keywords)
    values = np.pad(np.asarray(values, np.float32), ((0, 0), (0, 1)))

    def advance(model, variables, state, samples):
        at = live.num_samples
        return state, values[None, at : at + samples.shape[1]]

    monkeypatch.setattr(pick_live, "_advance", advance)
    return live


@pytest.mark.parametrize("size", [1, 3, 4, 100, 700])
def test_probabilities_of_packets_are_those_of_the_whole(picker, monkeypatch, size):
    waveform = seismogram(700)
    expected = np.asarray(
        pick_model._probabilities(
            picker.model,
            picker.variables,
            (waveform - waveform[0]).astype(np.float32)[None],
        )
    )[0]
    live = pick_live.LivePicker(picker)
    found = []
    monkeypatch.setattr(live, "_look", lambda values: found.append(values) or [])
    for first in range(0, 700, size):
        live.push(waveform[first : first + size])
    np.testing.assert_allclose(np.concatenate(found), expected, atol=2e-5)


def bump(count, peak, height, width=10):
    time = np.arange(count)
    return height * np.exp(-0.5 * ((time - peak) / width) ** 2)


@pytest.mark.parametrize("size", [1, 4, 37, 400])
def test_picks_come_at_their_peaks_and_within_the_latency(picker, monkeypatch, size):
    values = np.stack([bump(400, 101, 0.9), bump(400, 222, 0.8)], axis=1)
    live = scripted(picker, monkeypatch, values)
    assert live.latency == 0.53
    found = []
    for first in range(0, 400, size):
        picks = live.push(np.zeros((size, 3))[: 400 - first])
        found += picks
    assert [(pick.phase, pick.seconds) for pick in found] == [("P", 1.01), ("S", 2.22)]
    np.testing.assert_allclose([pick.probability for pick in found], [0.9, 0.8])
    assert all(0 < pick.waited <= live.latency for pick in found)


def test_a_probability_that_stays_high_gives_one_pick_in_time(picker, monkeypatch):
    values = np.zeros((400, 2))
    values[50:300, 0] = 0.6
    live = scripted(picker, monkeypatch, values, patience=0.2)
    found = []
    for _ in range(100):
        found += live.push(np.zeros((4, 3)))
    assert [pick.seconds for pick in found] == [0.5]
    assert found[0].waited <= live.latency == 0.23


def test_thresholds_are_those_of_keywords(picker, monkeypatch):
    values = np.stack([bump(200, 60, 0.5), bump(200, 120, 0.5)], axis=1)
    live = scripted(picker, monkeypatch, values, P_threshold=0.6, S_threshold=0.4)
    assert [pick.phase for pick in live.push(np.zeros((200, 3)))] == ["S"]


@pytest.mark.parametrize(
    "keywords, message",
    [
        ({"patience": -1}, "patience -1 s must be 0 to 60"),
        ({"P_threshold": 2}, "P_threshold 2 must be above 0"),
        ({"overlap": 0.5}, "'overlap' is no keyword of a live picker; it has patience"),
    ],
)
def test_a_wrong_keyword_is_refused(picker, keywords, message):
    with pytest.raises(ConfigError, match=message):
        pick_live.LivePicker(picker, **keywords)


def test_a_model_that_reads_whole_windows_is_refused():
    with pytest.raises(ConfigError, match="reads whole windows; give the --checkpoint"):
        pick_live.LivePicker(runs.picker())


def test_samples_that_do_not_fit_are_refused(picker):
    live = pick_live.LivePicker(picker)
    with pytest.raises(ConfigError, match=r"shape \(5, 2\) are not \[samples, 3\]"):
        live.push(np.zeros((5, 2)))
    with pytest.raises(ConfigError, match="are not finite; repeat the last ones"):
        live.push(np.full((5, 3), np.nan))


def test_a_file_is_played_as_if_it_arrived(tmp_path, capsys):
    pytest.importorskip("obspy")
    folder = runs.package(tmp_path / "model", runs.streaming_model())
    path = tmp_path / "a.mseed"
    stream = runs.stream(seismogram(900), channels=("HHZ", "HHN", None))
    stream.write(str(path), "MSEED")
    code = pick_live.main([str(path), "--checkpoint", str(folder)])
    out, err = capsys.readouterr()
    assert code == 0 and "XX.ABC..HH has no east component; zeros" in err
    assert "XX.ABC..HH: 9 s, " in out and "at most 0.53 s after arrivals" in out
    code = pick_live.main(["none.mseed", "--checkpoint", str(folder)])
    assert code == 64 and "there is no file none.mseed" in capsys.readouterr()[1]


def test_a_component_that_begins_later_does_not_step(tmp_path, monkeypatch, capsys):
    """In miniSEED files components seldom begin together, and counts are far from 0."""
    obspy = pytest.importorskip("obspy")
    folder = runs.package(tmp_path / "model", runs.streaming_model())
    stream = runs.stream(seismogram(900) + 1e6, channels=("HHZ", "HHN", None))
    begin = stream[1].stats.starttime
    late = stream[:1] + obspy.Stream([stream[1].slice(begin + 3)])
    late.write(str(tmp_path / "a.mseed"), "MSEED")
    pushed = []
    monkeypatch.setattr(
        pick_live.LivePicker, "push", lambda self, x: pushed.append(x) or []
    )
    path = str(tmp_path / "a.mseed")
    assert pick_live.main([path, "--checkpoint", str(folder)]) == 0
    samples = np.concatenate(pushed)
    np.testing.assert_array_equal(samples[:300, 1], samples[300, 1])
    assert samples[:, :2].min() > 1e6 and not samples[:, 2].any()
    assert "no east component" in capsys.readouterr()[1]


def test_the_whole_model_looks_back_only_in_windows_too(picker):
    assert isinstance(picker.model, StreamingPicker)
    assert picker.defaults()["blinding"] == (256, 0)
