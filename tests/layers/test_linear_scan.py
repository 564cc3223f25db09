"""The recurrence behind linear attention: gates, normalizers, states, gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers import linear_attention as la
from tests.layers.quadratic_attention import quadratic_attention

WIDTH = 4
FORMS = {
    "favor_plus": {"features": "favor_plus", "normalizer": "sum"},
    "hyperbolic_gated": {
        "features": "favor_hyperbolic",
        "normalizer": "sum",
        "gates": ("log_input", "log_decay"),
    },
    "relu": {"features": "relu", "normalizer": "sum"},
    "mlstm": {
        "features": None,
        "normalizer": "mlstm",
        "gates": ("log_input", "log_decay"),
    },
    "retention": {"features": None, "normalizer": None, "gates": ("log_decay",)},
    "favor_unnormalized": {"features": "favor_plus", "normalizer": None},
    "favor_mlstm": {
        "features": "favor_plus",
        "normalizer": "mlstm",
        "gates": ("log_input",),
    },
}


# Compiles in half the time; for tests that compare values and not bits.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def make_form(name):
    form = FORMS[name]
    features = form["features"]
    if features is not None:
        projection = la.orthogonal_projection(jax.random.key(7), 3, WIDTH)
        features = la.feature_map(features)(projection)
    return {"features": features, "normalizer": form["normalizer"]}


def make_inputs(name, length, *, batch=2, heads=2, value_dim=3):
    rng = np.random.default_rng(length)
    shape = batch, length, heads
    gates = {
        "log_input": rng.normal(size=shape),
        "log_decay": -np.log1p(np.exp(rng.normal(size=shape) - 1)),
    }
    inputs = {
        "query": rng.normal(size=(*shape, WIDTH)),
        "key": rng.normal(size=(*shape, WIDTH)),
        "value": rng.normal(size=(*shape, value_dim)),
        **{gate: gates[gate] for gate in FORMS[name].get("gates", ())},
    }
    dtype = np.float64 if jax.config.jax_enable_x64 else np.float32
    return {name: x.astype(dtype) for name, x in inputs.items()}


def make_target(like):
    return np.random.default_rng(1).normal(size=like.shape).astype(like.dtype)


def make_masks(name, length):
    """The masks that `name` can be combined with."""
    index = np.arange(length)
    mask = (index % 4 != 1)[None] & (index < np.array([[length], [length - 3]]))
    mask = mask & (index > np.array([[0], [1]]))
    segments = (index > 4).astype(np.int32) + (index > 6) + (index > 17)
    choices = {
        "all": {},
        "mask": {"mask": mask},
        "segments": {"segment_ids": np.stack([segments, np.roll(segments, 2)])},
    }
    choices["mask_and_segments"] = {**choices["mask"], **choices["segments"]}
    if "log_decay" not in FORMS[name].get("gates", ()):
        choices["prefix"] = {"prefix_lengths": np.array([3, 11]), "mask": mask}
    return choices


def thorough(default, everything):
    """Runs the `default` cases always and the others as slow ones."""
    return [
        case if case in default else pytest.param(*case, marks=pytest.mark.slow)
        for case in everything
    ]


MASKED = thorough(
    [("favor_plus", "mask_and_segments"), ("favor_plus", "prefix")]
    + [("mlstm", "mask_and_segments"), ("mlstm", "all"), ("relu", "mask")]
    + [("retention", "segments"), ("hyperbolic_gated", "mask")]
    + [("favor_unnormalized", "all")],
    [(name, masks) for name in FORMS for masks in make_masks(name, 22)],
)
CUTS = thorough(
    [("favor_plus", 13), ("hyperbolic_gated", 8), ("mlstm", 1)],
    [(name, cut) for name in FORMS for cut in (1, 8, 13)],
)
STEPS = thorough([("favor_plus",), ("mlstm",)], [(name,) for name in FORMS])


def close(one, two, tolerance):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance),
        one,
        two,
    )


@pytest.mark.parametrize(("name", "masks"), MASKED)
def test_outputs_and_all_gradients_equal_the_quadratic_form(name, masks, float64):
    length = 22  # six chunks of four, the last one ragged
    inputs, form = make_inputs(name, length), make_form(name)
    options = make_masks(name, length)[masks]
    target = make_target(inputs["value"])

    def run(attend):
        @jit
        def both(inputs):
            out, pull = jax.vjp(attend, inputs)
            return out, pull(target)

        return both(inputs)

    def chunked(inputs):
        return la.causal_linear_attention(**inputs, **form, **options, chunk_size=4)[0]

    def quadratic(inputs):
        return quadratic_attention(**inputs, **form, **options)

    close(run(chunked), run(quadratic), 1e-11)


@pytest.mark.parametrize(
    ("name", "length"),
    [("mlstm", length) for length in (1, 63, 64, 65, 1100)] + [("retention", 65)],
)
def test_gated_forms_equal_the_quadratic_form_at_any_length(name, length, float64):
    """1100 tokens are more than one group of chunks."""
    inputs, form = make_inputs(name, length, batch=1), make_form(name)

    @jit
    def run(inputs):
        out, _ = la.causal_linear_attention(**inputs, **form)
        return out, quadratic_attention(**inputs, **form)

    close(*run(inputs), 1e-10)


def test_gradients_across_groups_of_chunks_equal_the_quadratic_form(float64):
    inputs, form = make_inputs("mlstm", 75, batch=1), make_form("mlstm")

    def loss(attend, inputs):
        return jnp.sum(jnp.sin(attend(**inputs, **form)))

    def chunked(**options):
        return la.causal_linear_attention(**options, chunk_size=2)[0]

    close(
        jit(jax.grad(functools.partial(loss, chunked)))(inputs),
        jit(jax.grad(functools.partial(loss, quadratic_attention)))(inputs),
        1e-11,
    )


@pytest.mark.parametrize(("name", "cut"), CUTS)
def test_a_stream_cut_anywhere_equals_one_pass_gradients_too(name, cut, float64):
    inputs, form = make_inputs(name, 22), make_form(name)
    mask = make_masks(name, 22)["mask_and_segments"]

    def pieces(inputs, *cuts):
        state, outs = None, []
        for start, stop in zip((0, *cuts), (*cuts, 22), strict=True):
            piece = jax.tree.map(lambda x, a=start, b=stop: x[:, a:b], (inputs, mask))
            out, state = la.causal_linear_attention(
                **piece[0], **piece[1], **form, state=state, chunk_size=4
            )
            outs.append(out)
        true = state.sums * jnp.exp(state.log_scale)[..., None, None]
        return jnp.concatenate(outs, axis=1), true

    def run(*cuts):
        def loss(inputs):
            out, true = pieces(inputs, *cuts)
            return jnp.sum(jnp.sin(out)) + jnp.sum(jnp.sin(true)), (out, true)

        return jit(jax.value_and_grad(loss, has_aux=True))(inputs)

    close(run(cut), run(), 1e-11)


@pytest.mark.parametrize(("name",), STEPS)
def test_steps_equal_the_scan_outputs_gradients_and_state(name, float64):
    inputs, form = make_inputs(name, 9), make_form(name)
    masks = make_masks(name, 9)["mask_and_segments"]

    def scan(inputs):
        return la.causal_linear_attention(**inputs, **masks, **form, chunk_size=4)

    def steps(inputs):
        state = la.initial_state(
            2, 2, WIDTH, 3, features=form["features"], dtype=jnp.float64
        )

        def step(state, token):
            return la.linear_attention_step(state, **token, **form)

        by_time = jax.tree.map(lambda x: np.moveaxis(x, 1, 0), masks)
        by_time |= jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), inputs)
        state, out = jax.lax.scan(step, state, by_time)
        return jnp.moveaxis(out, 0, 1), state

    def run(attend):
        def loss(inputs):
            out, state = attend(inputs)
            true = state.sums * jnp.exp(state.log_scale)[..., None, None]
            return jnp.sum(jnp.sin(out)) + jnp.sum(true**2), (out, true, state.segment)

        return jit(jax.value_and_grad(loss, has_aux=True))(inputs)

    close(run(steps), run(scan), 1e-11)


def test_gradient_of_the_initial_sums_equals_that_of_the_keys_they_hold(float64):
    inputs, form = make_inputs("mlstm", 9), make_form("mlstm")
    earlier = make_inputs("mlstm", 5)
    _, before = jit(lambda x: la.causal_linear_attention(**x, **form))(earlier)

    def loss(sums):
        state = before.replace(sums=sums)
        out, state = la.causal_linear_attention(
            **inputs, **form, state=state, chunk_size=4
        )
        return jnp.sum(jnp.sin(out)) + jnp.sum(state.sums**2)

    direction = make_target(before.sums)
    sums, step = np.asarray(before.sums), 1e-6
    value = jit(loss)
    slope = value(sums + step * direction) - value(sums - step * direction)
    gradient = jit(jax.grad(loss))(sums)
    close(np.sum(gradient * direction), slope / (2 * step), 1e-7)


def test_bidirectional_gradients_equal_the_quadratic_form(float64):
    form = make_form("favor_plus")
    query = make_inputs("favor_plus", 5)["query"]
    inputs = {**make_inputs("favor_plus", 11), "query": query}
    mask = np.arange(11) < np.array([[11], [6]])

    def chunked(inputs):
        return la.linear_attention(
            **inputs, features=form["features"], mask=mask, chunk_size=4
        )

    def quadratic(inputs):
        return quadratic_attention(**inputs, **form, causal=False, mask=mask)

    def run(attend):
        loss = jax.value_and_grad(lambda x: jnp.sum(jnp.sin(attend(x))))
        return jit(loss)(inputs)

    close(run(chunked), run(quadratic), 1e-12)


def test_gated_outputs_ignore_later_gates_to_the_bit():
    inputs, form = make_inputs("mlstm", 22), make_form("mlstm")
    run = jax.jit(
        lambda inputs: la.causal_linear_attention(**inputs, **form, chunk_size=8)[0]
    )
    before = run(inputs)
    for gate in ("log_input", "log_decay", "key", "value"):
        changed = inputs[gate].copy()
        changed[:, 13:] -= 2.5
        after = run({**inputs, gate: changed})
        np.testing.assert_array_equal(before[:, :13], after[:, :13])
        assert jnp.any(before[:, 13] != after[:, 13])


def test_gated_segments_are_isolated_to_the_bit():
    inputs, form = make_inputs("mlstm", 22), make_form("mlstm")
    segment_ids = np.repeat(np.array([[1, 2, 3], [4, 5, 4]]), [5, 6, 11], axis=1)

    @jax.jit
    def run(inputs):
        def attend(inputs):
            return la.causal_linear_attention(
                **inputs, **form, segment_ids=segment_ids, chunk_size=8
            )[0]

        out, pull = jax.vjp(attend, inputs)
        return {"out": out, **pull(jnp.ones_like(out))[0]}

    def others(tree):
        return jax.tree.map(lambda x: np.delete(x, np.s_[5:11], axis=1), tree)

    inside = np.isin(np.arange(22), np.arange(5, 11))
    changed = jax.tree.map(
        lambda x: x - 3 * np.expand_dims(inside, tuple(range(1, x.ndim - 1))), inputs
    )
    before, after = run(inputs), run(changed)
    jax.tree.map(np.testing.assert_array_equal, others(before), others(after))
    assert jnp.any(before["out"] != after["out"])
    forgotten = before["log_decay"][:, np.array([0, 5, 11])]
    np.testing.assert_allclose(forgotten, 0, atol=1e-4)


def test_extreme_gates_stay_finite():
    inputs, form = make_inputs("mlstm", 22), make_form("mlstm")
    inputs["log_input"] = inputs["log_input"] * 300
    inputs["log_decay"] = inputs["log_decay"] * 100

    def loss(inputs):
        out, state = la.causal_linear_attention(**inputs, **form, chunk_size=8)
        return jnp.sum(out**2), state

    for x in jax.tree.leaves(jit(jax.value_and_grad(loss, has_aux=True))(inputs)):
        assert jnp.all(jnp.isfinite(x))


@pytest.mark.parametrize("length", [1000, pytest.param(16384, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("name", "limit"), [("favor_plus", 5e-6), ("mlstm", 2e-5)])
def test_float32_gradients_are_those_of_float64_at_length(name, limit, length):
    """Walking the state back by subtraction loses 13 % here at 16k tokens."""
    with jax.enable_x64(True):
        wide, form = make_inputs(name, length, batch=1), make_form(name)
        target = make_target(wide["value"])

    def run(inputs, target):
        def attend(inputs):
            return la.causal_linear_attention(**inputs, **form)[0]

        out, pull = jax.vjp(attend, inputs)
        return out, pull(target)

    narrow = jax.tree.map(lambda x: x.astype(np.float32), (wide, target))
    got = jax.jit(run)(*narrow)
    with jax.enable_x64(True):
        expected = jax.jit(run)(wide, target)
    for one, two in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        one, two = np.asarray(one, np.float64), np.asarray(two)
        assert np.linalg.norm(one - two) < limit * np.linalg.norm(two)
        first = np.linalg.norm((one - two)[:, :16])
        assert first < limit * np.linalg.norm(two[:, :16])


def test_backward_memory_does_not_hold_features_of_all_tokens():
    """Temporaries grow with the length by the saved states and outputs alone."""
    features, rows, heads = 64, 4096, 2
    projection = la.orthogonal_projection(jax.random.key(0), features, WIDTH)
    x = jax.ShapeDtypeStruct((1, rows, heads, WIDTH), jnp.float32)

    def loss(query, key, value):
        out, _ = la.causal_linear_attention(
            query, key, value, features=la.favor_plus(projection)
        )
        return jnp.sum(out**2)

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(x, x, x).compile()
    one_feature_array = 4 * rows * heads * features
    assert compiled.memory_analysis().temp_size_in_bytes < 0.5 * one_feature_array


def test_chunks_longer_than_the_default_equal_the_quadratic_form(float64):
    length = 90  # one whole chunk of 80, whose products take their other order
    inputs, form = make_inputs("favor_plus", length), make_form("favor_plus")
    target = make_target(inputs["value"])

    @functools.partial(jit, static_argnums=0)
    def run(attend, inputs):
        out, pull = jax.vjp(attend, inputs)
        return out, pull(target)

    def chunked(inputs):
        return la.causal_linear_attention(**inputs, **form, chunk_size=80)[0]

    def textbook(inputs):
        return quadratic_attention(**inputs, **form)

    close(run(chunked, inputs), run(textbook, inputs), 1e-11)
