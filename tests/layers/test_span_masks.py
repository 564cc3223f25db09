import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxmodels.layers.span_masks import (
    RULES,
    expected_coverage,
    mask_spans,
    wav2vec2_spans,
)

PRETRAINING = dict(rule="wav2vec2", mask_prob=0.65, mask_length=10)
RECONSTRUCTION = dict(rule="exact", mask_prob=0.75, mask_length=10)


@functools.cache
def compiled(batch_size, length, **options):
    """The rule under jit, compiled once."""

    def draw(rng, lengths):
        return mask_spans(rng, batch_size, length, lengths=lengths, **options)

    return jax.jit(draw)


def spans(seed, batch_size, length, *, lengths=None, **options):
    draw = compiled(batch_size, length, **options)
    return np.asarray(draw(jax.random.key(seed), lengths))


def run_lengths(row):
    """Lengths of the runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], row, [0]])))
    return edges[1::2] - edges[::2]


def test_the_rule_of_wav2vec2_hides_half_of_what_its_probability_says():
    # The number of spans is one of two, the same in all rows: several draws.
    found = np.mean([spans(seed, 64, 1024, **PRETRAINING).mean() for seed in range(6)])
    assert found == pytest.approx(0.490, abs=0.01)
    assert found == pytest.approx(expected_coverage(1024, **PRETRAINING), abs=0.005)


def test_numpy_and_jit_hide_as_much():
    state = np.random.RandomState(0)
    masks = [wav2vec2_spans(state, (64, 200), 0.5, 8) for _ in range(12)]
    expected = expected_coverage(200, rule="wav2vec2", mask_prob=0.5, mask_length=8)
    assert np.mean(masks) == pytest.approx(expected, abs=0.01)


def test_every_start_is_as_likely():
    options = dict(rule="wav2vec2", mask_prob=0.25, mask_length=5)
    mask = spans(0, 4000, 20, **options)
    assert (mask.sum(axis=1) == 5).all()
    counts = np.bincount(mask.argmax(axis=1), minlength=16)
    assert counts.size == 16
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_hidden_frames_come_in_spans():
    for rule in ("wav2vec2", "exact"):
        mask = spans(1, 8, 40, rule=rule, mask_prob=0.5, mask_length=4)
        # On the ring, where a span may start at one end and stop at the other.
        for row in mask:
            turned = np.roll(row, -row.argmin())
            assert run_lengths(turned).min() >= 4


def test_the_exact_rule_always_hides_as_many_frames_and_each_as_often():
    mask = spans(0, 4096, 1024, **RECONSTRUCTION)
    assert (mask.sum(axis=1) == 770).all()
    np.testing.assert_allclose(mask.mean(axis=0), 770 / 1024, atol=0.03)
    assert expected_coverage(1024, **RECONSTRUCTION) == 770 / 1024


def test_the_literal_rule_leaves_hardly_a_frame():
    options = RECONSTRUCTION | dict(rule="seed_literal")
    mask = spans(0, 64, 1024, **options)
    assert mask.mean() > 0.995
    assert mask.mean() == pytest.approx(expected_coverage(1024, **options), abs=1e-3)


@pytest.mark.parametrize("rule", ["wav2vec2", "seed_literal"])
def test_the_expected_coverage_is_that_of_all_choices_of_starts(rule):
    length, span = 8, 2
    places = length - span + (rule == "wav2vec2")
    count = 2 if rule == "wav2vec2" else 3
    hidden = [
        np.unique([start + i for start in starts for i in range(span)]).size
        for starts in itertools.combinations(range(places), count)
    ]
    found = expected_coverage(length, rule=rule, mask_prob=0.5, mask_length=span)
    assert found == pytest.approx(np.mean(hidden) / length)


@pytest.mark.parametrize("rule", RULES)
def test_nothing_beyond_a_row_is_hidden_and_short_rows_have_no_span(rule):
    lengths = jnp.array([20, 13, 6, 3, 0])
    options = dict(rule=rule, mask_prob=0.8, mask_length=4, lengths=lengths)
    for seed in range(5):
        mask = spans(seed, 5, 20, **options)
        assert not mask[np.arange(20) >= np.asarray(lengths)[:, None]].any()
        assert not mask[3:].any()
        assert mask[:3].any(axis=1).all()
        if rule == "exact":
            assert mask.sum(axis=1).tolist() == [16, 12, 4, 0, 0]


def test_a_row_has_the_least_number_of_spans_as_far_as_they_fit():
    options = dict(rule="wav2vec2", mask_prob=0.0, mask_length=3)
    assert not spans(0, 4, 30, **options).any()
    assert (spans(0, 4, 30, min_masks=1, **options).sum(axis=1) == 3).all()
    # Five spans do not fit into seven frames without overlap: two do.
    assert (spans(0, 4, 7, min_masks=5, **options).sum(axis=1) <= 6).all()


def test_a_span_may_be_the_whole_row():
    for rule in ("wav2vec2", "exact"):
        assert spans(0, 2, 6, rule=rule, mask_prob=1.0, mask_length=6).all()
    assert not spans(0, 2, 6, rule="seed_literal", mask_prob=1.0, mask_length=6).any()


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(rule="random"), "unknown rule 'random'; choose one of wav2vec2, exact"),
        (dict(mask_prob=1.5), r"mask_prob 1.5 must be in \[0, 1\]"),
        (dict(mask_length=0), "mask_length 0 must be at least 1"),
        (dict(mask_length=21), "mask_length 21 must be .* at most the 20 frames"),
        (dict(min_masks=-1), "min_masks -1 must be at least 0"),
        (dict(rule="exact", min_masks=2), "min_masks 2 is of rule 'wav2vec2'"),
    ],
)
def test_numbers_out_of_range_are_refused(change, message):
    options = PRETRAINING | change
    with pytest.raises(ValueError, match=message):
        mask_spans(jax.random.key(0), 2, 20, **options)
    with pytest.raises(ValueError, match=message):
        expected_coverage(20, **options)
