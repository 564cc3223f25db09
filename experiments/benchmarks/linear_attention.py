"""Causal linear attention beside its peers: time, memory, error, scaling, crossover.

python -m experiments.benchmarks.linear_attention --output results/linear_attention

Writes linear_attention.json, README.md and linear_attention.png to the output folder.
It keeps to --budget seconds, and says what it left out and why.
"""

import json
import sys
import time

from experiments.benchmarks import compare, measure, options, report

MODULE = "experiments.benchmarks.linear_attention"
DEFAULT_NAMES = "ours,google,performer-pytorch,torch-sdpa,jax-softmax"
CROSSOVER_LENGTHS = (512, 1024, 2048, 4096)
# Heads whose error is measured: they are independent, and float64 is slow.
CHECKED_HEADS = 2
# Of the budget, at most so much goes to the crossover.
CROSSOVER_SHARE = 0.25
HEADER = (
    "length, implementation",
    "ms",
    "ours, ms",
    "x ours",
    "x ours, CPU",
    "rounds",
    "temporaries MB",
    "growth MB",
    "error",
    "gradient",
)


def parse(argv=None):
    parser = options.comparison_parser(
        MODULE, __doc__, "results/linear_attention", names=DEFAULT_NAMES, budget=480.0
    )
    add = parser.add_argument
    lengths = "1024,4096,16384,65536"
    add("--lengths", type=options.lengths, default=lengths, help="with commas")
    add("--mode", default="all", choices=[*compare.MODES, "all"])
    add("--features", type=int, default=256, help="M")
    add("--heads", type=int, default=8)
    add("--width", type=int, default=64, help="of a head")
    add("--batch", type=int, default=1)
    add("--chunk_size", type=int, default=64, help="of ours")
    add("--scale", type=float, default=0.5, help="std of query and key entries")
    add("--dtype", default="float32", choices=["float32", "bfloat16"])
    add("--seed", type=int, default=0)
    add("--no_crossover", action="store_true")
    arguments = parser.parse_args(argv)
    arguments.names = arguments.names.split(",")
    return parser, arguments


