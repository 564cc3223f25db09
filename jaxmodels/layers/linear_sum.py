"""Sums over all keys and their reading by queries: linear attention without order.

Both passes go through the tokens in chunks and compute the features anew in the
backward pass, so no [L, M] array is stored.

Shapes use B batch, L length, T queries, S keys, H heads, K head width, D value
width, M features.
"""

import functools

import jax
import jax.numpy as jnp

from jaxmodels.layers import linear_chunk, linear_grid
from jaxmodels.layers.linear_chunk import State
from jaxmodels.layers.linear_grid import Grid


def sum_keys(tokens, state, *, features, chunk_size):
    """The `State` after all keys of `tokens`, whatever their order.

    Args:
        tokens: `Tokens` without query, log_decay and starts.
        state: `State` before them.
        features, chunk_size: as in `linear_scan`.
    """
    grid = _grid(tokens.key, chunk_size)
    return _sum(grid, jax.lax.stop_gradient(features), tokens, state)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sum(grid, features, tokens, state):
    def step(state, index):
        chunk = linear_chunk.load(laid, grid, index)
        return linear_chunk.advance(features, chunk, state), None

    laid = linear_chunk.gates_first(tokens)
    return jax.lax.scan(step, state, _indices(grid))[0]


def _sum_forward(grid, features, tokens, state):
    last = _sum(grid, features, tokens, state)
    return last, (features, tokens, state.log_scale, last.log_scale)


def _sum_backward(grid, residuals, d_last):
    features, tokens, first_scale, last_scale = residuals

    def step(gradients, index):
        chunk = linear_chunk.load(laid, grid, index)
        gradient = linear_chunk.pull_back_sum(features, chunk, last_scale, d_last.sums)
        return linear_grid.store(gradients, gradient, like, grid, index), None

    laid, like = linear_chunk.gates_first(tokens), tokens._replace(valid=None)
    # In reverse, so that a step writes over what was not fresh in the one after.
    gradients, _ = jax.lax.scan(
        step, linear_grid.buffers(like), _indices(grid), reverse=True
    )
    gradients = linear_grid.contents(gradients, like)
    carried = jnp.exp(first_scale - last_scale)[..., None, None]
    return None, gradients, State(d_last.sums * carried, None)


_sum.defvjp(_sum_forward, _sum_backward)


def read_state(query, sums, *, features, chunk_size):
    """Attention of each query to all keys in a state.

    Args:
        query: [B, T, H, K].
        sums: [B, H, D + 1, M], in any unit.
        features, chunk_size: as in `linear_scan`.

    Returns:
        [B, T, H, D] in the dtype of `sums`, zero where the state holds no key.
    """
    grid = _grid(query, chunk_size)
    return _read(grid, jax.lax.stop_gradient(features), query, sums)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _read(grid, features, query, sums):
    def step(out, index):
        values, _ = features(linear_grid.rows(query, grid, index))
        part, _ = _read_rows(values, sums)
        return linear_grid.store(out, part, like, grid, index), None

    shape = (*query.shape[:3], sums.shape[2] - 1)
    like = jnp.zeros_like(query, shape=shape, dtype=sums.dtype)
    out, _ = jax.lax.scan(step, linear_grid.buffers(like), _indices(grid))
    return linear_grid.contents(out, like)


def _read_forward(grid, features, query, sums):
    return _read(grid, features, query, sums), (features, query, sums)


def _read_backward(grid, residuals, d_out):
    features, query, sums = residuals

    def step(carry, index):
        d_query, d_sums = carry
        part = linear_grid.rows(query, grid, index)
        (values, log_scale), pull = jax.vjp(features, part)
        out, factors = _read_rows(values, sums)
        new = linear_grid.fresh(grid, index)
        d_part = linear_grid.rows(d_out, grid, index)
        d_rows = linear_chunk.row_cotangents(out, d_part, factors, new)
        d_values = jnp.einsum("BHTD,BHDM->BHTM", d_rows, sums)
        d_sums += jnp.einsum("BHTD,BHTM->BHDM", d_rows, values)
        # The normalizer cancels the scale of a query.
        (d_part,) = pull((d_values, jax.tree.map(jnp.zeros_like, log_scale)))
        d_query = linear_grid.store(d_query, d_part, query, grid, index)
        return (d_query, d_sums), None

    carry = linear_grid.buffers(query), jnp.zeros_like(sums)
    (d_query, d_sums), _ = jax.lax.scan(step, carry, _indices(grid), reverse=True)
    return None, linear_grid.contents(d_query, query), d_sums


_read.defvjp(_read_forward, _read_backward)


def _read_rows(values, sums):
    """Outputs [B, H, T, D] of query features [B, H, T, M], and their row factors."""
    mixed = jnp.einsum("BHTM,BHDM->BHTD", values, sums)
    total = mixed[..., -1]
    factors = linear_chunk.row_factors(total, jnp.zeros_like(total), "sum")
    return mixed[..., :-1] * factors[0][..., None], factors


def _grid(tokens, chunk_size):
    length = tokens.shape[1]
    size = min(chunk_size, length)
    return Grid(length, size, -(-length // size))


def _indices(grid):
    return jnp.arange(grid.steps)
