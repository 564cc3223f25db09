"""The blocks of a Performer and their stack.

Shapes use B batch, T length, S context length, D width.
"""

import dataclasses
import functools
from typing import Any

import flax
import flax.linen as nn

from jaxmodels.layers import feed_forward, normalization
from jaxmodels.layers.attention import AttentionSpec, make_attention
from jaxmodels.layers.constraint import constrain
from jaxmodels.layers.stack import scan_layers

RESIDUAL_AXES = ("batch", "length", "embed")


@flax.struct.dataclass
class LayerState:
    """What a block keeps while decoding.

    Attributes:
        attention: the state of its self-attention.
        memory: its projected context, or None without cross-attention.
    """

    attention: Any
    memory: Any = None


class PerformerLayer(nn.Module):
    """One block: self-attention, optional cross-attention, feed-forward.

    An encoder block with `causal=False`, a decoder block with `causal=True`, each part
    in a residual wrapper.

    Attributes:
        embed_dim: D, divisible by `num_heads` where `head_dim` is None.
        mlp_dim: hidden width of the feed-forward network.
        attention: of the tokens to each other; its kind must agree with `causal`.
        cross_attention: of the tokens to a context; None for no such part.
        dropout: rate, on the output of each part.
        activation: a name in `feed_forward.ACTIVATIONS` or `feed_forward.GATES`.
        match_params: shrinks a gated network to the parameters of a plain one.
        normalization: a name in `normalization.RESIDUALS`. The first gains are
            those of their papers: sqrt(D) in "scale_norm" (Nguyen and Salazar, 2019), 0
            in "rezero" (Bachlechner et al., 2021).
        head_dim: width of a head; None is embed_dim / num_heads.
        self_mlp: a feed-forward network between self- and cross-attention as well.
        rotary: turns queries and keys of the self-attention by their positions.
        use_bias: in every projection; the feed-forward network has biases anyway.
        out_scale: variance of what each part adds at first; 0 adds nothing.
        max_length: tokens that a softmax block can hold while decoding.
    """

    embed_dim: int
    num_heads: int
    mlp_dim: int
    attention: AttentionSpec = AttentionSpec()
    cross_attention: AttentionSpec | None = None
    causal: bool = True
    head_dim: int | None = None
    self_mlp: bool = False
    dropout: float = 0.0
    activation: str = "geglu"
    match_params: bool = False
    normalization: str = "layer_norm"
    rotary: bool = False
    use_bias: bool = False
    out_scale: float = 1.0
    max_length: int | None = None
    dtype: str = "float32"
    param_dtype: str = "float32"

    def setup(self):
        dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        wrap = normalization.residual(self.normalization)
        heads = dict(
            embed_dim=self.embed_dim,
            num_heads=self.num_heads,
            head_dim=self.head_dim,
            use_bias=self.use_bias,
            out_scale=self.out_scale,
            **dtypes,
        )
        mlp = functools.partial(
            feed_forward.feed_forward,
            self.mlp_dim,
            self.activation,
            match_params=self.match_params,
            out_scale=self.out_scale,
            **dtypes,
        )
        self.attention_norm = wrap(**dtypes)
        self.mix = make_attention(
            self.attention,
            causal=self.causal,
            rotary=self.rotary,
            cache_length=self.max_length,
            name="attention",
            **heads,
        )
        if self.self_mlp:
            self.self_mlp_norm, self.between = wrap(**dtypes), mlp(name="self_mlp")
        if self.cross_attention is not None:
            self.cross_attention_norm = wrap(**dtypes)
            self.cross = make_attention(
                self.cross_attention, causal=False, name="cross_attention", **heads
            )
        self.mlp_norm = wrap(**dtypes)
        self.mlp = mlp()
        self.drop = nn.Dropout(self.dropout)

    def __call__(
        self,
        x,
        context=None,
        *,
        positions=None,
        mask=None,
        segment_ids=None,
        prefix_lengths=None,
        context_mask=None,
        train=False,
    ):
        """[B, T, D] to [B, T, D].

        Args:
            context: [B, S, D], read by cross-attention.
            positions: int [B, T], read by rotary attention.
            mask: bool [B, T], the tokens to attend to; softmax attention takes any
                that broadcasts to [B, H, T, T].
            segment_ids: int [B, T]; tokens attend to their own segment alone.
            prefix_lengths: int [B]; the first tokens that all others see.
            context_mask: bool [B, S], the part of the context to attend to.
            train: draws dropout from the rng "dropout".
        """
        y = self.mix(
            self.attention_norm.read(x),
            positions=positions,
            mask=mask,
            segment_ids=segment_ids,
            prefix_lengths=prefix_lengths,
        )
        x = self.attention_norm.write(x, self.drop(y, deterministic=not train))
        x = self._rest(x, self._remember(context, context_mask), train)
        return constrain(self, x, RESIDUAL_AXES)

    def prefill(
        self,
        x,
        context=None,
        state=None,
        *,
        positions,
        mask=None,
        prefix_lengths=None,
        context_mask=None,
    ):
        """Like a call, after the tokens of `state`; returns [B, T, D] and a state.

        Args:
            state: `LayerState`, whose context stands for `context`; None starts anew.
            prefix_lengths: int [B]; the first columns of x, which all of x sees.
        """
        if state is None:
            state = LayerState(None, self._remember(context, context_mask))
        y, attention = self.mix.prefill(
            self.attention_norm.read(x),
            state.attention,
            positions=positions,
            mask=mask,
            prefix_lengths=prefix_lengths,
        )
        x = self._rest(self.attention_norm.write(x, y), state.memory)
        return x, state.replace(attention=attention)

    def step(self, x, state, *, positions):
        """`prefill` of one token, x [B, 1, D]."""
        y, attention = self.mix.step(
            state.attention, self.attention_norm.read(x), positions=positions
        )
        x = self._rest(self.attention_norm.write(x, y), state.memory)
        return x, state.replace(attention=attention)

    def _remember(self, context, mask):
        if (context is None) != (self.cross_attention is None):
            raise ValueError(
                "a context needs a block with cross_attention, and such a block a "
                f"context: cross_attention is {self.cross_attention} and the context "
                f"is {'missing' if context is None else 'given'}"
            )
        return None if context is None else self.cross.remember(context, mask)

    def _rest(self, x, memory, train=False):
        """What follows self-attention."""
        if self.self_mlp:
            y = self.drop(
                self.between(self.self_mlp_norm.read(x)), deterministic=not train
            )
            x = self.self_mlp_norm.write(x, y)
        if memory is not None:
            y = self.cross.recall(memory, self.cross_attention_norm.read(x))
            y = self.drop(y, deterministic=not train)
            x = self.cross_attention_norm.write(x, y)
        y = self.mlp(self.mlp_norm.read(x))
        return self.mlp_norm.write(x, self.drop(y, deterministic=not train))


