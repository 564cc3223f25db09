"""Diffusion processes: what is added to data, what a network predicts, its loss.

A process is made by `cosine`, `squared_cosine` or `edm`, or by name with
`make_process`; `diffusion_loss` trains a network on it and `samplers.sample` draws
from the network. Nothing here knows a network: one is a function of a noisy array and
a time.

Arrays are [B, ...]; times are [B], or one number for all. Coefficients are float32.
"""

import dataclasses
import inspect
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.diffusion import schedules

PARAMETERIZATIONS = ("velocity", "noise", "clean", "edm")
LOSS_WEIGHTS = (None, "min_snr")


@dataclasses.dataclass(frozen=True)
class Process:
    """noisy = alpha(time) * clean + sigma(time) * noise, and what is predicted of it.

    With s the standard deviation of the data that the schedule assumes (1 but for
    EDM) and r = sqrt(alpha^2 s^2 + sigma^2), the parameterizations are

        "velocity"  (alpha s noise - sigma clean / s) / r, which is
                    alpha noise - sigma clean for s = r = 1 (Salimans and Ho, 2022,
                    section 4)
        "noise"     noise (Ho et al., 2020, eq. 14)
        "clean"     clean
        "edm"       (clean - c_skip noisy) / c_out (Karras et al., 2022, eqs. 7 and 8),
                    which is -velocity

    Args:
        schedule: from `schedules`.
        parameterization: one of PARAMETERIZATIONS.
        loss_weight: None, every time weighs 1; or "min_snr" (`weight`).
        gamma: where "min_snr" cuts off the signal-to-noise ratio.

    Raises:
        ValueError: an unknown name, a `gamma` not above 0, or noise prediction where
            the last step holds no signal.
    """

    schedule: schedules.Schedule
    parameterization: str = "velocity"
    loss_weight: str | None = None
    gamma: float = 5.0

    def __post_init__(self):
        _check_name("parameterization", self.parameterization, PARAMETERIZATIONS)
        _check_name("loss_weight", self.loss_weight, LOSS_WEIGHTS)
        if self.gamma <= 0.0:
            raise ValueError(f"gamma {self.gamma} must be above 0; 5 is usual")
        first = np.float64(self.schedule.times(1)[0])
        if self.parameterization == "noise" and self.schedule.alpha(first) == 0.0:
            raise ValueError(
                "noise prediction cannot give back the clean array at the last step, "
                "where no signal is left; predict the velocity, or take "
                "squared_cosine(zero_terminal_snr=False)"
            )

    def alpha(self, time):
        """Level of the signal, in the shape of `time`."""
        return self.schedule.alpha(_at_least_float32(time))

    def sigma(self, time):
        """Level of the noise, in the shape of `time`."""
        return self.schedule.sigma(_at_least_float32(time))

    def noisy(self, clean, noise, time):
        """alpha * clean + sigma * noise (Ho et al., 2020, eq. 4), as `clean` [B, ...].

        Raises:
            ValueError: `time` is neither one number nor [B]; so do the methods below.
        """
        alpha, sigma = self._levels(time, clean)
        return (alpha * clean + sigma * noise).astype(clean.dtype)

    def target(self, clean, noise, time):
        """What the network should predict, in the shape and dtype of `clean`."""
        if self.parameterization == "noise":
            return noise.astype(clean.dtype)
        if self.parameterization == "clean":
            return clean
        alpha, sigma = self._levels(time, clean)
        data_std = self.schedule.data_std
        velocity = alpha * data_std * noise - sigma / data_std * clean
        velocity /= self._total(alpha, sigma)
        sign = -1.0 if self.parameterization == "edm" else 1.0
        return (sign * velocity).astype(clean.dtype)

    def clean_from(self, prediction, noisy, time):
        """The clean array that a prediction stands for, float32 [B, ...]."""
        alpha, sigma = self._levels(time, noisy)
        if self.parameterization == "clean":
            return prediction.astype(jnp.promote_types(prediction.dtype, jnp.float32))
        if self.parameterization == "noise":
            return (noisy - sigma * prediction) / alpha
        sign = 1.0 if self.parameterization == "edm" else -1.0
        data_std, total = self.schedule.data_std, self._total(alpha, sigma)
        skip = alpha * data_std**2 / total**2
        return skip * noisy + sign * sigma * data_std / total * prediction

    def noise_from(self, prediction, noisy, time):
        """The noise that a prediction stands for, float32 [B, ...].

        A clean array says nothing about the noise where there is none: with
        "clean" the answer is 0 there.
        """
        alpha, sigma = self._levels(time, noisy)
        if self.parameterization == "noise":
            return prediction.astype(jnp.promote_types(prediction.dtype, jnp.float32))
        if self.parameterization == "clean":
            rest = noisy - alpha * prediction
            return jnp.where(sigma > 0, rest / jnp.where(sigma > 0, sigma, 1.0), 0.0)
        sign = -1.0 if self.parameterization == "edm" else 1.0
        data_std, total = self.schedule.data_std, self._total(alpha, sigma)
        turned = sign * alpha * data_std / total * prediction
        return sigma / total**2 * noisy + turned

    def converted(self, prediction, noisy, time, parameterization):
        """The same prediction in another parameterization, float32 [B, ...]."""
        _check_name("parameterization", parameterization, PARAMETERIZATIONS)
        clean = self.clean_from(prediction, noisy, time)
        noise = self.noise_from(prediction, noisy, time)
        if parameterization == "noise":
            return noise
        other = dataclasses.replace(self, parameterization=parameterization)
        return other.target(clean, noise, time)

    def network_inputs(self, noisy, time):
        """The noisy array [B, ...] and the time [B] in the form a network gets them.

        An EDM process scales the array to unit variance and tells ln(sigma) / 4
        (Karras et al., 2022, table 1); the others leave the array alone.
        """
        alpha, sigma = self._levels(time, noisy)
        network_time = self.schedule.network_time(_at_least_float32(time))
        network_time = jnp.broadcast_to(network_time, noisy.shape[:1])
        if self.schedule.variance_preserving:
            return noisy, network_time
        return (noisy / self._total(alpha, sigma)).astype(noisy.dtype), network_time

    def sample_time(self, rng, shape):
        """Draws times to train on, float32 of `shape`."""
        return self.schedule.draw_time(rng, shape)

    def weight(self, time):
        """Weight of the squared error of the prediction, float32 like `time`.

        "min_snr" weighs the error of the clean array by min(alpha^2 / sigma^2, gamma)
        (Hang et al., 2023, section 3.4): that is min(snr, gamma) / (snr + 1) for the
        velocity and min(snr, gamma) / snr for the noise.
        """
        alpha, sigma = self.alpha(time), self.sigma(time)
        if self.loss_weight is None:
            return jnp.ones_like(sigma)
        # snr = alpha^2 / sigma^2 has a pole at either end for some process: both
        # sides of each fraction are multiplied by sigma^2.
        least = jnp.minimum(alpha**2, self.gamma * sigma**2)
        if self.parameterization == "clean":
            return jnp.where(
                sigma > 0, least / jnp.where(sigma > 0, sigma, 1.0) ** 2, self.gamma
            )
        if self.parameterization == "noise":
            return least / alpha**2
        return (self.schedule.data_std / self._total(alpha, sigma)) ** 2 * least

    def _levels(self, time, array):
        """alpha and sigma with axes appended until they broadcast against `array`."""
        time = _at_least_float32(time)
        if time.shape not in ((), array.shape[:1]):
            raise ValueError(
                f"time has shape {time.shape} beside an array of shape {array.shape}; "
                f"give one number or {array.shape[:1]}"
            )
        time = time.reshape(time.shape + (1,) * (array.ndim - time.ndim))
        return self.schedule.alpha(time), self.schedule.sigma(time)

    def _total(self, alpha, sigma):
        """Standard deviation of the noisy array."""
        if self.schedule.variance_preserving:
            return jnp.ones_like(sigma)
        return jnp.sqrt((alpha * self.schedule.data_std) ** 2 + sigma**2)


