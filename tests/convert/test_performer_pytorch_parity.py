"""Converted models beside those of performer-pytorch, from its random weights."""

import functools
import warnings
from unittest import mock

import jax
import numpy as np
import pytest

from jaxmodels.convert import performer_pytorch
from jaxmodels.train.errors import ConfigError

torch = pytest.importorskip("torch", reason="torch is not installed: make test-parity")
with warnings.catch_warnings():
    # The package imports what newer versions of Python and torch warn about.
    warnings.simplefilter("ignore")
    peer = pytest.importorskip(
        "performer_pytorch.performer_pytorch",
        reason="performer-pytorch is not installed: pip install performer-pytorch",
    )
    from performer_pytorch import AutoregressiveWrapper, PerformerEncDec
from safetensors.torch import save_model  # noqa: E402

pytestmark = pytest.mark.parity

VOCABULARY, LENGTH, BATCH, WIDTH = 11, 12, 2, 16
SIZES = dict(dim=WIDTH, depth=2, heads=2, dim_head=6, nb_features=10)
TOKENS = dict(num_tokens=VOCABULARY, max_seq_len=LENGTH)
KERNELS = {
    "favor_plus": {},
    "relu": {"generalized_attention": True},
    "exponential": {"no_projection": True},
}
OPTIONS = {
    "plain": {},
    "scalenorm": {"use_scalenorm": True},
    "rezero": {"use_rezero": True},
    "glu": {"ff_glu": True},
    "tied": {"tie_embed": True},
    "learned": {"rotary_position_emb": False},
    "biases": {"qkv_bias": True, "attn_out_bias": True},
    "some biases": {"qkv_bias": True, "tie_embed": True},
    "chunks": {"ff_chunks": 3},
}
attend = peer.FastAttention.forward


def without_leak(self, *heads):
    """The original's attention, whose causal form adds nothing to its features."""
    if not self.causal:
        return attend(self, *heads)
    kernel = functools.partial(peer.softmax_kernel, eps=0.0)
    self.causal_linear_fn = functools.partial(
        peer.causal_linear_attention_noncuda, eps=0.0
    )
    with mock.patch.object(peer, "softmax_kernel", kernel):
        return attend(self, *heads)


@pytest.fixture(autouse=True)
def strictly_causal():
    with mock.patch.object(peer.FastAttention, "forward", without_leak):
        yield


