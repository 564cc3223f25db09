import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core as extend_core

from jaxmodels.layers import linear_attention as la
from tests.layers.quadratic_attention import quadratic_attention

WIDTH = 8
LENGTHS = [1, 63, 64, 65, 1000]
SLOW = pytest.mark.slow


def make_features(name="favor_plus"):
    if name == "exponential":
        return la.exponential()
    rows = la.projection_rows(name, 12)
    projection = la.orthogonal_projection(jax.random.key(7), rows, WIDTH)
    return la.feature_map(name)(projection)


def tokens(length, *, batch=2, heads=2, value_dim=5, dtype=jnp.float32):
    rng = np.random.default_rng(length)
    widths = WIDTH, WIDTH, value_dim
    shapes = [(batch, length, heads, width) for width in widths]
    return tuple(rng.normal(size=shape).astype(dtype) for shape in shapes)


# Compiles in half the time; for tests that compare values and not bits.
fast_jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)
linear = fast_jit(la.linear_attention, static_argnames=("chunk_size",))
quadratic = fast_jit(quadratic_attention, static_argnames=("causal", "normalizer"))


def causal(query, key, value, **options):
    options = {"features": make_features(), "chunk_size": 8, **options}
    return la.causal_linear_attention(query, key, value, **options)


compiled_causal = fast_jit(causal, static_argnames=("chunk_size",))


@pytest.mark.parametrize(
    ("name", "length"),
    [
        pytest.param(
            *(name, length),
            marks=[] if name == "favor_plus" or length in (1, 1000) else [SLOW],
        )
        for name in sorted(la.FEATURE_MAPS)
        for length in LENGTHS
    ],
)
def test_chunked_scan_equals_the_masked_quadratic_form(name, length):
    features = make_features(name)

    @fast_jit
    def run(query, key, value):
        out, _ = la.causal_linear_attention(query, key, value, features=features)
        expected = quadratic_attention(query, key, value, features=features)
        total = quadratic_attention(
            query, key, jnp.ones_like(value), features=features, normalizer=None
        )
        return out, expected, total

    out, expected, total = run(*tokens(length, batch=1))
    scale = 1 + jnp.abs(expected)
    if name == "trigonometric":
        # A row is as accurate as its sum, whose terms cancel, is far from zero.
        scale = scale * jnp.maximum(1, jnp.abs(total).max() / jnp.abs(total))
    assert jnp.max(jnp.abs(out - expected) / scale) < 2e-5


@pytest.mark.parametrize("name", ["favor_plus", "relu"])
def test_bidirectional_and_cross_attention_equal_the_quadratic_form(name):
    query, _, _ = tokens(5)
    _, key, value = tokens(11)
    mask = np.arange(11) < np.array([[11], [6]])
    features = make_features(name)
    out = linear(query, key, value, features=features, mask=mask, chunk_size=4)
    expected = quadratic(query, key, value, features=features, causal=False, mask=mask)
    np.testing.assert_allclose(out, expected, atol=2e-6)


def test_outputs_before_a_token_are_bit_equal_when_it_and_all_later_change():
    query, key, value = tokens(21)
    run = jax.jit(causal)
    before, _ = run(query, key, value)
    for cut in (1, 7, 8, 13, 20):
        later = (np.arange(21) >= cut)[:, None, None]
        for change in (-7.0, 1e4):
            other = np.where(later, np.float32(change) * key, key)
            after, _ = run(query, other, np.where(later, -value, value))
            np.testing.assert_array_equal(before[:, :cut], after[:, :cut])
            assert np.all(np.any(before[:, cut] != after[:, cut], axis=-1))


