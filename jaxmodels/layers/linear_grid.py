"""How a scan walks over a length: reading and writing one chunk of it at a time.

Shapes use B batch, L length, H heads, K head width, C tokens of a chunk.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Grid(NamedTuple):
    """How the steps of a scan cover a length, without a copy of it for padding.

    A step that would pass the end starts earlier (as `dynamic_slice` does by itself)
    and leaves out the tokens of the steps before it: those that are not `fresh`.
    """

    length: int
    size: int
    steps: int


def compute_dtype(*arrays):
    """The accumulation dtype of these arrays: float32, or float64 for float64."""
    return jnp.promote_types(jnp.result_type(*arrays), jnp.float32)


def fresh(grid, index):
    """bool [C], the tokens that no step before took; None where that is all of them."""
    if grid.steps * grid.size == grid.length:
        return None
    start = jnp.minimum(index * grid.size, grid.length - grid.size)
    return start + jnp.arange(grid.size) >= index * grid.size


def heads_first(x):
    """[B, L, H, ...] to [B, H, L, ...]."""
    return jnp.swapaxes(x, 1, 2)


def take(x, grid, index, axis=1):
    """Step `index` of [B, L, ...] as [B, C, ...]; L may be another axis."""
    part = jax.lax.dynamic_slice_in_dim(_bits(x), index * grid.size, grid.size, axis)
    return _from_bits(part, x.dtype)


def rows(x, grid, index):
    """Step `index` of [B, L, H, ...] as [B, H, C, ...], float32 or wider."""
    part = take(x, grid, index)
    return heads_first(part.astype(compute_dtype(part)))


def buffers(like):
    """Zeros to `store` into, one array for each in `like`."""
    return jax.tree.map(lambda x: _bits(jnp.zeros_like(x)), like)


def store(buffers, parts, like, grid, index, only_fresh=False):
    """Writes step `index`, heads before time, into the buffers of [B, L, H, ...]."""
    new = fresh(grid, index) if only_fresh else None

    def write(buffer, part, like):
        part = _bits(heads_first(part).astype(like.dtype))
        if new is not None:
            old = take(buffer, grid, index)
            part = jnp.where(new.reshape(-1, *[1] * (part.ndim - 2)), part, old)
        start = index * grid.size
        return jax.lax.dynamic_update_slice_in_dim(buffer, part, start, axis=1)

    return jax.tree.map(write, buffers, parts, like)


def contents(buffers, like):
    """What was stored in the buffers, in the dtypes of `like`."""
    return jax.tree.map(lambda x, like: _from_bits(x, like.dtype), buffers, like)


# XLA widens an operation on bfloat16 that a CPU lacks to float32, slices of a whole
# sequence among them, once a step: quadratic time. On integers it slices as they are.
def _bits(x):
    return jax.lax.bitcast_convert_type(x, jnp.uint16) if _is_half(x.dtype) else x


def _from_bits(x, dtype):
    return jax.lax.bitcast_convert_type(x, dtype) if _is_half(dtype) else x


def _is_half(dtype):
    return dtype in (jnp.bfloat16, jnp.float16)
