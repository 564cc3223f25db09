import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.models.performer import (
    AttentionSpec,
    EncoderDecoderTransformer,
    PerformerDecoder,
    PerformerEncoder,
    PerformerSeq2Seq,
    Stack,
    take_rows,
)
from tests.variables import random_variables

BATCH, SOURCE, TARGET, VOCAB = 2, 7, 5, 11
close = functools.partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-5)


def specs(kind):
    """The attention of encoder, decoder and decoder to encoder."""
    if kind == "softmax":
        return (AttentionSpec(kind="softmax"),) * 3
    linear = AttentionSpec(kind="linear", num_features=6)
    return linear, AttentionSpec(num_features=6, chunk_size=2), linear


@functools.cache
def build(kind="linear", width=12, **fields):
    """A model whose encoder is `width` wide and its decoder 8."""
    encoder, decoder, cross = specs(kind)
    model = PerformerSeq2Seq(
        VOCAB,
        encoder=Stack(width, 2, 16, 3, encoder),
        decoder=Stack(8, 2, 12, 2, decoder, cross, head_dim=6),
        max_length=12,
        source_vocab_size=None if width == 8 else 13,
        **fields,
    )
    return model, random_variables(model, sources(), targets())


def sources(seed=1):
    return jax.random.randint(jax.random.key(seed), (BATCH, SOURCE), 0, VOCAB)


def targets(seed=2):
    return jax.random.randint(jax.random.key(seed), (BATCH, TARGET), 0, VOCAB)


@functools.partial(jax.jit, static_argnames=("model", "method", "train", "last_only"))
def apply(model, variables, *args, **options):
    return model.apply(variables, *args, **options)


@pytest.mark.parametrize("kind", ["linear", "softmax"])
def test_a_logit_reads_the_whole_source_and_no_later_target(kind):
    model, variables = build(kind)
    run = functools.partial(apply, model, variables)
    before = run(sources(), targets())
    assert before.shape == (BATCH, TARGET, VOCAB) and before.dtype == jnp.float32
    later = run(sources(), targets().at[:, 3:].add(1) % VOCAB)
    np.testing.assert_array_equal(before[:, :3], later[:, :3])
    assert (before[:, 3:] != later[:, 3:]).any(axis=-1).all()
    for place in (0, SOURCE - 1):
        other = run(sources().at[:, place].add(1) % VOCAB, targets())
        assert (before != other).any(axis=-1).all()


@pytest.mark.parametrize("kind", ["linear", "softmax"])
def test_padding_of_either_side_changes_no_valid_logit(kind):
    model, variables = build(kind)
    mask = jnp.arange(SOURCE)[None] < jnp.array([[4], [SOURCE]])
    kept = jnp.arange(TARGET)[None] < jnp.array([[3], [TARGET]])
    run = functools.partial(apply, model, variables, source_mask=mask, target_mask=kept)
    before = run(sources(), targets())
    after = run(jnp.where(mask, sources(), 3), jnp.where(kept, targets(), 3))
    np.testing.assert_array_equal(before[kept], after[kept])
    alone = apply(model, variables, sources()[:1, :4], targets()[:1, :3])
    chex.assert_trees_all_close(before[:1, :3], alone, atol=2e-6)


@pytest.mark.parametrize(
    ("kind", "positions"),
    [
        ("linear", "sinusoidal_rotary"),
        ("softmax", "learned"),
        pytest.param("linear", "learned", marks=pytest.mark.slow),
        pytest.param("linear", "none", marks=pytest.mark.slow),
        pytest.param("softmax", "sinusoidal_rotary", marks=pytest.mark.slow),
        pytest.param("softmax", "none", marks=pytest.mark.slow),
    ],
)
def test_encode_prefill_and_steps_equal_the_full_forward(kind, positions):
    model, variables = build(kind, positions=positions, self_mlp=True)
    mask = jnp.arange(SOURCE)[None] < jnp.array([[4], [SOURCE]])
    full = apply(model, variables, sources(), targets(), source_mask=mask)
    run = functools.partial(apply, model, variables)
    context = run(sources(), source_mask=mask, method="encode")
    close(run(targets(), context, context_mask=mask, method="decode"), full)
    logits, state = run(
        targets()[:, :2], context=context, context_mask=mask, method="prefill"
    )
    last, _ = run(
        targets()[:, :2],
        context=context,
        context_mask=mask,
        last_only=True,
        method="prefill",
    )
    close(last, logits[:, -1])
    outputs = [logits]
    for t in range(2, TARGET):
        logits, state = run(state, targets()[:, t], method="step")
        outputs.append(logits[:, None])
    close(jnp.concatenate(outputs, axis=1), full)