def randomized(model, seed=0):
    """The model, every parameter away from what its constructor sets."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, x in model.named_parameters():
            noise = torch.randn(x.shape, generator=generator)
            one = name.endswith((".g", "norm.weight"))
            x.copy_(1 + 0.2 * noise if one else noise / 3)
    return model.eval()


def ids(seed, length=LENGTH):
    return np.random.default_rng(seed).integers(1, VOCABULARY, (BATCH, length))


def vectors(seed):
    shape = BATCH, LENGTH, WIDTH
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def output(model, *arguments, **options):
    with torch.no_grad():
        return model(*map(torch.from_numpy, arguments), **options).numpy()


def close(found, expected):
    """Errors relative to the size of the outputs, as logits are of any size."""
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=1e-5)


def check_language_model(causal, feature_map, options, source=None):
    model = randomized(
        peer.PerformerLM(
            **SIZES, **TOKENS, causal=causal, **KERNELS[feature_map], **options
        )
    )
    source = model.state_dict() if source is None else source(model)
    ours, variables = performer_pytorch.language_model(
        source, causal=causal, feature_map=feature_map
    )
    found = jax.jit(ours.apply)(variables, ids(1))
    close(found, output(model, ids(1)))
    return model, ours, variables


@pytest.mark.parametrize("feature_map", KERNELS)
@pytest.mark.parametrize("causal", [False, True])
def test_a_language_model_of_each_kernel_gives_the_same_logits(causal, feature_map):
    check_language_model(causal, feature_map, {})


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("causal", [False, True])
def test_a_language_model_of_each_option_gives_the_same_logits(causal, options):
    check_language_model(causal, "favor_plus", OPTIONS[options])


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_file_of_a_wrapped_model_is_read(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"

    def save(model):
        wrapped = AutoregressiveWrapper(model)
        if suffix == ".pt":
            torch.save(wrapped.state_dict(), path)
        else:
            save_model(wrapped, path)
        return path

    check_language_model(True, "favor_plus", {"rotary_position_emb": False}, save)


def test_a_converted_language_model_decodes_as_it_reads():
    model, ours, variables = check_language_model(True, "favor_plus", {})
    expected = output(model, ids(1))
    _, state = jax.jit(functools.partial(ours.apply, method="prefill"))(
        variables, ids(1)[:, :-1]
    )
    found, _ = jax.jit(functools.partial(ours.apply, method="step"))(
        variables, state, ids(1)[:, -1]
    )
    close(found, expected[:, -1])


@pytest.mark.parametrize("feature_map", KERNELS)
@pytest.mark.parametrize("causal", [False, True])
def test_a_bare_stack_gives_the_same_vectors(causal, feature_map):
    model = randomized(peer.Performer(**SIZES, causal=causal, **KERNELS[feature_map]))
    ours, variables = performer_pytorch.stack(
        model.state_dict(), causal=causal, feature_map=feature_map
    )
    close(jax.jit(ours.apply)(variables, vectors(1)), output(model, vectors(1)))


@pytest.mark.parametrize("options", ["plain", "scalenorm", "rezero", "glu"])
def test_a_stack_with_cross_attention_gives_the_same_vectors(options):
    model = randomized(
        peer.Performer(**SIZES, causal=True, cross_attend=True, **OPTIONS[options])
    )
    ours, variables = performer_pytorch.stack(
        model.state_dict(), causal=True, cross_attention=True
    )
    expected = output(model, vectors(1), context=torch.from_numpy(vectors(2)))
    close(jax.jit(ours.apply)(variables, vectors(1), vectors(2)), expected)


def pair_options(**options):
    return {f"{side}_{key}": x for key, x in options.items() for side in ("enc", "dec")}


def check_pair(feature_map="favor_plus", source=None, **options):
    sizes = dict(depth=2, heads=2, dim_head=6, nb_features=10, num_tokens=VOCABULARY)
    kernel = dict(KERNELS[feature_map])
    whole = {"no_projection": kernel.pop("no_projection", False)}
    fields = pair_options(**sizes, **kernel) | {
        "enc_max_seq_len": LENGTH,
        "dec_max_seq_len": LENGTH - 3,
    }
    model = randomized(PerformerEncDec(dim=WIDTH, **whole, **(fields | options)))
    source = model.state_dict() if source is None else source(model)
    ours, variables = performer_pytorch.encoder_decoder(source, feature_map=feature_map)
    read, written = ids(1), ids(2, LENGTH - 4)
    with torch.no_grad():
        context = model.enc(torch.from_numpy(read), return_encodings=True)
        expected = model.dec.net(torch.from_numpy(written), context=context).numpy()
    close(jax.jit(ours.apply)(variables, read, written), expected)
    return ours


@pytest.mark.parametrize("feature_map", KERNELS)
def test_an_encoder_decoder_of_each_kernel_gives_the_same_logits(feature_map):
    check_pair(feature_map)


@pytest.mark.parametrize(
    "options",
    [
        pair_options(use_rezero=True),
        pair_options(use_scalenorm=True, ff_glu=True),
        pair_options(tie_embed=True, rotary_position_emb=False),
        pair_options(qkv_bias=True),
        {"enc_depth": 1, "dec_heads": 4, "enc_ff_mult": 2, "dec_nb_features": 7},
        {"enc_num_tokens": VOCABULARY + 2},
    ],
)
def test_an_encoder_decoder_of_each_option_gives_the_same_logits(options):
    check_pair(**options)


def test_an_encoder_decoder_in_a_wrapper_is_found_under_its_prefix():
    def wrapped(model):
        return {f"module.{name}": x for name, x in model.state_dict().items()}

    check_pair(source=wrapped)


def test_padding_that_is_masked_is_left_out_here_and_counts_in_the_original():
    model, ours, variables = check_language_model(False, "favor_plus", {})
    kept = LENGTH - 4
    mask = np.arange(LENGTH) < np.full((BATCH, 1), kept)
    given = {"mask": torch.from_numpy(mask)}
    other = np.where(mask, ids(1), ids(2))
    alone = output(model, ids(1)[:, :kept])
    for read in (ids(1), other):
        close(jax.jit(ours.apply)(variables, read, mask=mask)[:, :kept], alone)
    theirs, changed = (
        output(model, read, **given)[:, :kept] for read in (ids(1), other)
    )
    scale = np.abs(alone).max()
    assert np.abs(theirs - alone).max() > 1e-2 * scale
    assert np.abs(theirs - changed).max() > 1e-3 * scale


@pytest.mark.parametrize("learned", [False, True])
def test_one_table_of_tokens_stays_one_where_positions_allow(tmp_path, learned):
    def save(model):
        save_model(model, tmp_path / "weights.safetensors")
        return tmp_path / "weights.safetensors"

    options = pair_options(rotary_position_emb=not learned)
    model = check_pair(source=save, tie_token_embeds=True, **options)
    assert model.source_vocab_size == (VOCABULARY if learned else None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reversible": True}, "a reversible stack"),
        ({"local_attn_heads": 1, "local_window_size": 4}, "local attention heads"),
        ({"shift_tokens": True}, "shifted tokens"),
        ({"axial_position_emb": True, "rotary_position_emb": False}, "axial positions"),
    ],
)
def test_a_model_that_is_another_function_is_refused(options, message):
    model = peer.PerformerLM(**SIZES, **TOKENS, **options)
    with pytest.raises(ConfigError, match=f"{message}.* does not have: "):
        performer_pytorch.language_model(model.state_dict())


def test_sides_that_one_model_cannot_have_are_refused():
    with pytest.raises(ConfigError, match="encoder has normalization 'rezero' and the"):
        check_pair(enc_use_rezero=True)
