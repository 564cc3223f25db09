"""Classes of whole waveforms: event or noise, or the kind of an event.

Shapes use B batch, N samples, C components, T frames, D width, K classes.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxmodels.layers.heads import silence
from jaxmodels.models.mlstm_backbones import dtypes_of
from jaxmodels.models.phase_picker import at_frames, check_waveform
from jaxmodels.models.waveform_conv import NORMS, ConvBlock


class EventClassifier(nn.Module):
    """Encoder, backbone, strided convolutions, mean over time, projection.

    The convolutions are two pairs, each halving the rate, as in the classifier of
    foreshocks and aftershocks of Liu et al. (2024, SeisLM), with a normalization that
    depends on no other example.

    Attributes:
        encoder, backbone: as in `PhasePicker`.
        num_classes: K; 2 for event or noise.
        channels: C.
        head_channels: width of each pair of convolutions.
        dropout, norm: as in `waveform_conv.ConvBlock`.

    Raises:
        ValueError: fields that no head can have, or an array of another shape.
    """

    encoder: nn.Module
    backbone: nn.Module
    num_classes: int
    channels: int = 3
    head_channels: tuple = (64, 64)
    dropout: float = 0.2
    norm: str = "group"
    dtype: str = "float32"
    param_dtype: str = "float32"

    def __post_init__(self):
        if self.num_classes < 2 or min(self.head_channels, default=1) < 1:
            raise ValueError(
                f"num_classes {self.num_classes} must be at least 2 and head_channels "
                f"{tuple(self.head_channels)} at least 1 each"
            )
        if self.norm not in NORMS:
            raise ValueError(
                f"unknown norm {self.norm!r}; choose one of {', '.join(NORMS)}"
            )
        super().__post_init__()

    def setup(self):
        fields: dict[str, Any] = dict(strides=2, norm=self.norm, dropout=self.dropout)
        fields |= dtypes_of(self)
        self.blocks = [
            ConvBlock(width, **fields) for width in self.head_channels for _ in range(2)
        ]
        self.classes = nn.Dense(
            self.num_classes, param_dtype=jnp.dtype(self.param_dtype)
        )

    def __call__(
        self, waveform, *, span_mask=None, channel_mask=None, mask=None, train=False
    ):
        """[B, N, C] to float32 logits [B, K].

        Args:
            waveform, span_mask, channel_mask, mask, train: as in `PhasePicker`.
        """
        check_waveform(waveform, mask, self.channels)
        hidden = self.encoder(
            silence(waveform, mask),
            span_mask=span_mask,
            channel_mask=channel_mask,
            train=train,
        ).hidden
        if mask is not None:
            mask = at_frames(mask, hidden.shape[1], self.encoder)
        x = self.backbone(hidden, mask, train=train)
        for block in self.blocks:
            x, mask = block(x, mask, train=train)
        return self.classes(_mean(x.astype(jnp.float32), mask))


def _mean(x, mask):
    """Mean over time of what the mask keeps, [B, T, D] to [B, D]; 0 of nothing."""
    if mask is None:
        return x.mean(axis=1)
    count = jnp.maximum(mask.sum(axis=1, keepdims=True), 1)
    return silence(x, mask).sum(axis=1) / count
