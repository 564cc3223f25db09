import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmodels.models import signal_dit_blocks as blocks
from jaxmodels.models.signal_dit import (
    AmplitudeHead,
    DecoderBlock,
    EncoderBlock,
    SignalDiT,
)
from jaxmodels.train import sharding
from tests.variables import random_variables

BATCH, SAMPLES = 4, 24
SIZES = dict(num_samples=SAMPLES, channels=2, patch_size=4, embed_dim=8, num_heads=2)
SIZES |= dict(mlp_dim=12, encoder_layers=2, decoder_layers=3, linformer_rank=3)
DIRECT = dict(injection="direct", encoder_layers=0)
VARIANTS = [
    {},
    dict(film="adaln", injection="cross", linformer_sharing="none"),
    dict(film="adaln6", linformer_sharing="kv", remat=True),
    dict(injection="cross", linformer_sharing="layerwise", amplitude_head=False),
    DIRECT | dict(film="adaln", attention="full"),
]
SCALARS = jnp.array([[-2.0, 1.0], [jnp.nan, 0.5], [-3.0, jnp.nan], [0.1, 0.2]])
KEEP = jnp.array([True, True, False, True])


def label(fields):
    return "-".join(map(str, fields.values())) or "default"


def arrays(seed=0):
    """A noisy waveform, times, a condition and scalars, some of them unknown."""
    noisy, condition = jax.random.normal(jax.random.key(seed), (2, BATCH, SAMPLES, 2))
    return noisy, jnp.linspace(0.1, 0.9, BATCH), condition, SCALARS


@functools.cache
def build(**fields):
    model = SignalDiT(**SIZES | fields)
    return model, random_variables(model, *arrays())


@functools.partial(jax.jit, static_argnames=("model", "method"))
def apply(model, variables, *args, **options):
    return model.apply(variables, *args, **options)


def loss_of(model, params, inputs):
    """Squared error of the prediction, and the likelihood of an amplitude."""
    prediction, context = model.apply({"params": params}, *inputs, keep=KEEP)
    target = jnp.cos(jnp.arange(prediction.size)).reshape(prediction.shape)
    loss = jnp.square(prediction - target).mean()
    if model.amplitude_head:
        mean, log_variance = context.amplitude.T
        wrong = jnp.square(jnp.arange(BATCH) - mean)
        loss += (wrong * jnp.exp(-log_variance) + log_variance).mean()
    return loss, prediction


@pytest.mark.parametrize(
    "fields",
    [VARIANTS[0], *(pytest.param(x, marks=pytest.mark.slow) for x in VARIANTS[1:])],
    ids=label,
)
def test_a_new_model_predicts_zero_and_every_weight_learns_after_two_steps(fields):
    model, inputs = SignalDiT(**SIZES | fields), arrays()
    optimizer = optax.adam(1e-2)
    slopes_of = jax.grad(functools.partial(loss_of, model), has_aux=True)

    def step(state, _):
        params, moments = state
        slopes, prediction = slopes_of(params, inputs)
        updates, moments = optimizer.update(slopes, moments)
        state = optax.apply_updates(params, updates), moments
        return state, (slopes, prediction)

    @jax.jit
    def train(rng):
        params = model.init(rng, *inputs)["params"]
        return jax.lax.scan(step, (params, optimizer.init(params)), length=3)[1]

    slopes, predictions = train(jax.random.key(1))
    assert predictions.shape == (3, BATCH, SAMPLES, 2)
    assert not predictions[0].any() and predictions[2].any()
    for path, slope in jax.tree_util.tree_leaves_with_path(slopes):
        name, slope = sharding.path_name(path), np.asarray(slope[2])
        layers = slope.shape[0] if "/layers/" in name else 1
        largest = np.abs(slope).reshape(layers, -1).max(axis=1)
        assert np.isfinite(slope).all() and (largest > 0).all(), name


@pytest.mark.parametrize("fields", [{}, dict(injection="cross"), DIRECT], ids=label)
def test_decoding_from_a_kept_context_equals_the_full_call(fields):
    model, variables = build(**fields)
    noisy, time, condition, scalars = arrays()
    context = apply(model, variables, condition, scalars, keep=KEEP, method="encode")
    for shift in (0.0, 0.05):
        inputs = noisy + shift, time + shift, condition, scalars
        full, _ = apply(model, variables, *inputs, keep=KEEP)
        kept = apply(model, variables, *inputs[:2], scalars, context, method="decode")
        assert full.dtype == jnp.float32
        chex.assert_trees_all_close(kept, full, rtol=0, atol=1e-6)


