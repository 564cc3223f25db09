"""Linear attention: the softmax replaced by an inner product of feature maps.

    out_t = sum_s phi(q_t).phi(k_s) v_s / sum_s phi(q_t).phi(k_s)

All keys that a query sees are summed into one state of fixed size, so that time is
linear in the length, and decoding takes one constant step a token. A sum cannot
leave out arbitrary pairs. What it honours exactly: key padding `mask` [B, S]; causal
order; a bidirectional prefix, `prefix_lengths` [B]; packed sequences, `segment_ids`
[B, L].

`features` is made by a constructor of `feature_maps`, for example
`favor_plus(orthogonal_projection(rng, num_features, head_dim))`, and is constant
under differentiation; None uses queries and keys as they are.

Shapes use B batch, L length, T query length, S key length, H heads, K head width,
D value width, M features.
"""

import flax
import jax
import jax.numpy as jnp

from jaxmodels.layers import linear_checks, linear_grid, linear_scan, linear_sum
from jaxmodels.layers.feature_maps import (
    FEATURE_MAPS,
    elu_plus_one,
    exponential,
    favor_hyperbolic,
    favor_plus,
    feature_map,
    orthogonal_projection,
    projection_rows,
    relu,
    trigonometric,
)
from jaxmodels.layers.linear_chunk import LOWEST, State, Tokens

__all__ = [
    "FEATURE_MAPS",
    "LinearAttentionState",
    "attend_to_state",
    "causal_linear_attention",
    "elu_plus_one",
    "exponential",
    "favor_hyperbolic",
    "favor_plus",
    "feature_map",
    "initial_state",
    "key_value_state",
    "linear_attention",
    "linear_attention_step",
    "orthogonal_projection",
    "projection_rows",
    "relu",
    "trigonometric",
]


@flax.struct.dataclass
class LinearAttentionState:
    """All that linear attention keeps of the keys and values before a token.

    Attributes:
        sums: [B, H, D + 1, M], float32 or wider: sum of weights x value x features;
            the last row sums weights x features. True value: `sums * exp(log_scale)`.
        log_scale: [B, H], the logarithm of the unit of `sums`. A choice, not a
            quantity: gradients flow through `sums` only.
        segment: int32 [B], the segment that the sums belong to.
    """

    sums: jax.Array
    log_scale: jax.Array
    segment: jax.Array


def initial_state(
    batch_size, num_heads, head_dim, value_dim=None, *, features, dtype=jnp.float32
):
    """The state before the first token.

    Args:
        batch_size, num_heads, head_dim: B, H, K.
        value_dim: D; None is K.
        features: the feature map, whose M it takes.
        dtype: float32, or float64 where queries, keys or values are float64.
    """
    value_dim = head_dim if value_dim is None else value_dim
    vector = jax.ShapeDtypeStruct((head_dim,), dtype)
    values, _ = jax.eval_shape(feature_tree(features), vector)
    shape = batch_size, num_heads, value_dim + 1, values.shape[-1]
    return LinearAttentionState(
        sums=jnp.zeros(shape, dtype),
        log_scale=jnp.full(shape[:2], LOWEST, dtype),
        segment=jnp.zeros(batch_size, jnp.int32),
    )


def linear_attention(query, key, value, *, features, mask=None, chunk_size=256):
    """Bidirectional or cross attention: every query sees every valid key.

    Args:
        query: [B, T, H, K].
        key, value: [B, S, H, K], [B, S, H, D].
        features: feature map.
        mask: bool [B, S], True for keys to attend to.
        chunk_size: tokens whose features are in memory at once.

    Returns:
        [B, T, H, D] in the dtype of `value`; zero where no key is valid.

    Raises:
        ValueError: shapes that do not fit, or any other mask.
    """
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
    """Every query sees the valid keys up to its own, and what `state` has summed.

    Exact in what it leaves out: changing a later key, a masked token or another
    segment leaves an output the same to the bit. A stream may be cut anywhere: the
    state returned by one call continues in the next.

    Args:
        query, key: [B, L, H, K].
        value: [B, L, H, D].
        features: feature map.
        log_input: [B, L, H], added to the logarithm of each key's weight.
        log_decay: [B, L, H], added to that of all keys before the token; at most 0.
        normalizer: "sum" divides by the sum of the weights, "mlstm" by
            max(|sum|, 1) (Beck et al., 2024, eq. 21), None by nothing.
        mask: bool [B, L], True for keys to attend to and to remember.
        segment_ids: int [B, L]; a token sees the run of equal ids that it is in.
        prefix_lengths: int [B]; the first keys of this call, which all its queries
            see.
        state: `LinearAttentionState` before the first token; None is empty.
        chunk_size: tokens taken at once; changes time and rounding alone.

    Returns:
        [B, L, H, D] in the dtype of `value`, zero where no key is valid; and the
        `LinearAttentionState` after the last token.

    Raises:
        ValueError: shapes that do not fit, a mask that a sum cannot honour, a prefix
            together with segments or decays.
    """
    linear_checks.causal(
        query,
        key,
        value,
        log_input=log_input,
        log_decay=log_decay,
        mask=mask,
        segment_ids=segment_ids,
        prefix_lengths=prefix_lengths,
    )
    linear_checks.normalizer(normalizer)
    features = feature_tree(features)
    state = _state(state, query, key, value, features)
    if prefix_lengths is not None:
        in_prefix = jnp.arange(query.shape[1]) < prefix_lengths[:, None]
        valid = jnp.ones_like(in_prefix) if mask is None else mask
        mask = valid & ~in_prefix
        state = key_value_state(
            key,
            value,
            features=features,
            log_input=log_input,
            mask=valid & in_prefix,
            state=state,
        )
    starts, segment = None, state.segment
    if segment_ids is not None:
        before = jnp.concatenate([segment[:, None], segment_ids[:, :-1]], axis=1)
        starts, segment = segment_ids != before, segment_ids[:, -1].astype(jnp.int32)
    tokens = Tokens(query, key, value, log_input, log_decay, mask, starts)
    out, after = linear_scan.linear_scan(
        tokens,
        State(state.sums, state.log_scale),
        features=features,
        normalizer=normalizer,
        chunk_size=linear_checks.positive(chunk_size),
    )
    return out, LinearAttentionState(after.sums, after.log_scale, segment)


