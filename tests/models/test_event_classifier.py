import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.models.event_classifier import EventClassifier
from jaxmodels.models.masked_reconstruction import BidirAutoregEncoder
from jaxmodels.models.waveform_conv import ConvBlock
from tests.models.waveform_parts import Smear
from tests.variables import random_variables

MODEL = EventClassifier(
    BidirAutoregEncoder(6), Smear(6), 4, head_channels=(4, 6), dropout=0.0
)


def waveform(samples, seed=0):
    return jax.random.normal(jax.random.key(seed), (2, samples, 3))


@functools.cache
def built():
    return random_variables(MODEL, waveform(16))


@jax.jit
def apply(variables, *args, **options):
    return MODEL.apply(variables, *args, **options)


def test_logits_are_two_pairs_of_halving_convolutions_then_the_mean_projected():
    variables, x = built(), waveform(70)  # 18 frames, 9, 5, 3, 2
    params = variables["params"]

    def frames(model, x):
        return model.backbone(model.encoder(x).hidden)

    @jax.jit
    def by_hand(x):
        y = MODEL.apply(variables, x, method=frames)
        for i, width in enumerate((4, 4, 6, 6)):
            block = ConvBlock(width, strides=2)
            y, mask = block.apply({"params": params[f"blocks_{i}"]}, y)
            assert mask is None
        assert y.shape == (2, 2, 6)
        classes = params["classes"]
        return y.mean(axis=1) @ classes["kernel"] + classes["bias"]

    expected = by_hand(x)
    found = apply(variables, x)
    assert found.shape == (2, 4) and found.dtype == jnp.float32
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-5)


def test_padding_and_what_is_in_it_change_no_logit():
    variables, x = built(), waveform(36)
    plain = apply(variables, x)
    padded = jnp.pad(x, ((0, 0), (0, 19), (0, 0)), constant_values=jnp.nan)
    mask = jnp.broadcast_to(jnp.arange(55) < 36, (2, 55))
    found = apply(variables, padded, mask=mask)
    chex.assert_trees_all_close(found, plain, rtol=1e-4, atol=1e-5)
    changed = apply(variables, padded.at[:, 35].add(1.0), mask=mask)
    assert (changed != found).all()
    assert jnp.isfinite(apply(variables, padded, mask=mask & False)).all()


def test_examples_do_not_depend_on_each_other():
    variables, x = built(), waveform(36)
    full = apply(variables, x)
    np.testing.assert_array_equal(apply(variables, x.at[1].add(1.0))[0], full[0])


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(num_classes=1), "num_classes 1 must be at least 2"),
        (dict(head_channels=(4, 0)), r"head_channels \(4, 0\) at least 1 each"),
        (dict(norm="batch"), "unknown norm 'batch'"),
    ],
)
def test_fields_that_no_classifier_can_have_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        MODEL.clone(**fields)


def test_a_waveform_of_another_number_of_components_is_refused():
    with pytest.raises(ValueError, match=r"\[2, 16, 2\], .* \[batch, samples, 3\]"):
        MODEL.init(jax.random.key(0), waveform(16)[..., :2])
