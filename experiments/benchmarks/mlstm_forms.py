"""The mLSTM cell and block by name, ours and those of `xlstm`, ready to time.

All contenders get the same float32 arrays; the cell's gates are around those of a new
block. Peers are imported when they are asked for, from the extra `parity`.

Shapes use B batch, L length, H heads, K head width, D width.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.compare import Contender
from experiments.benchmarks.measure import Prepared
from jaxmodels.layers import mlstm
from jaxmodels.layers.mlstm_block import MLSTMBlock, inner_width


def quadratic(note):
    """A contender whose time and memory grow with the square of the length."""
    return Contender(time_power=2.0, memory_power=2.0, note=note)


CELLS = {
    "ours-chunkwise": Contender(note="the default"),
    "ours-parallel": quadratic("products of L x L matrices"),
    "ours-recurrent": Contender(note="one token after the other"),
    "xlstm-chunkwise": Contender(note="PyTorch, chunkwise_simple"),
    "xlstm-parallel": quadratic("PyTorch, the package's default"),
    "xlstm-recurrent": Contender(note="PyTorch, its step in a loop of Python"),
}
BLOCKS = {
    name: CELLS[name]
    for name in ("ours-chunkwise", "xlstm-chunkwise", "xlstm-parallel")
}
SUBJECTS = {"cell": CELLS, "block": BLOCKS}
OURS: dict[str, Callable] = {
    "ours-chunkwise": lambda *inputs: mlstm.mlstm_chunkwise(*inputs)[0],
    "ours-parallel": mlstm.mlstm_parallel,
    "ours-recurrent": lambda *inputs: mlstm.mlstm_recurrent(*inputs)[0],
}


class Problem(NamedTuple):
    """What is computed: B sequences of L frames of width D, in H heads."""

    length: int
    batch_size: int
    embed_dim: int
    num_heads: int
    seed: int = 0

    def cell_inputs(self):
        """Queries, keys and values [B, L, H, K], gates [B, L, H]."""
        rng = np.random.default_rng(self.seed)
        inner = inner_width(MLSTMBlock(self.num_heads), self.embed_dim)
        shape = self.batch_size, self.length, self.num_heads
        arrays = rng.normal(size=(3, *shape, inner // self.num_heads))
        input_gate, noise = rng.normal(size=(2, *shape))
        forget_gate = np.linspace(3, 6, self.num_heads) + noise
        inputs = *arrays, input_gate, forget_gate
        return [np.asarray(x, np.float32) for x in inputs]

    def frames(self):
        """[B, L, D]."""
        rng = np.random.default_rng(self.seed)
        shape = self.batch_size, self.length, self.embed_dim
        return rng.normal(size=shape).astype(np.float32)


def prepare(name, subject, problem, *, backward):
    """Subject "cell" or "block" by `name` as a `Prepared`.

    Its run returns the outputs as an array or, with `backward`, the sum of their
    squares after the gradients of all inputs and parameters have been made.
    """
    ours = name in OURS
    if subject == "cell":
        inputs = problem.cell_inputs()
        return (_our_cell if ours else _torch_cell)(name, inputs, backward)
    return (_our_block if ours else _torch_block)(name, problem, backward)


def reference(problem):
    """The outputs of the cell in float64, by its recurrence."""
    with jax.enable_x64(True):
        inputs = (jnp.asarray(x, jnp.float64) for x in problem.cell_inputs())
        return np.asarray(jax.jit(OURS["ours-recurrent"])(*inputs))


def _our_cell(name, inputs, backward):
    form = OURS[name]
    return _compiled(lambda inputs: form(*inputs), jax.device_put(inputs), backward)


def _our_block(name, problem, backward):
    block, x = MLSTMBlock(problem.num_heads), jax.device_put(problem.frames())
    variables = jax.jit(block.init)(jax.random.key(0), x[:, :1])
    count = sum(leaf.size for leaf in jax.tree.leaves(variables))
    given = variables, x
    return _compiled(lambda given: block.apply(*given), given, backward, count)


def _compiled(form, given, backward, parameters=None):
    def loss(given):
        return jnp.sum(jnp.square(form(given)))

    function = jax.value_and_grad(loss) if backward else form
    compiled = jax.jit(function).lower(given).compile()
    memory = compiled.memory_analysis()

    def run():
        found = jax.block_until_ready(compiled(given))
        return float(found[0]) if backward else np.asarray(found)

    size = None if memory is None else int(memory.temp_size_in_bytes)
    return Prepared(run, size, {"parameters": parameters})


def _torch_cell(name, inputs, backward):
    import torch

    tensors = [torch.tensor(x).transpose(1, 2).contiguous() for x in inputs]
    form = _torch_forms()[name]

    def outputs(*given):
        query, key, value, *gates = given
        out = form(query, key, value, *(gate[..., None] for gate in gates))
        return out.transpose(1, 2)

    return _torch_run(outputs, tensors, tensors, backward)


def _torch_block(name, problem, backward):
    import torch
    from xlstm import mLSTMBlock, mLSTMBlockConfig, mLSTMLayerConfig

    layer = mLSTMLayerConfig(
        embedding_dim=problem.embed_dim,
        num_heads=problem.num_heads,
        # Of a mask made beforehand, which the backends below make themselves.
        context_length=1,
    )
    config = mLSTMBlockConfig(mlstm=layer, _num_blocks=1, _block_idx=0)
    block = mLSTMBlock(config)
    form = _torch_forms()[name]

    def backend(queries, keys, values, igate_preact, fgate_preact, **_):
        return form(queries, keys, values, igate_preact, fgate_preact)

    block.xlstm.mlstm_cell.backend_fn = backend
    x = torch.tensor(problem.frames())
    parameters = list(block.parameters())
    count = sum(p.numel() for p in parameters)
    return _torch_run(block, [x], [x, *parameters], backward, count)


def _torch_run(function, inputs, leaves, backward, parameters=None):
    import torch

    for leaf in leaves:
        leaf.requires_grad_(backward)

    def run():
        if not backward:
            with torch.no_grad():
                return function(*inputs).numpy()
        for leaf in leaves:
            leaf.grad = None
        loss = function(*inputs).square().sum()
        loss.backward()
        return loss.item()

    return Prepared(run, None, {"parameters": parameters})


def _torch_forms():
    """The package's backends of [B, H, L, K] and gates [B, H, L, 1]."""
    import torch
    from xlstm.blocks.mlstm import backends

    def recurrent(query, key, value, input_gate, forget_gate):
        batch, heads, length, width = query.shape
        state = (
            torch.zeros(batch, heads, width, width),
            torch.zeros(batch, heads, width, 1),
            torch.zeros(batch, heads, 1, 1),
        )
        rows = []
        for index in range(length):
            here = slice(index, index + 1)
            # The package squeezes its arguments in place.
            token = [x[:, :, here].clone() for x in (query, key, value)]
            gates = [x[:, :, here] for x in (input_gate, forget_gate)]
            out, state = backends.recurrent_step_stabilized_simple(
                *state, *token, *gates
            )
            rows.append(out.reshape(batch, heads, 1, width))
        return torch.cat(rows, dim=2)

    def chunkwise(query, key, value, input_gate, forget_gate):
        gates = [x.squeeze(-1).contiguous() for x in (input_gate, forget_gate)]
        query, key, value = (x.contiguous() for x in (query, key, value))
        return backends.chunkwise_simple(query, key, value, *gates)

    return {
        "xlstm-parallel": backends.parallel_stabilized_simple,
        "xlstm-chunkwise": chunkwise,
        "xlstm-recurrent": recurrent,
    }
