import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers.time_embedding import (
    ScalarEmbedding,
    TimeEmbedding,
    scalar_features,
)
from tests.variables import random_variables


def test_a_time_goes_through_sinusoids_and_two_layers():
    module, time = TimeEmbedding(6), jnp.array([0.0, 0.25, 1.0])
    variables = random_variables(module, time)
    params = jax.tree.map(np.asarray, variables["params"])
    frequencies = 1e4 ** (-np.arange(128) / 128)
    angle = 1000.0 * np.array([0.0, 0.25, 1.0])[:, None] * frequencies
    x = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
    x = x @ params["hidden"]["kernel"] + params["hidden"]["bias"]
    x = x / (1.0 + np.exp(-x)) @ params["out"]["kernel"] + params["out"]["bias"]
    found = module.apply(variables, time)
    np.testing.assert_allclose(found, x, rtol=1e-3, atol=1e-3)
    double = TimeEmbedding(6, scale=2000.0).apply(variables, time / 2)
    np.testing.assert_allclose(found, double, rtol=1e-5)


def test_scalars_add_up_and_an_unknown_one_has_a_vector_of_its_own():
    module = ScalarEmbedding(4, 2)
    known = jnp.array([[-2.5, 1.0], [0.0, 3.0]])
    variables = random_variables(module, known)
    params = variables["params"]
    features = scalar_features(known)
    vectors = [features[:, k] @ params["kernel"][k] for k in range(2)]
    np.testing.assert_allclose(
        module.apply(variables, known), vectors[0] + vectors[1], rtol=1e-4, atol=1e-5
    )
    unknown = known.at[1, 0].set(jnp.nan)
    np.testing.assert_allclose(
        module.apply(variables, unknown)[1],
        params["null"][0] + vectors[1][1],
        rtol=1e-4,
        atol=1e-5,
    )


def test_an_unknown_scalar_leaves_every_gradient_finite():
    module, scalars = ScalarEmbedding(4, 2), jnp.array([[jnp.nan, 1.0]])
    variables = random_variables(module, scalars)
    slopes = jax.grad(lambda v: jnp.square(module.apply(v, scalars)).sum())(variables)
    kernel, null = (slopes["params"][name] for name in ("kernel", "null"))
    assert jnp.isfinite(kernel).all() and jnp.isfinite(null).all()
    assert not kernel[0].any() and kernel[1].any()
    assert null[0].any() and not null[1].any()


@pytest.mark.parametrize("x, other", [(-6.0, 1.0), (0.0, 0.05), (2.0, 18.0)])
def test_features_tell_numbers_apart_over_the_range_of_logarithms(x, other):
    features = scalar_features(jnp.array([x, other]))
    assert features.shape == (2, 32)
    assert float(jnp.abs(features[0] - features[1]).max()) > 0.2
