"""The mLSTM block: causality, segments, padding, streams, first values, sizes."""

import functools
import operator

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers import mlstm
from jaxmodels.layers.mlstm_block import MLSTMBlock
from jaxmodels.layers.mlstm_parts import CausalConv, Gate, ScaleNorm, block_diagonal
from jaxmodels.layers.stack import scan_layers
from tests.variables import random_variables

WIDTH, LENGTH = 8, 11
BLOCK = MLSTMBlock(num_heads=2, chunk_size=4)


@pytest.fixture(scope="module")
def x():
    return jax.random.normal(jax.random.key(0), (2, LENGTH, WIDTH))


@pytest.fixture(scope="module")
def variables(x):
    return random_variables(BLOCK, x)


@functools.partial(jax.jit, static_argnames="block")
def apply(variables, x, mask=None, segment_ids=None, block=BLOCK):
    return block.apply(variables, x, mask, segment_ids)


def textbook(params, x, num_heads):
    """The block written out, with queries, keys and values made for the gates."""

    def normalize(x, scale):
        x = x - x.mean(-1, keepdims=True)
        return scale * x / jnp.sqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-5)

    batch, length, _ = x.shape
    y = normalize(x, params["norm"]["scale"])
    wide, z = jnp.split(y @ params["up"]["kernel"], 2, -1)
    kernel = params["conv"]["kernel"]
    padded = jnp.pad(wide, ((0, 0), (len(kernel) - 1, 0), (0, 0)))
    conv = sum(padded[:, tap : tap + length] * row for tap, row in enumerate(kernel))
    mixed = jax.nn.silu(conv + params["conv"]["bias"])
    qkv = []
    for name, source in (("query", mixed), ("key", mixed), ("value", wide)):
        matrix = jax.scipy.linalg.block_diag(*params[name]["kernel"])
        qkv.append(source @ matrix)
    rows = jnp.concatenate(qkv, -1)
    gates = [
        rows @ params[name]["kernel"] + params[name]["bias"]
        for name in ("input_gate", "forget_gate")
    ]
    heads = [q.reshape(batch, length, num_heads, -1) for q in qkv]
    out = mlstm.mlstm_parallel(*heads, *gates)
    scale = params["head_norm"]["scale"].reshape(num_heads, -1)
    out = normalize(out, scale).reshape(wide.shape) + params["skip"] * mixed
    return x + (out * jax.nn.silu(z)) @ params["down"]["kernel"]


def test_the_block_is_the_one_of_the_paper_written_out(x, variables):
    expected = textbook(variables["params"], x, 2)
    np.testing.assert_allclose(apply(variables, x), expected, atol=2e-5)


def test_gradients_of_the_block_are_those_of_the_block_written_out(x, variables):
    def gradients(form):
        return jax.jit(jax.grad(lambda params, x: jnp.sum(jnp.sin(form(params, x)))))

    own = gradients(lambda params, x: BLOCK.apply({"params": params}, x))
    written = gradients(lambda params, x: textbook(params, x, 2))
    found, expected = (g(variables["params"], x) for g in (own, written))
    jax.tree.map(
        lambda one, two: np.testing.assert_allclose(one, two, rtol=1e-3, atol=2e-5),
        found,
        expected,
    )


@pytest.mark.parametrize("embed_dim, inner", [(64, 128), (256, 512)])
def test_parameters_are_as_many_as_the_published_block_has(embed_dim, inner):
    shapes = jax.eval_shape(
        MLSTMBlock().init, jax.random.key(0), jnp.zeros((1, 2, embed_dim))
    )
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    gates = 2 * (3 * inner * 4 + 4)
    rows = inner * (3 * 4 + 4 + 1 + 1 + 1)  # q, k, v; convolution; norm; skip
    assert count == 3 * inner * embed_dim + rows + gates + embed_dim
    assert count == {64: 30_152, 256: 415_496}[embed_dim]


