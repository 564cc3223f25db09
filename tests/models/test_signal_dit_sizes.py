"""Exact parameter counts, and fields that contradict each other."""

import math

import jax
import jax.numpy as jnp
import pytest

from jaxmodels.models.signal_dit import SignalDiT
from jaxmodels.train import sharding

SEED = dict(
    num_samples=6000,
    channels=1,
    patch_size=20,
    embed_dim=300,
    num_heads=10,
    mlp_dim=512,
    encoder_layers=4,
    decoder_layers=8,
)
OFF = dict(amplitude_head=False)
BASE = dict(channels=3)
WIDE = dict(embed_dim=384, num_heads=12, mlp_dim=1536, attention="full")
TINY = dict(num_samples=1000, channels=3, embed_dim=96, num_heads=4, mlp_dim=384)
TINY |= dict(encoder_layers=2, decoder_layers=3)
# Encoder, decoder, and all else. Against the counts that the source specification
# lists, at width 300: 18,000 fewer for the biases of queries, keys and values in 20
# attentions, 19,800 more for two scalars, 300 more for the null row; in all 2,100 more.
COUNTS = [
    (OFF, 2_838_548, 9_466_996, 464_120),
    ({}, 2_838_548, 9_466_996, 555_022),
    (OFF | dict(injection="cross"), 2_838_548, 9_376_696, 464_120),
    (dict(injection="cross"), 2_838_548, 9_376_696, 555_022),
    (dict(injection="direct", encoder_layers=0), 6_300, 6_216_196, 554_722),
    (OFF | dict(film="adaln"), 2_838_548, 15_134_296, 464_120),
    (OFF | dict(film="adaln6"), 2_838_548, 12_967_096, 464_120),
    (OFF | dict(linformer_sharing="none"), 4_220_948, 12_231_796, 464_120),
    (OFF | dict(linformer_sharing="kv"), 2_761_748, 9_313_396, 464_120),
    (OFF | dict(linformer_sharing="layerwise"), 2_684_948, 9_159_796, 483_320),
    (OFF | dict(attention="full"), 2_684_948, 9_159_796, 464_120),
    (dict(encoder_layers=2, decoder_layers=10), 1_422_724, 11_606_420, 555_022),
    (dict(encoder_layers=6, decoder_layers=6), 4_254_372, 7_327_572, 555_022),
    (BASE, 2_850_548, 9_478_996, 567_062),
    (BASE | WIDE, 7_117_440, 20_425_344, 854_846),
    (TINY | dict(attention="full"), 229_152, 545_952, 79_166),
    (TINY | dict(linformer_rank=16), 232_352, 550_752, 79_166),
]


def abstract_params(**fields):
    model = SignalDiT(**SEED | fields)
    waveform = jnp.zeros((1, model.num_samples, model.channels))
    arrays = waveform, jnp.zeros(1), waveform, jnp.zeros((1, model.num_scalars))
    return jax.eval_shape(model.init, jax.random.key(0), *arrays)["params"]


def label(value):
    if not isinstance(value, dict):
        return ""
    return "-".join(f"{name}={option}" for name, option in value.items()) or "seed"


@pytest.mark.parametrize("fields, encoder, decoder, other", COUNTS, ids=label)
def test_every_size_has_its_number_of_parameters(fields, encoder, decoder, other):
    counts = {
        name: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
        for name, tree in abstract_params(**fields).items()
    }
    parts = counts.pop("encoder"), counts.pop("decoder"), sum(counts.values())
    assert parts == (encoder, decoder, other)


def test_a_mesh_cuts_every_large_kernel():
    params = {"model": abstract_params(**BASE)}
    found = {
        sharding.path_name(path): sharding.param_names(
            sharding.path_name(path), leaf.shape
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if math.prod(leaf.shape) > 90_000
    }
    uncut = {name for name, axes in found.items() if "fsdp" not in axes}
    assert not uncut
    layers = "model/decoder/layers"
    for name, axes in {
        "cross_attention/key/kernel": (None, "fsdp", "model", None),
        "cross_attention/out/kernel": (None, "model", None, "fsdp"),
        "attention/value_projection": (None, None, "fsdp"),
        "mlp/down/kernel": (None, "model", "fsdp"),
    }.items():
        assert found[f"{layers}/{name}"] == axes
    assert found["model/decoder/modulation/kernel"] == ("fsdp", None)


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(num_samples=6001), "6001 is not divisible by patch_size 20; try 6000 or"),
        (dict(num_samples=7), "try 20$"),
        (dict(num_heads=7), "300 is not divisible by num_heads 7; try embed_dim 301$"),
        (dict(embed_dim=33, num_heads=3), "embed_dim 33 is odd, .*; try 34"),
        (dict(channels=0), "channels 0 must be at least 1"),
        (dict(num_scalars=-1), "num_scalars -1 must be at least 0"),
        (dict(attention="linear"), "unknown attention 'linear'; choose one of linf"),
        (dict(film="film"), "unknown film 'film'; choose one of single, adaln, adaln6"),
        (dict(injection="add"), "unknown injection 'add'; choose one of tokens"),
        (dict(linformer_sharing="all"), "unknown linformer_sharing 'all'"),
        (dict(linformer_rank=301), "rank 301 must be .* at most the 300 patches"),
        (dict(encoder_layers=0), "encoder_layers 0 with injection 'tokens': 'direct'"),
        (dict(injection="direct"), "encoder_layers 4 with injection 'direct'"),
    ],
    ids=label,
)
def test_fields_that_contradict_each_other_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        SignalDiT(**SEED | fields)


def test_all_that_is_wrong_comes_at_once():
    with pytest.raises(ValueError) as caught:
        SignalDiT(**SEED | dict(num_samples=6001, num_heads=7, encoder_layers=0))
    assert len(str(caught.value).splitlines()) == 3
