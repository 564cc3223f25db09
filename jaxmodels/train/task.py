"""A task is what the training loop knows about an experiment: pure functions.

`Task` is to the loop what `optax.GradientTransformation` is to an optimizer.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxmodels.train import state as train_state
from jaxmodels.train.metrics import means
from jaxmodels.train.state import TrainState

PyTree = Any
Batch = Mapping[str, jax.Array]
Metrics = Mapping[str, tuple[jax.Array, jax.Array]]  # name -> (sum, count)
LossFn = Callable[..., tuple[jax.Array, tuple[Metrics, PyTree]]]


class Task(NamedTuple):
    """Pure functions that start, advance, measure and report a training run.

    Attributes:
        init: rng -> state.
        train_step: (state, batch, rng) -> (state, metrics).
        eval_step: (state, batch, rng) -> metrics.
        summarize: accumulated metrics -> name to float.
        networks: network -> module; written to `model.json`, so that a pipeline can
            rebuild what was trained. May be empty.
    """

    init: Callable[[jax.Array], TrainState]
    train_step: Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Metrics]]
    eval_step: Callable[[TrainState, Batch, jax.Array], Metrics]
    summarize: Callable[[Metrics], Mapping[str, float]] = means
    networks: Mapping[str, nn.Module] = {}


def from_losses(
    init: Callable[[jax.Array], Mapping[str, PyTree]],
    losses: Mapping[str, LossFn],
    optimizers: Mapping[str, optax.GradientTransformation],
    *,
    networks: Mapping[str, nn.Module] | None = None,
    ema_decay: float = 0.0,
    microbatches: int = 1,
    summarize: Callable[[Metrics], Mapping[str, float]] = means,
) -> Task:
    """Builds the task that gives each network its own loss and optimizer.

    A network with a loss is trained; a network without one stays frozen. Several
    trained networks are updated in turn, in the order of `losses`, each seeing the
    others' newest parameters. An update in which a loss, a gradient, an update or a
    collection is not finite is refused: the step advances, everything else stays as
    it was, and `skips` counts it.

    Args:
        init: rng -> {network: variables}, with "params" among the variables.
        losses: network -> loss_fn(params, collections, batch, rng, *, step, train)
            -> loss, (metrics, collections). `params` and `collections` hold every
            network; the returned collections hold at least what changed. Metrics
            are (sum, count); "loss" is among them, and its count weights the
            microbatches.
        optimizers: trained network -> optimizer.
        networks: network -> module.
        ema_decay: decay of the parameter average used for evaluation; 0 keeps none.
        microbatches: the gradient is accumulated over so many slices of the batch,
            scanned within one step.
        summarize: metrics -> name to float.

    Raises:
        ValueError: losses and optimizers name different networks, or the batch does
            not divide into the microbatches.
    """
    if set(losses) != set(optimizers):
        raise ValueError(
            f"losses are given for {sorted(losses)} and optimizers for "
            f"{sorted(optimizers)}; name the same networks in both"
        )

    def label(name, metrics):
        prefix = f"{name}/" if len(losses) > 1 else ""
        return {prefix + key: value for key, value in metrics.items()}

    def start(rng):
        variables = init(rng)
        unknown = set(losses) - set(variables)
        if unknown:
            raise ValueError(
                f"losses name {sorted(unknown)}; the networks are {sorted(variables)}"
            )
        params = {name: own["params"] for name, own in variables.items()}
        collections = {
            name: {key: value for key, value in own.items() if key != "params"}
            for name, own in variables.items()
        }
        opt_state = {name: optimizers[name].init(params[name]) for name in losses}
        ema = {name: params[name] for name in losses} if ema_decay else {}
        return train_state.start(params, opt_state, ema, collections)

    def train_step(state, batch, rng):
        params, opt_state = dict(state.params), dict(state.opt_state)
        metrics: dict = {}
        collections, finite = state.collections, jnp.ones((), bool)
        for name, loss_fn in losses.items():

            def objective(own, collections, batch, rng, name=name, loss_fn=loss_fn):
                every = {**params, name: own}
                loss, (metrics, changed) = loss_fn(
                    every, collections, batch, rng, step=state.step, train=True
                )
                chex.assert_shape(loss, ())
                return loss, (metrics, {**collections, **changed})

            loss, grads, own_metrics, collections = accumulate(
                objective, params[name], collections, batch, rng, microbatches
            )
            updates, opt_state[name] = optimizers[name].update(
                grads, opt_state[name], params[name]
            )
            params[name] = optax.apply_updates(params[name], updates)
            norms = [optax.tree.norm(tree) for tree in (grads, updates)]
            finite &= jnp.isfinite(jnp.stack([loss, *norms])).all()
            grad_norm = norms[0], jnp.ones(())
            metrics |= label(name, {**own_metrics, "grad_norm": grad_norm})
        finite &= all_finite(collections)
        ema = optax.incremental_update(
            {name: params[name] for name in state.ema}, state.ema, 1.0 - ema_decay
        )
        accepted = state.replace(
            params=params, opt_state=opt_state, ema=ema, collections=collections
        )
        state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), accepted, state
        )
        skipped = 1 - finite.astype(jnp.int32)
        in_a_row, in_all = state.skips
        skips = jnp.stack([(in_a_row + 1) * skipped, in_all + skipped])
        metrics["skipped"] = skipped.astype(jnp.float32), jnp.ones(())
        return state.replace(step=state.step + 1, skips=skips), metrics

    def eval_step(state, batch, rng):
        params = {**state.params, **state.ema}
        metrics: dict = {}
        for name, loss_fn in losses.items():
            _, (own_metrics, _) = loss_fn(
                params, state.collections, batch, rng, step=state.step, train=False
            )
            metrics |= label(name, own_metrics)
        return metrics

    return Task(start, train_step, eval_step, summarize, networks or {})


def accumulate(objective, params, collections, batch, rng, microbatches):
    """Loss and gradient of a batch, scanned over `microbatches` slices of it.

    Each slice weighs as much as the count of its "loss" metric, so that the result is
    the gradient of the mean over the whole batch. Slice i holds the rows i,
    i + microbatches, ...: rows that a device already has.

    Args:
        objective: (params, collections, batch, rng) -> loss, (metrics, collections).

    Returns:
        loss [], gradients, metrics summed over the slices, collections.
    """
    gradient = jax.value_and_grad(objective, has_aux=True)
    if microbatches == 1:
        (loss, (metrics, collections)), grads = gradient(
            params, collections, batch, rng
        )
        return loss, grads, metrics, collections

    def split(x):
        if x.shape[0] % microbatches:
            raise ValueError(
                f"batch {x.shape[0]} does not divide into {microbatches} microbatches"
            )
        x = x.reshape(x.shape[0] // microbatches, microbatches, *x.shape[1:])
        return jnp.moveaxis(x, 1, 0)

    def step(carry, inputs):
        collections, sums = carry
        index, batch = inputs
        (loss, (metrics, collections)), grads = gradient(
            params, collections, batch, jax.random.fold_in(rng, index)
        )
        weight = metrics["loss"][1]
        weighted = jax.tree.map(lambda x: x * weight, (loss, grads))
        return (collections, jax.tree.map(jnp.add, sums, (weighted, metrics))), None

    slices = jax.tree.map(split, batch)
    (loss_shape, (metrics_shape, _)), grads_shape = jax.eval_shape(
        gradient, params, collections, jax.tree.map(lambda x: x[0], slices), rng
    )
    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype),
        ((loss_shape, grads_shape), metrics_shape),
    )
    (collections, (weighted, metrics)), _ = jax.lax.scan(
        step, (collections, zeros), (jnp.arange(microbatches), slices)
    )
    total = jnp.maximum(metrics["loss"][1], jnp.finfo(jnp.float32).tiny)
    loss, grads = jax.tree.map(lambda x: (x / total).astype(x.dtype), weighted)
    return loss, grads, metrics, collections


def all_finite(tree):
    """Whether every floating-point leaf is finite; bool []."""
    leaves = [
        jnp.isfinite(x).all()
        for x in jax.tree.leaves(tree)
        if jnp.issubdtype(x.dtype, jnp.inexact)
    ]
    return jnp.stack(leaves).all() if leaves else jnp.ones((), bool)