def test_what_masked_tokens_hold_changes_nothing_not_even_nan():
    query, key, value = tokens(21)
    mask = np.random.default_rng(0).random(key.shape[:2]) < 0.6
    hole = ~mask[..., None, None]

    def run(key, value):
        out, state = causal(query, key, value, mask=mask)
        both = la.linear_attention(
            query, key, value, features=make_features(), mask=mask, chunk_size=8
        )
        return out, state, both

    def total(key, value):
        out, state, both = run(key, value)
        return jnp.sum(out**2) + jnp.sum(state.sums**2) + jnp.sum(both**2)

    other = (
        np.where(hole, np.float32(1e3), key),
        np.where(hole, np.float32(np.nan), value),
    )
    for function in (jax.jit(run), jax.jit(jax.grad(total, argnums=(0, 1)))):
        jax.tree.map(
            np.testing.assert_array_equal, function(key, value), function(*other)
        )
    unmasked, _ = jax.jit(causal)(query, key, value)
    assert jnp.any(jax.jit(run)(key, value)[0] != unmasked)


def test_masked_keys_equal_the_quadratic_form_without_them():
    inputs = tokens(21)
    mask = np.random.default_rng(0).random(inputs[0].shape[:2]) < 0.6
    out, _ = compiled_causal(*inputs, mask=mask)
    expected = quadratic(*inputs, features=make_features(), mask=mask)
    np.testing.assert_allclose(out, expected, atol=2e-6)


def test_a_query_without_a_valid_key_gets_zeros_and_zero_gradients():
    inputs = tokens(9)
    mask = np.arange(9) >= np.array([[4], [9]])

    def run(*inputs):
        out = causal(*inputs, mask=mask, chunk_size=3)[0]
        return out, la.linear_attention(*inputs, features=make_features(), mask=mask)

    out, both = fast_jit(run)(*inputs)
    assert jnp.all(out[0, :4] == 0) and jnp.all(out[0, 4:] != 0)
    assert jnp.all(out[1] == 0) and jnp.all(both[1] == 0) and jnp.all(both[0] != 0)
    gradients = fast_jit(
        jax.grad(
            lambda *inputs: sum(jnp.sum(x**2) for x in run(*inputs)), argnums=(0, 1, 2)
        )
    )(*inputs)
    for gradient in gradients:
        assert jnp.all(gradient[1] == 0) and jnp.all(jnp.isfinite(gradient))


@pytest.mark.parametrize("padding", [1, 40])
def test_more_padding_changes_valid_outputs_by_rounding_alone(padding):
    inputs = tokens(11)
    mask = np.ones((2, 11), bool)
    longer = [
        np.pad(x, ((0, 0), (0, padding), (0, 0), (0, 0)), constant_values=9.0)
        for x in inputs
    ]
    wider = np.pad(mask, ((0, 0), (0, padding)))
    out, state = compiled_causal(*longer, mask=wider)
    expected, _ = compiled_causal(*inputs, mask=mask)
    np.testing.assert_allclose(out[:, :11], expected, atol=1e-6)
    options = {"features": make_features(), "chunk_size": 4}
    np.testing.assert_allclose(
        linear(*longer, mask=wider, **options)[:, :11],
        linear(*inputs, mask=mask, **options),
        atol=1e-6,
    )


SEGMENTS = np.array([[1] * 3 + [2] * 2 + [3] * 9 + [0] * 7, [4] * 20 + [5]])


def test_packed_segments_equal_the_quadratic_form_of_each():
    inputs = tokens(21)
    out, _ = compiled_causal(*inputs, segment_ids=SEGMENTS)
    expected = quadratic(*inputs, features=make_features(), segment_ids=SEGMENTS)
    np.testing.assert_allclose(out, expected, atol=3e-6)


def test_packed_segments_are_isolated_to_the_bit_gradients_too():
    inputs = tokens(21)
    target = np.flip(inputs[2])

    def run(*inputs):
        out, pull = jax.vjp(
            lambda *inputs: causal(*inputs, segment_ids=SEGMENTS)[0], *inputs
        )
        return out, *pull(target)

    run = jax.jit(run)
    before = run(*inputs)
    for which in (1, 2, 3, 4):
        own = (SEGMENTS == which)[..., None, None]
        after = run(*(np.where(own, -5 * x, x) for x in inputs))
        for one, two in zip(before, after, strict=True):
            np.testing.assert_array_equal(np.where(own, 0, one), np.where(own, 0, two))
            assert np.any(one != two)


