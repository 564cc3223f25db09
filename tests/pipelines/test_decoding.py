import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.models.performer import (
    AttentionSpec,
    PerformerLM,
    PerformerSeq2Seq,
    Stack,
)
from jaxmodels.pipelines.decoding import generate, read, sample
from jaxmodels.train.errors import ConfigError
from tests.variables import random_variables

VOCAB = 11
SPECS = {
    "linear": AttentionSpec(num_features=6, chunk_size=4),
    "softmax": AttentionSpec(kind="softmax"),
}


@functools.cache
def build(kind="linear", **fields):
    sizes = dict(embed_dim=8, num_heads=2, mlp_dim=12, num_layers=2, max_length=12)
    fields = {"vocab_size": VOCAB, **sizes, **fields}
    model = PerformerLM(**fields, attention=SPECS[kind])
    sample_tokens = jnp.zeros((1, 3), jnp.int32)
    return model, random_variables(model, sample_tokens)


def prompt():
    return np.array([[3, 1, 4], [1, 5, 9]], np.int32)


@pytest.mark.parametrize("kind", SPECS)
def test_greedy_decoding_equals_the_argmax_of_repeated_full_passes(kind):
    model, variables = build(kind)
    full = jax.jit(model.apply)
    tokens = np.zeros((2, 12), np.int32)
    tokens[:, :3] = prompt()
    for end in range(3, 12):
        tokens[:, end] = full(variables, tokens)[:, end - 1].argmax(axis=-1)
    got = generate(
        model, variables, prompt(), jax.random.key(0), max_tokens=9, temperature=0
    )
    assert got.dtype == jnp.int32
    np.testing.assert_array_equal(got, tokens[:, 3:])


def test_a_cold_or_narrow_distribution_is_greedy():
    model, variables = build()
    run = functools.partial(
        generate, model, variables, prompt(), jax.random.key(3), max_tokens=9
    )
    greedy = run(temperature=0)
    np.testing.assert_array_equal(run(temperature=1e-30), greedy)
    np.testing.assert_array_equal(run(top_k=1, top_p=1e-6), greedy)
    assert (run(temperature=5.0) != greedy).any()


def test_samples_follow_their_key():
    model, variables = build()

    def draw(seed):
        return generate(model, variables, prompt(), jax.random.key(seed), max_tokens=9)

    np.testing.assert_array_equal(draw(0), draw(0))
    assert (draw(0) != draw(1)).any()


PROBABILITIES = np.array([0.1, 0.4, 0.2, 0.25, 0.05])


def draws(**limits):
    rngs = jax.random.split(jax.random.key(0), 2000)
    logits = jnp.log(PROBABILITIES)[None] + 3.0
    limits = {name: jnp.asarray(value) for name, value in limits.items()}
    temperature = limits.pop("temperature", 1.0)
    one = functools.partial(sample, temperature=temperature, **limits)
    return np.asarray(jax.vmap(lambda rng: one(logits, rng)[0])(rngs))


@pytest.mark.parametrize(
    ("limits", "support"),
    [
        ({}, {0, 1, 2, 3, 4}),
        ({"top_k": 1}, {1}),
        ({"top_k": 3}, {1, 3, 2}),
        ({"top_k": 99}, {0, 1, 2, 3, 4}),
        ({"top_p": 0.39}, {1}),
        ({"top_p": 0.41}, {1, 3}),
        ({"top_p": 0.8}, {1, 3, 2}),
        ({"top_p": 1e-9}, {1}),
        # Of the two most likely, .4 / .65 = .62 belongs to the first.
        ({"top_k": 2, "top_p": 0.6}, {1}),
        ({"top_k": 2, "top_p": 0.63}, {1, 3}),
    ],
)
def test_top_k_and_top_p_leave_their_support_and_its_proportions(limits, support):
    drawn = draws(**limits)
    assert set(drawn) == support
    kept = np.where(np.isin(np.arange(5), list(support)), PROBABILITIES, 0)
    frequency = np.bincount(drawn, minlength=5) / drawn.size
    np.testing.assert_allclose(frequency, kept / kept.sum(), atol=0.04)


def test_temperature_sharpens_the_distribution():
    frequency = np.bincount(draws(temperature=0.5), minlength=5) / 2000
    np.testing.assert_allclose(
        frequency, PROBABILITIES**2 / (PROBABILITIES**2).sum(), atol=0.04
    )


def test_of_equal_tokens_top_k_keeps_exactly_k():
    rngs = jax.random.split(jax.random.key(0), 200)
    drawn = jax.vmap(lambda rng: sample(jnp.zeros((1, 5)), rng, 1.0, 2)[0])(rngs)
    assert set(np.asarray(drawn)) == {0, 1}


def test_a_row_stays_at_its_end_and_leaves_the_others_alone():
    model, variables = build()
    run = functools.partial(
        generate,
        model,
        variables,
        prompt(),
        jax.random.key(0),
        max_tokens=9,
        temperature=3.0,
    )
    free = np.asarray(run())
    # An id that the first row draws, and the second does not or draws later.
    end = int(free[0, 2])
    stopped = np.asarray(run(end_id=end))
    for before, after in zip(free, stopped, strict=True):
        first = list(before).index(end) if end in before else 9
        np.testing.assert_array_equal(after[:first], before[:first])
        assert (after[first:] == end).all()


def test_a_padded_prompt_continues_as_the_prompt_alone():
    model, variables = build()
    padded = np.array([[3, 1, 4, 7, 7], [2, 3, 1, 5, 9]], np.int32)
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)
    run = functools.partial(generate, model, variables, max_tokens=7, temperature=0)
    both = run(padded, jax.random.key(0), prompt_mask=mask)
    alone = run(padded[:1, :3], jax.random.key(0))
    np.testing.assert_array_equal(both[:1], alone)


