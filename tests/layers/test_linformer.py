import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers.linformer import (
    LinformerAttention,
    compress,
    linformer_attention,
)
from tests.variables import random_variables

BATCH, LENGTH, WIDTH, HEADS, RANK = 2, 7, 8, 2, 3


def layer(sharing="headwise", **fields):
    sizes = dict(embed_dim=WIDTH, num_heads=HEADS, length=LENGTH, rank=RANK)
    return LinformerAttention(**sizes | dict(sharing=sharing) | fields)


def inputs(seed=0):
    return jax.random.normal(jax.random.key(seed), (BATCH, LENGTH, WIDTH))


def textbook(query, key, value, first, second):
    """Attention of one row and one head, all of them matrices."""
    logits = query @ (first.T @ key).T / np.sqrt(query.shape[1])
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True) @ (second.T @ value)


@pytest.mark.parametrize("sharing", ["none", "headwise", "kv", "layerwise"])
def test_a_layer_equals_the_textbook_form_of_each_sharing(sharing):
    module, x = layer(sharing), inputs()
    shared = jax.random.normal(jax.random.key(1), (LENGTH, RANK))
    given = (shared,) if sharing == "layerwise" else ()
    variables = random_variables(module, x, *given)
    params = jax.tree.map(np.asarray, variables["params"])
    names = {name for name in params if name.endswith("_projection")}
    assert (
        names
        == {
            "none": {"key_projection", "value_projection"},
            "headwise": {"key_projection", "value_projection"},
            "kv": {"key_projection"},
            "layerwise": set(),
        }[sharing]
    )
    first = params.get("key_projection", np.asarray(shared))
    second = params.get("value_projection", first)
    first, second = (np.broadcast_to(m, (HEADS, LENGTH, RANK)) for m in (first, second))
    heads = [
        np.einsum("BTD,DHK->BHTK", x, params[name]["kernel"])
        for name in ("query", "key", "value")
    ]
    mixed = np.stack(
        [
            [textbook(*(y[b, h] for y in heads), first[h], second[h]) for h in (0, 1)]
            for b in range(BATCH)
        ]
    )
    expected = np.einsum("BHTK,HKD->BTD", mixed, params["out"]["kernel"])
    found = module.apply(variables, x, *given)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_with_the_identity_for_a_projection_it_is_full_attention():
    query, key, value = jax.random.normal(jax.random.key(0), (3, 2, 5, 2, 4))
    found = linformer_attention(query, key, value, jnp.eye(5), jnp.eye(5))
    logits = jnp.einsum("BTHK,BSHK->BHTS", query, key) / 2.0
    expected = jnp.einsum("BHTS,BSHK->BTHK", jax.nn.softmax(logits), value)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_new_layer_keeps_variances_and_attends_to_nearly_all_of_its_rows():
    length, rank = 300, 64
    module = layer(length=length, rank=rank, query_key_start=1.0)
    x = jax.random.normal(jax.random.key(0), (4, length, WIDTH))
    params = jax.jit(module.init)(jax.random.key(1), x)["params"]
    query, key = (
        jnp.einsum("BTD,DHK->BTHK", x, params[name]["kernel"])
        for name in ("query", "key")
    )
    mixed = compress(key, params["key_projection"])
    assert 0.7 < float(mixed.var() / key.var()) < 1.4
    logits = jnp.einsum("BTHK,BRHK->BHTR", query, mixed) * query.shape[-1] ** -0.5
    weights = jax.nn.softmax(logits)
    entropy = -(weights * jnp.log(weights)).sum(axis=-1).mean()
    assert float(entropy) > 0.8 * np.log(rank)


def test_wrong_lengths_ranks_and_projections_are_refused_with_the_way_out():
    x = inputs()

    def attempt(module, *arrays):
        jax.eval_shape(functools.partial(module.init, jax.random.key(0)), *arrays)

    with pytest.raises(ValueError, match="over 7 tokens got 6: .* bring the input to"):
        attempt(layer(), x[:, :6])
    with pytest.raises(ValueError, match="rank 8 must .* at most the 7 patches; lower"):
        attempt(layer(rank=8), x)
    with pytest.raises(ValueError, match="unknown linformer_sharing 'all'; choose one"):
        attempt(layer("all"), x)
    with pytest.raises(ValueError, match="'layerwise' with a projection missing"):
        attempt(layer("layerwise"), x)
    with pytest.raises(ValueError, match="'kv' with a projection given"):
        attempt(layer("kv"), x, jnp.zeros((LENGTH, RANK)))
