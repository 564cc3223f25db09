"""SignalDiT: a diffusion transformer that broadens the band of a waveform.

An encoder reads the condition once; a decoder reads its tokens at every step of the
sampler, added to its own patches one to one and by cross-attention.

Shapes use B batch, N samples, C components, T patches, D width, L decoder layers,
H heads, K head width, S scalars.
"""

import math

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers import linformer
from jaxmodels.layers.heads import Memory, head_width
from jaxmodels.layers.positions import sinusoidal_positions
from jaxmodels.layers.time_embedding import ScalarEmbedding, TimeEmbedding
from jaxmodels.models import signal_dit_blocks as blocks
from jaxmodels.models.signal_dit_blocks import (
    DecoderBlock,
    EncoderBlock,
    FinalLayer,
    SignalDecoder,
    SignalEncoder,
    TimeSeriesProjection,
)

__all__ = [
    "AmplitudeHead",
    "Context",
    "DecoderBlock",
    "EncoderBlock",
    "FinalLayer",
    "SignalDecoder",
    "SignalDiT",
    "SignalEncoder",
    "TimeSeriesProjection",
]
INJECTIONS = ("tokens", "cross", "direct")
# Of the amplitude head: a standard deviation of 0.007. Without a bound, the likelihood
# of amplitudes that are all alike would grow until it is not finite.
LEAST_LOG_VARIANCE = -10.0


@flax.struct.dataclass
class Context:
    """What `SignalDiT.decode` reads of a condition; made once, read at every step.

    Attributes:
        tokens: [B, T, D], the output of the encoder; the learned null row where the
            condition is dropped.
        added: [B, T, D] to add to the patches of the decoder, 0 where the condition is
            dropped; None with injection "cross".
        keys, values: [L, B, T, H, K] for cross-attention; None with "direct".
        amplitude: float32 [B, 2], mean and log variance of the amplitude ratio; None
            without the head.
    """

    tokens: jax.Array
    added: jax.Array | None
    keys: jax.Array | None
    values: jax.Array | None
    amplitude: jax.Array | None

    def take(self, rows):
        """The context of the batch rows `rows`, int [M], which may repeat."""
        first = {name: getattr(self, name) for name in ("tokens", "added", "amplitude")}
        second = dict(keys=self.keys, values=self.values)
        return Context(
            **jax.tree.map(lambda x: x[rows], first),
            **jax.tree.map(lambda x: x[:, rows], second),
        )


class AmplitudeHead(nn.Module):
    """Mean and log variance of a number, from tokens and the scalars beside them.

    Both are 0 at initialization; the log variance stays above `LEAST_LOG_VARIANCE`.
    """

    embed_dim: int
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, tokens, scalars):
        """[B, T, D] and float32 [B, D] to float32 [B, 2]."""
        x = blocks.dense(self, self.embed_dim, "hidden")(tokens)
        x = jax.nn.silu(x.astype(jnp.float32) + scalars[:, None]).mean(axis=1)
        mean, free = jnp.split(blocks.zero_dense(self, 2, "out")(x), 2, axis=-1)
        least = LEAST_LOG_VARIANCE
        log_variance = least + jax.nn.softplus(free + math.log(math.expm1(-least)))
        return jnp.concatenate([mean, log_variance], axis=-1)