def test_reading_a_prompt_makes_the_logits_of_one_token_a_row():
    model, variables = build()
    mask = np.ones((2, 3), bool)
    program = str(
        jax.make_jaxpr(read, static_argnums=0)(model, variables, prompt(), mask)
    )
    assert f"f32[2,1,{VOCAB}]" in program
    assert f"f32[2,3,{VOCAB}]" not in program


@pytest.mark.parametrize("kind", SPECS)
def test_a_prefix_is_seen_by_all_that_is_generated_from(kind):
    model, variables = build(kind)
    full, prefix = jax.jit(model.apply), np.array([3, 2])
    tokens = np.zeros((2, 12), np.int32)
    tokens[:, :3] = prompt()
    for end in range(3, 12):
        logits = full(variables, tokens, prefix_lengths=prefix)
        tokens[:, end] = logits[:, end - 1].argmax(axis=-1)
    run = functools.partial(
        generate,
        model,
        variables,
        prompt(),
        jax.random.key(0),
        max_tokens=9,
        temperature=0,
    )
    got = run(prefix_lengths=prefix)
    np.testing.assert_array_equal(got, tokens[:, 3:])
    assert (got != run()).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"max_tokens": 10},
            "3 tokens and 10 new ones make 13, .* max_length 12; .* 9",
        ),
        ({"max_tokens": 0}, "max_tokens 0 must be at least 1"),
        ({"temperature": -1.0}, "temperature -1.0 must be at least 0"),
        ({"temperature": float("nan")}, "temperature nan must be at least 0"),
        ({"top_k": 0}, "top_k 0 must be at least 1"),
        ({"top_p": 0.0}, "top_p 0.0 must be above 0"),
        ({"top_p": 1.5}, "top_p 1.5 must be above 0 and at most 1"),
        ({"prefix_lengths": [4, 1]}, r"\[4, 1\] are not 2 integers from 0 to 3"),
        ({"prefix_lengths": [1]}, r"prefix_lengths \[1\] are not 2 integers"),
        ({"source": prompt()}, "PerformerLM has no encoder, and a source is given"),
        ({"prompt_tokens": np.zeros((1, 0), int)}, "at least one row and one token"),
        (
            {"prompt_mask": np.ones((2, 2), bool)},
            r"prompt_mask of shape \(2, 2\) is no",
        ),
        (
            {"prompt_mask": np.array([[True] * 3, [False] * 3])},
            "row 1 of prompt_mask leaves no token",
        ),
    ],
)
def test_arguments_out_of_range_are_refused_before_anything_runs(change, message):
    model, _ = build()
    arguments = {"prompt_tokens": prompt(), "max_tokens": 5, **change}
    with pytest.raises(ConfigError, match=message):
        generate(model, {}, rng=jax.random.key(0), **arguments)


def test_a_model_without_a_bound_decodes_past_max_length():
    model, variables = build(positions="rotary")
    got = generate(model, variables, prompt(), jax.random.key(0), max_tokens=20)
    assert got.shape == (2, 20)


@functools.cache
def build_pairs(kind="linear"):
    """A model of pairs, which reads at most 6 target tokens, and its variables."""
    encoder, decoder = (
        SPECS[kind] if kind == "softmax" else AttentionSpec(name, num_features=6)
        for name in ("linear", "causal_linear")
    )
    sizes = dict(embed_dim=8, num_heads=2, mlp_dim=12, num_layers=2)
    model = PerformerSeq2Seq(
        vocab_size=VOCAB,
        encoder=Stack(**sizes, attention=encoder),
        decoder=Stack(**sizes, attention=decoder, cross_attention=encoder),
        max_length=6,
    )
    tokens = jnp.zeros((1, 3), jnp.int32)
    return model, random_variables(model, tokens, tokens)


@pytest.mark.parametrize("kind", SPECS)
def test_a_target_equals_the_argmax_of_repeated_full_passes(kind):
    model, variables = build_pairs(kind)
    source = np.array([[3, 1, 4, 1, 5], [9, 2, 6, 0, 0]])
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], bool)
    full = jax.jit(functools.partial(model.apply, source_mask=mask))
    target = np.zeros((2, 7), np.int32)
    for end in range(6):
        logits = full(variables, source, target[:, :6])
        target[:, end + 1] = logits[:, end].argmax(axis=-1)
    run = functools.partial(
        generate,
        model,
        variables,
        np.zeros((2, 1), int),
        jax.random.key(0),
        temperature=0,
        max_tokens=6,
        source_mask=mask,
    )
    np.testing.assert_array_equal(run(source=source), target[:, 1:])
    # What padding holds is not read.
    other = np.where(mask, source, 7)
    np.testing.assert_array_equal(run(source=other), target[:, 1:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": None}, "PerformerSeq2Seq has an encoder, and a source is missing"),
        ({"source": np.zeros((2, 7), int)}, "source of 7 tokens is longer than .* 6"),
        ({"source": np.zeros((3, 2), int)}, "3 sources and 2 prompts are not as many"),
        ({"source_mask": np.zeros((2, 3), bool)}, "row 0 of source_mask leaves no"),
        ({"prefix_lengths": [1, 1]}, "PerformerSeq2Seq has an encoder; .* its source"),
        ({"max_tokens": 7}, "1 tokens and 7 new ones make 8, .* at most 6 new tokens"),
    ],
)
def test_a_source_out_of_range_is_refused(change, message):
    model, _ = build_pairs()
    arguments = {"source": prompt(), "max_tokens": 5, **change}
    with pytest.raises(ConfigError, match=message):
        generate(model, {}, prompt()[:, :1], jax.random.key(0), **arguments)
