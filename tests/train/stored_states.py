"""States with known values, and processes of their own, for tests of checkpoints."""

import inspect
import os
import pathlib
import subprocess
import sys
import textwrap

import chex
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxmodels.train import checkpoint, state

ROOT = pathlib.Path(__file__).parents[2]


def make_state(step, size=500):
    """A state whose values follow from its step; random, so that it cannot shrink."""
    values = jax.random.normal(jax.random.key(step), (8, size))
    params = {"model": {"kernel": values, "bias": values[0].astype(jnp.bfloat16)}}
    moments = {"model": (values * 2, jnp.int32(step))}
    new = state.start(params, moments, {}, {"model": {"statistics": values[1]}})
    return new.replace(step=jnp.int32(step))


PRELUDE = f"""
import os, resource, sys
import jax, jax.numpy as jnp
from jaxmodels.train import checkpoint, state, stored
from jaxmodels.train.errors import StorageError

{inspect.getsource(make_state)}

def abstract(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)

"""


def start_python(script, *arguments, devices=1):
    """A process of its own, because what happens to it must not happen to us."""
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(script), *map(str, arguments)],
        cwd=ROOT,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "PYTHONPATH": str(ROOT),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def output_of(process):
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    return text


def placed(tree):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def sharding(x):
        return NamedSharding(
            mesh, PartitionSpec("data") if x.ndim == 2 else PartitionSpec()
        )

    return jax.tree.map(lambda x: jax.device_put(x, sharding(x)), tree)


def target_of(tree):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
        placed(tree),
    )


def assert_same(one, other):
    chex.assert_trees_all_equal(jax.device_get(one), jax.device_get(other))


def restore(folder):
    """What a new process would restore."""
    checkpoints = checkpoint.Checkpoints(folder)
    try:
        return checkpoints.restore(target_of(make_state(0)))
    finally:
        checkpoints.close()


def listing(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def warnings(caplog):
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelname == "WARNING"
    ]
