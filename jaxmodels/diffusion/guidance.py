"""Classifier-free guidance (Ho and Salimans, 2022)."""

import jax
import jax.numpy as jnp


def drop_conditions(rng, batch, rate):
    """Draws which examples keep their condition (Ho and Salimans, 2022, algorithm 1).

    Args:
        rng: PRNG key.
        batch: B.
        rate: probability that an example loses it, each on its own.

    Returns:
        bool [B], True where the condition stays.

    Raises:
        ValueError: `rate` is outside [0, 1].
    """
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"rate {rate} of dropped conditions must be in [0, 1]")
    return jax.random.uniform(rng, (batch,)) >= rate


def guided(predict_with, predict_without, scale):
    """A prediction moved away from the unconditional one.

    without + scale * (with - without), eq. 6 of Ho and Salimans (2022) for
    scale = 1 + w, in any parameterization. Above 1 it narrows the samples.

    Args:
        predict_with, predict_without: (noisy [B, ...], network time [B]) ->
            prediction [B, ...], with the condition and without.
        scale: a number, or [B]. 1 is the conditional prediction itself, and where
            `scale` is a Python number the other one is then never computed.

    Returns:
        A function like the two.
    """
    if isinstance(scale, int | float) and scale == 1:
        return predict_with

    def predict(noisy, time):
        conditional = predict_with(noisy, time)
        unconditional = predict_without(noisy, time)
        strength = jnp.asarray(scale, jnp.float32)
        strength = strength.reshape(
            strength.shape + (1,) * (noisy.ndim - strength.ndim)
        )
        moved = unconditional + strength * (conditional - unconditional)
        return moved.astype(conditional.dtype)

    return predict
