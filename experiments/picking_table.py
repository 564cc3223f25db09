"""Scores trained pickers beside baselines on records whose arrivals are known.

  python -m experiments.picking_table --checkpoint mlstm=runs/picker --baselines \
    --dataset ./ncedc_picks --split dev --threshold_split train \
    --output results/phase_picking/ncedc

Each record is given as a whole and in crops that begin at random (--crops, --seconds,
--seed): every record of a set may begin at the same time before its P. With
--task protocol the windows are those of Muenchmeyer et al. (2022): detection, phase and
onset; --noise adds recordings without events, one half for the thresholds and one to
score. Thresholds come from --threshold_split, never from the split that is scored.

The baselines are recursive STA/LTA and the AR picker of ObsPy. Synthetic records are
drawn as for the models that were trained on them.
"""

import functools
import json
import shlex
import sys
import time

from experiments import picking_sources
from jaxmodels.pipelines.generate import Parser
from jaxmodels.train.errors import INTERRUPTED, ConfigError, RunError, StorageError

MODULE = "experiments.picking_table"
TABLE, ROWS, NUMBERS = "table.md", "table.csv", "scores.json"
RESIDUALS, EXAMPLES = "residuals.png", "examples.png"
TASKS = ("picks", "protocol")


def parser():
    """The command line."""
    flags = Parser(prog=f"python -m {MODULE}", description=__doc__.split("\n")[0])
    add = flags.add_argument
    add(
        "--checkpoint",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="a run, by the name that it has in the table; may be given again",
    )
    add("--baselines", action="store_true", help="STA/LTA and AR picker as well")
    add("--dataset", default="synthetic_motions", help="as config.data.dataset")
    add("--split", default="dev", help="to score")
    add("--threshold_split", default="train", help="that thresholds are chosen on")
    add("--task", default="picks", choices=TASKS)
    add("--noise", help="npz file of recordings without events, for --task protocol")
    add("--data_dir", help="folder of TFDS data sets")
    add("--limit", type=int, help="records of a split, spread evenly; default all")
    add("--seconds", type=float, default=30.0, help="of a crop, or of the context")
    add("--crops", type=int, default=4, help="of each record")
    add("--seed", type=int, default=0, help="of the crops")
    add("--examples", type=int, default=4, help="windows of the figure")
    add("--output", required=True, help="folder of tables, numbers and figures")
    return flags


