"""The mLSTM cell: a matrix memory with exponential gates (Beck et al., 2024, sec. 2.3).

    C_t = f_t C_{t-1} + i_t k_t v_t^T      f_t = sigmoid(forget gate)
    n_t = f_t n_{t-1} + i_t k_t            i_t = exp(input gate)
    h_t = C_t^T q_t / max(|n_t . q_t|, 1)  k_t = key / sqrt(K)

Three forms of one function, all in logarithms, so that no gate overflows: token by
token, quadratic, and chunk by chunk. The last is for use; it is causal linear
attention without a feature map, and shares that scan and its backward pass. None of
them adds an epsilon to the denominator.

A masked token neither decays the memory nor writes to it, and reads it as any other.

Shapes use B batch, L length, H heads, K key width, D value width.
"""

import jax
import jax.numpy as jnp

from jaxmodels.layers import linear_attention, linear_checks, linear_parallel
from jaxmodels.layers.linear_attention import LinearAttentionState
from jaxmodels.layers.linear_chunk import LOWEST
from jaxmodels.layers.linear_grid import compute_dtype

# `sums` holds C_t^T, and n_t as its last row.
MLSTMState = LinearAttentionState


def initial_state(batch_size, num_heads, key_dim, value_dim=None, *, dtype="float32"):
    """The empty memory.

    Args:
        batch_size, num_heads, key_dim: B, H, K.
        value_dim: D; None is K.
        dtype: float32, or float64 where queries, keys or values are float64.

    Returns:
        `MLSTMState` with sums [B, H, D + 1, K].
    """
    return linear_attention.initial_state(
        batch_size,
        num_heads,
        key_dim,
        value_dim,
        features=None,
        dtype=jnp.dtype(dtype),
    )


def mlstm_chunkwise(
    query,
    key,
    value,
    input_gate,
    forget_gate,
    *,
    state=None,
    mask=None,
    segment_ids=None,
    chunk_size=64,
):
    """The cell over a sequence, in time linear in the length.

    Changing a later token, a masked one or another segment leaves an output the same
    to the bit.

    Args:
        query, key: [B, L, H, K].
        value: [B, L, H, D].
        input_gate, forget_gate: [B, L, H], before exp and sigmoid.
        state: `MLSTMState` before the first token; None is empty.
        mask: bool [B, L], False for tokens that leave the memory as it is.
        segment_ids: int [B, L]; a token sees the run of equal ids that it is in.
        chunk_size: tokens taken at once; changes time and rounding alone.

    Returns:
        [B, L, H, D] in the dtype of `value`, and the `MLSTMState` after the last token.

    Raises:
        ValueError: shapes that do not fit each other.
    """
    _check(query, key, value, input_gate, forget_gate, mask, segment_ids)
    log_input, log_decay = _log_gates(input_gate, forget_gate, mask)
    return linear_parallel.causal_linear_attention(
        query,
        _scaled(key),
        value,
        features=None,
        normalizer="mlstm",
        log_input=log_input,
        log_decay=log_decay,
        mask=mask,
        segment_ids=segment_ids,
        state=state,
        chunk_size=chunk_size,
    )


def mlstm_recurrent(
    query,
    key,
    value,
    input_gate,
    forget_gate,
    *,
    state=None,
    mask=None,
    segment_ids=None,
):
    """The cell token by token, as it is defined (eqs. 19 to 27).

    Args, Returns, Raises: as of `mlstm_chunkwise`.
    """
    _check(query, key, value, input_gate, forget_gate, mask, segment_ids)
    log_input, log_decay = _log_gates(input_gate, forget_gate, mask)
    if state is None:
        state = _empty_state(query, key, value)
    tokens = query, _scaled(key), value, log_input, log_decay, mask, segment_ids

    def step(state, token):
        return _step(state, *token)

    tokens = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), tokens)
    state, out = jax.lax.scan(step, state, tokens)
    return jnp.moveaxis(out, 0, 1).astype(value.dtype), state


def mlstm_parallel(
    query, key, value, input_gate, forget_gate, *, mask=None, segment_ids=None
):
    """The cell as one product of L x L matrices (appendix A.3), from an empty memory.

    Args, Raises: as of `mlstm_chunkwise`.

    Returns:
        [B, L, H, D] in the dtype of `value`.
    """
    _check(query, key, value, input_gate, forget_gate, mask, segment_ids)
    log_input, log_decay = _log_gates(input_gate, forget_gate, mask)
    dtype = compute_dtype(query, key, value)
    log_input, log_decay = (
        jnp.swapaxes(x, 1, 2).astype(dtype) for x in (log_input, log_decay)
    )
    seen = jnp.tri(query.shape[1], dtype=bool)[None]
    if segment_ids is not None:
        run = jnp.cumsum(_starts(segment_ids), axis=1)
        seen = seen & (run[:, :, None] == run[:, None, :])
    if mask is not None:
        seen = seen & mask[:, None, :]
    decay = jnp.cumsum(log_decay, axis=-1)  # B H L
    exponents = decay[..., :, None] - decay[..., None, :] + log_input[..., None, :]
    exponents = jnp.where(seen[:, None], exponents, LOWEST)
    # The unit of a row cancels, the floor of the denominator being in it as well.
    unit = jax.lax.stop_gradient(exponents.max(axis=-1, keepdims=True))
    weights = jnp.where(seen[:, None], jnp.exp(exponents - unit), 0)
    scores = jnp.einsum(
        "BTHK,BSHK->BHTS", query, _scaled(key), preferred_element_type=dtype
    )
    scores = scores * weights
    total = jnp.abs(scores.sum(axis=-1, keepdims=True))
    scores = scores / jnp.maximum(total, jnp.exp(-unit))
    out = jnp.einsum("BHTS,BSHD->BTHD", scores, value.astype(dtype))
    return out.astype(value.dtype)


