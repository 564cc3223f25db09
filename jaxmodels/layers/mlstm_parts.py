"""What the mLSTM block is made of: gates, convolution, diagonal maps, norms.

Shapes use B batch, T frames, I inner width, H heads, W width of the convolution, G
width of a diagonal block.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.normalization import layer_norm

EPSILON = 1e-5


def spaced(first, last):
    """An initializer of evenly spaced values."""

    def init(rng, shape, dtype=jnp.float32):
        return jnp.linspace(first, last, shape[0], dtype=dtype)

    return init


# The biases that the heads' gates start with. Forget gates before the sigmoid: memories
# of about twenty to four hundred tokens.
GATE_STARTS = {
    "input_gate": nn.initializers.normal(0.1),
    "forget_gate": spaced(3.0, 6.0),
}


class Gate(nn.Module):
    """A float32 number a head, linear in queries, keys and values; starts constant.

    Attributes:
        num_heads: H.
        start: initializer of the bias.
        soft_cap: c of c tanh(gate / c); None is no cap.
    """

    num_heads: int
    start: Callable
    soft_cap: float | None = None
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, mixed, wide, *, query, key, value):
        """The gate of [query, key, value] of these two [B, T, I] as [B, T, H].

        The block-diagonal matrices enter the kernel, so that no row of queries, keys
        and values is made for it: on a CPU that took a quarter of the block's time.

        Args:
            mixed: what `query` and `key` are taken of.
            wide: what `value` is taken of.
            query, key, value: [I / G, G, G], the matrices.
        """
        width, dtype = mixed.shape[-1], jnp.dtype(self.param_dtype)
        shape = 3 * width, self.num_heads
        kernel = self.param("kernel", nn.initializers.zeros, shape, dtype)
        bias = self.param("bias", self.start, (self.num_heads,), dtype)
        kernel, bias = kernel.astype(jnp.float32), bias.astype(jnp.float32)
        rows = kernel.reshape(3, *query.shape[:2], self.num_heads)
        matrices = jnp.stack([query, key, value]).astype(jnp.float32)
        rows = jnp.einsum("ANGO,ANOH->ANGH", matrices, rows)
        rows = rows.reshape(3, width, self.num_heads)
        gate = mixed.astype(jnp.float32) @ (rows[0] + rows[1])
        gate += wide.astype(jnp.float32) @ rows[2] + bias
        if self.soft_cap is None:
            return gate
        return self.soft_cap * jnp.tanh(gate / self.soft_cap)


class CausalConv(nn.Module):
    """Depthwise convolution over each frame and the `size` - 1 before it.

    Attributes:
        size: W.
    """

    size: int
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, x, before=None, segment_ids=None):
        """Filters [B, T, I].

        Args:
            before: [B, W - 1, I], the frames before x; None is zeros.
            segment_ids: int [B, T]; frames of another run of equal ids count as zeros.
        """
        width = x.shape[-1]
        start = symmetric_uniform(self.size**-0.5)
        dtype = jnp.dtype(self.param_dtype)
        kernel = self.param("kernel", start, (self.size, width), dtype)
        bias = self.param("bias", start, (width,), dtype)
        kernel, bias = kernel.astype(self.dtype), bias.astype(self.dtype)
        reach, length = self.size - 1, x.shape[1]
        if before is None:
            before = jnp.zeros_like(x, shape=(x.shape[0], reach, width))
        padded = jnp.concatenate([before.astype(x.dtype), x], axis=1)
        run = None if segment_ids is None else _runs(segment_ids)
        out = x * kernel[-1] + bias
        for back in range(1, self.size):
            earlier = padded[:, reach - back : reach - back + length]
            if run is not None:
                # Before the first run there is nothing: it has number 0.
                there = jnp.pad(run, ((0, 0), (back, 0)))[:, :length]
                earlier = jnp.where((there == run)[..., None], earlier, 0)
            out += earlier * kernel[-1 - back]
        return out


class BlockDiagonal(nn.Module):
    """The matrices of a linear map of each G neighboring channels to as many.

    Attributes:
        size: G.
        spread: standard deviation of the initial entries.
    """

    size: int
    spread: float
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, width):
        """[I / G, G, G] for I = `width`."""
        shape = width // self.size, self.size, self.size
        init = nn.initializers.normal(self.spread)
        return self.param("kernel", init, shape, jnp.dtype(self.param_dtype))


@jax.custom_vjp
def block_diagonal(x, matrices):
    """[..., I] times the matrices [I / G, G, G] on its diagonal, in the dtype of x.

    They are so small that the product is one of numbers: a CPU takes half the time of
    a batched one.
    """
    blocks, size, _ = matrices.shape
    parts = x.reshape(*x.shape[:-1], blocks, size)
    rows = [
        parts[..., row, None] * matrices[:, row].astype(x.dtype) for row in range(size)
    ]
    return functools.reduce(jnp.add, rows).reshape(x.shape)


def _block_diagonal_forward(x, matrices):
    return block_diagonal(x, matrices), (x, matrices)


def _block_diagonal_backward(kept, gradient):
    x, matrices = kept
    d_x = block_diagonal(gradient, matrices.swapaxes(1, 2))
    blocks, size, _ = matrices.shape
    parts, gradient = (y.reshape(-1, blocks, size) for y in (x, gradient))
    # A sum of products would be computed with all that made x inside it, G^2 times.
    d_matrices = jnp.einsum(
        "TNG,TNO->NGO", parts, gradient, preferred_element_type=jnp.float32
    )
    return d_x, d_matrices.astype(matrices.dtype)


block_diagonal.defvjp(_block_diagonal_forward, _block_diagonal_backward)


class ScaleNorm(nn.Module):
    """Layer normalization of each of `groups` equal parts, with a scale and no bias.

    Attributes:
        groups: parts of the width, normalized alone; 1 is layer normalization.
    """

    dtype: str = "float32"
    param_dtype: str = "float32"
    groups: int = 1

    @nn.compact
    def __call__(self, x):
        scale = self.param(
            "scale", nn.initializers.ones, x.shape[-1:], jnp.dtype(self.param_dtype)
        )
        scale = scale.reshape(self.groups, -1)
        parts = x.reshape(*x.shape[:-1], *scale.shape)
        norm = jax.vmap(layer_norm, (-2, 0, 0, None), -2)
        out = norm(parts, scale, jnp.zeros_like(scale), EPSILON)
        return out.reshape(x.shape).astype(self.dtype)


def symmetric_uniform(bound):
    """An initializer of values uniform from -bound to bound."""

    def init(rng, shape, dtype=jnp.float32):
        return jax.random.uniform(rng, shape, dtype, -bound, bound)

    return init


def _runs(segment_ids):
    """int [B, T], the number of the run of equal ids that a frame is in, from 1."""
    changes = segment_ids[:, 1:] != segment_ids[:, :-1]
    return 1 + jnp.pad(jnp.cumsum(changes, axis=1), ((0, 0), (1, 0)))
