import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.models.conv_down_encoder import ConvDownEncoderContrastive
from jaxmodels.models.masked_reconstruction import (
    BidirAutoregEncoder,
    MaskedReconstructor,
)
from jaxmodels.models.mlstm_backbones import SequentialMLSTM
from jaxmodels.models.phase_picker import (
    PhasePicker,
    UpsampledConv,
    at_frames,
    held,
    interpolation_taps,
)
from jaxmodels.train import sharding
from tests.models.waveform_parts import Smear
from tests.variables import random_variables

CONV = ConvDownEncoderContrastive(6, conv_channels=(4, 5))
VALID = CONV.clone(padding="valid")
TOKENS = BidirAutoregEncoder(6, mask_token="learned")
HEAD = dict(head_channels=(4, 6), dropout=0.0)


def waveform(samples, seed=0):
    return jax.random.normal(jax.random.key(seed), (2, samples, 3))


def picker(encoder=TOKENS, **fields):
    return PhasePicker(encoder, Smear(6), **HEAD | fields)


@functools.cache
def built(model):
    return random_variables(model, waveform(16))


@functools.partial(jax.jit, static_argnames="module")
def apply(module, variables, *args, **options):
    return module.apply(variables, *args, **options)


@pytest.mark.parametrize("first, kernel_size", [(0.0, 3), (3.0, 3), (1.5, 5), (3.0, 1)])
@pytest.mark.parametrize("samples", [13, 16])
def test_the_first_convolution_equals_one_over_interpolated_frames(
    first, kernel_size, samples
):
    conv = UpsampledConv(4, kernel_size, 4, first)
    frames = jax.random.normal(jax.random.key(1), (2, 4, 5))
    x = waveform(samples)
    variables = random_variables(conv, frames, x)
    kernel, bias = (variables["params"][name] for name in ("kernel", "bias"))
    # Level beyond both ends, as np.interp leaves it; the waveform is 0 there.
    half = kernel_size // 2
    places = np.arange(-half, samples + half)
    level = functools.partial(np.interp, places, first + 4 * np.arange(4))
    smooth = np.apply_along_axis(level, 1, frames)
    both = np.concatenate([smooth, np.pad(x, ((0, 0), (half, half), (0, 0)))], axis=-1)
    expected = sum(
        both[:, tap : tap + samples] @ kernel[tap] for tap in range(kernel_size)
    )
    found = apply(conv, variables, frames, x)
    chex.assert_trees_all_close(found, expected + bias, rtol=1e-4, atol=1e-4)


def test_weights_of_interpolation_add_up_to_one_and_keep_a_straight_line():
    for first in (0.0, 1.5, 3.0):
        taps, start = interpolation_taps(3, 4, first)
        np.testing.assert_allclose(taps.sum(axis=-1), 1.0)
        # At sample 8 + phase + tap - 1, of frames at first, first + 4, ...
        centers = first + 4 * (2 + start + np.arange(taps.shape[-1]))
        expected = 8 + np.arange(4)[:, None] + np.arange(3) - 1
        np.testing.assert_allclose(taps @ centers, expected)


@pytest.mark.parametrize("encoder", [CONV, VALID, TOKENS], ids=["same", "valid", "tok"])
def test_an_impulse_changes_the_frame_at_its_place_most(encoder):
    samples = 64
    variables = random_variables(encoder, waveform(samples))
    quiet = jnp.zeros((1, samples, 3))
    features = jax.jit(lambda x: encoder.apply(variables, x).features)
    base = features(quiet)
    for frame in (4, 9):
        place = int(encoder.first_center) + encoder.stride * frame
        moved = features(quiet.at[:, place].set(1e-3)) - base
        seen = np.abs(moved).sum(axis=(0, 2))
        moved = np.flatnonzero(seen > 1e-9)
        assert moved.mean() == frame and seen.shape == (encoder.num_frames(samples),)


@pytest.mark.parametrize("encoder", [CONV, VALID, TOKENS], ids=["same", "valid", "tok"])
def test_every_sample_has_logits_whatever_the_length(encoder):
    model = picker(encoder)
    variables = built(model)
    for samples in (7, 9, 16):
        run = functools.partial(model.apply, variables)
        found = jax.eval_shape(run, waveform(samples))
        assert found.shape == (2, samples, 3) and found.dtype == jnp.float32


