import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers import feature_maps
from tests.layers.quadratic_attention import apply_features

draw = jax.jit(
    feature_maps.orthogonal_projection,
    static_argnums=(1, 2),
    static_argnames=("ortho_scaling",),
)
SOFTMAX_MAPS = ["favor_plus", "favor_hyperbolic", "trigonometric"]


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_projection_rows_are_orthogonal_in_blocks_and_have_norm_sqrt_of_width():
    rows = draw(jax.random.key(0), 11, 4)
    gram = rows @ rows.T
    np.testing.assert_allclose(jnp.diagonal(gram), 4.0, rtol=1e-5)
    for start in (0, 4, 8):
        block = gram[start : start + 4, start : start + 4]
        np.testing.assert_allclose(block, 4 * np.eye(len(block)), atol=1e-5)
    assert jnp.abs(gram[:4, 4:8]).max() > 0.1


def test_projection_rows_of_gaussian_norm_have_the_mean_square_of_a_gaussian():
    rows = draw(jax.random.key(0), 4000, 4, ortho_scaling=0.0)
    square = jnp.sum(rows**2, axis=-1)
    assert abs(square.mean() - 4) < 0.15 and abs(square.var() - 8) < 1


@pytest.mark.parametrize("shift", [1.0, -1.0])
def test_kernel_estimate_of_shifted_inputs_is_unbiased(shift):
    """Directions from QR whose signs are not corrected miss it by 28 and 9 %."""
    width = 4
    query = 0.2 * normal(0, width) + 0.4
    key = 0.2 * normal(1, width) + 0.4 * shift
    exact = np.exp(query @ key / width**0.5)

    def estimate(rng):
        projection = feature_maps.orthogonal_projection(
            rng, width, width, ortho_scaling=0.0
        )
        features = feature_maps.favor_plus(projection)
        return apply_features(features, query) @ apply_features(features, key)

    rngs = jax.random.split(jax.random.key(2), 20_000)
    draws = jax.jit(jax.vmap(estimate))(rngs) / exact
    error = draws.std() / len(draws) ** 0.5
    assert error < 0.01
    assert abs(draws.mean() - 1) < 4 * error


@pytest.mark.parametrize("name", SOFTMAX_MAPS)
def test_softmax_features_converge_to_the_softmax_kernel(name):
    width = 8
    query, key = 0.5 * normal(0, 2, 16, width)
    exact = np.exp(query @ key.T / width**0.5)
    errors = []
    for rows in (64, 2048):
        projection = draw(jax.random.key(1), rows, width, ortho_scaling=0.0)
        features = feature_maps.feature_map(name)(projection)
        estimate = apply_features(features, query) @ apply_features(features, key).T
        errors.append(jnp.abs(estimate / exact - 1).mean())
    assert errors[1] < 0.4 * errors[0] and errors[1] < 0.04


@pytest.mark.parametrize(
    "name", sorted(set(feature_maps.FEATURE_MAPS) - {"exponential"})
)
def test_every_map_gives_the_features_asked_for_positive_but_trigonometric(name):
    rows = feature_maps.projection_rows(name, 6)
    projection = draw(jax.random.key(0), rows, 4)
    values, _ = feature_maps.feature_map(name)(projection)(normal(1, 5, 4))
    assert values.shape == (5, 6)
    assert bool(jnp.all(values > 0)) == (name != "trigonometric")


def test_features_of_huge_vectors_stay_finite():
    projection = draw(jax.random.key(0), 8, 4)
    for name in ("favor_plus", "favor_hyperbolic"):
        values, log_scale = feature_maps.feature_map(name)(projection)(
            1e6 * normal(1, 5, 4)
        )
        assert jnp.all(jnp.isfinite(values)) and jnp.all(jnp.isfinite(log_scale))
        assert values.max() <= 1


def test_maps_without_a_projection_are_the_published_functions():
    x = normal(0, 5, 4)
    values, log_scale = feature_maps.elu_plus_one()(x)
    np.testing.assert_allclose(values, jnp.where(x > 0, x + 1, jnp.exp(x)), rtol=1e-6)
    assert log_scale is None
    values, _ = feature_maps.relu(epsilon=0.5)(x)
    expected = jnp.maximum(x / 4**0.25, 0) + 0.5
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    found = apply_features(feature_maps.exponential(), x)
    np.testing.assert_allclose(found, jnp.exp(x), rtol=1e-6)


def test_an_epsilon_is_no_option_of_the_map_that_serves_queries_and_keys():
    with pytest.raises(TypeError, match="epsilon"):
        feature_maps.favor_plus(jnp.ones((3, 4)), epsilon=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: feature_maps.feature_map("favour_plus"), "did you mean 'favor_plus'"),
        (lambda: feature_maps.feature_map("?"), "Known: favor_plus, favor_hyperbolic"),
        (lambda: feature_maps.favor_plus(None), "needs a projection"),
        (
            lambda: feature_maps.favor_plus_queries(None, epsilon=1e-4),
            "favor_plus_queries needs a projection",
        ),
        (lambda: feature_maps.projection_rows("trigonometric", 7), "7 is odd"),
        (lambda: feature_maps.projection_rows("exponential", 7), "7 must be None"),
        (lambda: feature_maps.exponential(jnp.ones((3, 4))), "takes no projection"),
        (
            lambda: feature_maps.orthogonal_projection(jax.random.key(0), 0, 4),
            "0 x 4 is empty",
        ),
        (
            lambda: feature_maps.orthogonal_projection(
                jax.random.key(0), 4, 4, ortho_scaling=0.5
            ),
            "ortho_scaling is 0.5",
        ),
        (
            lambda: feature_maps.favor_plus(jnp.ones((3, 5)))(jnp.ones(4)),
            r"\(3, 5\) does not fit vectors of width 4",
        ),
    ],
)
def test_what_a_user_can_get_wrong_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
