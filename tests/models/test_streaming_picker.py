"""The streaming picker: causality, streams, running normalization, sizes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.models import streaming_picker
from jaxmodels.models.streaming_picker import StreamingPicker
from tests.variables import random_variables

PICKER = StreamingPicker(
    embed_dim=8, num_layers=2, num_heads=2, head_channels=4, statistics_seconds=0.5
)
LENGTH = 30
run = jax.jit(PICKER.apply, static_argnames="method")


@pytest.fixture(scope="module")
def waveform():
    noise = np.random.default_rng(0).normal(size=(2, LENGTH, 3))
    noise[:, 17:] *= 40.0
    return jnp.asarray(5e3 + noise * [1.0, 300.0, 1e-3], jnp.float32)


@pytest.fixture(scope="module")
def variables(waveform):
    return random_variables(PICKER, waveform)


@pytest.fixture(scope="module")
def logits(variables, waveform):
    return run(variables, waveform)


def normalized(waveform, *, seconds=0.5):
    decay = float(np.exp(-4 / (seconds * 100)))
    statistics = PICKER.initial_state(waveform.shape[0]).statistics
    whole = waveform[:, : waveform.shape[1] // 4 * 4]
    return streaming_picker.normalize(statistics, whole, decay)[1]


def test_every_sample_has_logits_whatever_the_length(variables, waveform, logits):
    assert logits.shape == (2, LENGTH, 3)
    assert logits.dtype == jnp.float32
    shorter = run(variables, waveform[:, :29])
    np.testing.assert_allclose(shorter[:, :28], logits[:, :28], atol=1e-5)
    assert shorter.shape == (2, 29, 3)


def test_frames_one_by_one_and_in_pieces_give_what_one_call_gives(
    variables, waveform, logits
):
    state, steps = PICKER.initial_state(2), []
    for start in range(0, 28, 4):
        state, out = run(
            variables, state, waveform[:, start : start + 4], method="step"
        )
        steps.append(out)
    np.testing.assert_allclose(jnp.concatenate(steps, 1), logits[:, :28], atol=1e-5)
    last, pieces = PICKER.initial_state(2), []
    for start, end in ((0, 8), (8, 28)):
        last, out = run(variables, last, waveform[:, start:end], method="extend")
        pieces.append(out)
    np.testing.assert_allclose(jnp.concatenate(pieces, 1), logits[:, :28], atol=1e-5)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), last, state
    )


def test_a_later_sample_changes_no_earlier_output_to_the_bit(
    variables, waveform, logits
):
    for sample in (4, 13, 19, 27):
        after = run(variables, waveform.at[:, sample].add(700.0))
        seen = sample - sample % 4
        np.testing.assert_array_equal(after[:, :seen], logits[:, :seen])
        assert jnp.any(after[:, seen:] != logits[:, seen:])


def test_a_sample_reaches_no_further_back_than_the_latency_says(
    variables, waveform, logits
):
    after = run(variables, waveform.at[:, 15].add(700.0))
    changed = np.flatnonzero(np.any(after != logits, axis=(0, 2)))
    assert changed[0] == 15 - PICKER.latency == 12


def test_masked_samples_change_no_other_one(variables, waveform, logits):
    mask = np.ones((2, LENGTH), bool)
    mask[:, 20:] = False
    found = run(variables, waveform.at[:, 20:].set(jnp.nan), mask=mask)
    np.testing.assert_allclose(found[:, :20], logits[:, :20], atol=1e-5)
    gap = np.ones((2, LENGTH), bool)
    gap[:, 8:12] = False
    one = run(variables, waveform, mask=gap)
    two = run(variables, waveform.at[:, 8:12].set(jnp.inf), mask=gap)
    np.testing.assert_array_equal(one[gap], two[gap])


def test_unit_and_offset_of_a_component_do_not_matter(waveform):
    expected = normalized(waveform)
    scaled = (waveform - 5e3) * jnp.array([1e-6, 3.0, 4e5])
    np.testing.assert_allclose(
        normalized(scaled)[..., :2], expected[..., :2], atol=0.02
    )


def test_stationary_noise_comes_out_with_a_deviation_near_one():
    noise = np.random.default_rng(1).normal(size=(1, 4000, 3)) * 7 + 1e6
    out = np.sinh(normalized(jnp.asarray(noise, jnp.float32), seconds=5.0)[0, 1000:])
    np.testing.assert_allclose(out.std(0), 1.0, atol=0.05)
    np.testing.assert_allclose(out.mean(0), 0.0, atol=0.1)


def test_running_statistics_are_the_exponential_averages_over_frames():
    x = np.random.default_rng(2).normal(size=(12, 1)).astype(np.float32) + 3
    decay, mean, variance, weight = 0.8, 0.0, 0.0, 0.0
    expected = []
    for frame in (x - x[:4].mean()).reshape(3, 4):
        weight = decay * weight + 1 - decay
        mean = decay * mean + (1 - decay) * frame.mean()
        centered = frame - mean / weight
        variance = decay * variance + (1 - decay) * np.square(centered).mean()
        expected.append(np.arcsinh(centered / np.sqrt(variance / weight)))
    picker = PICKER.clone(channels=1)
    statistics = picker.initial_state(1).statistics
    _, found = streaming_picker.normalize(statistics, jnp.asarray(x[None]), decay)
    np.testing.assert_allclose(found[0, :, 0], np.concatenate(expected), atol=1e-5)


def test_a_dead_component_stays_zero(waveform):
    out = normalized(waveform.at[..., 1].set(123.4))
    np.testing.assert_array_equal(out[..., 1], 0.0)
    assert jnp.all(jnp.isfinite(out))


def test_an_arrival_far_above_the_noise_stays_small():
    x = np.random.default_rng(3).normal(size=(1, 4000, 3))
    x[:, 3000:] *= 1e4
    out = normalized(jnp.asarray(x, jnp.float32), seconds=30.0)
    assert 3 < jnp.abs(out[:, 3000:]).max() < 12


def test_normalization_passes_no_gradient_and_the_parameters_get_one(
    variables, waveform
):
    def loss(variables, waveform):
        return jnp.sum(jnp.square(PICKER.apply(variables, waveform)))

    grad = jax.jit(jax.grad(loss, argnums=(0, 1)))
    d_variables, d_waveform = jax.device_get(grad(variables, waveform[:, :16]))
    np.testing.assert_array_equal(d_waveform, 0.0)
    for leaf in jax.tree.leaves(d_variables):
        assert np.all(np.isfinite(leaf)) and np.any(leaf != 0)


def test_the_state_of_a_stream_does_not_grow(variables, waveform):
    state = PICKER.initial_state(2)
    after, _ = run(variables, state, waveform[:, :8], method="extend")
    shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), one) for one in (state, after)]
    assert shapes[0] == shapes[1]


def test_wrong_waveforms_are_named(variables, waveform):
    with pytest.raises(ValueError, match="batch, samples, 3"):
        PICKER.apply(variables, waveform[..., :2])
    state = PICKER.initial_state(2)
    with pytest.raises(ValueError, match="a step takes 4 samples, not 5"):
        PICKER.apply(variables, state, waveform[:, :5], method="step")
    with pytest.raises(ValueError, match="6 samples are not whole frames of 4"):
        PICKER.apply(variables, state, waveform[:, :6], method="extend")


def test_a_picker_of_the_usual_width_has_its_parameters_pinned():
    picker = StreamingPicker(embed_dim=64, num_layers=4)
    shapes = jax.eval_shape(picker.init, jax.random.key(0), jnp.zeros((1, 8, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 140_339
