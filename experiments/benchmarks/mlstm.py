"""The mLSTM cell and block beside those of the `xlstm` package, on this machine's CPU.

python -m experiments.benchmarks.mlstm --output results/mlstm

Forward and forward + backward in float32 at each length: our three forms, and the
package's three PyTorch backends. Writes mlstm.json, README.md and mlstm.png to the
output folder. It keeps to --budget seconds, and says what it left out and why.
"""

import json
import math
import sys
import time
from importlib import metadata

from experiments.benchmarks import compare, measure, options, report

MODULE = "experiments.benchmarks.mlstm"
BASE = "ours-chunkwise"
SUBJECTS = "cell", "block"
HEADER = (
    "length, implementation",
    "ms",
    "ours, ms",
    "x ours",
    "x ours, CPU",
    "rounds",
    "growth MB",
    "x ours, growth",
    "temporaries MB",
    "error",
)


def parse(argv=None):
    parser = options.comparison_parser(
        MODULE, __doc__, "results/mlstm", names="all", budget=1500.0
    )
    add = parser.add_argument
    lengths = "1024,4096,16384"
    add("--lengths", type=options.lengths, default=lengths, help="with commas")
    add("--subject", default="all", choices=[*SUBJECTS, "all"])
    add("--batch", type=options.count, default=1)
    add(
        "--width", type=options.count, default=256, help="of a block; its cell's is 2 x"
    )
    add("--heads", type=options.count, default=4)
    arguments = parser.parse_args(argv)
    if arguments.names != "all":
        arguments.names = arguments.names.split(",")
    return parser, arguments


def main(argv=None):
    """Runs the command line; returns the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser, arguments = parse(argv)
    from experiments.benchmarks import mlstm_forms

    if arguments.names == "all":
        arguments.names = list(mlstm_forms.CELLS)
    options.check_names(parser, arguments.names, mlstm_forms.CELLS)
    if arguments.probe:
        name, length, mode = json.loads(arguments.probe)
        prepared = _prepare(arguments, name, compare.Case(length, mode))
        prepared.run()  # Gradients get their place in the first one.
        print(json.dumps(measure.probe(prepared)))
        return 0
    content = run(argv, arguments)
    write(arguments.output, content)
    return 0


def run(argv, arguments):
    """Measures everything; returns what `mlstm.json` holds."""
    from experiments.benchmarks import mlstm_forms

    start = time.monotonic()
    subjects = SUBJECTS if arguments.subject == "all" else (arguments.subject,)
    rows, skipped = [], []
    for index, subject in enumerate(subjects):
        left = arguments.budget - (time.monotonic() - start)
        known = mlstm_forms.SUBJECTS[subject]
        cases = [
            compare.Case(length, f"{subject} {mode}")
            for length in arguments.lengths
            for mode in compare.MODES
        ]
        found = compare.compare(
            {name: known[name] for name in arguments.names if name in known},
            cases,
            compare.Settings(
                measure.Budget(left / (len(subjects) - index)),
                measure.memory_limit(arguments.memory_limit),
                probe_runs=2,
            ),
            base=BASE,
            prepare=lambda name, case: _prepare(arguments, name, case),
            probe=lambda name, case, timeout: measure.fresh_process(
                MODULE, [*argv, "--probe", json.dumps([name, *case])], timeout=timeout
            ),
            check=_checker(arguments),
        )
        rows += found.rows
        skipped += found.skipped
    return {
        "command": " ".join(["python", "-m", MODULE, *argv]),
        "machine": _machine(),
        "problem": _problem(arguments, 0)._asdict(),
        "seconds": time.monotonic() - start,
        "rows": _with_memory(rows),
        "skipped": skipped,
        "scaling": report.scaling(rows, _modes(rows), first=1),
    }


def _machine():
    facts = measure.machine()
    try:
        facts["versions"]["xlstm"] = metadata.version("xlstm")
    except metadata.PackageNotFoundError:
        return facts
    return facts


def _problem(arguments, length):
    from experiments.benchmarks import mlstm_forms

    return mlstm_forms.Problem(
        length, arguments.batch, arguments.width, arguments.heads
    )


def _prepare(arguments, name, case):
    from experiments.benchmarks import mlstm_forms

    subject, mode = case.mode.split(" ")
    return mlstm_forms.prepare(
        name,
        subject,
        _problem(arguments, case.length),
        backward=mode != compare.MODES[0],
    )


def _checker(arguments):
    """The error of a cell's outputs against float64; of the others, that they are."""
    from experiments.benchmarks import mlstm_forms, reference

    kept: dict = {}

    def check(name, case, result):
        if case.mode != f"cell {compare.MODES[0]}":
            total = float(abs(result).sum()) if hasattr(result, "sum") else result
            if not math.isfinite(total):
                raise FloatingPointError(f"{name}, {case}: {total}")
            return {"error": None}
        if case not in kept:
            kept.clear()
            kept[case] = mlstm_forms.reference(_problem(arguments, case.length))
        return {"error": reference.relative_error(result, kept[case])}

    return check