def main(argv=None):
    """Runs the command line; returns the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser, arguments = parse(argv)
    from experiments.benchmarks import attention_forms

    options.check_names(parser, arguments.names, attention_forms.FORMS)
    if arguments.probe:
        name, length, mode = json.loads(arguments.probe)
        prepared = attention_forms.prepare(name, _problem(arguments, length), mode)
        print(json.dumps(measure.probe(prepared)))
        return 0
    content = run(argv, arguments)
    write(arguments.output, content)
    return 0


def run(argv, arguments):
    """Measures everything; returns what `linear_attention.json` holds."""
    from experiments.benchmarks import attention_forms

    start = time.monotonic()
    modes = list(compare.MODES) if arguments.mode == "all" else [arguments.mode]
    limit = measure.memory_limit(arguments.memory_limit)
    settings = compare.Settings(measure.Budget(arguments.budget), limit)
    contenders = {n: attention_forms.FORMS[n].contender for n in arguments.names}
    crossing, left_out = _crossover(arguments, modes, settings)
    found = compare.compare(
        contenders,
        [compare.Case(n, mode) for n in arguments.lengths for mode in modes],
        settings,
        base="ours",
        prepare=_preparer(arguments),
        probe=_prober(argv),
        check=_checker(arguments),
        temporaries=lambda name, case: attention_forms.temporaries(
            name, _problem(arguments, case.length), case.mode
        ),
    )
    for row in found.rows:
        if row["name"] == "ours" and row["mode"] == "forward":
            flops = _problem(arguments, row["length"]).model_flops()
            share = flops / measure.DOT_OPERATIONS
            row["peak_fraction"] = share / row["dots"]
            row["peak_fraction_best"] = share / row["dots_best"]
    return {
        "command": " ".join(["python", "-m", MODULE, *argv]),
        "machine": measure.machine(),
        "problem": _problem(arguments, 0)._asdict(),
        "seconds": time.monotonic() - start,
        "rows": found.rows,
        "skipped": left_out + found.skipped + _unchecked(found.rows),
        "scaling": report.scaling(found.rows, modes),
        "crossover": crossing,
    }


def _unchecked(rows):
    """What was timed and not held against float64."""
    from experiments.benchmarks import reference

    reason = (
        "timed, its error not measured: the float64 reference of exact softmax is "
        f"quadratic and ends at {reference.LONGEST_SOFTMAX:,} tokens"
    )
    return [
        {key: row[key] for key in ("name", "length", "mode")} | {"reason": reason}
        for row in rows
        if row["error"] is None
    ]


def _problem(arguments, length, features=None):
    from experiments.benchmarks import attention_forms

    return attention_forms.Problem(
        length=length,
        batch_size=arguments.batch,
        num_heads=arguments.heads,
        head_dim=arguments.width,
        num_features=features or arguments.features,
        chunk_size=arguments.chunk_size,
        scale=arguments.scale,
        seed=arguments.seed,
        dtype=arguments.dtype,
    )


def _preparer(arguments, features=None):
    from experiments.benchmarks import attention_forms

    def prepare(name, case):
        problem = _problem(arguments, case.length, features)
        return attention_forms.prepare(name, problem, case.mode)

    return prepare


def _prober(argv):
    def probe(name, case, timeout):
        request = json.dumps([name, *case])
        words = [*argv, "--probe", request]
        return measure.fresh_process(MODULE, words, timeout=timeout)

    return probe


def _checker(arguments):
    """Errors of a result against float64, the references kept for one case."""
    from experiments.benchmarks import attention_forms, reference

    kept: dict = {}

    def check(name, case, result):
        function = attention_forms.FORMS[name].function
        if function == "softmax" and case.length > reference.LONGEST_SOFTMAX:
            return {"error": None, "gradient_error": None}
        problem = _problem(arguments, case.length)
        if (case, function) not in kept:
            for known in [key for key in kept if key[0] != case]:
                del kept[known]
            kept[case, function] = reference.evaluate(
                function,
                [x[:, :, :CHECKED_HEADS] for x in problem.arrays()],
                problem.projection(),
                backward=case.mode == compare.MODES[1],
            )
        errors = [
            reference.relative_error(x[:, :, :CHECKED_HEADS], expected)
            for x, expected in zip(
                attention_forms.to_numpy(result), kept[case, function], strict=True
            )
        ]
        return {"error": errors[0], "gradient_error": max(errors[1:], default=None)}

    return check


def _crossover(arguments, modes, settings):
    """Lengths from which on ours is faster than PyTorch's exact attention.

    Returns:
        dicts with features, mode, length and the ratios it was found from; and what
        was left out.
    """
    from experiments.benchmarks import attention_forms

    names = ("ours", "torch-sdpa")
    if arguments.no_crossover or not set(names) <= set(arguments.names):
        return [], []
    budget = measure.Budget(CROSSOVER_SHARE * arguments.budget)
    published = _problem(arguments, 0).published_features()
    found, left_out = [], []
    for features in dict.fromkeys((arguments.features, published)):
        result = compare.compare(
            {name: attention_forms.FORMS[name].contender for name in names},
            [compare.Case(n, mode) for n in CROSSOVER_LENGTHS for mode in modes],
            settings._replace(budget=budget, seconds=2.0, most=21),
            base="ours",
            prepare=_preparer(arguments, features),
            probe=compare.no_probe,
        )
        left_out += result.skipped
        for mode in modes:
            own = report.of(result.rows, name="torch-sdpa", mode=mode)
            points = [(row["length"], row["ratio"]) for row in own if "ratio" in row]
            length = measure.crossover(points)
            found.append(
                {
                    "features": features,
                    "mode": mode,
                    "length": length,
                    "rises": measure.rises(points),
                    "ratios": points,
                }
            )
    return found, left_out


def write(folder, content):
    """Writes the JSON, the tables and the plot."""
    report.write_json(folder, "linear_attention", content)
    path = report.write_text(folder, "README.md", lines(content))
    if content["rows"]:
        modes = list(dict.fromkeys(row["mode"] for row in content["rows"]))
        title = "Causal attention, one process of this machine"
        picture = path.with_name("linear_attention.png")
        report.plot(picture, content["rows"], modes, title)
    print("\n".join(lines(content)))
    print(f"written to {folder}")


def lines(content):
    """The report as Markdown."""
    p, rows = content["problem"], content["rows"]
    text = [
        "# Causal linear attention beside its peers",
        "",
        *report.setting(content),
        f"B {p['batch_size']}, H {p['num_heads']}, K = D = {p['head_dim']}, "
        f"M {p['num_features']}, {p['dtype']}; queries and keys N(0, {p['scale']}^2).",
        "",
        "`x ours`: median over interleaved rounds of the time over ours in the same "
        "round (CPU: of the seconds of all cores); `ms` and `ours, ms`: medians of "
        "these rounds. Runs under half a second are warmed up by one untimed run in "
        "every round. `temporaries`: of the compiled program; `growth`: of the "
        "resident memory of a fresh process, one run. `error`: output against float64 "
        "of the function that the implementation means, epsilons included, from the "
        f"same inputs, {CHECKED_HEADS} heads; `gradient`: the worst of query, key and "
        "value.",
    ]
    for mode in dict.fromkeys(row["mode"] for row in rows):
        text += ["", f"## {mode.capitalize()}", ""]
        cells = [_cells(row) for row in report.of(rows, mode=mode)]
        text += report.markdown(HEADER, cells)
    text += ["", "## Scaling", ""]
    text += report.markdown(
        ("implementation, mode", "lengths", "time exponent", "temporaries exponent"),
        [
            (
                f"{s['name']}, {s['mode']}",
                f"{s['from']:,} to {s['to']:,}",
                report.number(s["time"]),
                report.number(s["temporaries"]),
            )
            for s in content["scaling"]
        ],
    )
    text += ["", *_peak_lines(rows), *_memory_lines(rows, content["skipped"])]
    text += _crossover_lines(content["crossover"])
    return text + ["", "## Left out", "", *report.skipped(content["skipped"])]


def _cells(row):
    number = report.number
    return (
        f"{row['length']:,} {row['name']}",
        number(1e3 * row["seconds"]),
        number(1e3 * row["base_seconds"] if "base_seconds" in row else None),
        number(row.get("ratio")),
        number(row.get("cpu_ratio")),
        str(row["rounds"]),
        report.megabytes(row["temporaries"]),
        report.megabytes(row["growth"]),
        number(row["error"]),
        number(row["gradient_error"]),
    )


def _peak_lines(rows):
    return [
        f"Ours, forward at {row['length']:,}: {100 * row['peak_fraction']:.0f} % of "
        f"the rate of a {measure.DOT_SIZE}^2 product (median over rounds, both in the "
        f"same round); {100 * row['peak_fraction_best']:.0f} % with the best run of "
        f"each, the product's at {row['dot_flops'] / 1e9:.0f} GFLOP/s."
        for row in rows
        if "peak_fraction" in row
    ]


def _memory_lines(rows, skipped):
    """Temporaries at the greatest length against ours, also of what did not run."""
    sized = [x for x in [*rows, *skipped] if x.get("temporaries")]
    lines = []
    for mode in dict.fromkeys(entry["mode"] for entry in sized):
        ours = report.of(sized, name="ours", mode=mode)
        if not ours:
            continue
        last = max(ours, key=lambda entry: entry["length"])
        size = last["temporaries"]
        others = [
            f"{entry['name']} {report.megabytes(entry['temporaries'])} MB "
            f"({report.number(entry['temporaries'] / size)} x)"
            for entry in report.of(sized, mode=mode, length=last["length"])
            if entry["name"] != "ours"
        ]
        lines.append(
            f"Temporaries, {mode} at {last['length']:,}, from the compilers: "
            f"{', '.join([f'ours {report.megabytes(size)} MB', *others])}."
        )
    return ["", *lines] if lines else []


def _crossover_lines(crossing):
    lines = []
    for entry in crossing:
        ratios = ", ".join(f"{n:,}: {r:.2f}" for n, r in entry["ratios"])
        where = "not reached" if entry["ratios"] else "not measured"
        if entry["length"] is not None:
            least = entry["ratios"][0][0]
            bound = "at or below " if entry["length"] <= least else ""
            where = f"{bound}{entry['length']:,.0f} tokens"
        doubt = "" if entry["rises"] else "; not rising throughout, the last crossing"
        lines.append(
            f"Crossover with torch SDPA, {entry['mode']}, M {entry['features']}: "
            f"{where} (its time over ours at {ratios or 'no length'}{doubt})."
        )
    return ["", *lines] if lines else []


if __name__ == "__main__":
    sys.exit(main())
