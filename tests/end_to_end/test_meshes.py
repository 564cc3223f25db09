"""The language model on every mesh of eight devices."""

import itertools

import jax
import numpy as np
import pytest

from experiments import config_file, performer_lm
from jaxmodels.train import feed, loop, sharding
from tests.end_to_end import launcher

SHAPES = [
    shape for shape in itertools.product((1, 2, 4, 8), repeat=4) if np.prod(shape) == 8
]
FEW = [(8, 1, 1, 1), (1, 2, 2, 2), (1, 1, 1, 8)]
MANY = [shape for shape in SHAPES if shape not in FEW]
STEPS = 3


@pytest.fixture(scope="module")
def config(texts, tmp_path_factory):
    data = tmp_path_factory.getbasetemp() / "tensorflow_datasets"
    config, _ = config_file.load(launcher.CONFIG)
    config.unlock()
    changes = {"model.num_heads": 8, "model.embed_dim": 32, "data.dataset": str(texts)}
    config.update_from_flattened_dict(launcher.SMALL | changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(data))
        yield config


def make_mesh(shape):
    return sharding.make_mesh(*shape, devices=jax.devices()[: np.prod(shape)])


def train(config, shape):
    """Losses of the first updates and the initial parameters."""
    task, data = performer_lm.make_task(config), performer_lm.make_data(config)
    mesh, (init_rng, train_rng, _) = make_mesh(shape), loop.keys(config.seed)
    losses = []
    with loop.on_mesh(mesh):
        jitted = loop.programs(task, mesh)
        state = jitted.init(init_rng)
        start = jax.device_get(state.params)
        for batch in feed.batches(data.train, mesh, 0, STEPS):
            state, metrics = jitted.train_step(state, batch, train_rng)
            total, count = metrics["loss"]
            losses.append(float(total) / float(count))
    return losses, start


@pytest.fixture(scope="module")
def alone(config):
    return train(config, (1, 1, 1, 1))


def check(config, shape, alone):
    losses, start = train(config, shape)
    np.testing.assert_allclose(losses, alone[0], rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, start, alone[1])


@pytest.mark.parametrize("shape", FEW, ids=str)
def test_a_mesh_gives_the_losses_and_the_first_bits_of_one_device(config, shape, alone):
    check(config, shape, alone)


@pytest.mark.slow
@pytest.mark.parametrize("shape", MANY, ids=str)
def test_every_other_mesh_does_too(config, shape, alone):
    check(config, shape, alone)


def traced(config, shape):
    task, data = performer_lm.make_task(config), performer_lm.make_data(config)
    mesh = make_mesh(shape)
    with loop.on_mesh(mesh):
        jitted = loop.programs(task, mesh)
        batch = next(feed.batches(data.train, mesh, 0, 1))
        return jitted.train_step.trace(jitted.target, batch, jax.random.key(0))


def test_the_residual_stream_is_constrained_once_a_block(config):
    text = str(traced(config, (2, 2, 2, 1)).jaxpr)
    assert text.count("sharding_constraint") >= 1


@pytest.mark.parametrize("shape", [(2, 2, 2, 1), (1, 2, 2, 2)], ids=str)
def test_no_array_is_rematerialized_whole_without_being_asked(config, shape, capfd):
    enabled = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        traced(config, shape).lower().compile()
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
    assert "Involuntary full rematerialization" not in capfd.readouterr().err
