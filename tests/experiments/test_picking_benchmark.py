import json

import pytest

from experiments.benchmarks import picking
from tests.pipelines import picking_runs as runs

pytest.importorskip("obspy")


def test_the_benchmark_writes_numbers_and_a_table(tmp_path, capsys):
    folder = runs.package(tmp_path / "model")
    words = f"--checkpoint small={folder} --hours 0.01 --rounds 2 --no_peer"
    assert picking.main([*words.split(), f"--output={tmp_path}"]) == 0
    content = json.loads((tmp_path / "picking.json").read_text())
    (row,) = content["rows"]
    assert row["name"] == "small" and row["rounds"] == 2 and row["window"] == 10.24
    assert row["hours_per_second"] > 0 and row["latency"] > 0
    assert row["ratio"] is None and row["parameters"] > 1000
    text = (tmp_path / "README.md").read_text()
    assert "| small | " in text and text.strip() in capsys.readouterr().out


def test_hours_out_of_range_are_refused(capsys):
    with pytest.raises(SystemExit):
        picking.main(["--hours=0"])
    assert "--hours 0.0 must be above 0, at most 48" in capsys.readouterr().err


@pytest.mark.parity
def test_phasenet_annotates_what_we_annotate():
    pytest.importorskip("seisbench")
    model, facts = picking.phasenet()
    assert facts == {"window": 30.01, "parameters": 268_443}
    assert len(model.annotate(picking.noise(60.0))) == 3
