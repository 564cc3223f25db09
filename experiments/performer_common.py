"""What the experiments with a Performer share: the task of one network, field checks.

An experiment brings the model, its inputs and its loss.
"""

import dataclasses
import inspect
import math
import zlib

import jax

from experiments import settings
from jaxmodels.models import performer
from jaxmodels.train import metrics, optimizer, task

LOSS_FIELDS = ("feature_redraw_interval",)
TASK_FIELDS = settings.TASK_FIELDS
# Keeps the keys of redraws apart from those that the loop makes of the same seed.
REDRAW_STREAM = zlib.crc32(b"redraw of random features")
# Of the data section, what feeds batches rather than makes them.
LOADING = ("num_threads", "num_workers")


def task_of(config, model, inputs, loss, summarize=metrics.means):
    """The task that trains one network, "model".

    The projections of FAVOR+ are drawn anew before every
    `config.loss.feature_redraw_interval`-th update, and never where that is 0.

    Args:
        config: sections `loss`, `optimizer`, `seed` and `num_steps` are read.
        model: Linen module.
        inputs: arrays that `model.init` takes after the rng; zeros will do.
        loss: (apply, batch) -> loss, metrics; `apply(*arrays, **keywords)` calls the
            model with its variables, dropout and mode.
        summarize: accumulated metrics -> name to float.
    """
    fields = dict(config.optimizer)
    shared = {name: fields.pop(name) for name in TASK_FIELDS if name in fields}

    def init(rng):
        return {"model": model.init(rng, *inputs)}

    def loss_fn(params, collections, batch, rng, *, step, train):
        own = collections["model"]
        if train and config.loss.feature_redraw_interval:
            own = redraw(own, step)

        def apply(*arrays, **keywords):
            variables = {"params": params["model"], **own}
            rngs = {"dropout": rng}
            return model.apply(variables, *arrays, **keywords, train=train, rngs=rngs)

        value, values = loss(apply, batch)
        return value, (values, {"model": own})

    def redraw(own, step):
        rng = redraw_key(config.seed, step)
        due = (step % config.loss.feature_redraw_interval == 0) & (step > 0)
        return jax.lax.cond(
            due, lambda own: performer.redraw(own, rng), lambda own: dict(own), own
        )

    return task.from_losses(
        init,
        {"model": loss_fn},
        {"model": optimizer.make_optimizer(num_steps=config.num_steps, **fields)},
        networks={"model": model},
        summarize=summarize,
        **shared,
    )


def redraw_key(seed, step):
    """The key of the projections that are drawn before update `step`.

    Of nothing else, so that all microbatches of an update see the same features.
    """
    stream = jax.random.fold_in(jax.random.key(seed), REDRAW_STREAM)
    return jax.random.fold_in(stream, step)


def with_perplexity(totals):
    """Means, and the perplexity of a token."""
    values = metrics.means(totals)
    return {**values, "perplexity": math.exp(min(values["loss"], 700.0))}


def make_data(config, function, **elsewhere):
    """Calls `function` with the data section, the seed and `eval.num_batches`.

    Args:
        function: takes `seed`, `num_eval_batches`, the fields of `config.data` that are
            not in `LOADING`, and `elsewhere`.
    """
    section = {k: config.data[k] for k in config.data if k not in LOADING}
    return function(
        num_eval_batches=config.eval.num_batches,
        seed=config.seed,
        **section,
        **elsewhere,
    )


def check_loss(config, more=()):
    """Lines for fields of the loss section; `more` are those the experiment adds."""
    fields = (*LOSS_FIELDS, *more)
    return settings.check_names("loss", config.loss, fields, LOSS_FIELDS)


def check_data(config, function, needed, elsewhere=()):
    """Lines for fields of the data section that `make_data` could not pass on.

    Args:
        needed: fields that must be there.
        elsewhere: keywords of `function` that are not of the data section.
    """
    given = ("num_eval_batches", "seed", *elsewhere)
    keywords = inspect.signature(function).parameters
    known = [*(name for name in keywords if name not in given), *LOADING]
    return settings.check_names("data", config.data, known, needed)


def check_fields(path, section, module):
    """Holds a section against the fields of a dataclass or a module."""
    fields = [f for f in dataclasses.fields(module) if f.name not in ("parent", "name")]
    needed = [field.name for field in fields if field.default is dataclasses.MISSING]
    return settings.check_names(path, section, [field.name for field in fields], needed)


def check_model(make_model, config):
    """The model of a config, or None, and what its constructor says, line by line."""
    try:
        return make_model(config), []
    except (TypeError, ValueError) as error:
        return None, [f"model: {line}" for line in str(error).splitlines()]
