"""What the experiments with a Performer share: projections drawn anew, their loss.

An experiment brings the model, its inputs and its loss.
"""

import math
import zlib

import jax

from experiments import network_task, settings
from jaxmodels.models import performer
from jaxmodels.train import metrics

LOSS_FIELDS = ("feature_redraw_interval",)
# Keeps the keys of redraws apart from those that the loop makes of the same seed.
REDRAW_STREAM = zlib.crc32(b"redraw of random features")


def task_of(config, model, inputs, loss, summarize=metrics.means):
    """The task that trains one Performer, "model".

    The projections of FAVOR+ are drawn anew before every
    `config.loss.feature_redraw_interval`-th update, and never where that is 0.

    Args:
        config: sections `loss`, `optimizer`, `seed` and `num_steps` are read.
        model, inputs, summarize: as in `network_task.task_of`.
        loss: (apply, batch) -> loss, metrics; `apply(*arrays, **keywords)` calls the
            model with its variables, dropout and mode.
    """
    interval = config.loss.feature_redraw_interval

    def with_mode(apply, batch, rng, *, train):
        def apply_in_mode(*arrays, **keywords):
            return apply(*arrays, **keywords, train=train)

        return loss(apply_in_mode, batch)

    def redraw(own, step):
        rng = redraw_key(config.seed, step)
        due = (step % interval == 0) & (step > 0)
        return jax.lax.cond(
            due, lambda own: performer.redraw(own, rng), lambda own: dict(own), own
        )

    return network_task.task_of(
        config, model, inputs, with_mode, summarize, redraw if interval else None
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


def check_loss(config, more=()):
    """Lines for fields of the loss section; `more` are those the experiment adds."""
    fields = (*LOSS_FIELDS, *more)
    return settings.check_names("loss", config.loss, fields, LOSS_FIELDS)
