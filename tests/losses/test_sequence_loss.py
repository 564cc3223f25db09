import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.losses.classification import language_model_loss, sequence_loss

# Three rows of two tokens, three symbols; the likeliest are 0 1, 2 2 and 0 0.
PROBABILITIES = np.array(
    [
        [[0.6, 0.2, 0.2], [0.1, 0.8, 0.1]],
        [[0.2, 0.3, 0.5], [0.1, 0.2, 0.7]],
        [[0.9, 0.05, 0.05], [0.5, 0.25, 0.25]],
    ]
)
LOGITS = jnp.log(jnp.asarray(PROBABILITIES, jnp.float32)) + 2.0
TARGETS = jnp.array([[0, 1], [2, 1], [0, 1]])
WEIGHTS = jnp.array([[1.0, 1.0], [1.0, 1.0], [1.0, 0.0]])


def test_a_sequence_is_right_where_all_its_weighted_tokens_are():
    _, metrics = sequence_loss(LOGITS, TARGETS, WEIGHTS)
    np.testing.assert_allclose(metrics["token_accuracy"], (4, 5))
    # The third row's second token is wrong, and has no weight.
    np.testing.assert_allclose(metrics["sequence_accuracy"], (2, 3))


def test_a_row_of_padding_counts_nowhere():
    weights = WEIGHTS.at[2].set(0.0)
    loss, metrics = sequence_loss(LOGITS, TARGETS, weights, jnp.ones((3, 2)), 0.1)
    alone = sequence_loss(LOGITS[:2], TARGETS[:2], weights[:2], jnp.ones((2, 2)), 0.1)
    np.testing.assert_allclose(loss, alone[0], rtol=1e-6)
    for name, pair in metrics.items():
        np.testing.assert_allclose(pair, alone[1][name], rtol=1e-6, err_msg=name)
    nothing, metrics = sequence_loss(LOGITS, TARGETS, 0.0 * WEIGHTS, None, 0.1)
    assert nothing == 0.0 and metrics["sequence_accuracy"] == (0.0, 0.0)


def test_without_smoothing_it_is_the_loss_of_a_language_model():
    sizes = jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    loss, metrics = sequence_loss(LOGITS, TARGETS, WEIGHTS, sizes)
    expected, theirs = language_model_loss(LOGITS, TARGETS, WEIGHTS, sizes)
    assert loss == expected
    assert metrics["bits_per_byte"] == theirs["bits_per_byte"]


def test_smoothing_is_cross_entropy_to_mixed_targets_and_not_in_the_metrics():
    share = 0.2
    loss, metrics = sequence_loss(LOGITS, TARGETS, WEIGHTS, None, share)
    mixed = (1 - share) * np.eye(3)[np.asarray(TARGETS)] + share / 3
    tokens = -(mixed * np.log(PROBABILITIES)).sum(-1)
    np.testing.assert_allclose(loss, (tokens * WEIGHTS).sum() / 5, rtol=1e-6)
    assert metrics == sequence_loss(LOGITS, TARGETS, WEIGHTS)[1]


def test_the_smoothed_loss_is_least_at_the_mixed_probabilities():
    share, targets, weights = 0.3, jnp.array([[1]]), jnp.ones((1, 1))
    best = jnp.log((1 - share) * jax.nn.one_hot(targets, 4) + share / 4)
    gradient = jax.grad(
        lambda logits: sequence_loss(logits, targets, weights, None, share)[0]
    )
    np.testing.assert_allclose(gradient(best), 0.0, atol=1e-6)
    assert jnp.abs(gradient(2.0 * best)).max() > 0.01


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_an_impossible_smoothing_is_a_value_error(share):
    with pytest.raises(ValueError, match=f"label_smoothing {share} must be at least 0"):
        sequence_loss(LOGITS, TARGETS, WEIGHTS, None, share)