def test_the_log_variance_of_the_amplitude_has_a_bound():
    head = AmplitudeHead(4)
    tokens, scalars = jnp.ones((2, 3, 4)), jnp.zeros((2, 4))
    variables = head.init(jax.random.key(0), tokens, scalars)
    for bias, expected in ((-1e4, -10.0), (-2.0, -2.0), (0.0, 0.0), (1.5, 1.5)):
        out = variables["params"]["out"] | {"bias": jnp.array([0.3, bias])}
        changed = {"params": variables["params"] | {"out": out}}
        mean, log_variance = head.apply(changed, tokens, scalars)[0]
        assert mean == pytest.approx(0.3)
        assert log_variance == pytest.approx(expected, abs=1e-3)


def test_decoding_calls_no_encoder_and_projects_no_keys():
    model, variables = build()
    noisy, time, condition, scalars = arrays()
    called = []

    def count(call, args, kwargs, context):
        called.append((type(context.module).__name__, context.method_name))
        return call(*args, **kwargs)

    def traced(method, *inputs):
        run = functools.partial(model.apply, variables, method=method)
        return jax.eval_shape(run, *inputs)

    with nn.intercept_methods(count):
        context = traced("encode", condition, scalars)
        once = list(called)
        traced("decode", noisy, time, scalars, context)
    assert once.count(("SignalEncoder", "__call__")) == 1
    assert once.count(("SignalDecoder", "remember")) == 1
    later = called[len(once) :]
    assert ("SignalDecoder", "__call__") in later
    assert not [c for c in later if c[0] == "SignalEncoder" or c[1] == "remember"]


def loop(model, params, noisy, time, condition, scalars):
    """The model as a Python loop over its blocks, sub-module by sub-module."""

    def module(kind, path, *args, **options):
        own = functools.reduce(lambda tree, name: tree[name], path.split("/"), params)
        return kind.apply({"params": own}, *args, **options)

    def layer(path, index):
        tree = functools.reduce(lambda tree, name: tree[name], path.split("/"), params)
        return {"params": jax.tree.map(lambda leaf: leaf[index], tree)}

    bound = model.bind({"params": params})
    attention = blocks.SelfAttention("linformer", 6, 3, model.linformer_sharing)
    encoder = EncoderBlock(8, 2, 12, attention)
    decoder = DecoderBlock(8, 2, 12, attention, model.film)
    projection = params.get("projection")
    patch = blocks.TimeSeriesProjection(8, 4)
    angle = jnp.arange(6)[:, None] * 1e4 ** (-jnp.arange(4) / 4)
    position = jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=1)
    position += params["position"]
    x = module(patch, "encoder/patch", condition) + position
    for index in range(2):
        x = encoder.apply(layer("encoder/layers", index), x, projection)
    tokens = module(
        bound.encoder.final_norm.clone(parent=None), "encoder/final_norm", x
    )
    vector = jax.nn.silu(bound.time(time) + bound.scalars(scalars))
    kernel = params["decoder"]["injection"]
    x = module(patch, "decoder/patch", noisy) + position
    x += tokens @ kernel["kernel"] + kernel["bias"]
    shared = vector
    if model.film == "single":
        kernel = params["decoder"]["modulation"]
        shared = vector @ kernel["kernel"] + kernel["bias"]
    for index in range(3):
        own = layer("decoder/layers", index)
        memory = decoder.apply(own, tokens, method="remember")
        x = decoder.apply(own, x, shared, memory, projection)
    return blocks.from_patches(bound.final(x, vector), 2)


