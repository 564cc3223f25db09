import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.models.performer import AttentionSpec, PerformerClassifier, PerformerLM
from tests.variables import random_variables

BATCH, LENGTH, VOCAB, CLASSES = 2, 7, 11, 3
SMALL = dict(
    vocab_size=VOCAB,
    num_classes=CLASSES,
    embed_dim=8,
    num_heads=2,
    mlp_dim=12,
    num_layers=2,
    max_length=12,
)
SPECS = {
    "linear": AttentionSpec(kind="linear", num_features=6),
    "softmax": AttentionSpec(kind="softmax"),
}


@functools.cache
def build(kind="linear", **fields):
    model = PerformerClassifier(**{**SMALL, "attention": SPECS[kind], **fields})
    return model, random_variables(model, tokens())


def tokens(seed=1):
    return jax.random.randint(jax.random.key(seed), (BATCH, LENGTH), 0, VOCAB)


@functools.partial(jax.jit, static_argnames=("model", "train"))
def apply(model, variables, *args, **options):
    return model.apply(variables, *args, **options)


@pytest.mark.parametrize("pooling", ["mean", "first"])
@pytest.mark.parametrize("kind", SPECS)
def test_padding_anywhere_changes_no_logit(kind, pooling):
    model, variables = build(kind, pooling=pooling)
    mask = jnp.array([[False, True, True, False, True, True, False], [True] * LENGTH])
    before = apply(model, variables, tokens(), mask=mask)
    assert before.shape == (BATCH, CLASSES) and before.dtype == jnp.float32
    after = apply(model, variables, jnp.where(mask, tokens(), 3), mask=mask)
    np.testing.assert_array_equal(before, after)
    alone = apply(model, variables, tokens()[:1, jnp.array([1, 2, 4, 5])])
    chex.assert_trees_all_close(before[:1], alone, atol=2e-6)


@pytest.mark.parametrize("place", [0, LENGTH - 1])
def test_every_token_counts(place):
    model, variables = build()
    other = tokens().at[:, place].add(1) % VOCAB
    before, after = (apply(model, variables, x) for x in (tokens(), other))
    assert (before != after).all()


def test_the_mean_is_over_the_tokens_that_are_there():
    model, variables = build(pooling="mean")
    doubled = jnp.repeat(tokens()[:, :1], 6, axis=1)
    order_free = model.clone(positions="none")
    mask = jnp.arange(6)[None] < jnp.array([[2], [5]])
    first, second = (
        apply(order_free, variables, doubled, mask=m) for m in (mask, mask[::-1])
    )
    chex.assert_trees_all_close(first, second, atol=2e-6)


def test_an_unknown_pooling_is_refused():
    with pytest.raises(ValueError, match="unknown pooling 'max'; choose one of mean"):
        PerformerClassifier(**SMALL, pooling="max")


def test_a_sequence_longer_than_the_learned_positions_is_refused():
    model, variables = build()
    with pytest.raises(ValueError, match="13 tokens is longer than max_length 12"):
        apply(model, variables, jnp.zeros((1, 13), jnp.int32))


def test_a_bidirectional_language_model_sees_both_ways_and_does_not_generate():
    fields = {name: SMALL[name] for name in SMALL if name != "num_classes"}
    model = PerformerLM(**fields, causal=False, attention=SPECS["linear"])
    variables = random_variables(model, tokens())
    other = tokens().at[:, -1].add(1) % VOCAB
    before, after = (apply(model, variables, x) for x in (tokens(), other))
    assert (before != after).any(axis=-1).all()
    with pytest.raises(ValueError, match="bidirectional model does not generate"):
        model.apply(variables, tokens(), method="prefill")
    with pytest.raises(ValueError, match="prefix_lengths need a causal model"):
        apply(model, variables, tokens(), prefix_lengths=jnp.ones(BATCH, int))
