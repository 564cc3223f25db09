import csv
import json
import types

import numpy as np
import pytest

from experiments import contrastive, masked
from experiments import label_efficiency as program
from experiments import label_efficiency_report as report
from jaxmodels.train.errors import ConfigError
from tests.experiments import seismic_parts

RATE = 100.0


def labeled_batch(p_sample, s_sample, samples=400):
    """A batch whose waveform holds the arrivals, for a picker that reads them there."""
    rows = len(p_sample)
    inputs = np.zeros((rows, samples, 3), np.float32)
    for column, times in enumerate((p_sample, s_sample)):
        for row, time in enumerate(times):
            if time >= 0:
                inputs[row, int(time), column] = 1.0
    return {
        "inputs": inputs,
        "weights": np.array([1.0] * (rows - 1) + [0.0], np.float32),
        "p_sample": np.array(p_sample, np.float32),
        "s_sample": np.array(s_sample, np.float32),
    }


def data_of(*batches):
    return types.SimpleNamespace(
        num_eval_batches=len(batches), eval=lambda step, rank, ranks: batches[step]
    )


def test_a_picker_is_scored_on_the_arrivals_of_rows_with_weight():
    """Of three P, one is missed by 1 s; of two S, one stays below the threshold."""
    first = labeled_batch([50, 100, 7], [80, -1, 9])
    second = labeled_batch([200, 7], [250, 9])

    def predict(inputs):
        found = np.array(inputs)
        late = found[:, 200, 0] > 0
        found[late, :, 0] = np.roll(found[late, :, 0], 100, axis=1)
        found[found[:, 250, 1] > 0, 250, 1] = 0.2
        return found

    scores = report.score(predict, data_of(first, second), RATE, threshold=0.3)
    assert (scores["p_count"], scores["s_count"]) == (3, 2)
    assert scores["p_within_0.5"] == pytest.approx(2 / 3)
    # Two right of three picks and three arrivals; S: one right of one and of two.
    assert scores["p_f1"] == pytest.approx(2 / 3)
    assert scores["s_f1"] == pytest.approx(2 / 3)
    assert scores["s_within_0.1"] == 1.0 and scores["s_median"] == 0.0


def row(system, labels, seed, value, test="held out"):
    scores = {column: value for column in report.COLUMNS}
    return {"system": system, "labels": labels, "seed": seed, "test": test, **scores}


def test_the_table_has_mean_and_spread_of_the_seeds(tmp_path):
    rows = [row("random", 16, seed, value) for seed, value in enumerate((0.2, 0.4))]
    rows += [row("pretrained", 16, 0, 0.9), row("pretrained", 64, 0, float("nan"))]
    text = report.write(tmp_path, rows, notes=["Command: `x`"])
    assert "| 16 | random | 0.300 ± 0.141 |" in text and "- Command: `x`" in text
    assert "| 16 | pretrained | 0.900 |" in text
    assert "| 64 | pretrained | - |" in text
    assert (tmp_path / "table.md").read_text() == text + "\n"
    with open(tmp_path / "table.csv") as file:
        (first, *_) = csv.DictReader(file)
    assert (first["system"], first["seeds"]) == ("random", "2")
    assert float(first["p_f1 mean"]) == pytest.approx(0.3)
    assert len(json.loads((tmp_path / "scores.json").read_text())["rows"]) == 4
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_the_figure_has_a_row_for_each_test_and_a_curve_for_each_system():
    tests = ("held out", "real")
    rows = [
        row(system, labels, 0, 0.5, test)
        for test in tests
        for system in ("contrastive", "random (a, b)")
        for labels in (16, 64)
    ]
    drawn = report.figure(rows)
    assert len(drawn.axes) == 4
    assert [axes.get_title() for axes in drawn.axes] == [*tests[:1] * 2, *tests[1:] * 2]
    lines = [x for x in drawn.axes[0].lines if not x.get_label().startswith("_")]
    styles = [(line.get_label(), line.get_linestyle()) for line in lines]
    assert styles == [("contrastive", "-"), ("random (a, b)", "--")]


@pytest.fixture
def runs(tmp_path):
    """Configs of two runs of the same networks and one of others, without weights."""
    found = {}
    for name, source in (("a", "contrastive"), ("b", "contrastive"), ("m", "masked")):
        folder = tmp_path / name
        folder.mkdir()
        config = seismic_parts.load(source)
        (folder / "config.json").write_text(config.to_json())
        found[name] = f"{name}={folder}"
    return found


