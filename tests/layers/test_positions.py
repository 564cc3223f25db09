import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers import positions


def test_sinusoidal_positions_are_sines_then_cosines_of_geometric_frequencies():
    got = positions.sinusoidal_positions(jnp.array([[0, 3]]), 6)
    for place, row in zip((0, 3), got[0], strict=True):
        for i in range(3):
            angle = place / 10_000 ** (2 * i / 6)
            np.testing.assert_allclose(row[i], math.sin(angle), atol=1e-6)
            np.testing.assert_allclose(row[3 + i], math.cos(angle), atol=1e-6)


def test_rotary_turns_each_pair_by_its_own_angle():
    x = jax.random.normal(jax.random.key(0), (1, 2, 1, 4))
    got = positions.rotary(x, jnp.array([[0, 5]]))
    np.testing.assert_array_equal(got[:, 0], x[:, 0])
    for pair, frequency in enumerate((1.0, 0.01)):
        turn = complex(math.cos(5 * frequency), math.sin(5 * frequency))
        even, odd = x[0, 1, 0, 2 * pair], x[0, 1, 0, 2 * pair + 1]
        expected = complex(even, odd) * turn
        np.testing.assert_allclose(
            got[0, 1, 0, 2 * pair : 2 * pair + 2],
            [expected.real, expected.imag],
            atol=1e-6,
        )


def test_rotary_products_depend_on_the_distance_alone():
    query, key = jax.random.normal(jax.random.key(0), (2, 1, 1, 2, 8))

    def product(query_place, key_place):
        turned = (
            positions.rotary(x, jnp.array([[place]]))
            for x, place in ((query, query_place), (key, key_place))
        )
        return jnp.sum(jnp.prod(jnp.stack(list(turned)), axis=0), axis=-1)

    np.testing.assert_allclose(product(9, 4), product(105, 100), atol=1e-4)
    assert jnp.abs(product(9, 4) - product(9, 5)).max() > 1e-3


def test_positions_restart_in_every_segment():
    ids = jnp.array([[1, 1, 1, 2, 2, 5], [0, 0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(
        positions.segment_positions(ids), [[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 4, 5]]
    )


def test_a_position_past_the_table_is_nan_and_not_another_positions_vector():
    module = positions.LearnedPositions(max_length=3, embed_dim=2)
    places = jnp.array([[2, 3]])
    out, variables = module.init_with_output(jax.random.key(0), places)
    np.testing.assert_array_equal(out[0, 0], variables["params"]["embedding"][2])
    assert jnp.isnan(out[0, 1]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("learnt", 4, 2), "unknown positions 'learnt'; choose one of learned"),
        (("sinusoidal", 5, 5), "embed_dim is 5.* make it even"),
        (("rotary", 6, 3), "head width head_dim is 3.* make it even"),
    ],
)
def test_schemes_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        positions.check_positions(*arguments)


def test_an_odd_width_cannot_be_turned():
    with pytest.raises(ValueError, match="width 5 is odd"):
        positions.sinusoidal_positions(jnp.zeros((1, 2), jnp.int32), 5)
