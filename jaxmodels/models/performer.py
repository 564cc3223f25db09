"""Performer: a universal transformer whose attention is linear in the length.

Choromanski et al. (2021), "Rethinking attention with Performers".

Shapes use B batch, T length, D width, V vocabulary, M rows and K columns of a
projection.
"""

import dataclasses
import math

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers import feed_forward, normalization
from jaxmodels.layers.attention import AttentionSpec, make_attention
from jaxmodels.layers.constraint import constrain
from jaxmodels.layers.feature_maps import orthogonal_projection
from jaxmodels.layers.heads import check_heads
from jaxmodels.layers.positions import (
    LearnedPositions,
    check_positions,
    segment_positions,
    sinusoidal_positions,
)
from jaxmodels.models.performer_stack import (
    RESIDUAL_AXES,
    LayerState,
    PerformerDecoder,
    PerformerLayer,
)

__all__ = [
    "AttentionSpec",
    "DecodingState",
    "PerformerDecoder",
    "PerformerLM",
    "PerformerLayer",
    "redraw",
]

# Standard deviation of the first logits of a tied model. On the language model that
# `heads.QUERY_KEY_START` cites, 0.5 beats 1.0 by 0.1 bits per byte, and 0.2 by 0.03.
LOGIT_START = 0.5


@flax.struct.dataclass
class DecodingState:
    """What `PerformerLM` keeps of the tokens it has seen.

    Attributes:
        layers: `LayerState`, each leaf stacked over the layers on axis 0.
        position: int32 [B], of the next token.
    """

    layers: LayerState
    position: jax.Array


class PerformerLM(nn.Module):
    """Causal language model: ids [B, T] to logits [B, T, V].

    Attributes:
        vocab_size: V.
        max_length: longest sequence with learned positions, and the tokens that
            softmax attention can hold while decoding; no bound otherwise.
        positions: a name in `positions.SCHEMES`.
        tie_embeddings: the embedding is the output layer as well.
        others: as in `PerformerDecoder`.

    Raises:
        ValueError: fields that contradict each other, one line each.
    """

    vocab_size: int
    embed_dim: int
    num_heads: int
    mlp_dim: int
    num_layers: int
    max_length: int
    dropout: float = 0.0
    attention: AttentionSpec = AttentionSpec()
    activation: str = "geglu"
    match_params: bool = False
    normalization: str = "layer_norm"
    positions: str = "learned"
    tie_embeddings: bool = True
    use_bias: bool = False
    remat: bool = False
    dtype: str = "float32"
    param_dtype: str = "float32"

    def __post_init__(self):
        problems = lm_problems(self)
        if problems:
            raise ValueError("\n".join(problems))
        super().__post_init__()

    @property
    def context_limit(self):
        """Tokens that fit in one context while decoding; None without a bound."""
        bounded = self.positions == "learned" or self.attention.kind == "softmax"
        return self.max_length if bounded else None

    def setup(self):
        self.embed = nn.Embed(
            self.vocab_size,
            self.embed_dim,
            embedding_init=nn.initializers.normal(LOGIT_START * self.embed_dim**-0.5),
            dtype=jnp.dtype(self.dtype),
            param_dtype=jnp.dtype(self.param_dtype),
        )
        if self.positions == "learned":
            self.position = LearnedPositions(
                self.max_length,
                self.embed_dim,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
            )
        shared = {field.name for field in dataclasses.fields(PerformerDecoder)}
        fields = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name in shared - {"parent", "name"}
        }
        self.decoder = PerformerDecoder(
            cross_attention=None, rotary=self.positions == "rotary", **fields
        )
        if not self.tie_embeddings:
            self.head = Head(
                self.vocab_size,
                self.use_bias,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
            )
        self.drop = nn.Dropout(self.dropout)

    def __call__(
        self,
        tokens,
        *,
        positions=None,
        segment_ids=None,
        mask=None,
        prefix_lengths=None,
        train=False,
    ):
        """Logits of the token after each: int [B, T] to float32 [B, T, V].

        Args:
            positions: int [B, T], below `max_length` where they are learned; by default
                they count from 0 in each segment.
            segment_ids: int [B, T]; tokens see their own segment alone.
            mask: bool [B, T], the tokens to attend to.
            prefix_lengths: int [B]; the first tokens that all others see.
            train: draws dropout from the rng "dropout".

        Raises:
            ValueError: learned positions, and T above `max_length`.
        """
        self._check_length(tokens.shape[1])
        if positions is None:
            ids = jnp.zeros_like(tokens) if segment_ids is None else segment_ids
            positions = segment_positions(ids)
        x = self.drop(self._embed(tokens, positions), deterministic=not train)
        x = self.decoder(
            constrain(self, x, RESIDUAL_AXES),
            positions=positions,
            mask=mask,
            segment_ids=segment_ids,
            prefix_lengths=prefix_lengths,
            train=train,
        )
        return self._logits(x)

    def prefill(self, tokens, state=None, *, mask=None):
        """Reads a prompt, or more of one: int [B, T] to logits and a state.

        Args:
            state: `DecodingState` to continue; None starts anew.
            mask: bool [B, T], the tokens that are there; those that are not may stand
                anywhere, and neither count as positions nor are attended to.

        Returns:
            float32 [B, T, V] and the `DecodingState` after the prompt.

        Raises:
            ValueError: no token, or more than fit in one context.
        """
        batch, length = tokens.shape
        if length == 0:
            raise ValueError("prefill needs at least one token; T is 0")
        self._check_length(length)
        mask = jnp.ones((batch, length), bool) if mask is None else mask
        start = jnp.zeros(batch, jnp.int32) if state is None else state.position
        counts = jnp.cumsum(mask, axis=1, dtype=jnp.int32)
        places = start[:, None] + jnp.maximum(counts - 1, 0)
        x, layers = self.decoder.prefill(
            self._embed(tokens, places),
            state=None if state is None else state.layers,
            positions=places,
            mask=mask,
        )
        return self._logits(x), DecodingState(layers, start + counts[:, -1])

    def step(self, state, token):
        """Reads one token: int [B] to float32 [B, V] and the next state.

        Past `context_limit` the logits are NaN.
        """
        places = state.position[:, None]
        x, layers = self.decoder.step(
            self._embed(token[:, None], places), state.layers, positions=places
        )
        return self._logits(x)[:, 0], DecodingState(layers, state.position + 1)

    def _check_length(self, length):
        if self.positions == "learned" and length > self.max_length:
            raise ValueError(
                f"a sequence of {length} tokens is longer than max_length "
                f"{self.max_length}, the number of learned positions; raise max_length "
                "or use positions 'rotary' or 'sinusoidal'"
            )

    def _embed(self, tokens, places):
        x = self.embed(tokens)  # B T D
        if self.positions == "learned":
            return x + self.position(places)
        if self.positions == "sinusoidal":
            return x + sinusoidal_positions(places, self.embed_dim).astype(x.dtype)
        return x

    def _logits(self, x):
        if not self.tie_embeddings:
            return self.head(x)
        table = self.embed.embedding.astype(x.dtype)
        return jnp.einsum("BTD,VD->BTV", x, table, preferred_element_type=jnp.float32)


