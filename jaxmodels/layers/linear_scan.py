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
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmodels.layers import linear_chunk, linear_grid
from jaxmodels.layers.linear_chunk import State
from jaxmodels.layers.linear_grid import Grid

# Chunks between two states that the backward pass finds stored.
GROUP_SIZE = 16


class Plan(NamedTuple):
    """The static choices of one scan."""

    normalizer: str | None
    grid: Grid
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
    return _scan(Plan(normalizer, grid, group_size), features, tokens, state)


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
    the normalizer of every row and the state at the start of every group."""

    def step(carry, index):
        out, state = carry
        chunk = linear_chunk.load(laid, plan.grid, index)
        rows, factors, state = linear_chunk.attend(
            features, chunk, state, plan.normalizer
        )
        out = linear_grid.store(
            out, rows, tokens.value, plan.grid, index, only_fresh=True
        )
        return (out, state), factors

    def group(carry, indices):
        last, factors = jax.lax.scan(step, carry, indices)
        return last, (factors, carry[1])

    laid = linear_chunk.gates_first(tokens)
    carry = linear_grid.buffers(tokens.value), state
    (out, state), saved = jax.lax.scan(group, carry, _indices(plan))
    return linear_grid.contents(out, tokens.value), state, saved


def _backward(plan, features, tokens, outs, last, d_sums, saved):
    """Returns the cotangents of `tokens` and of the first state's sums."""

    def recompute(state, index):
        chunk = linear_chunk.load(laid, plan.grid, index)
        return linear_chunk.advance(features, chunk, state), state

    def step(carry, inputs):
        gradients, d_sums, flow = carry
        index, factors, state = inputs
        chunk = linear_chunk.load(laid, plan.grid, index)
        out, d_out = (linear_grid.rows(x, plan.grid, index) for x in outs)
        new = linear_grid.fresh(plan.grid, index)
        d_rows = linear_chunk.row_cotangents(out, d_out, factors, new)
        gradient, d_sums, flow = linear_chunk.pull_back(
            features, chunk, state, plan.normalizer, d_rows, d_sums, flow
        )
        # What is not fresh here is written over by the steps before, which follow.
        gradients = linear_grid.store(gradients, gradient, like, plan.grid, index)
        return (gradients, d_sums, flow), None

    def group(carry, inputs):
        indices, (factors, state) = inputs
        _, states = jax.lax.scan(recompute, state, indices)
        inputs = indices, factors, states
        return jax.lax.scan(step, carry, inputs, reverse=True)[0], None

    laid, flow = linear_chunk.gates_first(tokens), None
    if tokens.log_decay is not None:
        flow = jnp.sum(d_sums * last.sums, axis=(-2, -1))
    like = tokens._replace(valid=None, starts=None)
    (gradients, d_sums, _), _ = jax.lax.scan(
        group,
        (linear_grid.buffers(like), d_sums, flow),
        (_indices(plan), saved),
        reverse=True,
    )
    return linear_grid.contents(gradients, like), d_sums


def _indices(plan):
    return jnp.arange(plan.grid.steps).reshape(-1, plan.group_size)
