"""What a user can get wrong in a call of linear attention, each a `ValueError`."""

import jax.numpy as jnp

from jaxmodels.layers.linear_chunk import NORMALIZERS

HONOURED = (
    "linear attention honours key padding (mask, bool [batch, keys]), causal order "
    "(causal_linear_attention), a prefix (prefix_lengths, int [batch]) and packed "
    "sequences (segment_ids, int [batch, length]); softmax attention takes any other "
    "mask"
)


def causal(
    query, key, value, *, log_input, log_decay, mask, segment_ids, prefix_lengths
):
    """All arrays of a call of causal attention."""
    shapes(query, key, value, same_length=True)
    per_token(query, mask=mask, segment_ids=segment_ids)
    gates(query, log_input, log_decay)
    if prefix_lengths is not None:
        prefix(query, prefix_lengths, segment_ids, log_decay)


def keys(key, value, *, log_input, mask):
    """All arrays of a sum over keys."""
    shapes(key, key, value, same_length=True)
    per_token(key, mask=mask)
    gates(key, log_input, None)


def shapes(query, key, value, *, same_length):
    shapes = f"query {query.shape}, key {key.shape}, value {value.shape}"
    if not query.ndim == key.ndim == value.ndim == 4:
        raise ValueError(f"{shapes} must be [batch, length, heads, width]")
    if key.shape[:3] != value.shape[:3]:
        raise ValueError(f"{shapes}: key and value differ before the width")
    ours, theirs = (x.shape[:1] + x.shape[2:] for x in (query, key))
    if ours != theirs:
        raise ValueError(f"{shapes}: query and key differ in batch, heads or width")
    if same_length and query.shape[1] != key.shape[1]:
        raise ValueError(
            f"{shapes}: causal attention needs as many keys as queries; "
            "linear_attention takes any number"
        )
    if 0 in (query.shape[1], key.shape[1]):
        raise ValueError(f"{shapes}: there is no token; lengths must be at least 1")


def per_token(tokens, mask=None, segment_ids=None):
    expected = tokens.shape[:2]
    if mask is not None and (mask.shape != expected or mask.dtype != bool):
        raise ValueError(
            f"a {mask.dtype} mask of shape {mask.shape} is not bool "
            f"{expected}: {HONOURED}"
        )
    if segment_ids is None:
        return
    integer = jnp.issubdtype(segment_ids.dtype, jnp.integer)
    if segment_ids.shape != expected or not integer:
        raise ValueError(
            f"{segment_ids.dtype} segment_ids of shape {segment_ids.shape} are not "
            f"integers {expected}, one a token"
        )


def gates(tokens, log_input, log_decay):
    expected = tokens.shape[:3]
    for name, gate in (("log_input", log_input), ("log_decay", log_decay)):
        if gate is not None and gate.shape != expected:
            raise ValueError(
                f"{name} has shape {gate.shape}, not {expected} [batch, length, "
                "heads]; broadcast it first"
            )


def prefix(query, prefix_lengths, segment_ids, log_decay):
    if prefix_lengths.shape != query.shape[:1]:
        raise ValueError(
            f"prefix_lengths has shape {prefix_lengths.shape}, not {query.shape[:1]}, "
            "one length a row of the batch"
        )
    if segment_ids is not None or log_decay is not None:
        raise ValueError(
            "prefix_lengths cannot be combined with segment_ids or log_decay: the "
            "prefix is one sum that all queries share; give each prefix a row of its "
            "own, without decay"
        )


def normalizer(name):
    if name not in NORMALIZERS:
        raise ValueError(f"normalizer {name!r} is not one of {NORMALIZERS}")


def positive(chunk_size):
    if chunk_size < 1:
        raise ValueError(f"chunk_size {chunk_size} must be at least 1")
    return chunk_size
