import functools
import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers.mlstm_block import MLSTMBlock, ScaleNorm
from jaxmodels.models.mlstm_backbones import (
    MLSTMLayer,
    MLSTMUNet,
    SequentialMLSTM,
)
from tests.variables import random_variables

SMALL = dict(num_heads=2, chunk_size=4)
UNET = MLSTMUNet(4, num_blocks=1, pools=(2,), **SMALL)
BACKBONES = [
    UNET,
    MLSTMUNet(4, num_blocks=1, pools=(3,), expansion=2, bidirectional=False, **SMALL),
    SequentialMLSTM(4, 3, "alternating", **SMALL),
]
NAMES = ["unet", "forward-unet", "alternating"]


def frames(length, seed=0, width=4):
    return jax.random.normal(jax.random.key(seed), (2, length, width))


@functools.cache
def built(backbone):
    return random_variables(backbone, frames(8))


@functools.partial(jax.jit, static_argnames="module")
def apply(module, variables, *args, **options):
    return module.apply(variables, *args, **options)


def count(backbone):
    shapes = jax.eval_shape(
        backbone.init, jax.random.key(0), jnp.zeros((1, 64, backbone.embed_dim))
    )
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
    "fields, both_ways, forward",
    [
        (dict(embed_dim=256), 10_679_968, 5_209_168),
        *(
            pytest.param(*one, marks=pytest.mark.slow)
            for one in (
                (dict(embed_dim=64, expansion=2), 3_537_568, 1_719_632),
                (dict(embed_dim=128, expansion=2), 13_694_112, 6_650_448),
                (dict(embed_dim=256, expansion=2), 53_864_608, 26_145_872),
            )
        ),
    ],
    ids=["base", "small", "wide", "large"],
)
def test_u_nets_have_the_weights_of_those_of_the_source(fields, both_ways, forward):
    assert count(MLSTMUNet(**fields)) == both_ways
    assert count(MLSTMUNet(**fields, bidirectional=False)) == forward


@pytest.mark.parametrize(
    "num_blocks, fused, alternating",
    [(6, 5_776_992, 2_494_512), (12, 11_553_984, 4_989_024)],
)
def test_sequences_have_the_weights_of_those_of_the_source(
    num_blocks, fused, alternating
):
    assert count(SequentialMLSTM(256, num_blocks)) == fused
    assert count(SequentialMLSTM(256, num_blocks, "alternating")) == alternating
    assert count(SequentialMLSTM(256, num_blocks, "none")) == alternating


def layer_by_hand(params, x, both_ways):
    """A layer of a stage as its own calls of block and norm."""

    def branch(params, x):
        y = MLSTMBlock(**SMALL).apply({"params": params["block"]}, x)
        return ScaleNorm().apply({"params": params["norm"]}, y)

    if not both_ways:
        return branch(params["forward"], x)
    one, other = (
        jax.tree.map(lambda leaf, i=i: leaf[i], params["directions"]) for i in range(2)
    )
    both = jnp.concatenate([branch(one, x), branch(other, x[:, ::-1])[:, ::-1]], -1)
    return both @ params["fuse"]["kernel"] + params["fuse"]["bias"]


@functools.partial(jax.jit, static_argnames="bidirectional")
def stage_by_hand(params, x, bidirectional):
    layers = params["layers"]
    for i in range(jax.tree.leaves(layers)[0].shape[0]):
        one = jax.tree.map(lambda leaf, i=i: leaf[i], layers)
        if bidirectional == "alternating" and i % 2:
            x = layer_by_hand(one, x[:, ::-1], False)[:, ::-1]
        else:
            x = layer_by_hand(one, x, bidirectional == "fused")
    return x


