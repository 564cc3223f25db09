import functools
import itertools

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
from jaxmodels.pipelines.beam import beam_search
from jaxmodels.pipelines.decoding import generate
from jaxmodels.train.errors import ConfigError
from tests.variables import random_variables

VOCAB = 4
END = 2
KINDS = ("linear", "softmax")
# Beams of the other kind are held against the textbook every time.
ONE_KIND = ("linear", pytest.param("softmax", marks=pytest.mark.slow))
ROWS, LENGTH, TOKENS, BEAMS = 8, 5, 6, 3


@functools.cache
def build(kind="linear", seed=0):
    """A model of pairs and its variables; where it ends differs by source and seed."""
    linear = kind == "linear"
    encoder, decoder = (
        AttentionSpec(kind=name if linear else "softmax", num_features=6, chunk_size=4)
        for name in ("linear", "causal_linear")
    )
    sizes = dict(embed_dim=8, num_heads=2, mlp_dim=12, num_layers=2)
    model = PerformerSeq2Seq(
        vocab_size=VOCAB,
        max_length=TOKENS,
        encoder=Stack(**sizes, attention=encoder),
        decoder=Stack(**sizes, attention=decoder, cross_attention=encoder),
        tie_embeddings=False,
        use_bias=True,
    )
    tokens = jnp.zeros((1, 3), jnp.int32)
    variables = random_variables(model, tokens, tokens, seed=seed)
    variables["params"]["head"]["bias"] = jnp.zeros(VOCAB)
    return model, variables


def sources(seed=0):
    """Sources of three lengths, and their mask."""
    rng = np.random.default_rng(seed)
    lengths = 3 + np.arange(ROWS)[:, None] % 3
    return rng.integers(0, VOCAB, (ROWS, LENGTH)), np.arange(LENGTH) < lengths


def search(model, variables, source, mask, **options):
    sizes = {"beam_size": BEAMS, "max_tokens": TOKENS, "num_results": BEAMS}
    options = {"prompt_tokens": np.full((len(source), 1), END), **sizes, **options}
    return beam_search(
        model, variables, source=source, source_mask=mask, end_id=END, **options
    )


@functools.cache
def full_pass(model):
    def run(variables, source, mask, target):
        logits = model.apply(variables, source, target, source_mask=mask)
        return jax.nn.log_softmax(logits)

    return jax.jit(run)


def score(log_prob, length, length_penalty=0.6):
    return log_prob / ((5 + length) / 6) ** length_penalty


def every_sequence(max_tokens):
    """All sequences that end, or that reach the last token without an end."""
    others = [token for token in range(VOCAB) if token != END]
    for length in range(max_tokens):
        for body in itertools.product(others, repeat=length):
            yield (*body, END)
    yield from itertools.product(others, repeat=max_tokens)


def log_probs(model, variables, source, mask, sequences):
    """The log-probability of each sequence, by one full pass over all of them."""
    lengths = np.array([len(one) for one in sequences])
    targets = np.full((len(sequences), TOKENS), END)
    for row, one in enumerate(sequences):
        targets[row, : len(one)] = one
    inputs = np.pad(targets[:, :-1], ((0, 0), (1, 0)), constant_values=END)
    source, mask = (
        np.broadcast_to(x, (len(sequences), LENGTH)) for x in (source, mask)
    )
    each = np.asarray(full_pass(model)(variables, source, mask, inputs))
    each = np.take_along_axis(each, targets[..., None], axis=-1)[..., 0]
    return np.where(np.arange(TOKENS) < lengths[:, None], each, 0).sum(axis=1), lengths


def check_found(found, row, ranked):
    """Holds a row against [(sequence, score, log-probability)], best first."""
    for place, (sequence, value, log_prob) in enumerate(ranked):
        expected = np.full(found.tokens.shape[-1], END)
        expected[: len(sequence)] = sequence
        np.testing.assert_array_equal(found.tokens[row, place], expected)
        assert found.lengths[row, place] == len(sequence)
        np.testing.assert_allclose(found.scores[row, place], value, rtol=1e-4)
        np.testing.assert_allclose(found.log_probs[row, place], log_prob, rtol=1e-4)


