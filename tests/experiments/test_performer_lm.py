import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import performer_lm


def make_batch(rng, rows=8, length=8):
    tokens = jax.random.randint(rng, (rows, length + 1), 1, 256)
    ones = jnp.ones((rows, length))
    return {
        "inputs": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "weights": ones,
        "segment_ids": jnp.ones((rows, length), jnp.int32),
        "positions": jnp.tile(jnp.arange(length), (rows, 1)),
        "target_bytes": ones,
    }


def start(config):
    task = performer_lm.make_task(config)
    return task, jax.jit(task.init)(jax.random.key(0))


def evaluate(task, state, batch):
    return task.summarize(jax.jit(task.eval_step)(state, batch, jax.random.key(0)))


def steps(config, num_steps, first=0):
    """States before and after `num_steps` updates on one batch."""
    task, state = start(config)
    state = state.replace(step=jnp.int32(first))
    batch, states = make_batch(jax.random.key(1)), [state]
    step = jax.jit(task.train_step)
    for index in range(num_steps):
        state, _ = step(states[-1], batch, jax.random.key(index))
        states.append(state)
    return states


def projections(state):
    (leaf,) = jax.tree.leaves(state.collections["model"]["projections"])
    return np.asarray(leaf)


def test_bits_per_byte_and_perplexity_follow_from_the_loss(parts):
    task, state = start(parts)
    batch = make_batch(jax.random.key(1))
    batch["target_bytes"] = 2.0 * batch["target_bytes"]
    values = evaluate(task, state, batch)
    bits = values["loss"] / math.log(2.0) / 2.0
    assert values["bits_per_byte"] == pytest.approx(bits, rel=1e-5)
    assert values["perplexity"] == pytest.approx(math.exp(values["loss"]))
    assert values["loss"] == pytest.approx(math.log(256), rel=0.05)


def test_a_token_without_weight_changes_no_metric(parts):
    task, state = start(parts)
    batch = make_batch(jax.random.key(1))
    batch["weights"] = batch["weights"].at[:, -1].set(0.0)
    other = batch | {"targets": batch["targets"].at[:, -1].set(7)}
    assert evaluate(task, state, batch) == evaluate(task, state, other)


def test_projections_are_drawn_anew_at_each_interval_but_not_at_the_start(parts):
    parts.loss.feature_redraw_interval = 2
    before = [projections(state) for state in steps(parts, 5)]
    same = [np.array_equal(*pair) for pair in zip(before, before[1:], strict=False)]
    assert same == [True, True, False, True, False]  # updates 0, 1, 2, 3, 4


def test_projections_stay_where_the_interval_is_zero(parts):
    first, *_, last = steps(parts, 3)
    np.testing.assert_array_equal(projections(first), projections(last))


@pytest.mark.slow
def test_all_microbatches_of_an_update_see_the_same_projections(parts):
    parts.loss.feature_redraw_interval = 2
    whole = steps(parts, 1, first=2)[-1]
    parts.optimizer.microbatches = 4
    cut = steps(parts, 1, first=2)[-1]
    np.testing.assert_array_equal(projections(whole), projections(cut))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4),
        whole.params,
        cut.params,
    )


def test_every_layer_gets_projections_of_its_own(parts):
    first, second = projections(steps(parts, 0)[0])
    assert not np.array_equal(first, second)


def test_the_loss_falls(parts):
    task = performer_lm.make_task(parts)
    first, *_, last = steps(parts, 4)
    batch = make_batch(jax.random.key(1))
    losses = [evaluate(task, state, batch)["loss"] for state in (first, last)]
    assert losses[1] < losses[0] - 0.01


def test_the_data_yields_the_abstract_batch(parts):
    data = performer_lm.make_data(parts)
    abstract = performer_lm.abstract_batch(parts)
    for read in (data.train, data.eval):
        batch = read(0, 0, 1)
        assert {name: x.shape for name, x in batch.items()} == {
            name: x.shape for name, x in abstract.items()
        }
        assert {name: x.dtype for name, x in batch.items()} == {
            name: x.dtype for name, x in abstract.items()
        }


@pytest.mark.parametrize(
    "path, value, message",
    [
        ("model.embed_dim", 9, "model: embed_dim 9 is not divisible by num_heads 2"),
        ("model.attention.kind", "sotfmax", "attention kind 'sotfmax'"),
        ("model.attention.chunk_size", 0, "chunk_size 0 must be at least 1"),
        ("data.length", 9, "data.length 9 is longer than model.max_length 8"),
        ("model.vocab_size", 300, "vocab_size is 300, but there are 256 bytes"),
    ],
)
def test_a_config_that_contradicts_itself_is_one_line(parts, path, value, message):
    parts.update_from_flattened_dict({path: value})
    (line,) = performer_lm.check(parts)
    assert message in line


@pytest.mark.parametrize(
    "section, name, message",
    [
        ("model", "embed_dims", "(did you mean 'embed_dim'?)"),
        ("data", "lenght", "(did you mean 'length'?)"),
        ("loss", "redraw", "loss.redraw is no field of loss"),
    ],
)
def test_a_field_that_the_code_does_not_have_is_one_line(parts, section, name, message):
    with parts.unlocked():
        parts[section][name] = 3
    (line,) = performer_lm.check(parts)
    assert message in line


def test_a_field_that_lacks_is_one_line(parts):
    del parts.model.embed_dim
    del parts.loss.feature_redraw_interval
    assert performer_lm.check(parts) == [
        "model has no field 'embed_dim'",
        "loss has no field 'feature_redraw_interval'",
    ]
