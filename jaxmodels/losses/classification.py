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
        logits: [B, T, V].
        targets: int [B, T], in [0, V).
    """
    chex.assert_rank([logits, targets], [3, 2])
    chex.assert_equal_shape_prefix([logits, targets], 2)
    return optax.softmax_cross_entropy_with_integer_labels(
        logits.astype(jnp.float32), targets
    )


def language_model_loss(logits, targets, weights, target_bytes=None):
    """Mean loss of the weighted tokens, and its metrics.

    Args:
        logits: [B, T, V].
        targets: int [B, T].
        weights: [B, T]; 0 leaves a token out.
        target_bytes: [B, T], bytes of text that each target stands for.

    Returns:
        The loss in nats a token, float32 [], and the metrics "loss" (nats a token),
        "accuracy" and, with `target_bytes`, "bits_per_byte". All are 0 with count 0
        where no token has a weight.
    """
    chex.assert_equal_shape([targets, weights])
    nll = token_cross_entropy(logits, targets)
    weights = weights.astype(jnp.float32)
    correct = (jnp.argmax(logits, axis=-1) == targets).astype(jnp.float32)
    nats, tokens = jnp.sum(nll * weights), jnp.sum(weights)
    metrics = {
        "loss": (nats, tokens),
        "accuracy": (jnp.sum(correct * weights), tokens),
    }
    if target_bytes is not None:
        chex.assert_equal_shape([targets, target_bytes])
        num_bytes = jnp.sum(target_bytes.astype(jnp.float32) * weights)
        metrics["bits_per_byte"] = nats / LN_2, num_bytes
    mean = nats / jnp.where(tokens > 0, tokens, 1.0)
    return mean, metrics


def classification_loss(logits, targets, weights, *, label_smoothing=0.0):
    """Mean loss of the weighted examples, and its metrics.

    Args:
        logits: [B, N], of N classes.
        targets: int [B], in [0, N).
        weights: [B]; 0 leaves an example out.
        label_smoothing: share of the target that all classes have equally (Szegedy et
            al., 2016, section 7).

    Returns:
        The loss in nats an example, float32 [], and the metrics "loss" (nats, without
        the smoothing) and "accuracy". All are 0 with count 0 where no example has a
        weight.
    """
    chex.assert_rank([logits, targets], [2, 1])
    chex.assert_equal_shape([targets, weights])
    chex.assert_equal_shape_prefix([logits, targets], 1)
    _check_smoothing(label_smoothing)
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    nll = -jnp.take_along_axis(log_probs, targets[:, None], axis=1)[:, 0]
    smoothed = (1.0 - label_smoothing) * nll - label_smoothing * log_probs.mean(axis=1)
    weights = weights.astype(jnp.float32)
    correct = (jnp.argmax(logits, axis=1) == targets).astype(jnp.float32)
    count = jnp.sum(weights)
    metrics = {
        "loss": (jnp.sum(nll * weights), count),
        "accuracy": (jnp.sum(correct * weights), count),
    }
    return jnp.sum(smoothed * weights) / jnp.where(count > 0, count, 1.0), metrics


def sequence_loss(logits, targets, weights, target_bytes=None, label_smoothing=0.0):
    """Loss of target sequences given their beginnings, and its metrics.

    Args:
        logits, targets, weights, target_bytes: as in `language_model_loss`.
        label_smoothing: epsilon of Szegedy et al. (2016), section 7, in [0, 1): the
            share of each target's probability that goes to all V tokens alike.

    Returns:
        The mean loss of the weighted tokens, float32 [], smoothed where that is asked
        for, and the metrics "loss" (nats a token, never smoothed), "token_accuracy",
        "sequence_accuracy" (the share of rows in which every weighted token is right)
        and, with `target_bytes`, "bits_per_byte". Rows without a weight do not count.

    Raises:
        ValueError: `label_smoothing` is out of its range.
    """
    _check_smoothing(label_smoothing)
    loss, metrics = language_model_loss(logits, targets, weights, target_bytes)
    metrics["token_accuracy"] = metrics.pop("accuracy")
    weighted = weights > 0
    wrong = (jnp.argmax(logits, axis=-1) != targets) & weighted
    present = jnp.any(weighted, axis=-1).astype(jnp.float32)
    right = present * ~jnp.any(wrong, axis=-1)
    metrics["sequence_accuracy"] = jnp.sum(right), jnp.sum(present)
    if label_smoothing:
        tokens = metrics["loss"][1]
        uniform = -jnp.mean(jax.nn.log_softmax(logits.astype(jnp.float32)), axis=-1)
        flat = jnp.sum(uniform * weights) / jnp.where(tokens > 0, tokens, 1.0)
        loss = (1.0 - label_smoothing) * loss + label_smoothing * flat
    return loss, metrics


def _check_smoothing(share):
    if not 0.0 <= share < 1.0:
        raise ValueError(f"label_smoothing {share} must be at least 0 and below 1")
