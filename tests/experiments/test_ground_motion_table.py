import json

import pytest

from experiments import ground_motion_table as program
from tests.pipelines import broadening_runs

STATIONS = ("CI.CCC", "CI.TOW2")
QUICK = "--dataset=ridgecrest --limit=1 --fitted=2 --samples=2 --steps=1".split()


def write_run(path, split, **fields):
    about = broadening_runs.ABOUT | {
        "dataset": "ridgecrest",
        "splits": {"train": split},
    }
    described = broadening_runs.preprocessing(**fields).to_json()
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
    assert text.strip() in capsys.readouterr().out
    for note in ("2 samples by ddim in 1 steps", "split -CI.CCC", "split -CI.TOW2"):
        assert note in text
    assert (tmp_path / "example.png").stat().st_size > 10_000


def test_what_a_model_was_trained_on_is_not_what_it_is_scored_on(
    runs, tmp_path, capsys
):
    words = [*QUICK, "--split=CI.CCC", f"--checkpoint=tuned={runs}/tuned/CI.TOW2"]
    line = complaint(words, tmp_path, capsys)
    assert "tuned was trained on CI.CCC of ridgecrest (split -CI.TOW2)" in line


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
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(words, message, tmp_path, capsys):
    assert message in complaint(words, tmp_path, capsys)
