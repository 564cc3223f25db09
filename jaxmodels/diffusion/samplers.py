"""Samplers: from noise to data in any number of network evaluations.

`sample` runs one from end to end; `make_sampler` makes one by name. A pipeline that
wants to show progress, or whose arrays are too long for one program, calls `init`,
`step` for each index and `result` itself.

Coefficients are computed once, on the host, in float64.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np


class State(NamedTuple):
    """Where a sampler is.

    Attributes:
        sample: the noisy array [B, ...] at the time of the next step.
        clean: the last estimate of the clean array [B, ...]; 0 before the first step.
        rng: PRNG key that stochastic steps fold their index into.
    """

    sample: jax.Array
    clean: jax.Array
    rng: jax.Array


class Sampler(NamedTuple):
    """A sampler, as pure functions.

    Attributes:
        num_steps: the indices that `step` takes are 0 to num_steps - 1.
        times: num_steps + 1 falling times of the process; step i goes from times[i]
            to times[i + 1].
        init: (rng, shape, dtype=float32) -> State of pure noise.
        step: (state, index, predict, *, on_clean=None, noise=None) -> State.
            predict(noisy [B, ...], network time [B]) gives the prediction in the
            parameterization of the process; on_clean(clean [B, ...], time [B]) gives
            the estimate to go on with; `noise` stands in for the draw of a stochastic
            step. `index` is a number, which is checked, or traced, which cannot be.
        result: State -> data [B, ...].
    """

    num_steps: int
    times: tuple[float, ...]
    init: Callable
    step: Callable
    result: Callable


def sample(sampler, predict, rng, shape, dtype=jnp.float32, on_clean=None):
    """Draws data: all steps of a sampler in one scan.

    Args:
        sampler: from `make_sampler` or one of the functions below.
        predict: (noisy [B, ...], network time [B]) -> prediction [B, ...] in the
            parameterization of the sampler's process.
        rng: PRNG key; the same one gives the same data.
        shape: (B, ...).
        dtype: of the arrays between steps. Arithmetic is float32; narrower arrays
            lose in each step what they cannot hold.
        on_clean: (clean [B, ...] float32, time [B]) -> clean, applied to every
            estimate, as for consistency with measurements.

    Returns:
        [B, ...] of `dtype`.
    """

    def body(state, index):
        return sampler.step(state, index, predict, on_clean=on_clean), None

    state = sampler.init(rng, shape, dtype)
    state, _ = jax.lax.scan(body, state, jnp.arange(sampler.num_steps))
    return sampler.result(state)


def ddim(process, num_steps, eta=0.0, *, times=None):
    """DDIM (Song et al., 2021, eqs. 12 and 16), for any process.

    Args:
        process: a `Process`.
        num_steps: network evaluations, at least 1.
        eta: 0 is deterministic; 1 draws like DDPM, from the posterior variance (Ho et
            al., 2020, eq. 7).
        times: [num_steps + 1], falling, in place of those of the process.

    Raises:
        ValueError: `num_steps`, `eta` or `times` is out of its range.
    """
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"eta {eta} must be in [0, 1]: 0 is DDIM, 1 is DDPM")
    grid = _grid(process, num_steps, times)
    alpha, sigma, alpha_next, sigma_next = grid.levels
    # Variance that the forward process adds between the two times.
    added = sigma**2 - (alpha / alpha_next * sigma_next) ** 2
    drawn = eta * sigma_next / sigma * np.sqrt(np.maximum(added, 0.0))
    of_sample = np.sqrt(np.maximum(sigma_next**2 - drawn**2, 0.0)) / sigma
    of_clean = alpha_next - alpha * of_sample
    table = np.stack([of_sample, of_clean, np.zeros(num_steps), drawn], 1)
    return _linear(process, grid, table, stochastic=eta > 0.0)


def dpm_solver_pp(process, num_steps, order=2, *, stochastic=False, times=None):
    """DPM-Solver++, multistep: 2M is algorithm 2 of Lu et al. (2022).

    The first step, which has no history, and the last one, which ends without noise,
    are of order 1. Written in ratios of alpha and sigma rather than in logarithms of
    them, both are finite, also where no signal is left at the start.

    Args:
        process: a `Process`.
        num_steps: network evaluations, at least 1.
        order: 2, or 1 for what is DDIM.
        stochastic: solves the diffusion SDE instead of the ODE (SDE-DPM-Solver++ of
            the same paper).
        times: [num_steps + 1], falling, in place of those of the process.

    Raises:
        ValueError: `num_steps`, `order` or `times` is out of its range.
    """
    if order not in (1, 2):
        raise ValueError(f"order {order} of DPM-Solver++ must be 1 or 2")
    grid = _grid(process, num_steps, times)
    alpha, sigma, alpha_next, sigma_next = grid.levels
    decay = alpha * sigma_next / (alpha_next * sigma)  # exp(-h), h the step in lambda
    if stochastic:
        of_sample = sigma_next / sigma * decay
        change = alpha_next * (1.0 - decay**2)
        drawn = sigma_next * np.sqrt(1.0 - decay**2)
    else:
        of_sample = sigma_next / sigma
        change = alpha_next * (1.0 - decay)
        drawn = np.zeros(num_steps)
    # h of this step over h of the one before, halved: 0 where either is infinite, as
    # it is next to a time without signal or without noise.
    half_ratio = np.zeros(num_steps)
    if order == 2:
        with np.errstate(divide="ignore"):
            log_step = -np.log(decay)
        finite = np.isfinite(log_step[1:]) & np.isfinite(log_step[:-1])
        ratio = np.divide(log_step[1:], log_step[:-1], where=finite, out=half_ratio[1:])
        ratio /= 2
    table = [of_sample, change * (1.0 + half_ratio), -change * half_ratio, drawn]
    return _linear(process, grid, np.stack(table, 1), stochastic=stochastic)


def heun(process, num_steps, rho=None, *, times=None):
    """Heun's method on the probability-flow ODE (Karras et al., 2022, algorithm 1).

    Each step evaluates the network twice, but the one that ends without noise, which
    takes the clean estimate. The variable of the ODE is sigma for an EDM process, and
    the angle of (alpha, sigma) for one that preserves the variance, where the
    derivative is the velocity.

    Args:
        process: a `Process`.
        num_steps: steps, at least 1; 2 num_steps - 1 network evaluations.
        rho: spacing of the sigmas of an EDM process (eq. 5); None is 7.
        times: [num_steps + 1], falling, in place of those of the process.

    Raises:
        ValueError: `num_steps`, `rho` or `times` is out of its range.
    """
    grid = _grid(process, num_steps, times, rho)
    clock = grid.angle if process.schedule.variance_preserving else grid.sigma
    delta = np.diff(clock)
    table = np.stack([*grid.levels, delta], 1).astype(np.float32)
    ends_clean = bool(grid.sigma[-1] == 0.0)

    def step(state, index, predict, *, on_clean=None, noise=None):
        _refuse(noise)
        estimate = _estimator(process, grid, predict, on_clean)
        alpha, sigma, alpha_next, sigma_next, delta = jnp.asarray(table)[index]
        x = state.sample
        clean = estimate(x, index)
        slope = (alpha * x - clean) / sigma

        def corrected():
            ahead = (x + delta * slope).astype(x.dtype)
            clean_ahead = estimate(ahead, index + 1)
            slope_ahead = (alpha_next * ahead - clean_ahead) / sigma_next
            moved = x + delta / 2 * (slope + slope_ahead)
            return moved.astype(x.dtype), clean_ahead.astype(x.dtype)

        def last():
            return clean.astype(x.dtype), clean.astype(x.dtype)

        final = ends_clean & (index == num_steps - 1)
        if isinstance(final, jax.Array):
            moved, clean = jax.lax.cond(final, last, corrected)
        else:
            moved, clean = last() if final else corrected()
        return state._replace(sample=moved, clean=clean)

    return _sampler(process, grid, step)


# Name -> function, the options that it takes, and those that the name fixes.
SAMPLERS: dict[str, tuple] = {
    "ddim": (ddim, ("eta", "times"), {}),
    "ddpm": (ddim, ("times",), {"eta": 1.0}),
    "dpm++2m": (dpm_solver_pp, ("stochastic", "times"), {"order": 2}),
    "heun": (heun, ("rho", "times"), {}),
}


def make_sampler(name, process, num_steps, **options):
    """The sampler of a name in SAMPLERS: "ddim", "ddpm", "dpm++2m" or "heun".

    "ddpm" is `ddim` with eta 1 and "dpm++2m" is `dpm_solver_pp` of order 2.

    Raises:
        ValueError: an unknown name or option, or what the function raises.
    """
    if name not in SAMPLERS:
        raise ValueError(
            f"unknown sampler {name!r}; choose one of {', '.join(SAMPLERS)}"
        )
    function, taken, fixed = SAMPLERS[name]
    for option in options:
        if option not in taken:
            raise ValueError(
                f"sampler {name!r} has no option {option!r}; it takes "
                f"{', '.join(taken)}"
            )
    return function(process, num_steps, **fixed, **options)


class _Grid(NamedTuple):
    """The times of a sampler and the levels there, float64 [num_steps + 1]."""

    times: np.ndarray
    alpha: np.ndarray
    sigma: np.ndarray

    @property
    def levels(self):
        """alpha and sigma at the start of each step, and at its end."""
        return self.alpha[:-1], self.sigma[:-1], self.alpha[1:], self.sigma[1:]

    @property
    def angle(self):
        return np.arctan2(self.sigma, self.alpha)


def _grid(process, num_steps, times, rho=None):
    if times is None:
        times = process.schedule.times(num_steps, rho)
    elif rho is not None:
        raise ValueError(f"give either times or rho {rho}, not both")
    times = np.asarray(times, np.float64)
    if num_steps < 1 or times.shape != (num_steps + 1,):
        raise ValueError(
            f"times of shape {times.shape} for num_steps {num_steps}: give the "
            "num_steps + 1 ends of at least one step"
        )
    schedule = process.schedule
    grid = _Grid(times, schedule.alpha(times), schedule.sigma(times))
    if times[-1] < 0 or not np.all(np.diff(grid.angle) < 0):
        raise ValueError(
            f"times {times[0]:g} ... {times[-1]:g} must fall, and the noise with them, "
            "to 0 or above; a discrete process tells times one step apart"
        )
    return grid


def _linear(process, grid, table, *, stochastic):
    """A sampler whose step adds up four arrays.

    Args:
        table: [num_steps, 4], the factors of the sample, the clean estimate, the one
            before it, and fresh noise.
    """
    factors = table.astype(np.float32)

    def step(state, index, predict, *, on_clean=None, noise=None):
        of_sample, of_clean, of_previous, of_noise = jnp.asarray(factors)[index]
        x = state.sample
        clean = _estimator(process, grid, predict, on_clean)(x, index)
        moved = of_sample * x + of_clean * clean + of_previous * state.clean
        if stochastic:
            if noise is None:
                rng = jax.random.fold_in(state.rng, index)
                noise = jax.random.normal(rng, x.shape)
            moved += of_noise * noise
        else:
            _refuse(noise)
        return state._replace(sample=moved.astype(x.dtype), clean=clean.astype(x.dtype))

    return _sampler(process, grid, step)


def _sampler(process, grid, step):
    # Where the variance is preserved, also noise with a trace of signal has unit
    # variance.
    preserving, num_steps = process.schedule.variance_preserving, len(grid.times) - 1
    scale = 1.0 if preserving else float(grid.sigma[0])

    def init(rng, shape, dtype=jnp.float32):
        start_rng, step_rng = jax.random.split(rng)
        start = (scale * jax.random.normal(start_rng, shape)).astype(dtype)
        return State(sample=start, clean=jnp.zeros_like(start), rng=step_rng)

    def checked_step(state, index, predict, **options):
        # A number out of range would read the last row of the table.
        known = isinstance(index, int | np.integer)
        if known and not 0 <= index < num_steps:
            raise ValueError(
                f"step {index} of a sampler of {num_steps}: steps are 0 to "
                f"{num_steps - 1}"
            )
        return step(state, index, predict, **options)

    return Sampler(
        num_steps=num_steps,
        times=tuple(grid.times.tolist()),
        init=init,
        step=checked_step,
        result=lambda state: state.sample,
    )


def _estimator(process, grid, predict, on_clean):
    """(noisy [B, ...], index) -> the clean estimate at that time, float32 [B, ...]."""
    times = jnp.asarray(grid.times.astype(np.float32))

    def estimate(noisy, index):
        time = jnp.full(noisy.shape[:1], times[index])
        prediction = predict(*process.network_inputs(noisy, time))
        chex.assert_equal_shape([prediction, noisy])
        clean = process.clean_from(prediction, noisy, time)
        return clean if on_clean is None else on_clean(clean, time)

    return estimate


def _refuse(noise):
    if noise is not None:
        raise ValueError(
            "noise was given to a step that draws none; leave it out, or take a "
            "stochastic sampler (ddpm, or ddim with eta above 0)"
        )