def linear_attention_step(
    state,
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
):
    """`causal_linear_attention` of one token, in time that no length enters.

    Args:
        state: `LinearAttentionState` before the token.
        query, key: [B, H, K].
        value: [B, H, D].
        features, normalizer: as in `causal_linear_attention`.
        log_input, log_decay: [B, H].
        mask: bool [B].
        segment_ids: int [B].

    Returns:
        The next state and [B, H, D]: the order of a scan's body.
    """
    token = jax.tree.map(
        lambda x: x[:, None],
        {
            "query": query,
            "key": key,
            "value": value,
            "log_input": log_input,
            "log_decay": log_decay,
            "mask": mask,
            "segment_ids": segment_ids,
        },
    )
    out, state = causal_linear_attention(
        **token, features=features, normalizer=normalizer, state=state, chunk_size=1
    )
    return state, out[:, 0]


def key_value_state(
    key, value, *, features, log_input=None, mask=None, state=None, chunk_size=256
):
    """Sums keys and values into a state, for queries that see all of them.

    Args:
        key, value: [B, S, H, K], [B, S, H, D].
        features: feature map.
        log_input: [B, S, H], added to the logarithm of each key's weight.
        mask: bool [B, S], True for keys to sum.
        state: `LinearAttentionState` to add to; None is empty.
        chunk_size: tokens whose features are in memory at once.

    Returns:
        `LinearAttentionState`.
    """
    linear_checks.keys(key, value, log_input=log_input, mask=mask)
    features = feature_tree(features)
    state = _state(state, key, key, value, features)
    sums = linear_sum.sum_keys(
        Tokens(None, key, value, log_input, valid=mask),
        State(state.sums, state.log_scale),
        features=features,
        chunk_size=linear_checks.positive(chunk_size),
    )
    return state.replace(sums=sums.sums, log_scale=sums.log_scale)


def attend_to_state(state, query, *, features, dtype=None, chunk_size=256):
    """Attention of every query to all that `state` has summed.

    Args:
        state: `LinearAttentionState`, as of `key_value_state`.
        query: [B, T, H, K].
        features: feature map that the keys were summed with.
        dtype: of the result; None is that of `query`.
        chunk_size: tokens whose features are in memory at once.

    Returns:
        [B, T, H, D], zero where nothing was summed.
    """
    features = feature_tree(features)
    linear_checks.shapes(query, query, query, same_length=True)
    value_dim = state.sums.shape[2] - 1
    check_state(state, (*query.shape[:1], query.shape[2], value_dim), query, features)
    out = linear_sum.read_state(
        query,
        state.sums,
        features=features,
        chunk_size=linear_checks.positive(chunk_size),
    )
    return out.astype(query.dtype if dtype is None else dtype)


def _identity(x):
    return x, None


def feature_tree(features):
    """The feature map, whatever function or None, as a pytree of its arrays."""
    if features is None:
        return jax.tree_util.Partial(_identity)
    if jax.tree_util.all_leaves([features]):
        return jax.tree_util.Partial(features)
    return features


def _state(state, query, key, value, features):
    """`state`, checked, or an empty one."""
    batch_size, _, num_heads, head_dim = query.shape
    value_dim = value.shape[-1]
    dtype = linear_grid.compute_dtype(query, key, value)
    if state is None:
        sizes = batch_size, num_heads, head_dim, value_dim
        state = initial_state(*sizes, features=features, dtype=dtype)
        # Inside `jax.shard_map` the state varies over the devices as the tokens do.
        zero = jnp.zeros_like(value[:, 0, :, 0], dtype=dtype)
        return LinearAttentionState(
            sums=state.sums + zero[..., None, None],
            log_scale=state.log_scale + zero,
            segment=state.segment + zero[:, 0].astype(jnp.int32),
        )
    check_state(state, (batch_size, num_heads, value_dim), query, features)
    return state.replace(
        sums=state.sums.astype(dtype), log_scale=state.log_scale.astype(dtype)
    )


def check_state(state, sizes, query, features):
    """Raises ValueError unless `state` fits B, H, D and the features of `query`."""
    batch_size, num_heads, value_dim = sizes
    fresh = jax.eval_shape(
        lambda: initial_state(
            batch_size, num_heads, query.shape[-1], value_dim, features=features
        )
    )
    if state.sums.shape != fresh.sums.shape:
        raise ValueError(
            f"a state of shape {state.sums.shape} does not continue queries of shape "
            f"{query.shape}, which need {fresh.sums.shape} [batch, heads, value width "
            "+ 1, features]; make it with initial_state and the same features"
        )
