"""Language model of Performer blocks.

Shapes use B batch, T length, D width, V vocabulary.
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxmodels.layers.attention import AttentionSpec
from jaxmodels.layers.constraint import constrain
from jaxmodels.layers.positions import segment_positions
from jaxmodels.models import performer_decoding, performer_tokens
from jaxmodels.models.performer_stack import (
    RESIDUAL_AXES,
    PerformerDecoder,
    PerformerEncoder,
    stack_fields,
)
from jaxmodels.models.performer_tokens import Head, TokenEmbedding


class PerformerLM(nn.Module):
    """Language model: ids [B, T] to logits [B, T, V].

    Attributes:
        vocab_size: V.
        max_length: longest sequence with learned positions, and the tokens that
            softmax attention can hold while decoding; no bound otherwise.
        causal: a token sees itself and those before it; False makes a bidirectional
            model (of masked tokens, say), which cannot generate.
        positions: a name in `positions.SCHEMES`.
        embed_scale: `TokenEmbedding.scale`.
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
    head_dim: int | None = None
    causal: bool = True
    dropout: float = 0.0
    attention: AttentionSpec = AttentionSpec()
    activation: str = "geglu"
    match_params: bool = False
    normalization: str = "layer_norm"
    positions: str = "learned"
    embed_scale: float = 1.0
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
        return performer_tokens.context_limit(self, self.attention)

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
        rotary = performer_tokens.turns_heads(self.positions)
        if self.causal:
            fields = stack_fields(self, PerformerDecoder)
            self.decoder = PerformerDecoder(
                cross_attention=None, rotary=rotary, **fields
            )
        else:
            fields = stack_fields(self, PerformerEncoder)
            self.encoder = PerformerEncoder(rotary=rotary, **fields)
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
        """Logits of the token after each, or of each where the model is not causal.

        Args:
            tokens: int [B, T].
            positions: int [B, T], below `max_length` where they are learned; by default
                they count from 0 in each segment or, where a mask is given and no
                segments, the tokens that are there, as `prefill` does.
            segment_ids: int [B, T]; tokens see their own segment alone.
            mask: bool [B, T], the tokens to attend to.
            prefix_lengths: int [B]; the first tokens that all others see.
            train: draws dropout from the rng "dropout".

        Returns:
            float32 [B, T, V].

        Raises:
            ValueError: learned positions, and T above `max_length`; a prefix, and no
                causal model.
        """
        if positions is None:
            positions = _positions(tokens, segment_ids, mask)
        x = self.drop(self.embed(tokens, positions), deterministic=not train)
        x = constrain(self, x, RESIDUAL_AXES)
        options = dict(positions=positions, mask=mask, segment_ids=segment_ids)
        if self.causal:
            x = self.decoder(x, prefix_lengths=prefix_lengths, train=train, **options)
        elif prefix_lengths is None:
            x = self.encoder(x, train=train, **options)
        else:
            raise ValueError(
                "prefix_lengths need a causal model; in this one every token sees all"
            )
        return self._logits(x)

    def prefill(
        self, tokens, state=None, *, mask=None, prefix_lengths=None, last_only=False
    ):
        """Reads a prompt, or more of one: int [B, T] to logits and a state.

        Args:
            state: `DecodingState` to continue; None starts anew.
            mask: bool [B, T], the tokens that are there; those that are not may stand
                anywhere, and neither count as positions nor are attended to.
            prefix_lengths: int [B]; the first columns of `tokens`, which all of them
                see.
            last_only: leaves out the logits that sampling does not read.

        Returns:
            float32 [B, T, V], or with `last_only` [B, V] of the last token that is
            there; and the `DecodingState` after the prompt.

        Raises:
            ValueError: no token, more than fit in one context, or no causal model.
        """
        if not self.causal:
            raise ValueError("a bidirectional model does not generate; set causal=True")
        x, state = performer_decoding.prefill(
            self.embed,
            self.decoder,
            tokens,
            state,
            mask,
            prefix_lengths=prefix_lengths,
            last_only=last_only,
        )
        logits = self._logits(x)
        return (logits[:, 0] if last_only else logits), state

    def step(self, state, token):
        """Reads one token: int [B] to float32 [B, V] and the next state.

        Past `context_limit` the logits are NaN.
        """
        x, state = performer_decoding.step(self.embed, self.decoder, state, token)
        return self._logits(x)[:, 0], state

    def _logits(self, x):
        return self.embed.logits(x) if self.tie_embeddings else self.head(x)


def _positions(tokens, segment_ids, mask):
    """int [B, T], for tokens that come without."""
    # Masks of pairs [B, H, T, T] do not say which tokens are there.
    if segment_ids is None and mask is not None and mask.ndim == 2:
        return performer_tokens.count_places(mask)[0]
    ids = jnp.zeros_like(tokens) if segment_ids is None else segment_ids
    return segment_positions(ids)


def lm_problems(model):
    """What is wrong with the fields of a `PerformerLM`, one line each."""
    lines = performer_tokens.model_problems(model, ("vocab_size", "max_length"))
    return lines + performer_tokens.stack_problems(
        model, model.positions, causal=model.causal
    )
