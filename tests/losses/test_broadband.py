import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxmodels.losses.broadband import (
    amplitude_errors,
    broadband_loss,
    gaussian_nll,
)
from jaxmodels.train import metrics

AMPLITUDE = jnp.array([[0.5, 0.0], [1.0, -2.0], [0.0, 1.0]])
RATIO = jnp.array([0.1, 1.2, 3.0])


def test_the_likelihood_is_that_of_a_normal_distribution():
    found = gaussian_nll(AMPLITUDE[:, 0], AMPLITUDE[:, 1], RATIO)
    deviation = np.exp(AMPLITUDE[:, 1] / 2)
    expected = -scipy.stats.norm.logpdf(RATIO, AMPLITUDE[:, 0], deviation)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_likelihood_is_best_where_the_variance_is_that_of_the_errors():
    errors = jnp.array([-1.0, 2.0, 0.5])

    def mean_nll(log_variance):
        return gaussian_nll(jnp.zeros(3), jnp.full(3, log_variance), errors).mean()

    best = jnp.log(jnp.mean(errors**2))
    assert jax.grad(mean_nll)(best) == pytest.approx(0.0, abs=1e-6)
    assert mean_nll(best) < min(mean_nll(best + 0.1), mean_nll(best - 0.1))


def test_the_loss_is_a_weighted_mean_and_a_share_of_the_likelihood():
    denoising = jnp.array([1.0, 3.0, 100.0])
    weights = jnp.array([1.0, 1.0, 0.0])
    nll = gaussian_nll(AMPLITUDE[:, 0], AMPLITUDE[:, 1], RATIO)[:2].mean()
    loss, totals = broadband_loss(denoising, weights, AMPLITUDE, RATIO, scale=0.5)
    assert loss == pytest.approx(2.0 + 0.5 * float(nll))
    values = amplitude_errors(metrics.means(totals))
    assert set(values) == {
        "loss",
        "amplitude_nll",
        "amplitude_rmse",
        "amplitude_constant_rmse",
    }
    assert values["loss"] == 2.0
    assert values["amplitude_nll"] == pytest.approx(float(nll), rel=1e-6)
    assert values["amplitude_rmse"] == pytest.approx(math.sqrt((0.16 + 0.04) / 2))
    # The best constant is the mean of the two, 0.65.
    assert values["amplitude_constant_rmse"] == pytest.approx(0.55, rel=1e-5)


def test_without_an_amplitude_only_the_denoising_counts():
    loss, totals = broadband_loss(jnp.array([1.0, 3.0]), jnp.ones(2))
    assert loss == 2.0
    assert amplitude_errors(metrics.means(totals)) == {"loss": 2.0}


def test_a_batch_without_weight_costs_nothing():
    loss, totals = broadband_loss(jnp.ones(3), jnp.zeros(3), AMPLITUDE, RATIO)
    assert loss == 0.0
    assert all(count == 0 for _, count in totals.values())