def test_padding_and_what_is_in_it_change_no_valid_logit():
    model = picker()
    variables, x = built(model), waveform(12)
    plain = apply(model, variables, x)
    for total, value in ((16, jnp.nan), (23, 5.0)):
        padded = jnp.pad(x, ((0, 0), (0, total - 12), (0, 0)), constant_values=value)
        mask = jnp.broadcast_to(jnp.arange(total) < 12, (2, total))
        found = apply(model, variables, padded, mask=mask)[:, :12]
        chex.assert_trees_all_close(found, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_what_a_mask_leaves_out_changes_nothing_and_what_it_keeps_does(norm):
    model = picker(norm=norm)
    variables, x = built(model), waveform(16)
    mask = jnp.ones((2, 16), bool).at[:, 5:11].set(False)
    full = apply(model, variables, x, mask=mask)
    changed = apply(model, variables, x.at[:, 5:11].add(3.0), mask=mask)
    np.testing.assert_array_equal(changed, full)
    changed = apply(model, variables, x.at[:, 11].add(3.0), mask=mask)
    assert (changed != full)[mask].all()
    alone = jnp.zeros((2, 16), bool)
    assert jnp.isfinite(apply(model, variables, x, mask=alone)).all()


def test_frames_left_out_take_the_place_of_the_last_one_before():
    frames = jnp.arange(5.0)[None, :, None]
    mask = jnp.array([[False, True, False, False, True]])
    np.testing.assert_array_equal(held(frames, mask)[0, :, 0], [1, 1, 1, 1, 4])
    np.testing.assert_array_equal(held(frames, mask & False)[0, :, 0], 0)
    samples = jnp.arange(16)[None] < 9
    np.testing.assert_array_equal(at_frames(samples, 4, TOKENS)[0], [1, 1, 1, 0])
    np.testing.assert_array_equal(at_frames(samples, 3, VALID)[0], [1, 1, 0])


def test_hidden_frames_and_columns_change_the_logits():
    model = picker()
    variables, x = built(model), waveform(16)
    plain = apply(model, variables, x)
    hidden = jnp.zeros((2, 4), bool).at[0, 1].set(True)
    found = apply(model, variables, x, span_mask=hidden)
    assert (found[0] != plain[0]).any()
    np.testing.assert_array_equal(found[1], plain[1])
    columns = jnp.zeros((2, 6), bool).at[1, 2].set(True)
    found = apply(model, variables, x, channel_mask=columns)
    np.testing.assert_array_equal(found[0], plain[0])
    assert (found[1] != plain[1]).any()


def test_encoder_and_backbone_have_the_weights_of_the_pretrainer_by_path():
    backbone = SequentialMLSTM(8, 1, "none", num_heads=2)
    encoder = BidirAutoregEncoder(8)
    pretrainer = MaskedReconstructor(encoder, backbone)
    model = PhasePicker(encoder, backbone)

    def paths(model, *args):
        shapes = jax.eval_shape(model.init, jax.random.key(0), *args)["params"]
        return {
            sharding.path_name(path): leaf.shape
            for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
        }

    found, given = paths(model, waveform(16)), paths(pretrainer, waveform(16), None)
    shared = {
        name: shape
        for name, shape in given.items()
        if name.startswith(("encoder/", "backbone/"))
    }
    assert shared.items() <= found.items()
    assert {name.split("/")[0] for name in found.keys() - shared} == {"head"}
    assert {name.split("/")[0] for name in given.keys() - shared} == {"decoder"}


def test_a_head_is_block_norm_gelu_twice_and_a_projection():
    model = picker()
    variables, x = built(model), waveform(16)
    params = variables["params"]["head"]

    def gelu_of_norm(x, params, num_groups):
        y = nn.GroupNorm(num_groups, epsilon=1e-5).apply({"params": params}, x)
        return jax.nn.gelu(y, approximate=False)

    def head(model, x):
        hidden = model.encoder(x).hidden
        return model.backbone(hidden)

    @jax.jit
    def by_hand(x):
        frames = model.apply(variables, x, method=head)
        conv = UpsampledConv(4, 3, 4, 0.0)
        y = conv.apply({"params": params["block_0"]["conv"]}, frames, x)
        y = gelu_of_norm(y, params["block_0"]["norm"], 4)
        y = nn.Conv(6, (3,)).apply({"params": params["block_1"]["conv"]}, y)
        y = gelu_of_norm(y, params["block_1"]["norm"], 2)
        return y @ params["classes"]["kernel"] + params["classes"]["bias"]

    chex.assert_trees_all_close(
        apply(model, variables, x), by_hand(x), rtol=1e-4, atol=1e-4
    )


def test_dropout_is_drawn_in_training_alone():
    model = picker(dropout=0.5)
    variables, x = built(model), waveform(16)
    rngs = {"dropout": jax.random.key(0)}
    drawn = model.apply(variables, x, train=True, rngs=rngs)
    plain = apply(model, variables, x)
    np.testing.assert_array_equal(apply(picker(), variables, x), plain)
    assert (drawn != plain).any()


def test_sixteen_bits_stay_near_thirty_two():
    model = picker()
    variables, x = built(model), waveform(16)
    full = apply(model, variables, x)
    found = apply(model.clone(dtype="bfloat16"), variables, x)
    assert found.dtype == jnp.float32
    assert float(jnp.std(found - full) / jnp.std(full)) < 0.1


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(norm="batch"), "unknown norm 'batch'; choose one of group, layer"),
        (dict(head_kernel_size=4), "kernel_size 4 has no middle; try 5"),
        (dict(head_channels=()), r"head_channels \(\) and num_classes 3"),
        (dict(num_classes=0), "num_classes 0 must be at least 1"),
    ],
)
def test_fields_that_no_picker_can_have_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        picker(**fields)


def test_arrays_of_another_shape_are_refused():
    model = picker()
    run = functools.partial(model.apply, built(model))
    with pytest.raises(ValueError, match=r"waveform has shape \[2, 16\], .* 3\]"):
        run(waveform(16)[..., 0])
    with pytest.raises(ValueError, match=r"mask has shape \[2, 15\], .* \[2, 16\]"):
        run(waveform(16), mask=jnp.ones((2, 15), bool))
    with pytest.raises(ValueError, match=r"span_mask has shape \[2, 16\]"):
        run(waveform(16), span_mask=jnp.ones((2, 16), bool))
