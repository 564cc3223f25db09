import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.models.gumbel_quantizer import GumbelVectorQuantizer, temperature_at
from tests.variables import random_variables

SMALL = dict(num_groups=2, num_codes=5, code_dim=6)
FEATURES = jax.random.normal(jax.random.key(0), (2, 7, 4))
GUMBEL = jax.random.gumbel(jax.random.key(1), (2, 7, 2, 5))
TRAINING = dict(gumbel=GUMBEL, temperature=0.7, train=True)


def small(**fields):
    """A quantizer and its variables."""
    module = GumbelVectorQuantizer(**SMALL | fields)
    return module, random_variables(module, FEATURES)


def logits_of(variables):
    kernel = variables["params"]["weight_projection"]
    flat = FEATURES @ kernel["kernel"] + kernel["bias"]
    return flat.reshape(2, 7, 2, 5)


def chosen(codebook, codes):
    """The codes of all groups side by side, group by group."""
    return np.concatenate(
        [codebook[group][codes[..., group]] for group in range(len(codebook))], axis=-1
    )


def test_the_published_size_has_its_number_of_parameters():
    features = jax.ShapeDtypeStruct((1, 8, 256), jnp.float32)
    shapes = jax.eval_shape(GumbelVectorQuantizer().init, jax.random.key(0), features)
    sizes = jax.tree.map(lambda leaf: leaf.size, shapes["params"])
    assert sizes["weight_projection"] == {"kernel": 163_840, "bias": 640}
    assert sum(jax.tree.leaves(sizes)) == 246_400


def test_the_first_values_are_those_of_wav2vec2():
    module = GumbelVectorQuantizer()
    params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 2, 256)))["params"]
    kernel, codebook = params["weight_projection"]["kernel"], params["codebook"]
    assert kernel.std() == pytest.approx(1.0, rel=0.02)
    assert not params["weight_projection"]["bias"].any()
    assert 0.0 <= codebook.min() < 0.01 < 0.99 < codebook.max() < 1.0


def test_evaluation_takes_the_likeliest_codes():
    module, variables = small()
    found = module.apply(variables, FEATURES)
    codes = np.asarray(logits_of(variables)).argmax(axis=-1)
    np.testing.assert_array_equal(found.codes, codes)
    expected = chosen(np.asarray(variables["params"]["codebook"]), codes)
    np.testing.assert_array_equal(found.values, expected)
    np.testing.assert_array_equal(found.probabilities, np.eye(5)[codes])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_training_gives_the_drawn_codes_to_the_bit(dtype):
    module, variables = small(dtype=dtype)
    found = jax.jit(lambda v: module.apply(v, FEATURES, **TRAINING))(variables)
    if dtype == "float32":
        codes = np.asarray(logits_of(variables) + GUMBEL).argmax(axis=-1)
        np.testing.assert_array_equal(found.codes, codes)
    codebook = np.asarray(variables["params"]["codebook"].astype(dtype))
    expected = chosen(codebook, np.asarray(found.codes))
    np.testing.assert_array_equal(found.values, expected)
    assert found.values.dtype == dtype and found.probabilities.dtype == jnp.float32


def test_probabilities_in_training_know_neither_noise_nor_temperature():
    module, variables = small()
    found = module.apply(variables, FEATURES, **TRAINING)
    expected = jax.nn.softmax(logits_of(variables), axis=-1)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-6)


def test_the_gradient_is_that_of_the_softmax_at_the_temperature():
    module, variables = small()
    direction = jax.random.normal(jax.random.key(2), (2, 7, 6))

    def straight_through(variables):
        return jnp.vdot(module.apply(variables, FEATURES, **TRAINING).values, direction)

    def soft(variables):
        share = jax.nn.softmax((logits_of(variables) + GUMBEL) / 0.7, axis=-1)
        parts = jnp.einsum("BTGV,GVC->BTGC", share, variables["params"]["codebook"])
        return jnp.vdot(parts.reshape(2, 7, 6), direction)

    found, expected = (
        jax.jit(jax.grad(function))(variables)["params"]
        for function in (straight_through, soft)
    )
    for name in ("kernel", "bias"):
        np.testing.assert_allclose(
            found["weight_projection"][name],
            expected["weight_projection"][name],
            rtol=1e-4,
            atol=1e-5,
        )
    # Of the codebook it is the sum over the frames that chose a code.
    codes = np.asarray(module.apply(variables, FEATURES, **TRAINING).codes)
    parts = np.asarray(direction).reshape(2, 7, 2, 3)
    sums = np.zeros((2, 5, 3))
    for group in range(2):
        np.add.at(sums[group], codes[..., group], parts[..., group, :])
    np.testing.assert_allclose(found["codebook"], sums, atol=1e-5)


def test_codes_are_drawn_with_their_probabilities():
    module, variables = small(num_groups=1, code_dim=3)
    features = jnp.broadcast_to(FEATURES[:1, :1], (1, 20_000, 4))
    gumbel = jax.random.gumbel(jax.random.key(3), module.noise_shape(1, 20_000))
    found = module.apply(
        variables, features, gumbel=gumbel, temperature=0.1, train=True
    )
    drawn = np.bincount(np.asarray(found.codes).ravel(), minlength=5) / 20_000
    np.testing.assert_allclose(drawn, found.probabilities[0, 0, 0], atol=0.02)


def test_scaled_logits_are_divided_by_the_root_of_the_feature_width():
    module, variables = small(scale_logits=True)
    found = module.apply(variables, FEATURES, **TRAINING)
    expected = jax.nn.softmax(logits_of(variables) / 2.0, axis=-1)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-6)


def test_the_temperature_falls_along_a_cosine():
    steps = jnp.arange(0, 1001, 250)
    found = [temperature_at(step, 1000) for step in steps]
    expected = [0.5 + 0.75 * (1 + np.cos(np.pi * i / 4)) for i in range(5)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert temperature_at(5000, 1000) == 0.5


def test_the_temperature_falls_by_a_factor_a_step_and_no_further_than_its_end():
    options = dict(schedule="exponential", decay=0.999995)
    assert temperature_at(0, None, **options) == 2.0
    found = temperature_at(jnp.int32(100_000), None, **options)
    assert found == pytest.approx(2.0 * 0.999995**100_000, rel=1e-6)
    assert temperature_at(1_000_000, None, **options) == 0.5


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(schedule="linear"), "unknown schedule 'linear'; choose one of cosine"),
        (dict(end=0.0), "temperatures 2.0 and 0.0 must be above 0"),
        (dict(decay=1.5), "decay 1.5 must be above 0 and at most 1"),
    ],
)
def test_a_schedule_out_of_range_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        temperature_at(0, 10, **options)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="code_dim 7 .* num_groups 2; try code_dim 8"):
        GumbelVectorQuantizer(num_groups=2, code_dim=7)
    with pytest.raises(ValueError, match="num_codes 0 must be at least 1"):
        GumbelVectorQuantizer(num_codes=0)


def test_training_without_noise_or_with_that_of_another_shape_is_refused():
    module, variables = small()
    with pytest.raises(ValueError, match="train=True wants gumbel noise"):
        module.apply(variables, FEATURES, temperature=1.0, train=True)
    with pytest.raises(ValueError, match=r"gumbel has shape \[2, 6, 2, 5\]"):
        options = TRAINING | dict(gumbel=GUMBEL[:, 1:])
        module.apply(variables, FEATURES, **options)
