"""Reconstruction of the hidden frames of a waveform.

Shapes use B batch, N samples, C components, T frames, D width, P numbers of a patch.
"""

from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.constraint import constrain, whole
from jaxmodels.models.encoder_output import EncoderOutput
from jaxmodels.models.mlstm_backbones import SequentialMLSTM, directions, dtypes_of

MASK_TOKENS = ("zero", "learned")
FRAME_AXES = ("batch", "length", "embed")
LAYERS = 2
STRIDE = 2


@flax.struct.dataclass
class ReconstructionOutput:
    """What a reconstruction is scored on.

    Attributes:
        predicted: float32 [B, T, P].
        tokens: [B, T, D] of the encoder, of which nothing is hidden.
    """

    predicted: jax.Array
    tokens: jax.Array


class BidirAutoregEncoder(nn.Module):
    """Frames of four samples by two strided convolutions, some of them hidden.

    Frame t is in the middle of sample 4 t and sees three samples to either side, zeros
    beyond both ends: its samples 4 t to 4 t + 3, and three of the frame before.

    Attributes:
        embed_dim: D.
        channels: C.
        mask_token: what stands for a hidden frame, "zero" or a "learned" vector, the
            parameter `mask_embedding`. An mLSTM block has no biases and makes zeros of
            zeros, whatever stands around them.
        dropout: of the tokens, before frames are hidden.

    Raises:
        ValueError: a name that is not known, or a size below 1.
    """

    embed_dim: int
    channels: int = 3
    mask_token: str = "learned"
    dropout: float = 0.0
    dtype: str = "float32"
    param_dtype: str = "float32"

    def __post_init__(self):
        for name in ("embed_dim", "channels"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} {value} must be at least 1")
        if self.mask_token not in MASK_TOKENS:
            raise ValueError(
                f"unknown mask_token {self.mask_token!r}; "
                f"choose one of {', '.join(MASK_TOKENS)}"
            )
        super().__post_init__()

    @property
    def stride(self):
        """Samples from one frame to the next."""
        return STRIDE**LAYERS

    @property
    def first_center(self):
        """Sample in the middle of the first frame; that of the next is `stride` on."""
        return 0.0

    @property
    def reach(self):
        """Samples that a frame sees to either side of its middle one."""
        return self.stride - 1

    @nn.nowrap
    def num_frames(self, num_samples):
        """T of a waveform of `num_samples`, at least 1."""
        return -(-num_samples // self.stride)

    @nn.compact
    def __call__(self, waveform, *, span_mask=None, channel_mask=None, train=False):
        """Tokens of all frames, and what the backbone reads of them.

        Args:
            waveform: [B, N, C], normalized.
            span_mask: bool [B, T], the frames to hide; none when omitted.
            channel_mask: bool [B, D], the columns of the hidden tokens to set to 0;
                none when omitted.
            train: draws dropout from the rng "dropout".

        Returns:
            `EncoderOutput`, `features` the tokens; masks change `hidden` alone.

        Raises:
            ValueError: an array of another shape.
        """
        self._check(waveform, span_mask, channel_mask)
        x = whole(self, waveform.astype(self.dtype))
        types: dict[str, Any] = jax.tree.map(jnp.dtype, dtypes_of(self))
        for i in range(LAYERS):
            conv = nn.Conv(
                self.embed_dim, (3,), STRIDE, ((1, 1),), name=f"conv_{i}", **types
            )
            x = whole(self, jax.nn.relu(whole(self, conv(x))))
        tokens = nn.Dense(self.embed_dim, name="projection", **types)(x)
        tokens = constrain(self, tokens, FRAME_AXES)
        x = nn.Dropout(self.dropout, deterministic=not train)(tokens)
        stand_in = jnp.zeros((), x.dtype)
        if self.mask_token == "learned":
            small, shape = nn.initializers.normal(0.02), (self.embed_dim,)
            stand_in = self.param(
                "mask_embedding", small, shape, types["param_dtype"]
            ).astype(x.dtype)
        if span_mask is not None:
            x = jnp.where(span_mask[..., None], stand_in, x)
        if channel_mask is not None:
            x = jnp.where(channel_mask[:, None], 0, x)
        return EncoderOutput(features=tokens, hidden=x)

    def _check(self, waveform, span_mask, channel_mask):
        """Raises for arrays that do not fit each other."""
        if (
            waveform.ndim != 3
            or waveform.shape[-1] != self.channels
            or not waveform.shape[1]
        ):
            raise ValueError(
                f"waveform has shape {list(waveform.shape)}, and the encoder takes "
                f"[batch, samples, {self.channels}] of at least one sample"
            )
        batch, samples, _ = waveform.shape
        for name, array, wanted in (
            ("span_mask", span_mask, (batch, self.num_frames(samples))),
            ("channel_mask", channel_mask, (batch, self.embed_dim)),
        ):
            if array is not None and array.shape != wanted:
                raise ValueError(
                    f"{name} has shape {list(array.shape)}, and {samples} samples with "
                    f"embed_dim {self.embed_dim} take {list(wanted)}"
                )


class MaskedReconstructor(nn.Module):
    """Encoder, backbone and a projection that predicts a patch for every frame.

    Attributes:
        encoder: of waveforms, called as `BidirAutoregEncoder` is.
        backbone: called as backbone(hidden [B, T, D], train=train), to [B, T, D].
        patch_samples: P, the numbers to predict for a frame: its samples times the
            components, or D where the target is the tokens.

    Raises:
        ValueError: the backbone would predict the same for all hidden frames.
    """

    encoder: nn.Module
    backbone: nn.Module
    patch_samples: int = 12
    dtype: str = "float32"
    param_dtype: str = "float32"

    def __post_init__(self):
        zeros = getattr(self.encoder, "mask_token", None) == "zero"
        if zeros and isinstance(self.backbone, SequentialMLSTM):
            # `fuse` has the only bias, which the next layer reads.
            kind, layers = self.backbone.bidirectional, self.backbone.num_blocks
            if directions(kind) != "fused" or layers < 2:
                raise ValueError(
                    f"mask_token 'zero' with {layers} mLSTM layers, bidirectional "
                    f"{kind!r}: hidden frames stay zero in them; take mask_token "
                    "'learned', or at least 2 'fused' layers"
                )
        super().__post_init__()

    def setup(self):
        self.decoder = nn.Dense(
            self.patch_samples,
            dtype=jnp.dtype(self.dtype),
            param_dtype=jnp.dtype(self.param_dtype),
        )

    def __call__(self, waveform, span_mask, *, train=False):
        """Predicts all frames from those that are not hidden.

        Args:
            waveform: [B, N, C].
            span_mask: bool [B, T], the frames to hide; None hides none.
            train: draws dropout from the rng "dropout".

        Returns:
            `ReconstructionOutput`.
        """
        encoded = self.encoder(waveform, span_mask=span_mask, train=train)
        x = self.backbone(encoded.hidden, train=train)
        predicted = self.decoder(x).astype(jnp.float32)
        return ReconstructionOutput(predicted, encoded.features)
