import json

import jax
import numpy as np
import pytest

from jaxmodels.pipelines import broaden_model, broaden_package
from jaxmodels.train.errors import ConfigError
from tests.pipelines import broadening_runs as runs


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return runs.write(tmp_path_factory.mktemp("run"))


def weights(broadener):
    return jax.tree.leaves(broadener.variables)


def test_a_packaged_run_is_the_same_model_in_one_small_folder(workdir, tmp_path):
    made = broaden_package.package(workdir, tmp_path, "# Card\n")
    files = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(files) == {"model.safetensors", "model.json", "card.md"}
    assert made == {
        "bytes": files["model.safetensors"],
        "dtype": "float32",
        "error": 0.0,
    }
    run, packaged = map(broaden_model.load, (workdir, tmp_path))
    assert run.digest == packaged.digest and run.model == packaged.model
    assert run.preprocessing == packaged.preprocessing
    assert packaged.trained_on == run.trained_on
    assert (tmp_path / "card.md").read_text() == "# Card\n"


def test_weights_become_half_as_large_where_they_would_pass_the_limit(
    workdir, tmp_path
):
    full = broaden_package.package(workdir, tmp_path / "full", "card")
    limit = 0.7e-6 * full["bytes"]
    made = broaden_package.package(workdir, tmp_path, "card", max_megabytes=limit)
    assert made["dtype"] == "float16" and made["bytes"] < 0.7 * full["bytes"]
    assert 0 < made["error"] < 0.02
    stored = json.loads((tmp_path / "model.json").read_text())["preprocessing"]
    assert stored["output_error"] == made["error"]
    exact, rounded = (
        weights(broaden_model.load(folder)) for folder in (tmp_path / "full", tmp_path)
    )
    for a, b in zip(exact, rounded, strict=True):
        assert b.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-7)
    with pytest.raises(ConfigError, match="MB as float16, above .* MB; train a small"):
        broaden_package.package(workdir, tmp_path, "card", max_megabytes=limit / 2)


def test_a_package_keeps_how_to_sample_and_what_it_was_trained_on(workdir, tmp_path):
    broaden_package.package(
        workdir,
        tmp_path,
        "card",
        trained_on="4000 synthetic records",
        sampler="ddpm",
        num_steps=50,
        guidance=None,
    )
    broadener = broaden_model.load(tmp_path)
    assert broadener.sampling() == ("ddpm", 50, 1.0)
    assert broadener.trained_on == "4000 synthetic records"


def test_the_command_writes_the_folder_and_prints_its_size(workdir, tmp_path, capsys):
    card = tmp_path / "card.md"
    card.write_text("# A model")
    output = tmp_path / "out"
    arguments = [str(workdir), str(output), "--card", str(card), "--dtype", "float16"]
    assert broaden_package.main(arguments) == 0
    assert (
        "MB of float16 weights; relative change of the pred" in capsys.readouterr()[0]
    )
    assert (output / "card.md").read_text() == "# A model"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"--card": "nowhere.md"}, "card nowhere.md cannot be read"),
        ({"--sampler": "euler"}, "sampler 'euler' is none of"),
        ({"--dtype": "int8"}, "invalid choice: 'int8'"),
    ],
)
def test_a_wrong_command_ends_with_one_line(workdir, tmp_path, capsys, change, message):
    (tmp_path / "card.md").write_text("# A model")
    flags = {"--card": str(tmp_path / "card.md")} | change
    words = [word for pair in flags.items() for word in pair]
    code = broaden_package.main([str(workdir), str(tmp_path / "out"), *words])
    err = capsys.readouterr()[1].splitlines()
    assert code == 64 and len(err) == 1 and message in err[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["run", "packaged"])
@pytest.mark.parametrize("changes", [{"normalization": "joint_peak"}, {"corner": 2.0}])
def test_weights_of_another_preprocessing_than_model_json_are_refused(
    tmp_path, kind, changes
):
    runs.write(tmp_path)
    source = tmp_path
    if kind == "packaged":
        source = tmp_path / "packaged"
        broaden_package.package(tmp_path, source, "card")
    assert broaden_model.load(source).preprocessing == runs.preprocessing()
    text = (source / "model.json").read_text()
    content = json.loads(text)
    content["preprocessing"] |= changes
    (source / "model.json").write_text(json.dumps(content))
    (name,) = changes
    with pytest.raises(ConfigError, match=f"{name} is .* in model.json and .*same run"):
        broaden_model.load(source)
