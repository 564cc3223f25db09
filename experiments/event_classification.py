"""Classes of events from their waveforms, such as foreshocks and aftershocks."""

import jax

from experiments import network_task, seismic_networks, settings
from jaxmodels.data import waveforms
from jaxmodels.losses.classification import classification_loss
from jaxmodels.models.event_classifier import EventClassifier

PRETRAINED = seismic_networks.PRETRAINED
LOSS_FIELDS = ("label_smoothing",)
# `head` has the other fields of `EventClassifier`.
PARTS = ("encoder", "backbone", "head")
IN_MODEL = ("encoder", "backbone", "channels", *seismic_networks.SHARED)


def make_model(config):
    """The `EventClassifier` of a config.

    Raises:
        ValueError: fields that contradict each other, one line each.
    """
    return EventClassifier(
        encoder=seismic_networks.make_encoder(config),
        backbone=seismic_networks.make_backbone(config),
        channels=config.data.channels,
        **seismic_networks.dtypes(config),
        **config.model.head,
    )


def make_task(config):
    """The class of each window: nats and accuracy."""

    def loss(apply, batch, rng, *, train):
        return classification_loss(
            apply(batch["inputs"], train=train),
            batch["targets"],
            batch["weights"],
            label_smoothing=config.loss.label_smoothing if train else 0.0,
        )

    inputs = [seismic_networks.waveforms(config)]
    return network_task.task_of(config, make_model(config), inputs, loss)


def make_data(config):
    """Batches of windows with the class of their event."""
    classes = config.model.head.num_classes
    data = seismic_networks.make_data(config, waveforms.event_data, num_classes=classes)
    return data._replace(baselines={**data.baselines, "chance_accuracy": 1.0 / classes})


def abstract_batch(config):
    """The global batch of `make_data` as shapes and types."""
    batch = seismic_networks.abstract_waveforms(config)
    rows = config.data.batch_size
    return batch | {"targets": jax.ShapeDtypeStruct((rows,), "int32")}


def check(config):
    """What is wrong with the config for this experiment, one line each."""
    lines = seismic_networks.check_networks(config, PARTS)
    if "head" in config.model:
        lines += seismic_networks.check_section(
            "model.head", config.model.head, EventClassifier, elsewhere=IN_MODEL
        )
    lines += settings.check_names("loss", config.loss, LOSS_FIELDS, LOSS_FIELDS)
    lines += seismic_networks.check_data(
        config, waveforms.event_data, elsewhere=("num_classes",)
    )
    if lines:
        return lines
    _, lines = network_task.check_model(make_model, config)
    return lines + seismic_networks.check_preprocessing(config)