def main(argv=None):
    """Runs the command line; returns the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        flags = parser().parse_args(argv)
        check(flags)
        print(run(flags, argv))
        print(f"written to {flags.output}")
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def check(flags):
    """Raises `ConfigError` for flags that no model and no data could make right."""
    from jaxmodels.pipelines import broaden_files

    if not flags.checkpoint and not flags.baselines:
        raise ConfigError("nothing to score; give --checkpoint NAME=DIR or --baselines")
    for name, least in (("limit", 1), ("crops", 1), ("examples", 1)):
        value = getattr(flags, name)
        if value is not None and value < least:
            raise ConfigError(f"--{name} {value} must be at least {least}")
    if flags.noise is not None and flags.task != "protocol":
        raise ConfigError("--noise is for --task protocol; leave it out")
    if not flags.seconds >= 10:
        raise ConfigError(f"--seconds {flags.seconds:g} must be at least 10")
    if not 0 <= flags.seed < 2**32:
        raise ConfigError(f"--seed {flags.seed} must be 0 to {2**32 - 1}")
    if picking_sources.share_records(flags.split, flags.threshold_split):
        raise ConfigError(
            f"--threshold_split {flags.threshold_split} has records of --split "
            f"{flags.split}; choose thresholds on others than those that are scored"
        )
    broaden_files.check_folder(flags.output)


def run(flags, argv):
    """Scores the split, writes the files and returns the text of the table."""
    from experiments import picking_systems

    start = time.monotonic()
    pickers = load_pickers(flags)
    systems = picking_systems.baselines() if flags.baselines else {}
    systems |= {
        name: picking_systems.of_picker(picker) for name, picker in pickers.items()
    }
    read = functools.partial(
        picking_sources.records,
        flags,
        picking_sources.source_of(flags.dataset, pickers),
    )
    score = score_picks if flags.task == "picks" else score_protocol
    text, files = score(
        flags, systems, read, lambda: notes(flags, argv, pickers, start)
    )
    write(flags.output, files)
    return text


def load_pickers(flags):
    """{name: `pick_model.Picker`}.

    Raises:
        ConfigError: a model cannot be read, has the name of another one or of a
            baseline, or was trained on the split that is scored.
    """
    if not flags.checkpoint:
        return {}
    from experiments import picking_systems
    from jaxmodels.pipelines import pick_model

    found: dict = {}
    for text in flags.checkpoint:
        name, _, folder = text.partition("=")
        if not name or not folder:
            raise ConfigError(
                f"--checkpoint {text}: give NAME=DIR, such as mlstm=runs/picker"
            )
        if name in found:
            raise ConfigError(
                f"--checkpoint {name} is given twice; name each otherwise"
            )
        if name in (picking_systems.STA_LTA, picking_systems.AR_PICKER):
            raise ConfigError(
                f"--checkpoint {name}: that is a baseline of the table; name the model "
                "otherwise"
            )
        found[name] = pick_model.load(folder)
        picking_sources.check_unseen(flags, name, found[name].about)
    return found


def score_picks(flags, systems, read, told):
    """The text of the table of picks, and {name of a file: text or figure}."""
    from experiments import picking_figures, picking_report, picking_scores

    def evaluate(split, examples=0):
        return picking_scores.evaluate(
            read(split),
            systems,
            seconds=flags.seconds,
            num_crops=flags.crops,
            seed=flags.seed,
            examples=examples,
            report=functools.partial(say, split),
        )

    others, _ = evaluate(flags.threshold_split)
    chosen = {name: picking_scores.thresholds(others, name) for name in systems}
    rows, kept = evaluate(flags.split, flags.examples)
    summaries = picking_scores.summarize(rows, systems, chosen, flags.crops)
    text = picking_report.picks_table(
        summaries, title=f"{flags.dataset}, {flags.split}", notes=told()
    )
    condition = picking_scores.crops_of(flags.seconds)
    errors: dict = {"P": {}, "S": {}}
    for one in summaries:
        if (one["condition"], one["subset"]) == (condition, "all"):
            part = picking_scores.labeled(rows, condition, one["phase"])
            found = picking_scores.residuals(part, one["system"], one["phase"])
            errors[one["phase"]][one["system"]] = found
    return text, {
        TABLE: text,
        ROWS: picking_report.comma_separated(summaries),
        NUMBERS: numbers(summaries, picking_scores.content(rows)),
        RESIDUALS: picking_figures.residuals(
            errors, list(systems), f"{flags.dataset}, {condition}"
        ),
        EXAMPLES: picking_figures.examples(kept, list(systems)[-1]),
    }


def score_protocol(flags, systems, read, told):
    """The same of the protocol."""
    from experiments import picking_protocol, picking_report

    def evaluate(split):
        return picking_protocol.evaluate(
            read(split),
            systems,
            seconds=flags.seconds,
            report=functools.partial(say, split),
        )

    others = evaluate(flags.threshold_split)
    answers = evaluate(flags.split)
    tables = picking_protocol.summarize(answers, others)
    text = picking_report.protocol_table(
        tables, title=f"{flags.dataset}, {flags.split}, protocol", notes=told()
    )
    flat = [
        {"task": task, **picking_report.flat(row)}
        for task, rows in tables.items()
        for row in rows
    ]
    return text, {
        TABLE: text,
        ROWS: picking_report.comma_separated(flat),
        NUMBERS: numbers(flat, picking_protocol.content(answers)),
    }


def numbers(summaries, windows):
    """The text of `scores.json`."""
    from experiments import picking_report

    found = {
        "summaries": [picking_report.flat(row) for row in summaries],
        "windows": windows,
    }
    return json.dumps(picking_report.plain(found)) + "\n"


def notes(flags, argv, pickers, start):
    """Lines below the title of the table."""
    lines = [f"Command: `{shlex.join(['python', '-m', MODULE, *argv])}`"]
    if flags.task == "picks":
        lines.append(
            f"Scored on {flags.split}, thresholds from {flags.threshold_split}; "
            f"{flags.crops} crops of {flags.seconds:g} s a record, seed {flags.seed}; "
            f"{time.monotonic() - start:.0f} s in all."
        )
    else:
        lines.append(
            f"Scored on {flags.split}, thresholds from {flags.threshold_split}; every "
            f"system sees {flags.seconds:g} s around a window; "
            f"{time.monotonic() - start:.0f} s in all."
        )
    return lines + [f"{name}: {one.describe()}." for name, one in pickers.items()]


def write(folder, files):
    """Writes {name: text or figure} into a folder, each whole or not at all.

    Raises:
        StorageError: one cannot be written.
    """
    from etils import epath

    from jaxmodels.pipelines import broaden_figure

    folder = epath.Path(folder)
    for name, content in files.items():
        if not isinstance(content, str):
            broaden_figure.save(content, folder / name)
            continue
        unfinished = folder / f".{name}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            unfinished.write_text(content)
            unfinished.replace(folder / name)
        except OSError as error:
            raise StorageError(f"{folder / name} cannot be written: {error}") from None


def say(split, line):
    """A line of progress."""
    print(f"{split}: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
