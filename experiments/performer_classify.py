"""Classification of texts with a Performer encoder."""

import jax
import jax.numpy as jnp

from experiments import network_task, performer_common
from jaxmodels.data import labels
from jaxmodels.losses.classification import classification_loss
from jaxmodels.models import performer
from jaxmodels.models.performer_classifier import PerformerClassifier

LABEL_SMOOTHING = "label_smoothing"


def make_model(config):
    """The `PerformerClassifier` of a config.

    Raises:
        ValueError: fields that contradict each other, one line each.
    """
    fields = dict(config.model)
    spec = performer.AttentionSpec(**fields.pop("attention"))
    return PerformerClassifier(attention=spec, **fields)


def make_task(config):
    """The label of each text: nats and accuracy."""

    def loss(apply, batch):
        return classification_loss(
            apply(batch["inputs"], mask=batch["mask"]),
            batch["targets"],
            batch["weights"],
            label_smoothing=config.loss.get(LABEL_SMOOTHING, 0.0),
        )

    return performer_common.task_of(
        config,
        make_model(config),
        inputs=[jnp.zeros((1, config.data.length), jnp.int32)],
        loss=loss,
    )


def make_data(config):
    """Batches of the texts and labels that `config.data` names."""
    return network_task.make_data(
        config,
        labels.label_data,
        vocab_size=config.model.vocab_size,
        num_classes=config.model.num_classes,
    )


def abstract_batch(config):
    """The global batch of `make_data` as shapes and types."""
    rows, length = config.data.batch_size, config.data.length
    return {
        "inputs": jax.ShapeDtypeStruct((rows, length), "int32"),
        "mask": jax.ShapeDtypeStruct((rows, length), "bool"),
        "targets": jax.ShapeDtypeStruct((rows,), "int32"),
        "weights": jax.ShapeDtypeStruct((rows,), "float32"),
    }


def check(config):
    """What is wrong with the config for this experiment, one line each."""
    spec = config.model.get("attention", {})
    lines = network_task.check_fields("model", config.model, PerformerClassifier)
    lines += network_task.check_fields("model.attention", spec, performer.AttentionSpec)
    lines += performer_common.check_loss(config, more=(LABEL_SMOOTHING,))
    lines += network_task.check_data(
        config,
        labels.label_data,
        needed=("dataset", "batch_size", "length"),
        elsewhere=("vocab_size", "num_classes"),
    )
    if lines:
        return lines
    lines = labels.argument_errors(
        length=config.data.length,
        batch_size=1,  # Numbers are checked with those of all configs.
        vocabulary=config.data.get("vocabulary", "bytes"),
        vocab_size=config.model.vocab_size,
        listops=config.data.get("listops"),
    )
    lines = [f"data: {line}" for line in lines]
    model, problems = network_task.check_model(make_model, config)
    if model is not None:
        problems += _check_lengths(config)
    return lines + problems


def _check_lengths(config):
    limit, length = config.model.max_length, config.data.length
    if config.model.get("positions", "learned") != "learned" or length <= limit:
        return []
    return [f"data.length {length} is longer than model.max_length {limit}"]
