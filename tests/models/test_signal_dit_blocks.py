import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.feed_forward import Mlp
from jaxmodels.layers.linformer import LinformerAttention
from jaxmodels.models import signal_dit_blocks as blocks
from jaxmodels.models.signal_dit import DecoderBlock, EncoderBlock
from tests.variables import random_variables

BATCH, LENGTH, WIDTH = 2, 5, 8
SIZES = dict(embed_dim=WIDTH, num_heads=2, mlp_dim=12)
FULL = blocks.SelfAttention("full", LENGTH, 3, "headwise")
LINFORMER = blocks.SelfAttention("linformer", LENGTH, 3, "headwise")
close = functools.partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-5)


def draw(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def normalized(x):
    x = x - x.mean(axis=-1, keepdims=True)
    return x / jnp.sqrt(jnp.square(x).mean(axis=-1, keepdims=True) + 1e-6)


def part(module, variables, name):
    """A sub-module of a block as a function."""
    return functools.partial(module.apply, {"params": variables["params"][name]})


def softmax_attention():
    return Attention(WIDTH, 2, out_bias=True)


def test_patches_are_component_major_and_come_back():
    waveform = jnp.arange(12).reshape(1, 6, 2)
    patches = blocks.to_patches(waveform, 3)
    np.testing.assert_array_equal(
        patches[0], [[0, 2, 4, 1, 3, 5], [6, 8, 10, 7, 9, 11]]
    )
    np.testing.assert_array_equal(blocks.from_patches(patches, 2), waveform)


@pytest.mark.parametrize("film", ["single", "adaln", "adaln6"])
def test_a_decoder_block_equals_the_textbook_form_of_its_modulation(film):
    block = DecoderBlock(**SIZES, attention=FULL, film=film)
    x, context = draw(BATCH, LENGTH, WIDTH), draw(BATCH, 3, WIDTH, seed=1)
    numbers = 6 if film == "adaln6" else 9
    condition = draw(BATCH, WIDTH * (9 if film == "single" else 1), seed=2)

    def run(block, x, condition, context):
        return block(x, condition, block.remember(context))

    variables = random_variables(block, x, condition, context, method=run)
    params = variables["params"]
    if film == "single":
        films = condition.reshape(BATCH, 9, WIDTH) + params["table"]
    else:
        films = condition @ params["modulation"]["kernel"]
        films = (films + params["modulation"]["bias"]).reshape(BATCH, numbers, WIDTH)
    films = films[:, :, None]
    attend = part(softmax_attention(), variables, "attention")
    cross = part(softmax_attention(), variables, "cross_attention")
    mlp = part(Mlp(12, "gelu_tanh"), variables, "mlp")
    y = x
    y += films[:, 2] * attend(normalized(y) * (1 + films[:, 0]) + films[:, 1])
    if film == "adaln6":
        y += cross(normalized(y), context)
    else:
        z = normalized(y) * (1 + films[:, 3]) + films[:, 4]
        y += films[:, 5] * cross(z, context)
    y += films[:, -1] * mlp(normalized(y) * (1 + films[:, -3]) + films[:, -2])
    apply = jax.jit(functools.partial(block.apply, method=run))
    close(apply(variables, x, condition, context), y)


def test_a_block_without_a_context_has_two_modulated_parts():
    block = DecoderBlock(**SIZES, attention=LINFORMER, cross_attention=False)
    x, condition = draw(BATCH, LENGTH, WIDTH), draw(BATCH, 6 * WIDTH, seed=2)
    variables = random_variables(block, x, condition)
    assert set(variables["params"]) == {"attention", "mlp", "table"}
    films = (
        condition.reshape(BATCH, 6, 1, WIDTH) + variables["params"]["table"][:, None]
    )
    attend = LinformerAttention(WIDTH, 2, LENGTH, 3, out_bias=True)
    attend = part(attend, variables, "attention")
    mlp = part(Mlp(12, "gelu_tanh"), variables, "mlp")
    y = x + films[:, 2] * attend(normalized(x) * (1 + films[:, 0]) + films[:, 1])
    y += films[:, 5] * mlp(normalized(y) * (1 + films[:, 3]) + films[:, 4])
    close(block.apply(variables, x, condition), y)


def test_an_encoder_block_normalizes_before_each_part():
    block, x = EncoderBlock(**SIZES, attention=FULL), draw(BATCH, LENGTH, WIDTH)
    variables = random_variables(block, x)

    def norm(x, name):
        own = variables["params"][name]
        return normalized(x) * own["scale"] + own["bias"]

    attend = part(softmax_attention(), variables, "attention")
    y = x + attend(norm(x, "attention_norm"))
    y += part(Mlp(12, "gelu_tanh"), variables, "mlp")(norm(y, "mlp_norm"))
    close(block.apply(variables, x), y)


@pytest.mark.parametrize("film", ["single", "adaln", "adaln6"])
def test_a_new_decoder_block_adds_nothing(film):
    block = DecoderBlock(**SIZES, attention=FULL, film=film)
    x = draw(BATCH, LENGTH, WIDTH)
    # What all blocks share starts as zero; so does what they own.
    shared = film == "single"
    condition = jnp.zeros((BATCH, 9 * WIDTH)) if shared else draw(BATCH, WIDTH)

    def run(block, x, condition):
        return block(x, condition, block.remember(x))

    found, _ = jax.jit(functools.partial(block.init_with_output, method=run))(
        jax.random.key(0), x, condition
    )
    np.testing.assert_array_equal(found, x)


def test_adaptive_normalization_has_the_gradients_of_its_formula():
    arrays = draw(BATCH, LENGTH, WIDTH), draw(BATCH, WIDTH), draw(BATCH, WIDTH, seed=3)

    def plain(x, scale, shift):
        return normalized(x) * (1 + scale[:, None]) + shift[:, None]

    def slopes(function):
        total = jax.grad(lambda *a: jnp.sum(function(*a) ** 3), (0, 1, 2))
        return jax.jit(total)(*arrays)

    chex.assert_trees_all_close(
        slopes(blocks.adaptive_layer_norm), slopes(plain), rtol=1e-4, atol=1e-4
    )
