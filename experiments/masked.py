"""Pretraining by filling in hidden spans of a waveform, with `MaskedReconstructor`."""

import jax.numpy as jnp

from experiments import network_task, seismic_networks, settings
from jaxmodels.data import waveforms
from jaxmodels.layers.span_masks import mask_spans
from jaxmodels.losses import reconstruction
from jaxmodels.models.masked_reconstruction import MaskedReconstructor

LOSS_FIELDS = ("target", "mask_rule", "mask_prob", "mask_length")
PARTS = ("encoder", "backbone")


def make_model(config):
    """The `MaskedReconstructor` of a config.

    Raises:
        ValueError: fields that contradict each other, one line each.
    """
    encoder, raw = seismic_networks.make_encoder(config), config.loss.target == "raw"
    return MaskedReconstructor(
        encoder=encoder,
        backbone=seismic_networks.make_backbone(config),
        patch_samples=encoder.stride * encoder.channels if raw else encoder.embed_dim,
        **seismic_networks.dtypes(config),
    )


def make_task(config):
    """The error of what is hidden, beside that of two guesses without a model.

    "loss" is the mean square error of the hidden frames, in training; in evaluation of
    those of them that no visible frame sees into. There "mean_loss" is the error of
    predicting the mean of each patch (of all tokens, where they are the target), and
    "interpolation_loss", of raw patches alone, that of a straight line across each
    span. "token_std" near 0 tells that the encoder makes all frames alike, in which
    case a small loss is worth nothing.
    """
    model, fields = make_model(config), config.loss
    size = model.encoder.stride

    def loss(apply, batch, rng, *, train):
        waveform, weights = batch["inputs"], batch["weights"]
        rows, samples, _ = waveform.shape
        span_mask = mask_spans(
            rng, rows, model.encoder.num_frames(samples), **spans(config)
        )
        output = apply(waveform, span_mask, train=train)
        target = reconstruction.reconstruction_target(
            fields.target, waveform, output.tokens, size
        )
        scored = span_mask if train else reconstruction.scored_frames(span_mask)

        def of(pair):
            return tuple(jnp.sum(x * weights) for x in pair)

        error = of(reconstruction.reconstruction_loss(output.predicted, target, scored))
        # Rows that pad a batch would make the spread smaller.
        kept = jnp.where(weights > 0, jnp.arange(rows), 0)
        spread = reconstruction.token_spread(output.tokens[kept])
        totals = {"loss": error, "token_std": (spread, jnp.ones(()))}
        totals["coverage"] = of((span_mask.mean(axis=-1), jnp.ones(rows)))
        if not train:
            totals |= {
                name: of(pair)
                for name, pair in guesses(fields.target, batch, target, span_mask)
            }
        return error[0] / jnp.maximum(error[1], 1.0), totals

    inputs = [seismic_networks.waveforms(config)]
    frames = model.encoder.num_frames(config.data.num_samples)
    inputs.append(jnp.zeros((1, frames), bool))
    return network_task.task_of(config, model, inputs, loss)


def guesses(kind, batch, target, span_mask):
    """Yields the errors of predictions that need no model, per row.

    Args:
        kind: of `reconstruction.reconstruction_target`.
        target: [B, T, P] or [B, T, D].
        span_mask: bool [B, T].
    """
    scored = reconstruction.scored_frames(span_mask)
    if kind == "raw":
        size = batch["inputs"].shape[1] // span_mask.shape[1]
        yield (
            "mean_loss",
            reconstruction.mean_baseline(batch["inputs"], scored, size),
        )
        yield (
            "interpolation_loss",
            reconstruction.interpolation_baseline(
                batch["inputs"], span_mask, scored, size
            ),
        )
        return
    weights = batch["weights"][:, None, None]
    frames = jnp.maximum(weights.sum() * target.shape[1], 1.0)
    mean = jnp.sum(target * weights, axis=(0, 1)) / frames
    guess = jnp.broadcast_to(mean, target.shape)
    yield "mean_loss", reconstruction.reconstruction_loss(guess, target, scored)


def spans(config):
    """What `mask_spans` is told by the loss section, a dict."""
    fields = config.loss
    return dict(
        rule=fields.mask_rule,
        mask_prob=fields.mask_prob,
        mask_length=fields.mask_length,
    )


def make_data(config):
    """Batches of windows of the records that `config.data` names."""
    data = seismic_networks.make_data(config, waveforms.waveform_data)
    # What the loss counts.
    return data._replace(baselines={"collapsed_token_std": 0.0}, unit="frames")


def abstract_batch(config):
    """The global batch of `make_data` as shapes and types."""
    return seismic_networks.abstract_waveforms(config)


def check(config):
    """What is wrong with the config for this experiment, one line each."""
    lines = seismic_networks.check_networks(config, PARTS)
    lines += settings.check_names("loss", config.loss, LOSS_FIELDS, LOSS_FIELDS)
    lines += seismic_networks.check_data(config, waveforms.waveform_data)
    if not lines and config.loss.target not in reconstruction.TARGETS:
        known = ", ".join(reconstruction.TARGETS)
        lines.append(f"loss.target {config.loss.target!r} is none of {known}")
    if lines:
        return lines
    model, lines = network_task.check_model(make_model, config)
    if model is not None:
        lines += seismic_networks.check_spans(config, model.encoder, **spans(config))
        lines += _check_frames(config, model.encoder)
    return lines + seismic_networks.check_preprocessing(config)


def _check_frames(config, encoder):
    """A line where frames and patches of a window would not be as many, or not apart.

    What a visible frame sees of a hidden one is no more than `scored_frames` assumes.
    """
    samples, stride = config.data.num_samples, encoder.stride
    if samples % stride:
        return [
            f"data.num_samples {samples} is no multiple of the {stride} samples of a "
            f"frame; try {samples - samples % stride or stride}"
        ]
    if encoder.num_frames(samples) != samples // stride:
        return [
            f"model.encoder makes {encoder.num_frames(samples)} frames of {samples} "
            f"samples, and patches are {samples // stride}; set its padding to 'same'"
        ]
    if encoder.reach >= stride:
        return [
            f"model.encoder sees {encoder.reach} samples to a side of a frame, so that "
            f"visible ones see through hidden ones of {stride}; set its kernel_size to "
            "3 and its dilation to 1"
        ]
    return []