@pytest.mark.parametrize("kind", ["linear", "softmax"])
def test_taken_rows_go_on_as_if_they_had_always_been_there(kind):
    model, variables = build(kind)
    run = functools.partial(apply, model, variables)
    rows = jnp.array([1, 0, 1])
    context = run(sources(), method="encode")
    _, state = run(targets()[:, :2], context=context, method="prefill")
    _, wide = run(targets()[rows, :2], context=context[rows], method="prefill")
    token = targets()[rows, 2]
    close(
        run(take_rows(state, rows), token, method="step")[0],
        run(wide, token, method="step")[0],
    )


def test_equal_widths_need_no_bridge_and_may_share_the_embedding():
    _, variables = build(width=8)
    params = variables["params"]
    assert set(params) == {"embed", "transformer"}
    assert set(params["transformer"]) == {"encoder", "decoder"}
    wide = build()[1]["params"]
    assert wide["transformer"]["bridge"]["kernel"].shape == (12, 8)
    assert wide["source_embed"]["embedding"].shape == (13, 12)


def test_the_bare_transformer_takes_vectors_and_counts_its_own_positions():
    encoder, decoder, cross = specs("linear")
    model = EncoderDecoderTransformer(
        PerformerEncoder(12, 2, 16, 1, encoder, rotary=True),
        PerformerDecoder(8, 2, 12, 1, decoder, cross, rotary=True),
    )
    source, target = (
        jax.random.normal(jax.random.key(s), shape)
        for s, shape in ((0, (BATCH, SOURCE, 12)), (1, (BATCH, TARGET, 8)))
    )
    variables = random_variables(model, source, target)
    mask = jnp.arange(SOURCE)[None] >= jnp.array([[3], [0]])
    out = apply(model, variables, source, target, mask)
    assert out.shape == target.shape
    hidden = jnp.where(mask[..., None], source, 5.0)
    np.testing.assert_array_equal(out, apply(model, variables, hidden, target, mask))
    # Padding on the left counts as no position.
    alone = apply(model, variables, source[:1, 3:], target[:1])
    chex.assert_trees_all_close(out[:1], alone, atol=2e-6)


def test_dropout_acts_on_both_sides_in_training_alone():
    model, variables = build(dropout=0.5)

    def train(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return apply(model, variables, sources(), targets(), train=True, rngs=rngs)

    assert (train(0) != train(1)).any()
    assert (train(0) != apply(model, variables, sources(), targets())).any()


def test_the_limits_are_those_of_what_bounds_them():
    assert build()[0].context_limit == build()[0].source_limit == 12
    free = build(positions="rotary")[0]
    assert free.context_limit is None and free.source_limit is None
    assert build("softmax", positions="rotary")[0].context_limit == 12


def test_contradictions_are_refused_at_construction_all_at_once():
    encoder, decoder, cross = specs("linear")
    fields = dict(vocab_size=VOCAB, max_length=12)
    with pytest.raises(ValueError) as caught:
        PerformerSeq2Seq(
            encoder=Stack(12, 5, 16, 1, decoder),
            decoder=Stack(8, 2, 12, 1, decoder),
            **fields,
        )
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert "encoder: attention kind 'causal_linear' in a block that" in lines[0]
    assert "encoder: embed_dim 12 is not divisible by num_heads 5" in lines[1]
    assert "decoder: cross_attention is missing" in lines[2]
    assert "12 and decoder.embed_dim 8 cannot share one embedding" in lines[3]
