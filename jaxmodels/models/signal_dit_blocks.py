"""The parts of SignalDiT: patches, blocks, their modulation, encoder and decoder.

Modulation is the adaptive layer normalization of Peebles and Xie (2023), extended to
cross-attention. All of it is float32; `dtype` is that of the blocks.

Shapes use B batch, N samples, C components, P patch size, T patches, D width, L layers,
H heads, K head width, M numbers of a modulation.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers import linformer
from jaxmodels.layers.attention import Attention
from jaxmodels.layers.constraint import constrain
from jaxmodels.layers.feed_forward import Mlp
from jaxmodels.layers.normalization import LayerNorm, PreLayerNorm, layer_norm
from jaxmodels.layers.stack import scan_layers

ATTENTIONS = ("linformer", "full")
FILMS = ("single", "adaln", "adaln6")
EPSILON = 1e-6
RESIDUAL_AXES = ("batch", "length", "embed")


def to_patches(waveform, size):
    """[B, N, C] to [B, N / P, C P], one component after the other inside a patch."""
    batch, samples, components = waveform.shape
    x = waveform.reshape(batch, samples // size, size, components)
    return x.swapaxes(2, 3).reshape(batch, samples // size, components * size)


def from_patches(patches, components):
    """The inverse of `to_patches`: [B, T, C P] to [B, T P, C]."""
    batch, length, width = patches.shape
    x = patches.reshape(batch, length, components, width // components)
    return x.swapaxes(2, 3).reshape(batch, -1, components)


def adaptive_layer_norm(x, scale, shift):
    """(1 + scale) normalized(x) + shift, float32, of each row of the batch.

    Its backward pass keeps what that of `layer_norm` keeps.

    Args:
        x: [B, T, D].
        scale, shift: float32 [B, D].
    """
    return jax.vmap(lambda *row: layer_norm(*row, EPSILON))(x, 1.0 + scale, shift)


def modulated(x, film, branch):
    """x + gate branch((1 + scale) normalized(x) + shift).

    Args:
        x: [B, T, D].
        film: float32 [B, 3, D]: scale, shift and gate.
        branch: [B, T, D] to [B, T, D].
    """
    scale, shift, gate = film[:, 0], film[:, 1], film[:, 2]
    y = branch(adaptive_layer_norm(x, scale, shift).astype(x.dtype))
    return x + gate[:, None].astype(x.dtype) * y


def dense(module, features, name=None):
    """A projection whose first values are Xavier's and whose bias starts at 0."""
    return nn.Dense(
        features,
        kernel_init=nn.initializers.xavier_uniform(),
        dtype=jnp.dtype(module.dtype),
        param_dtype=jnp.dtype(module.param_dtype),
        name=name,
    )


def zero_dense(module, features, name=None):
    """A float32 projection that starts as zero."""
    return nn.Dense(
        features,
        kernel_init=nn.initializers.zeros,
        param_dtype=jnp.dtype(module.param_dtype),
        name=name,
    )


@dataclasses.dataclass(frozen=True)
class SelfAttention:
    """Which self-attention the blocks use.

    Attributes:
        kind: "linformer" or "full".
        length: T, which a Linformer is made for.
        rank, sharing: as in `linformer.LinformerAttention`.
    """

    kind: str
    length: int
    rank: int
    sharing: str

    @property
    def shares_layers(self):
        """Whether the caller owns the one matrix of all layers."""
        return self.kind == "linformer" and self.sharing == "layerwise"

    def make(self, **fields):
        """The module, called with [B, T, D] and the shared matrix or None."""
        if self.kind == "full":
            module = Attention(**fields)
            return lambda x, projection: module(x)
        return linformer.LinformerAttention(
            length=self.length, rank=self.rank, sharing=self.sharing, **fields
        )


class TimeSeriesProjection(nn.Module):
    """Cuts a waveform into patches and projects each: [B, N, C] to [B, N / P, D]."""

    embed_dim: int
    patch_size: int
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, waveform):
        patches = to_patches(waveform, self.patch_size).astype(self.dtype)
        return dense(self, self.embed_dim, "projection")(patches)


