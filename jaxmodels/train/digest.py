"""Digests of arrays: a few integers that every change of one element changes.

They are sums of integers modulo 2**32, taken where the array lives, so neither the
mesh nor the number of processes that hold it matters. They guard what is stored
against decay and against shards put together wrongly, not against an adversary.
"""

import jax
import jax.numpy as jnp
import numpy as np


def flatten(tree):
    """Leaves by name: {"params/model/embed/embedding": leaf}, in the tree's order.

    Raises:
        ValueError: two leaves share a name.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    names = [
        jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves
    ]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f'two leaves are named {twice!r}; rename a key that holds "/"')
    return dict(zip(names, (leaf for _, leaf in leaves), strict=True))


def nest(leaves):
    """The plain nested dict that `flatten` would take apart into `leaves`."""
    tree: dict = {}
    for name, leaf in leaves.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def inspect(leaves):
    """Digests of arrays, and the names of those that are not finite.

    A scalar may be infinite, as a best value so far is before the first one; nothing
    may be NaN.

    Args:
        leaves: {name: array}.

    Returns:
        {name: [int, ...]}, two for each 32-bit word of an element, and list of names.

    Raises:
        ValueError: a leaf is a typed PRNG key, which has no bits to store.
    """
    for name, leaf in leaves.items():
        if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
            raise ValueError(
                f"{name} is a typed PRNG key; keep jax.random.key_data of it instead"
            )
    results = {}
    for name, leaf in leaves.items():
        results[name] = _inspect(leaf)
        if jax.default_backend() == "cpu":
            # Devices on CPU share threads and start independent programs in any order:
            # the sums of two of them would wait for each other for ever.
            jax.block_until_ready(results[name])
    results = jax.device_get(results)
    digests = {name: [int(n) for n in results[name][0]] for name in leaves}
    return digests, [name for name in leaves if not results[name][1]]


@jax.jit
def _inspect(x):
    # Scalars, because a scalar is on every device whatever the partitioner decides.
    sums = [total for word in _words(x) for total in _sums(word)]
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return sums, True
    return sums, jnp.all(jnp.isfinite(x)) if x.ndim else ~jnp.isnan(x)


def _words(x):
    """The bits of each element as uint32 arrays: one, or several for wide types."""
    if x.dtype == bool:
        return [x.astype(jnp.uint32)]
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        return _words(x.real) + _words(x.imag)
    info = jnp.finfo if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo
    bits = info(x.dtype).bits
    if bits == 64:
        halves = jax.lax.bitcast_convert_type(x, jnp.uint32)
        return [halves[..., 0], halves[..., 1]]
    return [jax.lax.bitcast_convert_type(x, f"uint{bits}").astype(jnp.uint32)]


def _sums(word):
    """Two sums over a uint32 array, weighted by the position of each element.

    An odd multiplier is invertible modulo 2**32 and so are the shifts with exclusive
    or: a change of one element always changes both sums. The second scrambles the
    bits first, so that changes of several elements do not cancel in both.
    """
    index = jnp.zeros(word.shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(word.ndim)):
        position = jax.lax.broadcasted_iota(jnp.uint32, word.shape, axis)
        index += position * np.uint32(stride % 2**32)
        stride *= word.shape[axis]
    mixed = word * np.uint32(0x85EBCA77)
    mixed = (mixed ^ (mixed >> 15)) * np.uint32(0xC2B2AE3D)
    scattered = (index * np.uint32(0x9E3779B1) ^ np.uint32(0x27D4EB2F)) | np.uint32(1)
    return (
        jnp.sum(word * (2 * index + 1), dtype=jnp.uint32),
        jnp.sum((mixed ^ (mixed >> 13)) * scattered, dtype=jnp.uint32),
    )