@pytest.mark.parametrize("kind", ONE_KIND)
def test_a_beam_as_wide_as_the_tree_finds_the_best_of_all_sequences(kind):
    model, variables = build(kind)
    source, mask = sources()
    sequences = list(every_sequence(3))
    for length_penalty in (0.0, 0.6, 3.0):
        found = search(
            model,
            variables,
            source,
            mask,
            max_tokens=3,
            beam_size=len(sequences),
            num_results=7,
            length_penalty=length_penalty,
        )
        for row in range(ROWS):
            values, lengths = log_probs(
                model, variables, source[row], mask[row], sequences
            )
            scores = score(values, lengths, length_penalty)
            order = np.argsort(-scores)[:7]
            check_found(
                found, row, [(sequences[i], scores[i], values[i]) for i in order]
            )


def textbook(next_log_probs, length_penalty=0.6):
    """Beam search over lists: the results as `check_found` takes them."""
    beams, kept, greedy = {(): 0.0}, {}, ()
    for _ in range(TOKENS):
        candidates = {
            (*body, token): total + float(next_log_probs(body)[token])
            for body, total in beams.items()
            for token in range(VOCAB)
        }
        if greedy is not None:
            greedy = (*greedy, int(np.argmax(next_log_probs(greedy))))
        ranked = sorted(candidates, key=lambda one: (one != greedy, -candidates[one]))
        kept |= {one: candidates[one] for one in ranked[:BEAMS] if one[-1] == END}
        going = [one for one in ranked if one[-1] != END][:BEAMS]
        beams = {one: candidates[one] for one in going}
        if greedy is not None and greedy[-1] == END:
            greedy = None
        ended = sorted(score(kept[one], len(one), length_penalty) for one in kept)
        bound = score(max(beams.values()), TOKENS, length_penalty)
        enough = len(kept) >= BEAMS
        if enough and (greedy is None or bound <= ended[-BEAMS]):
            beams = {}
            break
    everything = [
        (one, score(value, len(one), length_penalty), value)
        for one, value in (kept | beams).items()
    ]
    return sorted(everything, key=lambda result: -result[1])[:BEAMS]


@pytest.mark.parametrize("kind", KINDS)
def test_a_narrow_beam_follows_the_textbook_on_full_passes(kind):
    model, variables = build(kind)
    source, mask = sources()
    found = search(model, variables, source, mask)
    for row in range(ROWS):

        @functools.cache
        def next_log_probs(body, row=row):
            inputs = np.full((1, TOKENS), END)
            inputs[0, 1 : len(body) + 1] = body
            one = slice(row, row + 1)
            return np.asarray(
                full_pass(model)(variables, source[one], mask[one], inputs)
            )[0, len(body)]

        check_found(found, row, textbook(next_log_probs))
    lengths = np.asarray(found.lengths)
    assert lengths.min() < 3
    assert lengths.max() == TOKENS


@pytest.mark.parametrize("kind", ONE_KIND)
def test_one_beam_is_greedy_decoding_and_more_beams_never_score_lower(kind):
    above = 0
    for seed in range(3):
        model, variables = build(kind, seed)
        source, mask = sources(seed)
        one = search(model, variables, source, mask, beam_size=1, num_results=1)
        greedy = generate(
            model,
            variables,
            np.full((ROWS, 1), END),
            jax.random.key(0),
            max_tokens=TOKENS,
            temperature=0,
            source=source,
            source_mask=mask,
            end_id=END,
        )
        np.testing.assert_array_equal(one.tokens[:, 0], greedy)
        many = search(model, variables, source, mask)
        assert (many.scores[:, 0] >= one.scores[:, 0] - 1e-5).all()
        above += int(np.sum(many.scores[:, 0] > one.scores[:, 0] + 1e-5))
    assert above > 0.2 * 3 * ROWS


