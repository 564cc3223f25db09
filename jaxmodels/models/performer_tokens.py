"""Token ids in and logits out: what the Performer models share around their stacks.

Shapes use B batch, T length, D width, V vocabulary.
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxmodels.layers import feed_forward, normalization
from jaxmodels.layers.attention import make_attention
from jaxmodels.layers.heads import head_width
from jaxmodels.layers.positions import (
    ADDS_SINUSOIDS,
    TURNS_HEADS,
    LearnedPositions,
    check_positions,
    sinusoidal_positions,
)

# Standard deviation of the first logits of a tied model. On the language model that
# `heads.QUERY_KEY_START` cites, 0.5 beats 1.0 by 0.1 bits per byte, and 0.2 by 0.03.
LOGIT_START = 0.5


def turns_heads(scheme):
    """Whether attention itself reads positions of this scheme."""
    return scheme in TURNS_HEADS


class TokenEmbedding(nn.Module):
    """Vectors of token ids, with their positions where the scheme adds them.

    Attributes:
        vocab_size: V.
        max_length: number of learned positions.
        positions: a name in `positions.SCHEMES`.
        scale: of the vectors of tokens; sqrt(D) in Vaswani et al. (2017), 3.4.
    """

    vocab_size: int
    embed_dim: int
    max_length: int
    positions: str = "learned"
    scale: float = 1.0
    dtype: str = "float32"
    param_dtype: str = "float32"

    def setup(self):
        self.embedding = self.param(
            "embedding",
            nn.initializers.normal(LOGIT_START * self.embed_dim**-0.5),
            (self.vocab_size, self.embed_dim),
            jnp.dtype(self.param_dtype),
        )
        if self.positions == "learned":
            self.position = LearnedPositions(
                self.max_length,
                self.embed_dim,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
            )

    def __call__(self, tokens, places):
        """int [B, T] and the positions int [B, T] to [B, T, D].

        Raises:
            ValueError: learned positions, and T above `max_length`.
        """
        check_length(self, tokens.shape[1])
        x = jnp.take(self.embedding.astype(self.dtype), tokens, axis=0)  # B T D
        x *= jnp.asarray(self.scale, x.dtype)
        if self.positions == "learned":
            return x + self.position(places)
        if self.positions in ADDS_SINUSOIDS:
            return x + sinusoidal_positions(places, self.embed_dim).astype(x.dtype)
        return x

    def logits(self, x):
        """[B, T, D] to float32 [B, T, V], by the vectors of the tokens."""
        table = self.embedding.astype(x.dtype)
        return jnp.einsum("BTD,VD->BTV", x, table, preferred_element_type=jnp.float32)


class Head(nn.Module):
    """Logits with float32 accumulation: [..., D] to float32 [..., V]."""

    vocab_size: int
    use_bias: bool = False
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, x):
        dtype = jnp.dtype(self.param_dtype)
        shape = x.shape[-1], self.vocab_size
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, dtype)
        logits = jnp.einsum(
            "...D,DV->...V",
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            preferred_element_type=jnp.float32,
        )
        if self.use_bias:
            logits += self.param("bias", nn.initializers.zeros, shape[1:], dtype)
        return logits


def count_places(mask, start=0):
    """Positions of the tokens that are there, and how many they are.

    Args:
        mask: bool [B, T], the tokens that are there.
        start: int [B], the position of the first of them.

    Returns:
        int32 [B, T], where a token that is not there has the position of the one
        before it, and int32 [B].
    """
    counts = jnp.cumsum(mask, axis=1, dtype=jnp.int32)
    return jnp.reshape(start, (-1, 1)) + jnp.maximum(counts - 1, 0), counts[:, -1]


def check_length(model, length):
    """Raises ValueError where learned positions do not reach."""
    if model.positions == "learned" and length > model.max_length:
        raise ValueError(
            f"a sequence of {length} tokens is longer than max_length "
            f"{model.max_length}, the number of learned positions; raise max_length "
            "or use positions 'rotary' or 'sinusoidal'"
        )


def context_limit(model, attention):
    """Tokens that fit in one context while decoding; None without a bound."""
    bounded = model.positions == "learned" or attention.kind == "softmax"
    return model.max_length if bounded else None


def model_problems(model, sizes):
    """What is wrong with the fields that all models have, one line each.

    Args:
        sizes: names of the fields that are at least 1.
    """
    lines = [
        f"{name} {getattr(model, name)} must be at least 1"
        for name in sizes
        if getattr(model, name) is not None and getattr(model, name) < 1
    ]
    if not 0.0 <= model.dropout < 1.0:
        lines.append(f"dropout {model.dropout} must be at least 0 and below 1")
    lines += failures(
        lambda: feed_forward.check(model.activation),
        lambda: normalization.residual(model.normalization),
    )
    return lines


def stack_problems(stack, positions, *, causal, cross_attention=None):
    """What is wrong with the sizes of an encoder or decoder, one line each."""
    lines = [
        f"{name} {getattr(stack, name)} must be at least 1"
        for name in ("embed_dim", "num_heads", "mlp_dim", "num_layers", "head_dim")
        if getattr(stack, name) is not None and getattr(stack, name) < 1
    ]
    if lines:
        return lines
    head_dim = stack.head_dim or stack.embed_dim // stack.num_heads
    attempts = [
        lambda: _try_attention(stack.attention, causal),
        lambda: check_positions(positions, stack.embed_dim, head_dim),
    ]
    if stack.head_dim is None:
        attempts.append(lambda: head_width(stack.embed_dim, stack.num_heads))
    if cross_attention is not None:
        attempts.append(lambda: _try_attention(cross_attention, False))
    return failures(*attempts)


def failures(*attempts):
    """The texts of the ValueErrors that calls raise."""
    lines = []
    for attempt in attempts:
        try:
            attempt()
        except ValueError as error:
            lines.append(str(error))
    return lines


def _try_attention(spec, causal):
    make_attention(spec, causal=causal, embed_dim=1, num_heads=1, parent=None)
