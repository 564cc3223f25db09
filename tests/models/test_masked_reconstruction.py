import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmodels.layers.span_masks import mask_spans
from jaxmodels.losses import reconstruction
from jaxmodels.models.masked_reconstruction import (
    BidirAutoregEncoder,
    MaskedReconstructor,
)
from jaxmodels.models.mlstm_backbones import SequentialMLSTM
from tests.models.waveform_parts import Smear
from tests.variables import random_variables

WAVEFORM = jax.random.normal(jax.random.key(0), (2, 16, 3))
HIDDEN = jnp.zeros((2, 4), bool).at[0, 1:3].set(True)


def test_tokens_are_two_halving_convolutions_with_relu_and_a_projection():
    encoder = BidirAutoregEncoder(5)
    variables = random_variables(encoder, WAVEFORM)
    params, x = variables["params"], WAVEFORM
    for name in ("conv_0", "conv_1"):
        padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
        length = x.shape[1] // 2
        x = sum(
            padded[:, tap : tap + 2 * length : 2] @ params[name]["kernel"][tap]
            for tap in range(3)
        )
        x = jax.nn.relu(x + params[name]["bias"])
    expected = x @ params["projection"]["kernel"] + params["projection"]["bias"]
    found = encoder.apply(variables, WAVEFORM)
    chex.assert_trees_all_close(found.features, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found.hidden, found.features)


@pytest.mark.parametrize("mask_token", ["zero", "learned"])
def test_hidden_frames_are_replaced_and_the_features_keep_them(mask_token):
    encoder = BidirAutoregEncoder(5, mask_token=mask_token)
    variables = random_variables(encoder, WAVEFORM)
    columns = jnp.zeros((2, 5), bool).at[1, 3].set(True)
    plain = encoder.apply(variables, WAVEFORM)
    found = encoder.apply(variables, WAVEFORM, span_mask=HIDDEN, channel_mask=columns)
    np.testing.assert_array_equal(found.features, plain.features)
    token = variables["params"].get("mask_embedding", jnp.zeros(5))
    assert ("mask_embedding" in variables["params"]) == (mask_token == "learned")
    np.testing.assert_array_equal(found.hidden[0, 1:3], jnp.stack([token, token]))
    np.testing.assert_array_equal(found.hidden[0, ::3], plain.hidden[0, ::3])
    np.testing.assert_array_equal(found.hidden[1, :, 3], 0.0)
    np.testing.assert_array_equal(found.hidden[1, :, :3], plain.hidden[1, :, :3])