class PerformerDecoder(nn.Module):
    """Causal stack of equal blocks, compiled once, and a final layer normalization.

    Cross-attention is on by default; `cross_attention=None` leaves it out.

    Attributes:
        remat: recomputes each block in the backward pass instead of storing what is
            inside it.
        normalize_output: False leaves the final layer normalization out.
        others: as in `PerformerLayer`. At first every block is the identity: its last
            kernels are zeros, or with "rezero" its gains.
    """

    embed_dim: int
    num_heads: int
    mlp_dim: int
    num_layers: int
    attention: AttentionSpec = AttentionSpec()
    cross_attention: AttentionSpec | None = AttentionSpec(kind="linear")
    head_dim: int | None = None
    self_mlp: bool = False
    dropout: float = 0.0
    activation: str = "geglu"
    match_params: bool = False
    normalization: str = "layer_norm"
    rotary: bool = False
    use_bias: bool = False
    max_length: int | None = None
    normalize_output: bool = True
    remat: bool = False
    dtype: str = "float32"
    param_dtype: str = "float32"

    def setup(self):
        self.layers = _equal_blocks(self, causal=True)
        self.final_norm = _final_norm(self)

    def __call__(self, x, context=None, **options):
        """[B, T, D] to [B, T, D]; arguments as in `PerformerLayer`."""
        return _run(self, x, context, **options)

    def prefill(self, x, context=None, state=None, **options):
        """As `PerformerLayer.prefill`, the state stacked over the layers on axis 0."""

        def block(layer, x, state):
            return layer.prefill(x, context, state, **options)

        x, state = _scan(self, block)(self.layers, x, state)
        return self.final_norm(x), state

    def step(self, x, state, *, positions):
        def block(layer, x, state):
            return layer.step(x, state, positions=positions)

        x, state = _scan(self, block)(self.layers, x, state)
        return self.final_norm(x), state


class PerformerEncoder(nn.Module):
    """Bidirectional stack of equal blocks, and a final layer normalization.

    Attributes: as in `PerformerDecoder`.
    """

    embed_dim: int
    num_heads: int
    mlp_dim: int
    num_layers: int
    attention: AttentionSpec = AttentionSpec(kind="linear")
    head_dim: int | None = None
    dropout: float = 0.0
    activation: str = "geglu"
    match_params: bool = False
    normalization: str = "layer_norm"
    rotary: bool = False
    use_bias: bool = False
    normalize_output: bool = True
    remat: bool = False
    dtype: str = "float32"
    param_dtype: str = "float32"

    def setup(self):
        self.layers = _equal_blocks(self, causal=False)
        self.final_norm = _final_norm(self)

    def __call__(self, x, *, positions=None, mask=None, segment_ids=None, train=False):
        """[B, T, D] to [B, T, D]; arguments as in `PerformerLayer`.

        Raises:
            ValueError: segments, which linear attention cannot keep apart without an
                order.
        """
        options = dict(positions=positions, mask=mask, segment_ids=segment_ids)
        return _run(self, x, train=train, **options)


def _equal_blocks(stack, causal):
    """The block that a stack repeats, with the fields that both have."""
    own = {field.name for field in dataclasses.fields(stack)} - {"parent", "name"}
    fields = {
        field.name: getattr(stack, field.name)
        for field in dataclasses.fields(PerformerLayer)
        if field.name in own
    }
    # Gains and kernels that are both zero would never get a gradient.
    out_scale = 1.0 if stack.normalization == "rezero" else 0.0
    return PerformerLayer(causal=causal, out_scale=out_scale, **fields)


def _final_norm(stack):
    if not stack.normalize_output:
        return lambda x: x
    return normalization.LayerNorm(dtype=stack.dtype, param_dtype=stack.param_dtype)


def _run(stack, x, context=None, **options):
    """All blocks and the final normalization."""

    def block(layer, x, _):
        return layer(x, context, **options), None

    x, _ = _scan(stack, block)(stack.layers, x, None)
    return stack.final_norm(x)


def _scan(stack, block):
    return scan_layers(block, stack.num_layers, remat=stack.remat)


def stack_fields(model, stack):
    """The fields of a model that the class of its stack has as well."""
    own = {field.name for field in dataclasses.fields(model)} - {"parent", "name"}
    names = {field.name for field in dataclasses.fields(stack)} & own
    return {name: getattr(model, name) for name in names}
