import json
import types

import pytest

from experiments import ground_motion_table as program
from jaxmodels.train.errors import ConfigError
from tests.data.motion_sources import shaking
from tests.data.test_seisbench import row, write_set
from tests.pipelines import broadening_runs

STATIONS = ("CI.CCC", "CI.TOW2")
QUICK = "--dataset=ridgecrest --limit=1 --fitted=2 --samples=2 --steps=1".split()


def write_run(path, split, dataset="ridgecrest", reader=None, corner=1.0, **fields):
    about = broadening_runs.ABOUT | {
        "dataset": str(dataset),
        "splits": {"train": split},
        "reader": reader,
    }
    described = broadening_runs.preprocessing(**fields).to_json() | {"corner": corner}
    return broadening_runs.write(path, about=about, described=described)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A model of one station, and two that left one station out each."""
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "first", "CI.CLC")
    for station in STATIONS:
        write_run(folder / "tuned" / station, f"-{station}")
    return folder


def complaint(words, tmp_path, capsys):
    """The one line of error of a command line."""
    assert program.main([*words, f"--output={tmp_path}/out"]) == 64
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "fitting" not in x]
    assert line.startswith("error: ")
    assert not (tmp_path / "out").exists()
    return line


@pytest.mark.slow
def test_folds_are_scored_by_their_own_models_and_put_together(runs, tmp_path, capsys):
    words = [f"--split={station}" for station in STATIONS]
    words += ["--checkpoint", f"zero-shot={runs}/first"]
    words += ["--checkpoint", f"tuned={runs}/tuned/{{split}}"]
    assert program.main([*QUICK, *words, f"--output={tmp_path}"]) == 0
    systems = ["low-pass only", "shaped noise", "shaped noise, data of tuned"]
    systems += ["zero-shot", "tuned"]
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert list(scores["records"]) == systems
    for name in systems:
        records = [row["name"] for row in scores["records"][name]]
        assert len(records) == len(STATIONS)
        for station, record in zip(STATIONS, records, strict=True):
            assert station in record
    text = (tmp_path / "table.md").read_text()
    told = capsys.readouterr()
    assert text.strip() in told.out
    for note in (
        "zero-shot: ddim in 1 steps, guidance 1; model",
        "tuned: ddim in 1 steps, guidance 1; model",
        "zero-phase low-pass of order 4 at 1 Hz; 2 samples of each, seed 0",
        "at most 2 windows, envelope smoothed over 1 s, 8 iterations of the merge",
        "split -CI.CCC",
        "split -CI.TOW2",
    ):
        assert note in text
    # The data of the first model are those of both folds.
    fits = [line for line in told.err.splitlines() if "fitting" in line]
    assert [line.split(", ")[-1] for line in fits] == ["CI.CLC", "-CI.CCC", "-CI.TOW2"]
    assert (tmp_path / "example.png").stat().st_size > 10_000


def test_what_a_model_was_trained_on_is_not_what_it_is_scored_on(
    runs, tmp_path, capsys
):
    words = [*QUICK, "--split=CI.CCC", f"--checkpoint=tuned={runs}/tuned/CI.TOW2"]
    line = complaint(words, tmp_path, capsys)
    assert "tuned was trained on CI.CCC of ridgecrest (split -CI.TOW2)" in line


@pytest.mark.parametrize("fields", [dict(causal=True), dict(order=2)], ids=str)
def test_conditions_of_any_low_pass_are_kept(fields, tmp_path):
    """By shaped noise and the model, and measured by the same low-pass."""
    write_run(tmp_path / "run", "CI.CLC", **fields)
    words = [*QUICK, "--split=CI.CCC", f"--checkpoint=dit={tmp_path}/run"]
    assert program.main([*words, f"--output={tmp_path}/out"]) == 0
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert fields.items() <= scores["settings"].items()
    for system in ("shaped noise", "dit"):
        (record,) = scores["records"][system]
        # A causal low-pass of 4 s loses what it delays beyond the end.
        assert record["measures"]["lf_snr"] > 2, system


def test_a_folder_is_read_as_for_its_model_and_known_by_any_path(tmp_path, capsys):
    """All its records are in split "train" of the file; the model split by event."""
    rows = [row(f"r{n}", source=f"e{n}") for n in range(12)]
    blocks = {f"r{n}": 0.01 * shaking(n)["waveform"].T for n in range(12)}
    folder = write_set(tmp_path / "set", rows, blocks)
    reader = {"split_by": "event"}
    write_run(tmp_path / "run", "train", folder, reader)
    words = [*QUICK[1:], f"--checkpoint=dit={tmp_path}/run"]
    words += [f"--data_dir={tmp_path}/tfds", f"--dataset={folder}/"]
    line = complaint([*words, "--split=train"], tmp_path, capsys)
    assert "dit was trained on train of" in line
    assert program.main([*words, "--split=test", f"--output={tmp_path}/out"]) == 0


@pytest.mark.slow
def test_a_folder_that_no_model_knows_is_read_as_the_command_says(tmp_path, capsys):
    rows = [row(f"r{n}", "test", source=f"e{n}") for n in range(2)]
    blocks = {f"r{n}": shaking(n)["waveform"].T for n in range(2)}
    folder = write_set(tmp_path / "set", rows, blocks, unit="counts")
    write_run(tmp_path / "run", "CI.CLC")
    words = [*QUICK[1:], f"--checkpoint=dit={tmp_path}/run", f"--dataset={folder}"]
    words.append(f"--data_dir={tmp_path}/tfds")
    both = [*words, "--sensitivity=100", "--units=Gal"]
    assert "give one of sensitivity" in complaint(both, tmp_path, capsys)
    other = [*words[:-2], "--dataset=ridgecrest", "--sensitivity=100"]
    assert "--dataset ridgecrest is none" in complaint(other, tmp_path, capsys)
    found = []
    for given in ("--sensitivity=100", "--units=Gal"):
        output = tmp_path / given.partition("=")[0].strip("-")
        assert program.main([*words, given, f"--output={output}"]) == 0
        scores = json.loads((output / "scores.json").read_text())
        found.append([one["measures"] for one in scores["records"]["dit"]])
    assert len(found[0]) == 1 and found[0] == found[1]


def test_an_event_of_the_training_is_found_in_another_split(tmp_path, capsys):
    parts = ["train", "train", "train", "test"]
    events = ["e0", "e1", "e2", "e1"]
    rows = [row(f"r{n}", parts[n], events[n]) for n in range(4)]
    blocks = {f"r{n}": shaking(n)["waveform"].T for n in range(4)}
    folder = write_set(tmp_path / "set", rows, blocks)
    write_run(tmp_path / "run", "train", folder)
    words = [*QUICK[1:], f"--checkpoint=dit={tmp_path}/run", "--split=test"]
    words += [f"--data_dir={tmp_path}/tfds", f"--dataset={folder}"]
    line = complaint(words, tmp_path, capsys)
    assert f"dit was trained on e1 of {folder} (split train)" in line


def test_synthetic_records_are_those_of_the_models_that_were_trained_on_them():
    def model(dataset, **about):
        return types.SimpleNamespace(about={"dataset": dataset, **about})

    drawn, other = {"num_records": 8}, {"num_records": 9}
    models = {"tuned": model("ridgecrest", min_snr=2.0, synthetic=None)}
    assert program.told_of("synthetic_motions", models) == {}
    models["dit"] = model("synthetic_motions", synthetic=drawn)
    assert program.told_of("synthetic_motions", models) == {"synthetic": drawn}
    models["cross"] = model("synthetic_motions", synthetic=other)
    with pytest.raises(ConfigError, match="cross and dit were trained on different"):
        program.told_of("synthetic_motions", models)


def test_another_corner_is_refused_before_anything_is_fitted(runs, tmp_path, capsys):
    write_run(tmp_path / "high", "CI.CLC", corner=2.0)
    words = [*QUICK, "--split=CI.CCC", f"--checkpoint=first={runs}/first"]
    words += [f"--checkpoint=x={tmp_path}/high", f"--output={tmp_path}/out"]
    assert program.main(words) == 64
    told = capsys.readouterr().err
    assert "corner 1 Hz: the model in" in told and "fitting" not in told


def test_models_of_other_windows_get_another_table(runs, tmp_path, capsys):
    write_run(tmp_path / "causal", "CI.CLC", causal=True)
    write_run(tmp_path / "steep", "CI.CLC", order=2)
    words = [*QUICK, "--split=CI.CCC", f"--checkpoint=first={runs}/first"]
    line = complaint([*words, f"--checkpoint=x={tmp_path}/steep"], tmp_path, capsys)
    assert "x has order 2 and the first model 4; give models of the same" in line
    line = complaint([*words, f"--checkpoint=x={tmp_path}/causal"], tmp_path, capsys)
    assert "x was trained on another taper or low-pass than the first model" in line


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "required: --checkpoint"),
        (["--checkpoint=runs/d"], "--checkpoint runs/d: give NAME=DIR"),
        (["--checkpoint=a=x", "--checkpoint=a=y"], "--checkpoint a is given twice"),
        (["--checkpoint=a=x", "--samples=0"], "--samples 0 must be at least 1"),
        (["--checkpoint=a=no/such/run"], "no/such/run"),
        (["--checkpoint=shaped noise=x"], "'shaped noise' is a baseline of the table"),
        (["--checkpoint=shaped noise, data of a=x"], "is a baseline of the table"),
        (["--checkpoint=low-pass only=x"], "'low-pass only' is a baseline"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(words, message, tmp_path, capsys):
    assert message in complaint(words, tmp_path, capsys)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--seed=-1"], "--seed -1 must be 0 to 4294967295"),
        (["--example=-1"], "--example -1 must be at least 0"),
        (
            ["--example=1", "--limit=1"],
            "--example 1 must be 0 to 0: split CI.CCC has 1",
        ),
        (["--split=CI.NONE"], "CI.NONE"),
    ],
)
def test_what_cannot_be_scored_is_told_before_anything_is_fitted(
    runs, tmp_path, capsys, words, message
):
    given = [*QUICK, "--split=CI.CCC", f"--checkpoint=dit={runs}/tuned/CI.CCC", *words]
    assert program.main([*given, f"--output={tmp_path}/out"]) == 64
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_an_output_that_is_a_file_is_told_first(runs, tmp_path, capsys):
    (tmp_path / "out").write_text("")
    words = [*QUICK, "--split=CI.CCC", f"--checkpoint=dit={runs}/tuned/CI.CCC"]
    assert program.main([*words, f"--output={tmp_path}/out"]) == 64
    assert "is a file, not a folder" in capsys.readouterr().err