def test_gates_start_open_to_memory_and_do_not_depend_on_the_input():
    init = jax.jit(MLSTMBlock(num_heads=4).init)
    params = init(jax.random.key(3), jnp.ones((1, 2, 32)))["params"]
    np.testing.assert_allclose(params["forget_gate"]["bias"], [3, 4, 5, 6], rtol=1e-6)
    assert 0 < np.abs(params["input_gate"]["bias"]).max() < 0.5
    for gate in ("input_gate", "forget_gate"):
        np.testing.assert_array_equal(params[gate]["kernel"], 0)
    np.testing.assert_array_equal(params["skip"], 1)


def test_kernels_start_with_the_spreads_of_the_source():
    init = jax.jit(MLSTMBlock(num_blocks=3).init)
    params = init(jax.random.key(0), jnp.ones((1, 2, 64)))["params"]
    small = (2 / (5 * 64)) ** 0.5
    expected = {"up": small, "query": small, "value": small, "down": 2 / (3 * 64**0.5)}
    for name, spread in expected.items():
        np.testing.assert_allclose(params[name]["kernel"].std(), spread, rtol=0.1)
    assert np.abs(params["conv"]["kernel"]).max() <= 0.5


def test_a_later_frame_changes_no_earlier_output_to_the_bit(x, variables):
    before = apply(variables, x)
    after = apply(variables, x.at[:, 6].add(5.0))
    np.testing.assert_array_equal(after[:, :6], before[:, :6])
    assert jnp.any(after[:, -1] != before[:, -1])


def test_segments_are_as_sequences_of_their_own(x, variables):
    ids = np.array([[0] * 3 + [1] * 4 + [0] * 4] * 2)
    packed = apply(variables, x, None, ids)
    alone = [apply(variables, x[:, a:b]) for a, b in ((0, 3), (3, 7), (7, 11))]
    np.testing.assert_allclose(packed, jnp.concatenate(alone, axis=1), atol=1e-5)
    other = apply(variables, x.at[:, 3:7].add(1.0), None, ids)
    np.testing.assert_array_equal(other[:, 7:], packed[:, 7:])
    np.testing.assert_array_equal(other[:, :3], packed[:, :3])


def test_padding_on_either_side_changes_no_valid_output(x, variables):
    expected = apply(variables, x)
    junk = jnp.full((2, 3, WIDTH), jnp.nan)
    mask = np.ones((2, LENGTH + 3), bool)
    right, left = mask.copy(), mask.copy()
    right[:, LENGTH:] = False
    left[:, :3] = False
    found = apply(variables, jnp.concatenate([x, junk], axis=1), right)
    np.testing.assert_allclose(found[:, :LENGTH], expected, atol=1e-6)
    found = apply(variables, jnp.concatenate([junk, x], axis=1), left)
    np.testing.assert_allclose(found[:, 3:], expected, atol=1e-5)


def test_what_stands_at_masked_frames_changes_no_other_to_the_bit(x, variables):
    mask = np.ones((2, LENGTH), bool)
    mask[:, 4:6] = False
    one = apply(variables, x, mask)
    two = apply(variables, x.at[:, 4:6].set(7.0), mask)
    np.testing.assert_array_equal(one[mask], two[mask])


def test_steps_and_pieces_give_what_one_call_gives(x, variables):
    expected = apply(variables, x)
    run = jax.jit(BLOCK.apply, static_argnames="method")
    state, steps = BLOCK.initial_state(2, WIDTH), []
    for frame in range(LENGTH):
        state, y = run(variables, state, x[:, frame], method="step")
        steps.append(y)
    np.testing.assert_allclose(jnp.stack(steps, axis=1), expected, atol=1e-5)
    last, pieces = BLOCK.initial_state(2, WIDTH), []
    for begin, end in ((0, 2), (2, LENGTH)):
        last, y = run(variables, last, x[:, begin:end], method="extend")
        pieces.append(y)
    np.testing.assert_allclose(jnp.concatenate(pieces, axis=1), expected, atol=1e-5)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), last, state
    )


