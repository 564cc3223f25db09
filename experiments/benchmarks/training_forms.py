"""Whole training steps by name: ours and its peers, at the same widths.

A step is forward, loss, backward, clipping and AdamW, in float32. Peers are imported
when they are asked for, from the extra `parity`.
"""

import contextlib
import io

import jax
import numpy as np

from configs.performer import lm
from experiments import performer_lm
from experiments.benchmarks.compare import Contender
from experiments.benchmarks.measure import Prepared
from jaxmodels.train import loop, sharding

# XLA runs a batched product, and one loop at a time, on one core of a CPU. As two
# devices, each with half of every sequence, two cores work at once.
TWO_DEVICES = "ours-2-devices"
FORMS = {
    "ours": Contender(note="the step of experiments/performer_lm.py"),
    "ours-remat": Contender(note="the same, activations recomputed"),
    TWO_DEVICES: Contender(note="the same, half of the length on each device"),
    "performer-pytorch": Contender(note="PerformerLM without its CUDA kernel"),
    "torch-sdpa": Contender(1.5, 1.0, "a transformer with PyTorch's exact attention"),
}


def config(size, length, batch_size, remat=False):
    """The config of the language model, in float32, at one length."""
    found = lm.get_config(size)
    found.model.update(dtype="float32", max_length=length, remat=remat)
    found.data.update(length=length, batch_size=batch_size)
    return found


def prepare(name, *, size, length, batch_size):
    """The training step of `name` as a `Prepared`, whose result is the loss."""
    if name.startswith("ours"):
        devices = 2 if name == TWO_DEVICES else 1
        return _ours(config(size, length, batch_size, name == "ours-remat"), devices)
    model = _performer_pytorch if name == "performer-pytorch" else _torch_softmax
    chosen = config(size, length, batch_size)
    return _torch_step(model(chosen.model), chosen)


def tokens(chosen):
    """int32 [B, T + 1], the same random ids for all."""
    rng = np.random.default_rng(chosen.seed)
    shape = chosen.data.batch_size, chosen.data.length + 1
    return rng.integers(chosen.model.vocab_size, size=shape, dtype=np.int32)


def _ours(chosen, devices):
    task = performer_lm.make_task(chosen)
    found = jax.devices()[:devices]
    mesh = sharding.make_mesh(data=1, seq=devices, devices=found)
    ids = tokens(chosen)
    shape = ids[:, :-1].shape
    batch = {
        "inputs": ids[:, :-1],
        "targets": ids[:, 1:],
        "segment_ids": np.ones(shape, np.int32),
        "positions": np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape),
        "weights": np.ones(shape, np.float32),
        "target_bytes": np.ones(shape, np.float32),
    }
    with loop.on_mesh(mesh):
        programs = loop.programs(task, mesh)
        batch = jax.device_put(batch, sharding.batch_sharding(mesh))
        rng = jax.random.key(0)
        state = programs.init(rng)
        compiled = programs.train_step.lower(state, batch, rng).compile()
    memory = compiled.memory_analysis()
    leaves = jax.tree.leaves(state.params)
    held = [state]

    def run():
        held[0], metrics = compiled(held[0], batch, rng)
        total, count = jax.device_get(metrics["loss"])
        return float(total / count)

    return Prepared(
        run,
        None if memory is None else int(memory.temp_size_in_bytes),
        {"parameters": sum(x.size for x in leaves)},
    )


def _performer_pytorch(fields):
    import performer_pytorch

    with contextlib.redirect_stdout(io.StringIO()):
        return performer_pytorch.PerformerLM(
            num_tokens=fields.vocab_size,
            max_seq_len=fields.max_length,
            dim=fields.embed_dim,
            depth=fields.num_layers,
            heads=fields.num_heads,
            dim_head=fields.embed_dim // fields.num_heads,
            ff_mult=fields.mlp_dim // fields.embed_dim,
            causal=True,
            ff_glu=True,
            tie_embed=True,
        )


def _torch_softmax(fields):
    from experiments.benchmarks import torch_transformer

    return torch_transformer.SoftmaxLM(
        vocab_size=fields.vocab_size,
        embed_dim=fields.embed_dim,
        num_heads=fields.num_heads,
        mlp_dim=fields.mlp_dim,
        num_layers=fields.num_layers,
    )


def _torch_step(model, chosen):
    import torch
    from torch.nn import functional

    ids = torch.from_numpy(tokens(chosen)).long()
    inputs, targets = ids[:, :-1], ids[:, 1:]
    fields = chosen.optimizer
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=fields.learning_rate, weight_decay=fields.weight_decay
    )

    def run():
        optimizer.zero_grad(set_to_none=True)
        logits = model(inputs)
        loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), fields.clip_norm)
        optimizer.step()
        return loss.item()

    count = sum(x.numel() for x in model.parameters())
    return Prepared(run, None, {"parameters": count})
