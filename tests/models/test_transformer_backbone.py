import functools
import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.models.transformer_backbone import ConvPositions, TransformerBackbone
from tests.variables import random_variables

SIZES = dict(embed_dim=8, num_layers=2, num_heads=2, mlp_dim=12)
SIZES |= dict(position_kernel_size=4, position_groups=2)
FIRST = dict(normalize_first=True)
X = jax.random.normal(jax.random.key(0), (2, 7, 8))
MASK = jnp.arange(7)[None] < jnp.array([[7], [5]])


@functools.cache
def built(**fields):
    backbone = TransformerBackbone(**SIZES | fields)
    return backbone, random_variables(backbone, X)


@functools.partial(jax.jit, static_argnames=("module", "train"))
def apply(module, variables, *args, **options):
    return module.apply(variables, *args, **options)


@pytest.mark.parametrize(
    "fields, total",
    [
        (dict(embed_dim=240, num_layers=6, num_heads=12), 11_359_568),
        (dict(embed_dim=768, num_layers=12, num_heads=12), 90_683_648),
    ],
    ids=["base", "large"],
)
def test_with_the_rest_of_the_pretrainer_the_weights_are_those_of_seislm(fields, total):
    backbone = TransformerBackbone(**fields, mlp_dim=3072)
    width = backbone.embed_dim
    shapes = jax.eval_shape(backbone.init, jax.random.key(0), jnp.zeros((1, 8, width)))
    own = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    features = 200_448 + 512  # convolutions with norms, and the norm after them
    projection = 256 * width + width + width  # and the mask embedding
    heads = width * 256 + 256 + 256 * 256 + 256
    assert own + features + projection + 246_400 + heads == total


@pytest.mark.parametrize("kernel_size", [4, 3])
def test_positions_are_a_grouped_convolution_of_normalized_kernels(kernel_size):
    module = ConvPositions(kernel_size, 2)
    params = random_variables(module, X)["params"]
    kernel = np.asarray(params["kernel"])
    norm = np.sqrt(np.square(kernel).sum(axis=(1, 2), keepdims=True))
    kernel = kernel / norm * np.asarray(params["gain"])[:, None, None]
    before = kernel_size // 2
    padded = np.pad(X, ((0, 0), (before, kernel_size), (0, 0)))
    parts = [
        sum(
            padded[:, tap : tap + 7, 4 * group : 4 * group + 4]
            @ kernel[tap, :, 4 * group : 4 * group + 4]
            for tap in range(kernel_size)
        )
        for group in range(2)
    ]
    y = np.concatenate(parts, axis=-1) + params["bias"]
    expected = X + jax.nn.gelu(y, approximate=False)
    found = module.apply({"params": params}, X)
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-5)


def test_new_kernels_of_positions_have_the_gain_of_their_norm():
    params = ConvPositions(4, 2).init(jax.random.key(0), X)["params"]
    norm = jnp.sqrt(jnp.square(params["kernel"]).sum(axis=(1, 2)))
    np.testing.assert_allclose(params["gain"], norm, rtol=1e-6)


@pytest.mark.parametrize("fields", [{}, FIRST], ids=["after", "before"])
def test_frames_left_out_change_no_other_to_the_bit_nor_does_their_number(fields):
    backbone, variables = built(**fields)
    full = apply(backbone, variables, X, MASK)
    changed = apply(backbone, variables, X.at[1, 5:].set(jnp.nan), MASK)
    np.testing.assert_array_equal(changed[MASK], full[MASK])
    alone = apply(backbone, variables, X[1:, :5])
    chex.assert_trees_all_close(full[1:, :5], alone, rtol=1e-4, atol=1e-5)
    moved = apply(backbone, variables, X.at[1, 4].add(2.0), MASK)
    assert (moved != full)[1, :5].any(axis=-1).all()
    np.testing.assert_array_equal(moved[0], full[0])


def test_the_norms_stand_after_the_residuals_or_before_the_branches():
    for fields, last in (({}, False), (FIRST, True)):
        backbone, variables = built(**fields)
        params = variables["params"]
        out = apply(backbone, variables, X)
        name = "norm" if last else "mlp_norm"
        scale = params["norm"] if last else params["layers"]["mlp_norm"]
        scale = scale if last else jax.tree.map(lambda leaf: leaf[-1], scale)
        # The last operation is a normalization: undone, rows have mean 0 and spread 1.
        rows = (out - scale["bias"]) / scale["scale"]
        np.testing.assert_allclose(rows.mean(axis=-1), 0.0, atol=1e-4, err_msg=name)
        np.testing.assert_allclose(rows.std(axis=-1), 1.0, atol=1e-3, err_msg=name)


def test_dropout_is_drawn_in_training_alone():
    backbone, variables = built(dropout=0.5)
    rngs = {"dropout": jax.random.key(0)}
    drawn = apply(backbone, variables, X, train=True, rngs=rngs)
    plain = apply(backbone, variables, X)
    assert (drawn != plain).any()
    np.testing.assert_array_equal(apply(built()[0], variables, X), plain)


def test_sixteen_bits_stay_near_thirty_two():
    backbone, variables = built()
    full = apply(backbone, variables, X)
    found = apply(backbone.clone(dtype="bfloat16"), variables, X)
    assert found.dtype == jnp.bfloat16
    assert float(jnp.std(found - full) / jnp.std(full)) < 0.1


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(num_layers=0), "num_layers 0 must be at least 1"),
        (dict(num_heads=3), "embed_dim 8 is not divisible by num_heads 3"),
        (dict(position_groups=3), "position_groups 3 divide embed_dim 8"),
    ],
)
def test_fields_that_no_backbone_can_have_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        TransformerBackbone(**SIZES | fields)


def test_frames_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"\[2, 7, 6\], .* the same embed_dim"):
        nn.unbox(built()[0].init(jax.random.key(0), X[..., :6]))