def test_scanned_blocks_are_blocks_one_after_the_other(x):
    class Stack(nn.Module):
        @nn.compact
        def __call__(self, x):
            scan = scan_layers(lambda layer, x, _: (layer(x), None), 2)
            block = MLSTMBlock(num_heads=2, chunk_size=4, name="blocks")
            return scan(block, x, None)[0]

    variables = random_variables(Stack(), x)
    found = jax.jit(Stack().apply)(variables, x)
    for layer in range(2):
        own = jax.tree.map(operator.itemgetter(layer), variables["params"]["blocks"])
        x = apply({"params": own}, x)
    np.testing.assert_allclose(found, x, rtol=1e-4, atol=1e-5)


def test_a_soft_cap_bounds_the_gates():
    gate = Gate(2, nn.initializers.constant(100.0), soft_cap=15.0)
    x, matrices = jnp.ones((1, 3, 8)), jnp.ones((2, 4, 4))
    given = {"query": matrices, "key": matrices, "value": matrices}
    variables = gate.init(jax.random.key(0), x, x, **given)
    out = gate.apply(variables, x, x, **given)
    np.testing.assert_allclose(out, 15 * np.tanh(100 / 15), rtol=1e-6)


def test_block_diagonal_maps_are_dense_ones_with_zeros():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 3, 6)), jnp.float32)
    matrices = jnp.asarray(rng.normal(size=(2, 3, 3)), jnp.float32)

    def dense(x, matrices):
        return x @ jax.scipy.linalg.block_diag(*matrices)

    found, pull = jax.vjp(block_diagonal, x, matrices)
    expected, pull_dense = jax.vjp(dense, x, matrices)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for one, two in zip(pull(jnp.cos(x)), pull_dense(jnp.cos(x)), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)


def test_the_convolution_sees_its_frame_and_those_before():
    conv = CausalConv(3)
    x = jnp.zeros((1, 6, 2)).at[0, 2].set(1.0)
    kernel = jnp.arange(6.0).reshape(3, 2)
    variables = {"params": {"kernel": kernel, "bias": jnp.zeros(2)}}
    found = conv.apply(variables, x)[0]
    expected = np.zeros((6, 2))
    expected[2:5] = kernel[::-1]
    np.testing.assert_allclose(found, expected)


def test_group_norm_normalizes_every_part_alone():
    x = jax.random.normal(jax.random.key(0), (2, 3, 8)) * jnp.repeat(
        jnp.array([1.0, 50.0]), 4
    )
    norm = ScaleNorm(groups=2)
    out = norm.apply(norm.init(jax.random.key(0), x), x).reshape(2, 3, 2, 4)
    np.testing.assert_allclose(out.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(out.std(-1), 1, atol=1e-3)


def test_dropout_acts_in_training_alone(x, variables):
    block = BLOCK.clone(dropout=0.5)
    rngs = {"dropout": jax.random.key(1)}
    run = jax.jit(functools.partial(block.apply, train=True))
    kept = run(variables, x, rngs=rngs) == x
    assert 0.3 < kept.mean() < 0.7
    np.testing.assert_array_equal(apply(variables, x, block=block), apply(variables, x))


def test_half_precision_stays_near_single(x, variables):
    block = BLOCK.clone(dtype="bfloat16")
    found = apply(variables, x.astype(jnp.bfloat16), block=block)
    assert found.dtype == jnp.bfloat16
    expected = apply(variables, x)
    error = jnp.abs(found.astype(jnp.float32) - expected).mean()
    assert error < 0.05 * jnp.abs(expected).mean()


def test_widths_that_do_not_divide_are_named():
    with pytest.raises(ValueError, match="= 12 is not divisible by num_heads 5"):
        MLSTMBlock(num_heads=5).init(jax.random.key(0), jnp.ones((1, 2, 6)))
    with pytest.raises(ValueError, match="= 6 is not divisible by qkv_block_size 4"):
        MLSTMBlock(num_heads=2).init(jax.random.key(0), jnp.ones((1, 2, 3)))
