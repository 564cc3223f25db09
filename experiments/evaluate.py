"""Evaluates a trained run: the newest checkpoint that verifies, on the held-out split.

  python -m experiments.evaluate --config=configs/performer/lm.py:tiny --workdir=runs/lm

Prints the metrics and writes them to `evaluation.json` in the workdir. What the data
and the evaluation read may differ from the training, such as --config.eval.num_batches.
"""

import contextlib
import math
import sys

from experiments import command_line, settings, tables, workdir
from experiments.command_line import Flag
from jaxmodels.train.errors import ConfigError

FLAGS = (
    Flag("workdir", str, "Folder of the run.", "DIR", example="runs/lm"),
    Flag("checkpoint_step", int, "Another checkpoint than the newest.", "STEP"),
)
# What decides which weights a checkpoint holds; all else may differ.
SAME = ("experiment", "model")


def main(argv=None):
    """Runs the command line; returns the exit code."""
    return command_line.run(evaluate, FLAGS, argv, doc=__doc__)


def evaluate(arguments):
    config, folder = arguments.config, arguments.flags["workdir"]
    experiment = settings.load_experiment(arguments)
    workdir.check_same_config(folder, config, sections=SAME)
    import jax

    from experiments import launch
    from jaxmodels.train import loop

    task, data, mesh = launch.start(arguments, experiment, {})
    with loop.on_mesh(mesh):
        target = loop.programs(task, mesh).target
        state = restore(folder, target, arguments.flags["checkpoint_step"])
    values = loop.evaluate(task, data, state, mesh=mesh, seed=config.seed)
    if jax.process_index() == 0:
        step, rows = int(state.step), data.num_eval_batches * data.batch_size
        path = write(folder, step, values)
        print(f"{folder} after update {step}, on up to {rows} held-out rows")
        print("\n".join(metric_lines(values)))
        print(f"written to {path}")


def restore(folder, target, step=None):
    """The state after update `step`, or the newest that verifies.

    Raises:
        ConfigError: there is no such checkpoint, or it does not fit.
        StorageError: it cannot be read.
    """
    import jax

    from jaxmodels.train import checkpoint, digest, stored

    with contextlib.closing(
        checkpoint.Checkpoints(workdir.checkpoints(folder))
    ) as checkpoints:
        known = checkpoints.steps()
        if not known or (step is not None and step not in known):
            which = f"checkpoint {step}" if step is not None else "checkpoint"
            held = f"; it holds {', '.join(map(str, known))}" if known else ""
            raise ConfigError(f"{folder} holds no {which}{held}")
        if step is None:
            return checkpoints.restore(target)
        wanted = digest.flatten(target)

        def choose(record):
            checkpoint.check_fit(wanted, record, checkpoints.directory)
            return wanted

        loaded = stored.newest(checkpoints.directory, [step], choose)
        leaves = (loaded.leaves[name] for name in wanted)
        return jax.tree.unflatten(jax.tree.structure(target), leaves)


def metric_lines(values):
    """An aligned table of metrics, the loss first."""
    names = sorted(values, key=lambda name: (name != "loss", name))
    rows = [(name, f"{values[name]:.6g}") for name in names]
    return tables.table(rows, right=(1,), indent=2)


def write(folder, step, values):
    """Writes `evaluation.json` and returns its path."""
    finite = {
        name: value if math.isfinite(value) else None for name, value in values.items()
    }
    content = {"step": step, "metrics": finite}
    return workdir.write_json(folder, "evaluation.json", content)


if __name__ == "__main__":
    sys.exit(main())
