"""Starts real runs of `python -m experiments.train` in processes of their own."""

import importlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax

from experiments import config_file
from jaxmodels.train import checkpoint, loop, sharding
from jaxmodels.train.digest import flatten

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = "configs/performer/lm.py:tiny"
PAIRS = "configs/performer/seq2seq.py:tiny"
SIZES = {"embed_dim": 16, "mlp_dim": 32, "num_heads": 2}
SHORT = {
    "data.batch_size": 8,
    "optimizer.warmup_steps": 2,
    "optimizer.schedule": "constant",  # the same for any num_steps
    "loss.feature_redraw_interval": 5,
    "eval.num_batches": 2,
    "log_every": 1,
    "eval_every": 0,
    "save_every": 4,
    "num_steps": 8,
}
SMALL = SHORT | {f"model.{name}": size for name, size in SIZES.items()}
SMALL |= {"model.max_length": 64, "data.length": 64}
SMALL_PAIRS = SHORT | {
    f"model.{side}.{name}": size
    for side in ("encoder", "decoder")
    for name, size in (SIZES | {"num_layers": 1}).items()
}
SMALL_PAIRS |= {"data.source_length": 16, "data.target_length": 16}
FIELDS = {CONFIG: SMALL, PAIRS: SMALL_PAIRS}
PATIENCE = 300  # seconds that a machine with much else to do may take


class Run:
    """One process of a run of a small model on the texts of a folder.

    Args:
        workdir: folder of the run.
        texts: folder of texts, or of files of pairs.
        config: `CONFIG` or `PAIRS`.
        devices: virtual devices of this process.
        place: (process, number of processes, port), or None for a run of one.
        overrides: fields of the config.
    """

    def __init__(
        self, workdir, texts, *, config=CONFIG, devices=1, place=None, **overrides
    ):
        fields = FIELDS[config] | {"data.dataset": texts} | overrides
        flags = [f"--config.{name}={value}" for name, value in fields.items()]
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "TFDS_DATA_DIR": str(pathlib.Path(texts).parent / "tensorflow_datasets"),
        }
        if place:
            process, processes, port = place
            environment |= {
                "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
                "JAX_NUM_PROCESSES": str(processes),
                "JAX_PROCESS_ID": str(process),
            }
        self.workdir = pathlib.Path(workdir)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "experiments.train", f"--config={config}"]
            + [f"--workdir={workdir}", *flags],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait(self):
        """Exit code and everything that was printed."""
        text, _ = self._process.communicate(timeout=PATIENCE)
        return self._process.returncode, text

    def send(self, number):
        self._process.send_signal(number)

    def kill(self):
        self.send(signal.SIGKILL)
        self._process.wait()
        self._process.stdout.close()

    def alive(self):
        return self._process.poll() is None

    def wait_for(self, condition):
        """Waits until `condition()` holds or the run has ended; returns which."""
        deadline = time.monotonic() + PATIENCE
        while self.alive() and time.monotonic() < deadline:
            if condition():
                return True
            time.sleep(0.0005)
        return False

    def reached(self, step):
        """Waits for the metrics of an update."""
        return self.wait_for(lambda: len(lines(self.workdir)) >= step)

    def saving(self):
        """Waits for a save that is under way."""
        folder = self.workdir / "checkpoints"
        return self.wait_for(lambda: any(folder.glob("*orbax-checkpoint-tmp*")))


def free_port():
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def together(workdir, texts, processes, **options):
    """Starts all processes of one run."""
    port = free_port()
    places = [(process, processes, port) for process in range(processes)]
    return [Run(workdir, texts, place=place, **options) for place in places]


def run(workdir, texts, **options):
    """Exit code and output of a run from start to end."""
    return Run(workdir, texts, **options).wait()


def lines(workdir):
    """Metrics of a run; a line that is just being written is left out."""
    path = pathlib.Path(workdir) / "metrics.jsonl"
    if not path.exists():
        return []
    texts = path.read_text().splitlines(keepends=True)
    return [json.loads(text) for text in texts if text.endswith("\n")]


def losses(workdir):
    """step -> training loss."""
    return {
        line["step"]: line["loss"]
        for line in lines(workdir)
        if line["split"] == "train"
    }


def final_state(workdir, texts, *, config=CONFIG, **overrides):
    """Every array of the newest checkpoint, verified, by its path."""
    fields = FIELDS[config] | {"data.dataset": str(texts)} | overrides
    config, _ = config_file.load(config)
    config.unlock()
    config.update_from_flattened_dict(fields)
    experiment = importlib.import_module(f"experiments.{config.experiment}")
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    with loop.on_mesh(mesh):
        target = loop.programs(experiment.make_task(config), mesh).target
    checkpoints = checkpoint.Checkpoints(pathlib.Path(workdir) / "checkpoints")
    state = checkpoints.restore(target)
    checkpoints.close()
    return {name: jax.device_get(leaf) for name, leaf in flatten(state).items()}
