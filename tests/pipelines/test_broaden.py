import hashlib
import json

import numpy as np
import pytest

from jaxmodels.metrics.ground_motion import lf_snr
from jaxmodels.pipelines import (
    broaden_figure,
    broaden_files,
    broaden_model,
    broaden_units,
)
from tests.pipelines import broadening_runs as runs
from tests.pipelines.broadening_runs import FAST, SUFFIXES, command


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("packaged")
    return runs.package(path)


@pytest.fixture
def no_figure(monkeypatch):
    """Drawing takes longer than all else here; one test draws."""

    def draw(path, **arrays):
        shapes = {k: np.shape(x) for k, x in arrays.items()}
        with open(path, "w") as file:
            file.write(str(shapes))

    monkeypatch.setattr(broaden_figure, "draw", draw)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_record_becomes_files_that_are_the_same_every_time(
    checkpoint, tmp_path, capsys
):
    obspy = pytest.importorskip("obspy")
    path = runs.write_npz(
        tmp_path / "a.npz",
        network="XX",
        station="ABC",
        starttime="2020-01-01T00:00:00.25",
    )
    given = [path, "--checkpoint", checkpoint, "--output", tmp_path / "out", *FAST]
    code, lines, err = command(capsys, *given)
    assert code == 0 and not err
    assert "was trained on synthetic_motions/tiny/1.0.0, split train" in lines[0]
    assert lines[1] == "a: 3 component(s) ZNE, 6 s at 20 Hz, taken as m/s^2"
    assert lines[2].startswith("| measure | low-pass | mean of 2 |")
    first = contents(tmp_path / "out")
    assert sorted(first) == [f"a.{suffix}" for suffix in SUFFIXES]
    given[4] = tmp_path / "again"
    command(capsys, *given)
    assert contents(tmp_path / "again") == first

    with np.load(tmp_path / "out" / "a.npz") as made:
        samples, low_passed = made["samples"], made["low_passed"]
        own = runs.preprocessing()
        observed = own.prepare(runs.ground_motion())
        np.testing.assert_array_equal(made["observed"], observed)
        np.testing.assert_allclose(low_passed, own.low_pass(observed, 1.0), atol=1e-6)
        assert str(made["starttime"]) == "2020-01-01T00:00:00.250000"
    assert samples.shape == (2, 120, 3)
    assert min(lf_snr(x, low_passed, runs.RATE, 1.0) for x in samples) > 17
    stream = obspy.read(str(tmp_path / "out" / "a.mseed"))
    ids = [f"XX.ABC.{m:02d}.HN{letter}" for m in (0, 1) for letter in "ZNE"]
    assert [trace.id for trace in stream] == ids
    np.testing.assert_array_equal(stream[4].data, samples[1, :, 1])
    assert str(stream[0].stats.starttime) == "2020-01-01T00:00:00.250000Z"
    assert stream[0].stats.sampling_rate == runs.RATE


def test_a_json_file_says_where_the_samples_come_from(
    checkpoint, tmp_path, capsys, no_figure
):
    path = runs.write_npz(tmp_path / "a.npz")
    options = "--checkpoint", checkpoint, "--output", tmp_path / "out", "--seed", 7
    assert command(capsys, path, *options, *FAST)[0] == 0
    content = json.loads((tmp_path / "out" / "a.json").read_text())
    assert content["seed"] == 7 and content["corner"] == 1.0
    assert content["sampling_rate"] == runs.RATE
    assert content["arguments"]["steps"] == 2 and content["settings"]["num_steps"] == 2
    assert content["settings"]["sampler"] == "ddim"
    assert len(content["checkpoint"]["sha256"]) == 64
    assert content["trained_on"] == "synthetic_motions/tiny/1.0.0, split train"
    (digest,) = content["record"]["files"].values()
    assert len(digest) == 64 and content["version"]
    assert content["files"] == [f"a.{s}" for s in SUFFIXES if s != "json"]
    assert content["settings"]["merges"] == broaden_model.MERGES
    record = content["record"]
    assert record["notes"][0].endswith("taken as m/s^2") and not record["inventory"]
    assert (record["network"], record["station"], record["location"]) == ("", "", "")


def test_scores_compare_each_sample_with_the_record(
    checkpoint, tmp_path, capsys, no_figure
):
    path = runs.write_npz(tmp_path / "a.npz")
    options = "--checkpoint", checkpoint, "--output", tmp_path
    assert command(capsys, path, *options, *FAST)[0] == 0
    rows = [line.split(",") for line in (tmp_path / "a.csv").read_text().splitlines()]
    assert [row[0] for row in rows] == ["sample", "low-pass", "00", "01"]
    table = dict(zip(rows[0], zip(*rows[1:], strict=True), strict=True))
    # A low-pass takes energy away, and its own low-pass is not itself.
    assert float(table["arias"][0]) < -0.5 and float(table["lf_snr"][0]) > 10
    assert "| lf_snr |" in (tmp_path / "a.md").read_text()


