"""Vectors of a diffusion time and of other numbers that condition a network.

Both are float32 throughout: they are small, and sinusoids of large arguments are not
what 16 bits are for.

Shapes use B batch, D width, K scalars, F features.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.positions import angles, sinusoidal_positions

TIME_FEATURES = 256
# Standard deviation of the first kernels (Peebles and Xie, 2023).
START = 0.02
# Wavelengths of the features of a scalar. Scalars are logarithms of order 1: half a
# unit is the finest difference to tell apart, and none is 32 away from another.
SHORTEST, LONGEST, SCALAR_FEATURES = 0.5, 64.0, 32


class TimeEmbedding(nn.Module):
    """Sinusoids of the time through two dense layers, as in Peebles and Xie (2023).

    Attributes:
        embed_dim: D.
        scale: of the time before the sinusoids, whose wavelengths are 2 pi to 2 pi
            10^4; 1000 for times in [0, 1].
    """

    embed_dim: int
    scale: float = 1000.0
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, time):
        """[B] to float32 [B, D]."""
        x = sinusoidal_positions(time.astype(jnp.float32) * self.scale, TIME_FEATURES)
        return self._dense("out")(jax.nn.silu(self._dense("hidden")(x)))

    def _dense(self, name):
        return nn.Dense(
            self.embed_dim,
            kernel_init=nn.initializers.normal(START),
            param_dtype=jnp.dtype(self.param_dtype),
            name=name,
        )


class ScalarEmbedding(nn.Module):
    """The sum of one vector for each of K numbers, of their sinusoids.

    A number that is NaN is unknown and has a learned vector of its own.

    Attributes:
        embed_dim: D.
        num_scalars: K, at least 1.
    """

    embed_dim: int
    num_scalars: int
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, scalars):
        """[B, K] to float32 [B, D]."""
        dtype = jnp.dtype(self.param_dtype)
        shape = self.num_scalars, SCALAR_FEATURES, self.embed_dim
        small = nn.initializers.normal(START)
        kernel = self.param("kernel", small, shape, dtype)
        null = self.param("null", small, shape[::2], dtype)
        known = ~jnp.isnan(scalars)
        # Zero first: the gradient of what is not chosen must not be NaN.
        features = scalar_features(jnp.where(known, scalars, 0.0))  # B K F
        vectors = jnp.einsum("BKF,KFD->BKD", features, kernel.astype(jnp.float32))
        return jnp.where(known[..., None], vectors, null).sum(axis=1)


def scalar_features(x):
    """Sines and cosines of `x` at geometric wavelengths, float32 [..., F]."""
    # F / 2 frequencies from 2 pi / SHORTEST down to one step above 2 pi / LONGEST.
    base = LONGEST / SHORTEST
    angle = angles(x * (2.0 * math.pi / SHORTEST), SCALAR_FEATURES, base)
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
