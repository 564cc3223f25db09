import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxmodels.losses import contrastive
from jaxmodels.train import metrics

contrastive_loss = jax.jit(contrastive.contrastive_loss, static_argnames="temperature")
code_shares = jax.jit(contrastive.code_shares, static_argnames="over")
code_usage, diversity_loss, perplexity = map(
    jax.jit,
    (contrastive.code_usage, contrastive.diversity_loss, contrastive.perplexity),
)
sample_negatives = jax.jit(contrastive.sample_negatives, static_argnums=2)

MASK = jnp.array(
    [[1, 0, 1, 1, 0, 1, 1, 0], [0, 1, 0, 0, 0, 1, 0, 1], [0, 0, 0, 1, 0, 0, 0, 0]],
    bool,
)


def batch(seed=0, num_codes=3, num_negatives=4):
    """Predictions, targets and codes [3, 8, .], in which many codes are alike."""
    rngs = jax.random.split(jax.random.key(seed), 4)
    predicted = jax.random.normal(rngs[0], (3, 8, 5))
    codes = jax.random.randint(rngs[1], (3, 8, 2), 0, num_codes)
    table = jax.random.normal(rngs[2], (num_codes, num_codes, 5))
    target = table[codes[..., 0], codes[..., 1]]
    return predicted, target, codes, sample_negatives(rngs[3], MASK, num_negatives)


def textbook(predicted, target, codes, negatives, span_mask, temperature):
    """Loss, right frames and negatives of each row, frame by frame."""
    predicted, target = (
        x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (predicted, target)
    )
    rows = []
    for row, mask in enumerate(span_mask):
        loss, correct, counted = 0.0, 0, 0
        for frame in np.flatnonzero(mask):
            own = codes[row, frame].tolist()
            others = [
                predicted[row, frame] @ target[row, other]
                for other in negatives[row, frame]
                if codes[row, other].tolist() != own
            ]
            positive = predicted[row, frame] @ target[row, frame]
            logits = np.array([positive, *others]) / temperature
            loss += np.log(np.exp(logits).sum()) - logits[0]
            correct += bool(others) and positive > max(others)
            counted += len(others)
        rows.append((loss, correct, counted, mask.sum()))
    return np.array(rows).T


def test_negatives_are_other_hidden_frames_of_the_same_row():
    negatives = np.asarray(sample_negatives(jax.random.key(0), MASK, 100))
    assert negatives.shape == (3, 8, 100) and negatives.dtype == np.int32
    for row, mask in enumerate(np.asarray(MASK)[:2]):
        for frame in np.flatnonzero(mask):
            drawn = set(negatives[row, frame])
            assert drawn == set(np.flatnonzero(mask)) - {frame}
    assert (negatives[2, 3] == 3).all()


