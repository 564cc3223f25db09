import math

import chex
import jax
import jax.numpy as jnp
import pytest

from experiments import event_classification
from jaxmodels.train import model_file
from tests.experiments import seismic_parts


def make_parts(**changes):
    changes = {"model.head.head_channels": (4,), **changes}
    return seismic_parts.load("event_classification", changes)


@pytest.fixture
def parts():
    return make_parts()


@pytest.fixture(scope="module")
def started():
    frozen = make_parts(**{"optimizer.freeze": ("encoder",)})
    return seismic_parts.start(event_classification, frozen)


def make_batch():
    return seismic_parts.waveforms() | {"targets": jnp.array([0, 1, 0, 1])}


def test_a_head_of_zeros_is_as_good_as_a_guess(started):
    params = jax.tree.map(jnp.asarray, started.state.params)
    own = params["model"]
    own["classes"] = jax.tree.map(jnp.zeros_like, own["classes"])
    values = started.evaluate(make_batch(), started.state.replace(params=params))
    assert values["loss"] == pytest.approx(math.log(2), rel=1e-6)


def test_a_record_without_weight_changes_no_metric(started):
    first, second = seismic_parts.without_last(make_batch())
    chex.assert_trees_all_close(
        started.evaluate(first), started.evaluate(second), rtol=1e-5
    )


@pytest.mark.slow
def test_a_frozen_encoder_stays_as_it_is_while_the_rest_learns(started):
    state, _ = started.train(started.state, make_batch(), 0)
    old, new = started.state.params["model"], state.params["model"]
    chex.assert_trees_all_equal(new["encoder"], old["encoder"])
    assert (new["classes"]["kernel"] != old["classes"]["kernel"]).any()


def test_a_frozen_module_that_is_not_there_is_an_error():
    parts = make_parts(**{"optimizer.freeze": ("encodr",)})
    with pytest.raises(ValueError, match="freeze names 'encodr'; the modules are "):
        jax.eval_shape(event_classification.make_task(parts).init, jax.random.key(0))


def test_the_model_comes_back_from_its_file(parts, tmp_path):
    model = event_classification.make_model(parts)
    model_file.write(tmp_path, {"model": model}, {})
    assert model_file.read(tmp_path)[0]["model"] == model


def test_the_config_has_nothing_wrong(parts):
    assert event_classification.check(parts) == []


@pytest.mark.parametrize(
    "path, value, message",
    [
        ("model.head.num_classes", 1, "model: num_classes 1 must be at least 2"),
        ("model.head.classes", 2, "model.head.classes is no field of model.head"),
        ("data.num_classes", 2, "data.num_classes is no field of data"),
        ("loss.smoothing", 0.1, "loss.smoothing is no field of loss"),
    ],
)
def test_a_config_that_contradicts_itself_is_one_line(parts, path, value, message):
    parts.update_from_flattened_dict({path: value})
    (line,) = event_classification.check(parts)
    assert message in line
