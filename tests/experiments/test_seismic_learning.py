"""What the tiny configs of pretraining learn in their first minutes."""

import json
import os
import subprocess
import sys

import pytest

from experiments import config_file

RECORDS = 1000


def train(tmp_path, name, num_steps):
    """Metrics of the held-out records after some updates of a tiny config."""
    environment = {k: x for k, x in os.environ.items() if k != "XLA_FLAGS"}
    command = [sys.executable, "-m", "experiments.train"]
    command += [f"--config=configs/seismic/{name}.py:tiny", f"--workdir={tmp_path}/run"]
    command += [f"--config.num_steps={num_steps}", "--config.eval_every=0"]
    command += [f"--config.optimizer.warmup_steps={num_steps // 5}"]
    command += [f"--config.data.synthetic.num_records={RECORDS}"]
    done = subprocess.run(
        command,
        cwd=config_file.ROOT,
        env=environment | {"TFDS_DATA_DIR": str(tmp_path / "data")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    return next(one for one in lines if one["split"] == "eval")


@pytest.mark.slow
def test_contrastive_pretraining_finds_codes_far_above_chance_with_them_alive(tmp_path):
    values = train(tmp_path, "contrastive", 200)
    assert values["accuracy"] > 5 * values["chance_accuracy"]
    assert values["perplexity"] > 32 and values["code_usage"] > 0.5  # of 2 x 32


@pytest.mark.slow
def test_masked_reconstruction_beats_the_mean_and_a_straight_line(tmp_path):
    values = train(tmp_path, "masked", 250)
    assert values["loss"] < 0.85 * values["mean_loss"]
    assert values["loss"] < values["interpolation_loss"]