def _with_memory(rows):
    """The rows with their growth of memory over that of ours in the same case."""
    for row in rows:
        same = {key: row[key] for key in ("length", "mode")}
        ours = report.of(rows, name=BASE, **same)
        known = ours and ours[0]["growth"] and row["growth"] is not None
        row["growth_ratio"] = row["growth"] / ours[0]["growth"] if known else None
    return rows


def _modes(rows):
    return list(dict.fromkeys(row["mode"] for row in rows))


def write(folder, content):
    """Writes the JSON, the tables and the plot."""
    report.write_json(folder, "mlstm", content)
    path = report.write_text(folder, "README.md", lines(content))
    if content["rows"]:
        title = "mLSTM, one process of this machine"
        picture = path.with_name("mlstm.png")
        report.plot(picture, content["rows"], _modes(content["rows"]), title)
    print("\n".join(lines(content)))
    print(f"written to {folder}")


def lines(content):
    """The report as Markdown."""
    p, rows = content["problem"], content["rows"]
    text = [
        "# mLSTM beside the xlstm package",
        "",
        *report.setting(content),
        f"B {p['batch_size']}, width {p['embed_dim']} (of the cell twice that), "
        f"H {p['num_heads']}, float32.",
        "",
        "`x ours`: median over interleaved rounds of the time over that of "
        f"`{BASE}` in the same round (CPU: of the seconds of all cores). `growth`: of "
        "the resident memory of a fresh process over a run that is not its first; "
        "`temporaries`: of our compiled program. `error`: of the cell's outputs "
        "against its recurrence in float64, relative.",
    ]
    for mode in _modes(rows):
        text += ["", f"## {mode.capitalize()}", ""]
        own = report.of(rows, mode=mode)
        text += report.markdown(HEADER, [_cells(row) for row in own])
    text += ["", "## Scaling", ""]
    text += report.markdown(
        ("implementation, mode", "lengths", "time exponent"),
        [
            (
                f"{s['name']}, {s['mode']}",
                f"{s['from']:,} to {s['to']:,}",
                report.number(s["time"]),
            )
            for s in content["scaling"]
        ],
    )
    return [*text, "", "## Left out", "", *report.skipped(content["skipped"])]


def _cells(row):
    number = report.number
    return (
        f"{row['length']:,} {row['name']}",
        number(1e3 * row["seconds"]),
        number(1e3 * row["base_seconds"] if "base_seconds" in row else None),
        number(row.get("ratio")),
        number(row.get("cpu_ratio")),
        str(row["rounds"]),
        report.megabytes(row["growth"]),
        number(row["growth_ratio"]),
        report.megabytes(row["temporaries"]),
        number(row["error"]),
    )


if __name__ == "__main__":
    sys.exit(main())
