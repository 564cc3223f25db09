"""The causal scheme of google-research's JAX Performer: our own transcription.

The algorithm of `performer/fast_attention/jax`, written anew to be measured beside
ours: features of the whole sequence first, with a stabilizer that is the maximum over
all keys; numerator and denominator as two scans over tokens; a backward pass that
walks the state back by subtraction. It shows that scheme's time, memory and rounding;
it is not that project's code.

Shapes use B batch, L length, H heads, K head width, D value width, M features.
"""

import functools

import jax
import jax.numpy as jnp

EPSILON = 1e-6


def features(x, projection, *, is_query, epsilon=EPSILON):
    """Positive features [B, H, L, M] of [B, H, L, K].

    Queries are scaled by their own maximum, keys by that of the whole sequence.
    """
    x = x * x.shape[-1] ** -0.25
    logits = jnp.einsum("BHLK,MK->BHLM", x, projection.astype(x.dtype))
    half_square = jnp.sum(x * x, axis=-1, keepdims=True) / 2
    axes = -1 if is_query else (-2, -1)
    peak = jnp.max(logits, axis=axes, keepdims=True)
    values = jnp.exp(logits - half_square - peak) + epsilon
    return values * projection.shape[0] ** -0.5


def reciprocal(total):
    """1 / total, kept from zero as that scheme does."""
    return 1 / (total + 2 * EPSILON * (jnp.abs(total) <= EPSILON))


def attend(query, key, value, projection, *, unroll=1):
    """Causal attention [B, L, H, D] of [B, L, H, K], [B, L, H, K], [B, L, H, D]."""
    query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
    query = features(query, projection, is_query=True)
    key = features(key, projection, is_query=False)
    query, key, value = (jnp.moveaxis(x, 2, 0) for x in (query, key, value))
    mixed = numerator(unroll, query, key, value)  # L B H D
    total = denominator(unroll, query, key)  # L B H
    return jnp.moveaxis(mixed * reciprocal(total)[..., None], 0, 1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def numerator(unroll, query, key, value):
    """sum_{j <= t} (q_t . k_j) v_j, time first, a token at a time."""
    return _numerator_forward(unroll, query, key, value)[0]


def _numerator_forward(unroll, query, key, value):
    def step(state, token):
        query, key, value = token
        state = state + key[..., :, None] * value[..., None, :]
        return state, jnp.einsum("BHM,BHMD->BHD", query, state)

    shape = (*key.shape[1:], value.shape[-1])
    zeros = jnp.zeros(shape, key.dtype)
    last, out = jax.lax.scan(step, zeros, (query, key, value), unroll=unroll)
    return out, (query, key, value, last)


def _numerator_backward(unroll, saved, d_out):
    def step(carry, token):
        state, d_state = carry
        query, key, value, d_row = token
        d_query = jnp.einsum("BHD,BHMD->BHM", d_row, state)
        d_state = d_state + query[..., :, None] * d_row[..., None, :]
        d_key = jnp.einsum("BHMD,BHD->BHM", d_state, value)
        d_value = jnp.einsum("BHMD,BHM->BHD", d_state, key)
        state = state - key[..., :, None] * value[..., None, :]
        return (state, d_state), (d_query, d_key, d_value)

    *tokens, last = saved
    carry = last, jnp.zeros_like(last)
    inputs = (*tokens, d_out)
    return jax.lax.scan(step, carry, inputs, reverse=True, unroll=unroll)[1]


numerator.defvjp(_numerator_forward, _numerator_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def denominator(unroll, query, key):
    """sum_{j <= t} q_t . k_j, time first, a token at a time."""
    return _denominator_forward(unroll, query, key)[0]


def _denominator_forward(unroll, query, key):
    def step(state, token):
        query, key = token
        state = state + key
        return state, jnp.einsum("BHM,BHM->BH", query, state)

    zeros = jnp.zeros(key.shape[1:], key.dtype)
    last, out = jax.lax.scan(step, zeros, (query, key), unroll=unroll)
    return out, (query, key, last)


def _denominator_backward(unroll, saved, d_out):
    def step(carry, token):
        state, d_state = carry
        query, key, d_row = token
        d_query = d_row[..., None] * state
        d_state = d_state + d_row[..., None] * query
        return (state - key, d_state), (d_query, d_state)

    *tokens, last = saved
    carry = last, jnp.zeros_like(last)
    inputs = (*tokens, d_out)
    return jax.lax.scan(step, carry, inputs, reverse=True, unroll=unroll)[1]


denominator.defvjp(_denominator_forward, _denominator_backward)
