"""The residual block around the mLSTM cell (Beck et al., 2024, fig. 10).

    u, z = up(norm(x))                       twice I numbers a token
    c = silu(causal depthwise convolution(u))
    q, k = block-diagonal maps of c; v = one of u
    h = head norm(cell(q, k, v, gates of [q, k, v]))
    y = x + down((h + skip * c) * silu(z))

Shapes use B batch, T frames, D width, I inner width (projection_factor x D), H heads,
W width of the convolution, G width of a diagonal block.
"""

import functools

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers import mlstm
from jaxmodels.layers.constraint import constrain
from jaxmodels.layers.heads import silence
from jaxmodels.layers.mlstm import MLSTMState
from jaxmodels.layers.mlstm_parts import (
    GATE_STARTS,
    BlockDiagonal,
    CausalConv,
    Gate,
    ScaleNorm,
    block_diagonal,
)


@flax.struct.dataclass
class MLSTMBlockState:
    """All that a block keeps of the tokens before.

    Attributes:
        cell: `MLSTMState`.
        inputs: [B, W - 1, I], what the convolution still sees.
    """

    cell: MLSTMState
    inputs: jax.Array


class MLSTMBlock(nn.Module):
    """Pre-norm mLSTM block with its residual; causal. Its width is that of its input.

    Attributes:
        num_heads: H.
        projection_factor: I / D.
        conv_size: W.
        qkv_block_size: G.
        gate_soft_cap: c of c tanh(gate / c) on both gates; None is no cap.
        num_blocks: of the stack that it is in: `down` starts smaller in a deep one.
        chunk_size: of `mlstm_chunkwise`.
        dropout: share of what is left out of each residual.

    Raises:
        ValueError: I is not divisible by H or by G.
    """

    num_heads: int = 4
    projection_factor: int = 2
    conv_size: int = 4
    qkv_block_size: int = 4
    gate_soft_cap: float | None = None
    num_blocks: int = 1
    chunk_size: int = 64
    dropout: float = 0.0
    dtype: str = "float32"
    param_dtype: str = "float32"

    def __call__(self, x, mask=None, segment_ids=None, *, train=False):
        """Mixes [B, T, D] with what stands before.

        Args:
            mask: bool [B, T]; False for frames that change no other one.
            segment_ids: int [B, T]; a frame sees the run of equal ids that it is in.
            train: whether dropout is on.

        Returns:
            [B, T, D].
        """
        cell = functools.partial(
            mlstm.mlstm_chunkwise,
            mask=mask,
            segment_ids=segment_ids,
            chunk_size=self.chunk_size,
        )
        return self._apply(x, None, cell, mask, segment_ids, train)[1]

    def extend(self, state, x, mask=None):
        """Continues a stream by [B, T, D].

        Args:
            state: `MLSTMBlockState` of `initial_state`, `extend` or `step`.
            mask: bool [B, T], as in `__call__`.

        Returns:
            The next state and [B, T, D].
        """
        cell = functools.partial(
            mlstm.mlstm_chunkwise,
            state=state.cell,
            mask=mask,
            chunk_size=self.chunk_size,
        )
        return self._apply(x, state, cell, mask)

    def step(self, state, x):
        """`extend` by one frame [B, D]; returns the next state and [B, D]."""

        def cell(*token):
            after, out = mlstm.mlstm_step(state.cell, *(y[:, 0] for y in token))
            return out[:, None], after

        state, y = self._apply(x[:, None], state, cell)
        return state, y[:, 0]

    @nn.nowrap
    def initial_state(self, batch_size, embed_dim):
        """The state before the first frame of width `embed_dim`."""
        inner = inner_width(self, embed_dim)
        return MLSTMBlockState(
            cell=mlstm.initial_state(
                batch_size, self.num_heads, inner // self.num_heads
            ),
            inputs=jnp.zeros((batch_size, self.conv_size - 1, inner), self.dtype),
        )

    @nn.compact
    def _apply(self, x, state, cell, mask=None, segment_ids=None, train=False):
        """Next state and y, by `cell`: q, k, v and gates to h and its state."""
        embed_dim = x.shape[-1]
        inner = inner_width(self, embed_dim)
        x = silence(x, mask)
        y = ScaleNorm(self.dtype, self.param_dtype, name="norm")(x)
        wide, gate = jnp.split(_dense(self, 2 * inner, "up")(y), 2, axis=-1)
        wide = constrain(self, wide, ("batch", "length", "heads"))
        conv = CausalConv(self.conv_size, self.dtype, self.param_dtype, name="conv")
        before = None if state is None else state.inputs
        mixed = jax.nn.silu(conv(wide, before, segment_ids))  # B T I
        spread = (0.4 / embed_dim) ** 0.5
        matrices = {
            name: BlockDiagonal(
                self.qkv_block_size, spread, self.param_dtype, name=name
            )(inner)
            for name in ("query", "key", "value")
        }
        sources = {"query": mixed, "key": mixed, "value": wide}
        query, key, value = (
            block_diagonal(sources[name], matrices[name]) for name in matrices
        )
        gates = (
            Gate(
                self.num_heads, start, self.gate_soft_cap, self.param_dtype, name=name
            )(mixed, wide, **matrices)
            for name, start in GATE_STARTS.items()
        )
        heads = (*x.shape[:-1], self.num_heads, inner // self.num_heads)
        out, after = cell(*(y.reshape(heads) for y in (query, key, value)), *gates)
        norm = ScaleNorm(self.dtype, self.param_dtype, self.num_heads, name="head_norm")
        skip = self.param("skip", nn.initializers.ones, (inner,), self.param_dtype)
        out = norm(out.reshape(wide.shape)) + skip.astype(self.dtype) * mixed
        out = _dense(self, embed_dim, "down")(out * jax.nn.silu(gate))
        out = nn.Dropout(self.dropout, name="drop")(out, deterministic=not train)
        if state is not None:
            inputs = jnp.concatenate([state.inputs, wide], axis=1)
            inputs = inputs[:, wide.shape[1] :]
            state = MLSTMBlockState(after, inputs)
        return state, x + out


def inner_width(block, embed_dim):
    """I of an `MLSTMBlock` for frames of width `embed_dim`.

    Raises:
        ValueError: its heads or diagonal blocks do not divide it.
    """
    inner = block.projection_factor * embed_dim
    for name in ("num_heads", "qkv_block_size"):
        size = getattr(block, name)
        if inner % size:
            raise ValueError(
                f"embed_dim {embed_dim} x projection_factor {block.projection_factor} "
                f"= {inner} is not divisible by {name} {size}; "
                f"try embed_dim {-(-embed_dim // size) * size}"
            )
    return inner


def _dense(block, features, name):
    """The projections `up` and `down` without bias, as the source starts them."""
    embed_dim = features if name == "down" else None

    def init(rng, shape, dtype=jnp.float32):
        if embed_dim is None:
            spread = (0.4 / shape[0]) ** 0.5  # Nguyen and Salazar (2019)
        else:
            spread = 2 / (block.num_blocks * embed_dim**0.5)
        return spread * jax.random.normal(rng, shape, dtype)

    return nn.Dense(
        features,
        use_bias=False,
        kernel_init=init,
        dtype=jnp.dtype(block.dtype),
        param_dtype=jnp.dtype(block.param_dtype),
        name=name,
    )
