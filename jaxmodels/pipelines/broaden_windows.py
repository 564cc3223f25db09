"""Overlapping windows of one long record, denoised together.

The sampler walks on the whole record (the canvas). At each evaluation every window is
cut out of it, denoised by the network beside its own condition, and the clean
estimates are averaged where windows overlap, with weights that fall towards their ends
(Bar-Tal et al., 2023, eq. 5) and with the window's unit. So neighbors see each other's
estimate at every step, and share their noise.

A window of quiet motion has another size than one of strong motion, and the network
wants each in its own unit. The canvas is in a unit that changes slowly along the
record, its `scale`; what a window sees is the canvas with the signal in it, but not
the noise, brought to the window's own unit. The error of an estimate grows with its
unit: by a weight that did not fall with it a strong window would fill what it shares
with a quiet one with hundreds of the quiet one's units, more than the network ever saw,
and each step would make more of them.

Shapes use T samples of a record, N samples of a window, C components, W windows,
M samples (draws), S scalars.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.diffusion import guidance as guidances
from jaxmodels.diffusion import process as processes
from jaxmodels.diffusion import samplers

BLOCK = 32  # windows that the network reads at once


class Plan(NamedTuple):
    """What a compiled program depends on besides shapes.

    Attributes:
        model: `SignalDiT`.
        process: the one it was trained on.
        sampler: of `joint_sampler`.
        guidance: 1 evaluates the network with the condition alone.
    """

    model: Any
    process: processes.Process
    sampler: samplers.Sampler
    guidance: float


@flax.struct.dataclass
class Inputs:
    """What every step reads.

    Attributes:
        variables: of the model.
        context: of the W windows; made once.
        dropped: the same without the condition; None without guidance.
        scalars: [W, S].
        starts: int32 [W], first sample of each window.
    """

    variables: Any
    context: Any
    dropped: Any
    scalars: jax.Array
    starts: jax.Array


class Units(NamedTuple):
    """Units of windows and canvas, and what windows weigh, of M samples or of one.

    Attributes:
        log_size: [M, W], ln of each window's unit.
        log_scale: [M, T], ln of the canvas's unit.
        share: [M, W], what `weights` of a window are multiplied by.
        total: [M, T], sum of the weights.
    """

    log_size: jax.Array
    log_scale: jax.Array
    share: jax.Array
    total: jax.Array


@dataclasses.dataclass(frozen=True)
class CanvasProcess(processes.Process):
    """A process whose `predict` gets the noisy array and the time as they are."""

    def network_inputs(self, noisy, time):
        return noisy, time


@functools.lru_cache(maxsize=32)
def joint_sampler(process, name, num_steps):
    """The sampler of the canvas, whose `predict` returns clean estimates.

    Raises:
        ValueError: see `samplers.make_sampler`.
    """
    canvas = CanvasProcess(process.schedule, "clean")
    return samplers.make_sampler(name, canvas, num_steps)


def starts(length, window):
    """First samples of windows that cover a record and overlap by half or more.

    Args:
        length: T, at least N.
        window: N.

    Returns:
        int32 [W], rising from 0 to T - N.
    """
    count = 1 + math.ceil((length - window) / (window / 2))
    return np.round(np.linspace(0, length - window, count)).astype(np.int32)


def weights(window):
    """Weights [N] of a window in the average, a raised cosine that stays above 0."""
    rise = np.sin(np.pi * (np.arange(window) + 0.5) / window) ** 2
    return np.maximum(rise, 1e-3)


def read(plan, variables, condition, scalars, first):
    """Encodes the windows of a record, once for all steps and samples.

    Args:
        condition: float32 [W, N, C], each in its own unit.
        scalars: float32 [W, S].
        first: of `starts`.
    """
    context, dropped = encode(
        plan.model, variables, condition, scalars, plan.guidance != 1
    )
    return Inputs(variables, context, dropped, jnp.asarray(scalars), jnp.asarray(first))


@functools.partial(jax.jit, static_argnames=("model", "with_dropped"))
def encode(model, variables, condition, scalars, with_dropped):
    """The context of windows, and that without the condition or None."""

    def run(keep):
        keep = jnp.full(condition.shape[:1], keep)
        return model.apply(
            variables, condition, scalars, keep=keep, method=model.encode
        )

    return run(True), run(False) if with_dropped else None


def denoise(plan, inputs, rngs, sizes, length, bar):
    """All steps of the sampler, on the host.

    Args:
        inputs: of `read`.
        rngs: keys [M].
        sizes: [M, W], the unit of each window of each sample.
        length: T.
        bar: its `update(1)` is called after each step.

    Returns:
        float64 [M, T, C] in units of the scale, and the scale, float64 [M, T].
    """
    window = plan.model.num_samples
    first = np.asarray(inputs.starts)
    shares = sizes.min(axis=1, keepdims=True) / sizes
    weight, covered = weights(window), np.zeros(length)
    total, log_scale = np.zeros((2, len(sizes), length))
    for start, share, log_size in zip(first, shares.T, np.log(sizes).T, strict=True):
        covered[start : start + window] += weight
        total[:, start : start + window] += weight * share[:, None]
        log_scale[:, start : start + window] += weight * log_size[:, None]
    log_scale /= covered
    units = Units(
        *(
            jnp.asarray(x, jnp.float32)
            for x in (np.log(sizes), log_scale, shares, total)
        )
    )
    states = _begin(plan, rngs, length)
    for index in range(plan.sampler.num_steps):
        states = _step(plan, inputs, states, index, units)
        # Without waiting the bar would show what was asked for, not what is done.
        jax.block_until_ready(states)
        bar.update(1)
    found = jax.vmap(plan.sampler.result)(states)
    return np.asarray(found, np.float64)[:, 0], np.exp(log_scale)


@functools.partial(jax.jit, static_argnames=("plan", "length"))
def _begin(plan, rngs, length):
    shape = 1, length, plan.model.channels
    return jax.vmap(lambda rng: plan.sampler.init(rng, shape))(rngs)


@functools.partial(jax.jit, static_argnames="plan")
def _step(plan, inputs, states, index, units):
    def step(item):
        state, own = item
        predict = _joint(plan, inputs, own, state.clean[0])
        return plan.sampler.step(state, index, predict)

    num_samples, num_windows = units.share.shape
    at_once = max(1, min(num_samples, BLOCK // num_windows))
    return jax.lax.map(step, (states, units), batch_size=at_once)


def _joint(plan, inputs, units, before):
    """(canvas [1, T, C], time [1]) -> clean estimate of the canvas [1, T, C].

    Args:
        units: `Units` of one sample.
        before: [T, C], the clean estimate of the step before.
    """
    window = plan.model.num_samples
    weight = jnp.asarray(weights(window), jnp.float32)[:, None]
    weight = units.share[:, None, None] * weight  # W N 1
    alone = units.share.shape[0] == 1

    def cut(canvas, start):
        return jax.lax.dynamic_slice_in_dim(canvas, start, window)

    def predict(canvas, time):
        if alone:
            return _denoise(plan, inputs, canvas, time)
        views = jax.vmap(cut, (None, 0))(canvas[0], inputs.starts)
        signal = jax.vmap(cut, (None, 0))(before, inputs.starts)
        ratio = jax.vmap(cut, (None, 0))(units.log_scale, inputs.starts)
        ratio = jnp.exp(ratio - units.log_size[:, None])[..., None]  # W N 1
        # The noisy canvas is alpha * signal + noise: the signal changes its unit.
        views += plan.process.alpha(time[0]) * (ratio - 1.0) * signal
        time = jnp.broadcast_to(time, views.shape[:1])
        clean = _denoise(plan, inputs, views, time) / ratio

        # One after the other: sums in a fixed order are the same in every run.
        def add(canvas, item):
            start, values = item
            values += cut(canvas, start)
            return jax.lax.dynamic_update_slice_in_dim(canvas, values, start, 0), None

        empty = jnp.zeros(canvas.shape[1:], clean.dtype)
        merged, _ = jax.lax.scan(add, empty, (inputs.starts, weight * clean))
        return (merged / units.total[:, None])[None]

    return predict


def _denoise(plan, inputs, noisy, time):
    """Clean estimates of windows [W, N, C] in their own units, at times [W]."""
    model, process = plan.model, plan.process

    def predictor(context, scalars):
        def predict(noisy, time):
            return model.apply(
                inputs.variables, noisy, time, scalars, context, method=model.decode
            )

        return predict

    def block(scaled, network_time, scalars, context, dropped):
        predict = predictor(context, scalars)
        if plan.guidance != 1:
            without = predictor(dropped, scalars)
            predict = guidances.guided(predict, without, plan.guidance)
        return predict(scaled, network_time)

    def rows_of(rows):
        contexts = [
            None if context is None else context.take(rows)
            for context in (inputs.context, inputs.dropped)
        ]
        return block(scaled[rows], network_time[rows], inputs.scalars[rows], *contexts)

    scaled, network_time = process.network_inputs(noisy, time)
    count = noisy.shape[0]
    if count <= BLOCK:
        prediction = block(
            scaled, network_time, inputs.scalars, inputs.context, inputs.dropped
        )
    else:
        blocks = math.ceil(count / BLOCK)
        rows = np.minimum(np.arange(blocks * BLOCK), count - 1).reshape(blocks, BLOCK)
        found = jax.lax.map(rows_of, rows)
        prediction = found.reshape(-1, *noisy.shape[1:])[:count]
    return process.clean_from(prediction, noisy, time)
