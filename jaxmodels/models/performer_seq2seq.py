"""Encoder-decoder Performers: vectors to vectors, and ids to ids.

Shapes use B batch, S source length, T target length, D width, V vocabulary.
"""

import dataclasses
import functools

import flax.linen as nn
import jax.numpy as jnp

from jaxmodels.layers.attention import AttentionSpec
from jaxmodels.layers.constraint import constrain
from jaxmodels.layers.initialization import scaled_normal
from jaxmodels.models import performer_decoding, performer_tokens
from jaxmodels.models.performer_stack import (
    RESIDUAL_AXES,
    PerformerDecoder,
    PerformerEncoder,
    stack_fields,
)
from jaxmodels.models.performer_tokens import Head, TokenEmbedding


class EncoderDecoderTransformer(nn.Module):
    """A bidirectional encoder and a causal decoder that reads what it made.

    The two may differ in width, depth and attention; a projection, `bridge`, joins two
    widths.
    """

    encoder: PerformerEncoder
    decoder: PerformerDecoder

    def setup(self):
        if not self.equal_widths:
            self.bridge = nn.Dense(
                self.decoder.embed_dim,
                use_bias=False,
                kernel_init=scaled_normal(),
                dtype=jnp.dtype(self.decoder.dtype),
                param_dtype=jnp.dtype(self.decoder.param_dtype),
            )

    def __call__(
        self,
        source,
        target,
        source_mask=None,
        target_mask=None,
        *,
        source_positions=None,
        target_positions=None,
        train=False,
    ):
        """Decodes the target [B, T, D] beside the source [B, S, D of the encoder].

        Args:
            source_mask: bool [B, S], the part of the source to read.
            target_mask: bool [B, T], the part of the target to attend to.
            source_positions, target_positions: int [B, S], [B, T], read by rotary
                attention; by default they count the tokens that are there.
            train: draws dropout from the rng "dropout".

        Returns:
            [B, T, D].
        """
        context = self.encode(
            source, source_mask, positions=source_positions, train=train
        )
        return self.decode(
            target,
            context,
            source_mask,
            target_mask,
            positions=target_positions,
            train=train,
        )

    def encode(self, source, source_mask=None, *, positions=None, train=False):
        """[B, S, D of the encoder] to the context [B, S, D] that the decoder reads."""
        positions = _places(positions, source, source_mask)
        x = self.encoder(source, positions=positions, mask=source_mask, train=train)
        return x if self.equal_widths else self.bridge(x)

    def decode(
        self,
        target,
        context,
        source_mask=None,
        target_mask=None,
        *,
        positions=None,
        train=False,
    ):
        """[B, T, D] beside the context of `encode` to [B, T, D]."""
        return self.decoder(
            target,
            context,
            positions=_places(positions, target, target_mask),
            mask=target_mask,
            context_mask=source_mask,
            train=train,
        )

    @property
    def equal_widths(self):
        """Whether the decoder reads what the encoder makes without a projection."""
        return self.encoder.embed_dim == self.decoder.embed_dim


@dataclasses.dataclass(frozen=True)
class Stack:
    """The sizes of an encoder or a decoder; fields as in `PerformerDecoder`."""

    embed_dim: int
    num_heads: int
    mlp_dim: int
    num_layers: int
    attention: AttentionSpec
    cross_attention: AttentionSpec | None = None
    head_dim: int | None = None


