import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.models.conv_down_encoder import ConvDownEncoderContrastive
from tests.variables import random_variables

SMALL = dict(embed_dim=5, conv_channels=(4, 6), channels=2)
WAVEFORM = jax.random.normal(jax.random.key(0), (2, 23, 2))


def small(**fields):
    """An encoder and its variables."""
    module = ConvDownEncoderContrastive(**SMALL | fields)
    return module, random_variables(module, WAVEFORM)


def sizes(params):
    return {
        name: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
        for name, tree in params.items()
    }


@pytest.mark.parametrize(
    "padding, samples, frames",
    [("same", 4096, 1024), ("valid", 4096, 1023), ("valid", 3001, 749)],
)
def test_the_published_size_has_its_parameters_and_frames(padding, samples, frames):
    module = ConvDownEncoderContrastive(embed_dim=256, padding=padding)
    waveform = jax.ShapeDtypeStruct((1, samples, 3), jnp.float32)
    found, variables = jax.eval_shape(
        module.init_with_output, jax.random.key(0), waveform
    )
    assert sizes(variables["params"]) == {
        "feature_extractor": 200_448,
        "feature_norm": 512,
        "projection": 65_792,
        "mask_embedding": 256,
    }
    assert found.features.shape == found.hidden.shape == (1, frames, 256)
    assert module.num_frames(samples) == frames


def test_the_first_values_are_those_of_wav2vec2():
    module = ConvDownEncoderContrastive(embed_dim=256)
    params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 8, 3)))["params"]
    kernel = params["feature_extractor"]["conv_1"]["kernel"]
    assert kernel.std() == pytest.approx(math.sqrt(2.0 / (3 * 256)), rel=0.02)
    for tree, inputs in (
        (params["feature_extractor"]["conv_1"]["bias"], 3 * 256),
        (params["projection"]["kernel"], 256),
        (params["projection"]["bias"], 256),
    ):
        assert 0.9 < jnp.abs(tree).max() * math.sqrt(inputs) <= 1.0
    embedding = params["mask_embedding"]
    assert 0.0 <= embedding.min() < 0.05 < 0.95 < embedding.max() < 1.0


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("kernel_size, dilation", [(3, 1), (3, 2), (4, 1), (1, 1)])
def test_the_number_of_frames_is_that_of_the_output(padding, kernel_size, dilation):
    module = ConvDownEncoderContrastive(
        **SMALL, padding=padding, kernel_size=kernel_size, dilation=dilation
    )
    for samples in range(1, 24):
        waveform = jax.ShapeDtypeStruct((1, samples, 2), jnp.float32)
        try:
            frames = module.num_frames(samples)
        except ValueError as error:
            fewest = int(str(error).split()[-1])
            assert samples < fewest and module.num_frames(fewest) == 1
            continue
        found, _ = jax.eval_shape(module.init_with_output, jax.random.key(0), waveform)
        assert found.hidden.shape == (1, frames, 5)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("dilation", [1, 2])
def test_a_frame_sees_the_samples_around_its_center(padding, dilation):
    module, variables = small(padding=padding, dilation=dilation)

    def frame(waveform):
        return module.apply(variables, waveform).hidden[0, 2].sum()

    slope = jax.jit(jax.grad(frame))(WAVEFORM)[0]
    seen = np.flatnonzero(np.abs(slope).max(axis=-1))
    assert seen.mean() == module.first_center + 2 * module.stride
    assert seen.max() - seen.min() == 2 * module.reach == 3 * 2 * dilation


def layer_norm(x, params):
    x = x - x.mean(axis=-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5)
    return x * params["scale"] + params["bias"]


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("dilation", [1, 2])
def test_the_features_equal_the_textbook(padding, dilation):
    module, variables = small(padding=padding, dilation=dilation)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, float), variables["params"])
    x = np.asarray(WAVEFORM, float)
    for i in range(2):
        conv = params["feature_extractor"][f"conv_{i}"]
        if padding == "same":
            x = np.pad(x, ((0, 0), (dilation, dilation), (0, 0)))
        starts = np.arange(0, x.shape[1] - 2 * dilation, 2)
        taps = np.stack([x[:, starts + dilation * tap] for tap in range(3)], axis=2)
        x = np.einsum("btkc,kcf->btf", taps, conv["kernel"]) + conv["bias"]
        x = layer_norm(x, params["feature_extractor"][f"norm_{i}"])
        x = 0.5 * x * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))
    features = layer_norm(x, params["feature_norm"])
    hidden = features @ params["projection"]["kernel"] + params["projection"]["bias"]
    found = jax.jit(module.apply)(variables, WAVEFORM)
    np.testing.assert_allclose(found.features, features, atol=2e-5)
    np.testing.assert_allclose(found.hidden, hidden, atol=2e-5)


