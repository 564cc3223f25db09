"""The networks of the experiments on waveforms: which classes a config names.

The model section of each has `embed_dim`, `dtype` and `param_dtype`, which its parts
share, and a section for each part: `kind` and the fields of that class.
"""

import dataclasses

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from experiments import network_task, settings
from experiments.config_file import nearest
from jaxmodels.data.waveform_windows import WindowPreprocessing
from jaxmodels.layers.span_masks import expected_coverage
from jaxmodels.models.conv_down_encoder import ConvDownEncoderContrastive
from jaxmodels.models.masked_reconstruction import BidirAutoregEncoder
from jaxmodels.models.mlstm_backbones import MLSTMUNet, SequentialMLSTM
from jaxmodels.models.transformer_backbone import TransformerBackbone

ENCODERS = {
    "conv_down": ConvDownEncoderContrastive,
    "bidir_autoreg": BidirAutoregEncoder,
}
BACKBONES = {
    "unet": MLSTMUNet,
    "sequential": SequentialMLSTM,
    "transformer": TransformerBackbone,
}
KINDS = {"encoder": ENCODERS, "backbone": BACKBONES}
SHARED = ("embed_dim", "dtype", "param_dtype")
# What a fine-tuned model takes of the run that `config.pretrained` names.
PRETRAINED = ("model/encoder", "model/backbone")
# Data sets beside the first one: labeled records, and noise.
OTHER_SOURCES = ("second", "noise")


def shared(config):
    """The fields that all parts of the model have, a dict."""
    return {name: config.model[name] for name in SHARED}


def dtypes(config):
    """`dtype` and `param_dtype` of the model, a dict."""
    return {name: config.model[name] for name in ("dtype", "param_dtype")}


def make_encoder(config, **more):
    """The encoder that `config.model.encoder` describes.

    Raises:
        ValueError: fields that contradict each other, one line each.
    """
    channels = config.data.channels
    return _make("encoder", config, channels=channels, **more)


def make_backbone(config):
    """The backbone that `config.model.backbone` describes; raises as `make_encoder`."""
    return _make("backbone", config)


def _make(part, config, **more):
    fields = dict(config.model[part])
    kind = KINDS[part][fields.pop("kind")]
    return kind(**shared(config), **more, **fields)


def check_part(part, config, elsewhere=()):
    """Lines for fields of an encoder or a backbone that its class does not have.

    Args:
        part: "encoder" or "backbone".
        elsewhere: fields of the class that the experiment sets.
    """
    section, kinds = config.model.get(part), KINDS[part]
    if not isinstance(section, ConfigDict):
        return [f"the model has no section {part!r}"]
    kind = section.get("kind")
    if kind not in kinds:
        hint = nearest(kind, kinds)
        return [f"model.{part}.kind {kind!r} is none of {', '.join(kinds)}{hint}"]
    return check_section(
        f"model.{part}",
        section,
        kinds[kind],
        elsewhere=(*SHARED, "channels", *elsewhere),
        more=("kind",),
    )


def check_section(path, section, module, elsewhere=(), more=()):
    """Lines for fields of a section that its class lacks, or that stand elsewhere.

    Args:
        elsewhere: fields of the class that are no fields of the section.
        more: fields of the section that are no fields of the class.
    """
    if not isinstance(section, ConfigDict):
        return [f"{path} is no section of the config"]
    fields, needed = network_task.fields_of(module)
    return settings.check_names(
        path,
        section,
        [*more, *(name for name in fields if name not in elsewhere)],
        [name for name in needed if name not in elsewhere],
    )


def check_networks(config, parts):
    """Lines for the fields of a model of encoder, backbone and other parts.

    Args:
        parts: names of the fields of the model section beside `SHARED`, encoder and
            backbone included.
    """
    known = (*SHARED, *parts)
    lines = settings.check_names("model", config.model, known, known)
    for part in KINDS:
        if part in config.model:
            lines += check_part(part, config)
    return lines


def check_spans(config, encoder, **spans):
    """Lines for spans of frames that `mask_spans` cannot draw in a window.

    Args:
        spans: `rule`, `mask_prob`, `mask_length`, `min_masks`.
    """
    try:
        expected_coverage(encoder.num_frames(config.data.num_samples), **spans)
    except ValueError as error:
        return [f"loss: {error}"]
    return []


def check_channels(config, **spans):
    """Lines for spans of channels that `mask_spans` cannot draw."""
    try:
        expected_coverage(config.model.embed_dim, **spans)
    except ValueError as error:
        return [f"loss, of the model's channels: {error}"]
    return []


def make_data(config, function, **elsewhere):
    """`Data` of the windows that `config.data` names.

    Sections `OTHER_SOURCES` without a data set are left out.

    Args:
        function: of `jaxmodels.data.waveforms`.
        elsewhere: keywords of it that are not of the data section.
    """
    config = config.copy_and_resolve_references().unlock()
    for name in OTHER_SOURCES:
        if name in config.data and config.data[name].get("dataset") is None:
            del config.data[name]
    return network_task.make_data(config, function, **elsewhere)


def check_data(config, function, elsewhere=()):
    """Lines for fields of the data section that `make_data` could not pass on."""
    needed = ("dataset", "batch_size", "sampling_rate", "num_samples", "channels")
    return network_task.check_data(config, function, needed, elsewhere)


def check_preprocessing(config):
    """Lines for windows that cannot be prepared as the data section says."""
    names = {field.name for field in dataclasses.fields(WindowPreprocessing)}
    try:
        WindowPreprocessing(**{n: config.data[n] for n in config.data if n in names})
    except ValueError as error:
        return [f"data: {line}" for line in str(error).splitlines()]
    return []


def waveforms(config):
    """One window of zeros, [1, N, C]: what a model is initialized with."""
    return jnp.zeros((1, config.data.num_samples, config.data.channels))


def abstract_waveforms(config):
    """The "inputs" and "weights" of a batch as shapes and types."""
    rows, data = config.data.batch_size, config.data
    return {
        "inputs": jax.ShapeDtypeStruct(
            (rows, data.num_samples, data.channels), "float32"
        ),
        "weights": jax.ShapeDtypeStruct((rows,), "float32"),
    }