def test_a_low_passed_record_is_the_condition_itself(
    checkpoint, tmp_path, capsys, no_figure
):
    own = runs.preprocessing()
    x = np.asarray(own.low_pass(runs.ground_motion(), 1.0))
    path = runs.write_npz(tmp_path / "a.npz", x)
    options = "--checkpoint", checkpoint, "--output", tmp_path / "out", "--lowpassed"
    code, lines, _ = command(capsys, path, *options, *FAST)
    assert code == 0 and not any(line.startswith("|") for line in lines)
    with np.load(tmp_path / "out" / "a.npz") as made:
        np.testing.assert_allclose(made["low_passed"], own.prepare(x), atol=1e-7)
        assert "observed" not in made
    assert not (tmp_path / "out" / "a.csv").exists()


def test_where_nothing_can_be_scored_the_samples_are_written_all_the_same(
    checkpoint, tmp_path, capsys, monkeypatch, no_figure
):
    def measured(*arguments, **options):
        raise ValueError("the highest center is below the corner")

    monkeypatch.setattr(broaden_files, "measured", measured)
    path = runs.write_npz(tmp_path / "a.npz")
    options = "--checkpoint", checkpoint, "--output", tmp_path / "out"
    code, lines, _ = command(capsys, path, *options, *FAST)
    assert code == 0 and lines[2].startswith("no scores of a: the highest center")
    assert (tmp_path / "out" / "a.npz").exists()


def test_another_rate_is_resampled_and_told(checkpoint, tmp_path, capsys, no_figure):
    for rate, told in ((50.0, None), (12.0, "nothing was recorded above 6 Hz")):
        path = runs.write_npz(tmp_path / "a.npz", runs.ground_motion(rate=rate), rate)
        options = "--checkpoint", checkpoint, "--output", tmp_path / str(rate), *FAST
        code, lines, _ = command(capsys, path, *options)
        assert code == 0 and f"resampled from {rate:g} to 20 Hz" in lines[1]
        assert told is None or told in lines[1]
        with np.load(tmp_path / str(rate) / "a.npz") as made:
            assert made["samples"].shape == (2, 120, 3) and made["sampling_rate"] == 20
        assert (tmp_path / str(rate) / "a.csv").exists() == (told is None)


def test_counts_become_acceleration_by_the_sensitivity(
    checkpoint, tmp_path, capsys, no_figure
):
    counts = np.round(1e6 * runs.ground_motion()).astype(np.int32)
    path = runs.write_npz(tmp_path / "a.npz", counts)
    options = "--checkpoint", checkpoint, "--output", tmp_path, *FAST
    code, _, err = command(capsys, path, *options)
    assert code == 64 and "counts: give --inventory (StationXML) or --sens" in err[0]
    code, lines, _ = command(capsys, path, *options, "--sensitivity", 1e6)
    assert code == 0 and "counts / 1e+06" in lines[1]
    with np.load(tmp_path / "a.npz") as made:
        wanted = runs.preprocessing().prepare(counts / 1e6)
        np.testing.assert_array_equal(made["observed"], wanted)


def test_a_model_of_one_component_broadens_every_component(tmp_path, capsys, no_figure):
    checkpoint = runs.package(tmp_path / "model", 1)
    # Weak, because a model that was never trained adds far more than it is given.
    x = 1e-3 * runs.ground_motion(channels=2)
    path = runs.write_npz(tmp_path / "a.npz", x)
    options = "--checkpoint", checkpoint, "--output", tmp_path, *FAST
    code, lines, err = command(capsys, path, *options)
    assert code == 0 and "2 component(s) ZN" in lines[1] and not err
    with np.load(tmp_path / "a.npz") as made:
        assert made["samples"].shape == (2, 120, 2)


def test_records_of_one_name_are_kept_apart(checkpoint, tmp_path, capsys, no_figure):
    for folder in ("p", "q"):
        (tmp_path / folder).mkdir()
        runs.write_npz(tmp_path / folder / "../a.npz")
    path = tmp_path / "a.npz"
    options = "--checkpoint", checkpoint, "--output", tmp_path / "out", *FAST
    assert command(capsys, path, path, *options)[0] == 0
    names = {path.stem for path in (tmp_path / "out").iterdir()}
    assert names == {"a", "a_2"}
    runs.write_npz(tmp_path / "a_2.npz")
    assert command(capsys, path, path, tmp_path / "a_2.npz", *options)[0] == 0
    names = {path.stem for path in (tmp_path / "out").iterdir()}
    assert names == {"a", "a_2", "a_2_2"}


