"""The projections to heads and back that every multi-head attention shares.

Shapes use B batch, T query length, S key length, D width, H heads, K head width.
"""

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers import linear_parallel
from jaxmodels.layers.constraint import constrain
from jaxmodels.layers.initialization import scaled_normal
from jaxmodels.layers.positions import rotary

# Standard deviation of the first queries and keys, against 1 of their input. Random
# features estimate the softmax well only while queries and keys are small (language
# model of 0.4 M parameters, 200 steps, one run each: 2.74 bits per byte from 0.25,
# 2.68 from 0.1).
QUERY_KEY_START = 0.1


@flax.struct.dataclass
class Memory:
    """A projected context: key, value [B, S, H, K]; mask bool [B, S] or None."""

    key: jax.Array
    value: jax.Array
    mask: jax.Array | None


def head_width(embed_dim, num_heads, head_dim=None):
    """K: `head_dim`, or the equal share of each head in the width where it is None.

    Raises:
        ValueError: the share is no whole number, or `head_dim` is below 1.
    """
    if head_dim is not None:
        if head_dim < 1:
            raise ValueError(f"head_dim {head_dim} must be at least 1, or None")
        return head_dim
    if embed_dim % num_heads:
        raise ValueError(
            f"embed_dim {embed_dim} is not divisible by num_heads {num_heads}; "
            f"try embed_dim {-(-embed_dim // num_heads) * num_heads}, or give head_dim"
        )
    return embed_dim // num_heads


def projections(module, start=QUERY_KEY_START, out_bias=None):
    """The modules query, key, value (D to H K) and out (H K to D).

    Args:
        start: standard deviation of the first queries and keys, against 1 of the input.
        out_bias: of `out` alone; None is `module.use_bias`.
    """
    width = head_width(module.embed_dim, module.num_heads, module.head_dim)
    shape = module.num_heads, width

    def dense(features, scale=1.0, axis=-1, use_bias=module.use_bias):
        return nn.DenseGeneral(
            features,
            axis=axis,
            use_bias=use_bias,
            kernel_init=scaled_normal(scale),
            dtype=jnp.dtype(module.dtype),
            param_dtype=jnp.dtype(module.param_dtype),
        )

    small = start**2
    bias = module.use_bias if out_bias is None else out_bias
    out = dense(module.embed_dim, module.out_scale, (-2, -1), bias)
    return dense(shape, small), dense(shape, small), dense(shape), out


def norm(module):
    """The normalization of each head's queries or keys, with float32 statistics."""
    dtype, param_dtype = jnp.dtype(module.dtype), jnp.dtype(module.param_dtype)
    start = nn.initializers.constant(QUERY_KEY_START)
    return nn.RMSNorm(dtype=dtype, param_dtype=param_dtype, scale_init=start)


def project(module, x, positions=None, *, cut=False):
    """Queries, keys and values of self-attention, each [B, T, H, K].

    Args:
        positions: int [B, T], needed where `module.rotary`.
        cut: the length may stay cut over devices, as linear attention takes it;
            otherwise each of them holds it whole.
    """
    query, key, value = module.query(x), module.key(x), module.value(x)
    if module.query_key_norm:
        query, key = module.query_norm(query), module.key_norm(key)
    if module.rotary:
        if positions is None:
            raise ValueError("rotary attention needs positions [B, T]")
        query, key = rotary(query, positions), rotary(key, positions)
    return tuple(_place(module, y, cut) for y in (query, key, value))


def project_query(module, x, *, cut=False):
    """Queries of cross-attention, [B, T, H, K]; `cut` as in `project`."""
    query = module.query(x)
    query = module.query_norm(query) if module.query_key_norm else query
    return _place(module, query, cut)


def remember(module, context, mask, *, cut=False):
    """Keys and values of cross-attention; `cut` as in `project`."""
    context = silence(context, mask)
    key, value = module.key(context), module.value(context)
    key = module.key_norm(key) if module.query_key_norm else key
    key, value = (_place(module, y, cut) for y in (key, value))
    return Memory(key, value, mask)


def silence(x, mask):
    """[B, S, ...] with zeros for the tokens that `mask`, bool [B, S], leaves out.

    A weight of zero does not silence a NaN, neither in a sum nor in a gradient. A mask
    of another shape, which is not of tokens, leaves all as it is.
    """
    batch, length = x.shape[:2]
    if mask is None or mask.shape not in ((batch, length), (1, length)):
        return x
    return jnp.where(mask.reshape(*mask.shape, *[1] * (x.ndim - 2)), x, 0)


def _place(module, x, cut):
    length = "length" if cut and linear_parallel.is_cut(x.shape[1]) else None
    return constrain(module, x, ("batch", length, "heads", None))
