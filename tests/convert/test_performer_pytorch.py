"""Conversion from names and shapes alone; the parity tests compare outputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.convert import performer_pytorch
from jaxmodels.layers.positions import sinusoidal_positions
from jaxmodels.train.errors import ConfigError

WIDTH, HEADS, HEAD, HIDDEN, FEATURES, VOCABULARY, LENGTH = 4, 3, 2, 8, 5, 7, 6
LAYERS = "performer.net.layers."


def normal(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def block(prefix, gated=False):
    inner, rows = HEADS * HEAD, HIDDEN * (2 if gated else 1)
    names = {
        "0.fn.fast_attention.projection_matrix": (FEATURES, HEAD),
        **{f"0.fn.to_{x}.weight": (inner, WIDTH) for x in "qkv"},
        "0.fn.to_out.weight": (WIDTH, inner),
        "1.fn.fn.w1.weight": (rows, WIDTH),
        "1.fn.fn.w1.bias": (rows,),
        "1.fn.fn.w2.weight": (WIDTH, HIDDEN),
        "1.fn.fn.w2.bias": (WIDTH,),
        **{f"{i}.norm.{x}": (WIDTH,) for i in "01" for x in ("weight", "bias")},
    }
    return {f"{prefix}{name}": normal(*shape) for name, shape in names.items()}


def language_model(**changes):
    """A state dict as performer-pytorch saves it, its stack under two names."""
    stack = block(f"{LAYERS}0.") | block(f"{LAYERS}1.")
    again = {
        name.replace(".net.", ".proj_updater.instance."): x for name, x in stack.items()
    }
    state = {
        **stack,
        **again,
        "performer.proj_updater.calls_since_last_redraw": np.int64(3),
        "token_emb.weight": normal(VOCABULARY, WIDTH),
        "pos_emb.emb": np.asarray(sinusoidal_positions(jnp.arange(LENGTH), WIDTH)),
        "layer_pos_emb.emb": np.asarray(sinusoidal_positions(jnp.arange(LENGTH), HEAD)),
        "norm.weight": normal(WIDTH),
        "norm.bias": normal(WIDTH),
    }
    state |= changes
    return {name: x for name, x in state.items() if x is not None}


def test_sizes_and_parameters_come_from_the_arrays():
    state = language_model()
    model, variables = performer_pytorch.language_model(state, dropout=0.1)
    assert (model.embed_dim, model.num_heads, model.head_dim) == (WIDTH, HEADS, HEAD)
    assert (model.mlp_dim, model.num_layers, model.vocab_size) == (
        HIDDEN,
        2,
        VOCABULARY,
    )
    assert (model.attention.kind, model.attention.epsilon) == ("causal_linear", None)
    assert (model.positions, model.max_length) == ("sinusoidal_rotary", LENGTH)
    assert (model.dropout, model.use_bias) == (0.1, False)
    attention = variables["params"]["decoder"]["layers"]["attention"]
    np.testing.assert_array_equal(
        attention["key"]["kernel"][1, :, 2, 1], state[f"{LAYERS}1.0.fn.to_k.weight"][5]
    )
    np.testing.assert_array_equal(
        variables["projections"]["decoder"]["layers"]["attention"]["projection"][0],
        state[f"{LAYERS}0.0.fn.fast_attention.projection_matrix"],
    )


def test_a_bidirectional_model_keeps_the_epsilon_of_the_original():
    model, _ = performer_pytorch.language_model(language_model(), causal=False)
    assert (model.attention.kind, model.attention.epsilon) == ("linear", 1e-4)


def test_a_model_without_projection_drops_the_one_in_the_file():
    model, variables = performer_pytorch.language_model(
        language_model(), feature_map="exponential"
    )
    assert list(variables) == ["params"] and model.attention.num_features is None


def test_the_first_half_of_a_gated_network_is_the_gate():
    state = language_model(
        **block(f"{LAYERS}0.", gated=True), **block(f"{LAYERS}1.", gated=True)
    )
    state = {name: x for name, x in state.items() if "proj_updater" not in name}
    model, variables = performer_pytorch.language_model(state)
    assert model.activation == "geglu"
    mlp = variables["params"]["decoder"]["layers"]["mlp"]
    kernel = state[f"{LAYERS}0.1.fn.fn.w1.weight"]
    np.testing.assert_array_equal(mlp["gate"]["kernel"][0], kernel[:HIDDEN].T)
    np.testing.assert_array_equal(mlp["up"]["kernel"][0], kernel[HIDDEN:].T)


def test_biases_that_are_missing_are_zeros():
    bias = normal(HEADS * HEAD)
    state = language_model(
        **{
            f"performer.{net}.layers.{i}.0.fn.to_q.bias": bias
            for net in ("net", "proj_updater.instance")
            for i in "01"
        }
    )
    model, variables = performer_pytorch.language_model(state)
    attention = variables["params"]["decoder"]["layers"]["attention"]
    assert model.use_bias
    np.testing.assert_array_equal(
        attention["query"]["bias"][0], bias.reshape(HEADS, HEAD)
    )
    np.testing.assert_array_equal(attention["out"]["bias"], np.zeros((2, WIDTH)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extra": normal(2)}, "1 arrays of the state dict have no place.*: extra;"),
        ({"norm.bias": None}, "has no norm.bias; it has "),
        ({"norm.bias": normal(3)}, r"norm.bias .* shape \[3\], .* ask for \[4\]"),
        ({"token_emb.weight": None}, "0 arrays called token_emb.weight instead of one"),
        (
            {"performer.proj_updater.instance.layers.0.0.norm.bias": normal(WIDTH) + 1},
            "net.layers.0.0.norm.bias .* differs from its copy",
        ),
        ({"pos_emb.emb": normal(LENGTH, WIDTH)}, "does not hold sinusoids"),
        ({"pos_emb.weights.0": normal(2)}, "axial positions .*: pos_emb.weights.0"),
        (
            {"performer.net.blocks.0.f.net.norm.bias": normal(2)},
            "reversible stack",
        ),
        ({f"{LAYERS}0.0.fn.local_attn.x": normal(2)}, "local attention heads"),
        ({f"{LAYERS}0.0.fn.fn.to_q.weight": normal(2)}, "shifted tokens"),
    ],
)
def test_a_state_dict_that_is_not_of_this_model_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        performer_pytorch.language_model(language_model(**changes))


def test_arguments_that_fit_no_model_are_refused():
    with pytest.raises(ConfigError, match="unknown feature_map 'softmax'.* favor_plus"):
        performer_pytorch.language_model(language_model(), feature_map="softmax")
    with pytest.raises(ConfigError, match="bidirectional stack with cross-attention"):
        performer_pytorch.stack({}, causal=False, cross_attention=True)
    with pytest.raises(ConfigError, match="1 blocks under .* are no pairs"):
        performer_pytorch.stack(
            block("net.layers.0."), causal=True, cross_attention=True
        )


def test_a_bare_stack_has_no_final_normalization():
    model, variables = performer_pytorch.stack(block("net.layers.0."), causal=False)
    assert set(variables["params"]) == {"layers"}
    shape = jax.eval_shape(model.apply, variables, jnp.zeros((1, 2, WIDTH)))
    assert shape.shape == (1, 2, WIDTH)
