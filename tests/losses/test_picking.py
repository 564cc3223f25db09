import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.losses import picking

picking_loss = jax.jit(picking.picking_loss)
pick_hits = jax.jit(picking.pick_hits, static_argnums=(3, 4))


def test_the_loss_is_the_soft_cross_entropy_by_hand():
    logits = jnp.log(jnp.array([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]]))
    targets = jnp.array([[[0.6, 0.4, 0.0], [0.0, 0.0, 1.0]]])
    first = -(0.6 * np.log(0.5) + 0.4 * np.log(0.25))
    expected = (first - np.log(0.8)) / 2
    np.testing.assert_allclose(picking_loss(logits, targets), [expected], rtol=1e-6)


def test_the_loss_is_least_at_the_targets():
    targets = jax.nn.softmax(jax.random.normal(jax.random.key(0), (2, 5, 3)))
    gradient = jax.grad(lambda x: picking_loss(x, targets).sum())(jnp.log(targets))
    np.testing.assert_allclose(gradient, 0.0, atol=1e-7)


def test_examples_count_by_their_weights():
    logits = jax.random.normal(jax.random.key(0), (3, 4, 3))
    targets = jax.nn.softmax(2 * logits)
    each = picking_loss(logits, targets)
    weighted = picking_loss(logits, targets, jnp.array([1.0, 0.0, 2.0]))
    np.testing.assert_allclose(weighted, each * np.array([1.0, 0.0, 2.0]))


def test_half_precision_logits_lose_nothing_in_the_sum():
    logits = jnp.full((1, 4096, 3), 0.0, jnp.bfloat16)
    targets = jnp.full((1, 4096, 3), 1 / 3)
    loss = picking_loss(logits, targets)
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, np.log(3), rtol=1e-5)


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(AssertionError):
        picking_loss(jnp.zeros((2, 4, 3)), jnp.zeros((1, 4, 3)))


def test_hits_are_counted_where_there_is_an_arrival():
    probabilities = np.zeros((4, 100, 3), np.float32)
    for row, (p, s) in enumerate([(10, 50), (20, 60), (30, 70), (40, 80)]):
        probabilities[row, [p, s], [0, 1]] = 1.0
    p_sample = jnp.array([10.0, 30.0, 29.5, -1.0])
    s_sample = jnp.array([61.0, -1.0, -1.0, -1.0])
    hits = pick_hits(probabilities, p_sample, s_sample, 100.0, 0.1)
    assert hits == {"p_hit_0.1": (3.0, 3.0), "s_hit_0.1": (0.0, 1.0)}
    near = pick_hits(probabilities, p_sample, s_sample, 100.0, 0.05)
    assert near["p_hit_0.05"] == (2.0, 3.0)
