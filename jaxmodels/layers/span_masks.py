"""Random spans of frames to hide, for learning to tell what is behind them.

Three rules, each under jit, and the first in numpy as well:

- "wav2vec2": spans that may overlap, at starts drawn without replacement (Baevski et
  al., 2020, section 3.1, in the form that counts spans: p L / M of them). Overlap makes
  the coverage smaller than p; `expected_coverage` says by how much.
- "exact": round(p L / M) spans that do not overlap, so that every draw hides the same
  number of frames; the arrangement turns around a ring, so that every frame is as
  likely to be hidden.
- "seed_literal": p (L - M) starts instead of p (L - M) / M, as one published recipe for
  reconstruction says. At p = .75 it hides 99.8 % of the frames; it is here to show it.

A mask of features is the same thing along another axis. True is hidden.

Shapes use B batch, T frames (L of them), M frames a span.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

RULES = ("wav2vec2", "exact", "seed_literal")


def mask_spans(
    rng, batch_size, length, *, rule, mask_prob, mask_length, min_masks=0, lengths=None
):
    """Draws the frames to hide.

    Args:
        rng: PRNG key.
        batch_size: B.
        length: T.
        rule: one of `RULES`.
        mask_prob: p, in [0, 1].
        mask_length: M, at least 1 and at most `length`.
        min_masks: least number of spans in a row, as far as they fit; only with rule
            "wav2vec2".
        lengths: int [B], frames that are there, from the first on; all when omitted.
            None beyond is hidden, and a row shorter than a span has none.

    Returns:
        bool [B, T].

    Raises:
        ValueError: no such rule, or numbers out of their range.
    """
    _check(rule, length, mask_prob, mask_length, min_masks)
    place, choose = jax.random.split(rng)
    length = int(length)
    frames = length if lengths is None else jnp.asarray(lengths)
    counts = _num_spans(choose, frames, length, rule, mask_prob, mask_length, min_masks)
    if rule == "exact":
        slots = length if lengths is not None else length - counts * (mask_length - 1)
    else:
        slots = length - mask_length + (rule == "wav2vec2")
    frames = jnp.broadcast_to(frames, (batch_size,))
    counts = jnp.broadcast_to(counts, (batch_size,))
    if rule == "exact":
        return _arranged(place, counts, frames, slots, length, mask_length)
    starts = _subset(place, counts, frames - length + slots, slots)
    return _covered(jnp.pad(starts, ((0, 0), (0, length - slots))), mask_length)


def wav2vec2_spans(
    rng, shape, mask_prob, mask_length, min_masks=0, attention_mask=None
):
    """The rule "wav2vec2" in numpy, equal draw for draw to the one of `transformers`.

    That one is `_compute_mask_indices` of its wav2vec 2.0, which draws from numpy's
    global state: with `numpy.random.seed(n)` there and `RandomState(n)` here both give
    the same bits. Rows without room for a span hide their last frame there, which is
    padding, and so they do here.

    Args:
        rng: `numpy.random.RandomState`.
        shape: B and T.
        mask_prob, mask_length, min_masks: as in `mask_spans`.
        attention_mask: bool or int [B, T], frames that are there, from the first on.

    Returns:
        bool [B, T].

    Raises:
        ValueError: numbers out of their range.
    """
    batch_size, length = shape
    _check("wav2vec2", length, mask_prob, mask_length, min_masks)
    fraction = rng.rand(1).item()

    def num_spans(frames):
        wanted = max(int(mask_prob * frames / mask_length + fraction), min_masks)
        return max(0, min(wanted, length // mask_length, frames - mask_length + 1))

    lengths = np.full(batch_size, length)
    if attention_mask is not None:
        lengths = np.asarray(attention_mask).astype(int).sum(axis=-1)
    most = num_spans(length)
    mask = np.zeros(shape, bool)
    if most == 0:
        return mask
    for row, frames in zip(mask, lengths.tolist(), strict=True):
        count = num_spans(frames)
        starts = rng.choice(np.arange(frames - mask_length + 1), count, replace=False)
        if count == 0:
            starts = np.array([length - 1])
        hidden = starts[:, None] + np.arange(mask_length)
        row[np.minimum(hidden, length - 1)] = True
    return mask


def expected_coverage(length, *, rule="wav2vec2", mask_prob, mask_length, min_masks=0):
    """Share of the frames of a full row that `mask_spans` hides on average.

    Args:
        length, rule, mask_prob, mask_length, min_masks: as in `mask_spans`.

    Returns:
        A float, exact but for rounding.

    Raises:
        ValueError: as `mask_spans`.
    """
    _check(rule, length, mask_prob, mask_length, min_masks)
    if rule == "exact":
        count = _num_spans(None, length, length, rule, mask_prob, mask_length, 0)
        return count * mask_length / length
    if rule == "seed_literal":
        places = length - mask_length
        return _union(length, places, int(mask_prob * places), mask_length)
    mean = mask_prob * length / mask_length
    below = math.floor(mean)
    coverage = 0.0
    for count, share in ((below, 1.0 - mean + below), (below + 1, mean - below)):
        count = min(max(count, min_masks), length // mask_length)
        places = length - mask_length + 1
        coverage += share * _union(length, places, count, mask_length)
    return coverage


def _union(length, places, count, span):
    """Mean coverage by spans at `count` of `places` starts, without replacement."""
    frames = np.arange(length)
    covering = np.minimum(frames, places - 1) - np.maximum(frames - span + 1, 0) + 1
    covering = np.maximum(covering, 0)
    hidden = 0.0
    for starts, number in zip(*np.unique(covering, return_counts=True), strict=True):
        free = 1.0
        for i in range(count):
            free *= max(places - starts - i, 0) / (places - i)
        hidden += number * (1.0 - free)
    return float(hidden / length)


def _check(rule, length, mask_prob, mask_length, min_masks):
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}; choose one of {', '.join(RULES)}")
    if not 0.0 <= mask_prob <= 1.0:
        raise ValueError(f"mask_prob {mask_prob} must be in [0, 1]")
    if not 1 <= mask_length <= length:
        raise ValueError(
            f"mask_length {mask_length} must be at least 1 and at most the {length} "
            "frames; take shorter spans or longer windows"
        )
    if min_masks < 0:
        raise ValueError(f"min_masks {min_masks} must be at least 0")
    if min_masks and rule != "wav2vec2":
        raise ValueError(f"min_masks {min_masks} is of rule 'wav2vec2', not {rule!r}")


def _num_spans(rng, frames, length, rule, mask_prob, mask_length, min_masks):
    """Spans of rows of `frames`, an int or int [B], which no length makes negative."""
    xp = np if isinstance(frames, int) else jnp
    mean = mask_prob * frames / mask_length
    if rule == "exact":
        counts = xp.minimum(xp.round(mean).astype(np.int32), frames // mask_length)
        return int(counts) if isinstance(frames, int) else counts
    if rule == "seed_literal":
        counts = xp.floor(mask_prob * (frames - mask_length)).astype(np.int32)
        return xp.maximum(counts, 0)
    # One fraction for all rows, as `wav2vec2_spans` has it.
    counts = jnp.floor(mean + jax.random.uniform(rng)).astype(jnp.int32)
    counts = jnp.minimum(jnp.maximum(counts, min_masks), length // mask_length)
    return jnp.minimum(counts, xp.maximum(frames - mask_length + 1, 0))


def _subset(rng, counts, free, slots):
    """Which `counts` of the first `free` slots a row draws: int [B] to bool [B, slots].

    By ranks, not by a threshold: two equal random numbers would change the count.
    """
    batch, places = counts.shape[0], jnp.arange(slots)
    draws = jax.random.uniform(rng, (batch, slots))
    draws = jnp.where(places < free[:, None], draws, 2.0)
    order = jnp.argsort(draws, axis=-1)
    rows = jnp.arange(batch)[:, None]
    chosen = jnp.zeros((batch, slots), bool)
    return chosen.at[rows, order].set(places < counts[:, None])


def _covered(starts, span):
    """Frames within `span` of a start, itself among them; bool [B, T] both."""
    total = jnp.cumsum(starts.astype(jnp.int32), axis=-1)
    before = jnp.pad(total, ((0, 0), (span, 0)))[:, : total.shape[-1]]
    return total > before


def _arranged(rng, counts, frames, slots, length, span):
    """Spans that do not overlap, at random on the ring of the frames of each row."""
    arrange, turn = jax.random.split(rng)
    single = frames - counts * span
    taken = _subset(arrange, counts, single + counts, slots)
    widths = jnp.where(taken, span, jnp.arange(slots) < (single + counts)[:, None])
    starts = jnp.cumsum(widths, axis=-1) - widths
    rows = jnp.arange(counts.shape[0])[:, None]
    flags = jnp.zeros((counts.shape[0], length), bool)
    flags = flags.at[rows, jnp.where(taken, starts, length)].set(True, mode="drop")
    ring = jnp.maximum(frames, 1)[:, None]
    places = jnp.arange(length)
    offset = jax.random.randint(turn, ring.shape, 0, ring)
    turned = jnp.take_along_axis(
        _covered(flags, span), jnp.mod(places - offset, ring), axis=-1
    )
    return turned & (places < frames[:, None])