def mlstm_step(
    state, query, key, value, input_gate, forget_gate, *, mask=None, segment_ids=None
):
    """One token, in time that no length enters.

    Args:
        state: `MLSTMState` before the token.
        query, key: [B, H, K].
        value: [B, H, D].
        input_gate, forget_gate: [B, H], before exp and sigmoid.
        mask: bool [B].
        segment_ids: int [B].

    Returns:
        The next state and [B, H, D] in the dtype of `value`: the order of a scan's
        body.
    """
    log_input, log_decay = _log_gates(input_gate, forget_gate, mask)
    state, out = _step(
        state, query, _scaled(key), value, log_input, log_decay, mask, segment_ids
    )
    return state, out.astype(value.dtype)


def _step(state, query, key, value, log_input, log_decay, mask, segment_ids):
    """`mlstm_step` with the key scaled and the gates as logarithms."""
    dtype = state.sums.dtype
    before, segment = state.log_scale, state.segment
    if segment_ids is not None:
        same = segment_ids == segment
        before = jnp.where(same[:, None], before, LOWEST)
        segment = segment_ids.astype(segment.dtype)
    log_input, log_decay = log_input.astype(dtype), log_decay.astype(dtype)
    if mask is not None:
        log_input = jnp.where(mask[:, None], log_input, LOWEST)
        # A weight of zero does not silence a NaN.
        key = jnp.where(mask[:, None, None], key, 0)
        value = jnp.where(mask[:, None, None], value, 0)
    # As the unit of what is summed it cancels, and no gradient passes through it.
    unit = jax.lax.stop_gradient(jnp.maximum(log_decay + before, log_input))
    unit = jnp.maximum(unit, LOWEST)
    kept, gained = jnp.exp(log_decay + before - unit), jnp.exp(log_input - unit)
    value = jnp.concatenate([value, jnp.ones_like(value[..., :1])], axis=-1)
    value = gained[..., None] * value.astype(dtype)
    if segment_ids is not None:
        kept = jnp.where(same[:, None], kept, 0)
    if mask is not None:
        value = jnp.where(mask[:, None, None], value, 0)
    sums = kept[..., None, None] * state.sums
    sums += jnp.einsum("BHD,BHK->BHDK", value, key.astype(dtype))
    mixed = jnp.einsum("BHDK,BHK->BHD", sums, query.astype(dtype))
    size = jnp.maximum(jnp.abs(mixed[..., -1]), jnp.exp(-unit))
    return MLSTMState(sums, unit, segment), mixed[..., :-1] / size[..., None]


def _log_gates(input_gate, forget_gate, mask):
    """The gates' logarithms, float32 or wider; masked tokens have no decay."""
    dtype = compute_dtype(input_gate, forget_gate)
    log_decay = jax.nn.log_sigmoid(forget_gate.astype(dtype))
    if mask is not None:
        log_decay = jnp.where(mask[..., None], log_decay, 0)
    return input_gate.astype(dtype), log_decay


def _scaled(key):
    return key * key.shape[-1] ** -0.5


def _starts(segment_ids):
    """bool [B, L], where a run of equal ids begins after the first token."""
    starts = segment_ids[:, 1:] != segment_ids[:, :-1]
    return jnp.pad(starts, ((0, 0), (1, 0)))


def _empty_state(query, key, value):
    sizes = *query.shape[::2], query.shape[3], value.shape[3]
    return initial_state(*sizes, dtype=compute_dtype(query, key, value))


def _check(query, key, value, input_gate, forget_gate, mask, segment_ids):
    linear_checks.shapes(query, key, value, same_length=True)
    linear_checks.per_token(query, mask=mask, segment_ids=segment_ids)
    for name, gate in (("input_gate", input_gate), ("forget_gate", forget_gate)):
        if gate.shape != query.shape[:3]:
            raise ValueError(
                f"{name} has shape {gate.shape}, not {query.shape[:3]} [batch, length, "
                "heads]; it is one number a head and token"
            )
