"""Targets of a phase picker: how likely each sample is P, S or neither.

Shapes use N samples of a window, A arrivals.
"""

import math

import numpy as np

from jaxmodels.data.seismic_records import NO_ARRIVAL
from jaxmodels.train.errors import ConfigError

PHASES = ("P", "S", "noise")
SHAPES = ("gaussian", "triangle")
REACH = 6.0  # sigma; a Gaussian is 1.5e-8 there


def pick_labels(p_sample, s_sample, num_samples, *, sigma=20.0, shape="gaussian"):
    """Probabilities of P, S and noise at each sample (Zhu & Beroza, 2019).

    Around each arrival rises a bump of height 1, and of the bumps of a phase the
    largest counts. Where those of P and S add up to more than 1, as they do at short
    distances, both are divided by their sum; noise is what is left of 1.

    Args:
        p_sample, s_sample: a number or [A], not necessarily whole; -1 and NaN stand for
            no arrival. One outside of the window still reaches into it.
        num_samples: N.
        sigma: samples; of the Gaussian exp(-t^2 / 2 sigma^2), or where the triangle
            1 - |t| / sigma ends.
        shape: "gaussian" or "triangle".

    Returns:
        float32 [N, 3]; each row adds up to 1.

    Raises:
        ConfigError: there is no such shape, or `sigma` is not positive.
    """
    check_labels(sigma, shape)
    phases = [
        bumps(known(arrivals), num_samples, sigma, shape)
        for arrivals in (p_sample, s_sample)
    ]
    return stacked(*phases)


def check_labels(sigma, shape):
    """Raises `ConfigError` where labels cannot be of this width or shape."""
    if shape not in SHAPES:
        raise ConfigError(f"labels of shape {shape!r} are none of {', '.join(SHAPES)}")
    if not 0 < sigma < math.inf:
        raise ConfigError(f"sigma {sigma} of labels must be greater than 0")


def known(arrivals):
    """The arrivals that there are, float64 [A], of a number or of several."""
    arrivals = np.atleast_1d(np.asarray(arrivals, np.float64))
    return arrivals[np.isfinite(arrivals) & (arrivals != NO_ARRIVAL)]


def bumps(arrivals, num_samples, sigma, shape):
    """The largest of the bumps around arrivals [A] at each sample, float64 [N]."""
    bump = np.zeros(num_samples)
    reach = (REACH if shape == "gaussian" else 1.0) * sigma
    for arrival in arrivals:
        first = max(math.ceil(arrival - reach), 0)
        end = min(math.floor(arrival + reach) + 1, num_samples)
        if first >= end:
            continue
        delay = (np.arange(first, end) - arrival) / sigma
        if shape == "gaussian":
            height = np.exp(-0.5 * np.square(delay))
        else:
            height = 1.0 - np.abs(delay)
        bump[first:end] = np.maximum(bump[first:end], height)
    return bump


def stacked(p_bump, s_bump):
    """P, S and noise that add up to 1, float32 [N, 3], of two bumps [N]."""
    total = p_bump + s_bump
    over = np.maximum(total, 1.0)
    # Of what is left, not of 1 less rounded parts: it may not fall below 0.
    noise = np.maximum(1.0 - total, 0.0)
    return np.stack([p_bump / over, s_bump / over, noise], axis=1).astype(np.float32)
