import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import pytest

from experiments import config_file, evaluate, launch, train
from jaxmodels.train.errors import ConfigError


def lines(folder, split):
    text = (folder / "metrics.jsonl").read_text()
    return [x for x in map(json.loads, text.splitlines()) if x["split"] == split]


@pytest.fixture
def finished(small, tmp_path, capsys):
    """Folder of the small run after its four updates."""
    folder = tmp_path / "runs" / "small"
    assert train.main([small, f"--workdir={folder}"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"checkpoint: {folder}/checkpoints/4"
    )
    return folder


def test_a_run_is_trained_resumed_and_evaluated(small, finished, tmp_path, capsys):
    assert (finished / "checkpoints" / "4").is_dir()
    assert json.loads((finished / "config.json").read_text())["num_steps"] == 4
    assert (finished / "model.json").exists()
    workdir = f"--workdir={finished}"

    # Evaluated: the newest checkpoint gives what the loop wrote last.
    assert evaluate.main([small, workdir]) == 0
    result = json.loads((finished / "evaluation.json").read_text())
    logged = lines(finished, "eval")[-1]
    assert result["step"] == logged["step"] == 4
    for name, value in result["metrics"].items():
        assert value == pytest.approx(logged[name], rel=1e-6)
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["loss", f"{result['metrics']['loss']:.6g}"] in printed

    # An older one on request, and none that is not there.
    assert evaluate.main([small, workdir, "--checkpoint_step=2"]) == 0
    older = json.loads((finished / "evaluation.json").read_text())
    assert older["step"] == 2
    assert older["metrics"]["loss"] != result["metrics"]["loss"]
    assert evaluate.main([small, workdir, "--checkpoint_step=3"]) == 64
    assert "holds no checkpoint 3; it holds 2, 4" in capsys.readouterr().err

    # Resumed with more updates, and refused with another model.
    assert train.main([small, workdir, "--config.num_steps=6"]) == 0
    assert lines(finished, "train")[-1]["step"] == 6
    assert json.loads((finished / "config.json").read_text())["num_steps"] == 6
    capsys.readouterr()
    assert train.main([small, workdir, "--config.model.mlp_dim=8"]) == 64
    assert "model.mlp_dim is 16 there and 8 here" in capsys.readouterr().err

    # Another run starts from its parameters.
    other = tmp_path / "other"
    words = [small, f"--workdir={other}", f"--init_from={finished}:model"]
    assert train.main([*words, "--config.num_steps=2"]) == 0
    start = lines(other, "train")[0]["loss"]
    assert start < lines(finished, "train")[0]["loss"]


def test_the_parts_of_init_from_and_profile_steps():
    assert train.parse_init_from("runs/lm") == ("runs/lm", None)
    assert train.parse_init_from("runs/lm:model,head") == ("runs/lm", ("model", "head"))
    assert train.parse_init_from("gs://bucket/lm") == ("gs://bucket/lm", None)
    assert train.parse_init_from("gs://bucket/lm:model") == (
        "gs://bucket/lm",
        ("model",),
    )
    assert train.parse_profile_steps("10:15") == (10, 15)
    for text in ("15:10", "10", "a:b", "10:10"):
        with pytest.raises(ValueError, match="such as 10:15"):
            train.parse_profile_steps(text)
    with pytest.raises(ValueError, match="such as runs/lm:model"):
        train.parse_init_from("runs/lm:")


def test_a_run_starts_from_a_flag_or_from_the_config_and_not_from_both():
    experiment = types.SimpleNamespace(PRETRAINED=("model/encoder",))
    given = ("runs/a", None)
    assert train.start_of(given, {}, experiment) == given
    assert train.start_of(None, {"pretrained": None}, experiment) is None
    config = {"pretrained": "runs/b"}
    assert train.start_of(None, config, experiment) == ("runs/b", ("model/encoder",))
    with pytest.raises(ConfigError, match="pretrained=runs/b are both given; drop one"):
        train.start_of(given, config, experiment)


def test_processes_agree_on_config_code_and_versions(parts, tmp_path, monkeypatch):
    facts = launch.fingerprint(parts)
    assert facts == launch.fingerprint(parts)
    assert set(facts["version"]) >= {"jax", "jaxlib", "flax", "optax"}
    parts.model.mlp_dim = 8
    changed = launch.fingerprint(parts)
    assert changed["config"] != facts["config"]
    assert changed["code"] == facts["code"]
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "new.py").write_text("x = 1\n")
    monkeypatch.setattr(launch, "ROOT", tmp_path)
    assert launch.fingerprint(parts)["code"] != facts["code"]


def run(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=config_file.ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )


def test_help_of_a_real_process_comes_at_once():
    begin = time.monotonic()
    done = run("experiments.train", "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Trains what a config describes")
    assert done.stderr == ""
    # It takes 0.2 s; the limit only notices that JAX is imported on a busy machine.
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize("name", ["train", "evaluate", "sweep", "describe"])
def test_importing_an_entry_point_has_no_side_effects(name):
    code = (
        f"import sys, experiments.{name}; "
        "sys.exit(any(m in sys.modules for m in ('jax', 'flax', 'orbax', 'grain')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=config_file.ROOT, capture_output=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.slow
def test_ctrl_c_in_a_real_process_saves_and_the_run_goes_on(small, tmp_path):
    folder = tmp_path / "runs"
    words = [small, f"--workdir={folder}", "--config.num_steps=100000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.train", *words],
        cwd=config_file.ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    deadline = time.monotonic() + 120
    while not list(pathlib.Path(folder).glob("checkpoints/2*")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "interrupted: stopped after update" in errors
    assert "Traceback" not in errors
    saved = max(int(path.name) for path in (folder / "checkpoints").glob("[0-9]*"))
    assert f"stopped after update {saved};" in errors
