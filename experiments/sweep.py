"""Prints the training commands of a config's sweep, or runs them one after another.

  python -m experiments.sweep --config=configs/performer/lm.py:tiny --workdir=runs/lm

Each run has a folder of its own in the workdir. With --run, runs that stopped go on,
those that are done are not repeated, and a table of the results follows.
"""

import json
import math
import pathlib
import re
import shlex
import subprocess
import sys
from typing import NamedTuple

from experiments import command_line, fields, settings, tables, train
from experiments.command_line import Flag
from jaxmodels.train.errors import INTERRUPTED, ConfigError, Preempted

FLAGS = (*train.FLAGS, Flag("run", bool, "Run the commands, do not just print them."))
# Exit codes after which the rest of the sweep is not started.
STOPPING = (INTERRUPTED, Preempted.exit_code)


class Point(NamedTuple):
    """One run of a sweep: its name, its folder and the words of its command."""

    name: str
    workdir: pathlib.Path
    words: tuple[str, ...]


def main(argv=None):
    """Runs the command line; returns the exit code."""
    return command_line.run(sweep, FLAGS, argv, doc=__doc__)


def sweep(arguments):
    points = make_points(arguments)
    codes = {}
    for point in points:
        print(shlex.join(["python", *point.words]), flush=True)
        if arguments.flags["run"]:
            codes[point.name] = execute(point.words)
            if codes[point.name] in STOPPING:
                break
    lines = result_lines(points, codes)
    if lines:
        print("\n" + "\n".join(lines))
    return next((code for code in codes.values() if code), 0)


def make_points(arguments):
    """The runs of a sweep, each of them a command line without errors.

    Raises:
        ConfigError: the config has no sweep, or one of its runs is no valid config.
    """
    source, module = arguments.source, arguments.module
    overrides = list(module.sweep()) if hasattr(module, "sweep") else []
    if not overrides:
        raise ConfigError(
            f"{source} has no sweep: define sweep() in it, which yields dicts such as "
            f'{{"optimizer.learning_rate": 1e-3}}'
        )
    own = ("--workdir=", "--run=")
    shared = [word for word in arguments.words if not word.startswith(own)]
    shared.insert(0, f"--config={source}")
    points, errors = [], []
    for override in overrides:
        name = point_name(override)
        folder = pathlib.Path(arguments.flags["workdir"]) / name
        words = [f"--config.{k}={fields.as_text(v)}" for k, v in override.items()]
        words = [*shared, *words, f"--workdir={folder}"]
        try:
            settings.load_experiment(command_line.parse(words, train.FLAGS))
        except ConfigError as error:
            errors += [f"sweep, {name}: {line}" for line in str(error).splitlines()]
        points.append(Point(name, folder, ("-m", "experiments.train", *words)))
    names = [point.name for point in points]
    errors += [
        f"sweep, {name}: yielded {names.count(name)} times"
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]
    if errors:
        raise ConfigError("\n".join(errors))
    return points


def point_name(override):
    """A folder's name for a dict of overrides: "learning_rate=0.001,num_layers=4"."""
    text = ",".join(
        f"{path.split('.')[-1]}={fields.as_text(value)}"
        for path, value in override.items()
    )
    return re.sub(r"[^\w.=,+-]+", "_", text) or "default"


def execute(words):
    """Runs one command in a process of its own; returns its exit code."""
    process = subprocess.Popen([sys.executable, *words])
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue  # The run got it too: it saves and then ends.


def result_lines(points, codes):
    """A table of the last evaluations; empty before there is any."""
    results = {point.name: last_evaluation(point.workdir) for point in points}
    if not codes and not any(results.values()):
        return []
    metrics = dict.fromkeys(name for result in results.values() for name in result)
    names = sorted(set(metrics) - {"step", "split"}, key=lambda n: (n != "loss", n))
    columns = ["step", *names]
    rows = []
    for name, result in results.items():
        state = {None: "", 0: "done"}.get(codes.get(name), f"failed {codes.get(name)}")
        cells = [_cell(result.get(column)) for column in columns]
        rows.append([name, state, *cells])
    while len(columns) > 2 and _width(rows) > tables.WIDTH:
        columns.pop()
        rows = [row[:-1] for row in rows]
    header = ["run", "", *columns]
    right = range(2, len(header))
    lines = tables.table(rows, header=header, right=right)
    losses = {
        name: result["loss"]
        for name, result in results.items()
        if result.get("loss") is not None
    }
    if losses:
        best = min(losses, key=losses.__getitem__)
        lines.append(f"lowest loss: {best}")
    return lines


def _width(rows):
    return sum(max(map(len, column)) + 2 for column in zip(*rows, strict=True))


def _cell(value):
    if isinstance(value, float) and not math.isfinite(value):
        return "-"
    return "-" if value is None else f"{value:.5g}"


def last_evaluation(folder):
    """The last evaluation that a run logged; an empty dict before there is any."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return next((line for line in reversed(lines) if line["split"] == "eval"), {})


if __name__ == "__main__":
    sys.exit(main())
