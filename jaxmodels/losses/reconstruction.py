"""Loss of a reconstruction of hidden frames, and two predictions that need no model.

A frame is `size` samples of all components, its patch: frame t holds the samples
size t to size t + size - 1. Patches are compared in a unit of their own,

    (x - mean) / sqrt(variance + 0.01)

with mean and variance over the numbers of the true patch (He et al., 2022, section 3,
for images), so that 0 predicts the mean and a loss of 1 is its error wherever the
waveform, of standard deviation 1, is not nearly silent.

Shapes use B batch, N samples, C components, T frames, P = size C numbers of a patch,
D width.
"""

import chex
import jax
import jax.numpy as jnp

TARGETS = ("raw", "tokens_sg", "tokens")
FLOOR = 1e-2


def patches(waveform, size=4):
    """Frames of [B, N, C] as [B, T, P], a sample's components next to each other.

    Raises:
        ValueError: N is not a whole number of frames.
    """
    batch, samples, channels = waveform.shape
    if samples % size:
        raise ValueError(
            f"{samples} samples are no whole number of frames of {size}; "
            f"try {samples - samples % size or size}"
        )
    return waveform.reshape(batch, samples // size, size * channels)


def normalized_patches(waveform, size=4, *, of=None):
    """Patches in their own unit, float32 [B, T, P].

    Args:
        waveform: [B, N, C].
        size: samples of a frame.
        of: the waveform [B, N, C] whose patches set the unit; None is `waveform`.
    """
    wide = patches(waveform.astype(jnp.float32), size)
    unit = wide if of is None else patches(of.astype(jnp.float32), size)
    mean = unit.mean(axis=-1, keepdims=True)
    variance = jnp.square(unit - mean).mean(axis=-1, keepdims=True)
    return (wide - mean) * jax.lax.rsqrt(variance + FLOOR)


def reconstruction_target(kind, waveform, tokens, size=4):
    """What hidden frames are compared with.

    Args:
        kind: "raw" is the patches in their own unit; "tokens" is what the encoder
            makes of the frames, which learns to make them all alike; "tokens_sg" the
            same without a gradient.
        waveform: [B, N, C].
        tokens: [B, T, D].
        size: samples of a frame.

    Returns:
        float32 [B, T, P] or [B, T, D].

    Raises:
        ValueError: no target has that name.
    """
    if kind not in TARGETS:
        raise ValueError(f"unknown target {kind!r}; choose one of {', '.join(TARGETS)}")
    if kind == "raw":
        return normalized_patches(waveform, size)
    tokens = tokens.astype(jnp.float32)
    return jax.lax.stop_gradient(tokens) if kind == "tokens_sg" else tokens


def reconstruction_loss(predicted, target, span_mask):
    """Mean square error of the hidden frames of each row.

    Args:
        predicted, target: [B, T, P].
        span_mask: bool [B, T], the frames that count.

    Returns:
        The sum over these frames of the mean square of their numbers, and how many they
        are; each float32 [B].
    """
    chex.assert_rank([predicted, target, span_mask], [3, 3, 2])
    chex.assert_equal_shape([predicted, target])
    chex.assert_equal_shape_prefix([predicted, span_mask], 2)
    error = predicted.astype(jnp.float32) - target.astype(jnp.float32)
    square = jnp.square(error).mean(axis=-1)
    return jnp.where(span_mask, square, 0.0).sum(axis=-1), _count(span_mask)


def scored_frames(span_mask):
    """The hidden frames that no visible frame sees into, bool [B, T].

    The frame after reads three samples back. So the last frame of each span is left
    out, unless it is the last of the window.
    """
    after = jnp.pad(span_mask[:, 1:], ((0, 0), (0, 1)), constant_values=True)
    return span_mask & after


def mean_baseline(waveform, span_mask, size=4):
    """Error of predicting the mean of each patch, as `reconstruction_loss` counts it.

    Args:
        waveform: [B, N, C].
        span_mask: bool [B, T], the frames that count.
        size: samples of a frame.
    """
    target = normalized_patches(waveform, size)
    return reconstruction_loss(jnp.zeros_like(target), target, span_mask)


def interpolation_baseline(waveform, span_mask, scored=None, size=4):
    """Error of a straight line across each span, as `reconstruction_loss` counts it.

    Each component runs from its last sample before the span to its first one after it,
    and stays level where the span reaches an end of the window. In a window without a
    visible frame it is 0.

    Args:
        waveform: [B, N, C].
        span_mask: bool [B, T], the frames that are hidden.
        scored: bool [B, T], those of them that count; None is all.
        size: samples of a frame.
    """
    hidden = jnp.repeat(span_mask, size, axis=1)
    line = normalized_patches(interpolated(waveform, hidden), size, of=waveform)
    scored = span_mask if scored is None else scored
    return reconstruction_loss(line, normalized_patches(waveform, size), scored)


def interpolated(waveform, hidden):
    """[B, N, C] with a straight line across the samples `hidden`, bool [B, N]."""
    chex.assert_equal_shape_prefix([waveform, hidden], 2)
    samples = waveform.shape[1]
    place = jnp.arange(samples)
    before = jax.lax.cummax(jnp.where(hidden, -1, place), axis=1)
    after = jax.lax.cummin(jnp.where(hidden, samples, place), axis=1, reverse=True)
    nothing = (before < 0) & (after == samples)
    before, after = (
        jnp.where(before < 0, after, before),
        jnp.where(after == samples, before, after),
    )
    share = (place - before) / jnp.maximum(after - before, 1)
    wide = waveform.astype(jnp.float32)
    first, last = (
        jnp.take_along_axis(wide, jnp.clip(x, 0, samples - 1)[..., None], axis=1)
        for x in (before, after)
    )
    line = first + share[..., None] * (last - first)
    return jnp.where(nothing[..., None], 0.0, line)


def token_spread(tokens):
    """Standard deviation of each column of the tokens, averaged, float32 [].

    Near 0 the encoder makes all frames alike.

    Args:
        tokens: [B, T, D].
    """
    wide = tokens.astype(jnp.float32).reshape(-1, tokens.shape[-1])
    return jnp.sqrt(jnp.square(wide - wide.mean(axis=0)).mean(axis=0)).mean()


def _count(mask):
    return mask.sum(axis=-1).astype(jnp.float32)
