"""The whole training step of the language model beside its peers, and the loop's share.

python -m experiments.benchmarks.training_step --output results/training_step

Forward, loss, backward, clipping and AdamW in float32, at the widths of
configs/performer/lm.py. Then, with its tiny size on real text, the part of the
training loop's time that is spent outside the compiled step. Writes
training_step.json, README.md and training_step.png to the output folder.
"""

import argparse
import json
import statistics
import sys
import time

from experiments.benchmarks import measure, report

MODULE = "experiments.benchmarks.training_step"
MODE = "step"
DEFAULT_NAMES = "ours,performer-pytorch,torch-sdpa"
HEADER = (
    "length, implementation",
    "ms a step",
    "tokens/s",
    "x ours",
    "x ours, CPU",
    "rounds",
    "growth MB",
    "peak of the process MB",
    "parameters",
)


def parse(argv=None):
    parser = argparse.ArgumentParser(
        prog=f"python -m {MODULE}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--output", default="results/training_step", help="folder to write to")
    add("--names", default=DEFAULT_NAMES, help="implementations, with commas")
    add("--lengths", default="1024,4096,16384", help="with commas")
    add("--size", default="small", help="of configs/performer/lm.py")
    add("--batch", type=int, default=1, help="sequences")
    add("--budget", type=float, default=480.0, help="seconds for the comparison")
    add("--memory_limit", type=float, help="GiB; default: 65 %% of what is free")
    add("--loop_rounds", type=int, default=5, help="0: do not measure the loop")
    add("--loop_steps", type=int, default=20, help="updates timed in a round")
    add("--probe", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    arguments.names = arguments.names.split(",")
    try:
        arguments.lengths = sorted(int(text) for text in arguments.lengths.split(","))
    except ValueError:
        parser.error(f"--lengths {arguments.lengths}: give integers such as 1024,4096")
    return parser, arguments


def main(argv=None):
    """Runs the command line; returns the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser, arguments = parse(argv)
    from experiments.benchmarks import training_forms

    unknown = set(arguments.names) - set(training_forms.FORMS)
    if unknown:
        known = ", ".join(training_forms.FORMS)
        parser.error(f"--names: unknown {', '.join(sorted(unknown))}; known: {known}")
    if arguments.probe:
        name, length = json.loads(arguments.probe)
        print(json.dumps(measure.probe(_prepare(arguments, name, length))))
        return 0
    content = run(argv, arguments)
    report.write_json(arguments.output, "training_step", content)
    path = report.write_text(arguments.output, "README.md", lines(content))
    if content["rows"]:
        picture = path.with_name("training_step.png")
        report.plot(picture, content["rows"], [MODE], "Training step")
    print("\n".join(lines(content)))
    print(f"written to {arguments.output}")
    return 0


def run(argv, arguments):
    """Measures everything; returns what `training_step.json` holds."""
    from experiments.benchmarks import compare, training_forms

    start = time.monotonic()
    shares = None
    if arguments.loop_rounds:
        chosen = training_forms.lm.get_config("tiny")
        shares = training_forms.loop_share(
            chosen,
            training_forms.tiny_data(chosen),
            steps=arguments.loop_steps,
            rounds=arguments.loop_rounds,
            clock=time.perf_counter,
        )
    budget = measure.Budget(arguments.budget)
    limit = measure.memory_limit(arguments.memory_limit)
    found = compare.compare(
        {name: training_forms.FORMS[name] for name in arguments.names},
        [compare.Case(length, MODE) for length in arguments.lengths],
        compare.Settings(budget, limit, seconds=20.0),
        base="ours",
        prepare=lambda name, case: _prepare(arguments, name, case.length),
        probe=lambda name, case, timeout: measure.fresh_process(
            MODULE,
            [*argv, "--probe", json.dumps([name, case.length])],
            timeout=timeout,
        ),
        check=lambda name, case, loss: {"loss": loss},
    )
    for row in found.rows:
        row["tokens_per_second"] = arguments.batch * row["length"] / row["seconds"]
    return {
        "command": " ".join(["python", "-m", MODULE, *argv]),
        "machine": measure.machine(),
        "size": arguments.size,
        "batch_size": arguments.batch,
        "seconds": time.monotonic() - start,
        "rows": found.rows,
        "skipped": found.skipped,
        "loop": shares and loop_figures(shares),
    }


def loop_figures(pairs):
    """The loop's share from (seconds of an update in it, seconds of its step)."""
    return {
        "update_seconds": statistics.median(pair[0] for pair in pairs),
        "step_seconds": statistics.median(pair[1] for pair in pairs),
        "share_outside": statistics.median(1 - step / update for update, step in pairs),
        "rounds": pairs,
    }


def _prepare(arguments, name, length):
    from experiments.benchmarks import training_forms

    return training_forms.prepare(
        name, size=arguments.size, length=length, batch_size=arguments.batch
    )


def lines(content):
    """The report as Markdown."""
    text = [
        "# The training step of the language model beside its peers",
        "",
        *report.setting(content),
        f"Widths of `configs/performer/lm.py:{content['size']}`, "
        f"{content['batch_size']} sequence(s) a step, float32.",
        "",
        "`x ours`: median over interleaved rounds of the time over ours in the same "
        "round (CPU: of the seconds of all cores). `growth`: of the resident memory of "
        "a fresh process, one step.",
        "",
        *report.markdown(HEADER, [_cells(row) for row in content["rows"]]),
        "",
    ]
    if content["loop"]:
        loop = content["loop"]
        text += [
            "Training loop, `configs/performer/lm.py:tiny` on its text: "
            f"{1e3 * loop['update_seconds']:.1f} ms an update, of which the compiled "
            f"step alone takes {1e3 * loop['step_seconds']:.1f} ms; "
            f"{100 * loop['share_outside']:.1f} % of the loop's time is spent outside "
            f"it (median of {len(loop['rounds'])} rounds).",
            "",
        ]
    return text + ["## Left out", "", *report.skipped(content["skipped"])]


def _cells(row):
    number = report.number
    return (
        f"{row['length']:,} {row['name']}",
        number(1e3 * row["seconds"]),
        number(row["tokens_per_second"]),
        number(row.get("ratio")),
        number(row.get("cpu_ratio")),
        str(row["rounds"]),
        report.megabytes(row["growth"]),
        report.megabytes(row["peak"]),
        f"{row['parameters']:,}",
    )


if __name__ == "__main__":
    sys.exit(main())
