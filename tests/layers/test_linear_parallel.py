"""Linear attention with the length cut over devices equals that on one device."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxmodels.layers import linear_attention, linear_parallel
from jaxmodels.layers.feature_attention import LinearAttention
from jaxmodels.train import sharding
from tests.layers.test_linear_scan import (
    FORMS,
    close,
    float64,  # noqa: F401
    jit,
    make_form,
    make_inputs,
    make_masks,
    make_target,
    thorough,
)

LENGTH = 24
AXES = ("data", "fsdp", "model", "seq")
CASES = thorough(
    [
        ("favor_plus", "prefix", (1, 1, 1, 4)),
        ("mlstm", "mask_and_segments", (1, 1, 1, 8)),
        ("hyperbolic_gated", "segments", (2, 1, 2, 2)),
    ],
    [
        (name, masks, shape)
        for name in FORMS
        for masks in make_masks(name, LENGTH)
        for shape in ((1, 1, 1, 2), (1, 1, 1, 8), (2, 1, 2, 2), (1, 2, 1, 4))
    ],
)


def on_mesh(*shape):
    devices = jax.devices()[: np.prod(shape)]
    automatic = (AxisType.Auto,) * len(AXES)
    return jax.set_mesh(jax.make_mesh(shape, AXES, automatic, devices=devices))


def run_on(shape, function, *arguments):
    """The result of one program on a mesh, finished before another may start."""
    with on_mesh(*shape):
        return jax.device_get(jit(function)(*arguments))


def true_sums(state):
    return state.sums * jnp.exp(state.log_scale)[..., None, None]


def with_gradients(form, options, inputs, state):
    """Outputs, the last state, and every gradient through both of them."""
    target = make_target(inputs["value"])

    def run(attend, inputs, sums):
        def loss(inputs, sums):
            out, last = attend(
                **inputs, **form, **options, state=state.replace(sums=sums)
            )
            sums = true_sums(last)
            total = jnp.sum(out * target) + jnp.sum(jnp.sin(sums))
            return total, (out, sums, last.segment)

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(inputs, sums)

    return run


@pytest.mark.parametrize(("name", "masks", "shape"), CASES)
def test_causal_attention_and_all_its_gradients_equal_one_device(
    name,
    masks,
    shape,
    float64,  # noqa: F811
):
    inputs, form = make_inputs(name, LENGTH), make_form(name)
    earlier = {"key": 0.5 * inputs["key"], "value": inputs["value"] + 1}
    state = linear_attention.key_value_state(**earlier, features=form["features"])
    options = {**make_masks(name, LENGTH)[masks], "chunk_size": 3}
    run = with_gradients(form, options, inputs, state)
    alone = functools.partial(run, linear_attention.causal_linear_attention)
    cut = functools.partial(run, linear_parallel.causal_linear_attention)
    expected = jax.device_get(jit(alone)(inputs, state.sums))
    close(run_on(shape, cut, inputs, state.sums), expected, 1e-12)


@pytest.mark.parametrize(
    ("queries", "shape"),
    thorough(
        [(16, (1, 1, 1, 4)), (9, (2, 1, 2, 2))],
        [(n, shape) for n in (9, 16) for shape in ((1, 1, 1, 4), (2, 1, 2, 2))],
    ),
)
def test_attention_to_all_keys_and_its_gradients_equal_one_device(
    queries,
    shape,
    float64,  # noqa: F811
):
    """Nine queries are not cut; the keys are all the same."""
    inputs, form = make_inputs("favor_plus", LENGTH), make_form("favor_plus")
    inputs["query"] = inputs["query"][:, :queries]
    target = make_target(inputs["query"][..., :3])
    options = {
        "features": form["features"],
        "mask": make_masks("favor_plus", LENGTH)["mask"]["mask"],
        "chunk_size": 5,
    }

    def run(attend, inputs):
        out, pull = jax.vjp(lambda x: attend(**x, **options), inputs)
        return out, pull(target)

    cut = functools.partial(run, linear_parallel.linear_attention)
    alone = functools.partial(run, linear_attention.linear_attention)
    close(run_on(shape, cut, inputs), jit(alone)(inputs), 1e-12)


def test_a_later_token_and_another_document_change_no_bit():
    inputs, form = make_inputs("mlstm", LENGTH), make_form("mlstm")
    ids = np.repeat([[0, 1, 2]], 2, axis=0).repeat([4, 13, 7], axis=1)
    mask = np.ones((2, LENGTH), bool)
    mask[:, 12] = False
    options = {"segment_ids": ids, "mask": mask, "chunk_size": 3}

    def run(inputs):
        out, _ = linear_parallel.causal_linear_attention(**inputs, **form, **options)
        return out

    def perturbed(*tokens):
        return {
            # A masked token has no weight, but it decays those before it.
            name: x if name == "log_decay" else jnp.asarray(x).at[:, tokens].add(3.0)
            for name, x in inputs.items()
        }

    with on_mesh(1, 1, 1, 8):
        compiled = jax.jit(run)
        out, other = (
            jax.device_get(compiled(x)) for x in (perturbed(), perturbed(1, 12, 15, 20))
        )
    seen = [token for token in range(4, 15) if token != 12]
    np.testing.assert_array_equal(out[:, seen], other[:, seen])
    np.testing.assert_array_equal(out[:, :1], other[:, :1])
    assert (out[:, 15:17] != other[:, 15:17]).any(axis=(2, 3)).all()


def test_a_prefix_that_spans_devices_hides_what_follows_it_to_the_bit():
    inputs, form = make_inputs("favor_plus", LENGTH), make_form("favor_plus")
    prefix = np.array([10, 4])

    def run(inputs):
        return linear_parallel.causal_linear_attention(
            **inputs, **form, prefix_lengths=prefix, chunk_size=3
        )[0]

    with on_mesh(1, 1, 1, 8):
        compiled = jax.jit(run)
        out, inside, after = (
            jax.device_get(
                compiled(
                    {
                        name: jnp.asarray(x).at[:, token].add(change)
                        for name, x in inputs.items()
                    }
                )
            )
            for token, change in ((0, 0.0), (8, 3.0), (14, 3.0))
        )
    changed = (out != inside).any(axis=(2, 3))
    np.testing.assert_array_equal(changed[0], [True] * LENGTH)
    np.testing.assert_array_equal(changed[1], np.arange(LENGTH) >= 8)
    changed = (out != after).any(axis=(2, 3))
    np.testing.assert_array_equal(changed, [np.arange(LENGTH) >= 14] * 2)


def test_a_length_that_the_axis_does_not_divide_runs_the_plain_form():
    inputs, form = make_inputs("mlstm", 22), make_form("mlstm")

    def run(attend, inputs):
        return attend(**inputs, **form, chunk_size=4)

    cut = functools.partial(run, linear_parallel.causal_linear_attention)
    with on_mesh(1, 1, 1, 4):
        assert "shard_map" not in str(jax.make_jaxpr(cut)(inputs))
        assert linear_parallel.is_cut(24)
        assert not linear_parallel.is_cut(1)
    assert not linear_parallel.is_cut(24)


def test_sizes_that_no_axis_divides_are_computed_on_every_device():
    inputs, form = make_inputs("relu", 8, batch=3, heads=1), make_form("relu")
    inputs = {name: x.astype(np.float32) for name, x in inputs.items()}

    def run(attend, inputs):
        def loss(inputs):
            return jnp.sum(jnp.sin(attend(**inputs, **form)[0]))

        return jax.value_and_grad(loss)(inputs)

    cut = functools.partial(run, linear_parallel.causal_linear_attention)
    alone = functools.partial(run, linear_attention.causal_linear_attention)
    close(run_on((2, 1, 2, 2), cut, inputs), jit(alone)(inputs), 1e-5)


def test_bad_input_is_named_with_its_whole_shape():
    inputs, form = make_inputs("favor_plus", 8), make_form("favor_plus")
    state = linear_attention.initial_state(2, 3, 4, features=form["features"])
    cut = functools.partial(
        linear_parallel.causal_linear_attention, **inputs, features=form["features"]
    )
    keys = functools.partial(
        linear_parallel.key_value_state,
        inputs["key"],
        inputs["value"],
        features=form["features"],
    )
    with on_mesh(1, 1, 1, 4):
        with pytest.raises(ValueError, match=r"mask of shape \(2, 1, 8, 8\)"):
            cut(mask=np.ones((2, 1, 8, 8), bool))
        with pytest.raises(ValueError, match=r"not \(2, 8, 2\)"):
            cut(log_input=np.ones((2, 8)))
        with pytest.raises(ValueError, match=r"queries of shape \(2, 8, 2, 4\)"):
            cut(state=state)
        with pytest.raises(ValueError, match="normalizer 'max'"):
            cut(normalizer="max")
        with pytest.raises(ValueError, match=r"queries of shape \(2, 8, 2, 4\)"):
            linear_parallel.attend_to_state(
                state, inputs["query"], features=form["features"]
            )
        with pytest.raises(ValueError, match="float32 mask"):
            keys(mask=np.ones((2, 8), np.float32))
        with pytest.raises(ValueError, match=r"queries of shape \(2, 8, 2, 4\)"):
            keys(state=state)


COLLECTIVE = re.compile(
    r"= (\S+) (?:all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute)"
    r"(?:-start)?\("
)


def compiled_attention(module, length, shape, context=False):
    """Forward and backward through a whole layer on a mesh, compiled."""
    x = jax.ShapeDtypeStruct((1, length, 8), jnp.float32)

    def run(variables, x):
        def loss(params, x):
            y = module.apply({**variables, "params": params}, x, x if context else None)
            return jnp.sum(jnp.sin(y))

        return jax.grad(loss, (0, 1))(variables["params"], x)

    with on_mesh(*shape), sharding.activation_rules():
        mesh = jax.sharding.get_mesh()
        variables = jax.eval_shape(module.init, jax.random.key(0), x)
        cut = NamedSharding(mesh, PartitionSpec(None, "seq"))
        x = jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=cut)
        return jit(run, out_shardings=(None, cut)).lower(variables, x).compile()


@pytest.mark.parametrize("context", [False, True])
def test_what_is_exchanged_does_not_grow_with_the_length(context):
    fields = dict(embed_dim=8, num_heads=2, num_features=4, chunk_size=8)
    module = LinearAttention(**fields, causal=not context)
    short, long = (
        COLLECTIVE.findall(
            compiled_attention(module, length, (1, 1, 1, 4), context).as_text()
        )
        for length in (64, 128)
    )
    assert short and sorted(short) == sorted(long)


def test_the_memory_of_a_device_falls_with_the_axis():
    fields = dict(embed_dim=8, num_heads=2, num_features=4, chunk_size=8)
    module = LinearAttention(**fields, causal=True)
    one, eight = (
        compiled_attention(module, 4096, (1, 1, 1, n)).memory_analysis() for n in (1, 8)
    )
    assert eight.temp_size_in_bytes < one.temp_size_in_bytes / 4
