"""Noise schedules: how much signal and how much noise an array holds at a time.

At `time` a noisy array is alpha(time) * clean + sigma(time) * noise. Time runs from
0 (clean) to 1 (noise), but in EDM, where time is sigma itself.

The functions of a schedule answer numpy (float64, for tables made once on the host)
with numpy, and jax with jax.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Nichol and Dhariwal (2021), section 3.2: the offset s, and the largest beta.
COSINE_OFFSET = 0.008
LARGEST_BETA = 0.999


class Schedule(NamedTuple):
    """The numbers of one diffusion process, as pure functions.

    Attributes:
        alpha, sigma: time [...] -> [...], the levels of signal and noise.
        network_time: time [...] -> [...], what the network is told.
        draw_time: (rng, shape) -> float32, times to train on.
        times: (num_steps, rho=None) -> float64 [num_steps + 1], the falling times
            that a sampler visits; the last one is 0.
        variance_preserving: whether alpha^2 + sigma^2 is 1.
        data_std: standard deviation of clean data that the preconditioning assumes.
    """

    alpha: Callable
    sigma: Callable
    network_time: Callable
    draw_time: Callable
    times: Callable
    variance_preserving: bool = True
    data_std: float = 1.0


@functools.cache
def cosine():
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2), for t in [0, 1].

    The schedule of Nichol and Dhariwal (2021), eq. 17, without its offset, in
    continuous time (Salimans and Ho, 2022): no signal is left at t = 1.
    Training draws t uniformly; samplers take equal steps of t.
    """
    return Schedule(
        # sin(pi (1 - t) / 2) is cos(pi t / 2), and in floats exactly 0 at t = 1.
        alpha=lambda time: _library(time).sin(math.pi / 2 * (1.0 - time)),
        sigma=lambda time: _library(time).sin(math.pi / 2 * time),
        network_time=lambda time: time,
        draw_time=lambda rng, shape: jax.random.uniform(rng, shape),
        times=lambda num_steps, rho=None: _equal_steps(num_steps, rho) / num_steps,
    )


@functools.cache
def squared_cosine(num_steps=1000, zero_terminal_snr=True, terminal_floor=0.0):
    """The discrete schedule of Nichol and Dhariwal (2021), eq. 17.

    Time k / num_steps stands for their step k, from 0 (clean) to num_steps; times
    between go to the nearest step. The network is told (k - 1) / num_steps, where k - 1
    is the index, from 0, that PyTorch implementations pass.

    Args:
        num_steps: of the training process.
        zero_terminal_snr: rescales the levels so that the last one holds no signal
            (Lin et al., 2024, algorithm 1).
        terminal_floor: the smallest alpha^2 of the last step. Solvers in diffusers
            need 2^-24 there; those of `samplers` need none.

    Raises:
        ValueError: `num_steps` below 2, or a floor outside [0, 1).
    """
    if num_steps < 2:
        raise ValueError(
            f"num_steps {num_steps} of the process must be 2 or more; 1000 is usual"
        )
    if not 0.0 <= terminal_floor < 1.0:
        raise ValueError(f"terminal_floor {terminal_floor} must be in [0, 1)")
    table = _cosine_levels(num_steps)
    if zero_terminal_snr:
        first, last = table[1], table[-1]
        table[1:] = (table[1:] - last) * (first / (first - last))
    table[-1] = max(table[-1], math.sqrt(terminal_floor))
    noise_table = np.sqrt(1.0 - table**2)

    def times(steps, rho=None):
        if steps > num_steps:
            raise ValueError(
                f"num_steps {steps} is more than the {num_steps} steps of the process; "
                "take fewer, or a process in continuous time"
            )
        # Half to even, as the trailing spacing of Lin et al. (2024), table 2, is
        # rounded elsewhere.
        return np.round(_equal_steps(steps, rho) * num_steps / steps) / num_steps

    return Schedule(
        alpha=lambda time: _look_up(table, time),
        sigma=lambda time: _look_up(noise_table, time),
        network_time=lambda time: time - 1.0 / num_steps,
        draw_time=lambda rng, shape: (
            jax.random.randint(rng, shape, 1, num_steps + 1) / num_steps
        ),
        times=times,
    )


