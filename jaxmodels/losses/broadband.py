"""Loss of a model that denoises waveforms and predicts how strong they are.

Shapes use B batch. Metrics are (sum, count) pairs, which add up over devices,
microbatches and ragged last batches.
"""

import math

import chex
import jax.numpy as jnp


def gaussian_nll(mean, log_variance, target):
    """Negative log-likelihood of targets under normal distributions, in nats.

    Args:
        mean, log_variance, target: [B], or any other one shape.
    """
    chex.assert_equal_shape([mean, log_variance, target])
    mean, log_variance = (x.astype(jnp.float32) for x in (mean, log_variance))
    square = jnp.square(target - mean) * jnp.exp(-log_variance)
    return 0.5 * (math.log(2.0 * math.pi) + log_variance + square)


def broadband_loss(denoising, weights, amplitude=None, ratio=None, *, scale=0.05):
    """Mean denoising loss and `scale` times the likelihood of the amplitude.

    Args:
        denoising: [B], of each example.
        weights: [B]; 0 leaves an example out.
        amplitude: [B, 2], predicted mean and log variance of `ratio`; None where the
            model predicts none.
        ratio: [B], the logarithm of the broadband amplitude over that of the condition.
        scale: of the negative log-likelihood.

    Returns:
        The loss, float32 [], and the metrics "loss" (the denoising loss alone) and,
        with `amplitude`, "amplitude_nll" (nats), "amplitude_square_error", "ratio" and
        "ratio_square", of which `amplitude_errors` makes errors. All are 0 with count 0
        where no example has a weight.
    """
    chex.assert_rank([denoising, weights], 1)
    chex.assert_equal_shape([denoising, weights])
    weights = weights.astype(jnp.float32)
    values = {"loss": denoising.astype(jnp.float32)}
    if amplitude is not None:
        chex.assert_shape(amplitude, (*weights.shape, 2))
        chex.assert_equal_shape([ratio, weights])
        mean, log_variance = amplitude[:, 0], amplitude[:, 1]
        values |= {
            "amplitude_nll": gaussian_nll(mean, log_variance, ratio),
            "amplitude_square_error": jnp.square(mean.astype(jnp.float32) - ratio),
            "ratio": ratio,
            "ratio_square": jnp.square(ratio),
        }
    count = jnp.sum(weights)
    metrics = {name: (jnp.sum(x * weights), count) for name, x in values.items()}
    total = metrics["loss"][0]
    if amplitude is not None:
        total += scale * metrics["amplitude_nll"][0]
    return total / jnp.where(count > 0, count, 1.0), metrics


def amplitude_errors(means):
    """Errors of the amplitude instead of its moments.

    Args:
        means: name -> mean of the metrics of `broadband_loss`, and any others.

    Returns:
        The same, with "amplitude_rmse" and the "amplitude_constant_rmse" of the best
        constant, in the unit of `ratio`, in the place of the three moments.
    """
    moments = ("amplitude_square_error", "ratio", "ratio_square")
    if not set(moments) <= set(means):
        return dict(means)
    error, ratio, square = (means[name] for name in moments)
    kept = {name: value for name, value in means.items() if name not in moments}
    return kept | {
        "amplitude_rmse": math.sqrt(error),
        "amplitude_constant_rmse": math.sqrt(max(0.0, square - ratio * ratio)),
    }
