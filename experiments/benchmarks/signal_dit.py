"""The network of `SignalDiT` beside a PyTorch transformer of the same shape; sampling.

python -m experiments.benchmarks.signal_dit --output results/signal_dit_speed

Forward and forward + backward of the velocity loss in float32, at the widths of
configs/seismic/signal_dit.py and a batch of 7; the peer is made of diffusers' blocks.
Then the time to draw one record with the keys and values of the encoder cached, over
that without. Writes signal_dit.json and README.md to the output folder. It keeps to
--budget seconds, and says what it left out and why.
"""

import json
import math
import sys
import time

from experiments.benchmarks import compare, measure, options, report

MODULE = "experiments.benchmarks.signal_dit"
SAMPLING = "sampling"
DEFAULT_NAMES = "ours,ours-linformer,ours-remat,torch-diffusers"
# Of the budget, what the losses may take; the rest is for sampling.
LOSS_SHARE = 0.7
HEADER = (
    "mode, implementation",
    "ms",
    "base, ms",
    "x base",
    "x base, CPU",
    "rounds",
    "growth MB",
    "peak of the process MB",
    "temporaries MB",
    "parameters",
)


def parse(argv=None):
    parser = options.comparison_parser(
        MODULE, __doc__, "results/signal_dit_speed", names=DEFAULT_NAMES, budget=540.0
    )
    add = parser.add_argument
    add("--size", default="base", help="of configs/seismic/signal_dit.py")
    add("--batch", type=options.count, default=7, help="records of a loss")
    add("--sampling_batch", type=options.count, default=1, help="records drawn at once")
    add("--sampling_steps", type=options.count, default=25)
    arguments = parser.parse_args(argv)
    arguments.names = arguments.names.split(",")
    return parser, arguments


def main(argv=None):
    """Runs the command line; returns the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser, arguments = parse(argv)
    from experiments.benchmarks import signal_dit_forms

    options.check_names(parser, arguments.names, signal_dit_forms.FORMS)
    if arguments.probe:
        name, mode = json.loads(arguments.probe)
        prepared = _prepare(arguments, name, mode)
        prepared.run()  # Gradients get their place in the first one.
        print(json.dumps(measure.probe(prepared)))
        return 0
    content = run(argv, arguments)
    report.write_json(arguments.output, "signal_dit", content)
    report.write_text(arguments.output, "README.md", lines(content))
    print("\n".join(lines(content)))
    print(f"written to {arguments.output}")
    return 0


def run(argv, arguments):
    """Measures everything; returns what `signal_dit.json` holds."""
    from experiments.benchmarks import signal_dit_forms as forms

    start = time.monotonic()
    num_samples = forms.config("ours", arguments.size).model.num_samples
    losses = _compare(
        argv,
        arguments,
        {name: forms.FORMS[name] for name in arguments.names},
        [compare.Case(num_samples, mode) for mode in compare.MODES],
        seconds=LOSS_SHARE * arguments.budget,
        base="ours",
        check=lambda name, case, loss: {"loss": _finite(name, loss)},
    )
    left = arguments.budget - (time.monotonic() - start)
    sampling = _compare(
        argv,
        arguments,
        forms.SAMPLERS,
        [compare.Case(num_samples, SAMPLING)],
        seconds=left,
        base="cached",
    )
    return {
        "command": " ".join(["python", "-m", MODULE, *argv]),
        "machine": measure.machine(),
        "size": arguments.size,
        "batch_size": arguments.batch,
        "sampling_batch_size": arguments.sampling_batch,
        "sampling_steps": arguments.sampling_steps,
        "seconds": time.monotonic() - start,
        "rows": losses.rows + sampling.rows,
        "skipped": losses.skipped + sampling.skipped,
    }


def _compare(argv, arguments, contenders, cases, *, seconds, base, check=None):
    limit = measure.memory_limit(arguments.memory_limit)
    return compare.compare(
        contenders,
        cases,
        compare.Settings(measure.Budget(seconds), limit, probe_runs=2),
        base=base,
        prepare=lambda name, case: _prepare(arguments, name, case.mode),
        probe=lambda name, case, timeout: measure.fresh_process(
            MODULE,
            [*argv, "--probe", json.dumps([name, case.mode])],
            timeout=timeout,
        ),
        check=check,
    )


def _prepare(arguments, name, mode):
    from experiments.benchmarks import signal_dit_forms as forms

    if mode == SAMPLING:
        return forms.prepare_sampling(
            name,
            size=arguments.size,
            batch_size=arguments.sampling_batch,
            num_steps=arguments.sampling_steps,
        )
    return forms.prepare(
        name, size=arguments.size, mode=mode, batch_size=arguments.batch
    )


def _finite(name, loss):
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"the loss of {name} is {loss}; its speed says nothing"
        )
    return loss


def lines(content):
    """The report as Markdown."""
    return [
        "# SignalDiT beside a transformer of diffusers' blocks",
        "",
        *report.setting(content),
        f"Widths of `configs/seismic/signal_dit.py:{content['size']}` without its "
        f"amplitude head, float32. A loss is of {content['batch_size']} record(s); "
        f"{content['sampling_batch_size']} record(s) are drawn in "
        f"{content['sampling_steps']} steps of DDIM.",
        "",
        "`x base`: median over interleaved rounds of the time over that of the base in "
        "the same round (CPU: of the seconds of all cores); the base is `ours`, and "
        "`cached` for sampling. `growth`: of the resident memory of a fresh process "
        "over a run that is not its first. The peer's cross-attention has no "
        "normalization, modulation and gate of its own, so it does a little less.",
        "",
        *report.markdown(HEADER, [_cells(row) for row in content["rows"]]),
        "",
        "## Left out",
        "",
        *report.skipped(content["skipped"]),
    ]


def _cells(row):
    number = report.number
    return (
        f"{row['mode']}, {row['name']}",
        number(1e3 * row["seconds"]),
        number(1e3 * row["base_seconds"] if "base_seconds" in row else None),
        number(row.get("ratio")),
        number(row.get("cpu_ratio")),
        str(row["rounds"]),
        report.megabytes(row["growth"]),
        report.megabytes(row["peak"]),
        report.megabytes(row["temporaries"]),
        f"{row['parameters']:,}",
    )


if __name__ == "__main__":
    sys.exit(main())
