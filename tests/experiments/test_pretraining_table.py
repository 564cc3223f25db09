import csv
import json

import numpy as np
import pytest

from experiments import masked
from experiments import pretraining_table as program
from jaxmodels.train.errors import ConfigError
from tests.experiments import seismic_parts


def write_scores(folder):
    """An output of `label_efficiency`: two seeds, two numbers of labels, two tests."""
    rows = [
        {
            "system": system,
            "labels": labels,
            "seed": seed,
            "test": test,
            "p_f1": (0.5 if system == "contrastive" else 0.3) + 0.1 * seed,
            "s_f1": labels / 100,
        }
        for test in ("held out", "real")
        for system in ("contrastive", "random (a, b)")
        for labels in (16, 64)
        for seed in ((0, 1) if labels == 16 or system == "contrastive" else (0,))
    ]
    folder.mkdir()
    (folder / "scores.json").write_text(json.dumps({"rows": rows}))
    return folder


def test_what_labels_gave_is_the_mean_of_the_seeds_on_held_out_records(tmp_path):
    folder = write_scores(tmp_path / "labels")
    own = {
        "P F1, 16 labels, 2 seeds": 0.55,
        "S F1, 16 labels, 2 seeds": 0.16,
        "P F1, 64 labels, 2 seeds": 0.55,
        "S F1, 64 labels, 2 seeds": 0.64,
    }
    found = program.labels_of(folder, {"contrastive": "random (c, d)"})
    assert found == {"contrastive": pytest.approx(own)}
    found = program.labels_of(folder, {"contrastive": "random (a, b)"})["contrastive"]
    twin = {
        "P F1, 16 labels, random weights, 2 seeds": 0.35,
        "S F1, 16 labels, random weights, 2 seeds": 0.16,
        "P F1, 64 labels, random weights, 1 seed": 0.3,
        "S F1, 64 labels, random weights, 1 seed": 0.64,
    }
    assert found == pytest.approx(own | twin)
    with pytest.raises(ConfigError, match="has no run 'masked', but contrastive, rand"):
        program.labels_of(folder, {"masked": "random (a, b)"})
    with pytest.raises(ConfigError, match="no output there"):
        program.labels_of(tmp_path / "nothing", {"masked": "random (a, b)"})


def test_the_numbers_of_a_config_are_those_of_its_compiled_update():
    config = seismic_parts.load("masked", {"loss.mask_length": 2})
    update = program.prepare(masked, config)
    row = update.row
    assert row["parameters"] > row["kept for picking"] > 0
    assert (row["batch"], row["samples"]) == (4, 64)
    assert row["GFLOP a step"] == pytest.approx(4 * row["GFLOP a window"])
    # Weights, their two moments and the batch at least.
    least = 4 * (3 * row["parameters"] + 4 * 64 * 3)
    assert least < row["MiB"] * 2**20 < 100 * least
    update.call()


def test_the_table_has_a_column_for_each_run_and_a_line_for_each_number(tmp_path):
    rows = [
        {"run": "a", "config": "a.py:tiny", "parameters": 1234, "MiB": 1.23456},
        {"run": "b", "config": "b.py:tiny", "parameters": 5, "MiB": 2.0, "P F1": 0.5},
    ]
    text = program.write(tmp_path, rows, ["--output", "x y"], repeats=3)
    assert "| | a | b |" in text and "| parameters | 1,234 | 5 |" in text
    assert "| MiB | 1.23 | 2 |" in text and "| P F1 | - | 0.5 |" in text
    assert "pretraining_table --output 'x y'`" in text
    with open(tmp_path / "table.csv") as file:
        first, _ = csv.DictReader(file)
    assert float(first["MiB"]) == 1.23456 and first["P F1"] == ""


def test_a_random_batch_has_the_types_of_the_batch_and_counts_every_row():
    config = seismic_parts.load("masked")
    abstract = masked.abstract_batch(config)
    batch = program.random_batch(abstract)
    assert {name: (x.shape, x.dtype) for name, x in batch.items()} == {
        name: (x.shape, x.dtype) for name, x in abstract.items()
    }
    np.testing.assert_array_equal(batch["weights"], 1.0)
    assert np.std(batch["inputs"]) == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--run=a"], "give NAME=FILE:SIZE, such as contrastive=configs/"),
        (["--run=a=x", "--run=a=y"], "--run a is given twice"),
        (["--run=a=configs/seismic/nothing.py"], "no config file"),
        (["--repeats=0"], "--repeats 0 must be at least 1"),
    ],
)
def test_a_wrong_command_is_one_line(words, message, capsys):
    assert program.main(["--output=out", *words]) == 64
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
