"""Causal language modelling with a Performer."""

import jax
import jax.numpy as jnp

from experiments import network_task, performer_common
from jaxmodels.data import language
from jaxmodels.losses.classification import language_model_loss
from jaxmodels.models import performer


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

    def loss(apply, batch):
        logits = apply(
            batch["inputs"],
            positions=batch["positions"],
            segment_ids=batch["segment_ids"],
        )
        return language_model_loss(
            logits, batch["targets"], batch["weights"], batch["target_bytes"]
        )

    return performer_common.task_of(
        config,
        make_model(config),
        inputs=[jnp.zeros((1, config.data.length), jnp.int32)],
        loss=loss,
        summarize=performer_common.with_perplexity,
    )


def make_data(config):
    """Batches of the text that `config.data` names."""
    return network_task.make_data(
        config, language.language_model_data, vocab_size=config.model.vocab_size
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
    lines = network_task.check_fields("model", config.model, performer.PerformerLM)
    lines += network_task.check_fields("model.attention", spec, performer.AttentionSpec)
    lines += performer_common.check_loss(config)
    lines += network_task.check_data(
        config,
        language.language_model_data,
        needed=("batch_size", "length"),
        elsewhere=("vocab_size",),
    )
    if lines:
        return lines
    lines = language.argument_errors(
        length=1,  # Numbers are checked with those of all configs.
        batch_size=1,
        vocabulary=config.data.get("vocabulary", "bytes"),
        vocab_size=config.model.vocab_size,
    )
    model, problems = network_task.check_model(make_model, config)
    limit = None if model is None else model.context_limit
    if limit is not None and config.data.length > limit:
        problems.append(
            f"data.length {config.data.length} is longer than model.max_length {limit}"
        )
    return lines + problems