class SignalDiT(nn.Module):
    """Predicts what diffusion asks for, of a noisy waveform beside a condition.

    The prediction is 0 at initialization. Kernels of attention and of the feed-forward
    networks start as truncated normal values of variance 1 / inputs, as elsewhere in
    this package, and not as Xavier's uniform ones, which Peebles and Xie (2023) take
    there too.

    Attributes:
        num_samples: N, divisible by `patch_size`.
        channels: C, the components of condition and waveform alike.
        embed_dim: D, even and divisible by `num_heads`.
        mlp_dim: hidden width of the feed-forward networks.
        encoder_layers: at least 1, and 0 with injection "direct".
        attention: of tokens to each other, "linformer" or "full".
        linformer_rank, linformer_sharing: as `rank` and `sharing` in
            `linformer.LinformerAttention`; "layerwise" is one matrix for keys and
            values of all layers of encoder and decoder.
        film: as in `DecoderBlock`.
        injection: "tokens" adds the tokens of the encoder to the patches of the decoder
            besides cross-attention, "cross" has cross-attention alone, "direct" adds
            the projected patches of the condition and has neither encoder nor
            cross-attention.
        num_scalars: S, numbers that condition the decoder and the amplitude head.
        amplitude_head: predicts r = log10(std of the waveform / std of the condition).
        time_scale: as `scale` in `TimeEmbedding`: 1000 for times in [0, 1], 1 for the
            ln(sigma) / 4 of EDM.
        remat: recomputes each block in the backward pass instead of storing what is
            inside it.

    Raises:
        ValueError: fields that contradict each other, one line each.
    """

    num_samples: int
    channels: int
    patch_size: int
    embed_dim: int
    num_heads: int
    mlp_dim: int
    encoder_layers: int
    decoder_layers: int
    attention: str = "linformer"
    linformer_rank: int = 64
    linformer_sharing: str = "headwise"
    film: str = "single"
    injection: str = "tokens"
    num_scalars: int = 2
    amplitude_head: bool = True
    time_scale: float = 1000.0
    remat: bool = False
    dtype: str = "float32"
    param_dtype: str = "float32"

    def __post_init__(self):
        if problems := field_problems(self):
            raise ValueError("\n".join(problems))
        super().__post_init__()

    @property
    def num_patches(self):
        """T."""
        return self.num_samples // self.patch_size

    def setup(self):
        dtypes = blocks.dtypes_of(self)
        attention = blocks.SelfAttention(
            self.attention,
            self.num_patches,
            self.linformer_rank,
            self.linformer_sharing,
        )
        sizes = self.embed_dim, self.num_heads, self.mlp_dim
        rest = dict(patch_size=self.patch_size, attention=attention, remat=self.remat)
        self.encoder = SignalEncoder(*sizes, self.encoder_layers, **rest | dtypes)
        self.decoder = SignalDecoder(
            *sizes,
            self.decoder_layers,
            film=self.film,
            cross_attention=self.injection != "direct",
            inject=self.injection == "tokens",
            **rest | dtypes,
        )
        self.final = FinalLayer(self.channels * self.patch_size, self.param_dtype)
        self.time = TimeEmbedding(self.embed_dim, self.time_scale, self.param_dtype)
        if self.num_scalars:
            self.scalars = ScalarEmbedding(
                self.embed_dim, self.num_scalars, self.param_dtype
            )
        if self.amplitude_head:
            self.amplitude = AmplitudeHead(self.embed_dim, **dtypes)
        self._setup_tables(attention)

    def _setup_tables(self, attention):
        dtype, zeros = jnp.dtype(self.param_dtype), nn.initializers.zeros
        shape = self.num_patches, self.embed_dim
        self.position = self.param("position", zeros, shape, dtype)
        if self.injection != "direct":
            small = nn.initializers.normal(0.02)
            self.null = self.param("null", small, shape[1:], dtype)
        self.projection = None
        if attention.shares_layers:
            shape = self.num_patches, self.linformer_rank
            init = linformer.projection_init
            self.projection = self.param("projection", init, shape, dtype)

    def __call__(self, noisy, time, condition, scalars, *, keep=None, train=False):
        """`encode` and `decode` in one.

        Returns:
            The prediction, float32 [B, N, C], and the `Context`.
        """
        context = self.encode(condition, scalars, keep=keep, train=train)
        return self.decode(noisy, time, scalars, context), context

    def encode(self, condition, scalars, *, keep=None, train=False):
        """Reads a condition, once for all steps of a sampler.

        Args:
            condition: [B, N, C].
            scalars: [B, S]; NaN is unknown. Read by the amplitude head.
            keep: bool [B]; False drops the condition of a row from what the decoder
                reads of it, for guidance. The amplitude is of the condition all the
                same, and scalars stay.
            train: without effect; nothing in the model is random.

        Returns:
            `Context`.

        Raises:
            ValueError: an array of another shape.
        """
        self._check("condition", condition, (None, self.num_samples, self.channels))
        self._check("scalars", scalars, (condition.shape[0], self.num_scalars))
        tokens = self.encoder(condition, self._positions(), self.projection)
        amplitude = None
        if self.amplitude_head:
            amplitude = self.amplitude(tokens, self._embed(scalars))
        added = self._added(tokens)
        if keep is not None:
            self._check("keep", keep, condition.shape[:1])
            kept = keep[:, None, None]
            added = None if added is None else jnp.where(kept, added, 0)
            if self.injection != "direct":
                tokens = jnp.where(kept, tokens, self.null.astype(tokens.dtype))
        if self.injection == "direct":
            return Context(tokens, added, None, None, amplitude)
        memory = self.decoder.remember(tokens)
        return Context(tokens, added, memory.key, memory.value, amplitude)

    def decode(self, noisy, time, scalars, context):
        """One prediction beside a context.

        Args:
            noisy: [B, N, C].
            time: [B].
            scalars: [B, S]; NaN is unknown.
            context: of `encode`.

        Returns:
            float32 [B, N, C].

        Raises:
            ValueError: an array of another shape.
        """
        self._check("noisy", noisy, (None, self.num_samples, self.channels))
        batch = noisy.shape[0]
        self._check("time", time, (batch,))
        self._check("scalars", scalars, (batch, self.num_scalars))
        self._check("context.tokens", context.tokens, (batch, None, self.embed_dim))
        condition = jax.nn.silu(self.time(time) + self._embed(scalars))
        memory = None
        if context.keys is not None:
            memory = Memory(context.keys, context.values, None)
        x = self.decoder(
            noisy,
            self._positions(),
            condition,
            context.added,
            memory,
            self.projection,
        )
        return blocks.from_patches(self.final(x, condition), self.channels)

    def _added(self, tokens):
        """What the decoder adds to its patches, [B, T, D] or None."""
        if self.injection == "tokens":
            return self.decoder.injection(tokens)
        return tokens if self.injection == "direct" else None

    def _positions(self):
        """Fixed and learned positions, float32 [T, D]."""
        places = jnp.arange(self.num_patches)
        return sinusoidal_positions(places, self.embed_dim) + self.position

    def _embed(self, scalars):
        """[B, S] to float32 [B, D]."""
        if not self.num_scalars:
            return jnp.zeros((scalars.shape[0], self.embed_dim), jnp.float32)
        return self.scalars(scalars)

    def _check(self, name, array, shape):
        """Raises unless `array` has the shape; None fits any size."""
        fits = array.ndim == len(shape) and all(
            wanted in (None, size)
            for size, wanted in zip(array.shape, shape, strict=True)
        )
        if not fits:
            wanted = ", ".join("any" if n is None else str(n) for n in shape)
            raise ValueError(
                f"{name} has shape {list(array.shape)}, and the model takes "
                f"[{wanted}]: num_samples {self.num_samples}, channels "
                f"{self.channels}, num_scalars {self.num_scalars}; cut or fill the "
                "input, or build the model for its size"
            )