class EncoderBlock(nn.Module):
    """Bidirectional self-attention and a feed-forward network, each normalized first.

    Attributes:
        embed_dim: D, divisible by `num_heads`.
        mlp_dim: hidden width of the feed-forward network.
        attention: of the tokens to each other.
    """

    embed_dim: int
    num_heads: int
    mlp_dim: int
    attention: SelfAttention
    dtype: str = "float32"
    param_dtype: str = "float32"

    def setup(self):
        dtypes = dtypes_of(self)
        self.attention_norm = PreLayerNorm(EPSILON, **dtypes)
        self.mix = self.attention.make(name="attention", **_heads(self))
        self.mlp_norm = PreLayerNorm(EPSILON, **dtypes)
        self.mlp = Mlp(self.mlp_dim, "gelu_tanh", **dtypes)

    def __call__(self, x, projection=None):
        """[B, T, D] to [B, T, D]; `projection` as in `LinformerAttention`."""
        x = self.attention_norm(x, lambda y: self.mix(y, projection))
        return constrain(self, self.mlp_norm(x, self.mlp), RESIDUAL_AXES)


class DecoderBlock(nn.Module):
    """Self-attention, cross-attention and a feed-forward network, each modulated.

    x += gate1 * self_attention((1 + scale1) * normalized(x) + shift1), and in the same
    way the other two. The gates are 0 at first, so that a new block is the identity.

    Attributes:
        film: "single" adds a table of its own to a modulation that all blocks share
            (Chen et al., 2024, PixArt-alpha, 2.3); "adaln" has a projection of its
            own; "adaln6" too, and leaves cross-attention without modulation.
        cross_attention: whether the block reads a context.
        others: as in `EncoderBlock`.
    """

    embed_dim: int
    num_heads: int
    mlp_dim: int
    attention: SelfAttention
    film: str = "single"
    cross_attention: bool = True
    dtype: str = "float32"
    param_dtype: str = "float32"

    def setup(self):
        self.mix = self.attention.make(name="attention", **_heads(self))
        if self.cross_attention:
            # Where no gate closes it at first, its own kernel does.
            gated = self.film != "adaln6"
            fields = _heads(self) | dict(out_scale=1.0 if gated else 0.0)
            self.cross = Attention(name="cross_attention", **fields)
        self.mlp = Mlp(self.mlp_dim, "gelu_tanh", **dtypes_of(self))
        count = film_numbers(self.film, self.cross_attention)
        if self.film == "single":
            shape, dtype = (count, self.embed_dim), jnp.dtype(self.param_dtype)
            self.table = self.param("table", nn.initializers.zeros, shape, dtype)
        else:
            self.modulation = zero_dense(self, count * self.embed_dim)

    def __call__(self, x, condition, memory=None, projection=None):
        """[B, T, D] to [B, T, D].

        Args:
            condition: float32 [B, D], or with film "single" the modulation [B, M D]
                that all blocks share.
            memory: `heads.Memory` of `remember`, given with cross-attention.
            projection: as in `LinformerAttention`.
        """
        films = self._films(condition)
        x = modulated(x, films[:, 0], lambda y: self.mix(y, projection))
        if self.cross_attention and self.film == "adaln6":
            plain = jnp.zeros_like(films[:, 0, 0])
            y = adaptive_layer_norm(x, plain, plain).astype(x.dtype)
            x += self.cross.recall(memory, y)
        elif self.cross_attention:
            x = modulated(x, films[:, 1], lambda y: self.cross.recall(memory, y))
        x = modulated(x, films[:, -1], self.mlp)
        return constrain(self, x, RESIDUAL_AXES)

    def remember(self, context):
        """The keys and values that cross-attention reads of [B, T, D]."""
        return self.cross.remember(context)

    def _films(self, condition):
        """Scale, shift and gate of each modulated part: [B, parts, 3, D]."""
        shape = condition.shape[0], -1, 3, self.embed_dim
        if self.film == "single":
            return condition.reshape(shape) + self.table.reshape(1, *shape[1:])
        return self.modulation(condition).reshape(shape)


