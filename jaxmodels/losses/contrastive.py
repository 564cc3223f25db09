"""Telling the quantized frame behind a mask from other hidden frames of its row.

Baevski et al. (2020), eq. 3 (contrastive loss) and eq. 4 (diversity loss).

Shapes use B batch, T frames, K negatives, P projection width, G groups, V codes a
group. Sums are of each row, so that rows can be weighted; (sum, count) pairs add up
over devices, microbatches and ragged last batches.
"""

import chex
import flax
import jax
import jax.numpy as jnp

FRAMES = ("masked", "valid")
EPSILON = 1e-8  # the least norm of a cosine
TINY = 1.2e-38  # the least normal float32


@flax.struct.dataclass
class ContrastiveSums:
    """Of the hidden frames of each row, float32 [B] each.

    Attributes:
        loss: sum of the cross-entropies, nats.
        correct: frames whose target is nearer to the prediction than every negative
            that counts. A frame without such a negative is none of them: codes that
            have collapsed are no success.
        negatives: sum over frames of the negatives that count, at most K a frame.
        count: hidden frames.
    """

    loss: jax.Array
    correct: jax.Array
    negatives: jax.Array
    count: jax.Array


def sample_negatives(rng, span_mask, num_negatives):
    """For each hidden frame, other hidden frames of its row.

    Args:
        rng: PRNG key.
        span_mask: bool [B, T], True is hidden.
        num_negatives: K.

    Returns:
        int32 [B, T, K], drawn uniformly with replacement, never the frame itself. What
        stands at frames that are not hidden is of no use. In a row with a single hidden
        frame it is that frame; its codes are the target's, so that the loss drops it.
    """
    chex.assert_rank(span_mask, 2)
    batch, frames = span_mask.shape
    total = span_mask.sum(axis=-1, dtype=jnp.int32)[:, None, None]
    rank = jnp.cumsum(span_mask, axis=-1, dtype=jnp.int32)[..., None] - 1
    # Ranks among the others, then a step over the frame's own.
    draws = jax.random.uniform(rng, (batch, frames, num_negatives))
    others = jnp.maximum(total - 1, 1)
    drawn = jnp.minimum((draws * others).astype(jnp.int32), others - 1)
    drawn = jnp.minimum(drawn + (drawn >= rank), jnp.maximum(total - 1, 0))
    # Stable: hidden frames first, in their order.
    hidden = jnp.argsort(~span_mask, axis=-1, stable=True).astype(jnp.int32)
    flat = drawn.reshape(batch, frames * num_negatives)
    return jnp.take_along_axis(hidden, flat, axis=-1).reshape(drawn.shape)


def contrastive_loss(
    predicted, target, codes, negatives, span_mask, *, temperature=0.1
):
    """Cross-entropy of the own target among negatives, by their cosines.

    A negative whose codes are those of the target is left out. Codes are compared, not
    vectors: equal vectors may differ in their last bit. All cosines of a row are one
    matrix product, from which those of the negatives are read, so that memory is that
    of T (T + K) numbers a row instead of T K P.

    Args:
        predicted, target: [B, T, P].
        codes: int [B, T, G], of the targets.
        negatives: int [B, T, K], frames of the same row.
        span_mask: bool [B, T], the frames to count.
        temperature: that the cosines are divided by.

    Returns:
        `ContrastiveSums`. The gradient reaches predictions and targets alike.

    Raises:
        ValueError: a temperature that is not above 0.
    """
    if not temperature > 0.0:
        raise ValueError(f"temperature {temperature} must be above 0")
    chex.assert_rank([predicted, target, codes, negatives, span_mask], [3, 3, 3, 3, 2])
    chex.assert_equal_shape([predicted, target])
    chex.assert_equal_shape_prefix([predicted, codes, negatives, span_mask], 2)
    similarity = jnp.einsum(
        "BTP,BSP->BTS", _unit(predicted), _unit(target), precision="highest"
    )
    similarity /= temperature
    positive = jnp.diagonal(similarity, axis1=-2, axis2=-1)
    drawn = jax.vmap(lambda row, frames: row[frames])(codes, negatives)  # B T K G
    kept = (drawn != codes[:, :, None]).any(axis=-1)
    logits = jnp.take_along_axis(similarity, negatives, axis=-1)
    logits = jnp.where(kept, logits, -jnp.inf)
    every = jnp.concatenate([positive[..., None], logits], axis=-1)
    partition = jax.nn.logsumexp(every, axis=-1)
    correct = kept.any(axis=-1) & (positive > logits.max(axis=-1))

    def total(x):
        return jnp.sum(jnp.where(span_mask, x, 0.0), axis=-1)

    return ContrastiveSums(
        loss=total(partition - positive),
        correct=total(correct),
        negatives=total(kept.sum(axis=-1)),
        count=span_mask.sum(axis=-1, dtype=jnp.float32),
    )


def code_shares(probabilities, span_mask, *, over="masked", weights=None):
    """Mean probabilities of the codes, as a sum and a count.

    Args:
        probabilities: [B, T, G, V].
        span_mask: bool [B, T].
        over: "masked", the hidden frames (Baevski et al.); or "valid", all frames,
            which keeps more codes alive.
        weights: [B] or [B, T]; 0 leaves a row or a frame out.

    Returns:
        float32 [G, V] and float32 []; both add up over batches.

    Raises:
        ValueError: no such `over`.
    """
    if over not in FRAMES:
        raise ValueError(f"unknown over {over!r}; choose one of {', '.join(FRAMES)}")
    chex.assert_rank([probabilities, span_mask], [4, 2])
    chex.assert_equal_shape_prefix([probabilities, span_mask], 2)
    frames = span_mask if over == "masked" else jnp.ones_like(span_mask)
    frames = frames.astype(jnp.float32)
    if weights is not None:
        frames *= weights.reshape(*weights.shape, *(1,) * (2 - weights.ndim))
    total = jnp.einsum("BTGV,BT->GV", probabilities.astype(jnp.float32), frames)
    return total, frames.sum()


def perplexity(total, count):
    """Number of codes that are used alike, summed over groups: from G to G V.

    Args:
        total, count: of `code_shares`, of one batch or of many added up.

    Returns:
        float32 []: sum of exp(entropy) over groups; G where nothing was counted.
    """
    shares = total.astype(jnp.float32) / jnp.where(count > 0, count, 1.0)
    # The logarithm's gradient at 0 must not be infinite.
    entropy = -jnp.sum(shares * jnp.log(jnp.maximum(shares, TINY)), axis=-1)
    return jnp.exp(entropy).sum()


def diversity_loss(total, count):
    """(G V - perplexity) / (G V): 0 where all codes are used alike.

    Args:
        total, count: of `code_shares`.
    """
    return 1.0 - perplexity(total, count) / total.size


def code_usage(total, count, *, least=0.5):
    """Share of the codes whose mean probability is at least `least` / V.

    Args:
        total, count: of `code_shares`.
        least: above 0; a code that is used as often as all others has 1 / V.
    """
    shares = total / jnp.where(count > 0, count, 1.0)
    return jnp.mean(shares >= least / total.shape[-1])


def _unit(x):
    """Rows of length 1, float32; rows shorter than `EPSILON` stay shorter."""
    x = x.astype(jnp.float32)
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, EPSILON**2))