@pytest.mark.parametrize("film, sharing", [("single", "layerwise"), ("adaln", "none")])
def test_the_scanned_stacks_equal_a_loop_over_blocks(film, sharing):
    model, variables = build(film=film, linformer_sharing=sharing)
    looped = jax.jit(functools.partial(loop, model))(variables["params"], *arrays())
    chex.assert_trees_all_close(
        apply(model, variables, *arrays())[0], looped, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("fields", [{}, dict(injection="cross"), DIRECT], ids=label)
def test_rows_are_independent_and_a_dropped_condition_changes_its_own_alone(fields):
    model, variables = build(**fields)
    noisy, time, condition, scalars = arrays()
    run = functools.partial(apply, model, variables)
    full, context = run(noisy, time, condition, scalars)
    order = jnp.array([2, 0, 3, 1])
    turned, _ = run(noisy[order], time[order], condition[order], scalars[order])
    chex.assert_trees_all_close(turned, full[order], rtol=1e-5, atol=1e-5)
    taken = run(
        noisy[order], time[order], scalars[order], context.take(order), method="decode"
    )
    chex.assert_trees_all_close(taken, full[order], rtol=1e-5, atol=1e-5)
    dropped, other = run(noisy, time, condition, scalars, keep=KEEP)
    np.testing.assert_array_equal(dropped[KEEP], full[KEEP])
    assert (dropped[2] != full[2]).mean() > 0.9
    np.testing.assert_array_equal(other.amplitude, context.amplitude)
    # Nothing of a dropped condition is left; its scalars are.
    changed, _ = run(noisy, time, condition.at[2].add(1.0), scalars, keep=KEEP)
    np.testing.assert_array_equal(changed, dropped)
    changed, _ = run(noisy, time, condition, scalars.at[2, 0].add(0.5), keep=KEEP)
    assert (changed[2] != dropped[2]).any()


def test_every_sample_depends_on_the_whole_condition_and_the_whole_input():
    model, variables = build(attention="full")
    noisy, time, condition, scalars = arrays()
    full, _ = apply(model, variables, noisy, time, condition, scalars)
    for place in (0, SAMPLES - 1):
        for changed in (
            (noisy.at[:, place].add(1.0), time, condition),
            (noisy, time, condition.at[:, place].add(1.0)),
        ):
            found, _ = apply(model, variables, *changed, scalars)
            assert (found != full).mean() > 0.99


def test_sixteen_bits_stay_near_the_prediction_of_thirty_two():
    model, variables = build()
    full, _ = apply(model, variables, *arrays(), keep=KEEP)
    narrow = SignalDiT(**SIZES | dict(dtype="bfloat16"))
    found, context = apply(narrow, variables, *arrays(), keep=KEEP)
    assert found.dtype == context.amplitude.dtype == jnp.float32
    assert context.keys.dtype == jnp.bfloat16
    assert jnp.isfinite(found).all()
    assert float(jnp.std(found - full) / jnp.std(full)) < 0.05


def test_without_scalars_a_model_takes_none():
    model, inputs = SignalDiT(**SIZES | dict(num_scalars=0)), arrays()
    inputs = (*inputs[:3], jnp.zeros((BATCH, 0)))
    variables = random_variables(model, *inputs)
    assert "scalars" not in variables["params"]
    assert jnp.isfinite(apply(model, variables, *inputs)[0]).all()


def test_arrays_of_another_shape_are_refused_with_the_way_out():
    model, variables = build()
    noisy, time, condition, scalars = arrays()

    def attempt(*inputs, **options):
        jax.eval_shape(functools.partial(model.apply, **options), variables, *inputs)

    with pytest.raises(ValueError, match=r"noisy has shape \[4, 20, 2\], .* cut or"):
        attempt(noisy[:, :20], time, condition, scalars)
    with pytest.raises(ValueError, match=r"condition has shape \[4, 24, 1\]"):
        attempt(noisy, time, condition[..., :1], scalars)
    with pytest.raises(ValueError, match=r"time has shape \[\], and .* takes \[4\]"):
        attempt(noisy, time[0], condition, scalars)
    with pytest.raises(ValueError, match=r"scalars has shape \[4, 1\], .* \[4, 2\]"):
        attempt(noisy, time, condition, scalars[:, :1])
    with pytest.raises(ValueError, match=r"keep has shape \[1\]"):
        attempt(noisy, time, condition, scalars, keep=KEEP[:1])
    _, context = apply(model, variables, noisy, time, condition, scalars)
    context = context.take(jnp.array([0]))
    with pytest.raises(ValueError, match=r"context.tokens has shape \[1, 6, 8\]"):
        attempt(noisy, time, scalars, context, method="decode")


def test_a_mesh_of_eight_devices_gives_the_same_prediction():
    model, variables = build()
    expected, _ = apply(model, variables, *arrays(), keep=KEEP)
    mesh = sharding.make_mesh(data=2, fsdp=1, model=2, seq=2)
    with jax.set_mesh(mesh), sharding.activation_rules():
        run = jax.jit(lambda v, *a: model.apply(v, *a, keep=KEEP)[0])
        found = run(variables, *arrays())
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-5)