class PerformerSeq2Seq(nn.Module):
    """Sequence to sequence: source ids [B, S] and target ids [B, T] to logits.

    Attributes:
        vocab_size: V, of the target.
        encoder, decoder: their sizes; a decoder needs `cross_attention`, an encoder has
            none.
        max_length: longest source and target with learned positions, and the tokens
            that softmax attention can hold while decoding; no bound otherwise.
        source_vocab_size: ids of the source; None for one vocabulary, and one table of
            vectors, on both sides, which then have one width.
        positions: a name in `positions.SCHEMES`.
        embed_scale: `TokenEmbedding.scale`.
        tie_embeddings: the embedding of the target is the output layer as well.
        self_mlp: of the decoder's blocks.
        others: as in `PerformerDecoder`.

    Raises:
        ValueError: fields that contradict each other, one line each.
    """

    vocab_size: int
    encoder: Stack
    decoder: Stack
    max_length: int
    source_vocab_size: int | None = None
    dropout: float = 0.0
    activation: str = "geglu"
    match_params: bool = False
    normalization: str = "layer_norm"
    positions: str = "learned"
    embed_scale: float = 1.0
    tie_embeddings: bool = True
    use_bias: bool = False
    self_mlp: bool = False
    remat: bool = False
    dtype: str = "float32"
    param_dtype: str = "float32"

    def __post_init__(self):
        problems = seq2seq_problems(self)
        if problems:
            raise ValueError("\n".join(problems))
        super().__post_init__()

    @property
    def context_limit(self):
        """Target tokens that fit while decoding; None without a bound."""
        return performer_tokens.context_limit(self, self.decoder.attention)

    @property
    def source_limit(self):
        """Tokens that a source may have; None without a bound."""
        return self.max_length if self.positions == "learned" else None

    def setup(self):
        tokens = functools.partial(
            TokenEmbedding,
            max_length=self.max_length,
            positions=self.positions,
            scale=self.embed_scale,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )
        self.embed = tokens(self.vocab_size, self.decoder.embed_dim)
        if self.source_vocab_size is None:
            self.embed_source = self.embed
        else:
            self.embed_source = tokens(
                self.source_vocab_size, self.encoder.embed_dim, name="source_embed"
            )
        self.transformer = EncoderDecoderTransformer(
            self._stack(PerformerEncoder, self.encoder),
            self._stack(PerformerDecoder, self.decoder),
        )
        if not self.tie_embeddings:
            self.head = Head(
                self.vocab_size,
                self.use_bias,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
            )
        self.drop = nn.Dropout(self.dropout)

    def _stack(self, kind, sizes):
        """An encoder or a decoder, for the module that will own it."""
        return kind(
            rotary=performer_tokens.turns_heads(self.positions),
            parent=None,
            **stack_fields(self, kind) | stack_fields(sizes, kind),
        )

    def __call__(
        self, source, target, *, source_mask=None, target_mask=None, train=False
    ):
        """Logits of the token after each of the target.

        Args:
            source: int [B, S].
            target: int [B, T], what the decoder reads: the target behind its start.
            source_mask, target_mask: bool [B, S], [B, T], the tokens that are there.
            train: draws dropout from the rng "dropout".

        Returns:
            float32 [B, T, V].

        Raises:
            ValueError: learned positions, and S or T above `max_length`.
        """
        context = self.encode(source, source_mask=source_mask, train=train)
        return self.decode(
            target,
            context,
            context_mask=source_mask,
            target_mask=target_mask,
            train=train,
        )

    def encode(self, source, *, source_mask=None, train=False):
        """The context [B, S, D] of a source int [B, S]."""
        x, places = self._read(self.embed_source, source, source_mask, train)
        return self.transformer.encode(x, source_mask, positions=places, train=train)

    def decode(
        self, target, context, *, context_mask=None, target_mask=None, train=False
    ):
        """Logits float32 [B, T, V] of a target int [B, T] beside a context."""
        x, places = self._read(self.embed, target, target_mask, train)
        x = self.transformer.decode(
            x, context, context_mask, target_mask, positions=places, train=train
        )
        return self._logits(x)

    def prefill(
        self,
        tokens,
        state=None,
        *,
        context=None,
        context_mask=None,
        mask=None,
        last_only=False,
    ):
        """Reads the beginning of a target, or more of it; see `PerformerLM.prefill`.

        Args:
            context: [B, S, D] of `encode`; needed at first, and kept in the state.
            context_mask: bool [B, S].
            mask, last_only: as in `PerformerLM.prefill`.
        """
        x, state = performer_decoding.prefill(
            self.embed,
            self.transformer.decoder,
            tokens,
            state,
            mask,
            context=context,
            context_mask=context_mask,
            last_only=last_only,
        )
        logits = self._logits(x)
        return (logits[:, 0] if last_only else logits), state

    def step(self, state, token):
        """Reads one token: int [B] to float32 [B, V] and the next state."""
        x, state = performer_decoding.step(
            self.embed, self.transformer.decoder, state, token
        )
        return self._logits(x)[:, 0], state

    def _read(self, embed, tokens, mask, train):
        """Vectors [B, T, D] and positions [B, T] of tokens."""
        present = jnp.ones(tokens.shape, bool) if mask is None else mask
        places, _ = performer_tokens.count_places(present)
        x = self.drop(embed(tokens, places), deterministic=not train)
        return constrain(self, x, RESIDUAL_AXES), places

    def _logits(self, x):
        return self.embed.logits(x) if self.tie_embeddings else self.head(x)


def seq2seq_problems(model):
    """What is wrong with the fields of a `PerformerSeq2Seq`, one line each."""
    sizes = "vocab_size", "max_length", "source_vocab_size"
    lines = performer_tokens.model_problems(model, sizes)
    for name, stack, causal in (
        ("encoder", model.encoder, False),
        ("decoder", model.decoder, True),
    ):
        own = performer_tokens.stack_problems(
            stack, model.positions, causal=causal, cross_attention=stack.cross_attention
        )
        lines += [f"{name}: {line}" for line in own]
    if model.encoder.cross_attention is not None:
        lines.append("encoder: an encoder has no cross_attention; leave it out")
    if model.decoder.cross_attention is None:
        lines.append(
            "decoder: cross_attention is missing; without it nothing reads the source"
        )
    widths = model.encoder.embed_dim, model.decoder.embed_dim
    if model.source_vocab_size is None and widths[0] != widths[1]:
        lines.append(
            f"encoder.embed_dim {widths[0]} and decoder.embed_dim {widths[1]} cannot "
            "share one embedding; set source_vocab_size to give the source its own"
        )
    return lines


def _places(positions, x, mask):
    """Positions [B, L] of vectors [B, L, D], counted where they are not given."""
    if positions is not None:
        return positions
    mask = jnp.ones(x.shape[:2], bool) if mask is None else mask
    return performer_tokens.count_places(mask)[0]