def test_every_other_hidden_frame_is_as_likely_a_negative():
    mask = jnp.arange(60)[None] % 2 == 0
    negatives = np.asarray(sample_negatives(jax.random.key(0), mask, 2000))
    for frame in (0, 30, 58):
        counts = np.bincount(negatives[0, frame], minlength=60)[::2]
        others = np.delete(counts, frame // 2)
        assert counts[frame // 2] == 0
        assert scipy.stats.chisquare(others).pvalue > 1e-3


@pytest.mark.parametrize("num_codes", [1, 2, 9])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_the_loss_equals_the_textbook_with_codes_that_are_alike(num_codes, temperature):
    arrays = *batch(num_codes=num_codes), MASK
    found = contrastive_loss(*arrays, temperature=temperature)
    expected = textbook(*map(np.asarray, arrays), temperature)
    given = found.loss, found.correct, found.negatives, found.count
    np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-5)


def test_the_loss_of_two_frames_is_that_by_hand():
    # Cosines: 1 with the own target, 0 with the other one.
    vectors = jnp.eye(2)[None]
    codes = jnp.array([[[0], [1]]])
    negatives = jnp.array([[[1, 1, 1], [0, 0, 0]]])
    found = contrastive_loss(
        3.0 * vectors,
        0.5 * vectors,
        codes,
        negatives,
        jnp.ones((1, 2), bool),
        temperature=0.5,
    )
    expected = 2.0 * np.log1p(3.0 * np.exp(-1.0 / 0.5))
    np.testing.assert_allclose(found.loss, expected, rtol=1e-6)
    assert found.correct == 2 and found.negatives == 6 and found.count == 2


def test_codes_are_compared_and_not_vectors():
    predicted, target, codes, negatives = batch(num_codes=1)
    # Vectors that differ in their last bits only, of codes that are the same.
    nudged = target.at[:, ::2].multiply(1.0 + 1e-6)
    found = contrastive_loss(predicted, nudged, codes, negatives, MASK)
    assert not found.loss.any() and not found.negatives.any()


def test_codes_that_have_collapsed_are_no_success():
    found = contrastive_loss(*batch(num_codes=1), MASK)
    assert not found.correct.any() and found.count.tolist() == [5, 3, 1]


def test_frames_that_are_not_hidden_change_nothing():
    predicted, target, codes, negatives = batch()
    sums = contrastive_loss(predicted, target, codes, negatives, MASK)
    shown = ~MASK[..., None]
    noise = 7.0 * jax.random.normal(jax.random.key(9), predicted.shape)
    changed = contrastive_loss(
        jnp.where(shown, noise, predicted),
        jnp.where(shown, noise, target),
        jnp.where(shown, 8, codes),
        jnp.where(shown, 0, negatives),
        MASK,
    )
    for one, other in zip(jax.tree.leaves(sums), jax.tree.leaves(changed), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_gradient_reaches_predictions_and_targets_and_none_is_nan_at_zero():
    predicted, target, codes, negatives = batch(num_codes=9)

    def loss(predicted, target):
        return contrastive_loss(predicted, target, codes, negatives, MASK).loss.sum()

    gradients = jax.jit(jax.grad(loss, (0, 1)))
    for gradient in gradients(predicted, target):
        assert jnp.abs(gradient[0, 0]).max() > 0.0
        assert not gradient[0, 1].any()
    for gradient in gradients(jnp.zeros_like(predicted), target):
        assert jnp.isfinite(gradient).all()


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ValueError, match="temperature 0 must be above 0"):
        contrastive.contrastive_loss(*batch(), MASK, temperature=0)


def test_the_perplexity_is_the_number_of_codes_that_are_used_alike():
    frames = jnp.ones((1, 6), bool)
    every = jnp.eye(6)[None, :, None] * jnp.ones((1, 1, 2, 1))
    assert perplexity(*code_shares(every, frames)) == pytest.approx(12.0, rel=1e-6)
    assert diversity_loss(*code_shares(every, frames)) == pytest.approx(0.0, abs=1e-6)
    assert code_usage(*code_shares(every, frames)) == 1.0
    one = jnp.zeros_like(every).at[..., 2].set(1.0)
    assert perplexity(*code_shares(one, frames)) == 2.0
    assert diversity_loss(*code_shares(one, frames)) == pytest.approx(1.0 - 2.0 / 12.0)
    assert code_usage(*code_shares(one, frames)) == pytest.approx(1.0 / 6.0)
    entropy = scipy.stats.entropy([0.25, 0.75, 0.0])
    shares = jnp.array([[1.0, 3.0, 0.0]])
    assert perplexity(shares, 4.0) == pytest.approx(np.exp(entropy), rel=1e-6)


def test_codes_without_a_share_have_a_finite_gradient():
    gradient = jax.grad(lambda total: perplexity(total, 2.0))(jnp.array([[2.0, 0.0]]))
    assert jnp.isfinite(gradient).all()


def test_shares_are_of_hidden_frames_or_of_all_and_leave_out_rows_without_weight():
    shares = jax.nn.softmax(jax.random.normal(jax.random.key(0), (3, 8, 2, 4)))
    total, count = code_shares(shares, MASK)
    np.testing.assert_allclose(total, shares[np.asarray(MASK)].sum(axis=0), rtol=1e-6)
    assert count == 9
    total, count = code_shares(shares, MASK, over="valid")
    np.testing.assert_allclose(total, shares.sum(axis=(0, 1)), rtol=1e-6)
    assert count == 24
    total, count = code_shares(shares, MASK, weights=jnp.array([1.0, 0.0, 0.0]))
    expected, number = code_shares(shares[:1], MASK[:1])
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    assert count == number == 5
    there = jnp.arange(8) < 3
    total, count = code_shares(shares, MASK, over="valid", weights=there & (MASK | 1))
    np.testing.assert_allclose(total, shares[:, :3].sum(axis=(0, 1)), rtol=1e-6)
    with pytest.raises(ValueError, match="unknown over 'all'; choose one of masked"):
        code_shares(shares, MASK, over="all")


def test_shares_of_two_batches_are_those_of_both_together():
    shares = jax.nn.softmax(jax.random.normal(jax.random.key(0), (3, 8, 2, 4)))
    parts = [code_shares(shares[i], MASK[i]) for i in (slice(0, 1), slice(1, 3))]
    together = metrics.add({"codes": parts[0]}, {"codes": parts[1]})["codes"]
    expected = perplexity(*code_shares(shares, MASK))
    assert perplexity(*together) == pytest.approx(float(expected), rel=1e-6)


def test_nothing_counted_is_no_nan():
    nothing = code_shares(jnp.ones((1, 8, 2, 4)), jnp.zeros((1, 8), bool))
    assert perplexity(*nothing) == 2.0 and code_usage(*nothing) == 0.0
    found = contrastive_loss(*batch(), jnp.zeros((3, 8), bool))
    assert not found.loss.any() and not found.count.any()
