import csv
import json
import os

import numpy as np
import pytest

from jaxmodels.pipelines import pick, pick_figure
from tests.pipelines import picking_runs as runs
from tests.pipelines.picking_runs import P, S, command

obspy = pytest.importorskip("obspy")


@pytest.fixture(autouse=True)
def spike_detector(monkeypatch):
    """The commands of this file pick by a detector whose picks are known."""
    monkeypatch.setattr(pick, "load", lambda checkpoint: runs.picker())


@pytest.fixture
def no_figure(monkeypatch):
    def draw(path, views, **options):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(len(views)))

    monkeypatch.setattr(pick_figure, "draw", draw)


def write(path, seconds=60, arrivals=((P, 20.0), (S, 23.5)), **codes):
    runs.stream(runs.seismogram(seconds, arrivals), **codes).write(str(path), "MSEED")
    return path


def table(folder):
    with open(folder / "picks.csv") as file:
        return list(csv.DictReader(file))


def test_a_file_gives_picks_as_csv_and_quakeml_a_figure_and_a_summary(tmp_path, capsys):
    path = write(tmp_path / "a.mseed")
    code, lines, err = command(capsys, path, "--output", tmp_path / "out")
    assert code == 0 and err == []
    assert lines[0].startswith("model a test (1 parameters")
    assert "XX.ABC..HH: 1 P, 1 S, 1 detections in 0.02 h" in lines
    assert "1 P and 1 S in 0.02 h of 1 instruments" in lines
    files = {one.name for one in (tmp_path / "out").iterdir()}
    assert files == {"picks.csv", "picks.xml", "summary.json", "XX.ABC..HH.png"}
    rows = table(tmp_path / "out")
    assert [(row["trace_id"], row["phase"], row["time"]) for row in rows] == [
        ("XX.ABC.", "P", "2009-08-24T00:00:23.000000Z"),
        ("XX.ABC.", "S", "2009-08-24T00:00:26.500000Z"),
    ]
    assert float(rows[0]["probability"]) > 0.9
    (event,) = obspy.read_events(str(tmp_path / "out" / "picks.xml"))
    assert [one.phase_hint for one in event.picks] == ["P", "S"]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["settings"]["P_threshold"] == 0.3
    assert summary["instruments"]["XX.ABC..HH"]["P"] == 1
    assert summary["checkpoint"]["path"] == "a test" and summary["failures"] == []


def test_the_same_command_gives_the_same_files(tmp_path, capsys):
    path = write(tmp_path / "a.mseed")
    for name in ("x", "y"):
        assert command(capsys, path, "--output", tmp_path / name)[0] == 0
    for file in (tmp_path / "x").iterdir():
        assert file.read_bytes() == (tmp_path / "y" / file.name).read_bytes()


def test_a_folder_is_searched_and_goes_on_past_bad_files(tmp_path, capsys, no_figure):
    folder = tmp_path / "archive"
    (folder / "2009" / "XX").mkdir(parents=True)
    write(folder / "2009" / "XX" / "a.mseed")
    write(folder / "b.mseed", station="DEF")
    (folder / "bad.mseed").write_bytes(b"broken")
    (folder / "station.xml").write_text("<xml/>")
    runs.stream(np.ones((3000, 3)), station="DEAD").write(
        str(folder / "dead.mseed"), "MSEED"
    )
    code, lines, err = command(capsys, folder, "--output", tmp_path / "out")
    assert code == 1
    assert "1 files that are no records by their names are left alone" in lines
    assert "2 P and 2 S in 0.03 h of 2 instruments" in lines
    assert err[0] == "2 failed:"
    assert "bad.mseed cannot be read" in err[1]
    assert "XX.DEAD..HH is constant in every component" in err[2]
    assert len(table(tmp_path / "out")) == 4
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert len(summary["failures"]) == 2