def test_a_prefix_is_seen_by_all_and_equals_the_quadratic_form():
    inputs = tokens(21)
    lengths = np.array([6, 17])
    mask = np.ones((2, 21), bool)
    mask[[0, 1], [2, 19]] = False
    out, _ = compiled_causal(*inputs, prefix_lengths=lengths, mask=mask)
    expected = quadratic(
        *inputs, features=make_features(), prefix_lengths=lengths, mask=mask
    )
    np.testing.assert_allclose(out, expected, atol=2e-6)


def test_outputs_after_a_prefix_are_causal_to_the_bit():
    query, key, value = tokens(21)
    run = jax.jit(
        lambda key: causal(query, key, value, prefix_lengths=jnp.array([0, 9]))[0]
    )
    before = run(key)
    moved = (np.arange(21) >= 12)[:, None, None] + np.float32(0)
    later = run(key + moved)
    np.testing.assert_array_equal(before[:, :12], later[:, :12])
    moved = (np.arange(21) == 8)[:, None, None] + np.float32(0)
    inside = run(key + moved)
    np.testing.assert_array_equal(before[0, :8], inside[0, :8])
    assert jnp.all(jnp.any(before[1] != inside[1], axis=-1))


@pytest.mark.parametrize("name", ["favor_plus", "elu_plus_one"])
def test_huge_keys_and_queries_overflow_nowhere(name):
    query, key, value = tokens(21)
    inputs = (
        1e3 * query,
        key * np.float32(10) ** np.arange(-10, 11, dtype=np.float32)[:, None, None],
        value,
    )
    features = make_features(name)

    def run(*inputs):
        out, state = causal(*inputs, features=features)
        return jnp.sum(out**2), (out, state)

    run = fast_jit(jax.grad(run, argnums=(0, 1, 2), has_aux=True))
    gradient, (out, state) = run(*inputs)
    for x in jax.tree.leaves((gradient, out, state)):
        assert jnp.all(jnp.isfinite(x))
    bound = jnp.abs(value).max(axis=1, keepdims=True) * (1 + 1e-5)
    assert jnp.all(jnp.abs(out) <= bound)


@pytest.mark.parametrize("name", ["favor_plus", "relu", "trigonometric"])
def test_bfloat16_inputs_accumulate_in_float32(name):
    inputs = tokens(130, batch=1, dtype=jnp.bfloat16)
    features = make_features(name)

    def run(*inputs):
        out, state = causal(*inputs, features=features, chunk_size=64)
        return jnp.sum(out.astype(jnp.float32) ** 2), (out, state)

    run = fast_jit(jax.grad(run, argnums=(0, 1, 2), has_aux=True))
    gradient, (out, state) = run(*inputs)
    assert out.dtype == jnp.bfloat16 and {x.dtype for x in gradient} == {out.dtype}
    assert state.sums.dtype == state.log_scale.dtype == jnp.float32
    for x in jax.tree.leaves((out, gradient, state)):
        assert jnp.all(jnp.isfinite(x))
    if name != "trigonometric":
        wide, _ = compiled_causal(
            *(x.astype(jnp.float32) for x in inputs), features=features
        )
        np.testing.assert_allclose(out.astype(jnp.float32), wide, atol=2e-2)


def test_no_step_slices_bfloat16_which_a_cpu_would_widen_as_a_whole():
    inputs = tokens(130, batch=1, dtype=jnp.bfloat16)
    run = jax.grad(lambda *inputs: causal(*inputs)[0].astype(jnp.float32).sum())
    sliced = []

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name.startswith("dynamic_"):
                sliced.append(equation.invars[0].aval.dtype)
            for inner in extend_core.jaxprs_in_params(equation.params):
                walk(inner)

    walk(jax.make_jaxpr(run)(*inputs).jaxpr)
    assert jnp.uint16 in sliced and jnp.bfloat16 not in sliced