def cosine(*, parameterization="velocity", loss_weight=None, gamma=5.0):
    """The continuous cosine process, without signal at time 1; see `Process`."""
    return Process(schedules.cosine(), parameterization, loss_weight, gamma)


def squared_cosine(
    num_steps=1000,
    zero_terminal_snr=True,
    *,
    terminal_floor=0.0,
    parameterization="velocity",
    loss_weight=None,
    gamma=5.0,
):
    """The discrete process of `schedules.squared_cosine`; see `Process`."""
    schedule = schedules.squared_cosine(num_steps, zero_terminal_snr, terminal_floor)
    return Process(schedule, parameterization, loss_weight, gamma)


def edm(
    sigma_data=1.0,
    sigma_min=0.002,
    sigma_max=80.0,
    p_mean=-1.2,
    p_std=1.2,
    *,
    parameterization="edm",
    loss_weight=None,
    gamma=5.0,
):
    """The process of Karras et al. (2022), whose time is sigma; see `Process`.

    With the parameterization "edm" and no `loss_weight` its loss is theirs: in units
    of the network's output the weight of eq. 8 is 1.
    """
    schedule = schedules.edm(sigma_data, sigma_min, sigma_max, p_mean, p_std)
    return Process(schedule, parameterization, loss_weight, gamma)


