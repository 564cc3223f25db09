"""One chunk of the recurrence in `linear_scan`, forward and backward.

Each row is scaled by the running maximum over the keys that it sees. A maximum
over its whole chunk, or over the sequence, would let a later key change an earlier
output through rounding.

Shapes use B batch, L length, H heads, K head width, D value width, M features,
T queries and S keys of the chunk. Heads stand before time and the state is
value-major, so that every large product runs along contiguous features.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmodels.layers.linear_grid import compute_dtype, fresh, heads_first, take

Array = jax.Array

NORMALIZERS = ("sum", "mlstm", None)
# Stands for the logarithm of zero: finite, so that differences are never NaN.
LOWEST = -1e30
# Above so many keys a product whose left operand is transposed costs a CPU more time
# than to transpose it first.
_TRANSPOSED = 64


class Tokens(NamedTuple):
    """What the scan reads of a sequence; None where a mechanism has no use for it.

    Attributes:
        query, key: [B, L, H, K].
        value: [B, L, H, D].
        log_input, log_decay: [B, L, H], float32 or wider.
        valid: bool [B, L], False for keys that nothing attends to.
        starts: bool [B, L], True where the state is forgotten before the token.
    """

    query: Array | None
    key: Array
    value: Array
    log_input: Array | None = None
    log_decay: Array | None = None
    valid: Array | None = None
    starts: Array | None = None


class State(NamedTuple):
    """The sums over all keys so far; their true value is `sums * exp(log_scale)`.

    Attributes:
        sums: [B, H, D + 1, M]; the last row sums the features alone.
        log_scale: [B, H], a choice of unit: no gradient passes through it.
    """

    sums: Array
    log_scale: Array | None


class Chunk(NamedTuple):
    """The tokens of one chunk in the accumulation dtype, heads before time."""

    query: Array | None  # B H T K, None where only keys are summed
    key: Array  # B H S K
    value: Array  # B H S D+1, the last column ones
    log_input: Array | None  # B H S
    log_decay: Array | None  # B H S
    valid: Array | None  # B 1 S
    run: Array | None  # B 1 S, 0 while the state from before the chunk holds


def gates_first(tokens):
    """`Tokens` with gates [B, H, L], as `load` takes them.

    A chunk's T x S weights are made of its gates. With heads behind the length these
    would be read with a stride, number by number, for every weight.
    """
    gates = tokens.log_input, tokens.log_decay
    log_input, log_decay = jax.tree.map(heads_first, gates)
    return tokens._replace(log_input=log_input, log_decay=log_decay)


def load(tokens, grid, index):
    """Step `index` as a `Chunk`, that forgets what is not fresh.

    Args:
        tokens: of `gates_first`.
        grid, index: as of `linear_grid.take`.
    """
    gates = tokens.log_input, tokens.log_decay
    gates = jax.tree.map(lambda x: take(x, grid, index, axis=2), gates)
    tokens = tokens._replace(log_input=None, log_decay=None)
    tokens = jax.tree.map(lambda x: take(x, grid, index), tokens)
    dtype = compute_dtype(*jax.tree.leaves(tokens[:3]))
    query, key = jax.tree.map(
        lambda x: heads_first(x.astype(dtype)), (tokens.query, tokens.key)
    )
    log_input, log_decay = jax.tree.map(lambda x: x.astype(dtype), gates)
    value = heads_first(tokens.value.astype(dtype))
    valid, starts, new = tokens.valid, tokens.starts, fresh(grid, index)
    if new is not None:
        whole = jnp.broadcast_to(new, tokens.key.shape[:2])
        valid = whole if valid is None else valid & whole
        starts = None if starts is None else starts & whole
        log_decay = None if log_decay is None else jnp.where(new, log_decay, 0)
    if valid is not None:
        # A weight of zero does not silence a NaN.
        key = jnp.where(valid[:, None, :, None], key, 0)
        value = jnp.where(valid[:, None, :, None], value, 0)
        valid = valid[:, None]
    run = None if starts is None else jnp.cumsum(starts, axis=1)[:, None]
    value = jnp.concatenate([value, jnp.ones_like(value[..., :1])], axis=-1)
    return Chunk(query, key, value, log_input, log_decay, valid, run)


def _total_input(log_key, chunk):
    """The logarithm of each key's weight, [B, H, S]: its features' scale and gate."""
    terms = [x for x in (log_key, chunk.log_input) if x is not None]
    return sum(terms) if terms else jnp.zeros_like(chunk.key[..., 0])


def _ordered(chunk):
    """bool [1 or B, 1, T, S]: key s stands at or before t, in the same segment."""
    size = chunk.key.shape[2]
    ordered = jnp.tri(size, dtype=bool)[None, None]
    if chunk.run is None:
        return ordered
    return ordered & (chunk.run[..., :, None] == chunk.run[..., None, :])


def _weights(chunk, log_input, log_scale, which=slice(None)):
    """How much each row takes of each key of the chunk and of the state before it.

    Returns:
        weights [B, H, T, S] and carried [B, H, T], in the unit of the row, and the
        logarithm of that unit [B, H, T]; T are the rows `which`.
    """
    ordered = _ordered(chunk)
    decay = jnp.zeros_like(log_input)
    if chunk.log_decay is not None:
        # A running sum would round differently after another segment.
        decay = jnp.where(ordered, chunk.log_decay[..., None, :], 0).sum(-1)
    visible = ordered[..., which, :]
    if chunk.valid is not None:
        visible = visible & chunk.valid[..., None, :]
    exponents = jnp.where(visible, (log_input - decay)[..., None, :], LOWEST)
    peak = jnp.max(exponents, axis=-1)
    before = log_scale[..., None]
    if chunk.run is not None:
        continues = chunk.run[..., which] == 0
        before = jnp.where(continues, before, LOWEST)
    peak = jnp.maximum(peak, before)
    weights = jnp.where(visible, jnp.exp(exponents - peak[..., None]), 0)
    carried = jnp.exp(before - peak)
    if chunk.run is not None:
        carried = jnp.where(continues, carried, 0)
    return weights, carried, decay[..., which] + peak


def _next_state(chunk, key, weights, carried, unit, state):
    """The state after the chunk; the gains are those of its last row."""
    if key.shape[2] > _TRANSPOSED:
        gained = jnp.swapaxes(chunk.value, -1, -2) * weights[..., None, :]
        sums = jnp.einsum("BHDS,BHSM->BHDM", gained, key)
    else:
        gained = chunk.value * weights[..., None]
        sums = jnp.einsum("BHSD,BHSM->BHDM", gained, key)
    return State(state.sums * carried[..., None, None] + sums, unit)


def advance(features, chunk, state):
    """The state after the chunk, without its outputs."""
    key, log_key = features(chunk.key)
    log_input = _total_input(log_key, chunk)
    gains = _weights(chunk, log_input, state.log_scale, which=slice(-1, None))
    weights, carried, unit = gains
    return _next_state(
        chunk, key, weights[..., 0, :], carried[..., 0], unit[..., 0], state
    )


def attend(features, chunk, state, normalizer):
    """Returns the outputs [B, H, T, D], their `row_factors` and the next state."""
    query, log_query = features(chunk.query)
    key, log_key = features(chunk.key)
    log_input = _total_input(log_key, chunk)
    weights, carried, unit = _weights(chunk, log_input, state.log_scale)
    scores = jnp.einsum("BHTM,BHSM->BHTS", query, key) * weights
    mixed = jnp.einsum("BHTS,BHSD->BHTD", scores, chunk.value)
    mixed += carried[..., None] * jnp.einsum("BHTM,BHDM->BHTD", query, state.sums)
    row_unit = unit if log_query is None else unit + log_query
    factors = row_factors(mixed[..., -1], row_unit, normalizer)
    out = mixed[..., :-1] * factors[0][..., None]
    last = weights[..., -1, :], carried[..., -1], unit[..., -1]
    return out, factors, _next_state(chunk, key, *last, state)


def row_factors(total, unit, normalizer):
    """What a row is multiplied by, and minus that factor's logarithmic derivative.

    Args:
        total: [...], the sum of the row's weights in the unit of the row.
        unit: [...], the logarithm of that unit.
        normalizer: one of `NORMALIZERS`.

    Returns:
        [2, ...]: the factor f, and -d log f / d total.
    """
    tiny = jnp.finfo(total.dtype).tiny
    if normalizer is None:
        return jnp.stack([jnp.exp(unit), jnp.zeros_like(total)])
    size = jnp.abs(total)
    if normalizer == "sum":
        # Below this a sum of products has lost its digits, and 1 / total overflows
        # in the backward pass.
        alive = size > tiny**0.8
        factor = jnp.where(alive, 1 / jnp.where(alive, total, 1), 0)
        return jnp.stack([factor, factor])
    floor = jnp.exp(-unit)
    factor = 1 / jnp.maximum(jnp.maximum(size, floor), tiny)
    return jnp.stack([factor, jnp.where(size > floor, jnp.sign(total) * factor, 0)])


def row_cotangents(out, d_out, factors, new):
    """The cotangent [B, H, T, D+1] of a row's sums before normalization.

    Args:
        out, d_out: [B, H, T, D].
        factors: of `row_factors`.
        new: of `fresh`; the other rows get zero.
    """
    if new is not None:
        d_out = jnp.where(new[:, None], d_out, 0)
    factor, slope = factors
    d_total = -jnp.sum(d_out * out, axis=-1) * slope
    return jnp.concatenate([d_out * factor[..., None], d_total[..., None]], axis=-1)


def pull_back(features, chunk, state, normalizer, d_rows, d_sums, flow):
    """The cotangents of one chunk and of the state before it.

    Args:
        d_rows: [B, H, T, D+1], of `row_cotangents`.
        d_sums: [B, H, D+1, M], the cotangent of the sums after the chunk.
        flow: [B, H], the derivative with respect to a decay right after the chunk;
            None without decays.

    Returns:
        The `Tokens` of cotangents, heads before time, and `d_sums` and `flow` of
        the state before the chunk.
    """
    (query, log_query), pull_query = jax.vjp(features, chunk.query)
    (key, log_key), pull_key = jax.vjp(features, chunk.key)
    log_input = _total_input(log_key, chunk)
    weights, carried, _ = _weights(chunk, log_input, state.log_scale)
    kept = weights[..., -1, :]

    scores = jnp.einsum("BHTM,BHSM->BHTS", query, key) * weights
    d_value = jnp.einsum("BHTS,BHTD->BHSD", scores, d_rows)
    d_value += kept[..., None] * jnp.einsum("BHSM,BHDM->BHSD", key, d_sums)

    d_scores = jnp.einsum("BHTD,BHSD->BHTS", d_rows, chunk.value) * weights
    d_carried = d_rows * carried[..., None]
    d_query = jnp.einsum("BHTS,BHSM->BHTM", d_scores, key)
    d_query += jnp.einsum("BHTD,BHDM->BHTM", d_carried, state.sums)
    d_key = jnp.einsum("BHTS,BHTM->BHSM", d_scores, query)
    d_key += kept[..., None] * jnp.einsum("BHSD,BHDM->BHSM", chunk.value, d_sums)
    d_before = d_sums * carried[..., -1, None, None]
    d_before += jnp.einsum("BHTD,BHTM->BHDM", d_carried, query)

    # Scaling a row, or a key, scales its features: these are the derivatives with
    # respect to the logarithm of that scale.
    row_gain = jnp.sum(query * d_query, axis=-1)
    key_gain = jnp.sum(key * d_key, axis=-1)
    d_decay = None
    if flow is not None:
        ordered = _ordered(chunk)
        change = jnp.where(ordered, (row_gain - key_gain)[..., :, None], 0).sum(-2)
        d_decay = change + jnp.where(ordered[..., -1, :], flow[..., None], 0)
        flow = jnp.sum(d_before * state.sums, axis=(-2, -1))
    # A sum normalizer cancels the scale of its row exactly.
    d_log_query = jnp.zeros_like(row_gain) if normalizer == "sum" else row_gain
    gradient = Tokens(
        query=pull_query((d_query, None if log_query is None else d_log_query))[0],
        key=pull_key((d_key, None if log_key is None else key_gain))[0],
        value=d_value[..., :-1],
        log_input=None if chunk.log_input is None else key_gain,
        log_decay=d_decay,
    )
    return gradient, d_before, flow


def pull_back_sum(features, chunk, log_scale, d_sums):
    """The cotangents of a chunk that was summed into a state.

    Args:
        log_scale: [B, H], the unit of the state after *all* keys.
        d_sums: [B, H, D+1, M], the cotangent of its sums.
    """
    (key, log_key), pull_key = jax.vjp(features, chunk.key)
    log_input = _total_input(log_key, chunk)
    weights, _, _ = _weights(chunk, log_input, log_scale, which=slice(-1, None))
    kept = weights[..., 0, :]
    d_key = kept[..., None] * jnp.einsum("BHSD,BHDM->BHSM", chunk.value, d_sums)
    d_value = jnp.einsum("BHDM,BHSM->BHSD", d_sums[..., :-1, :], key)
    key_gain = jnp.sum(key * d_key, axis=-1)
    return Tokens(
        query=None,
        key=pull_key((d_key, None if log_key is None else key_gain))[0],
        value=d_value * kept[..., None],
        log_input=None if chunk.log_input is None else key_gain,
    )
