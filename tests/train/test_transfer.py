import chex
import jax
import jax.numpy as jnp
import pytest

from jaxmodels.train import checkpoint, state, transfer
from jaxmodels.train.errors import ConfigError

MODULES = ("model/encoder", "model/backbone")


def make_state(seed, *, width=4, head="head"):
    """A network of an encoder, a backbone and something else; averages are doubled."""
    rngs = jax.random.split(jax.random.key(seed), 3)
    params = {
        "model": {
            "encoder": {"conv": {"kernel": jax.random.normal(rngs[0], (3, width))}},
            "backbone": {"kernel": jax.random.normal(rngs[1], (4, 4))},
            head: {"kernel": jax.random.normal(rngs[2], (4, 2))},
        }
    }
    means = {"encoder": {"mean": jnp.full(3, 1.0 * seed)}}
    moving = {"model": {"statistics": means}}
    ema = jax.tree.map(lambda x: 2 * x, params)
    return state.start(params, {}, ema, moving)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    saver = checkpoint.Checkpoints(folder / "checkpoints")
    saver.save(make_state(1, head="quantizer"), wait=True)
    saver.close()
    return folder


def test_named_modules_are_taken_whole_and_nothing_else(run):
    fresh = make_state(5)
    started, lines = transfer.init_from(run, fresh, MODULES)
    assert lines == []
    there = make_state(1, head="quantizer")
    for name in ("encoder", "backbone"):
        wanted = there.ema["model"][name]
        chex.assert_trees_all_equal(started.params["model"][name], wanted)
        chex.assert_trees_all_equal(started.ema["model"][name], wanted)
    chex.assert_trees_all_equal(started.collections, there.collections)
    head = fresh.params["model"]["head"]
    chex.assert_trees_all_equal(started.params["model"]["head"], head)


def test_one_module_leaves_the_other_as_it_was(run):
    fresh = make_state(5)
    started, _ = transfer.init_from(run, fresh, MODULES[:1])
    old, new = fresh.params["model"], started.params["model"]
    chex.assert_trees_all_equal(new["backbone"], old["backbone"])
    assert (new["encoder"]["conv"]["kernel"] != old["encoder"]["conv"]["kernel"]).all()


def test_a_named_module_of_another_shape_is_refused_whole(run):
    """Where a network is named as a whole, what does not match only starts anew."""
    wide = make_state(5, width=6)
    message = "model/encoder/conv/kernel: the model wants .*; give both runs the same"
    with pytest.raises(ConfigError, match=message):
        transfer.init_from(run, wide, MODULES)
    _, lines = transfer.init_from(run, wide, ("model",))
    assert any("starts anew" in line for line in lines)


def test_a_named_module_with_a_leaf_more_is_refused(run):
    fresh = make_state(5)
    fresh.params["model"]["encoder"]["bias"] = jnp.zeros(2)
    with pytest.raises(ConfigError, match="model/encoder/bias: not in .*, starts anew"):
        transfer.init_from(run, fresh, MODULES)


def test_a_module_that_nobody_has_matches_nothing(run):
    with pytest.raises(ConfigError, match="nothing in .* matches this model"):
        transfer.init_from(run, make_state(5), ("model/decoder",))
    with pytest.raises(ConfigError, match="no network 'other'; it has model"):
        transfer.init_from(run, make_state(5), ("other/encoder",))
