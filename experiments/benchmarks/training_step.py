"""The whole training step of the language model beside its peers, and the loop's share.

python -m experiments.benchmarks.training_step --output results/training_step

Forward, loss, backward, clipping and AdamW in float32, at the widths of
configs/performer/lm.py. Before that, with its tiny size on real text, the part of the
training loop's time that is spent outside the compiled step. Writes
training_step.json, README.md and training_step.png to the output folder. It keeps to
--budget seconds, and says what it left out and why.
"""

import json
import sys
import time

import jax

from experiments.benchmarks import compare, measure, options, report

MODULE = "experiments.benchmarks.training_step"
MODE = "step"
# Of the budget, at most about so much goes to the loop.
LOOP_SHARE = 0.4
DEFAULT_NAMES = "ours,ours-2-devices,performer-pytorch,torch-sdpa"
HEADER = (
    "length, implementation",
    "ms a step",
    "ours, ms",
    "tokens/s",
    "x ours",
    "x ours, CPU",
    "rounds",
    "growth MB",
    "peak of the process MB",
    "parameters",
)


def parse(argv=None):
    parser = options.comparison_parser(
        MODULE, __doc__, "results/training_step", names=DEFAULT_NAMES, budget=540.0
    )
    add = parser.add_argument
    lengths = "1024,4096,16384"
    add("--lengths", type=options.lengths, default=lengths, help="with commas")
    add("--size", default="small", help="of configs/performer/lm.py")
    add("--batch", type=options.count, default=1, help="sequences")
    add("--loop_rounds", type=int, default=1, help="0 or less: leave the loop out")
    add("--loop_steps", type=options.count, default=200, help="updates of a round")
    arguments = parser.parse_args(argv)
    arguments.names = arguments.names.split(",")
    return parser, arguments


def main(argv=None):
    """Runs the command line; returns the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser, arguments = parse(argv)
    from experiments.benchmarks import training_forms

    options.check_names(parser, arguments.names, training_forms.FORMS)
    if training_forms.TWO_DEVICES in arguments.names:
        jax.config.update("jax_num_cpu_devices", 2)
    if arguments.probe:
        name, length = json.loads(arguments.probe)
        prepared = _prepare(arguments, name, length)
        # Gradients and the moments of AdamW get their place in the first step.
        prepared.run()
        print(json.dumps(measure.probe(prepared)))
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
    from experiments.benchmarks import training_forms, training_loop

    start, budget = time.monotonic(), measure.Budget(arguments.budget)
    shares = None
    if arguments.loop_rounds > 0:
        shares = training_loop.measure_loop(
            training_forms.lm.get_config("tiny"),
            steps=arguments.loop_steps,
            rounds=arguments.loop_rounds,
            seconds=LOOP_SHARE * arguments.budget,
            clock=time.perf_counter,
        )
    limit = measure.memory_limit(arguments.memory_limit)
    found = compare.compare(
        {name: training_forms.FORMS[name] for name in arguments.names},
        [compare.Case(length, MODE) for length in arguments.lengths],
        compare.Settings(budget, limit, probe_runs=2),
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
        "loop": shares,
    }


def _prepare(arguments, name, length):
    from experiments.benchmarks import training_forms

    return training_forms.prepare(
        name, size=arguments.size, length=length, batch_size=arguments.batch
    )


def lines(content):
    """The report as Markdown."""
    from experiments.benchmarks import training_loop

    text = [
        "# The training step of the language model beside its peers",
        "",
        *report.setting(content),
        f"Widths of `configs/performer/lm.py:{content['size']}`, "
        f"{content['batch_size']} sequence(s) a step, float32.",
        "",
        "`x ours`: median over interleaved rounds of the time over ours in the same "
        "round (CPU: of the seconds of all cores); the two columns of ms are medians "
        "of these rounds. `growth`: of the resident memory of a fresh process over a "
        "step that is not its first, so parameters and the optimizer's moments are in "
        "`peak` alone.",
        "",
        *report.markdown(HEADER, [_cells(row) for row in content["rows"]]),
        "",
    ]
    if content["loop"]:
        text += training_loop.lines(content["loop"])
    return text + ["## Left out", "", *report.skipped(content["skipped"])]


def _cells(row):
    number = report.number
    return (
        f"{row['length']:,} {row['name']}",
        number(1e3 * row["seconds"]),
        number(1e3 * row["base_seconds"] if "base_seconds" in row else None),
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
