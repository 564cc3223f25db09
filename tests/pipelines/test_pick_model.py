import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.pipelines import pick, pick_model
from jaxmodels.train import packaged
from jaxmodels.train.errors import ConfigError
from tests.pipelines import broadening_runs
from tests.pipelines import picking_runs as runs
from tests.pipelines.picking_runs import P, S

ARRIVALS = [(P, 12.0), (S, 14.25)]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return runs.write(tmp_path_factory.mktemp("run"))


def test_a_run_and_its_package_are_the_same_picker(workdir, tmp_path):
    runs.package(tmp_path)
    run, small = pick.load(workdir), pick.load(tmp_path)
    assert run.digest == small.digest and run.model == small.model
    assert run.preprocessing == small.preprocessing
    assert run.label == "PhasePicker" and not run.looks_back_only
    assert "was trained on synthetic, split train: 3 comp" in run.describe()
    waveform = runs.seismogram(20, ARRIVALS)
    np.testing.assert_array_equal(
        run.annotate_array(waveform, 100.0), small.annotate_array(waveform, 100.0)
    )


def test_probabilities_are_those_of_the_model_on_normalized_windows(workdir):
    picker = pick.load(workdir)
    waveform = runs.seismogram(runs.SAMPLES / 100, ARRIVALS[:1])
    inputs = picker.preprocessing.normalize(waveform[None])
    logits = jax.jit(picker.model.apply)(picker.variables, inputs)
    found = picker.annotate_array(waveform, 100.0)
    np.testing.assert_allclose(found, jax.nn.softmax(logits)[0], atol=1e-5)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-6)


def test_an_array_gives_probabilities_at_the_rate_of_the_model():
    picker = runs.picker()
    for rate in (50.0, 100.0, 250.0):
        found = picker.annotate_array(runs.seismogram(30, ARRIVALS, rate), rate)
        assert len(found) == 1 + np.floor(100 * (30 - 1 / rate))
        peaks = found[:, :2].argmax(axis=0) / 100
        np.testing.assert_allclose(peaks, [12.0, 14.25], atol=0.0101)


def test_an_array_may_have_gaps_and_lack_components():
    picker = runs.picker()
    waveform = runs.seismogram(40, [*ARRIVALS, (P, 30.0)])
    waveform[2000:2500] = np.nan
    found = picker.annotate_array(waveform, 100.0)
    assert found.shape == (4000, 3)
    np.testing.assert_array_equal(found[2000:2500], np.tile([0, 0, 1], (500, 1)))
    assert found[:2000, 0].argmax() == 1200 and found[2500:, 0].argmax() == 500
    vertical = picker.annotate_array(waveform[:, :1], 100.0)
    assert vertical[:2000, 0].argmax() == 1200 and vertical[:, 1].max() < 0.01


@pytest.mark.parametrize(
    "waveform, rate, message",
    [
        (np.zeros(500), 100.0, r"shape \(500,\) .* is not \[samples, 1 to 3\]"),
        (np.zeros((500, 4)), 100.0, r"shape \(500, 4\)"),
        (np.zeros((0, 3)), 100.0, r"shape \(0, 3\)"),
        (np.zeros((500, 3)), 0.0, "sampling_rate 0.0 must be above 0"),
        (np.zeros((500, 3)), "100", "sampling_rate 100 must be above 0"),
        (np.full((500, 3), np.nan), 100.0, "no sample of the record is finite"),
        (np.zeros((500, 3)), 100.0, "the record is constant in every component"),
        (np.eye(50, 3), 100.0, "the record has no part of 3 s"),
    ],
)
def test_an_array_that_cannot_be_picked_is_refused(waveform, rate, message):
    with pytest.raises(ConfigError, match=message):
        runs.picker().annotate_array(waveform, rate)


def test_normalization_is_that_of_the_training(workdir):
    std = runs.picker().annotate_array(runs.seismogram(20, ARRIVALS), 100.0)
    peak = runs.picker(normalization="peak")
    found = peak.annotate_array(runs.seismogram(20, ARRIVALS), 100.0)
    assert std[:, 0].max() > 0.9 and found[:, 0].max() < 0.1
    # The size of a record is nothing that a model sees.
    large = runs.picker().annotate_array(1e6 * runs.seismogram(20, ARRIVALS), 100.0)
    np.testing.assert_allclose(large, std, atol=1e-4)


def test_on_a_cpu_a_model_of_half_precision_computes_in_single(tmp_path):
    model = runs.window_model()
    halves = {name: getattr(model, name) for name in ("encoder", "backbone")}
    halves = {name: one.clone(dtype="bfloat16") for name, one in halves.items()}
    runs.package(tmp_path, model.clone(dtype="bfloat16", **halves))
    assert pick.load(tmp_path).model == model


def test_a_packaged_picker_keeps_its_thresholds(tmp_path):
    runs.package(tmp_path, picking={"P_threshold": 0.4, "blinding": [10, 20]})
    picker = pick.load(tmp_path)
    settings = picker.settings(S_threshold=0.25)
    assert settings.thresholds == (0.4, 0.25)
    assert settings.windows.blinding == (10, 20)
    assert picker.settings(blinding=5).windows.blinding == (5, 5)


def test_probabilities_that_are_not_finite_are_an_error():
    model = runs.window_model()
    variables = jax.tree.map(lambda x: x * jnp.nan, runs.variables_of(model))
    own = runs.picker().preprocessing
    picker = pick_model.Picker(model, variables, own, {}, "runs/x")
    with pytest.raises(ConfigError, match="model in runs/x gives probabilities that"):
        picker.annotate_array(runs.seismogram(20, ARRIVALS), 100.0)


def test_a_run_of_another_kind_is_refused(tmp_path):
    broadening_runs.package(tmp_path)
    with pytest.raises(ConfigError, match="holds 0 pickers among its networks"):
        pick.load(tmp_path)
    with pytest.raises(ConfigError, match="there is no model.json in nowhere"):
        pick.load("nowhere")


def test_a_run_of_other_preprocessing_is_refused(tmp_path):
    runs.package(tmp_path / "a", kind="broadband")
    with pytest.raises(ConfigError, match="of kind 'broadband' is not 'waveform_wind"):
        pick.load(tmp_path / "a")
    runs.package(tmp_path / "b", channels=1)
    with pytest.raises(ConfigError, match="3 components and its preprocessing 1"):
        pick.load(tmp_path / "b")


@pytest.mark.parametrize("kind", ["run", "packaged"])
def test_weights_of_another_normalization_than_model_json_are_refused(tmp_path, kind):
    (runs.write if kind == "run" else runs.package)(tmp_path)
    content = json.loads((tmp_path / "model.json").read_text())
    content["preprocessing"]["normalization"] = "peak"
    (tmp_path / "model.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="normalization is 'peak' in model.json"):
        pick.load(tmp_path)


def test_without_a_model_of_its_own_the_package_says_what_to_give(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(pick_model, "PACKAGED", tmp_path)
    with pytest.raises(ConfigError, match="no trained picker of its own; give --check"):
        pick.load()
    runs.package(tmp_path)
    assert pick.load().source == "jaxmodels/pretrained/picker"
    assert packaged.is_packaged(tmp_path)
