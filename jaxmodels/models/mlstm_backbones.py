"""Stacks of mLSTM blocks over frames: at one rate, and as a U-Net.

The blocks are those of Beck et al. (2024, xLSTM), which read forward in time; a layer
for whole recordings reads both ways.

Shapes use B batch, T frames, D width, P frames of a pool, E expansion.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.constraint import constrain
from jaxmodels.layers.heads import silence
from jaxmodels.layers.mlstm_block import MLSTMBlock, ScaleNorm, inner_width
from jaxmodels.layers.normalization import LayerNorm
from jaxmodels.layers.stack import scan_layers

DIRECTIONS = ("fused", "alternating", "none")
FRAME_AXES = ("batch", "length", "embed")


class MLSTMBranch(nn.Module):
    """norm(block(x)), with the residual inside the block and a norm of a scale alone.

    Attributes:
        num_blocks: of the whole network, as in `MLSTMBlock`.
        num_heads, chunk_size, dropout: as in `MLSTMBlock`.
    """

    num_blocks: int
    num_heads: int = 4
    chunk_size: int = 64
    dropout: float = 0.0
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, x, mask=None, train=False):
        """[B, T, D] to [B, T, D]; `mask` is bool [B, T], True keeps."""
        block = MLSTMBlock(
            num_heads=self.num_heads,
            num_blocks=self.num_blocks,
            chunk_size=self.chunk_size,
            dropout=self.dropout,
            name="block",
            **dtypes_of(self),
        )
        return ScaleNorm(name="norm", **dtypes_of(self))(block(x, mask, train=train))


class MLSTMLayer(nn.Module):
    """A branch that reads forward, or one for each direction that a projection joins.

        none:   y = branch(x)
        fused:  y = fuse([branch(x), flip(branch'(flip(x)))])

    Both branches run at once, their weights stacked on a first axis under the name
    "directions". `fuse` starts as the average of the two.

    Attributes:
        fused: whether it reads both ways.
        num_blocks, num_heads, chunk_size, dropout: as in `MLSTMBranch`.
    """

    fused: bool
    num_blocks: int
    num_heads: int = 4
    chunk_size: int = 64
    dropout: float = 0.0
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, x, mask=None, *, train=False):
        """[B, T, D] to [B, T, D]; `mask` is bool [B, T], True keeps."""
        fields: dict[str, Any] = dict(
            num_blocks=self.num_blocks,
            num_heads=self.num_heads,
            chunk_size=self.chunk_size,
            dropout=self.dropout,
            **dtypes_of(self),
        )
        if not self.fused:
            x = MLSTMBranch(name="forward", **fields)(x, mask, train)
            return constrain(self, x, FRAME_AXES)
        branches = nn.vmap(
            MLSTMBranch,
            in_axes=(0, None if mask is None else 0, None),
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
        )(name="directions", **fields)
        masks = None if mask is None else jnp.stack([mask, mask[:, ::-1]])
        forward, backward = branches(jnp.stack([x, x[:, ::-1]]), masks, train)
        both = jnp.concatenate([forward, backward[:, ::-1]], axis=-1)
        fuse = _dense(self, x.shape[-1], "fuse", kernel_init=average)
        return constrain(self, fuse(both), FRAME_AXES)


class MLSTMStage(nn.Module):
    """Equal layers in a row, scanned.

    Attributes:
        num_layers: how many.
        bidirectional: "fused" has a block for each direction in every layer,
            "alternating" turns time round from one layer to the next at half the cost,
            "none" reads forward alone. True and False are "fused" and "none".
        num_blocks: of the whole network, as in `MLSTMBlock`.
        remat: recomputes each layer in the backward pass.
        num_heads, chunk_size, dropout: as in `MLSTMBlock`.
    """

    num_layers: int
    bidirectional: str | bool
    num_blocks: int
    num_heads: int = 4
    chunk_size: int = 64
    dropout: float = 0.0
    remat: bool = False
    dtype: str = "float32"
    param_dtype: str = "float32"

    def setup(self):
        self.layers = MLSTMLayer(
            fused=directions(self.bidirectional) == "fused",
            num_blocks=self.num_blocks,
            num_heads=self.num_heads,
            chunk_size=self.chunk_size,
            dropout=self.dropout,
            **dtypes_of(self),
        )

    def __call__(self, x, mask=None, *, train=False):
        """[B, T, D] to [B, T, D]; `mask` is bool [B, T], True keeps."""
        turns = directions(self.bidirectional) == "alternating"

        def flip(x):
            return None if x is None else x[:, ::-1]

        def layer(module, carry, _):
            x, mask = carry
            x = module(x, mask, train=train)
            return (flip(x), flip(mask)) if turns else (x, mask), None

        scan = scan_layers(layer, self.num_layers, remat=self.remat)
        (x, _), _ = scan(self.layers, (x, mask), None)
        return flip(x) if turns and self.num_layers % 2 else x


class SequentialMLSTM(nn.Module):
    """Layers of mLSTM blocks at the rate of the frames.

    What `mask` leaves out changes no other frame, in either direction.

    Attributes:
        embed_dim: D.
        num_blocks: layers; a "fused" one has two blocks.
        bidirectional, remat: as in `MLSTMStage`.
        num_heads, chunk_size, dropout: as in `MLSTMBlock`.

    Raises:
        ValueError: fields that contradict each other, or frames of another width.
    """

    embed_dim: int
    num_blocks: int
    bidirectional: str | bool = "fused"
    num_heads: int = 4
    chunk_size: int = 64
    dropout: float = 0.0
    remat: bool = False
    dtype: str = "float32"
    param_dtype: str = "float32"

    def __post_init__(self):
        check_backbone(self)
        super().__post_init__()

    @nn.compact
    def __call__(self, x, mask=None, *, train=False):
        """[B, T, D] to [B, T, D]; `mask` is bool [B, T], True keeps."""
        check_frames(x, mask, self.embed_dim)
        both = 2 if directions(self.bidirectional) == "fused" else 1
        stage = _stage(self, "stage", self.num_blocks * both)
        return stage(x.astype(self.dtype), mask, train=train)


class MLSTMUNet(nn.Module):
    """mLSTM layers at several rates: down by pools, and up again with skips added.

    A pool folds P frames into one of E times the width. Frames are filled up to a whole
    number of pools with ones that the mask leaves out, and cut off again.

    What `mask` leaves out changes no other frame, in either direction.

    Attributes:
        embed_dim: D.
        num_blocks: layers of each stage; a "fused" one has two blocks.
        pools: P of each pool, from the full rate down.
        expansion: E, of the width at each pool.
        bidirectional, remat: as in `MLSTMStage`.
        num_heads, chunk_size, dropout: as in `MLSTMBlock`.

    Raises:
        ValueError: fields that contradict each other, or frames of another width.
    """

    embed_dim: int
    num_blocks: int = 2
    pools: tuple = (4, 4)
    expansion: int = 1
    num_heads: int = 4
    bidirectional: str | bool = True
    chunk_size: int = 64
    dropout: float = 0.0
    remat: bool = False
    dtype: str = "float32"
    param_dtype: str = "float32"

    def __post_init__(self):
        check_backbone(self)
        if min(self.pools, default=1) < 1 or self.expansion < 1:
            raise ValueError(
                f"pools {tuple(self.pools)} and expansion {self.expansion} must be at "
                "least 1"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, x, mask=None, *, train=False):
        """[B, T, D] to [B, T, D]; `mask` is bool [B, T], True keeps."""
        check_frames(x, mask, self.embed_dim)
        length = x.shape[1]
        x, mask = _fill(x.astype(self.dtype), mask, math.prod(self.pools))
        total = self._total_blocks()
        skips = []
        for i, pool in enumerate(self.pools):
            x = _stage(self, f"down_stage_{i}", total)(x, mask, train=train)
            skips.append((x, mask))
            width = x.shape[-1] * self.expansion
            folded = silence(x, mask).reshape(x.shape[0], -1, pool * x.shape[-1])
            x = _dense(self, width, f"down_pool_{i}")(folded)
            if mask is not None:
                mask = mask.reshape(x.shape[0], -1, pool).any(axis=-1)
        x = _stage(self, "middle_stage", total)(x, mask, train=train)
        for i, pool in reversed(tuple(enumerate(self.pools))):
            skip, mask = skips[i]
            unfolded = _dense(self, pool * skip.shape[-1], f"up_pool_{i}")(x)
            x = unfolded.reshape(skip.shape) + skip
            x = _stage(self, f"up_stage_{i}", total)(x, mask, train=train)
        return LayerNorm(name="final_norm", **dtypes_of(self))(x)[:, :length]

    def _total_blocks(self):
        """mLSTM blocks of all stages."""
        both = 2 if directions(self.bidirectional) == "fused" else 1
        return (2 * len(self.pools) + 1) * self.num_blocks * both


def directions(bidirectional):
    """A name in `DIRECTIONS`, of a name or a truth value.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(bidirectional, bool):
        return "fused" if bidirectional else "none"
    if bidirectional not in DIRECTIONS:
        raise ValueError(
            f"unknown bidirectional {bidirectional!r}; "
            f"choose one of {', '.join(DIRECTIONS)}"
        )
    return bidirectional


def check_backbone(backbone):
    """Raises ValueError for fields that a stack of mLSTM blocks cannot have."""
    directions(backbone.bidirectional)
    for name in ("embed_dim", "num_blocks", "num_heads", "chunk_size"):
        if (value := getattr(backbone, name)) < 1:
            raise ValueError(f"{name} {value} must be at least 1")
    inner_width(MLSTMBlock(num_heads=backbone.num_heads), backbone.embed_dim)


def check_frames(x, mask, embed_dim):
    """Raises ValueError unless x is [B, T, embed_dim] and `mask` None or [B, T]."""
    if x.ndim != 3 or x.shape[-1] != embed_dim:
        raise ValueError(
            f"frames of shape {list(x.shape)}, and the backbone takes [batch, frames, "
            f"{embed_dim}]; give encoder and backbone the same embed_dim"
        )
    if mask is not None and mask.shape != x.shape[:2]:
        raise ValueError(
            f"mask has shape {list(mask.shape)}, and the frames take "
            f"{list(x.shape[:2])}"
        )


def average(rng, shape, dtype=jnp.float32):
    """Initializer [2 D, D] of the mean of two vectors, one after the other."""
    half = 0.5 * jnp.eye(shape[1], dtype=dtype)
    return jnp.concatenate([half, half])


def _fill(x, mask, multiple):
    """Frames up to a multiple, and the mask that leaves them out, or None for none."""
    batch, length, _ = x.shape
    if missing := -length % multiple:
        mask = jnp.ones((batch, length), bool) if mask is None else mask
        x = jnp.pad(x, ((0, 0), (0, missing), (0, 0)))
        mask = jnp.pad(mask, ((0, 0), (0, missing)))
    return x, mask


def _stage(backbone, name, num_blocks):
    """`num_blocks` is that of the whole network."""
    return MLSTMStage(
        num_layers=backbone.num_blocks,
        bidirectional=backbone.bidirectional,
        num_blocks=num_blocks,
        num_heads=backbone.num_heads,
        chunk_size=backbone.chunk_size,
        dropout=backbone.dropout,
        remat=backbone.remat,
        name=name,
        **dtypes_of(backbone),
    )


def _dense(module, features, name, kernel_init=None):
    kernel_init = kernel_init or nn.initializers.lecun_normal()
    return nn.Dense(
        features,
        kernel_init=kernel_init,
        name=name,
        **jax.tree.map(jnp.dtype, dtypes_of(module)),
    )


def dtypes_of(module):
    """The two types of a module, for its sub-modules."""
    return dict(dtype=module.dtype, param_dtype=module.param_dtype)
