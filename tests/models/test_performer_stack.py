import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.models.performer import (
    AttentionSpec,
    PerformerDecoder,
    PerformerLayer,
)
from tests.variables import random_variables

BATCH, LENGTH = 2, 9
SPECS = {
    "linear": AttentionSpec(num_features=6, chunk_size=4),
    "softmax": AttentionSpec(kind="softmax"),
}
close = functools.partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-5)


@functools.partial(jax.jit, static_argnames=("module", "method"))
def apply(module, variables, *args, **options):
    return module.apply(variables, *args, **options)


def slice_layer(variables, index):
    return {
        name: jax.tree.map(lambda leaf: leaf[index], tree["layers"])
        for name, tree in variables.items()
    }


def layer_norm(x, params):
    x -= x.mean(-1, keepdims=True)
    x /= jnp.sqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-5)
    return x * params["scale"] + params["bias"]


def stack_and_loop(**fields):
    """The scanned stack, the same as a Python loop, and variables for both."""
    fields = dict(attention=SPECS["linear"], **fields)
    stack = PerformerDecoder(8, 2, 12, num_layers=2, cross_attention=None, **fields)
    fields.pop("remat", None)
    layer = PerformerLayer(8, 2, 12, **fields)
    x = jax.random.normal(jax.random.key(2), (BATCH, LENGTH, 8))
    variables = random_variables(stack, x)

    def looped(variables):
        y = x
        for index in range(2):
            y = layer.apply(slice_layer(variables, index), y)
        return layer_norm(y, variables["params"]["final_norm"])

    return lambda variables: stack.apply(variables, x), looped, variables


@pytest.mark.parametrize("normalization", ["layer_norm", "rezero", "scale_norm"])
def test_the_scanned_stack_equals_a_loop_over_layers(normalization):
    scanned, looped, variables = stack_and_loop(normalization=normalization)
    close(jax.jit(scanned)(variables), jax.jit(looped)(variables))


def test_recomputed_gradients_equal_those_of_a_loop_over_layers():
    *functions, variables = stack_and_loop(remat=True)
    first, second = (
        jax.jit(jax.grad(lambda v, f=f: jnp.sum(f(v) ** 2)))(variables)
        for f in functions
    )
    chex.assert_trees_all_close(first, second, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("kind", ["linear", "softmax"])
def test_a_decoder_layer_reads_a_context_in_training_and_in_decoding(kind):
    fields = dict(
        attention=SPECS[kind],
        cross_attention=AttentionSpec(kind=kind, num_features=6),
        max_length=12,
    )
    layer = PerformerLayer(8, 2, 12, **fields)
    x, context = (
        jax.random.normal(jax.random.key(s), (BATCH, n, 8)) for s, n in ((0, 4), (1, 5))
    )
    mask = jnp.arange(5)[None] < jnp.array([[2], [5]])
    places = jnp.arange(4)[None].repeat(BATCH, axis=0)
    variables = random_variables(layer, x, context)
    run = jax.jit(functools.partial(layer.apply, variables))
    full = run(x, context, context_mask=mask)
    first, state = apply(
        layer,
        variables,
        x[:, :3],
        context,
        positions=places[:, :3],
        context_mask=mask,
        method="prefill",
    )
    last, _ = apply(
        layer, variables, x[:, 3:], state, positions=places[:, 3:], method="step"
    )
    close(jnp.concatenate([first, last], axis=1), full)
    hidden = run(x, context.at[0, 2:].add(9.0), context_mask=mask)
    np.testing.assert_array_equal(hidden, full)


@pytest.mark.parametrize("kind", ["linear", "softmax"])
def test_an_encoder_layer_sees_both_directions(kind):
    layer = PerformerLayer(
        8, 2, 12, AttentionSpec(kind=kind, num_features=6), causal=False
    )
    x = jax.random.normal(jax.random.key(0), (1, 4, 8))
    variables = random_variables(layer, x)
    out = apply(layer, variables, x)
    changed = apply(layer, variables, x.at[:, 3].multiply(-1.0))
    assert (changed != out).any(axis=-1).all()


@pytest.mark.parametrize("given", [True, False])
def test_a_context_and_cross_attention_come_together(given):
    cross = None if given else AttentionSpec(kind="linear")
    layer = PerformerLayer(8, 2, 12, cross_attention=cross)
    x = jnp.zeros((1, 2, 8))
    with pytest.raises(ValueError, match="needs a block with cross_attention, and"):
        random_variables(layer, x, x if given else None)


@pytest.mark.parametrize("normalization", ["layer_norm", "rezero"])
def test_a_new_stack_is_the_identity_and_every_part_can_learn(normalization):
    stack = PerformerDecoder(
        8,
        2,
        12,
        num_layers=2,
        attention=SPECS["linear"],
        cross_attention=None,
        normalization=normalization,
    )
    x = jax.random.normal(jax.random.key(2), (BATCH, LENGTH, 8))
    variables = jax.jit(stack.init)(jax.random.key(0), x)
    close(apply(stack, variables, x), layer_norm(x, {"scale": 1.0, "bias": 0.0}))

    def total(variables):
        return jnp.sum(stack.apply(variables, x) ** 3)

    layers = jax.jit(jax.grad(total))(variables)["params"]["layers"]
    last = (
        (layers["attention_norm"]["gain"], layers["mlp_norm"]["gain"])
        if normalization == "rezero"
        else (layers["attention"]["out"]["kernel"], layers["mlp"]["down"]["kernel"])
    )
    for slope in last:
        assert (jnp.abs(slope).reshape(2, -1).max(axis=1) > 0).all()
