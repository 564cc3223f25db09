import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.diffusion import guidance


def conditional(noisy, time):
    return noisy + time[:, None]


def unconditional(noisy, time):
    return -noisy


def never(noisy, time):
    raise AssertionError("the unconditional prediction is not needed")


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_conditions_are_dropped_at_their_rate_each_on_its_own(rate):
    keep = guidance.drop_conditions(jax.random.key(0), 20_000, rate)
    assert keep.shape == (20_000,) and keep.dtype == bool
    np.testing.assert_allclose(1.0 - jnp.mean(keep), rate, atol=0.01)
    both = jnp.mean(~keep[1:] & ~keep[:-1])
    np.testing.assert_allclose(both, rate**2, atol=0.01)


@pytest.mark.parametrize(("rate", "kept"), [(0.0, True), (1.0, False)])
def test_rates_zero_and_one_keep_all_and_none(rate, kept):
    keep = guidance.drop_conditions(jax.random.key(0), 1000, rate)
    assert bool(jnp.all(keep == kept))


@pytest.mark.parametrize("rate", [-0.1, 1.5])
def test_a_rate_that_is_no_probability_is_refused(rate):
    with pytest.raises(ValueError, match=rf"rate {rate} .* in \[0, 1\]"):
        guidance.drop_conditions(jax.random.key(0), 2, rate)


def test_scale_one_is_the_conditional_prediction_and_computes_no_other():
    predict = guidance.guided(conditional, never, 1.0)
    noisy, time = jnp.ones((2, 3)), jnp.zeros(2)
    np.testing.assert_array_equal(predict(noisy, time), conditional(noisy, time))


@pytest.mark.parametrize(
    ("scale", "expected"), [(0.0, -2.0), (1.0, 3.0), (2.0, 8.0), (0.5, 0.5)]
)
@pytest.mark.parametrize("traced", [False, True])
def test_guidance_extrapolates_from_the_unconditional_prediction(
    scale, expected, traced
):
    def moved(scale):
        predict = guidance.guided(conditional, unconditional, scale)
        return predict(jnp.full((2, 3), 2.0), jnp.ones(2))

    found = jax.jit(moved)(scale) if traced else moved(scale)
    np.testing.assert_allclose(found, np.full((2, 3), expected), rtol=1e-6)


def test_every_example_may_have_its_own_scale_and_narrow_dtypes_stay():
    predict = guidance.guided(conditional, unconditional, jnp.array([1.0, 2.0]))
    noisy = jnp.full((2, 3), 2.0, jnp.bfloat16)
    found = predict(noisy, jnp.ones(2, jnp.bfloat16))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(found[:, 0]), [3.0, 8.0])