def test_hidden_frames_are_the_learned_embedding_and_features_are_not_hidden():
    module, variables = small()
    span_mask = jnp.array([[0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1]], bool)
    shown = module.apply(variables, WAVEFORM)
    found = module.apply(variables, WAVEFORM, span_mask=span_mask)
    np.testing.assert_array_equal(found.features, shown.features)
    embedding = variables["params"]["mask_embedding"]
    expected = jnp.where(span_mask[..., None], embedding, shown.hidden)
    np.testing.assert_array_equal(found.hidden, expected)


def test_masked_channels_are_zero_in_hidden_frames_as_well():
    module, variables = small()
    span_mask = jnp.zeros((2, 6), bool).at[0, 2].set(True)
    channel_mask = jnp.array([[1, 0, 0, 1, 0], [0, 0, 0, 0, 0]], bool)
    options = dict(span_mask=span_mask)
    before = module.apply(variables, WAVEFORM, **options)
    found = module.apply(variables, WAVEFORM, channel_mask=channel_mask, **options)
    expected = jnp.where(channel_mask[:, None], 0.0, before.hidden)
    np.testing.assert_array_equal(found.hidden, expected)
    np.testing.assert_array_equal(found.features, before.features)


@pytest.mark.parametrize("kind", ["identity", "auto"])
def test_equal_widths_may_do_without_a_projection(kind):
    module, variables = small(embed_dim=6, feature_projection=kind)
    assert "projection" not in variables["params"]
    found = module.apply(variables, WAVEFORM)
    np.testing.assert_array_equal(found.hidden, found.features)


def test_other_widths_are_projected():
    _, variables = small(feature_projection="auto")
    assert variables["params"]["projection"]["kernel"].shape == (6, 5)


def test_dropout_leaves_the_features_alone():
    module, variables = small(dropout=0.5)
    still = module.apply(variables, WAVEFORM)
    rngs = {"dropout": jax.random.key(1)}
    found = module.apply(variables, WAVEFORM, train=True, rngs=rngs)
    np.testing.assert_array_equal(found.features, still.features)
    dropped = found.hidden == 0.0
    assert 0.2 < dropped.mean() < 0.8
    expected = jnp.where(dropped, 0.0, 2.0 * still.hidden)
    np.testing.assert_allclose(found.hidden, expected, rtol=1e-6)


def test_bfloat16_stays_near_float32():
    module, variables = small()
    wide = module.apply(variables, WAVEFORM)
    narrow = module.clone(dtype="bfloat16").apply(variables, WAVEFORM)
    assert narrow.hidden.dtype == narrow.features.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        narrow.features.astype(jnp.float32), wide.features, atol=0.15
    )


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(embed_dim=0), "embed_dim 0 must be at least 1"),
        (dict(dilation=0), "dilation 0 must be at least 1"),
        (dict(strides=(2,)), "2 conv_channels and 1 strides; give one stride"),
        (dict(strides=(2, 0)), "strides .2, 0. must be at least 1 each"),
        (dict(conv_channels=(), strides=()), "for at least one convolution"),
        (dict(padding="full"), "unknown padding 'full'; choose one of same, valid"),
        (dict(feature_projection="conv"), "unknown feature_projection 'conv'"),
        (
            dict(feature_projection="identity"),
            "'identity' wants embed_dim 5 to be the last of conv_channels, 6",
        ),
    ],
)
def test_fields_that_contradict_each_other_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        ConvDownEncoderContrastive(**SMALL | fields)


def test_arrays_of_another_shape_are_refused():
    module, variables = small()
    with pytest.raises(ValueError, match=r"waveform has shape \[2, 23, 1\].*, 2\]"):
        module.apply(variables, WAVEFORM[..., :1])
    with pytest.raises(ValueError, match=r"span_mask has shape \[2, 5\].* \[2, 6\]"):
        module.apply(variables, WAVEFORM, span_mask=jnp.zeros((2, 5), bool))
    with pytest.raises(ValueError, match=r"channel_mask has shape \[5\].* \[2, 5\]"):
        module.apply(variables, WAVEFORM, channel_mask=jnp.zeros(5, bool))
    valid, variables = small(padding="valid")
    with pytest.raises(ValueError, match="6 samples make no frame .* at least 7"):
        valid.apply(variables, WAVEFORM[:, :6])
