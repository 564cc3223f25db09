"""What each way of pretraining costs, and what it gives, in one table.

  python -m experiments.pretraining_table --output results/pretraining \
    --run contrastive=configs/seismic/contrastive.py:tiny \
    --run masked=configs/seismic/masked.py:tiny --labels results/label_efficiency

Parameters and operations are counted, the time of an update is measured on random
windows after its compilation, runs interleaved, and memory is what the compiled update
holds: its arguments (weights, optimizer, batch) and its temporaries. --labels names the
output of `label_efficiency`, whose names of pretrained runs are those of --run; beside
each stands what the same networks reached from random weights.
"""

import csv
import json
import math
import pathlib
import shlex
import statistics
import sys
import time
from typing import NamedTuple

from experiments import command_line, settings
from experiments.label_efficiency import twin_name
from jaxmodels.pipelines.generate import Parser
from jaxmodels.train.errors import INTERRUPTED, ConfigError, RunError

RUNS = (
    "contrastive=configs/seismic/contrastive.py:tiny",
    "masked=configs/seismic/masked.py:tiny",
)
MODULES = ("encoder", "backbone")
# Column of the label efficiency -> name here.
SCORES = {"p_f1": "P F1", "s_f1": "S F1"}


class Update(NamedTuple):
    """The compiled update of a config.

    Attributes:
        row: numbers of the table, by column.
        call: runs one update and waits for it.
    """

    row: dict
    call: object


def parser():
    """The command line."""
    flags = Parser(
        prog="python -m experiments.pretraining_table",
        description=__doc__.split("\n")[0],
    )
    add = flags.add_argument
    add(
        "--run",
        action="append",
        metavar="NAME=FILE:SIZE",
        help="a config by the name that it has in the table; may be given again",
    )
    add("--labels", help="output of label_efficiency")
    add("--repeats", type=int, default=5, help="timed updates of each")
    add("--output", required=True, help="folder of the table")
    return flags


