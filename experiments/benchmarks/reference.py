"""What each implementation computes, in float64 and without its way of computing it.

A kernel attention is summed chunk by chunk with the features of all tokens in memory
and differentiated by autodiff; softmax attention row block by row block. Both are slow
and plain. An implementation that adds an epsilon to its features is held against the
function with that epsilon: what is measured is rounding, not the choice.

Shapes use B batch, L length, H heads, K head width, D value width, M features.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import google_scheme

CHUNK = 128
# Where the quadratic reference takes minutes.
LONGEST_SOFTMAX = 4096


def positive_features(query, key, projection):
    """exp(W x' - |x'|^2 / 2) of both: no stabilizer, float64 has the range."""

    def features(x):
        x = x * x.shape[-1] ** -0.25
        logits = jnp.einsum("BHLK,MK->BHLM", x, projection)
        return jnp.exp(logits - jnp.sum(x * x, axis=-1, keepdims=True) / 2)

    return features(query), features(key)


def google_features(query, key, projection):
    return (
        google_scheme.features(query, projection, is_query=True),
        google_scheme.features(key, projection, is_query=False),
    )


def performer_pytorch_features(query, key, projection, *, epsilon=1e-4):
    """As google's with its own epsilon; no gradient passes through the maxima."""

    def features(x, axes):
        x = x * x.shape[-1] ** -0.25
        logits = jnp.einsum("BHLK,MK->BHLM", x, projection)
        half_square = jnp.sum(x * x, axis=-1, keepdims=True) / 2
        peak = jax.lax.stop_gradient(jnp.max(logits, axis=axes, keepdims=True))
        values = jnp.exp(logits - half_square - peak) + epsilon
        return values * projection.shape[0] ** -0.5

    return features(query, -1), features(key, (-2, -1))


def kernel_attention(
    query, key, value, projection, *, features, reciprocal, offset=0.0
):
    """Causal attention [B, L, H, D] by features, summed over chunks.

    Args:
        features: (query, key, projection) -> features of both, [B, H, L, M].
        reciprocal: of the normalizer.
        offset: added to every entry of the summed keys in the normalizer.
    """
    query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
    query, key = features(query, key, projection)
    length = value.shape[2]
    size = min(CHUNK, length)
    value = jnp.concatenate([value, jnp.ones_like(value[..., :1])], axis=-1)
    padding = -length % size

    def chunks(x):
        x = jnp.pad(x, ((0, 0), (0, 0), (0, padding), (0, 0)))
        return jnp.moveaxis(x.reshape(*x.shape[:2], -1, size, x.shape[-1]), 2, 0)

    @jax.checkpoint
    def step(state, chunk):
        query, key, value = chunk
        scores = jnp.tril(jnp.einsum("BHTM,BHSM->BHTS", query, key))
        out = jnp.einsum("BHTS,BHSD->BHTD", scores, value)
        out += jnp.einsum("BHTM,BHMD->BHTD", query, state)
        return state + jnp.einsum("BHSM,BHSD->BHMD", key, value), out

    zeros = jnp.zeros((*key.shape[:2], key.shape[-1], value.shape[-1]), key.dtype)
    _, out = jax.lax.scan(step, zeros, jax.tree.map(chunks, (query, key, value)))
    out = jnp.moveaxis(out, 0, 2).reshape(*value.shape[:2], -1, value.shape[-1])
    out = out[:, :, :length]
    offsets = offset * jnp.sum(query, axis=-1, keepdims=True)
    return jnp.swapaxes(out[..., :-1] * reciprocal(out[..., -1:] + offsets), 1, 2)


def softmax_attention(query, key, value, projection=None):
    """Exact causal attention [B, L, H, D], a block of rows at a time."""
    query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
    length, width = query.shape[2:]
    size = min(CHUNK, length)
    query = jnp.pad(query, ((0, 0), (0, 0), (0, -length % size), (0, 0)))

    @jax.checkpoint
    def rows(start):
        block = jax.lax.dynamic_slice_in_dim(query, start, size, axis=2)
        logits = jnp.einsum("BHTK,BHSK->BHTS", block, key) * width**-0.5
        seen = jnp.arange(length) <= start + jnp.arange(size)[:, None]
        weights = jax.nn.softmax(jnp.where(seen, logits, -jnp.inf))
        return jnp.einsum("BHTS,BHSD->BTHD", weights, value)

    out = jax.lax.map(rows, jnp.arange(0, query.shape[2], size))
    return jnp.moveaxis(out, 0, 1).reshape(out.shape[1], -1, *out.shape[3:])[:, :length]


def _inverse(total):
    return 1 / total


FUNCTIONS: dict[str, Callable] = {
    "positive": functools.partial(
        kernel_attention, features=positive_features, reciprocal=_inverse
    ),
    "google": functools.partial(
        kernel_attention,
        features=google_features,
        reciprocal=google_scheme.reciprocal,
    ),
    "performer-pytorch": functools.partial(
        kernel_attention,
        features=performer_pytorch_features,
        reciprocal=_inverse,
        offset=1e-6,
    ),
    "softmax": softmax_attention,
}


def evaluate(name, arrays, projection, *, backward):
    """Output and gradients of one function of `FUNCTIONS` in float64.

    Args:
        name: in `FUNCTIONS`.
        arrays: query, key, value and the cotangent of the output, [B, L, H, *].
        projection: [M, K].
        backward: the gradients as well.

    Returns:
        float64 arrays: the output, and gradients of query, key and value.
    """
    with jax.enable_x64(True):
        *inputs, d_out = (jnp.asarray(np.asarray(x, np.float64)) for x in arrays)
        projection = jnp.asarray(np.asarray(projection, np.float64))

        def run(inputs, d_out, projection):
            if not backward:
                return (FUNCTIONS[name](*inputs, projection),)
            out, pull = jax.vjp(lambda *x: FUNCTIONS[name](*x, projection), *inputs)
            return out, *pull(d_out)

        return [np.asarray(x) for x in jax.jit(run)(inputs, d_out, projection)]


def relative_error(found, expected):
    """|found - expected| / |expected| over all entries (Frobenius)."""
    found = np.asarray(found, np.float64)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
