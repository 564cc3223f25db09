"""Contrastive pretraining on waveforms without labels, with `ContrastivePretrainer`."""

import jax
import jax.numpy as jnp

from experiments import network_task, seismic_networks, settings
from jaxmodels.data import waveforms
from jaxmodels.layers.span_masks import mask_spans
from jaxmodels.losses import contrastive
from jaxmodels.models.contrastive import ContrastivePretrainer
from jaxmodels.models.gumbel_quantizer import (
    SCHEDULES,
    GumbelVectorQuantizer,
    temperature_at,
)
from jaxmodels.train import metrics

LOSS_FIELDS = (
    "temperature",
    "num_negatives",
    "diversity_weight",
    "perplexity_over",
    "mask_rule",
    "mask_prob",
    "mask_length",
    "min_masks",
    "mask_channel_prob",
    "mask_channel_length",
    "gumbel_start",
    "gumbel_end",
    "gumbel_schedule",
    "gumbel_decay",
)
PARTS = ("encoder", "backbone", "quantizer", "projection_dim", "feature_dropout")
SHARES, CHOSEN = "code_shares", "chosen_codes"


def make_model(config):
    """The `ContrastivePretrainer` of a config.

    Raises:
        ValueError: fields that contradict each other, one line each.
    """
    dtypes = seismic_networks.dtypes(config)
    return ContrastivePretrainer(
        encoder=seismic_networks.make_encoder(config),
        backbone=seismic_networks.make_backbone(config),
        quantizer=GumbelVectorQuantizer(**config.model.quantizer, **dtypes),
        projection_dim=config.model.projection_dim,
        feature_dropout=config.model.feature_dropout,
        **dtypes,
    )


def make_task(config):
    """Telling the quantized frame behind a mask from other hidden ones.

    "loss" is the cross entropy ("contrastive", nats a hidden frame) with the diversity
    loss of its codes; "accuracy" the share of frames whose own target is the nearest.
    What tells a collapse: "perplexity", codes that are used alike, of all groups;
    "code_usage", the share of the codes that are chosen at all often; "distractors",
    the negatives a frame that differ from its target. In training the perplexity is
    that of the codes' probabilities, in evaluation of the codes that are taken.
    """
    model, fields = make_model(config), config.loss

    def loss(apply, batch, rng, *, train, step):
        waveform, weights = batch["inputs"], batch["weights"]
        rngs = jax.random.split(rng, 4)
        masks = draw_masks(rngs[0], rngs[1], config, model, waveform, train)
        more = {}
        if train:
            shape = model.quantizer.noise_shape(*masks["span_mask"].shape)
            more["gumbel"] = jax.random.gumbel(rngs[2], shape)
            more["temperature"] = temperature(step, config)
        output = apply(waveform, **masks, **more, train=train)
        span_mask = masks["span_mask"]
        sums = contrastive.contrastive_loss(
            output.predicted,
            output.target,
            output.codes,
            contrastive.sample_negatives(rngs[3], span_mask, fields.num_negatives),
            span_mask,
            temperature=fields.temperature,
        )
        shares, chosen = (
            contrastive.code_shares(
                probabilities, span_mask, over=fields.perplexity_over, weights=weights
            )
            for probabilities in (
                output.probabilities,
                jax.nn.one_hot(output.codes, model.quantizer.num_codes),
            )
        )
        total, correct, negatives, count = (
            jnp.sum(x * weights)
            for x in (sums.loss, sums.correct, sums.negatives, sums.count)
        )
        diversity = fields.diversity_weight * contrastive.diversity_loss(*shares)
        frames = jnp.sum(weights) * span_mask.shape[1]
        totals = {
            "loss": (total + diversity * count, count),
            "contrastive": (total, count),
            "accuracy": (correct, count),
            "distractors": (negatives, count),
            "coverage": (count, frames),
            SHARES: shares,
            CHOSEN: chosen,
        }
        return total / jnp.maximum(count, 1.0) + diversity, totals

    frames = model.encoder.num_frames(config.data.num_samples)
    inputs = [seismic_networks.waveforms(config), jnp.zeros((1, frames), bool)]
    return network_task.task_of(config, model, inputs, loss, summarize=summarize)


