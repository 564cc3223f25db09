import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers import linear_attention
from jaxmodels.layers.attention import (
    Attention,
    AttentionSpec,
    dot_product_attention,
    make_attention,
    softmax_mask,
)
from jaxmodels.layers.feature_attention import LinearAttention, num_rows
from tests.variables import random_variables

BATCH, LENGTH, WIDTH, HEADS = 2, 7, 8, 2
close = functools.partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-5)
MAKE = {
    "softmax": functools.partial(Attention, cache_length=9),
    "linear": functools.partial(LinearAttention, num_features=6, chunk_size=3),
}


def noise(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def tokens(seed=0):
    return noise(seed, BATCH, LENGTH, WIDTH)


@functools.cache
def build(kind, **fields):
    module = MAKE[kind](WIDTH, HEADS, **fields)
    return module, random_variables(module, tokens(), positions=places())


def places():
    return jnp.arange(LENGTH)[None].repeat(BATCH, axis=0)


@functools.partial(jax.jit, static_argnames=("module", "method"))
def apply(module, variables, *args, **options):
    return module.apply(variables, *args, **options)


def textbook(query, key, value, mask=None):
    """Softmax attention, one head and one query at a time."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    batch, length, heads, width = query.shape
    out = np.zeros((batch, length, heads, value.shape[-1]))
    for b, t, h in np.ndindex(batch, length, heads):
        weights = np.exp(key[b, :, h] @ query[b, t, h] / math.sqrt(width))
        if mask is not None:
            shape = batch, heads, length, key.shape[1]
            weights = weights * np.broadcast_to(mask, shape)[b, h, t]
        if weights.sum() > 0:
            out[b, t, h] = weights / weights.sum() @ value[b, :, h]
    return out


@pytest.mark.parametrize("masked", [False, True])
def test_softmax_attention_is_the_textbook_form(masked):
    query, key, value = noise(0, 3, 2, 5, 3, 4)
    mask = np.asarray(noise(1, 2, 3, 5, 5) > 0) if masked else None
    close(
        dot_product_attention(query, key, value, mask),
        textbook(query, key, value, mask),
    )


def test_a_query_without_keys_gives_zero_and_a_finite_gradient():
    query, key, value = noise(0, 3, 1, 2, 1, 4)
    mask = jnp.array([[False, False], [True, True]])[None, None]

    def total(query, key, value):
        return dot_product_attention(query, key, value, mask).sum()

    out = dot_product_attention(query, key, value, mask)
    np.testing.assert_array_equal(out[:, 0], np.zeros((1, 1, 4)))
    chex.assert_tree_all_finite(jax.grad(total, (0, 1, 2))(query, key, value))


def test_bfloat16_logits_are_kept_in_float32():
    query, key, value = (4 * noise(0, 3, 1, 32, 1, 64)).astype(jnp.bfloat16)
    out = dot_product_attention(query, key, value)
    exact = textbook(*(x.astype(jnp.float32) for x in (query, key, value)))
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), exact, atol=0.06)


def test_softmax_mask_joins_order_prefix_padding_and_segments():
    got = softmax_mask(
        4,
        causal=True,
        mask=jnp.array([[True, True, True, False]]),
        prefix_lengths=jnp.array([2]),
    )
    rows = ["1100", "1100", "1110", "1110"]
    np.testing.assert_array_equal(got[0, 0], [[c == "1" for c in row] for row in rows])
    got = softmax_mask(4, causal=True, segment_ids=jnp.array([[1, 1, 2, 2]]))
    rows = ["1000", "1100", "0010", "0011"]
    np.testing.assert_array_equal(got[0, 0], [[c == "1" for c in row] for row in rows])
    assert softmax_mask(4) is None


def test_linear_attention_module_is_the_quadratic_form_of_its_features():
    module, variables = build("linear", causal=True)
    params = variables["params"]
    query, key, value = (
        jnp.einsum("BTD,DHK->BTHK", tokens(), params[name]["kernel"])
        for name in ("query", "key", "value")
    )
    features = linear_attention.favor_plus(variables["projections"]["projection"])

    def phi(x):
        values, log_scale = features(x)
        return values * jnp.exp(log_scale)[..., None]

    weights = jnp.einsum("BTHM,BSHM->BHTS", phi(query), phi(key)) * jnp.tri(LENGTH)
    weights /= weights.sum(-1, keepdims=True)
    mixed = jnp.einsum("BHTS,BSHK->BTHK", weights, value)
    out = jnp.einsum("BTHK,HKD->BTD", mixed, params["out"]["kernel"])
    close(apply(module, variables, tokens()), out)


def test_softmax_attention_module_is_the_textbook_form_of_its_heads():
    module, variables = build("softmax", causal=True)
    params = variables["params"]
    query, key, value = (
        jnp.einsum("BTD,DHK->BTHK", tokens(), params[name]["kernel"])
        for name in ("query", "key", "value")
    )
    mixed = textbook(query, key, value, np.tri(LENGTH))
    out = np.einsum("BTHK,HKD->BTD", mixed, params["out"]["kernel"])
    close(apply(module, variables, tokens()), out.astype(np.float32))


@pytest.mark.parametrize("kind", MAKE)
def test_a_causal_output_ignores_what_comes_later_to_the_bit(kind):
    module, variables = build(kind, causal=True)
    before = apply(module, variables, tokens())
    after = apply(module, variables, tokens().at[:, 4:].add(50.0))
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert (before[:, 4:] != after[:, 4:]).any(axis=-1).all()


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("causal", [False, True])
def test_padding_is_not_seen_to_the_bit(kind, causal):
    module, variables = build(kind, causal=causal)
    mask = jnp.arange(LENGTH)[None] < jnp.array([[4], [7]])
    before = apply(module, variables, tokens(), mask=mask)
    noisy = tokens() + jnp.where(mask[..., None], 0.0, 9.0)
    np.testing.assert_array_equal(
        before[mask], apply(module, variables, noisy, mask=mask)[mask]
    )


@pytest.mark.parametrize("kind", MAKE)
def test_a_prefix_is_seen_by_all(kind):
    module, variables = build(kind, causal=True)
    run = functools.partial(apply, module, variables, prefix_lengths=jnp.array([3, 0]))
    changed = (run(tokens()) != run(tokens().at[:, 2].add(1.0))).any(axis=-1)
    np.testing.assert_array_equal(changed[0], [True] * 7)
    np.testing.assert_array_equal(changed[1], [False] * 2 + [True] * 5)


@pytest.mark.parametrize("kind", MAKE)
def test_cross_attention_reads_the_valid_context_alone(kind):
    module, variables = build(kind)
    context, mask = (
        noise(3, BATCH, 5, WIDTH),
        jnp.arange(5)[None] < jnp.array([[3], [5]]),
    )
    before = apply(module, variables, tokens(), context, mask=mask)
    hidden = apply(module, variables, tokens(), context.at[0, 3:].add(5.0), mask=mask)
    np.testing.assert_array_equal(before, hidden)
    seen = apply(module, variables, tokens(), context.at[0, 2].add(5.0), mask=mask)
    assert (before[0] != seen[0]).any(axis=-1).all()
    np.testing.assert_array_equal(before[1], seen[1])


@pytest.mark.parametrize("kind", MAKE)
def test_cross_attention_from_memory_is_cross_attention(kind):
    module, variables = build(kind, query_key_norm=True)
    context, mask = (
        noise(3, BATCH, 5, WIDTH),
        jnp.arange(5)[None] < jnp.array([[3], [5]]),
    )
    memory = apply(module, variables, context, mask, method="remember")
    one = apply(module, variables, memory, tokens()[:, 2:3], method="recall")
    close(one, apply(module, variables, tokens(), context, mask=mask)[:, 2:3])


@pytest.mark.parametrize("kind", MAKE)
def test_prefill_and_steps_equal_one_pass(kind):
    module, variables = build(kind, causal=True, rotary=True, query_key_norm=True)
    cut = 4
    whole = apply(module, variables, tokens(), positions=places())
    first, state = module.apply(
        variables, tokens()[:, :cut], positions=places()[:, :cut], method="prefill"
    )
    outputs = [first]
    second = slice(cut, cut + 2)
    more, state = module.apply(
        variables,
        tokens()[:, second],
        state,
        positions=places()[:, second],
        method="prefill",
    )
    outputs.append(more)
    for t in range(cut + 2, LENGTH):
        now = slice(t, t + 1)
        one, state = module.apply(
            variables,
            state,
            tokens()[:, now],
            positions=places()[:, now],
            method="step",
        )
        outputs.append(one)
    close(jnp.concatenate(outputs, axis=1), whole)


@pytest.mark.parametrize("kind", MAKE)
def test_tokens_masked_in_prefill_are_not_remembered(kind):
    module, variables = build(kind, causal=True)
    mask = jnp.array([[True, False, True, True]] * BATCH)
    padded = tokens()[:, :4]
    kept = padded[:, jnp.array([0, 2, 3])]
    states = [
        apply(module, variables, x, mask=m, method="prefill")[1]
        for x, m in ((padded, mask), (kept, None))
    ]
    token = tokens()[:, 5:6]
    first, second = (
        apply(module, variables, state, token, method="step")[0] for state in states
    )
    close(first, second)


def test_an_overflowing_cache_gives_nan_and_no_wrong_answer():
    module, variables = build("softmax", causal=True)
    _, state = apply(module, variables, tokens(), method="prefill")
    for _ in range(2):
        out, state = apply(module, variables, state, tokens()[:, :1], method="step")
        assert jnp.isfinite(out).all()
    out, _ = apply(module, variables, state, tokens()[:, :1], method="step")
    assert jnp.isnan(out).all()


@pytest.mark.parametrize("kind", MAKE)
def test_query_key_norm_bounds_the_logits_whatever_the_input(kind):
    module, variables = build(kind, query_key_norm=True)
    close(
        apply(module, variables, tokens()) * 100.0,
        apply(module, variables, tokens() * 100.0),
        rtol=1e-4,
        atol=1e-3,
    )


@pytest.mark.parametrize(
    ("feature_map", "num_features", "rows"),
    [
        ("favor_plus", None, int(16 * math.log(16))),
        ("favor_plus", 7, 7),
        ("favor_hyperbolic", None, int(16 * math.log(16)) // 2),
        ("favor_hyperbolic", 8, 4),
        ("relu", None, int(16 * math.log(16))),
        ("elu_plus_one", None, None),
        ("elu_plus_one", 5, 5),
    ],
)
def test_the_projection_has_the_rows_that_the_features_need(
    feature_map, num_features, rows
):
    assert num_rows(feature_map, num_features, head_dim=16) == rows
    module = LinearAttention(32, 2, feature_map, num_features)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 2, 32)))
    drawn = shapes.get("projections", {}).get("projection")
    assert (drawn is None) if rows is None else drawn.shape == (rows, 16)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "casual_linear"}, "unknown attention kind 'casual_linear'; choose"),
        ({"feature_map": "favour_plus"}, "unknown feature map 'favour_plus'.*favor_pl"),
        ({"num_features": 0}, "attention num_features 0 must be at least 1"),
        ({"chunk_size": 0}, "attention chunk_size 0 must be at least 1"),
        (
            {"feature_map": "favor_hyperbolic", "num_features": 7},
            "num_features 7 .*odd",
        ),
    ],
)
def test_a_wrong_spec_is_refused_when_it_is_made(fields, message):
    with pytest.raises(ValueError, match=message):
        AttentionSpec(**fields)


@pytest.mark.parametrize(
    ("kind", "causal", "message"),
    [
        ("linear", True, "'linear' in a block that is causal; use 'causal_linear'"),
        ("causal_linear", False, "'causal_linear' in .* bidirectional; use 'linear'"),
    ],
)
def test_a_kind_that_contradicts_the_block_is_refused(kind, causal, message):
    with pytest.raises(ValueError, match=message):
        make_attention(
            AttentionSpec(kind=kind), causal=causal, embed_dim=8, num_heads=2
        )


def call(module, *args, **options):
    jax.eval_shape(lambda: module.init(jax.random.key(0), *args, **options))


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (
            lambda: call(Attention(6, 4), noise(0, 1, 2, 6)),
            "embed_dim 6 is not divisible by num_heads 4; try embed_dim 8",
        ),
        (
            lambda: call(
                LinearAttention(8, 2), tokens(), mask=jnp.ones((2, 1, 7, 7), bool)
            ),
            "honours key padding .* causal order .* a prefix .* packed sequences",
        ),
        (
            lambda: call(Attention(8, 2), tokens(), mask=jnp.ones((2, 7, 7), bool)),
            r"mask of shape \(2, 7, 7\) .* give it 2 or 4 dimensions",
        ),
        (
            lambda: call(
                LinearAttention(8, 2), tokens(), segment_ids=jnp.ones((2, 7), int)
            ),
            "segment_ids and prefix_lengths need causal or softmax attention",
        ),
        (
            lambda: call(Attention(8, 2, rotary=True), tokens()),
            "rotary attention needs positions",
        ),
        (
            lambda: call(
                Attention(8, 2, causal=True, cache_length=3), tokens(), method="prefill"
            ),
            "cannot decode 7 tokens with a cache of 3: .* 'causal_linear'",
        ),
    ],
)
def test_what_cannot_be_done_names_the_way_out(use, message):
    with pytest.raises(ValueError, match=message):
        use()