def test_a_feature_map_may_be_any_function_or_none():
    query, key, value = tokens(9)

    @fast_jit
    def run(query, key, value):
        squared, _ = causal(query, key, value, features=lambda x: (x**2, None))
        return squared, causal(query**2, key**2, value, features=None)[0]

    np.testing.assert_allclose(*run(query, key, value), atol=1e-6)


def test_sharding_over_batch_and_heads_needs_no_exchange_and_changes_nothing():
    mesh = jax.make_mesh(
        (2, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2
    )
    spec = jax.sharding.PartitionSpec("data", None, "model")

    def run(query, key, value):
        out, pull = jax.vjp(lambda *x: causal(*x)[0], query, key, value)
        return out, *pull(out)

    inputs = tokens(21)
    expected = jax.jit(run)(*inputs)
    placed = jax.device_put(inputs, jax.sharding.NamedSharding(mesh, spec))
    compiled = jax.jit(run).lower(*placed).compile()
    assert not any(
        name in compiled.as_text()
        for name in ("all-gather", "all-reduce", "all-to-all", "collective-permute")
    )
    mapped = jax.shard_map(run, mesh=mesh, in_specs=(spec,) * 3, out_specs=spec)
    for got in (compiled(*placed), jax.jit(mapped)(*inputs)):
        for one, two in zip(expected, got, strict=True):
            np.testing.assert_allclose(one, two, atol=2e-6)


QUERY = jnp.ones((2, 6, 3, WIDTH))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"mask": jnp.ones((2, 1, 6, 6), bool)},
            "honours key padding .* prefix .* pac",
        ),
        ({"mask": jnp.ones((2, 6))}, "float32 mask of shape .* is not bool"),
        ({"segment_ids": jnp.ones((2, 6))}, "float32 segment_ids .* not integers"),
        ({"segment_ids": jnp.ones((6,), int)}, r"\(6,\) are not integers \(2, 6\)"),
        ({"prefix_lengths": jnp.ones((3,), int)}, r"shape \(3,\), not \(2,\)"),
        (
            {
                "prefix_lengths": jnp.ones((2,), int),
                "segment_ids": jnp.ones((2, 6), int),
            },
            "cannot be combined",
        ),
        ({"log_decay": jnp.ones((3,))}, r"log_decay has shape \(3,\), not \(2, 6, 3\)"),
        ({"normalizer": "softmax"}, "'softmax' is not one of"),
        ({"chunk_size": 0}, "chunk_size 0 must be at least 1"),
        ({"key": QUERY[:, :5], "value": QUERY[:, :5]}, "as many keys as queries"),
        ({"key": QUERY[..., :4]}, "query and key differ"),
        ({"value": QUERY[:1]}, "key and value differ"),
        ({"query": QUERY[0]}, "must be .batch, length, heads, width"),
        (
            {"query": QUERY[:, :0], "key": QUERY[:, :0], "value": QUERY[:, :0]},
            "no token",
        ),
        (
            {"state": la.initial_state(2, 3, 4, features=None)},
            r"\(2, 3, 5, 4\) does not continue .* need \(2, 3, 9, 12\)",
        ),
    ],
)
def test_what_cannot_be_honoured_is_an_error_that_says_what_can(options, message):
    inputs = {"query": QUERY, "key": QUERY, "value": QUERY, **options}
    with pytest.raises(ValueError, match=message):
        causal(**inputs)


def test_sums_of_many_keys_equal_those_of_few():
    """Above 64 keys a chunk is summed by another product."""
    features = la.favor_plus(la.orthogonal_projection(jax.random.key(7), 3, 4))
    key, value = jax.random.normal(jax.random.key(8), (2, 1, 150, 2, 4))

    def run(chunk_size):
        state = la.key_value_state(key, value, features=features, chunk_size=chunk_size)
        return state.sums * jnp.exp(state.log_scale)[..., None, None]

    np.testing.assert_allclose(run(100), run(50), rtol=1e-5, atol=1e-5)
