"""The projections to heads and back that every multi-head attention shares.

Shapes use B batch, T query length, S key length, D width, H heads, K head width.
"""

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.constraint import constrain
from jaxmodels.layers.positions import rotary

# Attention mixes over the length, so each device holds it whole.
AXES = ("batch", None, "heads", None)


@flax.struct.dataclass
class Memory:
    """A projected context: key, value [B, S, H, K]; mask bool [B, S] or None."""

    key: jax.Array
    value: jax.Array
    mask: jax.Array | None


def check_heads(embed_dim, num_heads):
    """Raises ValueError unless the heads share the width equally."""
    if embed_dim % num_heads:
        raise ValueError(
            f"embed_dim {embed_dim} is not divisible by num_heads {num_heads}; "
            f"try embed_dim {-(-embed_dim // num_heads) * num_heads}"
        )


def projections(module):
    """The modules query, key, value (D to H K) and out (H K to D)."""
    check_heads(module.embed_dim, module.num_heads)
    shape = module.num_heads, module.embed_dim // module.num_heads

    def dense(features, axis=-1, scale=1.0):
        return nn.DenseGeneral(
            features,
            axis=axis,
            use_bias=module.use_bias,
            kernel_init=nn.initializers.variance_scaling(
                scale, "fan_in", "truncated_normal"
            ),
            dtype=jnp.dtype(module.dtype),
            param_dtype=jnp.dtype(module.param_dtype),
        )

    out = dense(module.embed_dim, axis=(-2, -1), scale=module.out_scale)
    return dense(shape), dense(shape), dense(shape), out


def norm(module):
    """The normalization of each head's queries or keys, with float32 statistics."""
    dtype, param_dtype = jnp.dtype(module.dtype), jnp.dtype(module.param_dtype)
    return nn.RMSNorm(dtype=dtype, param_dtype=param_dtype)


def project(module, x, positions=None):
    """Queries, keys and values of self-attention, each [B, T, H, K]."""
    query, key, value = module.query(x), module.key(x), module.value(x)
    if module.query_key_norm:
        query, key = module.query_norm(query), module.key_norm(key)
    if module.rotary:
        if positions is None:
            raise ValueError("rotary attention needs positions [B, T]")
        query, key = rotary(query, positions), rotary(key, positions)
    return tuple(constrain(module, y, AXES) for y in (query, key, value))


def project_query(module, x):
    """Queries of cross-attention, [B, T, H, K]."""
    query = module.query(x)
    query = module.query_norm(query) if module.query_key_norm else query
    return constrain(module, query, AXES)


def remember(module, context, mask):
    """Keys and values of cross-attention."""
    key, value = module.key(context), module.value(context)
    key = module.key_norm(key) if module.query_key_norm else key
    key, value = (constrain(module, y, AXES) for y in (key, value))
    return Memory(key, value, mask)
