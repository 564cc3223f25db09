"""The transformer of wav2vec 2.0 over frames, with convolutional positions.

As in Baevski et al. (2020, section 2) and, for seismic waveforms, SeisLM (Liu et al.,
2024): 6 layers of width 240 with 12 heads and 3072 hidden units in its base size, 12 of
width 768 in its large one.

Shapes use B batch, T frames, D width, W kernel size, G groups.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.constraint import constrain, whole
from jaxmodels.layers.feed_forward import Mlp, gelu_erf
from jaxmodels.layers.heads import head_width, silence
from jaxmodels.layers.normalization import LayerNorm
from jaxmodels.layers.stack import scan_layers
from jaxmodels.models.mlstm_backbones import check_frames, dtypes_of

FRAME_AXES = ("batch", "length", "embed")


class ConvPositions(nn.Module):
    """x + gelu(grouped convolution of x), which tells frames where they are.

    The kernel is weight-normalized (Salimans and Kingma, 2016, eq. 2) with one gain for
    each place in it: gain v / |v|. An even kernel reaches one frame further back.

    Attributes:
        kernel_size: W.
        num_groups: G.
    """

    kernel_size: int = 128
    num_groups: int = 16
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, x):
        """[B, T, D] to [B, T, D]."""
        width = x.shape[-1]
        shape = self.kernel_size, width // self.num_groups, width
        spread = 2.0 * (self.kernel_size * width) ** -0.5
        dtype = jnp.dtype(self.param_dtype)
        direction = self.param(
            "kernel", nn.initializers.normal(spread), shape, dtype
        ).astype(jnp.float32)
        norm = jnp.sqrt(jnp.square(direction).sum(axis=(1, 2)))
        gain = self.param("gain", lambda rng: norm.astype(dtype))
        bias = self.param("bias", nn.initializers.zeros, (width,), dtype)
        kernel = direction * (gain / norm)[:, None, None]
        before = self.kernel_size // 2
        y = jax.lax.conv_general_dilated(
            whole(self, x.astype(self.dtype)),
            kernel.astype(self.dtype),
            window_strides=(1,),
            padding=((before, self.kernel_size - 1 - before),),
            dimension_numbers=("NWC", "WIO", "NWC"),
            feature_group_count=self.num_groups,
        )
        y = whole(self, y)
        return x + gelu_erf(y + bias.astype(self.dtype))


class TransformerLayer(nn.Module):
    """Bidirectional self-attention and a feed-forward network, each with a residual.

    Attributes:
        embed_dim: D, divisible by `num_heads`.
        mlp_dim: hidden width of the feed-forward network.
        normalize_first: x + branch(norm(x)); otherwise norm(x + branch(x)).
        dropout: share of what is left out of each residual.
    """

    embed_dim: int
    num_heads: int
    mlp_dim: int
    normalize_first: bool = False
    dropout: float = 0.0
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, x, mask=None, *, train=False):
        """[B, T, D] to [B, T, D]; `mask` is bool [B, T], True keeps."""
        dtypes = dtypes_of(self)
        attention = Attention(
            self.embed_dim,
            self.num_heads,
            use_bias=True,
            query_key_start=1.0,
            name="attention",
            **dtypes,
        )
        mlp = Mlp(self.mlp_dim, "gelu", name="mlp", **dtypes)
        norm = LayerNorm(name="attention_norm", **dtypes)
        x = self._residual(x, lambda y: attention(y, mask=mask), norm, train)
        x = self._residual(x, mlp, LayerNorm(name="mlp_norm", **dtypes), train)
        return constrain(self, x, FRAME_AXES)

    def _residual(self, x, branch, norm, train):
        drop = nn.Dropout(self.dropout, deterministic=not train)
        if self.normalize_first:
            return x + drop(branch(norm(x)))
        return norm(x + drop(branch(x)))


class TransformerBackbone(nn.Module):
    """Convolutional positions, equal transformer layers scanned, one normalization.

    What `mask` leaves out changes no other frame.

    Attributes:
        embed_dim: D, divisible by `num_heads` and `position_groups`.
        num_layers: of `TransformerLayer`.
        mlp_dim: hidden width of the feed-forward networks.
        position_kernel_size, position_groups: of `ConvPositions`.
        normalize_first: the norms stand before the branches and the last of all after
            the layers, as in the large wav2vec 2.0; otherwise they stand after the
            residuals and the last of all before the layers, as in the base one.
        dropout: of the embedding and of each residual.
        remat: recomputes each layer in the backward pass.

    Raises:
        ValueError: fields that contradict each other, or frames of another width.
    """

    embed_dim: int
    num_layers: int
    num_heads: int
    mlp_dim: int
    position_kernel_size: int = 128
    position_groups: int = 16
    normalize_first: bool = False
    dropout: float = 0.0
    remat: bool = False
    dtype: str = "float32"
    param_dtype: str = "float32"

    def __post_init__(self):
        for name in ("embed_dim", "num_layers", "num_heads", "mlp_dim"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} {value} must be at least 1")
        head_width(self.embed_dim, self.num_heads)
        if self.position_kernel_size < 1 or self.embed_dim % self.position_groups:
            raise ValueError(
                f"position_kernel_size {self.position_kernel_size} must be at least 1, "
                f"and position_groups {self.position_groups} divide embed_dim "
                f"{self.embed_dim}; try position_groups 1"
            )
        super().__post_init__()

    def setup(self):
        dtypes = dtypes_of(self)
        self.positions = ConvPositions(
            self.position_kernel_size, self.position_groups, **dtypes
        )
        self.norm = LayerNorm(**dtypes)
        self.drop = nn.Dropout(self.dropout)
        self.layers = TransformerLayer(
            self.embed_dim,
            self.num_heads,
            self.mlp_dim,
            self.normalize_first,
            self.dropout,
            **dtypes,
        )

    def __call__(self, x, mask=None, *, train=False):
        """[B, T, D] to [B, T, D]; `mask` is bool [B, T], True keeps."""
        check_frames(x, mask, self.embed_dim)
        x = self.positions(silence(x, mask).astype(self.dtype))
        x = x if self.normalize_first else self.norm(x)
        x = self.drop(x, deterministic=not train)

        def layer(module, x, _):
            return module(x, mask, train=train), None

        x, _ = scan_layers(layer, self.num_layers, remat=self.remat)(
            self.layers, x, None
        )
        return self.norm(x) if self.normalize_first else x