def test_every_pretrained_run_has_a_random_twin_of_its_networks(runs):
    systems = program.find_systems(list(runs.values()))
    names = [system.name for system in systems]
    assert names == [
        "a",
        "random (conv_down, sequential)",
        "b",
        "m",
        "random (bidir_autoreg, sequential)",
    ]
    assert [system.pretrained is None for system in systems] == [
        False,
        True,
        False,
        False,
        True,
    ]
    assert systems[0].networks == systems[1].networks
    assert systems[0].networks["encoder"]["conv_channels"] == (8, 8)
    alone = program.find_systems(list(runs.values()), alone=["a", "b"])
    assert [system.name for system in alone] == ["a", "b", *names[3:]]


def flags_of(words):
    return program.parser().parse_args(["--output=out", *words])


def test_a_picker_is_built_as_the_run_that_it_starts_from(runs):
    flags = flags_of(["--pretrained", runs["m"], "--steps=30"])
    trained, random = program.find_systems(flags.pretrained)
    config = program.make_config(flags, program.Run(trained, 16, 2))
    assert config.model.embed_dim == 8 and config.model.backbone.num_blocks == 1
    assert config.model.encoder.kind == "bidir_autoreg"
    assert (config.seed, config.data.num_train, config.num_steps) == (2, 16, 30)
    assert config.optimizer.warmup_steps == 3
    assert config.pretrained == trained.pretrained
    other = program.make_config(flags, program.Run(random, 16, 2))
    assert other.pretrained is None and other.model == config.model


@pytest.mark.parametrize(
    "words, message",
    [
        (["--labels=16,x"], "--labels 16,x: give numbers such as 16,64,256"),
        (["--labels=0,16"], "--labels 0 must be at least 1"),
        (["--seeds=0"], "--seeds 0 must be at least 1"),
        (["--threshold=1"], "--threshold 1.0 must lie between 0 and 1"),
        (["--override=data.batchsize=3"], "has no field 'data.batchsize'"),
        (["--override=model.kind=streaming"], "is no picker with an encoder"),
        (["--no_random=x"], "--no_random x: no --pretrained has that name; give one"),
    ],
)
def test_a_wrong_command_is_one_line(runs, words, message, capsys):
    argv = ["--output=out", "--pretrained", runs["a"], *words]
    assert program.main(argv) == ConfigError.exit_code
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_what_is_no_pretrained_run_is_one_line(runs, tmp_path, capsys):
    (tmp_path / "lm").mkdir()
    content = {"experiment": "performer_lm", "model": {"embed_dim": 8}}
    (tmp_path / "lm" / "config.json").write_text(json.dumps(content))
    for given, message in (
        (["contrastive"], "give NAME=DIR, such as contrastive=runs/c"),
        ([runs["a"], runs["a"]], "--pretrained a is given twice"),
        ([f"lm={tmp_path}/lm"], "the run has no model.encoder; give one of"),
        ([f"x={tmp_path}/none"], "holds no config.json"),
    ):
        words = [word for one in given for word in ("--pretrained", one)]
        assert program.main(["--output=out", *words]) == 64
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_pickers_are_tuned_from_both_kinds_of_pretraining_and_scored(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    words = []
    for source, experiment in (("contrastive", contrastive), ("masked", masked)):
        config = seismic_parts.load(source, {"loss.mask_length": 2})
        data = dict(kind="waveform_windows", sampling_rate=100.0, channels=3)
        data |= dict(normalization="std", per_component=True, highpass=None)
        seismic_parts.write_run(tmp_path / source, experiment, config, data)
        words += ["--pretrained", f"{source}={tmp_path / source}"]
    for change in (
        "data.synthetic.num_records=8",
        "data.synthetic.num_held_out=8",
        "data.num_samples=256",
        "data.batch_size=8",
        "eval.num_batches=1",
    ):
        words += ["--override", change]
    output = tmp_path / "out"
    words += ["--labels=2,4", "--seeds=1", "--steps=2", f"--output={output}"]
    assert program.main(words) == 0
    rows = json.loads((output / "scores.json").read_text())["rows"]
    assert len(rows) == 2 * 4
    assert {row["labels"] for row in rows} == {2, 4}
    # Done runs are read and not repeated.
    written = (output / "runs").stat().st_mtime
    first = (output / "table.md").read_text()
    assert program.main(words) == 0
    assert (output / "table.md").read_text() == first
    assert (output / "runs").stat().st_mtime == written
