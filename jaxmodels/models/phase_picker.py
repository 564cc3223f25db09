"""Picks the arrivals of P and S: probabilities for every sample of a waveform.

Encoder and backbone are those of a pretrainer, under the same names, and work at the
rate of its frames; a small head works at the rate of the samples.

Shapes use B batch, N samples, C components, T frames, S samples from frame to frame,
D width, W kernel size, F channels of the head, K classes.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.layers.constraint import whole
from jaxmodels.layers.heads import silence
from jaxmodels.models.mlstm_backbones import dtypes_of
from jaxmodels.models.waveform_conv import ConvBlock, activate, check_conv


class PickingHead(nn.Module):
    """Frames and samples to logits of every sample.

    Frames are interpolated linearly to the samples, the waveform stands next to them,
    and convolutions with normalization, GELU and dropout follow, then a projection.

    Attributes:
        channels: F of each convolution, at least one.
        kernel_size: W, odd.
        num_classes: K.
        stride: S.
        first_center: the sample that the first frame is at.
        norm: as in `waveform_conv.ConvBlock`.
        dropout: after each convolution.
    """

    channels: tuple
    kernel_size: int
    num_classes: int
    stride: int
    first_center: float
    norm: str = "group"
    dropout: float = 0.0
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, frames, waveform, frame_mask=None, mask=None, *, train=False):
        """[B, T, D] and [B, N, C] to float32 [B, N, K].

        Args:
            frame_mask: bool [B, T], True keeps; other frames take the place of the last
                one kept before them, or the first one of all.
            mask: bool [B, N], True keeps.
        """
        dtypes = dtypes_of(self)
        frames = frames if frame_mask is None else held(frames, frame_mask)
        block = UpsampledBlock(
            self.channels[0],
            self.kernel_size,
            self.stride,
            self.first_center,
            self.norm,
            self.dropout,
            name="block_0",
            **dtypes,
        )
        x = block(frames, silence(waveform, mask), mask, train=train)
        for i, width in enumerate(self.channels[1:], start=1):
            x, _ = ConvBlock(
                width,
                self.kernel_size,
                norm=self.norm,
                dropout=self.dropout,
                name=f"block_{i}",
                **dtypes,
            )(x, mask, train=train)
        classes = nn.Dense(
            self.num_classes, param_dtype=jnp.dtype(self.param_dtype), name="classes"
        )
        return classes(x.astype(jnp.float32))


class UpsampledBlock(nn.Module):
    """`UpsampledConv`, normalization, GELU and dropout; fields as theirs."""

    features: int
    kernel_size: int
    stride: int
    first_center: float
    norm: str = "group"
    dropout: float = 0.0
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, frames, waveform, mask=None, *, train=False):
        x = UpsampledConv(
            self.features,
            self.kernel_size,
            self.stride,
            self.first_center,
            name="conv",
            **dtypes_of(self),
        )(frames, waveform)
        return activate(self, x, mask, train=train)


class UpsampledConv(nn.Module):
    """Convolution of [frames interpolated to samples, waveform], to [B, N, F].

    Beyond both ends the frames stay level and the waveform is 0. Interpolation and
    convolution are linear: together they are one product, at the rate of the frames,
    of the frames and samples around a frame with a kernel for its S samples.

    Attributes:
        features: F.
        kernel_size: W, odd.
        stride: S.
        first_center: the sample that the first frame is at.
    """

    features: int
    kernel_size: int
    stride: int
    first_center: float
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, frames, waveform):
        """[B, T, D] and [B, N, C] to [B, N, F]."""
        width, channels = frames.shape[-1], waveform.shape[-1]
        shape = self.kernel_size, width + channels, self.features
        dtype = jnp.dtype(self.param_dtype)
        init = nn.initializers.lecun_normal()
        kernel = self.param("kernel", init, shape, dtype).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, shape[-1:], dtype)
        taps, first = interpolation_taps(
            self.kernel_size, self.stride, self.first_center
        )
        shifts = shift_taps(self.kernel_size, self.stride)
        length = -(-waveform.shape[1] // self.stride)
        parts = [
            frames_around(
                whole(self, frames.astype(self.dtype)), length, first, taps.shape[-1]
            ),
            samples_around(
                whole(self, waveform.astype(self.dtype)),
                length,
                self.stride,
                self.kernel_size // 2,
                shifts.shape[-1],
            ),
        ]
        rows = [
            jnp.einsum("SWI,WDF->IDSF", jnp.asarray(constant, kernel.dtype), part)
            for constant, part in (
                (taps, kernel[:, :width]),
                (shifts, kernel[:, width:]),
            )
        ]
        rows = [row.reshape(-1, self.stride, self.features) for row in rows]
        x = jnp.einsum(
            "BTD,DSF->BTSF", jnp.concatenate(parts, axis=-1), jnp.concatenate(rows)
        )
        x = x.reshape(x.shape[0], -1, self.features)[:, : waveform.shape[1]]
        return whole(self, x) + bias.astype(self.dtype)


class PhasePicker(nn.Module):
    """Logits of P, S and noise for every sample of a waveform of any length.

    Attributes:
        encoder: of waveforms, called as encoder(waveform, span_mask=..., channel_mask=
            ..., train=...) to an `EncoderOutput`; its `stride` and `first_center` say
            where its frames are. As in a pretrainer, so that parameters move.
        backbone: called as backbone(hidden [B, T, D], mask [B, T], train=...).
        head_channels, head_kernel_size: `channels` and `kernel_size` of `PickingHead`.
        num_classes: K; P, S and noise in this order.
        channels: C.
        dropout, norm: as in `PickingHead`.

    Raises:
        ValueError: fields that no head can have, or an array of another shape.
    """

    encoder: nn.Module
    backbone: nn.Module
    head_channels: tuple = (32, 32)
    head_kernel_size: int = 3
    num_classes: int = 3
    channels: int = 3
    dropout: float = 0.2
    norm: str = "group"
    dtype: str = "float32"
    param_dtype: str = "float32"

    def __post_init__(self):
        check_conv(self.head_kernel_size, self.norm)
        if not self.head_channels or min(*self.head_channels, self.num_classes) < 1:
            raise ValueError(
                f"head_channels {tuple(self.head_channels)} and num_classes "
                f"{self.num_classes} must be at least 1 each, for one convolution or "
                "more"
            )
        super().__post_init__()

    def setup(self):
        self.head = PickingHead(
            tuple(self.head_channels),
            self.head_kernel_size,
            self.num_classes,
            self.encoder.stride,
            self.encoder.first_center,
            self.norm,
            self.dropout,
            **dtypes_of(self),
        )

    def __call__(
        self, waveform, *, span_mask=None, channel_mask=None, mask=None, train=False
    ):
        """[B, N, C] to float32 logits [B, N, K].

        Args:
            waveform: normalized as in training.
            span_mask: bool [B, T], frames to hide from the backbone, in fine-tuning.
            channel_mask: bool [B, D], columns to set to 0 there.
            mask: bool [B, N], True keeps. What it leaves out reads as zero, changes no
                statistic, and its frames change no other one.
            train: draws dropout from the rng "dropout".
        """
        check_waveform(waveform, mask, self.channels)
        waveform = silence(waveform, mask)
        hidden = self.encoder(
            waveform, span_mask=span_mask, channel_mask=channel_mask, train=train
        ).hidden
        frame_mask = None
        if mask is not None:
            frame_mask = at_frames(mask, hidden.shape[1], self.encoder)
        x = self.backbone(hidden, frame_mask, train=train)
        return self.head(x, waveform, frame_mask, mask, train=train)


def interpolation_taps(kernel_size, stride, first_center):
    """What interpolation to samples and a convolution over them are at frames.

    Sample S t + r, through tap w of the kernel, reads frames t + first + i.

    Returns:
        float64 [S, W, I] of weights, at [r, w, i], and `first`, at most 0.
    """
    phase, tap = np.meshgrid(np.arange(stride), np.arange(kernel_size), indexing="ij")
    place = (phase + tap - kernel_size // 2 - first_center) / stride
    low = np.floor(place).astype(int)
    first = min(0, low.min())
    weights = np.zeros((*place.shape, low.max() + 2 - first))
    share = place - low
    for step, weight in ((0, 1.0 - share), (1, share)):
        weights[phase, tap, low + step - first] += weight
    return weights, int(first)


def shift_taps(kernel_size, stride):
    """As `interpolation_taps`, of samples: S t + r reads S t - W // 2 + i.

    Returns:
        float64 [S, W, I], 1 where i = r + w.
    """
    phase, tap = np.meshgrid(np.arange(stride), np.arange(kernel_size), indexing="ij")
    return np.eye(stride + kernel_size - 1)[phase + tap]


def frames_around(frames, length, first, count):
    """Frames [B, T, D] from `first` on of each, [B, `length`, `count` D].

    Beyond both ends the frames stay level.
    """
    right = max(0, length + first + count - 1 - frames.shape[1])
    padded = jnp.pad(frames, ((0, 0), (-first, right), (0, 0)), mode="edge")
    return jnp.concatenate([padded[:, i : i + length] for i in range(count)], axis=-1)


def samples_around(waveform, length, stride, before, count):
    """Samples [B, N, C] from `before` ahead of every S-th, [B, `length`, `count` C].

    Beyond both ends the waveform is 0.
    """
    batch, samples, channels = waveform.shape
    steps = -(-count // stride)
    right = (length + steps - 1) * stride - before - samples
    padded = jnp.pad(waveform, ((0, 0), (before, right), (0, 0)))
    rows = padded.reshape(batch, -1, stride, channels)
    around = [rows[:, i : i + length] for i in range(steps)]
    return jnp.concatenate(around, axis=2)[:, :, :count].reshape(batch, length, -1)


def at_frames(mask, num_frames, encoder):
    """The mask [B, N] at the samples that frames are at, bool [B, T]."""
    places = encoder.first_center + encoder.stride * np.arange(num_frames)
    return mask[:, np.clip(np.floor(places).astype(int), 0, mask.shape[1] - 1)]


def held(frames, mask):
    """Frames [B, T, D] with the last valid one before in place of each invalid one.

    The first valid one where none is before; zeros where none is valid at all.
    """
    place = jnp.where(mask, jnp.arange(mask.shape[1]), -1)
    place = jax.lax.cummax(place, axis=1)
    place = jnp.where(place < 0, jnp.argmax(mask, axis=1)[:, None], place)
    return jnp.take_along_axis(silence(frames, mask), place[..., None], axis=1)


def check_waveform(waveform, mask, channels):
    """Raises ValueError unless they are [B, N, C] and None or [B, N]."""
    if waveform.ndim != 3 or waveform.shape[-1] != channels or not waveform.shape[1]:
        raise ValueError(
            f"waveform has shape {list(waveform.shape)}, and the model takes [batch, "
            f"samples, {channels}] of at least one sample"
        )
    if mask is not None and mask.shape != waveform.shape[:2]:
        raise ValueError(
            f"mask has shape {list(mask.shape)}, and the waveform takes "
            f"{list(waveform.shape[:2])}"
        )
