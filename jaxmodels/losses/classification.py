"""Cross entropy over tokens, and what a language model reports.

Shapes use B batch, T length, V vocabulary. Metrics are (sum, count) pairs, which add
up over devices, microbatches and ragged last batches.
"""

import chex
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
