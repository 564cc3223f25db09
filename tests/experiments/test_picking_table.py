import json

import numpy as np
import pytest

from experiments import picking_table as program
from experiments.picking_scores import WHOLE
from jaxmodels.pipelines import pick_model
from tests.data.test_seisbench import row, write_set
from tests.pipelines import picking_runs

pytest.importorskip("obspy")
RATE = 50.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Records with P 32 s after their start and pulses where P and S are."""
    blocks, rows = {}, []
    for number in range(6):
        s = 34.5 + 0.5 * number
        waveform = picking_runs.seismogram(70, [(0, 32.0), (1, s)], RATE, seed=number)
        if number == 5:
            waveform[:, 1:] = 0
        blocks[f"r{number}"] = waveform.T
        picks = {"trace_p_arrival_sample": 1600, "trace_s_arrival_sample": s * RATE}
        split = "dev" if number > 2 else "train"
        rows.append(row(f"r{number}", split, f"e{number}", **picks))
    path = tmp_path_factory.mktemp("picks")
    return write_set(path / "set", rows, blocks, unit="counts", sampling_rate=RATE)


@pytest.fixture
def models(monkeypatch):
    """What `pick_model.load` gives for a folder."""
    found = {"runs/spikes": picking_runs.picker(about={"dataset": "synthetic_motions"})}
    monkeypatch.setattr(pick_model, "load", lambda folder: found[str(folder)])
    return found


def words(folder, tmp_path, *more):
    given = [f"--dataset={folder}", f"--data_dir={folder.parent}/tfds", "--crops=2"]
    return [*given, f"--output={tmp_path}/out", *more]


def complaint(words, capsys):
    """The one line of error of a command line."""
    assert program.main(words) == 64
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


def test_picker_and_baselines_stand_in_one_table(folder, models, tmp_path, capsys):
    given = words(folder, tmp_path, "--baselines", "--checkpoint=spikes=runs/spikes")
    assert program.main(given) == 0
    out = tmp_path / "out"
    text = (out / "table.md").read_text()
    assert text in capsys.readouterr().out
    scores = json.loads((out / "scores.json").read_text())
    of_picker = [
        one
        for one in scores["summaries"]
        if (one["system"], one["subset"]) == ("spikes", "three components")
    ]
    conditions = ["random crops of 30 s", WHOLE]
    assert [(one["condition"], one["phase"]) for one in of_picker] == [
        (condition, phase) for condition in conditions for phase in "PS"
    ]
    for one in of_picker:
        assert one["within_0.1_value"] == one["recall"] == one["precision"] == 1
        assert one["records"] == 2
    windows = scores["windows"]
    assert len(windows) == 3 * 3
    starts = {w["true"]["P"] for w in windows if w["condition"] != WHOLE}
    assert len(starts) == 6  # no two crops have P at the same time
    vertical = [w for w in windows if not w["three_components"]]
    assert all(w["picked"]["AR picker"]["S"][0] is None for w in vertical)
    systems = {one["system"] for one in scores["summaries"]}
    assert systems == {"STA/LTA", "AR picker", "spikes"}
    assert len((out / "table.csv").read_text().splitlines()) == 1 + len(
        scores["summaries"]
    )
    for name in ("residuals.png", "examples.png"):
        assert (out / name).read_bytes()[:4] == b"\x89PNG"


def test_protocol_has_its_three_tables(folder, models, tmp_path, capsys):
    noise = tmp_path / "noise.npz"
    still = np.random.default_rng(0).standard_normal((3, 6000))
    np.savez(noise, a=still, sampling_rate=RATE)
    given = words(folder, tmp_path, "--task=protocol", f"--noise={noise}")
    assert program.main([*given, "--baselines", "--checkpoint=spikes=runs/spikes"]) == 0
    found = json.loads((tmp_path / "out" / "scores.json").read_text())["summaries"]
    named = {(one["task"], one["system"], one.get("phase")): one for one in found}
    detection = named["detection", "spikes", None]
    # Each of three records has noise before P, and each half of the file two windows.
    assert (detection["positive"], detection["negative"]) == (3, 5)
    assert detection["auc"] == 1
    assert named["onset", "spikes", "P"]["within_0.1_value"] == 1
    assert ("phase", "STA/LTA", None) not in named
    assert ("onset", "STA/LTA", "S") not in named
    text = capsys.readouterr().out
    assert "every system sees 30 s around a window" in text


def test_the_same_command_gives_the_same_numbers(folder, models, tmp_path):
    found = []
    for name in ("first", "second"):
        out = tmp_path / name
        given = words(folder, tmp_path, "--baselines", "--limit=1", "--examples=1")
        assert program.main([*given, f"--output={out}"]) == 0
        found.append((out / "scores.json").read_text())
    assert found[0] == found[1]


def test_a_model_is_not_scored_on_what_it_was_trained_on(
    folder, models, tmp_path, capsys
):
    given = words(folder, tmp_path, "--checkpoint=x=runs/x")
    second = {"dataset": str(folder), "train_split": "dev[:50%]"}
    models["runs/x"] = picking_runs.picker(about={"dataset": "a", "second": second})
    line = complaint(given, capsys)
    assert f"x was trained on split dev[:50%] of {folder}" in line
    about = {"dataset": str(folder), "splits": {"train": "train"}}
    models["runs/x"] = picking_runs.picker(about=about)
    swapped = [*given, "--split=train", "--threshold_split=dev"]
    assert "x was trained on split train" in complaint(swapped, capsys)
    noise = {"dataset": str(folder), "share": 0.3, "train_split": "dev"}
    models["runs/x"] = picking_runs.picker(about={"dataset": "a", "noise": noise})
    assert f"x was trained on split dev of {folder}" in complaint(given, capsys)
    models["runs/x"] = picking_runs.picker(about={"noise": {"dataset": "./n.npz"}})
    noisy = [*given, "--task=protocol", "--noise=./n.npz"]
    assert "x was trained on the noise of ./n.npz" in complaint(noisy, capsys)


@pytest.mark.parametrize(
    "more, message",
    [
        ([], "nothing to score; give --checkpoint NAME=DIR or --baselines"),
        (["--checkpoint=runs/x"], "--checkpoint runs/x: give NAME=DIR"),
        (
            ["--checkpoint=a=runs/spikes", "--checkpoint=a=runs/spikes"],
            "--checkpoint a is given twice",
        ),
        (["--checkpoint=STA/LTA=runs/x"], "that is a baseline of the table"),
        (["--baselines", "--crops=0"], "--crops 0 must be at least 1"),
        (["--baselines", "--seconds=5"], "--seconds 5 must be at least 10"),
        (["--baselines", "--seed=-1"], "--seed -1 must be 0 to 4294967295"),
        (["--baselines", "--noise=x.npz"], "--noise is for --task protocol"),
        (
            ["--baselines", "--split=train[:50%]"],
            "--threshold_split train has records of --split train[:50%]",
        ),
        (["--baselines", "--task=other"], "invalid choice: 'other'"),
        (["--baselines", "--split=none"], "has no split 'none'; it has dev, train"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(
    folder, models, tmp_path, capsys, more, message
):
    assert message in complaint(words(folder, tmp_path, *more), capsys)
    assert not (tmp_path / "out").exists()


def test_synthetic_records_are_written_by_instruments_and_scored(tmp_path, models):
    about = {
        "dataset": "synthetic_motions",
        "synthetic": {"num_records": 12, "sampling_rate": 20.0},
        "instruments": {"snr": (30.0, 50.0)},
        "splits": {"train": "train"},
    }
    models["runs/x"] = picking_runs.picker(about=about)
    given = [f"--data_dir={tmp_path}/tfds", "--split=validation", "--crops=1"]
    given += ["--checkpoint=x=runs/x", "--baselines", "--limit=3"]
    assert program.main([*given, f"--output={tmp_path}/out"]) == 0
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    (one,) = [
        one
        for one in scores["summaries"]
        if (one["condition"], one["system"], one["phase"]) == (WHOLE, "STA/LTA", "P")
    ]
    assert one["within_0.5_value"] > 0.5
