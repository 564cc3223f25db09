"""Options of `LinearAttention` that published weights need."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers import feature_maps
from jaxmodels.layers.attention import Attention, AttentionSpec, make_attention
from jaxmodels.layers.feature_attention import LinearAttention
from tests.variables import random_variables

BATCH, LENGTH, WIDTH, HEADS, HEAD = 2, 5, 6, 2, 4
close = functools.partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-5)


def normal(seed, *shape):
    noise = np.random.default_rng(seed).normal(size=shape)
    return jnp.asarray(noise, jnp.float32)


def build(**fields):
    module = LinearAttention(WIDTH, HEADS, head_dim=HEAD, chunk_size=3, **fields)
    return module, random_variables(module, tokens())


apply = jax.jit(
    lambda module, *args, **options: module.apply(*args, **options), static_argnums=0
)


def tokens(seed=0):
    return normal(seed, BATCH, LENGTH, WIDTH)


def heads_of(variables, x):
    params = variables["params"]
    return [
        np.asarray(jnp.einsum("BTD,DHK->BHTK", x, params[name]["kernel"]), np.float64)
        for name in ("query", "key", "value")
    ]


def attend(phi_query, phi_key, value, variables):
    """Textbook bidirectional attention of features [B, H, T, M], and its output."""
    weights = phi_query @ np.swapaxes(phi_key, -1, -2)
    weights /= weights.sum(axis=-1, keepdims=True)
    kernel = np.asarray(variables["params"]["out"]["kernel"], np.float64)
    return np.einsum("BHTK,HKD->BTD", weights @ value, kernel)


def epsilon_features(x, projection, axes, epsilon):
    x = x * HEAD**-0.25
    logits = x @ np.asarray(projection, np.float64).T
    peak = logits.max(axis=axes, keepdims=True)
    half = 0.5 * (x * x).sum(axis=-1, keepdims=True)
    return np.exp(logits - half - peak) + epsilon


@pytest.mark.parametrize("cross", [False, True])
def test_epsilon_is_relative_to_each_query_and_to_the_largest_key(cross):
    epsilon = 0.03
    module, variables = build(num_features=7, epsilon=epsilon)
    projection = variables["projections"]["projection"]
    query, key, value = heads_of(variables, tokens())
    expected = attend(
        epsilon_features(query, projection, -1, epsilon),
        epsilon_features(key, projection, (-1, -2), epsilon),
        value,
        variables,
    )
    context = tokens() if cross else None
    close(apply(module, variables, tokens(), context), expected.astype(np.float32))
    plain = apply(build(num_features=7)[0], variables, tokens(), context)
    assert jnp.abs(plain - expected).max() > 1e-3


def test_exponential_is_a_softmax_of_queries_over_channels_and_keys_over_length():
    module, variables = build(feature_map="exponential")
    assert "projections" not in variables
    query, key, value = heads_of(variables, tokens())
    phi_query = np.exp(query) / np.exp(query).sum(axis=-1, keepdims=True)
    phi_key = np.exp(key) / np.exp(key).sum(axis=-2, keepdims=True)
    expected = attend(phi_query, phi_key, value, variables).astype(np.float32)
    close(apply(module, variables, tokens()), expected)
    close(apply(module, variables, tokens(), tokens()), expected)


@pytest.mark.parametrize(
    "fields",
    [
        {"num_features": 7, "epsilon": 0.03},
        {"feature_map": "exponential"},
    ],
)
def test_masked_keys_change_neither_output_nor_gradient(fields):
    module, variables = build(**fields)
    mask = jnp.array([[True, True, True, False, False], [False] * 5])

    def total(params, x):
        out = module.apply({**variables, "params": params}, x, mask=mask)
        return (out[:, :3] ** 2).sum(), out[:, :3]

    whole = jax.jit(jax.value_and_grad(total, has_aux=True))
    (_, out), gradient = whole(variables["params"], tokens())
    changed = tokens().at[:, 3:].set(1e3)
    (_, out_changed), gradient_changed = whole(variables["params"], changed)
    np.testing.assert_array_equal(out, out_changed)
    chex.assert_trees_all_equal(gradient, gradient_changed)
    chex.assert_tree_all_finite(gradient)
    shorter = apply(module, variables, tokens()[:1, :3])
    close(out[:1], shorter)
    np.testing.assert_array_equal(out[1], np.zeros((3, WIDTH)))


def test_gradients_of_exponential_attention_pass_through_the_softmax_of_keys():
    module, variables = build(feature_map="exponential")

    def total(x):
        return jnp.sin(module.apply(variables, x)).sum()

    def textbook(x):
        params = variables["params"]
        query, key, value = (
            jnp.einsum("BTD,DHK->BHTK", x, params[name]["kernel"])
            for name in ("query", "key", "value")
        )
        weights = jnp.einsum(
            "BHTK,BHSK->BHTS", jax.nn.softmax(query), jax.nn.softmax(key, axis=-2)
        )
        mixed = jnp.einsum("BHTS,BHSK->BHTK", weights, value)
        out = jnp.einsum("BHTK,HKD->BTD", mixed, params["out"]["kernel"])
        return jnp.sin(out).sum()

    close(jax.jit(jax.grad(total))(tokens()), jax.jit(jax.grad(textbook))(tokens()))


def test_the_epsilon_of_relu_is_that_of_the_spec_and_causal_as_well():
    module, variables = build(
        feature_map="relu", num_features=7, epsilon=0.5, causal=True
    )
    projection = np.asarray(variables["projections"]["projection"], np.float64)
    query, key, value = heads_of(variables, tokens())
    phi_query, phi_key = (
        np.maximum(x * HEAD**-0.25 @ projection.T, 0) + 0.5 for x in (query, key)
    )
    weights = phi_query @ np.swapaxes(phi_key, -1, -2) * np.tri(LENGTH)
    mixed = weights / weights.sum(axis=-1, keepdims=True) @ value
    kernel = variables["params"]["out"]["kernel"]
    expected = np.einsum("BHTK,HKD->BTD", mixed, kernel).astype(np.float32)
    close(apply(module, variables, tokens()), expected)


def test_the_peak_of_keys_leaves_masked_ones_out():
    projection, key = normal(0, 20, HEAD), normal(1, 1, LENGTH, HEADS, HEAD)
    mask = jnp.array([[True, False, True, True, False]])
    logits = jnp.einsum("BSHK,RK->BHSR", key * HEAD**-0.25, projection)
    expected = jnp.max(logits[:, :, jnp.array([0, 2, 3])], axis=(-1, -2))
    found = feature_maps.append_peak(projection, key, mask)
    np.testing.assert_array_equal(found[..., :-1], key)
    close(found[..., -1], jnp.broadcast_to(expected[:, None], (1, LENGTH, HEADS)))


@pytest.mark.parametrize("kind", [Attention, LinearAttention])
def test_the_width_of_a_head_need_not_divide_the_model_width(kind):
    shapes = jax.eval_shape(
        kind(WIDTH + 1, HEADS, head_dim=HEAD).init,
        jax.random.key(0),
        jnp.zeros((1, 2, WIDTH + 1)),
    )
    params = shapes["params"]
    assert params["query"]["kernel"].shape == (WIDTH + 1, HEADS, HEAD)
    assert params["out"]["kernel"].shape == (HEADS, HEAD, WIDTH + 1)
    with pytest.raises(ValueError, match="head_dim 0 must be at least 1"):
        kind(WIDTH, HEADS, head_dim=0).init(jax.random.key(0), tokens())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epsilon": 1e-4}, "0.0001 in causal attention would leak the future"),
        ({"epsilon": -1.0, "kind": "linear"}, "epsilon -1.0 must be at least 0"),
        ({"epsilon": 1e-4, "kind": "softmax"}, "which kind 'softmax' has none of"),
        (
            {"epsilon": 1e-4, "kind": "linear", "feature_map": "trigonometric"},
            "favor_plus or relu alone, .* of 'trigonometric'",
        ),
        ({"feature_map": "exponential", "num_features": 4}, "4 must be None"),
    ],
)
def test_a_spec_that_cannot_be_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        AttentionSpec(**fields)


def test_a_module_that_cannot_be_is_refused_without_a_spec():
    with pytest.raises(ValueError, match="0.0001 in causal attention would leak"):
        LinearAttention(WIDTH, HEADS, causal=True, epsilon=1e-4)
    LinearAttention(WIDTH, HEADS, "relu", causal=True, epsilon=1e-4)


@pytest.mark.parametrize("feature_map", ["favor_plus", "exponential"])
def test_a_mask_of_pairs_is_refused_by_what_is_honored(feature_map):
    module, variables = build(
        feature_map=feature_map, epsilon=0.03 if feature_map == "favor_plus" else None
    )
    mask = jnp.ones((BATCH, 1, LENGTH, LENGTH), bool)
    for context in (None, tokens()):
        with pytest.raises(ValueError, match="honours key padding .* a prefix"):
            module.apply(variables, tokens(), context, mask=mask)


def test_make_attention_hands_the_epsilon_on():
    spec = AttentionSpec(kind="linear", epsilon=1e-4)
    module = make_attention(spec, causal=False, embed_dim=4, num_heads=1, head_dim=3)
    assert (module.epsilon, module.head_dim) == (1e-4, 3)


@pytest.mark.parametrize(
    "fields", [{"num_features": 7, "epsilon": 0.03}, {"feature_map": "exponential"}]
)
def test_a_cut_length_has_the_peak_and_the_sum_of_all_its_keys(fields):
    module, variables = build(**fields)
    x = normal(3, BATCH, 8, WIDTH)
    mask = jnp.arange(8) < jnp.array([[8], [5]])

    def total(x):
        out = module.apply(variables, x, mask=mask)
        return jnp.sin(out).sum(), out

    whole = jax.value_and_grad(total, has_aux=True)
    expected = jax.jit(whole)(x)
    names = ("data", "seq", "model")
    mesh = jax.make_mesh((2, 2, 2), names, axis_types=(jax.sharding.AxisType.Auto,) * 3)
    with jax.set_mesh(mesh):
        found = jax.block_until_ready(jax.jit(whole)(x))
    close(jax.device_get(found), jax.device_get(expected))
