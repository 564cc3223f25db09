import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers import normalization


def branch(x):
    return 3.0 * x + 1.0


def wrapped(name, x, branch=branch, **fields):
    module = normalization.residual(name)(**fields)
    variables = module.init(jax.random.key(0), x, branch)
    return module, variables, module.apply(variables, x, branch)


def activations(seed=0):
    return 2.0 + 5.0 * jax.random.normal(jax.random.key(seed), (2, 3, 8))


def test_layer_norm_branch_reads_zero_mean_and_unit_variance():
    x = np.asarray(activations(), np.float64)
    _, _, got = wrapped("layer_norm", activations())
    normal = x - x.mean(-1, keepdims=True)
    normal /= np.sqrt((normal**2).mean(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(got, x + branch(normal), rtol=1e-5, atol=1e-5)


def test_layer_norm_statistics_are_float32_for_bfloat16_activations():
    x = (300.0 + activations()).astype(jnp.bfloat16)
    module = normalization.LayerNorm(dtype="bfloat16")
    got = module.apply(module.init(jax.random.key(0), x), x)
    exact = x.astype(jnp.float32)
    exact -= exact.mean(-1, keepdims=True)
    exact /= jnp.sqrt(jnp.square(exact).mean(-1, keepdims=True) + 1e-5)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(got.astype(jnp.float32), exact, atol=1e-2)


def plain_layer_norm(x, scale, bias):
    wide = x.astype(jnp.float32)
    wide -= wide.mean(-1, keepdims=True)
    wide *= jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + 1e-5)
    return wide * scale + bias


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_layer_norm_gradients_are_those_of_automatic_differentiation(dtype):
    x = activations().astype(dtype)
    scale, bias = activations(1)[0, 0], activations(2)[0, 0]
    weights = activations(3)

    def gradients(function):
        total = lambda *args: jnp.sum(jnp.sin(function(*args)) * weights)  # noqa: E731
        return jax.grad(total, argnums=(0, 1, 2))(x, scale, bias)

    got = gradients(lambda *args: normalization.layer_norm(*args, 1e-5))
    expected = gradients(plain_layer_norm)
    assert [g.dtype for g in got] == [e.dtype for e in expected]
    for one, other in zip(got, expected, strict=True):
        one, other = (np.asarray(a, np.float32) for a in (one, other))
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-4)


def test_layer_norm_keeps_its_input_and_two_numbers_a_row():
    x = activations()
    _, pull = jax.vjp(
        lambda x, *args: normalization.layer_norm(x, *args, 1e-5),
        x,
        *jnp.ones((2, x.shape[-1])),
    )
    kept = [leaf for leaf in jax.tree.leaves(pull) if leaf.ndim == x.ndim]
    assert sorted(leaf.shape[-1] for leaf in kept) == [1, 1, x.shape[-1]]


def test_rezero_starts_as_the_identity_and_can_leave_it():
    x = activations()
    module, variables, got = wrapped("rezero", x)
    np.testing.assert_array_equal(got, x)

    def total(variables):
        return module.apply(variables, x, branch).sum()

    slope = jax.grad(total)(variables)["params"]["gain"]
    np.testing.assert_allclose(slope, branch(x).sum(), rtol=1e-5)


def test_rezero_takes_another_initial_gain():
    x = activations()
    _, _, got = wrapped("rezero", x, initial_gain=1e-3)
    np.testing.assert_allclose(got, x + 1e-3 * branch(x), rtol=1e-6)


@pytest.mark.parametrize(("gain", "expected"), [(None, 8**0.5), (1.0, 1.0)])
def test_scale_norm_branch_reads_vectors_of_one_length(gain, expected):
    x = activations()
    _, _, got = wrapped("scale_norm", x, branch=lambda y: y, initial_gain=gain)
    read = np.linalg.norm(got - x, axis=-1)
    np.testing.assert_allclose(read, np.full(read.shape, expected), rtol=1e-5)


def test_scale_norm_of_zero_is_zero_with_a_finite_gradient():
    x = jnp.zeros((1, 4))
    module, variables, got = wrapped("scale_norm", x, branch=lambda y: y)
    np.testing.assert_array_equal(got, x)
    slope = jax.grad(lambda x: module.apply(variables, x, lambda y: y).sum())(x)
    assert jnp.isfinite(slope).all()


def test_an_unknown_wrapper_names_the_known_ones():
    with pytest.raises(ValueError, match="'batch_norm'; choose one of layer_norm, re"):
        normalization.residual("batch_norm")