def test_a_frame_sees_its_own_samples_and_three_before():
    encoder = BidirAutoregEncoder(16)
    variables = random_variables(encoder, WAVEFORM)
    full = encoder.apply(variables, WAVEFORM).features
    for sample in range(16):
        changed = encoder.apply(variables, WAVEFORM.at[:, sample].add(3.0)).features
        moved = np.flatnonzero((changed != full).any(axis=(0, 2)))
        expected = {sample // 4, min(3, (sample + 3) // 4)}
        assert set(moved) == expected


def test_what_is_hidden_changes_no_prediction_and_what_is_seen_does():
    model = MaskedReconstructor(BidirAutoregEncoder(5), Smear(5))
    variables = random_variables(model, WAVEFORM, HIDDEN)
    plain = model.apply(variables, WAVEFORM, HIDDEN)
    assert plain.predicted.shape == (2, 4, 12) and plain.tokens.shape == (2, 4, 5)
    # Samples 4 to 8 are seen by the hidden frames 1 and 2 alone.
    found = model.apply(variables, WAVEFORM.at[0, 4:9].add(3.0), HIDDEN)
    np.testing.assert_array_equal(found.predicted, plain.predicted)
    assert (found.tokens[0, 1:3] != plain.tokens[0, 1:3]).any()
    found = model.apply(variables, WAVEFORM.at[0, 9].add(3.0), HIDDEN)
    assert (found.predicted[0] != plain.predicted[0]).any()
    np.testing.assert_array_equal(found.predicted[1], plain.predicted[1])


def test_names_are_those_that_a_picker_starts_from():
    model = MaskedReconstructor(BidirAutoregEncoder(5), Smear(5), patch_samples=5)
    shapes = jax.eval_shape(model.init, jax.random.key(0), WAVEFORM, HIDDEN)["params"]
    assert shapes.keys() == {"encoder", "backbone", "decoder"}
    own = {"conv_0", "conv_1", "projection", "mask_embedding"}
    assert shapes["encoder"].keys() == own
    assert shapes["decoder"]["kernel"].shape == (5, 5)


def test_zeros_stay_zeros_in_layers_without_biases_and_are_refused_there():
    layer = SequentialMLSTM(4, 1, "none", num_heads=2)
    x = jax.random.normal(jax.random.key(1), (1, 4, 4)).at[:, 1:3].set(0.0)
    out = jax.jit(layer.apply)(random_variables(layer, x), x)
    assert not out[:, 1:3].any() and out[:, ::3].all()
    encoder = BidirAutoregEncoder(4, mask_token="zero")
    for backbone in (layer, layer.clone(num_blocks=3), layer.clone(bidirectional=True)):
        with pytest.raises(ValueError, match="hidden frames stay zero .* 'learned'"):
            MaskedReconstructor(encoder, backbone)
    MaskedReconstructor(encoder, layer.clone(num_blocks=2, bidirectional="fused"))
    MaskedReconstructor(encoder, Smear(4))


def test_dropout_is_drawn_in_training_alone():
    encoder = BidirAutoregEncoder(5, dropout=0.5)
    variables = random_variables(encoder, WAVEFORM)
    rngs = {"dropout": jax.random.key(0)}
    plain = encoder.apply(variables, WAVEFORM)
    drawn = encoder.apply(variables, WAVEFORM, train=True, rngs=rngs)
    np.testing.assert_array_equal(drawn.features, plain.features)
    assert (drawn.hidden != plain.hidden).any()


@pytest.mark.parametrize(
    "run, message",
    [
        (
            lambda: BidirAutoregEncoder(4, mask_token="mean"),
            "unknown mask_token 'mean'",
        ),
        (lambda: BidirAutoregEncoder(0), "embed_dim 0 must be at least 1"),
        (lambda: encode(WAVEFORM[..., :2]), r"\[2, 16, 2\], .* \[batch, samples, 3\]"),
        (lambda: encode(WAVEFORM, HIDDEN[:, :3]), r"span_mask has shape \[2, 3\]"),
    ],
)
def test_what_no_encoder_can_take_is_refused(run, message):
    with pytest.raises(ValueError, match=message):
        run()


def encode(waveform, span_mask=None):
    encoder = BidirAutoregEncoder(4)
    return encoder.init(jax.random.key(0), waveform, span_mask=span_mask)


def shaking(rng):
    """Normalized windows of decaying oscillations, [8, 256, 3]."""
    phase, rate, decay = jax.random.uniform(rng, (3, 8, 1, 3), minval=0.1)
    time = jnp.arange(256.0)[:, None]
    wave = jnp.sin(6.3 * phase + 0.6 * rate * time) * jnp.exp(-0.01 * decay * time)
    wave += 0.1 * jax.random.normal(rng, wave.shape)
    return wave / wave.std(axis=1, keepdims=True)


@functools.cache
def trained(target, num_steps=400, width=32):
    """Spread of tokens before and after, and loss over the target's variance."""
    backbone = SequentialMLSTM(width, 1, "none", num_heads=2)
    size = 12 if target == "raw" else width
    model = MaskedReconstructor(BidirAutoregEncoder(width), backbone, size)
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, num_steps))

    def loss_of(params, rng):
        wave = shaking(rng)
        hidden = mask_spans(rng, 8, 64, rule="exact", mask_prob=0.75, mask_length=4)
        out = model.apply({"params": params}, wave, hidden)
        aim = reconstruction.reconstruction_target(target, wave, out.tokens)
        total, count = reconstruction.reconstruction_loss(out.predicted, aim, hidden)
        loss = total.sum() / count.sum()
        return loss, (reconstruction.token_spread(out.tokens), loss / aim.var())

    def step(state, rng):
        params, moments = state
        slopes, monitors = jax.grad(loss_of, has_aux=True)(params, rng)
        updates, moments = optimizer.update(slopes, moments)
        return (optax.apply_updates(params, updates), moments), monitors

    @jax.jit
    def train(rng):
        wave = shaking(rng)
        params = model.init(rng, wave, jnp.zeros((8, 64), bool))["params"]
        steps = jax.random.split(rng, num_steps)
        return jax.lax.scan(step, (params, optimizer.init(params)), steps)[1]

    spread, ratio = train(jax.random.key(0))
    return float(spread[0]), float(spread[-1]), float(ratio[-20:].mean())


@pytest.mark.slow
def test_tokens_as_their_own_target_collapse_and_patches_do_not():
    before, after, _ = trained("tokens")
    assert after < before / 50
    for target in ("raw", "tokens_sg"):
        before, after, ratio = trained(target)
        assert before / 2 < after < 2 * before
        assert ratio < 1.0
