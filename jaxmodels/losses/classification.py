"""Cross entropy over tokens, and what models of text report.

Shapes use B batch, T length, V vocabulary. Metrics are (sum, count) pairs, which add
up over devices, microbatches and ragged last batches.
"""

import chex
import jax
import jax.numpy as jnp
import optax

LN_2 = 0.6931471805599453


def token_cross_entropy(logits, targets):
    """Negative log-likelihood of each target in nats, float32 [B, T].

    Args:
        logits: [B, T, V], or any other axes before the last.
        targets: int [B, T], in [0, V).
    """
    chex.assert_rank(logits, targets.ndim + 1)
    chex.assert_equal_shape_prefix([logits, targets], targets.ndim)
    return optax.softmax_cross_entropy_with_integer_labels(
        logits.astype(jnp.float32), targets
    )


def language_model_loss(
    logits, targets, weights, target_bytes=None, label_smoothing=0.0
):
    """Mean loss of the weighted tokens, and its metrics.

    Args:
        logits: [B, T, V].
        targets: int [B, T].
        weights: [B, T]; 0 leaves a token out.
        target_bytes: [B, T], bytes of text that each target stands for.
        label_smoothing: as in `classification_loss`.

    Returns:
        The loss in nats a token, float32 [], and the metrics "loss" (nats a token,
        never smoothed), "accuracy" and, with `target_bytes`, "bits_per_byte". All are 0
        with count 0 where no token has a weight.

    Raises:
        ValueError: `label_smoothing` is out of its range.
    """
    chex.assert_rank([logits, targets], [3, 2])
    mean, metrics = _weighted_loss(logits, targets, weights, label_smoothing)
    if target_bytes is not None:
        chex.assert_equal_shape([targets, target_bytes])
        num_bytes = jnp.sum(target_bytes.astype(jnp.float32) * weights)
        metrics["bits_per_byte"] = metrics["loss"][0] / LN_2, num_bytes
    return mean, metrics


def classification_loss(logits, targets, weights, *, label_smoothing=0.0):
    """Mean loss of the weighted examples, and its metrics.

    Args:
        logits: [B, N], of N classes.
        targets: int [B], in [0, N).
        weights: [B]; 0 leaves an example out.
        label_smoothing: epsilon of Szegedy et al. (2016), section 7, in [0, 1): the
            share of each target's probability that goes to all classes alike.

    Returns:
        The loss in nats an example, float32 [], and the metrics "loss" (nats, never
        smoothed) and "accuracy". All are 0 with count 0 where no example has a weight.

    Raises:
        ValueError: `label_smoothing` is out of its range.
    """
    chex.assert_rank([logits, targets], [2, 1])
    return _weighted_loss(logits, targets, weights, label_smoothing)


def sequence_loss(logits, targets, weights, target_bytes=None, label_smoothing=0.0):
    """Loss of target sequences given their beginnings, and its metrics.

    Args:
        logits, targets, weights, target_bytes, label_smoothing: as in
            `language_model_loss`.

    Returns:
        The loss of `language_model_loss` and its metrics, the accuracy by the name
        "token_accuracy", and "sequence_accuracy", the share of rows in which every
        weighted token is right. Rows without a weight do not count.

    Raises:
        ValueError: `label_smoothing` is out of its range.
    """
    loss, metrics = language_model_loss(
        logits, targets, weights, target_bytes, label_smoothing
    )
    metrics["token_accuracy"] = metrics.pop("accuracy")
    weighted = weights > 0
    wrong = (jnp.argmax(logits, axis=-1) != targets) & weighted
    present = jnp.any(weighted, axis=-1).astype(jnp.float32)
    right = present * ~jnp.any(wrong, axis=-1)
    metrics["sequence_accuracy"] = jnp.sum(right), jnp.sum(present)
    return loss, metrics


def _weighted_loss(logits, targets, weights, label_smoothing):
    """Smoothed mean loss [], and "loss" and "accuracy", over any leading shape."""
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(
            f"label_smoothing {label_smoothing} must be at least 0 and below 1"
        )
    chex.assert_equal_shape([targets, weights])
    nll = token_cross_entropy(logits, targets)
    weights = weights.astype(jnp.float32)
    correct = (jnp.argmax(logits, axis=-1) == targets).astype(jnp.float32)
    count = jnp.sum(weights)
    metrics = {
        "loss": (jnp.sum(nll * weights), count),
        "accuracy": (jnp.sum(correct * weights), count),
    }
    if label_smoothing:
        uniform = -jnp.mean(jax.nn.log_softmax(logits.astype(jnp.float32)), axis=-1)
        nll = (1.0 - label_smoothing) * nll + label_smoothing * uniform
    mean = jnp.sum(nll * weights) / jnp.where(count > 0, count, 1.0)
    return mean, metrics
