"""Parts of waveform models that compile quickly."""

import flax.linen as nn
import jax.numpy as jnp

from jaxmodels.layers.heads import silence


class Smear(nn.Module):
    """A backbone in which every valid frame sees the mean of all valid frames."""

    embed_dim: int

    @nn.compact
    def __call__(self, x, mask=None, *, train=False):
        x = silence(x, mask)
        count = x.shape[1] if mask is None else mask.sum(axis=1)[:, None, None]
        mean = x.sum(axis=1, keepdims=True) / jnp.maximum(count, 1)
        return jnp.tanh(nn.Dense(self.embed_dim, name="mix")(x + mean))
