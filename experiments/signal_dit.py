"""Low-pass to broadband seismograms by conditional diffusion, with `SignalDiT`."""

import dataclasses

import jax
import jax.numpy as jnp

from experiments import network_task, settings
from jaxmodels.data import broadband, ground_motions
from jaxmodels.diffusion import guidance, process
from jaxmodels.losses.broadband import amplitude_errors, broadband_loss
from jaxmodels.models.signal_dit import SignalDiT
from jaxmodels.train import metrics

LOSS_FIELDS = (
    "process",
    "parameterization",
    "loss_weight",
    "condition_dropout",
    "amplitude_scale",
)
# Of the loss section: what else `process.make_process` takes, as gamma or sigma_data.
OPTIONS = "options"
# What the data section is told by the model section.
SIZES = ("num_samples", "channels")
# Of the preprocessing, what parameters are worth nothing without.
SHARED = (
    "kind",
    "sampling_rate",
    "channels",
    "causal",
    "normalization",
    "amplitude",
    "target",
    "units",
    "diffusion.process",
    "diffusion.parameterization",
    "diffusion.options.sigma_data",
)
NUM_SCALARS = 2  # of `ground_motions`: amplitude of the condition, and its corner


def make_model(config):
    """The `SignalDiT` of a config.

    Raises:
        ValueError: fields that contradict each other, one line each.
    """
    return SignalDiT(**config.model)


def make_process(config, weighted=True):
    """The diffusion process of the loss section, with or without its loss weights.

    Raises:
        ValueError: there is no such process, parameterization or weight.
    """
    return process.make_process(
        config.loss.process,
        parameterization=config.loss.parameterization,
        loss_weight=config.loss.loss_weight if weighted else None,
        **process_options(config),
    )


def process_options(config):
    """The `loss.options` that are set, a dict."""
    given = config.loss.get(OPTIONS) or {}
    return {name: value for name, value in given.items() if value is not None}


def make_task(config):
    """Denoising: the loss, the amplitude's error, and what the condition is worth.

    "loss" is the denoising loss: in training with its weights and with
    `loss.condition_dropout` of the conditions left out, in evaluation with neither.
    "shuffle_gap" is by how much it rises in evaluation when each record gets the
    condition of another one of its batch, half of its records away: 0 for a model that
    reads no condition. It is left out where no batch holds two records.
    """
    model, rate = make_model(config), config.loss.condition_dropout
    weighted, plain = make_process(config), make_process(config, weighted=False)

    def loss(apply, batch, rng, *, train):
        noise_rng, keep_rng = jax.random.split(rng)
        rows = batch["weights"].shape[0]
        keep = None
        if train and rate:
            keep = guidance.drop_conditions(keep_rng, rows, rate)

        def denoise(condition, scalars):
            context = apply(condition, scalars, keep=keep, train=train, method="encode")

            def predict(noisy, time):
                return apply(noisy, time, scalars, context, method="decode")

            errors, _ = process.diffusion_loss(
                weighted if train else plain, predict, batch["targets"], noise_rng
            )
            return errors, context.amplitude

        errors, amplitude = denoise(batch["condition"], batch["scalars"])
        value, totals = broadband_loss(
            errors,
            batch["weights"],
            amplitude,
            batch["amplitude"],
            scale=config.loss.amplitude_scale,
        )
        if not train:
            other = half_away(batch["weights"])
            worse, _ = denoise(batch["condition"][other], batch["scalars"][other])
            moved = other != jnp.arange(rows)
            both = batch["weights"] * batch["weights"][other] * moved
            totals["shuffle_gap"] = jnp.sum((worse - errors) * both), jnp.sum(both)
        return value, totals

    return network_task.task_of(
        config, model, _inputs(config), loss, summarize=summarize
    )