@pytest.mark.parametrize("kind", ONE_KIND)
def test_neither_padding_nor_other_rows_change_what_is_found(kind):
    model, variables = build(kind)
    source, mask = sources()
    found = search(model, variables, source, mask)
    other = search(model, variables, np.where(mask, source, VOCAB - 1), mask)
    jax.tree.map(np.testing.assert_array_equal, found, other)
    (rows,) = np.nonzero(mask.sum(axis=1) == 3)
    alone = search(model, variables, source[rows, :3], mask[rows, :3])
    np.testing.assert_array_equal(alone.tokens, found.tokens[rows])
    np.testing.assert_allclose(alone.scores, found.scores[rows], rtol=1e-4)


def test_nothing_follows_the_end_of_a_hypothesis():
    model, variables = build()
    found = search(model, variables, *sources())
    tokens, lengths = np.asarray(found.tokens), np.asarray(found.lengths)
    after = np.arange(TOKENS) >= lengths[..., None] - 1
    ended = np.any(tokens == END, axis=-1)
    assert 0 < ended.sum()
    assert (tokens[after & ended[..., None]] == END).all()
    assert (tokens[~after] != END).all()
    assert (lengths[~ended] == TOKENS).all()


def test_a_larger_length_penalty_prefers_longer_sequences():
    model, variables = build()
    means = [
        float(search(model, variables, *sources(), length_penalty=value).lengths.mean())
        for value in (0.0, 5.0)
    ]
    assert means[1] > means[0] + 0.2


def test_a_language_model_is_searched_without_a_source():
    attention = AttentionSpec(num_features=6, chunk_size=4)
    model = PerformerLM(VOCAB, 8, 2, 12, 2, 12, attention=attention)
    variables = random_variables(model, jnp.zeros((1, 3), jnp.int32))
    prompt = np.array([[1, 3, 3, 0], [END, 0, 3, 1]])
    mask = np.array([[1, 1, 1, 0], [1, 1, 1, 1]], bool)
    found = beam_search(
        model,
        variables,
        prompt,
        prompt_mask=mask,
        max_tokens=2,
        end_id=END,
        beam_size=13,
    )
    sequences = list(every_sequence(2))
    full = jax.jit(lambda tokens: jax.nn.log_softmax(model.apply(variables, tokens)))
    for row, length in enumerate((3, 4)):
        whole = np.zeros((13, 6), int)
        whole[:, :length] = prompt[row, :length]
        for place, one in enumerate(sequences):
            whole[place, length : length + len(one)] = one
        logits = np.asarray(full(whole))
        scores = [
            score(
                sum(logits[i, length - 1 + t, token] for t, token in enumerate(one)),
                len(one),
            )
            for i, one in enumerate(sequences)
        ]
        np.testing.assert_allclose(found.scores[row, 0], max(scores), rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beam_size": 0}, "beam_size 0 must be at least 1"),
        ({"length_penalty": -1.0}, "length_penalty -1.0 must be at least 0"),
        ({"length_penalty": float("inf")}, "length_penalty inf must be .* finite"),
        ({"num_results": 4}, "num_results 4 must be .* at most beam_size 3"),
        ({"num_results": 0}, "num_results 0 must be at least 1"),
        ({"max_tokens": 0}, "max_tokens 0 must be at least 1"),
        ({"max_tokens": 7}, "1 tokens and 7 new ones make 8, .* at most 6 new"),
        ({"end_id": VOCAB}, "end_id 4 is none of the model's 4 ids"),
        ({"prompt_tokens": [[END]]}, "8 sources and 1 prompts are not as many"),
        (
            {"source": np.zeros((8, 7), int), "source_mask": None},
            "a source of 7 tokens is longer than max_length 6",
        ),
        ({"source": None}, "PerformerSeq2Seq has an encoder, and a source is missing"),
        (
            {"source_mask": np.zeros((8, 5), bool)},
            "row 0 of source_mask leaves no token of the source",
        ),
    ],
)
def test_arguments_out_of_range_are_refused_before_anything_runs(change, message):
    model, _ = build()
    source, mask = sources()
    options = dict(
        prompt_tokens=np.full((ROWS, 1), END),
        source=source,
        source_mask=mask,
        beam_size=BEAMS,
        max_tokens=TOKENS,
        end_id=END,
    )
    with pytest.raises(ConfigError, match=message):
        beam_search(model, {}, **{**options, **change})
