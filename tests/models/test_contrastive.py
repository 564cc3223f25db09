import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.losses.contrastive import contrastive_loss, sample_negatives
from jaxmodels.models.contrastive import ContrastivePretrainer
from jaxmodels.models.conv_down_encoder import ConvDownEncoderContrastive
from jaxmodels.models.gumbel_quantizer import GumbelVectorQuantizer
from jaxmodels.models.mlstm_backbones import MLSTMUNet
from jaxmodels.models.transformer_backbone import TransformerBackbone
from jaxmodels.train import model_file
from tests.variables import random_variables

WAVEFORM = jax.random.normal(jax.random.key(0), (2, 40, 2))
SPAN_MASK = jnp.zeros((2, 10), bool).at[0, 3:6].set(True).at[1, 5:9].set(True)


class Mixer(nn.Module):
    """A backbone in which every frame sees every other one."""

    embed_dim: int

    @nn.compact
    def __call__(self, x, mask=None, *, train=False):
        x = x + nn.tanh(nn.Dense(self.embed_dim, name="inner")(x))
        return x + x.mean(axis=1, keepdims=True)


def pretrainer(backbone=None, **fields):
    return ContrastivePretrainer(
        encoder=ConvDownEncoderContrastive(6, conv_channels=(4, 4), channels=2),
        backbone=Mixer(6) if backbone is None else backbone,
        quantizer=GumbelVectorQuantizer(2, 5, 4),
        projection_dim=3,
        **fields,
    )


MODEL = pretrainer()
VARIABLES = random_variables(MODEL, WAVEFORM, SPAN_MASK)
APPLY = jax.jit(MODEL.apply)
TRAINING = dict(
    gumbel=jax.random.gumbel(jax.random.key(1), (2, 10, 2, 5)), temperature=1.0
)


def test_the_parts_are_named_by_what_they_are():
    parts = {"encoder", "backbone", "quantizer", "project_hidden", "project_codes"}
    assert VARIABLES["params"].keys() == parts
    assert VARIABLES["params"]["backbone"].keys() == {"inner"}


def test_what_only_hidden_frames_see_changes_no_prediction_but_their_targets():
    # Frame t sees the samples from 4 t - 3 to 4 t + 3: frame 4 alone sees sample 16.
    changed = WAVEFORM.at[0, 16].add(5.0)
    before = APPLY(VARIABLES, WAVEFORM, SPAN_MASK)
    after = APPLY(VARIABLES, changed, SPAN_MASK)
    np.testing.assert_array_equal(after.predicted, before.predicted)
    moved = np.flatnonzero(np.abs(after.target - before.target).max(axis=(0, 2)))
    assert set(moved) <= {4}
    shown = APPLY(VARIABLES, WAVEFORM.at[0, 32].add(5.0), SPAN_MASK)
    assert (shown.predicted[0, 3:6] != before.predicted[0, 3:6]).all()


def test_a_hidden_frame_moves_no_target():
    before = APPLY(VARIABLES, WAVEFORM, SPAN_MASK)
    after = APPLY(VARIABLES, WAVEFORM, ~SPAN_MASK)
    np.testing.assert_array_equal(after.target, before.target)
    np.testing.assert_array_equal(after.codes, before.codes)


def test_gradients_reach_the_encoder_and_the_codebook_through_the_targets():
    negatives = sample_negatives(jax.random.key(2), SPAN_MASK, 4)

    def loss(variables):
        found = MODEL.apply(variables, WAVEFORM, SPAN_MASK, train=True, **TRAINING)
        predicted = jax.lax.stop_gradient(found.predicted)
        return contrastive_loss(
            predicted, found.target, found.codes, negatives, SPAN_MASK
        ).loss.sum()

    gradient = jax.jit(jax.grad(loss))(VARIABLES)["params"]
    reached = {
        name
        for name, tree in gradient.items()
        if any(leaf.any() for leaf in jax.tree.leaves(tree))
    }
    assert reached == {"encoder", "quantizer", "project_codes"}
    assert gradient["quantizer"]["codebook"].any()
    assert gradient["quantizer"]["weight_projection"]["kernel"].any()
    assert gradient["encoder"]["feature_extractor"]["conv_0"]["kernel"].any()


def test_training_draws_codes_and_drops_features_only_for_the_quantizer():
    model = pretrainer(feature_dropout=0.5)
    train = jax.jit(functools.partial(model.apply, train=True))
    rngs = {"dropout": jax.random.key(3)}
    found = train(VARIABLES, WAVEFORM, SPAN_MASK, rngs=rngs, **TRAINING)
    plain = APPLY(VARIABLES, WAVEFORM, SPAN_MASK)
    # Compiled as a whole and one by one: the last bits differ.
    np.testing.assert_allclose(found.predicted, plain.predicted, rtol=1e-5, atol=1e-6)
    assert (found.codes != plain.codes).any()


@pytest.mark.parametrize(
    "backbone",
    [MLSTMUNet(8, 1, (2,), num_heads=2), TransformerBackbone(8, 1, 2, 12, 4, 2)],
    ids=["unet", "transformer"],
)
def test_a_stored_model_is_the_same_model(backbone, tmp_path):
    model = ContrastivePretrainer(
        encoder=ConvDownEncoderContrastive(8, (4, 4), 2, padding="valid"),
        backbone=backbone,
        quantizer=GumbelVectorQuantizer(2, 5, 4, scale_logits=True),
        projection_dim=3,
    )
    model_file.write(tmp_path, {"model": model}, {})
    networks, _ = model_file.read(tmp_path)
    assert networks["model"] == model


def count(model, samples):
    shapes = jax.eval_shape(
        model.init,
        jax.random.key(0),
        jnp.zeros((1, samples, 3)),
        jnp.zeros((1, model.encoder.num_frames(samples)), bool),
    )
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"]))


@pytest.mark.slow
def test_the_base_size_has_as_many_parameters_as_seislm():
    model = ContrastivePretrainer(
        encoder=ConvDownEncoderContrastive(256),
        backbone=MLSTMUNet(256, 2, (4, 4), 1),
        quantizer=GumbelVectorQuantizer(),
    )
    assert count(model, 4096) == pytest.approx(11.3e6, rel=0.01)


def test_with_the_transformer_it_is_seislm_to_the_parameter():
    model = ContrastivePretrainer(
        encoder=ConvDownEncoderContrastive(240, padding="valid"),
        backbone=TransformerBackbone(240, 6, 12, 3072, normalize_first=True),
        quantizer=GumbelVectorQuantizer(scale_logits=True),
    )
    assert count(model, 3001) == 11_359_568


def test_a_projection_without_width_is_refused():
    with pytest.raises(ValueError, match="projection_dim 0 must be at least 1"):
        MODEL.clone(projection_dim=0)
