"""Strided convolutions that make frames of a waveform, for contrastive pretraining.

The feature encoder of wav2vec 2.0 (Baevski et al., 2020, sections 2 and 4.2) for
several components and a stride of four samples.

Shapes use B batch, N samples, C components, T frames, F feature width, D width.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.constraint import constrain, whole
from jaxmodels.layers.feed_forward import gelu_erf
from jaxmodels.layers.normalization import LayerNorm
from jaxmodels.models.encoder_output import EncoderOutput

PADDINGS = ("same", "valid")
PROJECTIONS = ("dense", "identity", "auto")
FRAME_AXES = ("batch", "length", "embed")


class ConvFeatures(nn.Module):
    """Convolution, layer normalization and GELU, once for each of the strides.

    Attributes:
        channels: width after each convolution; the last is F.
        strides: of each convolution.
        kernel_size, dilation: of all convolutions.
        padding: "same" has ceil(n / stride) outputs for n inputs, zeros beyond both
            ends; "valid" has those that see no such zero.
    """

    channels: tuple
    strides: tuple
    kernel_size: int = 3
    dilation: int = 1
    padding: str = "same"
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, waveform):
        """[B, N, C] to [B, T, F]."""
        x = whole(self, waveform.astype(self.dtype))
        sides = _sides(self.kernel_size, self.dilation, self.padding)
        for i, (width, stride) in enumerate(
            zip(self.channels, self.strides, strict=True)
        ):
            x = nn.Conv(
                width,
                (self.kernel_size,),
                strides=stride,
                padding=(sides,),
                kernel_dilation=self.dilation,
                kernel_init=nn.initializers.he_normal(),
                bias_init=uniform_of_inputs(self.kernel_size * x.shape[-1]),
                dtype=jnp.dtype(self.dtype),
                param_dtype=jnp.dtype(self.param_dtype),
                name=f"conv_{i}",
            )(x)
            x = whole(self, x)
            x = LayerNorm(name=f"norm_{i}", **_dtypes(self))(x)
            x = whole(self, gelu_erf(x))
        return x


class ConvDownEncoderContrastive(nn.Module):
    """Frames of a waveform for contrastive learning: shared features, hidden inputs.

    First values are those of wav2vec 2.0: He's normal kernels of convolutions, uniform
    projection within 1 / sqrt(F), uniform mask embedding in [0, 1).

    Attributes:
        embed_dim: D, what the backbone reads.
        conv_channels: width after each convolution; the last is F.
        channels: C.
        kernel_size, strides, dilation, padding: as in `ConvFeatures`.
        feature_projection: from F to D: "dense"; "identity", for equal widths; or
            "auto", identity at equal widths and dense at others.
        dropout: on the projected features, before frames are hidden.

    Raises:
        ValueError: fields that contradict each other, one line each.
    """

    embed_dim: int
    conv_channels: tuple = (256, 256)
    channels: int = 3
    kernel_size: int = 3
    strides: tuple = (2, 2)
    dilation: int = 1
    padding: str = "same"
    feature_projection: str = "dense"
    dropout: float = 0.0
    dtype: str = "float32"
    param_dtype: str = "float32"

    def __post_init__(self):
        if problems := field_problems(self):
            raise ValueError("\n".join(problems))
        super().__post_init__()

    @property
    def stride(self):
        """Samples from one frame to the next."""
        return math.prod(self.strides)

    @property
    def first_center(self):
        """Sample in the middle of what the first frame sees; the next is `stride` on.

        A half where the middle falls between two samples.
        """
        left, right = _sides(self.kernel_size, self.dilation, self.padding)
        offset = 0.5 * self.dilation * (self.kernel_size - 1) - left
        return sum(
            offset * math.prod(self.strides[:i]) for i in range(len(self.strides))
        )

    @property
    def reach(self):
        """Samples that a frame sees to the further side of its middle one."""
        left, right = _sides(self.kernel_size, self.dilation, "same")
        side = max(left, right)
        return sum(side * math.prod(self.strides[:i]) for i in range(len(self.strides)))

    @nn.nowrap
    def num_frames(self, num_samples):
        """T of a waveform of `num_samples`.

        Raises:
            ValueError: too few samples for a frame.
        """
        reach = self.dilation * (self.kernel_size - 1)
        frames = num_samples
        for stride in self.strides:
            cut = reach if self.padding == "valid" else 0
            frames = (frames - cut - 1) // stride + 1
        if frames < 1:
            raise ValueError(
                f"{num_samples} samples make no frame with padding {self.padding!r}; "
                f"give at least {self._fewest_samples()}"
            )
        return frames

    @nn.nowrap
    def _fewest_samples(self):
        """The shortest waveform that makes one frame."""
        samples = 1
        for stride in reversed(self.strides):
            cut = self.dilation * (self.kernel_size - 1)
            samples = (samples - 1) * stride + 1
            samples += cut if self.padding == "valid" else 0
        return samples

    @nn.compact
    def __call__(self, waveform, *, span_mask=None, channel_mask=None, train=False):
        """Features of all frames, and what the backbone reads of them.

        Args:
            waveform: [B, N, C], normalized.
            span_mask: bool [B, T], the frames to hide behind the learned
                `mask_embedding`; none when omitted.
            channel_mask: bool [B, D], the columns of the projected features to set to
                0, of hidden frames as well; none when omitted.
            train: draws dropout from the rng "dropout".

        Returns:
            `EncoderOutput`; what is masked changes `hidden` alone.

        Raises:
            ValueError: an array of another shape.
        """
        batch, frames = self._check(waveform, span_mask, channel_mask)
        features = ConvFeatures(
            tuple(self.conv_channels),
            tuple(self.strides),
            self.kernel_size,
            self.dilation,
            self.padding,
            name="feature_extractor",
            **_dtypes(self),
        )(waveform)
        features = LayerNorm(name="feature_norm", **_dtypes(self))(features)
        features = constrain(self, features, FRAME_AXES)
        x = self._project(features)
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        embedding = self.param(
            "mask_embedding",
            nn.initializers.uniform(1.0),
            (self.embed_dim,),
            jnp.dtype(self.param_dtype),
        )
        if span_mask is not None:
            x = jnp.where(span_mask[..., None], embedding.astype(x.dtype), x)
        if channel_mask is not None:
            x = jnp.where(channel_mask[:, None], 0, x)
        return EncoderOutput(features, constrain(self, x, FRAME_AXES))

    def _project(self, features):
        """[B, T, F] to [B, T, D]."""
        width = features.shape[-1]
        same = width == self.embed_dim
        if self.feature_projection == "identity" or (
            self.feature_projection == "auto" and same
        ):
            return features
        start = uniform_of_inputs(width)
        return nn.Dense(
            self.embed_dim,
            kernel_init=start,
            bias_init=start,
            dtype=jnp.dtype(self.dtype),
            param_dtype=jnp.dtype(self.param_dtype),
            name="projection",
        )(features)

    def _check(self, waveform, span_mask, channel_mask):
        """B and T of arrays that fit each other; raises for others."""
        if waveform.ndim != 3 or waveform.shape[-1] != self.channels:
            raise ValueError(
                f"waveform has shape {list(waveform.shape)}, and the encoder takes "
                f"[batch, samples, {self.channels}]"
            )
        shape = waveform.shape[0], self.num_frames(waveform.shape[1])
        wide = waveform.shape[0], self.embed_dim
        for name, array, wanted in (
            ("span_mask", span_mask, shape),
            ("channel_mask", channel_mask, wide),
        ):
            if array is not None and array.shape != wanted:
                raise ValueError(
                    f"{name} has shape {list(array.shape)}, and {waveform.shape[1]} "
                    f"samples with embed_dim {self.embed_dim} take {list(wanted)}"
                )
        return shape


def uniform_of_inputs(inputs):
    """Initializer: uniform values within 1 / sqrt(inputs), whatever the shape."""
    bound = inputs**-0.5

    def init(rng, shape, dtype=jnp.float32):
        return jax.random.uniform(rng, shape, dtype, -bound, bound)

    return init


def field_problems(encoder):
    """What is wrong with the fields of a `ConvDownEncoderContrastive`, line by line."""
    lines = []
    for name in ("embed_dim", "channels", "kernel_size", "dilation"):
        if (value := getattr(encoder, name)) < 1:
            lines.append(f"{name} {value} must be at least 1")
    widths, strides = encoder.conv_channels, encoder.strides
    if not widths or min(widths) < 1 or min(strides, default=0) < 1:
        lines.append(
            f"conv_channels {tuple(widths)} and strides {tuple(strides)} must be at "
            "least 1 each, for at least one convolution"
        )
    if len(widths) != len(strides):
        lines.append(
            f"{len(widths)} conv_channels and {len(strides)} strides; give one stride "
            "for each width"
        )
    for name, known in (("padding", PADDINGS), ("feature_projection", PROJECTIONS)):
        if (value := getattr(encoder, name)) not in known:
            lines.append(f"unknown {name} {value!r}; choose one of {', '.join(known)}")
    if encoder.feature_projection == "identity" and widths:
        if widths[-1] != encoder.embed_dim:
            lines.append(
                f"feature_projection 'identity' wants embed_dim {encoder.embed_dim} to "
                f"be the last of conv_channels, {widths[-1]}; take 'auto' or 'dense'"
            )
    return lines


def _dtypes(module):
    return dict(dtype=module.dtype, param_dtype=module.param_dtype)


def _sides(kernel_size, dilation, padding):
    """Zeros before and after the inputs of a convolution."""
    if padding == "valid":
        return 0, 0
    total = dilation * (kernel_size - 1)
    return total // 2, total - total // 2
