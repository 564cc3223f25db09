"""Contrastive pretraining: tell the quantized frame that is hidden from other ones.

wav2vec 2.0 (Baevski et al., 2020, section 2) with any encoder and any backbone.

Shapes use B batch, N samples, C components, T frames, D width, P projection width,
G groups, V codes a group.
"""

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.models.conv_down_encoder import uniform_of_inputs


@flax.struct.dataclass
class ContrastiveOutput:
    """What `losses.contrastive` compares.

    Attributes:
        predicted: [B, T, P], of the backbone, which does not see hidden frames.
        target: [B, T, P], of the quantized features.
        codes, probabilities: as in `gumbel_quantizer.Quantized`.
    """

    predicted: jax.Array
    target: jax.Array
    codes: jax.Array
    probabilities: jax.Array


class ContrastivePretrainer(nn.Module):
    """An encoder, a backbone over its frames and a quantizer of its features.

    Gradients reach the encoder by both ways, through the hidden frames and through the
    quantized targets.

    Attributes:
        encoder: (waveform, *, span_mask, channel_mask, train) to `EncoderOutput`.
        backbone: ([B, T, D], mask, *, train) to [B, T, D].
        quantizer: (features, *, gumbel, temperature, train) to `Quantized`.
        projection_dim: P, in which prediction and target are compared.
        feature_dropout: on the features that are quantized.
    """

    encoder: nn.Module
    backbone: nn.Module
    quantizer: nn.Module
    projection_dim: int = 256
    feature_dropout: float = 0.0
    dtype: str = "float32"
    param_dtype: str = "float32"

    def __post_init__(self):
        if self.projection_dim < 1:
            raise ValueError(f"projection_dim {self.projection_dim} must be at least 1")
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        waveform,
        span_mask,
        *,
        channel_mask=None,
        gumbel=None,
        temperature=None,
        train=False,
    ):
        """Predictions and targets of all frames.

        Args:
            waveform: [B, N, C], normalized.
            span_mask: bool [B, T], the frames to hide from the backbone.
            channel_mask: bool [B, D], as the encoder takes it.
            gumbel, temperature: as the quantizer takes them; training needs both.
            train: draws codes, and dropout from the rng "dropout".

        Returns:
            `ContrastiveOutput`.

        Raises:
            ValueError: an array of another shape.
        """
        encoded = self.encoder(
            waveform, span_mask=span_mask, channel_mask=channel_mask, train=train
        )
        x = self.backbone(encoded.hidden, mask=None, train=train)
        features = nn.Dropout(self.feature_dropout)(
            encoded.features, deterministic=not train
        )
        quantized = self.quantizer(
            features, gumbel=gumbel, temperature=temperature, train=train
        )
        return ContrastiveOutput(
            predicted=self._project(x, "project_hidden"),
            target=self._project(quantized.values, "project_codes"),
            codes=quantized.codes,
            probabilities=quantized.probabilities,
        )

    def _project(self, x, name):
        start = uniform_of_inputs(x.shape[-1])
        return nn.Dense(
            self.projection_dim,
            kernel_init=start,
            bias_init=start,
            dtype=jnp.dtype(self.dtype),
            param_dtype=jnp.dtype(self.param_dtype),
            name=name,
        )(x)
