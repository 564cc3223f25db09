"""From a checked command line to task, data and mesh; train and evaluate share it."""

import hashlib
import importlib.metadata
import json
import platform
from typing import NamedTuple

import jax

from experiments import settings
from experiments.config_file import ROOT
from jaxmodels.train import distributed, sharding
from jaxmodels.train.errors import ConfigError, RunError

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "grain")


class Run(NamedTuple):
    """What `fit` and `evaluate` of `jaxmodels.train.loop` take."""

    task: object
    data: object
    mesh: jax.sharding.Mesh


def start(arguments, experiment, facts):
    """Joins the other processes, and builds mesh, task and data for a config.

    Args:
        arguments: checked `Arguments`.
        experiment: the module that the config names.
        facts: name -> text; what the processes have to agree on besides config, code
            and libraries.

    Raises:
        ConfigError: the config does not fit the devices, the processes do not agree, or
            task or data refuse the config.
    """
    config = arguments.config
    distributed.initialize()
    distributed.agree(fingerprint(config) | facts)
    if lines := settings.check_devices(config, jax.device_count()):
        raise ConfigError("\n".join(f"{arguments.source}: {line}" for line in lines))
    try:
        task = experiment.make_task(config)
        # Traces the model, which allocates nothing and finds what does not fit.
        jax.eval_shape(task.init, jax.random.key(config.seed))
        data = experiment.make_data(config)
    except RunError:
        raise
    except ValueError as error:
        text = " ".join(str(error).split())
        raise ConfigError(f"{arguments.source}: {text}") from error
    return Run(task, data, sharding.make_mesh(**config.mesh))


def fingerprint(config):
    """Facts that are the same in all processes of one run, nested by what they are."""
    return {
        "config": json.loads(config.to_json()),
        "code": code_digest(),
        "python": platform.python_version(),
        "version": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }


def code_digest():
    """Digest of every source file that a run can execute."""
    digest = hashlib.sha256()
    for folder in ("jaxmodels", "experiments"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            text = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(json.dumps([name, text]).encode())
    return digest.hexdigest()[:16]
