import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmodels.train import task


class Affine(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        seen = self.variable("batch_stats", "seen", lambda: jnp.zeros(()))
        if train:
            seen.value += x.sum()
        return nn.Dense(1, name="dense")(x)[:, 0]


MODEL = Affine()


def init(rng):
    return {"model": MODEL.init(rng, jnp.zeros((1, 3)))}


def loss_fn(params, collections, batch, rng, *, step, train):
    variables = {"params": params["model"], **collections["model"]}
    out, changed = MODEL.apply(
        variables, batch["inputs"], train=train, mutable=["batch_stats"]
    )
    squares = batch["weights"] * (out - batch["targets"]) ** 2
    total = batch["weights"].sum()
    metrics = {"loss": (squares.sum(), total)}
    return squares.sum() / total, (metrics, {"model": changed})


def batch(seed, size=8):
    rng = np.random.default_rng(seed)
    return {
        "inputs": rng.normal(size=(size, 3)).astype(np.float32),
        "targets": rng.normal(size=size).astype(np.float32),
        "weights": rng.integers(0, 3, size).astype(np.float32) + 1,
    }


def build(**options):
    return task.from_losses(
        init, {"model": loss_fn}, {"model": optax.adamw(1e-2)}, **options
    )


def advance(subject, state, batches):
    step = jax.jit(subject.train_step)
    for values in batches:
        state, metrics = step(state, values, jax.random.key(1))
    return state, metrics


def test_microbatches_give_the_gradient_of_the_whole_batch():
    whole, sliced = (
        advance(subject, subject.init(jax.random.key(0)), [batch(0), batch(1)])
        for subject in (build(), build(microbatches=4))
    )
    chex.assert_trees_all_close(whole, sliced, rtol=1e-5, atol=1e-6)


def test_a_batch_that_does_not_divide_into_microbatches_is_an_error():
    subject = build(microbatches=3)
    with pytest.raises(ValueError, match="batch 8 does not divide into 3 microbatches"):
        subject.train_step(subject.init(jax.random.key(0)), batch(0), jax.random.key(1))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_a_bad_batch_changes_nothing_but_the_step(value):
    subject = build(ema_decay=0.9)
    start = subject.init(jax.random.key(0))
    bad = batch(5)
    bad["inputs"][2, 1] = value
    clean, _ = advance(subject, start, [batch(0), batch(1)])
    dirty, metrics = advance(subject, start, [batch(0), bad, batch(1), bad, bad])
    chex.assert_trees_all_equal(
        dirty.replace(step=clean.step, skips=clean.skips), clean
    )
    assert dirty.step == 5 and list(dirty.skips) == [2, 3]
    assert metrics["skipped"] == (1, 1)


def test_the_skips_in_a_row_start_again_after_a_good_update():
    subject = build()
    bad = {**batch(5), "targets": np.full(8, np.nan, np.float32)}
    state, _ = advance(subject, subject.init(jax.random.key(0)), [bad, bad, batch(0)])
    assert list(state.skips) == [0, 2]


def test_collections_flow_through_the_step_and_not_through_evaluation():
    subject = build()
    state, _ = advance(subject, subject.init(jax.random.key(0)), [batch(0)])
    seen = state.collections["model"]["batch_stats"]["seen"]
    np.testing.assert_allclose(seen, batch(0)["inputs"].sum(), rtol=1e-5)
    subject.eval_step(state, batch(1), jax.random.key(0))
    assert state.collections["model"]["batch_stats"]["seen"] == seen


def test_a_network_without_a_loss_is_frozen():
    def two(rng):
        return {**init(rng), "frozen": MODEL.init(rng, jnp.zeros((1, 3)))}

    subject = task.from_losses(two, {"model": loss_fn}, {"model": optax.sgd(0.1)})
    start = subject.init(jax.random.key(0))
    state, _ = advance(subject, start, [batch(0)])
    chex.assert_trees_all_equal(state.params["frozen"], start.params["frozen"])
    assert set(state.opt_state) == {"model"}
    moved = optax.tree.norm(
        optax.tree.sub(state.params["model"], start.params["model"])
    )
    assert moved > 0


def test_networks_are_updated_in_turn_each_seeing_the_newest_others():
    def scalars(rng):
        return {name: {"params": {"x": jnp.ones(())}} for name in "ab"}

    def a_loss(params, collections, batch, rng, *, step, train):
        loss = params["a"]["x"] * params["b"]["x"]
        return loss, ({"loss": (loss, jnp.ones(()))}, {})

    sgd = {"a": optax.sgd(0.5), "b": optax.sgd(0.5)}
    subject = task.from_losses(scalars, {"a": a_loss, "b": a_loss}, sgd)
    start = subject.init(jax.random.key(0))
    state, metrics = subject.train_step(start, {}, jax.random.key(0))
    assert state.params["a"]["x"] == 0.5  # 1 - 0.5 * b
    assert state.params["b"]["x"] == 0.75  # 1 - 0.5 * (new a)
    assert {"a/loss", "b/loss", "a/grad_norm", "skipped"} <= set(metrics)


def test_the_average_follows_the_parameters_and_is_what_evaluation_sees():
    subject = build(ema_decay=0.75)
    start = subject.init(jax.random.key(0))
    state, _ = advance(subject, start, [batch(0)])
    expected = jax.tree.map(
        lambda new, old: 0.25 * new + 0.75 * old, state.params, start.params
    )
    chex.assert_trees_all_close(state.ema, expected, rtol=1e-6)
    averaged = state.replace(params=state.ema, ema={})
    first, second = (
        subject.eval_step(s, batch(3), jax.random.key(0)) for s in (state, averaged)
    )
    chex.assert_trees_all_equal(first, second)


def test_losses_and_optimizers_must_name_the_same_networks():
    with pytest.raises(ValueError, match="losses are given for .'model'. and"):
        task.from_losses(init, {"model": loss_fn}, {"other": optax.sgd(1.0)})
    subject = task.from_losses(init, {"modle": loss_fn}, {"modle": optax.sgd(1.0)})
    with pytest.raises(ValueError, match="modle.*the networks are .'model'"):
        subject.init(jax.random.key(0))
