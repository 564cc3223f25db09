"""A phase picker for live streams: causal throughout, its state carried in frames.

A frame is four samples. A frame's logits depend on its own samples and on those before
it, so that one look at a frame after the other gives what one look at all gives.

Shapes use B batch, N samples, C components, T frames of 4 samples, D width, F channels
of the head, L layers.
"""

import functools
import math
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.constraint import whole
from jaxmodels.layers.feed_forward import gelu_erf
from jaxmodels.layers.mlstm_block import MLSTMBlock
from jaxmodels.layers.normalization import LayerNorm
from jaxmodels.layers.stack import scan_layers

FRAME = 4
HEAD_SIZE = 7


@flax.struct.dataclass
class RunningStatistics:
    """Exponential averages of each component's samples before a frame.

    Attributes:
        offset: [B, C], the mean of the first frame, which all others are relative to:
            the digits of a large constant would be lost to the averages.
        mean, variance: [B, C], weighted sums.
        weight: [B, 1], the sum of their weights: 0 before the first sample, 1 later.
    """

    offset: jax.Array
    mean: jax.Array
    variance: jax.Array
    weight: jax.Array


@flax.struct.dataclass
class StreamingState:
    """All that `StreamingPicker` keeps of the samples before a frame.

    Attributes:
        statistics: `RunningStatistics`.
        samples, halves: [B, 1, C], [B, 1, D]: the last input of both convolutions.
        blocks: `MLSTMBlockState` of every layer, stacked on axis 0.
        head: [B, 6, F + C], the last inputs of the head's convolution.
    """

    statistics: RunningStatistics
    samples: jax.Array
    halves: jax.Array
    blocks: Any
    head: jax.Array


class StreamingPicker(nn.Module):
    """Phase probabilities of a stream by mLSTM blocks in one direction.

    Running normalization, two causal convolutions of stride 2, mLSTM blocks, and a head
    at full rate that also sees the normalized samples.

    Attributes:
        embed_dim, num_layers: D, L.
        num_heads, projection_factor, chunk_size, dropout: as in `MLSTMBlock`.
        head_channels: F.
        channels, num_classes: components in, classes out: P, S and noise.
        statistics_seconds: time constant of the running normalization.
        sampling_rate: of the waveform, in Hz.

    Raises:
        ValueError: the waveform has another number of components, or a stream is not
            of whole frames.
    """

    embed_dim: int
    num_layers: int
    num_heads: int = 4
    head_channels: int = 16
    channels: int = 3
    num_classes: int = 3
    statistics_seconds: float = 30.0
    sampling_rate: float = 100.0
    projection_factor: int = 2
    chunk_size: int = 64
    dropout: float = 0.0
    dtype: str = "float32"
    param_dtype: str = "float32"

    @property
    def latency(self):
        """Samples that the first sample of a frame waits for: the rest of the frame."""
        return FRAME - 1

    def __call__(self, waveform, *, mask=None, train=False):
        """Logits of every sample.

        Args:
            waveform: [B, N, C], of any unit and any N; the last frame may be short.
            mask: bool [B, N], False for samples that change no other one.
            train: whether dropout is on.

        Returns:
            float32 [B, N, num_classes].
        """
        length = waveform.shape[1]
        missing = -length % FRAME
        if missing and mask is None:
            mask = jnp.ones(waveform.shape[:2], bool)
        waveform = jnp.pad(waveform, ((0, 0), (0, missing), (0, 0)))
        if mask is not None:
            mask = jnp.pad(mask, ((0, 0), (0, missing)))

        def run(layer, x, state, mask):
            return layer(x, mask, train=train), state

        state = self.initial_state(waveform.shape[0]).replace(blocks=None)
        return self._logits(state, waveform, run, mask)[1][:, :length]

    def extend(self, state, samples):
        """Continues a stream by whole frames.

        Args:
            state: `StreamingState` of `initial_state`, `extend` or `step`.
            samples: [B, 4 k, C].

        Returns:
            The next state and float32 logits [B, 4 k, num_classes].
        """

        def run(layer, x, state, mask):
            state, x = layer.extend(state, x)
            return x, state

        return self._logits(state, samples, run)

    def step(self, state, samples):
        """`extend` by one frame [B, 4, C]."""

        def run(layer, x, state, mask):
            state, x = layer.step(state, x[:, 0])
            return x[:, None], state

        if samples.shape[1] != FRAME:
            raise ValueError(
                f"a step takes {FRAME} samples, not {samples.shape[1]}; "
                "extend takes any number of frames"
            )
        return self._logits(state, samples, run)

    @nn.nowrap
    def initial_state(self, batch_size):
        """The `StreamingState` before the first sample."""
        zeros = functools.partial(jnp.zeros, dtype=jnp.float32)
        block = self._block(parent=None).initial_state(batch_size, self.embed_dim)
        inner = jnp.dtype(self.dtype)
        return StreamingState(
            statistics=RunningStatistics(
                offset=zeros((batch_size, self.channels)),
                mean=zeros((batch_size, self.channels)),
                variance=zeros((batch_size, self.channels)),
                weight=zeros((batch_size, 1)),
            ),
            samples=jnp.zeros((batch_size, 1, self.channels), inner),
            halves=jnp.zeros((batch_size, 1, self.embed_dim), inner),
            blocks=jax.tree.map(
                lambda x: jnp.broadcast_to(x, (self.num_layers, *x.shape)), block
            ),
            head=jnp.zeros(
                (batch_size, HEAD_SIZE - 1, self.head_channels + self.channels), inner
            ),
        )

    @nn.nowrap
    def _block(self, **options):
        return MLSTMBlock(
            num_heads=self.num_heads,
            projection_factor=self.projection_factor,
            num_blocks=self.num_layers,
            chunk_size=self.chunk_size,
            dropout=self.dropout,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            **options,
        )

    @nn.compact
    def _logits(self, state, samples, run, mask=None):
        """Next state and logits; `run` takes a layer, x, its state and the mask."""
        self._check(samples)
        decay = math.exp(-FRAME / (self.statistics_seconds * self.sampling_rate))
        statistics, samples = normalize(state.statistics, samples, decay, mask)
        samples = samples.astype(self.dtype)
        frames = None if mask is None else mask.reshape(len(mask), -1, FRAME).any(-1)

        conv = functools.partial(self._convolution, strides=2, size=3)
        before, x = conv(state.samples, samples, features=self.embed_dim, name="conv_0")
        state = state.replace(statistics=statistics, samples=before)
        x = gelu_erf(self._norm("conv_norm_0")(x))
        before, x = conv(state.halves, x, features=self.embed_dim, name="conv_1")
        state = state.replace(halves=before)
        x = gelu_erf(self._norm("conv_norm_1")(x))  # B T D

        layers = scan_layers(
            lambda layer, x, state: run(layer, x, state, frames), self.num_layers
        )
        x, blocks = layers(self._block(name="blocks"), x, state.blocks)

        x = self._dense(FRAME * self.head_channels, "unfold")(self._norm("norm")(x))
        x = x.reshape(x.shape[0], -1, self.head_channels)
        x = jnp.concatenate([x, samples], axis=-1)  # B N F+C
        before, x = self._convolution(
            state.head, x, features=self.head_channels, size=HEAD_SIZE, name="head_conv"
        )
        x = self._dense(self.num_classes, "head")(gelu_erf(x))
        return state.replace(blocks=blocks, head=before), x.astype(jnp.float32)

    def _check(self, samples):
        if samples.ndim != 3 or samples.shape[2] != self.channels:
            raise ValueError(
                f"a waveform of shape {samples.shape} is not [batch, samples, "
                f"{self.channels}]; add the components that are missing as zeros"
            )
        if samples.shape[1] % FRAME or not samples.shape[1]:
            raise ValueError(
                f"{samples.shape[1]} samples are not whole frames of {FRAME}; keep the "
                "rest for the next call"
            )

    def _convolution(self, before, x, *, features, size, name, strides=1):
        """Returns the last inputs, for the frames that follow, and the outputs."""
        x = whole(self, jnp.concatenate([before.astype(x.dtype), x], axis=1))
        out = nn.Conv(
            features,
            (size,),
            strides=strides,
            padding="VALID",
            dtype=jnp.dtype(self.dtype),
            param_dtype=jnp.dtype(self.param_dtype),
            name=name,
        )(x)
        return x[:, x.shape[1] - before.shape[1] :], whole(self, out)

    def _dense(self, features, name):
        dtype, param_dtype = jnp.dtype(self.dtype), jnp.dtype(self.param_dtype)
        return nn.Dense(features, dtype=dtype, param_dtype=param_dtype, name=name)

    def _norm(self, name):
        return LayerNorm(dtype=self.dtype, param_dtype=self.param_dtype, name=name)


