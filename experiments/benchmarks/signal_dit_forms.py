"""`SignalDiT` by name, and its peer, ready to time: a loss, its gradient, sampling.

The loss is that of velocity prediction at given noise and time, in float32, of all
contenders on the same arrays. Peers are imported when they are asked for, from the
extra `parity`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from configs.seismic import signal_dit as configs
from experiments import signal_dit
from experiments.benchmarks.compare import Contender
from experiments.benchmarks.measure import Prepared
from jaxmodels.diffusion import samplers

FORMS = {
    "ours": Contender(note="softmax attention, as the peer"),
    "ours-linformer": Contender(note="self-attention by Linformer"),
    "ours-remat": Contender(note="softmax attention, activations recomputed"),
    "torch-diffusers": Contender(note="blocks of diffusers, PyTorch's exact attention"),
}
SAMPLERS = {
    "cached": Contender(note="encoder, keys and values once a sample"),
    "uncached": Contender(note="encoder, keys and values at every step"),
}
# What both sides are built from.
SIZES = (
    "num_samples",
    "channels",
    "patch_size",
    "embed_dim",
    "num_heads",
    "mlp_dim",
    "encoder_layers",
    "decoder_layers",
    "num_scalars",
)


def config(name, size):
    """The config of one of our forms: float32 and without the amplitude head."""
    found = configs.get_config(size)
    found.model.update(dtype="float32", remat=name == "ours-remat")
    found.model.attention = "linformer" if name == "ours-linformer" else "full"
    found.model.amplitude_head = False
    return found


def arrays(model, batch_size):
    """float32 noisy, time, condition, scalars and velocity; the same for all."""
    rng = np.random.default_rng(0)
    shape = batch_size, model.num_samples, model.channels
    noisy, condition, velocity = rng.standard_normal((3, *shape), np.float32)
    time = np.linspace(0.05, 0.95, batch_size, dtype=np.float32)
    scalars = rng.standard_normal((batch_size, model.num_scalars), np.float32)
    return noisy, time, condition, scalars, velocity


def prepare(name, *, size, mode, batch_size):
    """The loss of `name`, "forward" or "forward+backward", as a `Prepared`."""
    chosen = config(name, size)
    data = arrays(chosen.model, batch_size)
    if name == "torch-diffusers":
        return _torch(chosen.model, data, backward=mode != "forward")
    return _ours(chosen, data, backward=mode != "forward")


def _ours(chosen, data, *, backward):
    model, variables, data = _started(chosen, data)

    def loss(variables, noisy, time, condition, scalars, velocity):
        found, _ = model.apply(variables, noisy, time, condition, scalars, train=True)
        return jnp.mean(jnp.square(found - velocity))

    compiled = (
        jax.jit(jax.value_and_grad(loss) if backward else loss)
        .lower(variables, *data)
        .compile()
    )

    def run():
        found = jax.block_until_ready(compiled(variables, *data))
        return float(found[0] if backward else found)

    return Prepared(run, _temporaries(compiled), _facts(variables))


def _started(chosen, data):
    """Model, variables and arrays on the device."""
    model = signal_dit.make_model(chosen)
    data = jax.device_put(data)
    variables = jax.jit(model.init)(jax.random.key(0), *data[:4])
    return model, variables, data


def _temporaries(compiled):
    memory = compiled.memory_analysis()
    return None if memory is None else int(memory.temp_size_in_bytes)


def _facts(variables):
    leaves = jax.tree.leaves(variables["params"])
    return {"parameters": sum(leaf.size for leaf in leaves)}


def _torch(fields, data, *, backward):
    import torch

    from experiments.benchmarks.torch_signal_dit import TorchSignalDiT

    model = TorchSignalDiT(**{name: fields[name] for name in SIZES})
    *inputs, velocity = (torch.from_numpy(array) for array in data)

    def loss():
        return (model(*inputs) - velocity).square().mean()

    def run():
        if not backward:
            with torch.no_grad():
                return loss().item()
        model.zero_grad(set_to_none=True)
        value = loss()
        value.backward()
        return value.item()

    count = sum(x.numel() for x in model.parameters())
    return Prepared(run, None, {"parameters": count})


def prepare_sampling(name, *, size, batch_size, num_steps):
    """Drawing waveforms with the encoder called once, or at every step."""
    chosen = config("ours", size)
    model, variables, data = _started(chosen, arrays(chosen.model, batch_size))
    _, _, condition, scalars, _ = data
    process = signal_dit.make_process(chosen)
    sampler = samplers.make_sampler("ddim", process, num_steps)

    def draw(variables, rng, condition, scalars):
        apply = functools.partial(model.apply, variables)
        context = apply(condition, scalars, method="encode")

        def predict(noisy, time):
            own = context
            if name == "uncached":
                # Depends on the step, so that no compiler calls the encoder just once.
                moved = condition + 0.0 * time[:, None, None]
                own = apply(moved, scalars, method="encode")
            return apply(noisy, time, scalars, own, method="decode")

        return samplers.sample(sampler, predict, rng, condition.shape)

    given = variables, jax.random.key(1), condition, scalars
    compiled = jax.jit(draw).lower(*given).compile()
    return Prepared(
        lambda: jax.block_until_ready(compiled(*given)),
        _temporaries(compiled),
        _facts(variables),
    )
