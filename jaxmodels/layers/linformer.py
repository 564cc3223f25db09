"""Self-attention to a fixed number of mixtures of the tokens (Wang et al., 2020).

Keys and values of all T tokens are mixed into R rows before the softmax, so that its
matrix is T x R. The mixing matrices fix T.

Shapes use B batch, T length, D width, H heads, K head width, R rank.
"""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers import heads
from jaxmodels.layers.attention import dot_product_attention

# Matrices of the paper's section 4, from most to fewest of them.
SHARINGS = ("none", "headwise", "kv", "layerwise")


def linformer_attention(query, key, value, key_projection, value_projection):
    """softmax(Q (E^T K)^T / sqrt(K)) (F^T V) for each head (Wang et al., 2020, eq. 7).

    Args:
        query, key, value: [B, T, H, K].
        key_projection, value_projection: E and F, each [T, R] for all heads alike or
            [H, T, R].

    Returns:
        [B, T, H, K] in the dtype of `value`.
    """
    key, value = compress(key, key_projection), compress(value, value_projection)
    return dot_product_attention(query, key, value)


def compress(x, projection):
    """[B, T, H, K] to [B, R, H, K] by [T, R] or [H, T, R]."""
    letters = "TR" if projection.ndim == 2 else "HTR"
    return jnp.einsum(f"BTHK,{letters}->BRHK", x, projection.astype(x.dtype))


def projection_init(rng, shape, dtype=jnp.float32):
    """Normal values of variance 1 / T, for shapes [..., T, R].

    A mixture of independent tokens then has the variance of one of them.
    """
    return shape[-2] ** -0.5 * jax.random.normal(rng, shape, dtype)


def check(length, rank, sharing):
    """Lines for what is wrong with the sizes of a Linformer over `length` tokens."""
    lines = []
    if sharing not in SHARINGS:
        lines.append(
            f"unknown linformer_sharing {sharing!r}; choose one of "
            f"{', '.join(SHARINGS)}"
        )
    if not 1 <= rank <= length:
        lines.append(
            f"linformer_rank {rank} must be at least 1 and at most the {length} "
            "patches; lower it or use attention 'full'"
        )
    return lines


class LinformerAttention(nn.Module):
    """Bidirectional self-attention over `length` tokens, compressed to `rank`.

    Attributes:
        embed_dim: D, divisible by `num_heads` unless `head_dim` is given.
        length: T.
        rank: R, at most T.
        sharing: "none" has matrices E and F for each head, "headwise" one E and one F
            for all heads, "kv" one matrix for keys and values. "layerwise" has none:
            all layers share the one that the caller passes in.
        use_bias, out_scale, query_key_start, out_bias: as in `attention.Attention`.
    """

    # Mixing over the length would blur turned keys.
    rotary: ClassVar[bool] = False
    query_key_norm: ClassVar[bool] = False

    embed_dim: int
    num_heads: int
    length: int
    rank: int
    sharing: str = "headwise"
    use_bias: bool = False
    out_scale: float = 1.0
    head_dim: int | None = None
    query_key_start: float = heads.QUERY_KEY_START
    out_bias: bool | None = None
    dtype: str = "float32"
    param_dtype: str = "float32"

    def setup(self):
        if lines := check(self.length, self.rank, self.sharing):
            raise ValueError("; ".join(lines))
        self.query, self.key, self.value, self.out = heads.projections(
            self, self.query_key_start, self.out_bias
        )
        if self.sharing == "layerwise":
            return
        own = (self.num_heads,) if self.sharing == "none" else ()
        shape = *own, self.length, self.rank
        dtype = jnp.dtype(self.param_dtype)
        self.key_projection = self.param(
            "key_projection", projection_init, shape, dtype
        )
        if self.sharing != "kv":
            self.value_projection = self.param(
                "value_projection", projection_init, shape, dtype
            )

    def __call__(self, x, projection=None):
        """Mixes [B, T, D] with itself.

        Args:
            projection: [T, R], given with sharing "layerwise" and only then.

        Raises:
            ValueError: another length than `length`, or a projection too much or
                missing.
        """
        if x.shape[1] != self.length:
            raise ValueError(
                f"Linformer attention over {self.length} tokens got {x.shape[1]}: its "
                f"projections fix the length; bring the input to {self.length} tokens "
                "or use full attention"
            )
        query, key, value = heads.project(self, x)
        matrices = self._matrices(projection)
        return self.out(linformer_attention(query, key, value, *matrices))

    def _matrices(self, projection):
        if (projection is None) == (self.sharing == "layerwise"):
            raise ValueError(
                f"sharing {self.sharing!r} with a projection "
                f"{'missing' if projection is None else 'given'}: pass one with "
                "'layerwise', and only then"
            )
        if self.sharing == "layerwise":
            return projection, projection
        if self.sharing == "kv":
            return self.key_projection, self.key_projection
        return self.key_projection, self.value_projection
