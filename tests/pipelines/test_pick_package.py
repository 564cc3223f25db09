import json

import jax
import pytest

from jaxmodels.pipelines import package, pick, pick_package
from jaxmodels.train.errors import ConfigError
from tests.pipelines import picking_runs as runs


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return runs.write(tmp_path_factory.mktemp("run"))


def test_a_packaged_run_is_the_same_picker_in_one_small_folder(workdir, tmp_path):
    made = pick_package.package(
        workdir, tmp_path, "# Card\n", trained_on="4 records", P_threshold=0.35
    )
    files = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(files) == {"model.safetensors", "model.json", "card.md"}
    assert made == {
        "bytes": files["model.safetensors"],
        "dtype": "float32",
        "error": 0.0,
    }
    run, small = map(pick.load, (workdir, tmp_path))
    assert run.digest == small.digest and small.trained_on == "4 records"
    assert small.settings().thresholds == (0.35, 0.3)
    assert (tmp_path / "card.md").read_text() == "# Card\n"


def test_where_folders_were_is_not_told():
    told = {"dataset": "./sets/one", "second": {"dataset": "/sets/two", "share": 0.5}}
    assert package.without_places(told | {"splits": {"train": "train"}}) == {
        "dataset": "one",
        "second": {"dataset": "two", "share": 0.5},
        "splits": {"train": "train"},
    }
    plain = {"dataset": "synthetic_motions", "noise": None}
    assert package.without_places(plain) == plain


def test_weights_become_half_as_large_where_they_would_pass_the_limit(
    workdir, tmp_path
):
    weights = jax.tree.leaves(pick.load(workdir).variables)
    limit = 0.7e-6 * 4 * sum(x.size for x in weights)
    made = pick_package.package(workdir, tmp_path, "card", max_megabytes=limit)
    assert made["dtype"] == "float16" and 0 < made["error"] < 0.02
    stored = json.loads((tmp_path / "model.json").read_text())["preprocessing"]
    assert stored["output_error"] == made["error"]


@pytest.mark.parametrize(
    "keywords, message",
    [
        ({"P_threshold": 1.0}, "P_threshold 1.0 must be above 0"),
        ({"threshold": 1.0}, "'threshold' is no keyword of a picker"),
        ({"max_megabytes": 1e-6}, "MB as float16, above 1e-06 MB; train a smaller"),
    ],
)
def test_what_cannot_be_packaged_is_refused(workdir, tmp_path, keywords, message):
    with pytest.raises(ConfigError, match=message):
        pick_package.package(workdir, tmp_path / "out", "card", **keywords)
    with pytest.raises(ConfigError, match="the card is empty"):
        pick_package.package(workdir, tmp_path / "out", " \n")
    assert not (tmp_path / "out").exists()


def test_the_command_writes_the_folder_and_prints_its_size(workdir, tmp_path, capsys):
    card = tmp_path / "card.md"
    card.write_text("# A picker")
    output = tmp_path / "out"
    arguments = [str(workdir), str(output), "--card", str(card), "--S_threshold", "0.2"]
    assert pick_package.main(arguments) == 0
    assert "MB of float32 weights" in capsys.readouterr()[0]
    assert pick.load(output).settings().thresholds == (0.3, 0.2)
    assert pick_package.main([*arguments[:3], "nowhere.md"]) == 64
    assert "card nowhere.md cannot be read" in capsys.readouterr()[1]
