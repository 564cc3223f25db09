"""Convolutions over samples or frames that leave out what a mask does.

Shapes use B batch, T samples or frames, D and F widths, G groups.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers import heads
from jaxmodels.layers.constraint import whole
from jaxmodels.layers.feed_forward import gelu_erf
from jaxmodels.layers.normalization import LayerNorm
from jaxmodels.models.mlstm_backbones import dtypes_of

NORMS = ("group", "layer")
GROUPS = 8


class GroupNorm(nn.Module):
    """Group normalization over time and the channels of a group (Wu and He, 2018).

    Float32 statistics, of what `mask` keeps. As many groups as divide the width, at
    most `num_groups`.
    """

    num_groups: int = GROUPS
    epsilon: float = 1e-5
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, x, mask=None):
        """[B, T, F] to [B, T, F]; `mask` is bool [B, T], True keeps."""
        shape, dtype = x.shape[-1:], jnp.dtype(self.param_dtype)
        scale = self.param("scale", nn.initializers.ones, shape, dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, dtype)
        groups = math.gcd(self.num_groups, x.shape[-1])
        wide = x.astype(jnp.float32)
        # Sums over time first, which run along the width, and then over a group.
        mean = _group_mean(wide, mask, groups)
        wide -= mean
        variance = _group_mean(jnp.square(wide), mask, groups)
        wide *= scale * jax.lax.rsqrt(variance + self.epsilon)
        return (wide + bias).astype(self.dtype)


class ConvBlock(nn.Module):
    """Convolution, normalization, GELU, dropout.

    The convolution reads zeros beyond both ends and where the mask is False.

    Attributes:
        features: F.
        kernel_size: odd, so that a sample is in the middle of what it reads.
        strides: of the convolution; output t is in the middle of input t `strides`.
        norm: "group", whose statistics are of the whole window, or "layer", of each
            sample.
    """

    features: int
    kernel_size: int = 3
    strides: int = 1
    norm: str = "group"
    dropout: float = 0.0
    dtype: str = "float32"
    param_dtype: str = "float32"

    def __post_init__(self):
        check_conv(self.kernel_size, self.norm)
        super().__post_init__()

    @nn.compact
    def __call__(self, x, mask=None, *, train=False):
        """[B, T, D] to [B, ceil(T / strides), F], and the mask of the output or None.

        Args:
            mask: bool [B, T], True keeps.
        """
        before = self.kernel_size // 2
        x = nn.Conv(
            self.features,
            (self.kernel_size,),
            self.strides,
            ((before, before),),
            dtype=jnp.dtype(self.dtype),
            param_dtype=jnp.dtype(self.param_dtype),
            name="conv",
        )(whole(self, heads.silence(x, mask)))
        x = whole(self, x)
        mask = None if mask is None else mask[:, :: self.strides]
        return activate(self, x, mask, train=train), mask


def activate(module, x, mask, *, train):
    """Normalization, GELU and dropout, made inside `module` and of its fields."""
    if module.norm == "group":
        x = GroupNorm(name="norm", **dtypes_of(module))(x, mask)
    else:
        x = LayerNorm(name="norm", **dtypes_of(module))(x)
    return nn.Dropout(module.dropout, deterministic=not train)(gelu_erf(x))


def check_conv(kernel_size, norm):
    """Raises ValueError for what no block of a convolution can have."""
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(
            f"kernel_size {kernel_size} has no middle; try {max(1, kernel_size + 1)}"
        )
    if norm not in NORMS:
        raise ValueError(f"unknown norm {norm!r}; choose one of {', '.join(NORMS)}")


def _group_mean(x, mask, groups):
    """Mean over time and the channels of each group, [B, T, F] to [B, 1, F]."""
    batch, length, width = x.shape
    if mask is None:
        total, count = x.sum(axis=1), jnp.float32(length)
    else:
        total = heads.silence(x, mask).sum(axis=1)
        count = jnp.maximum(mask.sum(axis=1), 1).astype(jnp.float32)[:, None]
    mean = (total / count).reshape(batch, groups, -1).mean(axis=-1)
    return jnp.repeat(mean, width // groups, axis=-1)[:, None]