PROCESSES = {"cosine": cosine, "squared_cosine": squared_cosine, "edm": edm}


def make_process(name, **options):
    """The process of a name in PROCESSES, with the arguments of its function.

    Those are, for any process, `parameterization`, `loss_weight` and `gamma`; for
    "squared_cosine", the discrete one, also `num_steps`, `zero_terminal_snr` and
    `terminal_floor`; for "edm" `sigma_data`, `sigma_min`, `sigma_max`, `p_mean` and
    `p_std`.

    Raises:
        ValueError: an unknown name or option, an option of another type than its
            default, or what the function raises.
    """
    _check_name("process", name, tuple(PROCESSES))
    known = inspect.signature(PROCESSES[name]).parameters
    for option, value in options.items():
        if option not in known:
            raise ValueError(
                f"process {name!r} has no option {option!r}; it takes "
                f"{', '.join(known)}"
            )
        _check_type(option, value, known[option].default)
    return PROCESSES[name](**options)


def diffusion_loss(process, predict, clean, rng, weights=None):
    """Squared error of what a network predicts at random times (Ho et al., 2020).

    Algorithm 1 there, for any process and parameterization.

    Args:
        process: a `Process`.
        predict: (noisy [B, ...] in the dtype of `clean`, network time [B]) ->
            prediction [B, ...] in the parameterization of the process.
        clean: data [B, ...].
        rng: PRNG key of the times and the noise.
        weights: [B], multiplied into the loss of each example.

    Returns:
        The mean squared error of each example times `process.weight`, float32 [B], and
        a dict of float32 arrays: "noisy" [B, ...], "time" [B] and "clean" [B, ...],
        the clean arrays that the predictions stand for.
    """
    time_rng, noise_rng = jax.random.split(rng)
    dtype, clean = clean.dtype, clean.astype(jnp.float32)
    time = process.sample_time(time_rng, clean.shape[:1])
    noise = jax.random.normal(noise_rng, clean.shape)
    noisy = process.noisy(clean, noise, time)
    scaled, network_time = process.network_inputs(noisy, time)
    prediction = predict(scaled.astype(dtype), network_time).astype(jnp.float32)
    chex.assert_equal_shape([prediction, clean])
    error = jnp.square(prediction - process.target(clean, noise, time))
    loss = jnp.mean(error, axis=tuple(range(1, clean.ndim))) * process.weight(time)
    if weights is not None:
        chex.assert_equal_shape([loss, weights])
        loss *= weights.astype(jnp.float32)
    estimate = process.clean_from(prediction, noisy, time)
    return loss, {"noisy": noisy, "time": time, "clean": estimate}


def _at_least_float32(time):
    time = jnp.asarray(time)
    return time.astype(jnp.promote_types(time.dtype, jnp.float32))


def _check_type(option, value, default):
    """Raises `ValueError` for a value that is of another type than its default."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    kind = type(default)
    fits = {
        bool: isinstance(value, bool),
        int: number and isinstance(value, int),
        float: number and math.isfinite(value),
    }
    if not fits.get(kind, True):
        wanted = {bool: "True or False", int: "a whole number"}
        raise ValueError(
            f"option {option} {value!r} is not {wanted.get(kind, 'a finite number')}, "
            f"as {default} is"
        )


def _check_name(what, name, choices):
    if name not in choices:
        listed = ", ".join(str(choice) for choice in choices)
        raise ValueError(f"unknown {what} {name!r}; choose one of {listed}")
