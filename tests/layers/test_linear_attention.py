import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers import linear_attention as la
from tests.layers.quadratic_attention import quadratic_attention

WIDTH = 8
LENGTHS = [1, 63, 64, 65, 1000]


def make_features(name="favor_plus"):
    rows = la.projection_rows(name, 12)
    projection = la.orthogonal_projection(jax.random.key(7), rows, WIDTH)
    return la.feature_map(name)(projection)


def tokens(length, *, batch=2, heads=2, value_dim=5, dtype=jnp.float32):
    rngs = jax.random.split(jax.random.key(length), 3)
    return tuple(
        jax.random.normal(rng, (batch, length, heads, width), dtype)
        for rng, width in zip(rngs, (WIDTH, WIDTH, value_dim), strict=True)
    )


def causal(query, key, value, **options):
    options = {"features": make_features(), "chunk_size": 8, **options}
    return la.causal_linear_attention(query, key, value, **options)


@pytest.mark.parametrize("name", sorted(la.FEATURE_MAPS))
@pytest.mark.parametrize("length", LENGTHS)
def test_chunked_scan_equals_the_masked_quadratic_form(name, length):
    inputs = tokens(length, batch=1)
    features = make_features(name)
    out, _ = la.causal_linear_attention(*inputs, features=features)
    with jax.enable_x64(True):
        wide = [jnp.asarray(x, jnp.float64) for x in inputs]
        expected = quadratic_attention(*wide, features=features)
        total = quadratic_attention(
            *wide[:2], jnp.ones_like(wide[2]), features=features, normalizer=None
        )
    out, expected, total = (np.asarray(x) for x in (out, expected, total))
    scale = 1 + np.abs(expected)
    if name == "trigonometric":
        # A row is as accurate as its sum, whose terms cancel, is far from zero.
        scale = scale * np.maximum(1, np.abs(total).max() / np.abs(total))
    assert np.max(np.abs(out - expected) / scale) < 2e-5


@pytest.mark.parametrize("name", ["favor_plus", "relu"])
def test_bidirectional_and_cross_attention_equal_the_quadratic_form(name):
    query, _, _ = tokens(5)
    _, key, value = tokens(11)
    mask = jnp.arange(11) < jnp.array([[11], [6]])
    features = make_features(name)
    out = la.linear_attention(
        query, key, value, features=features, mask=mask, chunk_size=4
    )
    expected = quadratic_attention(
        query, key, value, features=features, causal=False, mask=mask
    )
    np.testing.assert_allclose(out, expected, atol=2e-6)


@pytest.mark.parametrize("cut", [1, 7, 8, 13, 20])
def test_outputs_before_a_token_are_bit_equal_when_it_and_all_later_change(cut):
    query, key, value = tokens(21)
    run = jax.jit(lambda key, value: causal(query, key, value)[0])
    before = run(key, value)
    after = run(key.at[:, cut:].multiply(-7.0), value.at[:, cut:].add(3.0))
    np.testing.assert_array_equal(before[:, :cut], after[:, :cut])
    assert jnp.all(jnp.any(before[:, cut] != after[:, cut], axis=-1))


def test_outputs_before_a_huge_key_are_bit_equal():
    query, key, value = tokens(16)
    run = jax.jit(lambda key: causal(query, key, value)[0])
    np.testing.assert_array_equal(
        run(key)[:, :11], run(key.at[:, 11:].set(1e4))[:, :11]
    )


def test_what_masked_tokens_hold_changes_nothing_not_even_nan():
    query, key, value = tokens(21)
    mask = jax.random.bernoulli(jax.random.key(0), 0.6, key.shape[:2])
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

    other = jnp.where(hole, 1e3, key), jnp.where(hole, jnp.nan, value)
    for function in (jax.jit(run), jax.jit(jax.grad(total, argnums=(0, 1)))):
        jax.tree.map(
            np.testing.assert_array_equal, function(key, value), function(*other)
        )
    assert jnp.any(run(key, value)[0] != causal(query, key, value)[0])


def test_masked_keys_equal_the_quadratic_form_without_them():
    inputs = tokens(21)
    mask = jax.random.bernoulli(jax.random.key(0), 0.6, inputs[0].shape[:2])
    out, _ = causal(*inputs, mask=mask)
    expected = quadratic_attention(*inputs, features=make_features(), mask=mask)
    np.testing.assert_allclose(out, expected, atol=2e-6)


def test_a_query_without_a_valid_key_gets_zeros_and_zero_gradients():
    inputs = tokens(9)
    mask = jnp.arange(9) >= jnp.array([[4], [9]])

    def run(*inputs):
        out = causal(*inputs, mask=mask, chunk_size=3)[0]
        return out, la.linear_attention(*inputs, features=make_features(), mask=mask)

    out, both = run(*inputs)
    assert jnp.all(out[0, :4] == 0) and jnp.all(out[0, 4:] != 0)
    assert jnp.all(out[1] == 0) and jnp.all(both[1] == 0) and jnp.all(both[0] != 0)
    gradients = jax.grad(
        lambda *inputs: sum(jnp.sum(x**2) for x in run(*inputs)), argnums=(0, 1, 2)
    )(*inputs)
    for gradient in gradients:
        assert jnp.all(gradient[1] == 0) and jnp.all(jnp.isfinite(gradient))


