"""Pretraining beside transformers' wav2vec 2.0, and SeisLM's where it is at hand.

The same weights, mask, negatives and Gumbel noise. SeisLM is no package: its checkout
is named by the environment variable SEISLM_PATH.
"""

import os
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers.span_masks import mask_spans
from jaxmodels.losses.contrastive import (
    code_shares,
    contrastive_loss,
    diversity_loss,
    perplexity,
    sample_negatives,
)
from jaxmodels.models.contrastive import ContrastivePretrainer
from jaxmodels.models.conv_down_encoder import ConvDownEncoderContrastive
from jaxmodels.models.gumbel_quantizer import GumbelVectorQuantizer
from jaxmodels.models.transformer_backbone import TransformerBackbone
from tests.models import wav2vec2_peer as peer

torch = pytest.importorskip("torch", reason="torch is not installed: make test-parity")
transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: make test-parity"
)
from transformers.models.wav2vec2 import modeling_wav2vec2  # noqa: E402

pytestmark = pytest.mark.parity

BATCH, SAMPLES, NEGATIVES, TEMPERATURE = 3, 131, 7, 0.9
FRAMES = 32


class Components(torch.nn.Module):
    """The peer's convolutions, of several components instead of one."""

    def __init__(self, extractor, channels):
        super().__init__()
        self.conv_layers = extractor.conv_layers
        first = self.conv_layers[0].conv
        self.conv_layers[0].conv = torch.nn.Conv1d(
            channels, first.out_channels, first.kernel_size, first.stride
        )

    def forward(self, waveform):
        for layer in self.conv_layers:
            waveform = layer(waveform)
        return waveform


def randomized(model):
    """The model in training, with random biases and scales as well."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, leaf in model.named_parameters():
            if leaf.ndim == 1 and "masked" not in name:
                leaf.add_(0.1 * torch.randn_like(leaf))
        model.quantizer.codevectors.normal_()
        model.quantizer.temperature = TEMPERATURE
    return model.train()


def inputs(fields, samples=SAMPLES):
    """Waveform, mask, negatives and noise."""
    rngs = jax.random.split(jax.random.key(0), 4)
    waveform = jax.random.normal(rngs[0], (BATCH, samples, 3))
    frames = ConvDownEncoderContrastive(1, padding="valid").num_frames(samples)
    span_mask = mask_spans(
        rngs[1], BATCH, frames, rule="wav2vec2", mask_prob=0.65, mask_length=4
    )
    negatives = sample_negatives(rngs[2], span_mask, NEGATIVES)
    groups = fields["num_codevector_groups"], fields["num_codevectors_per_group"]
    noise = jax.random.gumbel(rngs[3], (BATCH, frames, *groups))
    return waveform, span_mask, negatives, noise


def ours(fields, normalize_first, scale_logits=False):
    return ContrastivePretrainer(
        encoder=ConvDownEncoderContrastive(
            fields["hidden_size"], tuple(fields["conv_dim"]), padding="valid"
        ),
        backbone=TransformerBackbone(
            fields["hidden_size"],
            fields["num_hidden_layers"],
            fields["num_attention_heads"],
            fields["intermediate_size"],
            fields["num_conv_pos_embeddings"],
            fields["num_conv_pos_embedding_groups"],
            normalize_first=normalize_first,
        ),
        quantizer=GumbelVectorQuantizer(
            fields["num_codevector_groups"],
            fields["num_codevectors_per_group"],
            fields["codevector_dim"],
            scale_logits=scale_logits,
        ),
        projection_dim=fields["proj_codevector_dim"],
    )


def losses(model, params, arrays):
    """Loss of all hidden frames together, as the peer sums it, and its parts."""
    waveform, span_mask, negatives, noise = arrays
    found = model.apply(
        {"params": params},
        waveform,
        span_mask,
        gumbel=noise,
        temperature=TEMPERATURE,
        train=True,
    )
    sums = contrastive_loss(
        found.predicted, found.target, found.codes, negatives, span_mask
    )
    shares = code_shares(found.probabilities, span_mask)
    contrast, diversity = sums.loss.sum(), diversity_loss(*shares) * sums.count.sum()
    total = contrast + 0.1 * diversity
    return total, (contrast, diversity, perplexity(*shares), sums, found)


def run_peer(model, arrays, patch):
    """The peer's outputs, and its gradients as {name: array}."""
    waveform, span_mask, negatives, noise = arrays
    fixed = peer.fixed_gumbel_softmax(torch, noise)
    patch.setattr(torch.nn.functional, "gumbel_softmax", fixed)
    if module := sys.modules.get("seisLM.model.foundation.quantizer"):
        patch.setattr(module, "gumbel_softmax", fixed)
    outputs = model(
        torch.tensor(np.array(waveform.swapaxes(1, 2))),
        mask_time_indices=torch.tensor(np.array(span_mask)),
        sampled_negative_indices=torch.tensor(peer.flat_negatives(negatives)),
    )
    outputs.loss.backward()
    gradients = {name: leaf.grad for name, leaf in model.named_parameters()}
    return outputs, peer.numpy_of(gradients)


