import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.models.waveform_conv import ConvBlock, GroupNorm
from tests.variables import random_variables

X = 3.0 + jax.random.normal(jax.random.key(0), (2, 7, 6))


def test_group_normalization_is_that_of_flax_and_of_valid_frames_alone():
    norm = GroupNorm(4)  # gcd(4, 6) = 2 groups
    variables = random_variables(norm, X)
    apply = jax.jit(norm.apply)
    expected = jax.jit(nn.GroupNorm(2, epsilon=1e-5).apply)(variables, X)
    found = apply(variables, X)
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-4)
    mask = jnp.arange(7)[None] < jnp.array([[7], [4]])
    found = apply(variables, X.at[1, 4:].set(jnp.nan), mask)
    chex.assert_trees_all_close(found[0], expected[0], rtol=1e-4, atol=1e-4)
    alone = apply(variables, X[1:, :4])
    chex.assert_trees_all_close(found[1:, :4], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("strides", [1, 2])
def test_a_masked_frame_reads_as_zero_and_halves_with_the_frames(strides):
    block = ConvBlock(6, strides=strides, norm="layer")
    variables = random_variables(block, X)
    mask = jnp.arange(7)[None] < jnp.array([[7], [5]])
    found, out = block.apply(variables, X.at[1, 5:].set(jnp.nan), mask)
    np.testing.assert_array_equal(out, mask[:, ::strides])
    expected, none = block.apply(variables, X.at[1, 5:].set(0.0))
    assert none is None and found.shape[1] == -(-7 // strides)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(kernel_size=2), "kernel_size 2 has no middle; try 3"),
        (dict(norm="instance"), "unknown norm 'instance'; choose one of group, layer"),
    ],
)
def test_fields_that_no_block_can_have_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        ConvBlock(4, **fields)