def test_missing_components_are_told_and_skipped_where_strict(
    tmp_path, capsys, no_figure
):
    path = tmp_path / "a.mseed"
    stream = runs.stream(runs.seismogram(30, [(P, 12.0)]), channels=("HHZ",))
    stream.write(str(path), "MSEED")
    code, _, err = command(capsys, path, "--output", tmp_path / "out")
    assert code == 0
    assert err == [
        "warning: XX.ABC..HH has no north and no east component; zeros stand for it"
    ]
    code, _, err = command(capsys, path, "--strict", "--output", tmp_path / "out")
    assert code == 64 and "no north and no east component; leave out --str" in err[0]


def test_the_example_of_obspy_is_picked_without_a_file(tmp_path, capsys, no_figure):
    code, lines, _ = command(capsys, "--example", "--output", tmp_path)
    assert code == 0 and any(line.startswith("BW.RJOB..EH: ") for line in lines)


def test_keywords_are_those_of_the_library(tmp_path, capsys, no_figure):
    path = write(tmp_path / "a.mseed")
    flags = "--P_threshold 0.9999999 --overlap 0.75 --blinding 50 60 --stacking max"
    options = *flags.split(), "--batch_size", 4, "--output", tmp_path / "out"
    code, lines, _ = command(capsys, path, *options)
    assert code == 0 and "0 P and 1 S in 0.02 h of 1 instruments" in lines
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["settings"] == {
        "P_threshold": 0.9999999,
        "S_threshold": 0.3,
        "overlap": 0.75,
        "blinding": [50, 60],
        "stacking": "max",
        "batch_size": 4,
        "strict": False,
    }


def test_long_records_are_drawn_round_their_clearest_events(
    tmp_path, capsys, no_figure
):
    arrivals = [(P, 30.0), (S, 33.0), (P, 150.0), (P, 290.0), (P, 400.0), (P, 500.0)]
    path = write(tmp_path / "a.mseed", 600, arrivals)
    write(tmp_path / "b.mseed", station="DEF")
    options = "--output", tmp_path / "out", "--figures", 1
    code, _, _ = command(capsys, path, tmp_path / "b.mseed", *options)
    assert code == 0
    assert (tmp_path / "out" / "XX.ABC..HH.png").read_text() == "3"
    assert not (tmp_path / "out" / "XX.DEF..HH.png").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["none.mseed"], "error: there is no file none.mseed; check the name"),
        (["--P_threshold", "0"], "P_threshold 0.0 must be above 0 and below 1"),
        (["--overlap", "1024"], "overlap 1024.0 must be a share below 1, or 1 to 1023"),
        (["--blinding", "600", "600"], "leaves -176 of 1024 samples a window"),
        (["--stacking", "mean"], "stacking 'mean' is none of avg, max"),
        (["--batch_size", "0"], "batch_size 0 must be a whole number, 1 to 4096"),
        (["--figures", "-1"], "figures -1 must be at least 0"),
        (["--threshold", "0.3"], "unrecognized arguments: --threshold 0.3; see --help"),
    ],
)
def test_a_wrong_command_ends_with_one_line(tmp_path, capsys, arguments, message):
    path = [] if not arguments[0].startswith("--") else [tmp_path / "a.mseed"]
    write(tmp_path / "a.mseed", 5)
    options = "--output", tmp_path / "out"
    code, _, err = command(capsys, *options, *path, *arguments)
    assert code == 64 and len(err) == 1 and message in err[0]
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file_is_told_before_anything_is_computed(tmp_path, capsys):
    path = write(tmp_path / "a.mseed", 5)
    code, lines, err = command(capsys, path, "--output", path / "out")
    assert code == 64 and not lines and "is a file, not a folder" in err[0]


def test_an_output_that_may_not_be_written_to_is_told_as_early(
    tmp_path, capsys, monkeypatch
):
    path = write(tmp_path / "a.mseed", 5)
    monkeypatch.setattr(os, "access", lambda folder, mode: False)
    code, lines, err = command(capsys, path, "--output", tmp_path / "out")
    assert code == 64 and not lines and "may not be written to" in err[0]


def test_without_a_file_the_command_explains_itself(capsys):
    code, lines, err = command(capsys)
    assert code == 64 and not lines
    assert any("pick --example" in line for line in err)
