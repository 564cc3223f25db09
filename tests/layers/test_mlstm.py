"""The mLSTM cell: three forms of one function, its states, masks and gates."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers import mlstm

WIDTH, VALUE_WIDTH = 4, 3
NAMES = "query", "key", "value", "input_gate", "forget_gate"
# Means of the input and the forget gates before exp and sigmoid.
GATES = {"normal": (0.0, 4.0), "extreme": (10.0, -2.0), "closed": (-10.0, 3.0)}
LENGTHS = 1, 63, 64, 65, 256

# Compiles in half the time; for tests that compare values and not bits.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
chunkwise = jit(mlstm.mlstm_chunkwise, static_argnames="chunk_size")
recurrent = jit(mlstm.mlstm_recurrent)
parallel = jit(mlstm.mlstm_parallel)


def gradients(form):
    """Of a sum of sines of the outputs, with respect to all five inputs."""

    def loss(inputs, masks):
        return jnp.sum(jnp.sin(form(*inputs, **masks)))

    return jit(jax.grad(loss))


chunkwise_gradients = gradients(
    lambda *x, **masks: mlstm.mlstm_chunkwise(*x, **masks)[0]
)
short_chunks = functools.partial(mlstm.mlstm_chunkwise, chunk_size=4)
short_chunk_gradients = gradients(lambda *x, **masks: short_chunks(*x, **masks)[0])
recurrent_gradients = gradients(
    lambda *x, **masks: mlstm.mlstm_recurrent(*x, **masks)[0]
)
parallel_gradients = gradients(mlstm.mlstm_parallel)


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def make_inputs(length, gates="normal", *, batch=2, heads=2, dtype=np.float64):
    rng = np.random.default_rng(length)
    shape = batch, length, heads
    mean, forget = GATES[gates]
    arrays = (
        rng.normal(size=(*shape, WIDTH)),
        rng.normal(size=(*shape, WIDTH)),
        rng.normal(size=(*shape, VALUE_WIDTH)),
        mean + 2 * rng.normal(size=shape),
        forget + rng.normal(size=shape),
    )
    return [jnp.asarray(x, dtype) for x in arrays]


def make_masks(length):
    index = np.arange(length)
    mask = np.stack([index % 4 != 1, (index > 1) & (index < length - 3)])
    segments = (index > 4).astype(np.int32) + (index > 6) + (index > 17)
    return {
        "mask": {"mask": mask},
        "segments": {"segment_ids": np.stack([segments, np.roll(segments, 2)])},
        "both": {"mask": mask, "segment_ids": np.stack([segments, segments])},
    }


def textbook(query, key, value, input_gate, forget_gate):
    """C, n and h of one sequence and head, without logarithms: for mild gates alone."""
    memory, total = np.zeros((WIDTH, VALUE_WIDTH)), np.zeros(WIDTH)
    out = []
    for q, k, v, i, f in zip(
        *map(np.asarray, (query, key, value, input_gate, forget_gate)), strict=True
    ):
        keep, write = 1 / (1 + np.exp(-f)), np.exp(i)
        k = k / WIDTH**0.5
        memory = keep * memory + write * np.outer(k, v)
        total = keep * total + write * k
        out.append(memory.T @ q / max(abs(total @ q), 1))
    return np.array(out)


@pytest.mark.parametrize("length", LENGTHS)
def test_the_three_forms_agree_to_a_billionth(float64, length):
    for gates in GATES:
        inputs = make_inputs(length, gates)
        expected = parallel(*inputs)
        for form in (chunkwise, recurrent):
            found, state = form(*inputs)
            np.testing.assert_allclose(found, expected, atol=1e-9, err_msg=gates)
        after = chunkwise(*inputs)[1]
        np.testing.assert_allclose(after.log_scale, state.log_scale, atol=1e-9)
        np.testing.assert_allclose(after.sums, state.sums, atol=1e-9)


@pytest.mark.parametrize("length", LENGTHS)
def test_gradients_of_the_chunkwise_form_are_those_of_the_parallel(float64, length):
    for gates in GATES:
        inputs = make_inputs(length, gates)
        found, expected = (
            form(inputs, {}) for form in (chunkwise_gradients, parallel_gradients)
        )
        for name, one, two in zip(NAMES, found, expected, strict=True):
            np.testing.assert_allclose(one, two, atol=1e-7, err_msg=f"{gates} {name}")


@pytest.mark.parametrize("form", [short_chunk_gradients, recurrent_gradients])
def test_gradients_with_masks_are_those_of_the_parallel_form(float64, form):
    inputs, masks = make_inputs(22, "extreme"), make_masks(22)["both"]
    found, expected = form(inputs, masks), parallel_gradients(inputs, masks)
    for name, one, two in zip(NAMES, found, expected, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-7, err_msg=name)


def test_gradients_pass_through_the_state_of_a_stream(float64):
    def in_two_calls(*inputs, **masks):
        first, state = short_chunks(*(x[:, :9] for x in inputs), **masks)
        second, _ = short_chunks(*(x[:, 9:] for x in inputs), state=state, **masks)
        return jnp.concatenate([first, second], axis=1)

    inputs = make_inputs(22)
    found = gradients(in_two_calls)(inputs, {})
    for name, one, two in zip(
        NAMES, found, parallel_gradients(inputs, {}), strict=True
    ):
        np.testing.assert_allclose(one, two, atol=1e-10, err_msg=name)


def test_the_cell_is_the_textbook_recurrence_with_the_key_over_the_root_of_its_width(
    float64,
):
    inputs = make_inputs(12, batch=1, heads=1)
    found, _ = chunkwise(*inputs, chunk_size=5)
    expected = textbook(*(x[0, :, 0] for x in inputs))
    np.testing.assert_allclose(found[0, :, 0], expected, atol=1e-12)


@pytest.mark.parametrize("masks", ["mask", "segments", "both"])
def test_masks_and_segments_mean_the_same_in_the_three_forms(float64, masks):
    inputs, masks = make_inputs(22), make_masks(22)[masks]
    expected = parallel(*inputs, **masks)
    tokens, last = recurrent(*inputs, **masks)
    chunks, after = chunkwise(*inputs, **masks, chunk_size=8)
    np.testing.assert_allclose(tokens, expected, atol=1e-12)
    np.testing.assert_allclose(chunks, expected, atol=1e-12)
    np.testing.assert_allclose(after.sums, last.sums, atol=1e-12)
    np.testing.assert_array_equal(after.segment, last.segment)


def test_masked_tokens_in_between_leave_what_follows_as_without_them(float64):
    inputs = make_inputs(11, "extreme")
    mask = np.ones((2, 11), bool)
    mask[:, [0, 4, 5]] = False
    shorter = [x[:, mask[0]] for x in inputs]
    for form in (chunkwise, recurrent):
        masked, state = form(*inputs, mask=mask)
        without, same = form(*shorter)
        np.testing.assert_allclose(masked[:, mask[0]], without, atol=1e-12)
        np.testing.assert_allclose(state.sums, same.sums, atol=1e-12)


def test_a_masked_token_of_nan_changes_nothing():
    inputs = make_inputs(9, dtype=np.float32)
    mask = np.ones((2, 9), bool)
    mask[:, 3] = False
    broken = [x.at[:, 3].set(jnp.nan) for x in inputs]
    for form in (chunkwise, recurrent):
        clean, _ = form(*inputs, mask=mask)
        found, state = form(*broken, mask=mask)
        np.testing.assert_array_equal(found[mask], clean[mask])
        assert jnp.isfinite(state.sums).all()


@pytest.mark.parametrize("cut", [1, 5, 8])
def test_a_stream_cut_anywhere_gives_what_one_call_gives(float64, cut):
    inputs = make_inputs(13, "extreme")
    expected, last = chunkwise(*inputs, chunk_size=4)
    for form in (recurrent, chunkwise):
        first, state = form(*(x[:, :cut] for x in inputs))
        second, state = form(*(x[:, cut:] for x in inputs), state=state)
        found = jnp.concatenate([first, second], axis=1)
        np.testing.assert_allclose(found, expected, atol=1e-10)
        np.testing.assert_allclose(state.sums, last.sums, atol=1e-10)


def test_steps_with_masks_and_segments_are_the_sequence(float64):
    inputs, masks = make_inputs(9), make_masks(9)["both"]
    expected, last = recurrent(*inputs, **masks)
    step = jit(mlstm.mlstm_step)
    state = mlstm.initial_state(2, 2, WIDTH, VALUE_WIDTH, dtype="float64")
    for index in range(9):
        token = [x[:, index] for x in inputs]
        own = {name: x[:, index] for name, x in masks.items()}
        state, out = step(state, *token, **own)
        np.testing.assert_allclose(out, expected[:, index], atol=1e-12)
    np.testing.assert_allclose(state.sums, last.sums, atol=1e-12)


def test_a_later_token_changes_no_earlier_output_to_the_bit():
    inputs = make_inputs(70, "extreme", dtype=np.float32)
    form = jax.jit(mlstm.mlstm_chunkwise)
    before, _ = form(*inputs)
    for cut in (20, 64, 69):
        changed = [x.at[:, cut].add(30.0) for x in inputs]
        after, _ = form(*changed)
        np.testing.assert_array_equal(after[:, :cut], before[:, :cut])
        assert jnp.any(after[:, cut] != before[:, cut])


def test_gates_far_beyond_the_range_of_exp_stay_finite():
    inputs = make_inputs(70, dtype=np.float32)
    for gate in (200.0, -200.0):
        inputs[3] = jnp.full_like(inputs[3], gate).at[:, 30].set(-gate)
        inputs[4] = jnp.full_like(inputs[4], -gate)

        leaves = chunkwise_gradients(inputs, {})
        assert all(jnp.isfinite(x).all() for x in leaves)


def test_bfloat16_inputs_are_summed_in_float32():
    inputs = make_inputs(64, dtype=np.float32)
    rounded = [x.astype(jnp.bfloat16) for x in inputs]
    out, state = chunkwise(*rounded)
    assert out.dtype == jnp.bfloat16
    assert state.sums.dtype == jnp.float32
    expected = parallel(*(x.astype(jnp.float32) for x in rounded))
    np.testing.assert_allclose(out.astype(jnp.float32), expected, rtol=0.05, atol=0.02)


def test_shapes_that_do_not_fit_are_named():
    inputs = make_inputs(5, dtype=np.float32)
    with pytest.raises(ValueError, match=r"input_gate has shape \(2, 4, 2\)"):
        mlstm.mlstm_chunkwise(*inputs[:3], inputs[3][:, :4], inputs[4])
    with pytest.raises(ValueError, match="mask of shape"):
        mlstm.mlstm_recurrent(*inputs, mask=jnp.ones((2, 4), bool))
    state = mlstm.initial_state(2, 3, WIDTH)
    with pytest.raises(ValueError, match="does not continue"):
        mlstm.mlstm_chunkwise(*inputs, state=state)
