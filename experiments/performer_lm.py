"""Causal language modelling with a Performer."""

import dataclasses
import inspect
import math

import jax
import jax.numpy as jnp

from experiments import settings
from jaxmodels.data import language
from jaxmodels.losses.classification import language_model_loss
from jaxmodels.models import performer
from jaxmodels.train import metrics, optimizer, task

LOSS_FIELDS = ("feature_redraw_interval",)
TASK_FIELDS = ("ema_decay", "microbatches")
# What the input pipeline is told by other sections, and what it is not told.
ELSEWHERE = ("vocab_size", "num_eval_batches", "seed")
LOADING = ("num_threads", "num_workers")


def make_model(config):
    """The `PerformerLM` of a config.

    Raises:
        ValueError: fields that contradict each other, one line each.
    """
    fields = dict(config.model)
    spec = performer.AttentionSpec(**fields.pop("attention"))
    return performer.PerformerLM(attention=spec, **fields)


def make_task(config):
    """Next-token prediction: nats, bits per byte and accuracy.

    The projections of FAVOR+ are drawn anew before every
    `loss.feature_redraw_interval`-th update, and never where that is 0.
    """
    model = make_model(config)
    fields = dict(config.optimizer)
    shared = {name: fields.pop(name) for name in TASK_FIELDS if name in fields}

    def init(rng):
        tokens = jnp.zeros((1, config.data.length), jnp.int32)
        return {"model": model.init(rng, tokens)}

    def loss_fn(params, collections, batch, rng, *, step, train):
        own = collections["model"]
        if train and config.loss.feature_redraw_interval:
            own = redraw(own, step)
        logits = model.apply(
            {"params": params["model"], **own},
            batch["inputs"],
            positions=batch["positions"],
            segment_ids=batch["segment_ids"],
            train=train,
            rngs={"dropout": rng},
        )
        loss, values = language_model_loss(
            logits, batch["targets"], batch["weights"], batch["target_bytes"]
        )
        return loss, (values, {"model": own})

    def redraw(own, step):
        # Keyed by the step alone: all microbatches of an update see the same features.
        rng = jax.random.fold_in(jax.random.key(config.seed), step)
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


def summarize(totals):
    """Means, and the perplexity of a token."""
    values = metrics.means(totals)
    return {**values, "perplexity": math.exp(min(values["loss"], 700.0))}


def make_data(config):
    """Batches of the text that `config.data` names."""
    return language.language_model_data(
        vocab_size=config.model.vocab_size,
        num_eval_batches=config.eval.num_batches,
        seed=config.seed,
        **{name: config.data[name] for name in config.data if name not in LOADING},
    )


def abstract_batch(config):
    """The global batch of `make_data` as shapes and types."""
    shape = config.data.batch_size, config.data.length
    whole, real = (jax.ShapeDtypeStruct(shape, kind) for kind in ("int32", "float32"))
    integers = dict.fromkeys(("inputs", "targets", "segment_ids", "positions"), whole)
    return integers | dict.fromkeys(("weights", "target_bytes"), real)


def check(config):
    """What is wrong with the config for this experiment, one line each."""
    spec = config.model.get("attention", {})
    lines = _check_fields("model", config.model, performer.PerformerLM)
    lines += _check_fields("model.attention", spec, performer.AttentionSpec)
    lines += settings.check_names("loss", config.loss, LOSS_FIELDS, LOSS_FIELDS)
    keywords = inspect.signature(language.language_model_data).parameters
    known = [*(name for name in keywords if name not in ELSEWHERE), *LOADING]
    lines += settings.check_names("data", config.data, known, ("batch_size", "length"))
    if lines:
        return lines
    lines = language.argument_errors(
        length=1,  # Numbers are checked with those of all configs.
        batch_size=1,
        vocabulary=config.data.get("vocabulary", "bytes"),
        vocab_size=config.model.vocab_size,
    )
    try:
        limit = make_model(config).context_limit
    except (TypeError, ValueError) as error:
        return lines + [f"model: {line}" for line in str(error).splitlines()]
    if limit is not None and config.data.length > limit:
        lines.append(
            f"data.length {config.data.length} is longer than model.max_length {limit}"
        )
    return lines


def _check_fields(path, section, module):
    """Holds a section against the fields of a dataclass or a module."""
    fields = [f for f in dataclasses.fields(module) if f.name not in ("parent", "name")]
    needed = [field.name for field in fields if field.default is dataclasses.MISSING]
    return settings.check_names(path, section, [field.name for field in fields], needed)