class Head(nn.Module):
    """Logits with float32 accumulation: [B, T, D] to float32 [B, T, V]."""

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
            "BTD,DV->BTV",
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            preferred_element_type=jnp.float32,
        )
        if self.use_bias:
            logits += self.param("bias", nn.initializers.zeros, shape[1:], dtype)
        return logits


def redraw(collections, rng):
    """Draws every random projection anew; a function of `rng` and the shapes alone.

    Args:
        collections: {collection: tree}, with or without "projections"; `variables` of
            `init` will do. In "projections" each leaf is [M, K] or, in a scanned
            stack, [layers, M, K], and every layer gets a projection of its own.
        rng: PRNG key.

    Returns:
        The same collections, "projections" replaced.
    """
    if "projections" not in collections:
        return dict(collections)
    draw = jax.vmap(orthogonal_projection, in_axes=(0, None, None))
    leaves, tree = jax.tree.flatten(collections["projections"])
    drawn = []
    for index, leaf in enumerate(leaves):
        *stack, rows, width = leaf.shape
        rngs = jax.random.split(jax.random.fold_in(rng, index), math.prod(stack))
        drawn.append(draw(rngs, rows, width).reshape(leaf.shape).astype(leaf.dtype))
    return {**collections, "projections": jax.tree.unflatten(tree, drawn)}


def lm_problems(model):
    """What is wrong with the fields of a `PerformerLM`, one line each."""
    sizes = ("vocab_size", "embed_dim", "num_heads", "mlp_dim", "num_layers")
    lines = [
        f"{name} {getattr(model, name)} must be at least 1"
        for name in (*sizes, "max_length")
        if getattr(model, name) < 1
    ]
    if lines:
        return lines
    if not 0.0 <= model.dropout < 1.0:
        lines.append(f"dropout {model.dropout} must be at least 0 and below 1")
    attempts = (
        lambda: check_heads(model.embed_dim, model.num_heads),
        lambda: make_attention(
            model.attention, causal=True, embed_dim=1, num_heads=1, parent=None
        ),
        lambda: feed_forward.check(model.activation),
        lambda: normalization.residual(model.normalization),
        lambda: check_positions(
            model.positions, model.embed_dim, model.embed_dim // model.num_heads
        ),
    )
    for attempt in attempts:
        try:
            attempt()
        except ValueError as error:
            lines.append(str(error))
    return lines
