"""Linear attention with the length cut over the mesh axis "seq".

The functions of `linear_attention`, for tokens that lie on the devices of the ambient
mesh (`jax.set_mesh`). Every device sums its own keys, the devices exchange these
states, whose size has no length in it, and each runs the plain form after the state of
all that stands before its tokens (Sun et al., 2025, LASP-2). Without such a mesh, and
for a length that its axis does not divide, the plain form runs alone.

No gradient passes through the unit of a state, `log_scale`, nor through a maximum of
units: the true sums do not depend on them. It does pass through the decays, by which a
state reaches a later device.

Shapes use B batch, L length, T queries, S keys, H heads, K head width, D value width,
M features, N devices along the axis; inside `jax.shard_map` they are those of one
device.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

from jaxmodels.layers import linear_attention as plain
from jaxmodels.layers import linear_checks
from jaxmodels.layers.linear_attention import LinearAttentionState
from jaxmodels.layers.linear_chunk import LOWEST
from jaxmodels.layers.linear_grid import compute_dtype

Array = jax.Array

# Mesh axes that cut the batch, the length and the heads.
BATCH, LENGTH, HEADS = ("data", "fsdp"), "seq", "model"


class Tokens(NamedTuple):
    """The arrays of a call, as `causal_linear_attention` names them."""

    key: Array
    value: Array
    query: Array | None = None
    log_input: Array | None = None
    log_decay: Array | None = None
    mask: Array | None = None
    segment_ids: Array | None = None
    prefix_lengths: Array | None = None


class Summary(NamedTuple):
    """What a device tells the others of its tokens.

    Attributes:
        sums, log_scale: the state after them, from an empty one.
        decay: [B, H], the sum of their decays.
        first, last: int [B], their outermost segments.
        broken: bool [B], whether a segment starts after the first token.
    """

    sums: Array
    log_scale: Array
    decay: Array | None = None
    first: Array | None = None
    last: Array | None = None
    broken: Array | None = None


def is_cut(length):
    """Whether the ambient mesh cuts a sequence of this length.

    Inside a `jax.shard_map` of the caller's own it does not: the cut is the caller's.
    """
    mesh = jax.sharding.get_abstract_mesh()
    size = dict(mesh.shape).get(LENGTH, 1)
    automatic = all(kind == AxisType.Auto for kind in mesh.axis_types)
    return size > 1 and automatic and length % size == 0


def linear_attention(query, key, value, *, features, mask=None, chunk_size=256):
    """As `linear_attention.linear_attention`."""
    linear_checks.shapes(query, key, value, same_length=False)
    options = {"features": features, "chunk_size": chunk_size}
    state = key_value_state(key, value, mask=mask, **options)
    return attend_to_state(state, query, dtype=value.dtype, **options)


def causal_linear_attention(
    query,
    key,
    value,
    *,
    features,
    log_input=None,
    log_decay=None,
    normalizer="sum",
    mask=None,
    segment_ids=None,
    prefix_lengths=None,
    state=None,
    chunk_size=64,
):
    """As `linear_attention.causal_linear_attention`, one state for all devices."""
    tokens = Tokens(
        query=query,
        key=key,
        value=value,
        log_input=log_input,
        log_decay=log_decay,
        mask=mask,
        segment_ids=segment_ids,
        prefix_lengths=prefix_lengths,
    )
    if not is_cut(query.shape[1]):
        return plain.causal_linear_attention(
            **tokens._asdict(),
            state=state,
            features=features,
            normalizer=normalizer,
            chunk_size=chunk_size,
        )
    linear_checks.causal(**tokens._asdict())
    _check_state(state, key, value.shape[-1], features)
    per_token, per_state = _specs(key)
    run = functools.partial(_causal, normalizer=normalizer, chunk_size=chunk_size)
    specs = PartitionSpec(), per_token, None if state is None else per_state
    run = jax.shard_map(run, in_specs=specs, out_specs=(per_token.query, per_state))
    return run(_constant(features), tokens, state)


def key_value_state(
    key, value, *, features, log_input=None, mask=None, state=None, chunk_size=256
):
    """As `linear_attention.key_value_state`, one state for all devices."""
    tokens = Tokens(key=key, value=value, log_input=log_input, mask=mask)
    if not is_cut(key.shape[1]):
        return plain.key_value_state(
            key,
            value,
            features=features,
            log_input=log_input,
            mask=mask,
            state=state,
            chunk_size=chunk_size,
        )
    linear_checks.keys(key, value, log_input=log_input, mask=mask)
    _check_state(state, key, value.shape[-1], features)
    per_token, per_state = _specs(key)
    run = functools.partial(_total, chunk_size=chunk_size)
    specs = PartitionSpec(), per_token, None if state is None else per_state
    run = jax.shard_map(run, in_specs=specs, out_specs=per_state)
    return run(_constant(features), tokens, state)


def attend_to_state(state, query, *, features, dtype=None, chunk_size=256):
    """As `linear_attention.attend_to_state`."""
    options = {"dtype": dtype, "chunk_size": chunk_size}
    if not is_cut(query.shape[1]):
        return plain.attend_to_state(state, query, features=features, **options)
    linear_checks.shapes(query, query, query, same_length=True)
    _check_state(state, query, state.sums.shape[2] - 1, features)
    per_token, per_state = _specs(query)

    def run(features, state, query):
        sums = jax.lax.pcast(state.sums, LENGTH, to="varying")
        state = state.replace(sums=sums)
        return plain.attend_to_state(state, query, features=features, **options)

    specs = PartitionSpec(), per_state, per_token.query
    run = jax.shard_map(run, in_specs=specs, out_specs=per_token.query)
    return run(_constant(features), state, query)


def _check_state(state, tokens, value_dim, features):
    """As `linear_attention.check_state`, for tokens [B, L, H, K] and D."""
    if state is not None:
        rows, _, heads, _ = tokens.shape
        features = plain.feature_tree(features)
        plain.check_state(state, (rows, heads, value_dim), tokens, features)


def _constant(features):
    return jax.lax.stop_gradient(plain.feature_tree(features))


def _specs(tokens):
    """How `Tokens` and `LinearAttentionState` lie on the ambient mesh.

    An axis that does not divide its dimension is left out, and its devices repeat
    each other's work.

    Args:
        tokens: [B, L, H, ...].
    """
    sizes = dict(jax.sharding.get_abstract_mesh().shape)
    rows, _, heads = tokens.shape[:3]
    axes = []
    for axis in BATCH:
        if rows % sizes.get(axis, 1) == 0 and axis in sizes:
            axes.append(axis)
            rows //= sizes[axis]
    batch = tuple(axes) or None
    heads = HEADS if HEADS in sizes and heads % sizes[HEADS] == 0 else None
    # Trees of specs in place of arrays.
    spec: Any = PartitionSpec
    whole = spec(batch, LENGTH, heads)
    per_token = Tokens(
        key=whole,
        value=whole,
        query=whole,
        log_input=whole,
        log_decay=whole,
        mask=spec(batch, LENGTH),
        segment_ids=spec(batch, LENGTH),
        prefix_lengths=spec(batch),
    )
    per_state = LinearAttentionState(
        sums=spec(batch, heads),
        log_scale=spec(batch, heads),
        segment=spec(batch),
    )
    return per_token, per_state


def _causal(features, tokens, state, *, normalizer, chunk_size):
    """One device's outputs, and the state after the last device's tokens."""
    if state is None:
        state = _empty(features, tokens)
    if tokens.prefix_lengths is not None:
        size = tokens.key.shape[1]
        index = jax.lax.axis_index(LENGTH) * size + jnp.arange(size)
        in_prefix = index < tokens.prefix_lengths[:, None]
        valid = jnp.ones_like(in_prefix) if tokens.mask is None else tokens.mask
        prefix = tokens._replace(mask=valid & in_prefix)
        state = _total(features, prefix, state)
        tokens = tokens._replace(mask=valid & ~in_prefix, prefix_lengths=None)
    out, last = plain.causal_linear_attention(
        **tokens._asdict(),
        state=_before(features, tokens, state),
        features=features,
        normalizer=normalizer,
        chunk_size=chunk_size,
    )
    newest = jax.lax.axis_index(LENGTH) == jax.lax.axis_size(LENGTH) - 1
    last = jax.tree.map(lambda x: jnp.where(newest, x, 0), last)
    return out, jax.lax.psum(last, LENGTH)


def _total(features, tokens, state, *, chunk_size=256):
    """The state after the keys of all devices, whatever their order."""
    own = _sum(features, tokens, chunk_size)
    if state is None:
        state = _empty(features, tokens)
    scale, old_scale = jax.lax.stop_gradient((own.log_scale, state.log_scale))
    unit = jnp.maximum(jax.lax.pmax(scale, LENGTH), old_scale)
    sums = own.sums * jnp.exp(scale - unit)[..., None, None]
    old = state.sums * jnp.exp(old_scale - unit)[..., None, None]
    return state.replace(sums=jax.lax.psum(sums, LENGTH) + old, log_scale=unit)


def _sum(features, tokens, chunk_size=256):
    return plain.key_value_state(
        tokens.key,
        tokens.value,
        log_input=tokens.log_input,
        mask=tokens.mask,
        features=features,
        chunk_size=chunk_size,
    )


def _empty(features, tokens):
    batch_size, _, num_heads, head_dim = tokens.key.shape
    arrays = [x for x in (tokens.query, tokens.key, tokens.value) if x is not None]
    return plain.initial_state(
        batch_size,
        num_heads,
        head_dim,
        tokens.value.shape[-1],
        features=features,
        dtype=compute_dtype(*arrays),
    )


def _before(features, tokens, state):
    """The state before this device's tokens: `state` and all earlier devices' keys."""
    devices = jax.lax.all_gather(_summarize(features, tokens), LENGTH)
    here = jax.lax.axis_index(LENGTH)
    device = jnp.arange(jax.lax.axis_size(LENGTH))
    # The sums come from `state`, numbered -1, and from the devices.
    source = jnp.arange(-1, device.size)
    between = (device > source[:, None]) & (device < here)  # N+1 N
    log_scale = jnp.concatenate([state.log_scale[None], devices.log_scale])
    log_scale = jax.lax.stop_gradient(log_scale)  # N+1 B H
    reaches = jnp.broadcast_to((source < here)[:, None], log_scale.shape[:2])
    segment = state.segment
    if devices.decay is not None:
        decay = jnp.where(between[..., None, None], devices.decay, 0)
        log_scale += jnp.sum(decay, axis=1)
    if devices.broken is not None:
        left = jnp.concatenate([segment[None], devices.last[:-1]])
        ends = devices.broken | (devices.first != left)  # N B
        reaches &= ~jnp.any(between[..., None] & ends, axis=1)
        segment = left[here]
    log_scale = jnp.where(reaches[..., None], log_scale, LOWEST)
    unit = jax.lax.stop_gradient(jnp.max(log_scale, axis=0))
    weights = jnp.exp(log_scale - unit)[..., None, None]
    # A weight of zero does not silence a NaN.
    reaches = reaches[..., None, None, None]
    sums = weights[0] * jnp.where(reaches[0], state.sums, 0)
    sums += jnp.sum(weights[1:] * jnp.where(reaches[1:], devices.sums, 0), axis=0)
    return LinearAttentionState(sums, unit, segment)


def _summarize(features, tokens):
    """This device's `Summary`: its keys as the last token's right neighbor sees them.

    A decayed sum is a sum whose keys enter with the decays after them.
    """
    decay = first = last = broken = None
    if tokens.log_decay is not None:
        decays = tokens.log_decay.astype(compute_dtype(tokens.log_decay))
        decays = jax.lax.cumsum(decays, axis=1, reverse=True)
        decay, later = decays[:, 0], jnp.zeros_like(decays[:, :1])
        later = jnp.concatenate([decays[:, 1:], later], axis=1)
        old = tokens.log_input
        tokens = tokens._replace(log_input=later if old is None else old + later)
    if tokens.segment_ids is not None:
        ids = tokens.segment_ids
        first, last = ids[:, 0], ids[:, -1]
        changes = jnp.cumsum(ids[:, 1:] != ids[:, :-1], axis=1)
        run = jnp.concatenate([jnp.zeros_like(ids[:, :1]), changes], axis=1)
        broken, newest = run[:, -1] > 0, run == run[:, -1:]
        mask = newest if tokens.mask is None else tokens.mask & newest
        tokens = tokens._replace(mask=mask)
    own = _sum(features, tokens)
    return Summary(own.sums, own.log_scale, decay, first, last, broken)