def draw_masks(span_rng, channel_rng, config, model, waveform, train):
    """The frames to hide and, in training, the channels: keywords of the model."""
    rows, samples, _ = waveform.shape
    frames = model.encoder.num_frames(samples)
    masks = {"span_mask": mask_spans(span_rng, rows, frames, **spans(config))}
    if train and config.loss.mask_channel_prob > 0:
        masks["channel_mask"] = mask_spans(
            channel_rng, rows, model.encoder.embed_dim, **channel_spans(config)
        )
    return masks


def spans(config):
    """What `mask_spans` is told of frames, a dict."""
    fields = config.loss
    return dict(
        rule=fields.mask_rule,
        mask_prob=fields.mask_prob,
        mask_length=fields.mask_length,
        min_masks=fields.min_masks,
    )


def channel_spans(config):
    """What `mask_spans` is told of channels, a dict."""
    fields = config.loss
    return dict(
        rule="wav2vec2",
        mask_prob=fields.mask_channel_prob,
        mask_length=fields.mask_channel_length,
    )


def temperature(step, config):
    """The temperature of the Gumbel softmax in an update."""
    fields = config.loss
    return temperature_at(
        step,
        config.num_steps,
        start=fields.gumbel_start,
        end=fields.gumbel_end,
        schedule=fields.gumbel_schedule,
        decay=fields.gumbel_decay,
    )


def summarize(totals):
    """Means, and what the codes of all batches together tell of a collapse."""
    totals = dict(totals)
    shares, chosen = totals.pop(SHARES), totals.pop(CHOSEN)
    return {
        **metrics.means(totals),
        "perplexity": float(contrastive.perplexity(*shares)),
        "code_usage": float(contrastive.code_usage(*chosen)),
    }


def make_data(config):
    """Batches of windows of the records that `config.data` names.

    The baselines are chance among the negatives, and codes that are all used alike.
    """
    data = seismic_networks.make_data(config, waveforms.waveform_data)
    quantizer = make_model(config).quantizer
    best = {
        "chance_accuracy": 1.0 / (1 + config.loss.num_negatives),
        "all_perplexity": float(quantizer.num_groups * quantizer.num_codes),
        "all_code_usage": 1.0,
    }
    # What the loss counts.
    return data._replace(baselines={**data.baselines, **best}, unit="frames")


def abstract_batch(config):
    """The global batch of `make_data` as shapes and types."""
    return seismic_networks.abstract_waveforms(config)


def check(config):
    """What is wrong with the config for this experiment, one line each."""
    lines = seismic_networks.check_networks(config, PARTS)
    if "quantizer" in config.model:
        lines += seismic_networks.check_section(
            "model.quantizer",
            config.model.quantizer,
            GumbelVectorQuantizer,
            elsewhere=seismic_networks.SHARED,
        )
    lines += settings.check_names("loss", config.loss, LOSS_FIELDS, LOSS_FIELDS)
    lines += seismic_networks.check_data(config, waveforms.waveform_data)
    if lines:
        return lines
    model, lines = network_task.check_model(make_model, config)
    if model is not None:
        lines += seismic_networks.check_spans(config, model.encoder, **spans(config))
        if config.loss.mask_channel_prob > 0:
            lines += seismic_networks.check_channels(config, **channel_spans(config))
    lines += _check_choices(config)
    return lines + seismic_networks.check_preprocessing(config)


def _check_choices(config):
    choices = {"perplexity_over": contrastive.FRAMES, "gumbel_schedule": SCHEDULES}
    lines = [
        f"loss.{name} {config.loss[name]!r} is none of {', '.join(known)}"
        for name, known in choices.items()
        if config.loss[name] not in known
    ]
    if not lines:
        try:
            # Traced: a value would start the devices before the processes have met.
            jax.eval_shape(lambda: temperature(0, config))
        except ValueError as error:
            lines.append(f"loss.gumbel_...: {error}")
    for name in ("temperature", "num_negatives"):
        if not config.loss[name] > 0:
            lines.append(f"loss.{name} {config.loss[name]} must be above 0")
    return lines
