"""Loss of a phase picker, and how often the sample that it likes best is right.

Shapes use B batch, N samples. The last axis holds P, S and noise. Metrics are (sum,
count) pairs, which add up over devices, microbatches and ragged last batches.
"""

import chex
import jax
import jax.numpy as jnp


def picking_loss(logits, targets, weights=None):
    """Cross-entropy with soft targets, averaged over the samples of each example.

    -1/N sum_n sum_k targets[n, k] log softmax(logits[n])[k], in nats.

    Args:
        logits: [B, N, 3].
        targets: [B, N, 3], rows that add up to 1.
        weights: [B], what each example's loss is multiplied by; None for 1.

    Returns:
        float32 [B].
    """
    chex.assert_rank([logits, targets], 3)
    chex.assert_equal_shape([logits, targets])
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    entropy = -jnp.sum(targets.astype(jnp.float32) * log_probabilities, axis=-1)
    loss = jnp.mean(entropy, axis=-1)
    if weights is None:
        return loss
    chex.assert_equal_shape([loss, weights])
    return loss * weights.astype(jnp.float32)


def pick_hits(probabilities, p_sample, s_sample, sampling_rate, tolerance):
    """How many arrivals have the largest probability of their window close by.

    Args:
        probabilities: [B, N, 3], or logits less their log-sum-exp.
        p_sample, s_sample: [B], sample of the arrival; negative where there is none in
            the window.
        sampling_rate: Hz.
        tolerance: s; an arrival is hit at that distance or less.

    Returns:
        Metrics "p_hit_<tolerance>" and "s_hit_<tolerance>", each (sum, count) over the
        examples that have the arrival.
    """
    chex.assert_rank(probabilities, 3)
    chex.assert_rank([p_sample, s_sample], 1)
    metrics = {}
    # A tolerance of a whole number of samples is not lost to rounding.
    reach = tolerance * sampling_rate + 1e-3
    for phase, (name, sample) in enumerate((("p", p_sample), ("s", s_sample))):
        picked = jnp.argmax(probabilities[..., phase], axis=1)
        there = (sample >= 0).astype(jnp.float32)
        hit = (jnp.abs(picked - sample) <= reach).astype(jnp.float32)
        metrics[f"{name}_hit_{tolerance:g}"] = jnp.sum(hit * there), jnp.sum(there)
    return metrics
