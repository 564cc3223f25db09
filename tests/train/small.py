"""A task that compiles in no time, for tests of the loop itself."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmodels.train import task

BATCH = 8


class Small(nn.Module):
    """[B, 4] -> [B] through a hidden layer that every mesh axis may cut."""

    @nn.compact
    def __call__(self, x, rng=None):
        x = nn.tanh(nn.Dense(16, name="up")(x))
        x = nn.with_logical_constraint(x, ("batch", None))
        if rng is not None:
            x = x * jax.random.bernoulli(rng, 0.9, x.shape)
        return nn.Dense(1, name="down")(x)[:, 0]


class SmallData:
    """A regression whose batch is a function of the step; `bad` steps hold a NaN."""

    unit = "examples"
    batch_size = BATCH
    num_eval_batches = 2
    preprocessing = {"rate": 100}
    shared = ("rate",)
    baselines = {"zero_loss": 1.0}

    def __init__(self, bad=(), bad_row=3):
        self.bad, self.bad_row = set(bad), bad_row

    def _rows(self, step, rank, ranks, salt):
        rng = np.random.default_rng((salt, step))
        x = rng.normal(size=(BATCH, 4)).astype(np.float32)
        y = np.sin(x.sum(axis=1)).astype(np.float32)
        if salt == 0 and step in self.bad:
            x[self.bad_row, 1] = np.nan
        own = slice(rank * BATCH // ranks, (rank + 1) * BATCH // ranks)
        return {"inputs": x[own], "targets": y[own]}

    def train(self, step, rank, ranks):
        return self._rows(step, rank, ranks, 0)

    def eval(self, step, rank, ranks):
        return self._rows(step, rank, ranks, 1)

    def records(self, step):
        return [f"example {step * BATCH + row}" for row in range(BATCH)]


def make_task(microbatches=1):
    model = Small()

    def init(rng):
        return {"model": model.init(rng, jnp.zeros((1, 4)))}

    def loss_fn(params, collections, batch, rng, *, step, train):
        out = model.apply(
            {"params": params["model"]}, batch["inputs"], rng if train else None
        )
        error = jnp.square(out - batch["targets"])
        count = jnp.float32(error.size)
        return error.mean(), ({"loss": (error.sum(), count)}, {})

    return task.from_losses(
        init,
        {"model": loss_fn},
        {"model": optax.adamw(1e-2)},
        ema_decay=0.9,
        microbatches=microbatches,
    )
