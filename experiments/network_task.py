"""What the experiments that train one network share: its task, its data, field checks.

An experiment brings the model, its inputs and its loss.
"""

import dataclasses
import inspect

from experiments import settings
from jaxmodels.train import metrics, optimizer, task

TASK_FIELDS = settings.TASK_FIELDS
# Of the data section, what feeds batches rather than makes them.
LOADING = ("num_threads", "num_workers")


def task_of(config, model, inputs, loss, summarize=metrics.means, renew=None):
    """The task that trains one network, "model".

    Args:
        config: sections `optimizer` and `num_steps` are read.
        model: Linen module.
        inputs: arrays that `model.init` takes after the rng; zeros will do.
        loss: (apply, batch, rng, *, train) -> loss, metrics; `apply(*arrays,
            **keywords)` calls the model with its variables and the key of its dropout.
            A loss with a keyword `step` gets the number of the update too.
        summarize: accumulated metrics -> name to float.
        renew: (collections, step) -> collections, before an update; none when omitted.
    """
    told_step = "step" in inspect.signature(loss).parameters
    fields = dict(config.optimizer)
    shared = {name: fields.pop(name) for name in TASK_FIELDS if name in fields}

    def init(rng):
        return {"model": model.init(rng, *inputs)}

    def loss_fn(params, collections, batch, rng, *, step, train):
        own = collections["model"]
        if train and renew is not None:
            own = renew(own, step)

        def apply(*arrays, **keywords):
            variables = {"params": params["model"], **own}
            return model.apply(variables, *arrays, **keywords, rngs={"dropout": rng})

        more = {"step": step} if told_step else {}
        value, values = loss(apply, batch, rng, train=train, **more)
        return value, (values, {"model": own})

    return task.from_losses(
        init,
        {"model": loss_fn},
        {"model": optimizer.make_optimizer(num_steps=config.num_steps, **fields)},
        networks={"model": model},
        summarize=summarize,
        **shared,
    )


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
    return settings.check_names(path, section, *fields_of(module))


def fields_of(module):
    """Names of the fields of a dataclass or a module, and of those to be given."""
    fields = [f for f in dataclasses.fields(module) if f.name not in ("parent", "name")]
    needed = [field.name for field in fields if field.default is dataclasses.MISSING]
    return [field.name for field in fields], needed


def check_model(make_model, config):
    """The model of a config, or None, and what its constructor says, line by line."""
    try:
        return make_model(config), []
    except (TypeError, ValueError) as error:
        return None, [f"model: {line}" for line in str(error).splitlines()]
