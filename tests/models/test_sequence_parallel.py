"""Whole models with the length cut over devices equal those on one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.losses.classification import token_cross_entropy
from jaxmodels.models.performer import AttentionSpec, PerformerDecoder, PerformerLM
from jaxmodels.train import loop, sharding
from tests.variables import random_variables

BATCH, LENGTH, VOCAB = 2, 16, 12
SIZES = dict(embed_dim=8, num_heads=2, mlp_dim=12, num_layers=2)
LINEAR = AttentionSpec(num_features=6, chunk_size=3)
CROSS = AttentionSpec(kind="linear", num_features=6)
MORE = [
    (1, 1, 1, 2),
    (1, 1, 1, 8),
    (2, 1, 1, 4),
    (2, 1, 2, 2),
    (1, 1, 2, 4),
    (1, 1, 1, 4),
]
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def shapes(few):
    more = [
        pytest.param(shape, marks=pytest.mark.slow)
        for shape in MORE
        if shape not in few
    ]
    return pytest.mark.parametrize("shape", few + more, ids=str)


def run_on(shape, function, *arguments):
    """The result on a mesh, finished before another program may start."""
    mesh = sharding.make_mesh(*shape, devices=jax.devices()[: np.prod(shape)])
    with loop.on_mesh(mesh):
        return jax.device_get(jit(function)(*arguments))


def check(shape, function, *arguments):
    """All that `function` returns is the same on one device, to float32."""
    alone, cut = (run_on(x, function, *arguments) for x in ((1, 1, 1, 1), shape))
    for one, two in zip(*map(jax.tree.leaves, (alone, cut)), strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-5 * np.abs(one).max())


@shapes([(1, 2, 2, 2)])
def test_a_language_model_of_packed_documents_has_the_loss_and_the_gradients(shape):
    tokens = jax.random.randint(jax.random.key(1), (BATCH, LENGTH), 0, VOCAB)
    segments = jnp.repeat(jnp.array([[0, 1, 2], [0, 1, 2]]), jnp.array([3, 8, 5]), 1)
    model = PerformerLM(
        vocab_size=VOCAB,
        max_length=LENGTH,
        attention=LINEAR,
        positions="rotary",
        remat=True,
        **SIZES,
    )

    def run(params, others):
        def loss(params):
            logits = model.apply(
                {**others, "params": params}, tokens, segment_ids=segments
            )
            return token_cross_entropy(logits, tokens).mean(), logits

        return jax.value_and_grad(loss, has_aux=True)(params)

    others = dict(random_variables(model, tokens))
    check(shape, run, others.pop("params"), others)


@shapes([(1, 1, 1, 4)])
def test_a_decoder_that_reads_a_context_has_the_outputs_and_the_gradients(shape):
    x, context = jax.random.normal(jax.random.key(1), (2, BATCH, LENGTH, 8))
    mask = jnp.arange(LENGTH) < jnp.array([[11], [LENGTH]])
    model = PerformerDecoder(attention=LINEAR, cross_attention=CROSS, **SIZES)

    def run(variables, x, context):
        def loss(params, x, context):
            y = model.apply(
                {**variables, "params": params}, x, context, context_mask=mask
            )
            return jnp.sum(jnp.sin(y)), y

        return jax.grad(loss, (0, 1, 2), has_aux=True)(variables["params"], x, context)

    check(shape, run, random_variables(model, x, context), x, context)


def test_prompt_and_steps_on_a_cut_mesh_give_the_logits_of_one_device():
    """A prompt that the axis divides, one that it does not, and single tokens."""
    tokens = jax.random.randint(jax.random.key(1), (BATCH, LENGTH), 0, VOCAB)
    model = PerformerLM(vocab_size=VOCAB, max_length=LENGTH, attention=LINEAR, **SIZES)

    def run(variables):
        apply = functools.partial(model.apply, variables)
        first, state = apply(tokens[:, :8], method="prefill")
        second, state = apply(tokens[:, 8:13], state, method="prefill")
        third, state = apply(state, tokens[:, 13], method="step")
        return first, second, third, state.position

    check((1, 1, 1, 4), run, random_variables(model, tokens))