@pytest.mark.parametrize("padding", [1, 5, 40])
def test_more_padding_changes_valid_outputs_by_rounding_alone(padding):
    inputs = tokens(11)
    mask = jnp.ones((2, 11), bool)
    longer = [
        jnp.pad(x, ((0, 0), (0, padding), (0, 0), (0, 0)), constant_values=9.0)
        for x in inputs
    ]
    wider = jnp.pad(mask, ((0, 0), (0, padding)))
    out, state = causal(*longer, mask=wider)
    expected, _ = causal(*inputs, mask=mask)
    np.testing.assert_allclose(out[:, :11], expected, atol=1e-6)
    options = {"features": make_features(), "chunk_size": 4}
    np.testing.assert_allclose(
        la.linear_attention(*longer, mask=wider, **options)[:, :11],
        la.linear_attention(*inputs, mask=mask, **options),
        atol=1e-6,
    )


SEGMENTS = jnp.array([[1] * 3 + [2] * 2 + [3] * 9 + [0] * 7, [4] * 20 + [5]])


def test_packed_segments_equal_the_quadratic_form_of_each():
    inputs = tokens(21)
    out, _ = causal(*inputs, segment_ids=SEGMENTS)
    expected = quadratic_attention(
        *inputs, features=make_features(), segment_ids=SEGMENTS
    )
    np.testing.assert_allclose(out, expected, atol=3e-6)


@pytest.mark.parametrize("which", [1, 2, 3, 4])
def test_packed_segments_are_isolated_to_the_bit_gradients_too(which):
    inputs = tokens(21)
    own = (SEGMENTS == which)[..., None, None]
    target = jax.random.normal(jax.random.key(3), inputs[2].shape)

    def run(*inputs):
        out, pull = jax.vjp(
            lambda *inputs: causal(*inputs, segment_ids=SEGMENTS)[0], *inputs
        )
        return out, *pull(target)

    run = jax.jit(run)
    before = run(*inputs)
    after = run(*(jnp.where(own, -5 * x, x) for x in inputs))
    for one, two in zip(before, after, strict=True):
        np.testing.assert_array_equal(jnp.where(own, 0, one), jnp.where(own, 0, two))
        assert jnp.any(one != two)


def test_a_prefix_is_seen_by_all_and_equals_the_quadratic_form():
    inputs = tokens(21)
    lengths = jnp.array([6, 17])
    mask = jnp.ones((2, 21), bool).at[0, 2].set(False).at[1, 19].set(False)
    out, _ = causal(*inputs, prefix_lengths=lengths, mask=mask)
    expected = quadratic_attention(
        *inputs, features=make_features(), prefix_lengths=lengths, mask=mask
    )
    np.testing.assert_allclose(out, expected, atol=2e-6)


def test_outputs_after_a_prefix_are_causal_to_the_bit():
    query, key, value = tokens(21)
    run = jax.jit(
        lambda key: causal(query, key, value, prefix_lengths=jnp.array([0, 9]))[0]
    )
    before = run(key)
    later = run(key.at[:, 12:].add(1.0))
    np.testing.assert_array_equal(before[:, :12], later[:, :12])
    inside = run(key.at[:, 8].add(1.0))
    np.testing.assert_array_equal(before[0, :8], inside[0, :8])
    assert jnp.all(jnp.any(before[1] != inside[1], axis=-1))


@pytest.mark.parametrize("name", ["favor_plus", "elu_plus_one"])
def test_huge_keys_and_queries_overflow_nowhere(name):
    query, key, value = tokens(21)
    inputs = 1e3 * query, key * 10.0 ** jnp.arange(-10, 11)[:, None, None], value
    features = make_features(name)

    def run(*inputs):
        out, state = causal(*inputs, features=features)
        return jnp.sum(out**2), (out, state)

    gradient, (out, state) = jax.grad(run, argnums=(0, 1, 2), has_aux=True)(*inputs)
    for x in jax.tree.leaves((gradient, out, state)):
        assert jnp.all(jnp.isfinite(x))
    bound = jnp.abs(value).max(axis=1, keepdims=True) * (1 + 1e-5)
    assert jnp.all(jnp.abs(out) <= bound)


@pytest.mark.parametrize("name", sorted(la.FEATURE_MAPS))
def test_bfloat16_inputs_accumulate_in_float32(name):
    inputs = tokens(130, batch=1, dtype=jnp.bfloat16)
    features = make_features(name)

    def run(*inputs):
        out, state = causal(*inputs, features=features, chunk_size=64)
        return jnp.sum(out.astype(jnp.float32) ** 2), (out, state)

    gradient, (out, state) = jax.grad(run, argnums=(0, 1, 2), has_aux=True)(*inputs)
    assert out.dtype == jnp.bfloat16 and {x.dtype for x in gradient} == {out.dtype}
    assert state.sums.dtype == state.log_scale.dtype == jnp.float32
    for x in jax.tree.leaves((out, gradient, state)):
        assert jnp.all(jnp.isfinite(x))
    if name != "trigonometric":
        wide, _ = causal(*(x.astype(jnp.float32) for x in inputs), features=features)
        np.testing.assert_allclose(out.astype(jnp.float32), wide, atol=2e-2)


def test_a_feature_map_may_be_any_function_or_none():
    inputs = [jnp.abs(x) for x in tokens(9)]
    out, _ = causal(*inputs, features=lambda x: (x**2, None))
    squares = inputs[0] ** 2, inputs[1] ** 2, inputs[2]
    np.testing.assert_allclose(out, causal(*squares, features=None)[0], atol=1e-6)


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