def test_a_second_run_leaves_nothing_of_the_first(
    checkpoint, tmp_path, capsys, no_figure
):
    own = runs.preprocessing()
    x = np.asarray(own.low_pass(runs.ground_motion(), 1.0))
    path = runs.write_npz(tmp_path / "a.npz", x)
    options = "--checkpoint", checkpoint, "--output", tmp_path / "out", *FAST
    assert command(capsys, path, *options)[0] == 0
    assert (tmp_path / "out" / "a.csv").exists()
    (tmp_path / "out" / "b.csv").write_text("of another record")
    assert command(capsys, path, "--lowpassed", *options)[0] == 0
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {"a.json", "a.mseed", "a.npz", "a.png", "b.csv"}


def test_a_name_from_a_file_is_no_path(checkpoint, tmp_path, capsys, no_figure):
    x = runs.ground_motion().T
    np.savez(tmp_path / "a.npz", **{"/._c": x}, fs=runs.RATE)
    options = "--checkpoint", checkpoint, "--output", tmp_path / "out", *FAST
    command(capsys, tmp_path / "a.npz", *options)
    assert {path.stem for path in (tmp_path / "out").iterdir()} == {"_..c"}


def test_a_checkpoint_of_other_preprocessing_ends_with_one_line(tmp_path, capsys):
    changes = {"normalization": "rms"}
    checkpoint = runs.package(tmp_path / "model", **changes)
    path = runs.write_npz(tmp_path / "a.npz")
    code, lines, err = command(capsys, path, "--checkpoint", checkpoint)
    assert code == 64 and not lines and len(err) == 1
    assert "normalization 'rms' is none of own_std" in err[0]


def test_what_cannot_be_written_leaves_nothing_behind(
    checkpoint, tmp_path, capsys, monkeypatch
):
    def fail(path, **arrays):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(broaden_figure, "draw", fail)
    path = runs.write_npz(tmp_path / "a.npz")
    options = "--checkpoint", checkpoint, "--output", tmp_path / "out", *FAST
    code, _, err = command(capsys, path, *options)
    assert code == 75 and "cannot be written: No space left on device" in err[0]
    assert list((tmp_path / "out").iterdir()) == []


def test_without_obspy_all_but_miniseed_is_written(
    checkpoint, tmp_path, capsys, monkeypatch, no_figure
):
    monkeypatch.setattr(broaden_files, "writes_miniseed", lambda: False)
    path = runs.write_npz(tmp_path / "a.npz")
    options = "--checkpoint", checkpoint, "--output", tmp_path / "out", *FAST
    code, _, err = command(capsys, path, *options)
    assert code == 0 and "no miniSEED is written; pip install" in err[0]
    made = json.loads((tmp_path / "out" / "a.json").read_text())
    assert made["files"] == ["a.csv", "a.md", "a.npz", "a.png"]


def test_an_embedded_record_is_named_by_its_station(
    checkpoint, tmp_path, capsys, monkeypatch, no_figure
):
    def sample(self, low_passed, **settings):
        return np.stack([low_passed, 2 * low_passed]).astype(np.float32)

    monkeypatch.setattr(broaden_model.Broadener, "sample", sample)
    monkeypatch.setattr(broaden_files, "measured", lambda *args, **options: {})
    options = "--checkpoint", checkpoint, "--output", tmp_path, *FAST
    assert command(capsys, "ridgecrest:CI.TOW2", *options)[0] == 0
    assert (tmp_path / "CI.TOW2.npz").exists()
    code, lines, _ = command(capsys, "--example", "napa", *options)
    assert code == 0 and lines[1].startswith("CE.68150: 3 component(s) ZNE, 119 s")
    record = json.loads((tmp_path / "CE.68150.json").read_text())["record"]
    (file,) = record["files"]
    assert file == "jaxmodels/data/recordings/napa2014_ce68150_200hz_counts.npz"
    assert record["start"] == "2014-08-24T10:20:21.000000"


def test_the_inventory_of_a_record_is_digested(
    checkpoint, tmp_path, capsys, monkeypatch, no_figure
):
    def without_response(record, inventory):
        return record.waveform

    monkeypatch.setattr(broaden_units, "_without_response", without_response)
    counts = np.round(3 * runs.ground_motion()).astype(np.int32)
    path = runs.write_npz(tmp_path / "a.npz", counts)
    (tmp_path / "station.xml").write_bytes(b"<xml/>")
    options = "--checkpoint", checkpoint, "--output", tmp_path, *FAST
    given = "--inventory", tmp_path / "station.xml"
    assert command(capsys, path, *options, *given)[0] == 0
    found = json.loads((tmp_path / "a.json").read_text())["record"]["inventory"]
    assert found["path"] == str(tmp_path / "station.xml")
    assert found["sha256"] == hashlib.sha256(b"<xml/>").hexdigest()