class SignalEncoder(nn.Module):
    """Condition to tokens: patches, a stack of `EncoderBlock`, a normalization.

    Attributes:
        num_layers: L; 0 leaves the patches as they are projected.
        others: as in `EncoderBlock`.
    """

    embed_dim: int
    num_heads: int
    mlp_dim: int
    num_layers: int
    patch_size: int
    attention: SelfAttention
    remat: bool = False
    dtype: str = "float32"
    param_dtype: str = "float32"

    def setup(self):
        dtypes = dtypes_of(self)
        self.patch = TimeSeriesProjection(self.embed_dim, self.patch_size, **dtypes)
        if self.num_layers:
            sizes = self.embed_dim, self.num_heads, self.mlp_dim, self.attention
            self.layers = EncoderBlock(*sizes, **dtypes)
            self.final_norm = LayerNorm(EPSILON, **dtypes)

    def __call__(self, condition, position, projection=None):
        """[B, N, C] to [B, T, D].

        Args:
            position: [T, D].
            projection: as in `LinformerAttention`.
        """
        x = self.patch(condition)
        if not self.num_layers:
            return x
        x = constrain(self, x + position.astype(x.dtype), RESIDUAL_AXES)

        def block(layer, x, _):
            return layer(x, projection), None

        scan = scan_layers(block, self.num_layers, remat=self.remat)
        return self.final_norm(scan(self.layers, x, None)[0])


class SignalDecoder(nn.Module):
    """Noisy waveform to tokens: patches, what the encoder adds, `DecoderBlock`s.

    Attributes:
        num_layers: L.
        inject: whether the tokens of the encoder are projected and added to the
            patches, one to one.
        others: as in `DecoderBlock`.
    """

    embed_dim: int
    num_heads: int
    mlp_dim: int
    num_layers: int
    patch_size: int
    attention: SelfAttention
    film: str = "single"
    cross_attention: bool = True
    inject: bool = True
    remat: bool = False
    dtype: str = "float32"
    param_dtype: str = "float32"

    def setup(self):
        dtypes = dtypes_of(self)
        self.patch = TimeSeriesProjection(self.embed_dim, self.patch_size, **dtypes)
        if self.inject:
            self.injection = dense(self, self.embed_dim)
        if self.film == "single":
            count = film_numbers(self.film, self.cross_attention)
            self.modulation = zero_dense(self, count * self.embed_dim)
        sizes = self.embed_dim, self.num_heads, self.mlp_dim, self.attention
        self.layers = DecoderBlock(*sizes, self.film, self.cross_attention, **dtypes)

    def __call__(self, noisy, position, condition, added, memory=None, projection=None):
        """[B, N, C] to [B, T, D].

        Args:
            position: [T, D].
            condition: float32 [B, D].
            added: [B, T, D], or None.
            memory: of `remember`, or None without cross-attention.
            projection: as in `LinformerAttention`.
        """
        x = self.patch(noisy)
        x += position.astype(x.dtype)
        x = x if added is None else x + added
        x = constrain(self, x, RESIDUAL_AXES)
        if self.film == "single":
            condition = self.modulation(condition)

        def block(layer, x, memory):
            return layer(x, condition, memory, projection), None

        scan = scan_layers(block, self.num_layers, remat=self.remat)
        return scan(self.layers, x, memory)[0]

    def remember(self, tokens):
        """Keys and values of all blocks, `heads.Memory` of [L, B, T, H, K]."""

        def block(layer, tokens, _):
            return tokens, layer.remember(tokens)

        return scan_layers(block, self.num_layers)(self.layers, tokens, None)[1]


class FinalLayer(nn.Module):
    """Modulated normalization and a projection, float32: [B, T, D] to [B, T, F].

    Both start as zero, and with them the output (Peebles and Xie, 2023).
    """

    features: int
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, x, condition):
        """`condition` is float32 [B, D]."""
        film = zero_dense(self, 2 * x.shape[-1], "modulation")(condition)
        scale, shift = jnp.split(film, 2, axis=-1)
        return zero_dense(self, self.features, "projection")(
            adaptive_layer_norm(x, scale, shift)
        )


def film_numbers(film, cross_attention):
    """M: scales, shifts and gates that a block reads."""
    return 9 if cross_attention and film != "adaln6" else 6


def dtypes_of(module):
    """The two types of a module, for its sub-modules."""
    return dict(dtype=module.dtype, param_dtype=module.param_dtype)


def _heads(module):
    """Fields of softmax attention without biases of queries, keys and values.

    A key bias moves all logits of a query alike, and would get no gradient.
    """
    return dict(
        embed_dim=module.embed_dim,
        num_heads=module.num_heads,
        query_key_start=1.0,
        out_bias=True,
        **dtypes_of(module),
    )