@pytest.mark.parametrize("bidirectional", ["fused", "alternating"])
def test_a_scanned_stage_equals_a_loop_over_its_blocks(bidirectional):
    backbone = SequentialMLSTM(4, 2, bidirectional, **SMALL)
    variables, x = random_variables(backbone, frames(8)), frames(8)
    expected = stage_by_hand(variables["params"]["stage"], x, bidirectional)
    found = apply(backbone, variables, x)
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_u_net_equals_stages_pools_and_skips_written_out():
    variables, x = built(UNET), frames(8)
    params = variables["params"]

    def dense(name, x):
        return x @ params[name]["kernel"] + params[name]["bias"]

    def stage(name, x):
        return stage_by_hand(params[name], x, "fused")

    full = stage("down_stage_0", x)
    half = stage("middle_stage", dense("down_pool_0", full.reshape(2, 4, 8)))
    full = stage("up_stage_0", dense("up_pool_0", half).reshape(2, 8, 4) + full)
    expected = nn.LayerNorm(epsilon=1e-5).apply({"params": params["final_norm"]}, full)
    chex.assert_trees_all_close(
        apply(UNET, variables, x), expected, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("backbone", BACKBONES, ids=NAMES)
def test_padded_frames_change_no_valid_output(backbone):
    variables, x = built(backbone), frames(5)
    plain = apply(backbone, variables, x)
    assert plain.shape == x.shape
    rest = frames(4, seed=3).at[:, 0].set(jnp.nan)
    padded = jnp.concatenate([x, rest], axis=1)
    mask = jnp.broadcast_to(jnp.arange(9) < 5, (2, 9))
    found = apply(backbone, variables, padded, mask)[:, :5]
    chex.assert_trees_all_close(found, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backbone", BACKBONES, ids=NAMES)
def test_a_masked_frame_changes_no_other_to_the_bit_and_a_kept_one_does(backbone):
    variables, x = built(backbone), frames(9)
    mask = jnp.ones((2, 9), bool).at[:, 3:5].set(False)
    kept = np.flatnonzero(mask[0])
    full = apply(backbone, variables, x, mask)[:, kept]
    changed = apply(backbone, variables, x.at[:, 3:5].add(2.0), mask)[:, kept]
    np.testing.assert_array_equal(changed, full)
    changed = apply(backbone, variables, x.at[:, 5].add(2.0), mask)[:, kept]
    seen = np.flatnonzero((changed != full).any(axis=(0, 2)))
    # Forward alone, frames before 5 stay, but for those of its own pool of three.
    assert seen.min() >= (3 if backbone is BACKBONES[1] else 0) and seen.max() > 4
    assert seen.min() < 5


def test_forward_alone_no_later_frame_changes_an_earlier_one():
    backbone = SequentialMLSTM(4, 1, "none", **SMALL)
    variables, x = random_variables(backbone, frames(8)), frames(8)
    full = apply(backbone, variables, x)
    changed = apply(backbone, variables, x.at[:, 5:].add(1.0))
    np.testing.assert_array_equal(changed[:, :5], full[:, :5])
    assert (changed[:, 5:] != full[:, 5:]).any()


def test_a_layer_with_shared_directions_commutes_with_turning_time_round():
    layer, x = MLSTMLayer(fused=True, num_blocks=1, **SMALL), frames(7)
    params = dict(random_variables(layer, x)["params"])
    params["directions"] = jax.tree.map(
        lambda leaf: jnp.stack([leaf[0], leaf[0]]), params["directions"]
    )
    half = params["fuse"]["kernel"][:4]
    params["fuse"] = params["fuse"] | dict(kernel=jnp.concatenate([half, half]))
    straight = apply(layer, {"params": params}, x)
    turned = apply(layer, {"params": params}, x[:, ::-1])[:, ::-1]
    chex.assert_trees_all_close(turned, straight, rtol=1e-5, atol=1e-5)
    assert (straight[:, ::-1] != straight).any()


def test_a_new_layer_is_the_average_of_both_directions_and_gates_keep_their_start():
    layer = MLSTMLayer(fused=True, num_blocks=4, **SMALL)
    params = jax.jit(layer.init)(jax.random.key(0), frames(5))["params"]
    half = 0.5 * jnp.eye(4)
    kernel = jnp.concatenate([half, half])
    np.testing.assert_array_equal(params["fuse"]["kernel"], kernel)
    assert not params["fuse"]["bias"].any()
    block = params["directions"]["block"]
    biases = block["forget_gate"]["bias"]  # of 2 directions, 2 heads
    np.testing.assert_array_equal(biases, [[3.0, 6.0], [3.0, 6.0]])
    starts = block["input_gate"]["bias"]
    assert len(np.unique(starts)) == 4 and (abs(starts) < 0.5).all()
    assert not block["input_gate"]["kernel"].any()


@pytest.mark.slow
def test_recomputing_layers_changes_no_gradient():
    backbone, x = SequentialMLSTM(4, 2, "none", **SMALL), frames(8)
    variables = random_variables(backbone, x)

    @functools.partial(jax.jit, static_argnames="module")
    def slope(module, variables):
        return jax.grad(lambda v: jnp.square(module.apply(v, x)).sum())(variables)

    chex.assert_trees_all_close(
        slope(backbone.clone(remat=True), variables),
        slope(backbone, variables),
        rtol=1e-4,
        atol=1e-4,
    )


def test_dropout_is_on_in_training_alone():
    backbone = SequentialMLSTM(4, 1, "none", dropout=0.5, **SMALL)
    variables, x = random_variables(backbone, frames(8)), frames(8)

    @jax.jit
    def draw(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return backbone.apply(variables, x, train=True, rngs=rngs)

    plain = apply(backbone, variables, x)
    first, second = draw(0), draw(1)
    assert (first != second).any() and (first != plain).any()
    quiet = backbone.clone(dropout=0.0)
    np.testing.assert_array_equal(apply(quiet, variables, x), plain)


def test_sixteen_bits_stay_near_thirty_two():
    backbone, x = SequentialMLSTM(4, 2, "alternating", **SMALL), frames(8)
    variables = random_variables(backbone, x)
    full = apply(backbone, variables, x)
    found = apply(backbone.clone(dtype="bfloat16"), variables, x)
    assert found.dtype == jnp.bfloat16
    assert float(jnp.std(found - full) / jnp.std(full)) < 0.1


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: SequentialMLSTM(4, 1, "backward"), "unknown bidirectional 'backward'"),
        (lambda: SequentialMLSTM(4, 0), "num_blocks 0 must be at least 1"),
        (lambda: MLSTMUNet(6, num_heads=8), "= 12 is not divisible by num_heads 8"),
        (lambda: MLSTMUNet(4, pools=(4, 0)), r"pools \(4, 0\) and expansion 1"),
    ],
)
def test_fields_that_no_backbone_can_have_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_frames_of_another_width_are_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"\[2, 8, 5\], .* the same embed_dim"):
        UNET.init(jax.random.key(0), frames(8, width=5))
    with pytest.raises(ValueError, match=r"mask has shape \[2, 7\], .* \[2, 8\]"):
        UNET.init(jax.random.key(0), frames(8), jnp.ones((2, 7), bool))