def assert_close(found, expected, tolerance, where=""):
    """Of the largest value in each array."""
    scale = max(np.abs(expected).max(), 1e-3)
    error = np.abs(np.asarray(found) - expected).max() / scale
    assert error <= tolerance, f"{where}: {error:.1e}"


@pytest.mark.parametrize("num_codes", [1, 3, 40])
@pytest.mark.parametrize("normalize_first", [False, True])
def test_loss_and_gradients_equal_transformers(num_codes, normalize_first, monkeypatch):
    fields = peer.config_fields(num_codevectors_per_group=num_codes)
    config = transformers.Wav2Vec2Config(
        **fields, do_stable_layer_norm=normalize_first, attn_implementation="eager"
    )
    torch.manual_seed(1)
    model = transformers.Wav2Vec2ForPreTraining(config)
    extractor = Components(model.wav2vec2.feature_extractor, 3)
    model.wav2vec2.feature_extractor = extractor
    randomized(model)
    arrays = inputs(fields)
    assert arrays[1].shape[1] == FRAMES
    outputs, gradients = run_peer(model, arrays, monkeypatch)
    groups = fields["num_codevector_groups"]
    params = peer.params(peer.numpy_of(dict(model.named_parameters())), 2, groups)
    own = ours(fields, normalize_first)
    (total, parts), gradient = jax.jit(
        jax.value_and_grad(lambda p: losses(own, p, arrays), has_aux=True)
    )(params)
    contrast, diversity, codes_alive, sums, found = parts
    # What the case is there for: many negatives that have the codes of the target.
    left = float(sums.negatives.sum() / sums.count.sum()) / NEGATIVES
    assert {1: left == 0, 3: 0.5 < left < 0.95, 40: left > 0.95}[num_codes]
    assert_close(found.predicted, outputs.projected_states.detach().numpy(), 1e-5)
    target = outputs.projected_quantized_states.detach().numpy()
    assert_close(found.target, target, 1e-5)
    for value, expected in (
        (total, outputs.loss),
        (contrast, outputs.contrastive_loss),
        (diversity, outputs.diversity_loss),
        (codes_alive, outputs.codevector_perplexity),
    ):
        assert_close(value, expected.detach().numpy(), 1e-5)
    expected = peer.params(gradients, 2, groups)
    for path, leaf in jax.tree_util.tree_leaves_with_path(expected):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        value = gradient
        for step in path:
            value = value[step.key]
        assert_close(value, leaf, 1e-5, name)