def main(argv=None):
    """Runs the command line; returns the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        flags = parser().parse_args(argv)
        print(run(flags, argv))
        print(f"written to {flags.output}")
    except RunError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def run(flags, argv):
    """Measures every config, writes the files and returns the table."""
    from jaxmodels.pipelines import broaden_files

    if flags.repeats < 1:
        raise ConfigError(f"--repeats {flags.repeats} must be at least 1")
    named = parse_runs(flags.run or RUNS)
    loaded = {name: load(source) for name, source in named.items()}
    gained = {}
    if flags.labels:
        twins = {name: twin_name(config.model) for name, (_, config) in loaded.items()}
        gained = labels_of(flags.labels, twins)
    broaden_files.check_folder(flags.output)
    updates = {name: prepare(*one) for name, one in loaded.items()}
    seconds: dict = {name: [] for name in updates}
    for _ in range(flags.repeats):
        for name, update in updates.items():
            start = time.perf_counter()
            update.call()
            seconds[name].append(time.perf_counter() - start)
    rows = []
    for name, update in updates.items():
        row = {"run": name, "config": named[name], **update.row}
        row["ms a step"] = 1e3 * statistics.median(seconds[name])
        rows.append({**row, **gained.get(name, {})})
    return write(flags.output, rows, argv, flags.repeats)


def parse_runs(texts):
    """{name: source of a config}.

    Raises:
        ConfigError: a text has another form, or a name is there twice.
    """
    named: dict = {}
    for text in texts:
        name, _, source = text.partition("=")
        if not name or not source:
            raise ConfigError(f"--run {text}: give NAME=FILE:SIZE, such as {RUNS[0]}")
        if name in named:
            raise ConfigError(f"--run {name} is given twice; name each otherwise")
        named[name] = source
    return named


def load(source):
    """The experiment and the checked config of a source."""
    arguments = command_line.parse([f"--config={source}"], ())
    return settings.load_experiment(arguments), arguments.config


def prepare(experiment, config):
    """The `Update` of a config, compiled."""
    import jax

    from jaxmodels.train import flops

    task = experiment.make_task(config)
    state = jax.jit(task.init)(jax.random.key(config.seed))
    batch = random_batch(experiment.abstract_batch(config))
    rng = jax.random.key(1)
    step = jax.jit(task.train_step).lower(state, batch, rng).compile()
    params = state.params["model"]
    sizes = {name: count(tree) for name, tree in params.items()}
    operations = flops.count_flops(task.train_step, state, batch, rng)
    row = {
        "parameters": count(params),
        "kept for picking": sum(sizes.get(name, 0) for name in MODULES),
        "batch": config.data.batch_size,
        "samples": config.data.num_samples,
        "GFLOP a step": operations / 1e9,
        "GFLOP a window": operations / 1e9 / config.data.batch_size,
        "MiB": memory(step) / 2**20,
    }

    def call():
        jax.block_until_ready(step(state, batch, rng))

    call()
    return Update(row, call)


def random_batch(abstract):
    """Normal numbers in the shapes of a batch; every row counts."""
    import jax
    import jax.numpy as jnp

    batch = {}
    for index, (name, leaf) in enumerate(sorted(abstract.items())):
        drawn = jax.random.normal(jax.random.key(index), leaf.shape)
        batch[name] = jnp.ones(leaf.shape) if name == "weights" else drawn
        batch[name] = batch[name].astype(leaf.dtype)
    return batch


def count(tree):
    """Numbers in a tree of arrays."""
    import jax

    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def memory(compiled):
    """Bytes of the arguments and temporaries of a compiled program."""
    analysis = compiled.memory_analysis()
    return analysis.argument_size_in_bytes + analysis.temp_size_in_bytes


def labels_of(folder, twins):
    """{run: {column: number}}: what fine-tuning reached on the held-out records.

    Args:
        twins: {run: name of its networks from random weights}, which may be missing.

    Raises:
        ConfigError: the folder holds no such output, or lacks a run.
    """
    path = pathlib.Path(folder) / "scores.json"
    try:
        rows = json.loads(path.read_text())["rows"]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"--labels {folder}: no output there: {error}") from None
    held_out = [row for row in rows if row["test"] == rows[0]["test"]]
    found: dict = {}
    for name, twin in twins.items():
        own = [row for row in held_out if row["system"] == name]
        if not own:
            known = ", ".join(dict.fromkeys(row["system"] for row in rows))
            raise ConfigError(f"--labels {folder} has no run {name!r}, but {known}")
        other = [row for row in held_out if row["system"] == twin]
        found[name] = {}
        for labels in sorted({row["labels"] for row in own}):
            found[name] |= means(own, labels, f"{labels} labels")
            found[name] |= means(other, labels, f"{labels} labels, random weights")
    return found


def means(rows, labels, said):
    """{column: mean over the seeds} of the rows with a number of labels, if any."""
    same = [row for row in rows if row["labels"] == labels]
    seeds = f"{len(same)} seed{'s' if len(same) > 1 else ''}"
    return {
        f"{title}, {said}, {seeds}": statistics.mean(row[column] for row in same)
        for column, title in SCORES.items()
        if same
    }


def write(output, rows, argv, repeats):
    """Writes the table as Markdown and CSV; returns the text."""
    folder = pathlib.Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with open(folder / "table.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    command = shlex.join(["python", "-m", "experiments.pretraining_table", *argv])
    lines = ["# Pretraining side by side", "", f"- Command: `{command}`"]
    lines.append(
        f"- Time: median of {repeats} interleaved updates. Memory: arguments and "
        "temporaries of the compiled update."
    )
    names = [row["run"] for row in rows]
    lines += ["", f"| | {' | '.join(names)} |", "|---|" + "---:|" * len(rows)]
    for column in columns[1:]:
        cells = [cell(row.get(column)) for row in rows]
        lines.append(f"| {column} | {' | '.join(cells)} |")
    text = "\n".join(lines)
    (folder / "table.md").write_text(text + "\n")
    return text


def cell(value):
    """A number or a name as the table shows it."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
