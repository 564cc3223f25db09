"""The same weights in transformers' wav2vec 2.0 encoders and here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.models.transformer_backbone import TransformerBackbone

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
wav2vec2 = pytest.importorskip("transformers.models.wav2vec2.modeling_wav2vec2")
transformers = pytest.importorskip("transformers")

WIDTH, HEADS, LAYERS, LENGTH = 24, 4, 2, 11


def peer(normalize_first):
    config = transformers.Wav2Vec2Config(
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=40,
        num_conv_pos_embeddings=6,
        num_conv_pos_embedding_groups=4,
        hidden_act="gelu",
        attn_implementation="eager",
    )
    name = "Wav2Vec2EncoderStableLayerNorm" if normalize_first else "Wav2Vec2Encoder"
    torch.manual_seed(0)
    module = getattr(wav2vec2, name)(config).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module


def converted(module):
    """Parameters of `TransformerBackbone` from those of the peer."""
    state = {name: x.detach().numpy() for name, x in module.state_dict().items()}

    def norm(prefix):
        return dict(scale=state[f"{prefix}.weight"], bias=state[f"{prefix}.bias"])

    def dense(prefix, *shape):
        kernel, bias = state[f"{prefix}.weight"].T, state[f"{prefix}.bias"]
        return dict(kernel=kernel.reshape(shape or kernel.shape), bias=bias)

    def layer(i):
        at, heads = f"layers.{i}", (WIDTH, HEADS, WIDTH // HEADS)
        attention = {"out": dense(f"{at}.attention.out_proj", *heads[1:], WIDTH)}
        for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v")):
            one = dense(f"{at}.attention.{theirs}_proj", *heads)
            attention[ours] = one | dict(bias=one["bias"].reshape(heads[1:]))
        return dict(
            attention=attention,
            attention_norm=norm(f"{at}.layer_norm"),
            mlp=dict(
                up=dense(f"{at}.feed_forward.intermediate_dense"),
                down=dense(f"{at}.feed_forward.output_dense"),
            ),
            mlp_norm=norm(f"{at}.final_layer_norm"),
        )

    conv = "pos_conv_embed.conv"
    positions = dict(
        kernel=state[f"{conv}.parametrizations.weight.original1"].transpose(2, 1, 0),
        gain=state[f"{conv}.parametrizations.weight.original0"].reshape(-1),
        bias=state[f"{conv}.bias"],
    )
    layers = jax.tree.map(lambda *x: jnp.stack(x), *map(layer, range(LAYERS)))
    return {"params": dict(positions=positions, norm=norm("layer_norm"), layers=layers)}


@pytest.mark.parametrize("normalize_first", [False, True], ids=["base", "large"])
@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
def test_the_same_weights_give_the_output_of_wav2vec_2(normalize_first, padded):
    module = peer(normalize_first)
    x = np.random.default_rng(0).normal(size=(2, LENGTH, WIDTH)).astype(np.float32)
    mask = np.arange(LENGTH)[None] < np.array([[LENGTH], [7 if padded else LENGTH]])
    given = torch.from_numpy(mask) if padded else None
    with torch.no_grad():
        expected = module(torch.from_numpy(x).clone(), attention_mask=given)
    backbone = TransformerBackbone(
        WIDTH,
        LAYERS,
        HEADS,
        40,
        position_kernel_size=6,
        position_groups=4,
        normalize_first=normalize_first,
    )
    found = backbone.apply(converted(module), x, mask if padded else None)
    np.testing.assert_allclose(
        np.asarray(found)[mask],
        expected.last_hidden_state.numpy()[mask],
        rtol=1e-4,
        atol=1e-5,
    )
