import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.losses.classification import (
    classification_loss,
    language_model_loss,
    token_cross_entropy,
)

PROBABILITIES = jnp.array([[[0.5, 0.5], [0.25, 0.75]], [[0.9, 0.1], [0.2, 0.8]]])
TARGETS = jnp.array([[0, 1], [1, 1]])


def test_token_loss_is_minus_the_log_probability_of_the_target():
    got = token_cross_entropy(jnp.log(PROBABILITIES) + 7.0, TARGETS)
    expected = -np.log([[0.5, 0.75], [0.1, 0.8]])
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_uniform_logits_cost_the_logarithm_of_the_vocabulary():
    got = token_cross_entropy(jnp.zeros((1, 3, 11)), jnp.zeros((1, 3), jnp.int32))
    np.testing.assert_allclose(got, np.full((1, 3), math.log(11)), rtol=1e-6)


def test_token_loss_of_bfloat16_logits_is_taken_in_float32():
    logits = (8.0 * jax.random.normal(jax.random.key(0), (2, 2, 64))).astype("bfloat16")
    got = token_cross_entropy(logits, TARGETS)
    exact = token_cross_entropy(logits.astype(jnp.float32), TARGETS)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, exact)


def test_language_model_metrics_by_hand():
    weights = jnp.array([[1.0, 1.0], [1.0, 0.0]])
    target_bytes = jnp.array([[1.0, 4.0], [2.0, 100.0]])
    loss, metrics = language_model_loss(
        jnp.log(PROBABILITIES), TARGETS, weights, target_bytes
    )
    nats = -math.log(0.5) - math.log(0.75) - math.log(0.1)
    np.testing.assert_allclose(loss, nats / 3, rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"], (nats, 3), rtol=1e-6)
    # A tie goes to the first: 0, 1 and 0 are predicted for 0, 1 and 1.
    np.testing.assert_allclose(metrics["accuracy"], (2, 3))
    np.testing.assert_allclose(
        metrics["bits_per_byte"], (nats / math.log(2), 7), rtol=1e-6
    )


def test_tokens_without_weight_change_nothing():
    logits = jax.random.normal(jax.random.key(0), (2, 3, 5))
    targets = jnp.array([[0, 1, 2], [3, 4, 0]])
    weights = jnp.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    target_bytes = jnp.ones((2, 3))
    noise = jnp.where(weights[..., None] == 0, 9.0, 0.0) * jnp.arange(5.0)
    for first, second in zip(
        jax.tree.leaves(language_model_loss(logits, targets, weights, target_bytes)),
        jax.tree.leaves(
            language_model_loss(logits + noise, targets, weights, target_bytes)
        ),
        strict=True,
    ):
        np.testing.assert_array_equal(first, second)


def test_a_batch_without_weights_costs_nothing_and_counts_nothing():
    loss, metrics = language_model_loss(
        jnp.log(PROBABILITIES), TARGETS, jnp.zeros((2, 2))
    )
    assert loss == 0
    assert all(total == 0 and count == 0 for total, count in metrics.values())


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(AssertionError):
        language_model_loss(jnp.log(PROBABILITIES), TARGETS, jnp.ones((2, 1)))
    with pytest.raises(AssertionError):
        token_cross_entropy(jnp.log(PROBABILITIES), TARGETS[:1])


CLASS_LOGITS = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.2, 0.7, 0.1]]))
CLASSES = jnp.array([0, 1, 2])


def test_class_metrics_by_hand():
    weights = jnp.array([1.0, 1.0, 0.0])
    loss, metrics = classification_loss(CLASS_LOGITS + 3.0, CLASSES, weights)
    nats = -math.log(0.5) - math.log(0.1)
    np.testing.assert_allclose(loss, nats / 2, rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"], (nats, 2.0), rtol=1e-6)
    np.testing.assert_allclose(metrics["accuracy"], (1.0, 2.0))


def test_smoothing_is_cross_entropy_to_the_mixed_targets_and_leaves_metrics_alone():
    ones, share = jnp.ones(3), 0.3
    loss, metrics = classification_loss(
        CLASS_LOGITS, CLASSES, ones, label_smoothing=share
    )
    targets = (1 - share) * np.eye(3) + share / 3
    expected = -(targets * np.asarray(CLASS_LOGITS)).sum(axis=1).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert metrics == classification_loss(CLASS_LOGITS, CLASSES, ones)[1]


def test_classes_of_no_weight_at_all_cost_nothing():
    loss, metrics = classification_loss(CLASS_LOGITS, CLASSES, jnp.zeros(3))
    assert loss == 0.0 and metrics["loss"] == (0.0, 0.0)


def test_a_smoothing_of_one_is_a_value_error():
    with pytest.raises(ValueError, match="label_smoothing 1.0 must be at least 0"):
        classification_loss(CLASS_LOGITS, CLASSES, jnp.ones(3), label_smoothing=1.0)


def test_classes_and_examples_that_do_not_match_are_refused():
    with pytest.raises(AssertionError):
        classification_loss(CLASS_LOGITS, CLASSES[:, None], jnp.ones((3, 1)))
    with pytest.raises(AssertionError):
        classification_loss(CLASS_LOGITS, CLASSES, jnp.ones(1))
