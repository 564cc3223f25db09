"""Sequence to sequence with a Performer: translation, summarization, toy tasks."""

import jax
import jax.numpy as jnp

from experiments import network_task, performer_common
from jaxmodels.data import pairs
from jaxmodels.layers.attention import AttentionSpec
from jaxmodels.losses.classification import sequence_loss
from jaxmodels.models import performer

SIDES = {"encoder": ("attention",), "decoder": ("attention", "cross_attention")}
# What the data section is told by the model section.
SIZES = ("vocab_size", "source_vocab_size")
LENGTHS = ("source_length", "target_length")


def make_model(config):
    """The `PerformerSeq2Seq` of a config.

    Raises:
        ValueError: fields that contradict each other, one line each.
    """
    fields = dict(config.model)
    for side, kinds in SIDES.items():
        sizes = dict(fields.pop(side))
        for kind in set(kinds) & set(sizes):
            sizes[kind] = AttentionSpec(**sizes[kind])
        fields[side] = performer.Stack(**sizes)
    return performer.PerformerSeq2Seq(**fields)


def make_task(config):
    """Next-token prediction of the target: nats, bits per byte and accuracies.

    The decoder reads the true target, so the sequence accuracy is that of sequences
    whose every token is right after the right ones; the score of what a model generates
    by itself is `jaxmodels.pipelines.score`'s.
    """

    def loss(apply, batch):
        logits = apply(
            batch["source"], batch["inputs"], source_mask=batch["source_mask"]
        )
        return sequence_loss(
            logits,
            batch["targets"],
            batch["weights"],
            batch["target_bytes"],
            config.loss.get("label_smoothing", 0.0),
        )

    lengths = [config.data[name] for name in LENGTHS]
    return performer_common.task_of(
        config,
        make_model(config),
        inputs=[jnp.zeros((1, length), jnp.int32) for length in lengths],
        loss=loss,
        summarize=performer_common.with_perplexity,
    )


def make_data(config):
    """Batches of the pairs of texts that `config.data` names."""
    return network_task.make_data(config, pairs.pair_data, **vocab_sizes(config))


def vocab_sizes(config):
    """The sizes of the vocabularies, as the model section states them."""
    return {name: config.model.get(name) for name in SIZES}


def abstract_batch(config):
    """The global batch of `make_data` as shapes and types."""
    rows = config.data.batch_size
    source, target = ((rows, config.data[name]) for name in LENGTHS)
    return {
        "source": jax.ShapeDtypeStruct(source, "int32"),
        "source_mask": jax.ShapeDtypeStruct(source, "bool"),
        "inputs": jax.ShapeDtypeStruct(target, "int32"),
        "targets": jax.ShapeDtypeStruct(target, "int32"),
        "weights": jax.ShapeDtypeStruct(target, "float32"),
        "target_bytes": jax.ShapeDtypeStruct(target, "float32"),
    }


def check(config):
    """What is wrong with the config for this experiment, one line each."""
    lines = network_task.check_fields("model", config.model, performer.PerformerSeq2Seq)
    lines += _check_sides(config.model)
    lines += performer_common.check_loss(config, more=("label_smoothing",))
    lines += network_task.check_data(
        config,
        pairs.pair_data,
        needed=("dataset", "batch_size", *LENGTHS),
        elsewhere=SIZES,
    )
    if lines:
        return lines
    lines = pairs.argument_errors(
        source_length=1,  # Numbers are checked with those of all configs.
        target_length=1,
        batch_size=1,
        vocabulary=config.data.get("vocabulary", "bytes"),
        source_vocabulary=config.data.get("source_vocabulary"),
        **vocab_sizes(config),
    )
    model, problems = network_task.check_model(make_model, config)
    return lines + problems + ([] if model is None else _check_lengths(config, model))


def _check_sides(model):
    """Lines for the fields of encoder and decoder."""
    lines = []
    for side, kinds in SIDES.items():
        path, section = f"model.{side}", model.get(side, {})
        lines += network_task.check_fields(path, section, performer.Stack)
        for kind in kinds:
            if kind in section:
                lines += network_task.check_fields(
                    f"{path}.{kind}", section[kind], AttentionSpec
                )
    return lines


def _check_lengths(config, model):
    """Lines for rows that are longer than the model can read."""
    limits = model.source_limit, model.context_limit
    return [
        f"data.{name} {config.data[name]} is longer than model.max_length {limit}"
        for name, limit in zip(LENGTHS, limits, strict=True)
        if limit is not None and config.data[name] > limit
    ]
