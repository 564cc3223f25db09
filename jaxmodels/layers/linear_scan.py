"""The recurrence of linear attention and mLSTM, as a scan over chunks of tokens.

    out_t = sum_{j <= t} w_tj (fq_t . fk_j) v_j / norm_t
    log w_tj = log_input_j + sum_{j < l <= t} log_decay_l

The features fq, fk are computed inside the scan's body and again in its backward
pass, so no [L, M] array is stored. The backward pass is written by hand: it keeps
the state at the start of every group of chunks and recomputes those between
(walking the state back by subtraction loses its digits in float32).

Shapes use B batch, L length, H heads, K head width, D value width, M features.
"""

import functools
import math
import os
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmodels.layers import linear_chunk
from jaxmodels.layers.linear_chunk import Grid, State

# Chunks between two states that the backward pass finds stored.
GROUP_SIZE = 16
# Parts of a step that run side by side on the threads of a CPU, which takes one
# thread for a batched product of this size: at most so many, and none smaller than
# so many multiplications a product.
MAX_PARTS = 4
PART_WORK = 2**20


class Plan(NamedTuple):
    """The static choices of one scan.

    Attributes:
        grids: of the parts of a step, which have nothing to do with one another.
    """

    normalizer: str | None
    grids: tuple[Grid, ...]
    group_size: int


def linear_scan(tokens, state, *, features, normalizer, chunk_size):
    """Runs the recurrence over a sequence of any length.

    Differentiable once, in reverse, with respect to the floating entries of
    `tokens` and `state.sums`; `features` counts as constant.

    Args:
        tokens: `Tokens`.
        state: `State` before the first token, in the accumulation dtype.
        features: callable pytree, see `feature_maps`.
        normalizer: "sum" divides by the sum of the weights (zero where there is
            none), "mlstm" by max(|sum|, 1), None by nothing.
        chunk_size: C.

    Returns:
        [B, L, H, D] in the dtype of `value`, and the `State` after the last token.
    """
    length = tokens.query.shape[1]
    chunk_size = min(chunk_size, length)
    num_chunks = -(-length // chunk_size)
    num_groups = -(-num_chunks // GROUP_SIZE)
    group_size = -(-num_chunks // num_groups)
    grid = Grid(length, chunk_size, num_groups * group_size)
    features = jax.lax.stop_gradient(features)
    state = state._replace(log_scale=jax.lax.stop_gradient(state.log_scale))
    axis, parts = _parts(state.sums.shape, chunk_size)
    grids = tuple(grid._replace(axis=axis, part=n, parts=parts) for n in range(parts))
    plan = Plan(normalizer, grids, group_size)
    return _scan(plan, features, tokens, state)


def _parts(shape, chunk_size):
    """The axis, 0 (batch) or 2 (heads), and the number of the parts of a step.

    Accelerators want one large product, and several devices of one host use all of
    its threads without parts.

    Args:
        shape: of the sums, [B, H, D + 1, M].
    """
    if jax.default_backend() != "cpu" or jax.device_count() > 1:
        return 2, 1
    work = math.prod(shape) * chunk_size
    most = min(MAX_PARTS, os.cpu_count() or 1, work // PART_WORK)
    for parts in range(most, 1, -1):
        for axis, size in ((2, shape[1]), (0, shape[0])):
            if size % parts == 0:
                return axis, parts
    return 2, 1


def _cut(plan, tree):
    """Arrays [B, H, ...], or None, by parts."""

    def take(x, grid):
        axis = min(grid.axis, 1)
        size = x.shape[axis] // grid.parts
        start = grid.part * size
        return jax.lax.slice_in_dim(x, start, start + size, axis=axis)

    return tuple(
        jax.tree.map(functools.partial(take, grid=grid), tree) for grid in plan.grids
    )


def _join(plan, parts):
    """The inverse of `_cut`."""
    axis = min(plan.grids[0].axis, 1)
    return jax.tree.map(lambda *x: jnp.concatenate(x, axis=axis), *parts)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(plan, features, tokens, state):
    out, state, _ = _forward(plan, features, tokens, state)
    return out, state


def _scan_forward(plan, features, tokens, state):
    out, last, saved = _forward(plan, features, tokens, state)
    return (out, last), (features, tokens, out, last, saved)


def _scan_backward(plan, residuals, cotangents):
    features, tokens, out, last, saved = residuals
    d_out, d_last = cotangents
    d_tokens, d_sums = _backward(
        plan, features, tokens, (out, d_out), last, d_last.sums, saved
    )
    return None, d_tokens, State(d_sums, None)


_scan.defvjp(_scan_forward, _scan_backward)


def _forward(plan, features, tokens, state):
    """Returns out, the last state, and what the backward pass needs beside them:
    the normalizer of every row and the state at the start of every group, by parts."""

    def step(carry, index):
        out, states = carry
        all_factors, after = [], []
        for grid, state in zip(plan.grids, states, strict=True):
            chunk = linear_chunk.load(tokens, grid, index)
            rows, factors, state = linear_chunk.attend(
                features, chunk, state, plan.normalizer
            )
            out = linear_chunk.store(out, rows, grid, index, only_fresh=True)
            all_factors.append(factors)
            after.append(state)
        return (out, tuple(after)), tuple(all_factors)

    def group(carry, indices):
        last, factors = jax.lax.scan(step, carry, indices)
        return last, (factors, carry[1])

    carry = jnp.zeros_like(tokens.value), _cut(plan, state)
    (out, states), saved = jax.lax.scan(group, carry, _indices(plan))
    return out, _join(plan, states), saved


def _backward(plan, features, tokens, outs, last, d_sums, saved):
    """Returns the cotangents of `tokens` and of the first state's sums."""

    def recompute(states, index):
        after = []
        for grid, state in zip(plan.grids, states, strict=True):
            chunk = linear_chunk.load(tokens, grid, index)
            after.append(linear_chunk.advance(features, chunk, state))
        return tuple(after), states

    def step(carry, inputs):
        gradients, cotangents = carry
        index, *saved = inputs
        before = []
        for grid, (d_sums, flow), factors, state in zip(
            plan.grids, cotangents, *saved, strict=True
        ):
            chunk = linear_chunk.load(tokens, grid, index)
            out, d_out = (linear_chunk.rows(x, grid, index) for x in outs)
            new = linear_chunk.fresh(grid, index)
            d_rows = linear_chunk.row_cotangents(out, d_out, factors, new)
            gradient, *cotangent = linear_chunk.pull_back(
                features, chunk, state, plan.normalizer, d_rows, d_sums, flow
            )
            # What is not fresh here is written over by the steps before, which follow.
            gradients = linear_chunk.store(gradients, gradient, grid, index)
            before.append(tuple(cotangent))
        return (gradients, tuple(before)), None

    def group(carry, inputs):
        indices, (factors, states) = inputs
        _, states = jax.lax.scan(recompute, states, indices)
        inputs = indices, factors, states
        return jax.lax.scan(step, carry, inputs, reverse=True)[0], None

    flow = None
    if tokens.log_decay is not None:
        flow = jnp.sum(d_sums * last.sums, axis=(-2, -1))
    gradients = jax.tree.map(jnp.zeros_like, tokens._replace(valid=None, starts=None))
    (gradients, cotangents), _ = jax.lax.scan(
        group,
        (gradients, _cut(plan, (d_sums, flow))),
        (_indices(plan), saved),
        reverse=True,
    )
    d_sums, _ = _join(plan, cotangents)
    return gradients, d_sums


def _indices(plan):
    return jnp.arange(plan.grids[0].steps).reshape(-1, plan.group_size)