@functools.cache
def edm(data_std=1.0, sigma_min=0.002, sigma_max=80.0, p_mean=-1.2, p_std=1.2):
    """alpha = 1 and sigma = time (Karras et al., 2022, table 1, last column).

    Training draws ln(sigma) ~ N(p_mean, p_std^2); the network is told ln(sigma) / 4;
    samplers take `karras_times`.

    Raises:
        ValueError: a standard deviation that is not positive, or sigmas out of order.
    """
    if not 0.0 < sigma_min < sigma_max:
        raise ValueError(
            f"sigma_min {sigma_min} and sigma_max {sigma_max} must satisfy "
            "0 < sigma_min < sigma_max"
        )
    if data_std <= 0.0 or p_std <= 0.0:
        raise ValueError(
            f"sigma_data {data_std} and p_std {p_std} are standard deviations: both "
            "must be above 0"
        )
    return Schedule(
        alpha=lambda time: _library(time).ones_like(time),
        sigma=lambda time: time,
        network_time=lambda time: _library(time).log(time) / 4.0,
        draw_time=lambda rng, shape: jnp.exp(
            p_mean + p_std * jax.random.normal(rng, shape)
        ),
        times=lambda num_steps, rho=None: karras_times(
            num_steps, sigma_min, sigma_max, 7.0 if rho is None else rho
        ),
        variance_preserving=False,
        data_std=data_std,
    )


def karras_times(num_steps, sigma_min=0.002, sigma_max=80.0, rho=7.0):
    """Sigmas at equal steps of sigma^(1 / rho), then 0 (Karras et al., 2022, eq. 5).

    Returns:
        float64 [num_steps + 1], from sigma_max down.

    Raises:
        ValueError: `num_steps` below 1, or `rho` not above 0.
    """
    _check_steps(num_steps)
    if rho <= 0.0:
        raise ValueError(f"rho {rho} must be above 0; Karras et al. (2022) take 7")
    ends = np.array([sigma_max, sigma_min], np.float64) ** (1.0 / rho)
    ramp = np.linspace(0.0, 1.0, num_steps)
    return np.append((ends[0] + ramp * (ends[1] - ends[0])) ** rho, 0.0)


def _equal_steps(num_steps, rho):
    """float64 [num_steps + 1]: num_steps, num_steps - 1, ..., 0."""
    _check_steps(num_steps)
    if rho is not None:
        raise ValueError(
            f"rho {rho} spaces the sigmas of an EDM process; leave it out for a "
            "process whose time is in [0, 1]"
        )
    return np.arange(num_steps, -1, -1, dtype=np.float64)


def _check_steps(num_steps):
    if num_steps < 1:
        raise ValueError(f"num_steps {num_steps} must be 1 or more")


def _cosine_levels(num_steps):
    """alpha of steps 0 to num_steps, float64, with every beta at most LARGEST_BETA."""
    step = np.arange(num_steps + 1) / num_steps
    signal = np.cos((step + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2) ** 2
    beta = np.minimum(1.0 - signal[1:] / signal[:-1], LARGEST_BETA)
    return np.sqrt(np.append(1.0, np.cumprod(1.0 - beta)))


def _look_up(table, time):
    """Entries of `table`, whose ends are times 0 and 1, nearest to `time`."""
    library = _library(time)
    index = library.round(time * (len(table) - 1)).astype(library.int32)
    index = library.clip(index, 0, len(table) - 1)
    return library.asarray(table, time.dtype)[index]


def _library(time):
    return np if isinstance(time, np.ndarray | np.generic) else jnp