def normalize(statistics, samples, decay, mask=None):
    """Centers and scales each component by what was before, and compresses it.

    A frame's mean and deviation are exponential averages over itself and the frames
    before. asinh of the quotient is linear within the noise and logarithmic far above
    it: an arrival ten thousand times the noise stays below 10. No gradient passes.

    Args:
        statistics: `RunningStatistics` before the samples.
        samples: [B, N, C], N a multiple of 4.
        decay: of the averages over one frame.
        mask: bool [B, N]; False for samples that do not count and become zero.

    Returns:
        The next `RunningStatistics` and float32 [B, N, C]; zero where a component has
        been constant.
    """
    batch, length, channels = samples.shape
    frames = batch, length // FRAME, FRAME
    samples = jax.lax.stop_gradient(samples).astype(jnp.float32)
    counts = jnp.ones((batch, length), bool) if mask is None else mask
    samples = jnp.where(counts[..., None], samples, 0)
    samples, counts = samples.reshape(*frames, channels), counts.reshape(*frames, 1)

    def step(before, frame):
        x, counts = frame  # B 4 C and B 4 1
        number = counts.sum(axis=1)
        average = functools.partial(_average, counts=counts, number=number)
        offset = jnp.where(before.weight > 0, before.offset, average(x))
        x = x - offset[:, None]
        weight = decay * before.weight + 1 - decay
        mean = decay * before.mean + (1 - decay) * average(x)
        x = x - (mean / weight)[:, None]
        variance = decay * before.variance + (1 - decay) * average(jnp.square(x))
        after = RunningStatistics(offset, mean, variance, weight)
        after = jax.tree.map(
            lambda new, old: jnp.where(number > 0, new, old), after, before
        )
        deviation = jnp.sqrt(variance / weight)[:, None]
        alive = counts & (deviation > 0)
        return after, jnp.where(alive, x / jnp.where(alive, deviation, 1), 0)

    moved = jnp.moveaxis(samples, 1, 0), jnp.moveaxis(counts, 1, 0)
    statistics, out = jax.lax.scan(step, statistics, moved)
    out = jnp.arcsinh(jnp.moveaxis(out, 0, 1))
    return statistics, out.reshape(batch, length, channels)


def _average(x, counts, number):
    """Mean of [B, 4, C] over the samples that count, 0 where none does."""
    return jnp.where(counts, x, 0).sum(axis=1) / jnp.maximum(number, 1)
