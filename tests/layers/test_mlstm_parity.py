"""The mLSTM cell and block beside the `xlstm` package, with the same random weights.

The package adds 1e-6 to the denominator, and its recurrent forms start from a unit of
1.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers import mlstm
from jaxmodels.layers.mlstm_block import MLSTMBlock
from tests.variables import random_variables

torch = pytest.importorskip("torch", reason="torch is not installed: make test-parity")
pytest.importorskip("xlstm", reason="xlstm is not installed: make test-parity")
pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

BATCH, LENGTH, HEADS, WIDTH = 2, 128, 4, 8
FORMS = mlstm.mlstm_parallel, mlstm.mlstm_chunkwise, mlstm.mlstm_recurrent


@pytest.fixture(scope="module")
def inputs():
    """Queries, keys, values and gates around those of a new block."""
    rng = np.random.default_rng(0)
    shape = BATCH, LENGTH, HEADS
    arrays = rng.normal(size=(3, *shape, WIDTH))
    gates = rng.normal(size=shape), np.linspace(3, 6, HEADS) + rng.normal(size=shape)
    return [np.asarray(x, np.float32) for x in (*arrays, *gates)]


def peer(backend, inputs):
    """What a backend of the package makes of [B, L, H, ...]."""
    from xlstm.blocks.mlstm import backends

    query, key, value, *gates = (torch.tensor(x).transpose(1, 2) for x in inputs)
    if backend == "recurrent":
        return recurrent_peer(query, key, value, *gates)
    if backend == "chunkwise":
        args = [x.contiguous() for x in (query, key, value, *gates)]
        out = backends.chunkwise_simple(*args)
    else:
        gates = [x[..., None] for x in gates]
        out = backends.parallel_stabilized_simple(query, key, value, *gates)
    return out.transpose(1, 2).numpy()


def recurrent_peer(query, key, value, input_gate, forget_gate):
    from xlstm.blocks.mlstm.backends import recurrent_step_stabilized_simple

    memory = torch.zeros(BATCH, HEADS, WIDTH, WIDTH)
    total = torch.zeros(BATCH, HEADS, WIDTH, 1)
    unit = torch.zeros(BATCH, HEADS, 1, 1)
    rows = []
    for index in range(LENGTH):
        # The package squeezes its arguments in place.
        token = [x[:, :, index : index + 1].clone() for x in (query, key, value)]
        gates = [x[:, :, index, None, None] for x in (input_gate, forget_gate)]
        out, (memory, total, unit) = recurrent_step_stabilized_simple(
            memory, total, unit, *token, *gates
        )
        rows.append(out.reshape(BATCH, HEADS, WIDTH))
    return torch.stack(rows, dim=1).numpy()


@pytest.mark.parametrize("backend", ["parallel", "chunkwise", "recurrent"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_equals_every_backend_of_the_package(inputs, form, backend):
    found = form(*(jnp.asarray(x) for x in inputs))
    found = found if form is mlstm.mlstm_parallel else found[0]
    np.testing.assert_allclose(found, peer(backend, inputs), rtol=1e-4, atol=1e-4)


def peer_block(params, embed_dim, length):
    """The package's block with these weights, and how its names map to ours."""
    from xlstm import mLSTMBlock, mLSTMBlockConfig, mLSTMLayerConfig

    layer = mLSTMLayerConfig(embedding_dim=embed_dim, context_length=length)
    config = mLSTMBlockConfig(mlstm=layer, _num_blocks=1, _block_idx=0)
    block = mLSTMBlock(config)
    cell = "xlstm.mlstm_cell."
    weights = {
        "xlstm_norm.weight": params["norm"]["scale"] - 1,
        "xlstm.learnable_skip": params["skip"],
        "xlstm.proj_up.weight": params["up"]["kernel"].T,
        "xlstm.proj_down.weight": params["down"]["kernel"].T,
        "xlstm.conv1d.conv.weight": params["conv"]["kernel"].T[:, None],
        "xlstm.conv1d.conv.bias": params["conv"]["bias"],
        f"{cell}outnorm.weight": params["head_norm"]["scale"] - 1,
    }
    for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v")):
        kernel = params[ours]["kernel"].swapaxes(1, 2)
        weights[f"xlstm.{theirs}_proj.weight"] = kernel
    for ours, theirs in (("input_gate", "igate"), ("forget_gate", "fgate")):
        weights[f"{cell}{theirs}.weight"] = params[ours]["kernel"].T
        weights[f"{cell}{theirs}.bias"] = params[ours]["bias"]
    block.load_state_dict({k: torch.tensor(np.array(v)) for k, v in weights.items()})
    return block


def spread(params):
    """Random weights of the sizes that a trained block has."""
    params["forget_gate"]["bias"] += jnp.linspace(3, 6, HEADS)
    for name in ("input_gate", "forget_gate"):
        params[name]["kernel"] *= 0.1
    return params


def test_a_block_and_its_gradients_equal_the_package():
    x = jax.random.normal(jax.random.key(0), (BATCH, LENGTH, 32))
    target = jax.random.normal(jax.random.key(1), x.shape)
    params = spread(random_variables(MLSTMBlock(), x)["params"])
    block = peer_block(params, 32, LENGTH)
    count = sum(p.numel() for p in block.parameters())
    assert count == sum(leaf.size for leaf in jax.tree.leaves(params))

    def loss(params, x):
        out = MLSTMBlock().apply({"params": params}, x)
        return jnp.sum(out * target), out

    grad = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    (d_params, d_x), found = grad(params, x)
    given = torch.tensor(np.asarray(x), requires_grad=True)
    expected = block(given)
    (expected * torch.tensor(np.asarray(target))).sum().backward()
    np.testing.assert_allclose(found, expected.detach(), rtol=1e-4, atol=1e-4)
    for ours, theirs in (
        (d_x, given.grad),
        (d_params["up"]["kernel"], block.xlstm.proj_up.weight.grad.T),
        (d_params["query"]["kernel"], block.xlstm.q_proj.weight.grad.swapaxes(1, 2)),
        (d_params["forget_gate"]["bias"], block.xlstm.mlstm_cell.fgate.bias.grad),
        (d_params["input_gate"]["kernel"], block.xlstm.mlstm_cell.igate.weight.grad.T),
    ):
        theirs = theirs.numpy()
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(ours / scale, theirs / scale, atol=1e-4)


def test_a_stream_of_steps_equals_that_of_the_package():
    x = jax.random.normal(jax.random.key(0), (1, 12, 32))
    module = MLSTMBlock()
    variables = {"params": spread(random_variables(module, x)["params"])}
    block, theirs = peer_block(variables["params"], 32, 12), {}
    state = module.initial_state(1, 32)
    step = jax.jit(lambda state, x: module.apply(variables, state, x, method="step"))
    with torch.no_grad():
        for index in range(12):
            state, found = step(state, x[:, index])
            frame = torch.tensor(np.array(x[:, index : index + 1]))
            expected, theirs = block.step(frame, **theirs)
            np.testing.assert_allclose(found, expected[:, 0], rtol=1e-4, atol=1e-4)