def half_away(weights):
    """For each row another one, half of the rows of weight above 0 away.

    Rows beside each other may be components of one window. Rows of weight 0 pad a
    batch at its end, and keep their own.

    Args:
        weights: [B].

    Returns:
        int32 [B], a permutation of the rows.
    """
    rows = jnp.arange(weights.shape[0])
    count = jnp.sum(weights > 0)
    return jnp.where(rows < count, (rows + count // 2) % jnp.maximum(count, 1), rows)


def summarize(totals):
    """Means, and the errors of the amplitude beside those of a constant."""
    totals = dict(totals)
    if "shuffle_gap" in totals and not totals["shuffle_gap"][1]:
        del totals["shuffle_gap"]
    return amplitude_errors(metrics.means(totals))


def make_data(config):
    """Batches of the records that `config.data` names.

    What a pipeline samples by is in the preprocessing, by the name "diffusion".
    """
    data = network_task.make_data(
        config, ground_motions.ground_motion_data, **_sizes(config)
    )
    fields = ("process", "parameterization", "condition_dropout")
    diffusion = {name: config.loss[name] for name in fields}
    if options := process_options(config):
        diffusion[OPTIONS] = options
    preprocessing = data.preprocessing | {"diffusion": diffusion}
    return data._replace(preprocessing=preprocessing, shared=SHARED)


def abstract_batch(config):
    """The global batch of `make_data` as shapes and types."""
    rows, model = config.data.batch_size, config.model
    waveform = (rows, model.num_samples, model.channels)
    shapes = {
        "targets": waveform,
        "condition": waveform,
        "scalars": (rows, NUM_SCALARS),
        "amplitude": (rows,),
        "weights": (rows,),
    }
    return {
        name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in shapes.items()
    }


def check(config):
    """What is wrong with the config for this experiment, one line each."""
    lines = network_task.check_fields("model", config.model, SignalDiT)
    known = (*LOSS_FIELDS, OPTIONS)
    lines += settings.check_names("loss", config.loss, known, LOSS_FIELDS)
    lines += network_task.check_data(
        config,
        ground_motions.ground_motion_data,
        needed=("dataset", "batch_size", "sampling_rate", "corner"),
        elsewhere=SIZES,
    )
    if lines:
        return lines
    _, lines = network_task.check_model(make_model, config)
    lines += _check_preprocessing(config) + _check_process(config)
    return lines + _check_scalars(config) + _check_normalization(config)


def _sizes(config):
    return {name: config.model[name] for name in SIZES}


def _inputs(config):
    fields = config.model
    waveform = jnp.zeros((1, fields.num_samples, fields.channels))
    return [waveform, jnp.zeros(1), waveform, jnp.zeros((1, NUM_SCALARS))]


def _check_preprocessing(config):
    known = {field.name for field in dataclasses.fields(broadband.Preprocessing)}
    given = {name: config.data[name] for name in config.data if name in known}
    try:
        ground_motions.make_preprocessing(**given | _sizes(config))
    except ValueError as error:
        return [f"data: {line}" for line in str(error).splitlines()]
    return []


def _check_process(config):
    own = [name for name in process_options(config) if name in LOSS_FIELDS]
    if own:
        return [f"loss.{OPTIONS}.{own[0]} is loss.{own[0]}; set it there"]
    try:
        make_process(config)
    except ValueError as error:
        return [f"loss: {line}" for line in str(error).splitlines()]
    return []


def _check_normalization(config):
    """Targets whose size the process or the head takes for another one than it is."""
    normalization, lines = config.data.get("normalization", "own_std"), []
    if normalization == "by_x" and config.model.get("amplitude_head", True):
        lines.append(
            "data.normalization 'by_x' gives targets the size of the condition, which "
            "leaves nothing for model.amplitude_head; switch it off, or take 'own_std'"
        )
    known = "sigma_data" in process_options(config)
    if config.loss.process == "edm" and normalization != "own_std" and not known:
        lines.append(
            f"data.normalization {normalization!r} gives targets another standard "
            "deviation than the 1 of loss.process 'edm'; set "
            f"loss.{OPTIONS}.sigma_data to it, or take 'own_std'"
        )
    return lines


def _check_scalars(config):
    fields, lines = config.loss, []
    scale = config.model.get("time_scale", 1000.0)
    wanted = 1.0 if fields.process == "edm" else 1000.0
    if scale != wanted:
        lines.append(
            f"model.time_scale {scale} must be {wanted} with loss.process "
            f"{fields.process!r}"
        )
    given = config.model.get("num_scalars", NUM_SCALARS)
    if given != NUM_SCALARS:
        lines.append(f"model.num_scalars {given} must be {NUM_SCALARS}, as in the data")
    head = config.model.get("amplitude_head", True)
    if head and not config.data.get("amplitude", True):
        lines.append(
            "model.amplitude_head learns from data.amplitude; "
            "switch both on or both off"
        )
    return lines
