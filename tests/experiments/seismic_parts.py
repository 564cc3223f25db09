"""Configs of the experiments on waveforms made small, and batches for them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from experiments import config_file
from jaxmodels.train import checkpoint, model_file, task

SMALL = {
    "model.embed_dim": 8,
    "data.num_samples": 64,
    "data.batch_size": 4,
    "optimizer.warmup_steps": 0,
    "optimizer.learning_rate": 1e-2,
}
BACKBONE = dict(kind="sequential", num_blocks=1, num_heads=1, bidirectional="none")


def load(name, changes=()):
    """The tiny config of an experiment, with a backbone that compiles at once."""
    config, _ = config_file.load(f"configs/seismic/{name}.py:tiny")
    config.unlock()
    config.update_from_flattened_dict({**SMALL, **dict(changes)})
    config.model.backbone = ConfigDict(BACKBONE)
    if "conv_channels" in config.model.encoder:
        config.model.encoder.conv_channels = (8, 8)
    else:  # Frames of zeros stay zero in a single layer.
        config.model.encoder.mask_token = "learned"
    return config


class Started(NamedTuple):
    """A task, its first state, and its steps as compiled once for all tests of a file.

    Attributes:
        train, measure: (state, batch, seed) to what `train_step`, `eval_step` return.
    """

    task: task.Task
    state: object
    train: object
    measure: object

    def evaluate(self, batch, state=None, seed=0):
        """Metrics of a batch by name."""
        state = self.state if state is None else state
        return self.task.summarize(self.measure(state, batch, seed))


def start(experiment, config):
    made = experiment.make_task(config)
    train, measure = (jax.jit(step) for step in (made.train_step, made.eval_step))
    return Started(
        made,
        jax.jit(made.init)(jax.random.key(0)),
        lambda state, batch, seed: train(state, batch, jax.random.key(seed)),
        lambda state, batch, seed: measure(state, batch, jax.random.key(seed)),
    )


def waveforms(rows=4, samples=64, channels=3):
    """Random walks of standard deviation 1, all of them different."""
    steps = jax.random.normal(jax.random.key(1), (rows, samples, channels))
    walk = jnp.cumsum(steps, axis=1)
    walk -= walk.mean(axis=1, keepdims=True)
    walk /= walk.std(axis=1, keepdims=True)
    return {"inputs": walk, "weights": jnp.ones(rows)}


def without_last(batch):
    """The batch twice, its last row of weight 0 and another one each time."""
    batch = batch | {"weights": batch["weights"].at[-1].set(0.0)}
    inputs = batch["inputs"].at[-1].set(batch["inputs"][0, ::-1])
    return batch, batch | {"inputs": inputs}


def write_run(folder, experiment, config, preprocessing=None):
    """A run that was never trained, as a folder to start from; returns its state."""
    made = experiment.make_task(config)
    state = jax.jit(made.init)(jax.random.key(7))
    saver = checkpoint.Checkpoints(folder / "checkpoints")
    saver.save(state, wait=True)
    saver.close()
    model_file.write(folder, made.networks, preprocessing or {})
    (folder / "config.json").write_text(config.to_json())
    return state
