"""Classification of token sequences by a Performer encoder.

Shapes use B batch, T length, D width, N classes.
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxmodels.layers.attention import AttentionSpec
from jaxmodels.layers.constraint import constrain
from jaxmodels.models import performer_tokens
from jaxmodels.models.performer_stack import (
    RESIDUAL_AXES,
    PerformerEncoder,
    stack_fields,
)
from jaxmodels.models.performer_tokens import Head, TokenEmbedding

POOLINGS = ("mean", "first")


class PerformerClassifier(nn.Module):
    """Classifier: ids [B, T] to logits [B, N].

    Attributes:
        vocab_size: of the tokens.
        num_classes: N.
        max_length: longest sequence with learned positions; no bound otherwise.
        pooling: "mean" over the tokens that are there, or the "first" of them.
        positions: a name in `positions.SCHEMES`.
        embed_scale: `TokenEmbedding.scale`.
        others: as in `PerformerEncoder`.

    Raises:
        ValueError: fields that contradict each other, one line each.
    """

    vocab_size: int
    num_classes: int
    embed_dim: int
    num_heads: int
    mlp_dim: int
    num_layers: int
    max_length: int
    head_dim: int | None = None
    dropout: float = 0.0
    attention: AttentionSpec = AttentionSpec(kind="linear")
    activation: str = "geglu"
    match_params: bool = False
    normalization: str = "layer_norm"
    pooling: str = "mean"
    positions: str = "learned"
    embed_scale: float = 1.0
    use_bias: bool = False
    remat: bool = False
    dtype: str = "float32"
    param_dtype: str = "float32"

    def __post_init__(self):
        sizes = "vocab_size", "num_classes", "max_length"
        problems = performer_tokens.model_problems(self, sizes)
        problems += performer_tokens.stack_problems(self, self.positions, causal=False)
        if self.pooling not in POOLINGS:
            problems.append(
                f"unknown pooling {self.pooling!r}; choose one of {', '.join(POOLINGS)}"
            )
        if problems:
            raise ValueError("\n".join(problems))
        super().__post_init__()

    def setup(self):
        self.embed = TokenEmbedding(
            self.vocab_size,
            self.embed_dim,
            max_length=self.max_length,
            positions=self.positions,
            scale=self.embed_scale,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )
        self.encoder = PerformerEncoder(
            rotary=performer_tokens.turns_heads(self.positions),
            **stack_fields(self, PerformerEncoder),
        )
        self.head = Head(
            self.num_classes,
            use_bias=True,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )
        self.drop = nn.Dropout(self.dropout)

    def __call__(self, tokens, *, mask=None, train=False):
        """Logits float32 [B, N] of int [B, T].

        Args:
            mask: bool [B, T], the tokens that are there; they may stand anywhere. A row
                without any has the logits of a zero vector.
            train: draws dropout from the rng "dropout".

        Raises:
            ValueError: learned positions, and T above `max_length`.
        """
        mask = jnp.ones(tokens.shape, bool) if mask is None else mask
        places, _ = performer_tokens.count_places(mask)
        x = self.drop(self.embed(tokens, places), deterministic=not train)
        x = constrain(self, x, RESIDUAL_AXES)
        x = self.encoder(x, positions=places, mask=mask, train=train)
        x = self._pool(x.astype(jnp.float32), mask)
        return self.head(self.drop(x, deterministic=not train))

    def _pool(self, x, mask):
        """[B, T, D] to [B, D]."""
        weights = mask.astype(x.dtype)
        if self.pooling == "first":
            weights *= jnp.cumsum(mask, axis=1) == 1
        # Where, because a weight of zero does not silence a NaN.
        x = jnp.where(mask[..., None], x, 0.0)
        total = jnp.einsum("BTD,BT->BD", x, weights)
        return total / jnp.maximum(weights.sum(axis=1), 1.0)[:, None]