@pytest.mark.parametrize("train", [False, True])
def test_the_quantizer_equals_transformers(train, monkeypatch):
    fields = peer.config_fields(
        num_codevectors_per_group=320, codevector_dim=256, conv_dim=[256, 256]
    )
    config = transformers.Wav2Vec2Config(**fields)
    torch.manual_seed(0)
    theirs = modeling_wav2vec2.Wav2Vec2GumbelVectorQuantizer(config).train(train)
    torch.nn.init.uniform_(theirs.codevectors)
    torch.nn.init.normal_(theirs.weight_proj.weight)
    theirs.temperature = TEMPERATURE
    features = jax.random.normal(jax.random.key(0), (2, 30, 256))
    span_mask = jnp.arange(30) % 3 > 0
    span_mask = jnp.broadcast_to(span_mask, (2, 30))
    module = GumbelVectorQuantizer()
    noise = jax.random.gumbel(jax.random.key(1), module.noise_shape(2, 30))
    fixed = peer.fixed_gumbel_softmax(torch, noise)
    monkeypatch.setattr(torch.nn.functional, "gumbel_softmax", fixed)
    with torch.no_grad():
        expected, alive = theirs(
            torch.tensor(np.array(features)), torch.tensor(np.array(span_mask))
        )
    weights = peer.numpy_of(dict(theirs.named_parameters()))
    variables = {
        "params": {
            "weight_projection": {
                "kernel": weights["weight_proj.weight"].T,
                "bias": weights["weight_proj.bias"],
            },
            "codebook": weights["codevectors"].reshape(2, 320, 128),
        }
    }
    found = jax.jit(
        lambda v: module.apply(
            v, features, gumbel=noise, temperature=TEMPERATURE, train=train
        )
    )(variables)
    np.testing.assert_allclose(found.values, expected.numpy(), atol=1e-6)
    shares = code_shares(found.probabilities, span_mask)
    assert_close(perplexity(*shares), alive.numpy(), 1e-5)


def seislm():
    """The module of SeisLM's pretraining model, from a checkout."""
    folder = os.environ.get("SEISLM_PATH")
    if not folder:
        pytest.skip("SEISLM_PATH names no checkout of SeisLM")
    for name in ("ml_collections", "einops"):
        pytest.importorskip(name)
    if "torchtune.modules" not in sys.modules:
        # It is imported for an option that is off.
        stub = types.ModuleType("torchtune.modules")
        stub.RMSNorm = torch.nn.RMSNorm
        sys.modules["torchtune"] = types.ModuleType("torchtune")
        sys.modules["torchtune.modules"] = stub
    sys.path.insert(0, folder)
    try:
        from seisLM.model.foundation import multidim_wav2vec2
    finally:
        sys.path.remove(folder)
    return multidim_wav2vec2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_published_size_equals_seislm(monkeypatch):
    module = seislm()
    import ml_collections

    fields = peer.config_fields(
        conv_dim=[256, 256],
        hidden_size=240,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=3072,
        num_conv_pos_embeddings=128,
        num_conv_pos_embedding_groups=16,
        num_codevectors_per_group=320,
        codevector_dim=256,
        proj_codevector_dim=256,
    )
    config = ml_collections.ConfigDict(
        fields
        | dict(
            apply_spec_augment=True,
            conv_embed=True,
            do_stable_layer_norm=True,
            initializer_range=0.02,
            input_dim=3,
            layer_norm_eps=1e-5,
            mask_feature_length=10,
            mask_feature_min_masks=0,
            mask_time_length=10,
            mask_time_min_masks=2,
            num_negatives=NEGATIVES,
            output_attentions=False,
            output_hidden_size=768,
            output_hidden_states=False,
            pad_token_id=0,
            rotary_pos_embed=False,
            scale_logits_in_quantization=True,
            use_rms_norm=False,
            use_return_dict=True,
        )
    )
    torch.manual_seed(1)
    model = module.MultiDimWav2Vec2ForPreTraining(config).train()
    model.quantizer.temperature = TEMPERATURE
    assert sum(leaf.numel() for leaf in model.parameters()) == 11_359_568
    arrays = inputs(fields, samples=3001)
    assert arrays[1].shape[1] == 749
    outputs, _ = run_peer(model, arrays, monkeypatch)
    params = peer.params(peer.numpy_of(dict(model.named_parameters())), 12, 2)
    own = ours(fields, True, scale_logits=True)
    _, parts = jax.jit(lambda p: losses(own, p, arrays))(params)
    contrast, _, codes_alive, _, found = parts
    assert_close(found.predicted, outputs.projected_states.detach().numpy(), 1e-4)
    target = outputs.projected_quantized_states.detach().numpy()
    assert_close(found.target, target, 1e-4)
    assert_close(contrast, outputs.contrastive_loss.detach().numpy(), 1e-4)
    assert_close(codes_alive, outputs.codevector_perplexity.detach().numpy(), 1e-4)
