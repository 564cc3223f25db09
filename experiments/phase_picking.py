"""Phase picking: the probability of P, S and noise at each sample of a window."""

import jax
import jax.numpy as jnp

from experiments import network_task, seismic_networks, settings
from jaxmodels.data import waveforms
from jaxmodels.layers.span_masks import mask_spans
from jaxmodels.losses.picking import pick_hits, picking_loss
from jaxmodels.models.phase_picker import PhasePicker
from jaxmodels.models.streaming_picker import StreamingPicker

PRETRAINED = seismic_networks.PRETRAINED
LOSS_FIELDS = ("feature_mask_prob", "feature_mask_length")
# Columns of the encoder's frames, as SeisLM hides them; none where they are left out.
OPTIONS = ("mask_channel_prob", "mask_channel_length")
TOLERANCES = (0.1, 0.5)  # s
# Of the kind "picker": `head` has the other fields of `PhasePicker`.
PARTS = ("kind", "encoder", "backbone", "head")
IN_MODEL = ("encoder", "backbone", "channels", *seismic_networks.SHARED)
KINDS = ("picker", "streaming")


def make_model(config):
    """The `PhasePicker` or the `StreamingPicker` of a config.

    Raises:
        ValueError: fields that contradict each other, one line each.
    """
    data = config.data
    if config.model.kind == "streaming":
        fields = {name: config.model[name] for name in config.model if name != "kind"}
        return StreamingPicker(
            channels=data.channels, sampling_rate=data.sampling_rate, **fields
        )
    return PhasePicker(
        encoder=seismic_networks.make_encoder(config),
        backbone=seismic_networks.make_backbone(config),
        channels=data.channels,
        **seismic_networks.dtypes(config),
        **config.model.head,
    )


def make_task(config):
    """Soft cross entropy, and how many arrivals are hit by the likeliest sample.

    "p_hit_0.5" is the share of the windows with a P in which the largest probability
    of P lies within 0.5 s of it. In training, spans of the encoder's frames are hidden
    from the backbone (`loss.feature_mask_prob`), and columns of them set to 0
    (`loss.mask_channel_prob`).
    """
    model = make_model(config)

    def loss(apply, batch, rng, *, train):
        more = {}
        if train and config.model.kind == "picker":
            more = draw_masks(rng, config, model, batch["inputs"])
        logits = apply(batch["inputs"], train=train, **more)
        weights = batch["weights"]
        total = jnp.sum(picking_loss(logits, batch["targets"], weights))
        count = jnp.sum(weights)
        totals = {"loss": (total, count)} | hits(logits, batch, config)
        return total / jnp.maximum(count, 1.0), totals

    inputs = [seismic_networks.waveforms(config)]
    return network_task.task_of(config, model, inputs, loss)


def draw_masks(rng, config, model, waveform):
    """The frames and the channels to hide in training: keywords of the model."""
    rows, samples, _ = waveform.shape
    masks = {}
    if config.loss.feature_mask_prob > 0:
        frames = model.encoder.num_frames(samples)
        masks["span_mask"] = mask_spans(rng, rows, frames, **spans(config))
    if channels := channel_spans(config):
        rng = jax.random.fold_in(rng, 1)
        width = model.encoder.embed_dim
        masks["channel_mask"] = mask_spans(rng, rows, width, **channels)
    return masks


def channel_spans(config):
    """What `mask_spans` is told of the channels to hide, a dict; empty for none."""
    fields = config.loss
    prob, length = (fields.get(name, 0) for name in OPTIONS)
    if not prob:
        return {}
    return dict(rule="wav2vec2", mask_prob=prob, mask_length=length)


def spans(config):
    """What `mask_spans` is told of the frames to hide in training, a dict."""
    fields = config.loss
    return dict(
        rule="wav2vec2",
        mask_prob=fields.feature_mask_prob,
        mask_length=fields.feature_mask_length,
    )


def hits(logits, batch, config):
    """Metrics "p_hit_0.1" and so on; rows without weight do not count."""
    counted = batch["weights"] > 0
    p_sample, s_sample = (
        jnp.where(counted, batch[name], -1) for name in ("p_sample", "s_sample")
    )
    probabilities = jax.nn.softmax(logits.astype(jnp.float32))
    totals: dict = {}
    for tolerance in TOLERANCES:
        rate = config.data.sampling_rate
        totals |= pick_hits(probabilities, p_sample, s_sample, rate, tolerance)
    return totals


def make_data(config):
    """Batches of windows with their arrivals.

    The baselines are those of a sample that is chosen at random.
    """
    data = seismic_networks.make_data(config, waveforms.pick_data)
    chance: dict[str, float] = {}
    for tolerance in TOLERANCES:
        reach = 2 * tolerance * config.data.sampling_rate + 1
        share = min(reach / config.data.num_samples, 1.0)
        chance |= {f"chance_{phase}_hit_{tolerance:g}": share for phase in "ps"}
    return data._replace(baselines={**data.baselines, **chance})


def abstract_batch(config):
    """The global batch of `make_data` as shapes and types."""
    batch = seismic_networks.abstract_waveforms(config)
    rows, samples, _ = batch["inputs"].shape
    batch["targets"] = jax.ShapeDtypeStruct((rows, samples, 3), "float32")
    for name in ("p_sample", "s_sample"):
        batch[name] = jax.ShapeDtypeStruct((rows,), "float32")
    return batch


def check(config):
    """What is wrong with the config for this experiment, one line each."""
    lines = _check_model(config)
    known = (*LOSS_FIELDS, *OPTIONS)
    lines += settings.check_names("loss", config.loss, known, LOSS_FIELDS)
    lines += seismic_networks.check_data(config, waveforms.pick_data)
    if lines:
        return lines
    model, lines = network_task.check_model(make_model, config)
    picks = model is not None and config.model.kind == "picker"
    if picks and config.loss.feature_mask_prob > 0:
        lines += seismic_networks.check_spans(config, model.encoder, **spans(config))
    if picks and (channels := channel_spans(config)):
        lines += seismic_networks.check_channels(config, **channels)
    if config.model.kind == "streaming" and config.get("pretrained"):
        lines.append(
            "model.kind 'streaming' has no encoder and no backbone to start from "
            "pretrained ones; drop --config.pretrained, or take another size"
        )
    return lines + seismic_networks.check_preprocessing(config)


def _check_model(config):
    kind = config.model.get("kind")
    if kind not in KINDS:
        return [f"model.kind {kind!r} is none of {', '.join(KINDS)}"]
    if kind == "streaming":
        return seismic_networks.check_section(
            "model",
            config.model,
            StreamingPicker,
            elsewhere=("channels", "sampling_rate"),
            more=("kind",),
        )
    lines = seismic_networks.check_networks(config, PARTS)
    if "head" in config.model:
        lines += seismic_networks.check_section(
            "model.head", config.model.head, PhasePicker, elsewhere=IN_MODEL
        )
    return lines
