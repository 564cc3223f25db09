"""Linear attention written as masked T x T matrices: what the fast forms equal."""

import jax.numpy as jnp


def apply_features(features, x):
    """phi(x) itself, the scale multiplied in."""
    values, log_scale = (x, None) if features is None else features(x)
    return values if log_scale is None else values * jnp.exp(log_scale)[..., None]


def visible_keys(length, mask=None, segment_ids=None, prefix_lengths=None):
    """bool [B or 1, 1, T, S]."""
    index = jnp.arange(length)
    visible = (index[None, :] <= index[:, None])[None, None]
    if prefix_lengths is not None:
        visible = visible | (index < prefix_lengths[:, None])[:, None, None]
    if mask is not None:
        visible = visible & mask[:, None, None]
    if segment_ids is not None:
        changes = segment_ids[:, 1:] != segment_ids[:, :-1]
        run = jnp.pad(jnp.cumsum(changes, axis=1), ((0, 0), (1, 0)))
        visible = visible & (run[:, :, None] == run[:, None])[:, None]
    return visible


def quadratic_attention(
    query,
    key,
    value,
    *,
    features=None,
    log_input=None,
    log_decay=None,
    normalizer="sum",
    causal=True,
    mask=None,
    segment_ids=None,
    prefix_lengths=None,
):
    """The arguments and the result of `causal_linear_attention`, without a state."""
    phi_query, phi_key = (apply_features(features, x) for x in (query, key))
    weights = jnp.einsum("BTHM,BSHM->BHTS", phi_query, phi_key)
    if log_decay is not None:
        total = jnp.moveaxis(jnp.cumsum(log_decay, axis=1), 1, 2)
        change = total[..., :, None] - total[..., None, :]
        weights = weights * jnp.exp(jnp.minimum(change, 0))
    if log_input is not None:
        weights = weights * jnp.exp(jnp.moveaxis(log_input, 1, 2))[:, :, None]
    if causal:
        options = mask, segment_ids, prefix_lengths
        weights = jnp.where(visible_keys(query.shape[1], *options), weights, 0)
    elif mask is not None:
        weights = jnp.where(mask[:, None, None], weights, 0)
    total = weights.sum(axis=-1, keepdims=True)
    if normalizer == "sum":
        weights = weights / jnp.where(total == 0, 1, total)
    if normalizer == "mlstm":
        weights = weights / jnp.maximum(jnp.abs(total), 1)
    return jnp.einsum("BHTS,BSHD->BTHD", weights, value)