def field_problems(model):
    """What is wrong with the fields of a `SignalDiT`, one line each."""
    sizes = "num_samples", "channels", "patch_size", "embed_dim", "num_heads", "mlp_dim"
    lowest = dict.fromkeys((*sizes, "decoder_layers"), 1)
    lowest |= dict(encoder_layers=0, num_scalars=0)
    lines = [
        f"{name} {getattr(model, name)} must be at least {least}"
        for name, least in lowest.items()
        if getattr(model, name) < least
    ]
    for name, known in (
        ("attention", blocks.ATTENTIONS),
        ("film", blocks.FILMS),
        ("injection", INJECTIONS),
    ):
        if (value := getattr(model, name)) not in known:
            lines.append(f"unknown {name} {value!r}; choose one of {', '.join(known)}")
    if lines:
        return lines
    if model.num_samples % model.patch_size:
        below = model.num_samples // model.patch_size * model.patch_size
        near = [n for n in (below, below + model.patch_size) if n]
        lines.append(
            f"num_samples {model.num_samples} is not divisible by patch_size "
            f"{model.patch_size}; try {' or '.join(map(str, near))}"
        )
    if model.embed_dim % 2:
        lines.append(
            f"embed_dim {model.embed_dim} is odd, and positions are pairs of sine and "
            f"cosine; try {model.embed_dim + 1}"
        )
    try:
        head_width(model.embed_dim, model.num_heads)
    except ValueError as error:
        lines.append(str(error).replace(", or give head_dim", ""))
    if (model.injection == "direct") != (model.encoder_layers == 0):
        lines.append(
            f"encoder_layers {model.encoder_layers} with injection "
            f"{model.injection!r}: 'direct' has no encoder and takes 0, the others "
            "at least 1"
        )
    if model.attention == "linformer" and not model.num_samples % model.patch_size:
        rank, sharing = model.linformer_rank, model.linformer_sharing
        lines += linformer.check(model.num_patches, rank, sharing)
    return lines
