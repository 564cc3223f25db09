"""Positions of tokens: learned, sinusoidal, rotary.

"sinusoidal_rotary" adds sinusoids to the embedding and turns queries and keys as
well; "none" leaves the order to causal attention.

Shapes use B batch, T length, D width, H heads, K head width.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

SCHEMES = ("learned", "sinusoidal", "rotary", "sinusoidal_rotary", "none")
# What a scheme does beside a trained table.
ADDS_SINUSOIDS = ("sinusoidal", "sinusoidal_rotary")
TURNS_HEADS = ("rotary", "sinusoidal_rotary")


def check_positions(scheme, embed_dim, head_dim):
    """Raises ValueError for an unknown scheme, or a width that it cannot pair."""
    if scheme not in SCHEMES:
        raise ValueError(
            f"unknown positions {scheme!r}; choose one of {', '.join(SCHEMES)}"
        )
    widths = []
    if scheme in ADDS_SINUSOIDS:
        widths.append(("embed_dim", embed_dim))
    if scheme in TURNS_HEADS:
        widths.append(("the head width head_dim", head_dim))
    for name, width in widths:
        if width % 2:
            raise ValueError(
                f"{name} is {width}, and {scheme} positions turn pairs of channels; "
                "make it even"
            )


def segment_positions(segment_ids):
    """Positions [B, T] that restart at 0 wherever `segment_ids` [B, T] changes."""
    index = jnp.arange(segment_ids.shape[1])
    changed = segment_ids[:, 1:] != segment_ids[:, :-1]
    starts = jnp.where(jnp.pad(changed, ((0, 0), (1, 0))), index, 0)
    return index - jax.lax.cummax(starts, axis=1)


def angles(positions, width, base):
    """position * base^(-2 i / width) for i < width / 2: float32 [..., width / 2].

    Raises:
        ValueError: `width` is odd.
    """
    if width % 2:
        raise ValueError(
            f"width {width} is odd, and positions turn pairs of channels; make it even"
        )
    frequencies = base ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    return positions[..., None].astype(jnp.float32) * frequencies


def sinusoidal_positions(positions, width, base=10_000.0):
    """Sines, then cosines, of geometric frequencies (Vaswani et al., 2017, 3.5).

    Args:
        positions: int [...].
        width: D, even.
        base: ratio of the longest to the shortest wavelength.

    Returns:
        float32 [..., D].
    """
    angle = angles(positions, width, base)
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def rotary(x, positions, base=10_000.0):
    """Turns channel pairs (2 i, 2 i + 1) by an angle that grows with the position.

    Inner products of turned queries and keys depend on the distance between their
    positions alone (Su et al., 2021, eq. 34).

    Args:
        x: [B, T, H, K], K even.
        positions: int [B, T].

    Returns:
        [B, T, H, K] in the dtype of `x`; the rotation itself is float32.
    """
    angle = angles(positions, x.shape[-1], base)[:, :, None]  # B T 1 K/2
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    even, odd = jnp.moveaxis(x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2), -1, 0)
    turned = [even * cosine - odd * sine, odd * cosine + even * sine]
    return jnp.stack(turned, axis=-1).reshape(x.shape).astype(x.dtype)


class LearnedPositions(nn.Module):
    """A trained vector for each of `max_length` positions: int [B, T] to [B, T, D].

    A position at or past `max_length` gives NaN rather than another one's vector.
    """

    max_length: int
    embed_dim: int
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, positions):
        table = self.param(
            "embedding",
            nn.initializers.normal(0.02),
            (self.max_length, self.embed_dim),
            jnp.dtype(self.param_dtype),
        )
        return jnp.take(table.astype(self.dtype), positions, axis=0, mode="fill")
