import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxmodels.layers.feed_forward import (
    GLU,
    Mlp,
    feed_forward,
    gelu_erf,
    matched_width,
)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gelu(x):
    return 0.5 * x * (1 + special.erf(x / np.sqrt(2)))


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


TEXTBOOK = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "reglu": lambda x: np.maximum(x, 0),
    "geglu": gelu,
    "geglu_tanh": gelu_tanh,
    "swiglu": lambda x: x * sigmoid(x),
}


def build(activation, x, **fields):
    module = feed_forward(6, activation, **fields)
    params = module.init(jax.random.key(0), x)["params"]
    leaves, tree = jax.tree.flatten(params)
    rngs = jax.random.split(jax.random.key(1), len(leaves))
    drawn = [jax.random.normal(r, p.shape) for r, p in zip(rngs, leaves, strict=True)]
    return module, jax.tree.unflatten(tree, drawn)


@pytest.mark.parametrize("activation", TEXTBOOK)
def test_each_activation_is_its_textbook_form(activation):
    x = jax.random.normal(jax.random.key(2), (2, 3, 4))
    module, params = build(activation, x)

    def dense(name, x):
        kernel, bias = (np.float64(params[name][part]) for part in ("kernel", "bias"))
        return np.asarray(x, np.float64) @ kernel + bias

    if "gate" in params:
        hidden = TEXTBOOK[activation](dense("gate", x)) * dense("up", x)
    else:
        hidden = TEXTBOOK[activation](dense("up", x))
    np.testing.assert_allclose(
        module.apply({"params": params}, x), dense("down", hidden), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("width", [256, 1024, 4096])
def test_a_matched_glu_has_the_parameters_of_the_plain_network(width):
    x = jax.ShapeDtypeStruct((1, 1, width // 4), jnp.float32)

    def count(module):
        shapes = jax.eval_shape(module.init, jax.random.key(0), x)
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))

    plain, matched = count(Mlp(width)), count(GLU(width, match_params=True))
    assert abs(matched / plain - 1) < 0.02
    assert matched_width(width) % 8 == 0


def test_out_scale_shrinks_the_first_output():
    x = jax.random.normal(jax.random.key(0), (64, 32))

    def spread(scale):
        module = Mlp(128, out_scale=scale)
        return module.apply(module.init(jax.random.key(1), x), x).std()

    np.testing.assert_allclose(spread(0.25) / spread(1.0), 0.5, rtol=1e-3)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (lambda: feed_forward(4, "gleu"), "'gleu' for a feed-forward .*reglu, geglu"),
        (lambda: Mlp(4, "geglu"), "'geglu' for an Mlp; choose one of relu, gelu"),
        (lambda: GLU(4, "relu"), "'relu' for a GLU; choose one of reglu, geglu"),
    ],
)
def test_an_unknown_activation_names_the_known_ones(module, message):
    with pytest.raises(ValueError, match=message):
        module().init(jax.random.key(0), jnp.zeros((1, 2)))


@pytest.mark.parametrize(("activation", "wide"), [("gelu", 1), ("geglu", 2)])
def test_only_what_enters_the_activation_is_kept_at_the_hidden_width(activation, wide):
    module = feed_forward(64, activation)
    x = jax.random.normal(jax.random.key(0), (3, 5, 8))
    variables = module.init(jax.random.key(1), x)
    _, pull = jax.vjp(lambda x: module.apply(variables, x), x)
    kept = [leaf.shape for leaf in jax.tree.leaves(pull)]
    assert kept.count((3, 5, 64)) == wide


def test_gelu_is_that_of_jax_in_half_precision_too():
    x = jnp.linspace(-6.0, 6.0, 101)
    exact = jax.nn.gelu(x, approximate=False)
    np.testing.assert_allclose(gelu_erf(x), exact, atol=1e-6)
    half = gelu_erf(x.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), exact, atol=0.02)
