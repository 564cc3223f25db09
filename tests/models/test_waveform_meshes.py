"""Gradients of waveform models on a mesh that cuts the length, and other axes."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers.constraint import constrain
from jaxmodels.models.conv_down_encoder import ConvDownEncoderContrastive
from jaxmodels.models.event_classifier import EventClassifier
from jaxmodels.models.masked_reconstruction import BidirAutoregEncoder
from jaxmodels.models.phase_picker import PhasePicker
from jaxmodels.models.streaming_picker import StreamingPicker
from jaxmodels.models.transformer_backbone import ConvPositions
from jaxmodels.train import loop, sharding
from tests.variables import random_variables

FRAME_AXES = ("batch", "length", "embed")


class Cut(nn.Module):
    """A backbone whose frames are cut over the axis "seq"."""

    positions: bool = False

    @nn.compact
    def __call__(self, x, mask=None, *, train=False):
        x = constrain(self, x, FRAME_AXES)
        x = ConvPositions(4, 2)(x) if self.positions else jnp.tanh(nn.Dense(8)(x))
        return constrain(self, x, FRAME_AXES)


CONV = ConvDownEncoderContrastive(8, conv_channels=(8, 8))
PICKER = PhasePicker(CONV, Cut(), head_channels=(4,), norm="layer")
MODELS = {
    "picker": PICKER,
    "positions": PICKER.clone(backbone=Cut(positions=True)),
    "event": EventClassifier(
        BidirAutoregEncoder(8), Cut(), 2, head_channels=(4,), norm="layer"
    ),
    "streaming": StreamingPicker(8, 1, num_heads=2, head_channels=4),
}


@pytest.mark.parametrize(
    "name",
    [
        "picker",
        *(pytest.param(x, marks=pytest.mark.slow) for x in MODELS if x != "picker"),
    ],
)
def test_gradients_on_a_mesh_that_cuts_the_length_are_those_of_one_device(name):
    model = MODELS[name]
    waveform = jax.random.normal(jax.random.key(0), (2, 32, 3))
    variables = random_variables(model, waveform)

    def gradients(variables):
        return jax.jit(jax.grad(lambda v: jnp.sin(model.apply(v, waveform)).sum()))(
            variables
        )

    expected = gradients(variables)
    mesh = sharding.make_mesh(data=1, fsdp=1, model=2, seq=2, devices=jax.devices()[:4])
    with loop.on_mesh(mesh):
        found = gradients(variables)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4),
        jax.device_get(found),
        expected,
    )
