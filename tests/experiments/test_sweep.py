import json
import pathlib

import pytest

from experiments import sweep


def log(folder, **values):
    folder.mkdir(parents=True)
    lines = [
        {"step": 2, "split": "train", "loss": 9.0},
        {"step": 4, "split": "eval", **values},
        {"step": 4, "split": "train", "loss": 8.0},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)


def add_sweep(small, code):
    path = pathlib.Path(small.partition("=")[2])
    path.write_text(path.read_text().partition("def sweep")[0] + code)


def test_the_commands_are_printed_and_can_be_pasted(small, tmp_path, capsys):
    words = [small, "--workdir", f"{tmp_path}/runs", "--config.num_steps", "9"]
    assert sweep.main(words) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"python -m experiments.train {small} --config.num_steps=9 "
        f"--config.optimizer.learning_rate={rate} "
        f"--workdir={tmp_path}/runs/learning_rate={rate}"
        for rate in (0.01, 0.001)
    ]


def test_results_that_are_there_are_tabled_with_the_best(small, tmp_path, capsys):
    log(tmp_path / "runs" / "learning_rate=0.01", loss=1.5, accuracy=0.5)
    log(tmp_path / "runs" / "learning_rate=0.001", loss=1.25, accuracy=0.75)
    assert sweep.main([small, f"--workdir={tmp_path}/runs"]) == 0
    lines = capsys.readouterr().out.splitlines()[3:]
    assert [line.split() for line in lines] == [
        ["run", "step", "loss", "accuracy"],
        ["learning_rate=0.01", "4", "1.5", "0.5"],
        ["learning_rate=0.001", "4", "1.25", "0.75"],
        ["lowest", "loss:", "learning_rate=0.001"],
    ]


def test_a_run_that_fails_is_in_the_table_and_in_the_exit_code(
    small, tmp_path, capsys, monkeypatch
):
    codes = iter((65, 0))
    monkeypatch.setattr(sweep, "execute", lambda words: next(codes))
    assert sweep.main([small, f"--workdir={tmp_path}/runs", "--run"]) == 65
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["learning_rate=0.01", "failed", "65", "-"] in rows
    assert ["learning_rate=0.001", "done", "-"] in rows


@pytest.mark.parametrize("code", [83, 130])
def test_a_stop_request_ends_the_whole_sweep(small, tmp_path, monkeypatch, code):
    started = []
    monkeypatch.setattr(sweep, "execute", lambda words: started.append(words) or code)
    assert sweep.main([small, f"--workdir={tmp_path}/runs", "--run"]) == code
    assert len(started) == 1
    assert not any("--run" in word for word in started[0])


def test_the_exit_code_of_a_process_is_returned():
    assert sweep.execute(("-c", "raise SystemExit(65)")) == 65


@pytest.mark.parametrize(
    "code, message",
    [
        ("", "has no sweep: define sweep() in it"),
        (
            "def sweep():\n    yield {'optimizer.lr': 1}\n",
            "sweep, lr=1: FILE has no field 'optimizer.lr'",
        ),
        (
            "def sweep():\n    yield {'num_steps': 0}\n",
            "sweep, num_steps=0: FILE: num_steps 0 must be at least 1",
        ),
        (
            "def sweep():\n    yield {'seed': 1}\n    yield {'seed': 1}\n",
            "sweep, seed=1: yielded 2 times",
        ),
    ],
)
def test_a_sweep_with_a_mistake_starts_nothing(small, tmp_path, capsys, code, message):
    add_sweep(small, code)
    assert sweep.main([small, f"--workdir={tmp_path}/runs", "--run"]) == 64
    found = capsys.readouterr()
    assert message in found.err.replace(small.partition("=")[2], "FILE")
    assert found.out == ""


def test_an_override_of_what_the_sweep_sets_is_refused(small, tmp_path, capsys):
    words = [small, f"--workdir={tmp_path}", "--config.optimizer.learning_rate=1"]
    assert sweep.main(words) == 64
    assert "learning_rate is given 2 times" in capsys.readouterr().err


def test_names_of_points_are_names_of_folders():
    overrides = {"model.strides": (2, 4), "data.dataset": "./a/b", "seed": 3}
    name = sweep.point_name(overrides)
    assert name == "strides=_2,_4_,dataset=._a_b,seed=3"
