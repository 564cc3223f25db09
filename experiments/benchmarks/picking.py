"""How fast seismograms are picked, beside SeisBench's PhaseNet.

python -m experiments.benchmarks.picking --checkpoint ours=runs/picker \\
  --output results/picking_speed

Throughput is `annotate` of an ObsPy stream of noise, three components at 100 Hz,
windows that overlap by half, in hours of record a second; latency is `classify` of one
record of 60 s, the time until its picks are there. PhaseNet (Zhu & Beroza, 2019) has
random weights, which take the same time. Everything runs in turn, in rounds, in one
process. Writes picking.json and README.md to the output folder.
"""

import statistics
import sys
import time

import numpy as np

from experiments.benchmarks import measure, options, report

MODULE = "experiments.benchmarks.picking"
PEER = "SeisBench PhaseNet"
RATE, RECORD = 100.0, 60.0
HEADER = (
    "picker",
    "hours a second",
    "x PhaseNet",
    "CPU s an hour",
    "latency ms",
    "window s",
    "parameters",
    "rounds",
)


def parse(argv=None):
    parser = options.base_parser(MODULE, __doc__, "results/picking_speed")
    add = parser.add_argument
    add(
        "--checkpoint",
        action="append",
        metavar="NAME=FOLDER",
        help="a run or a packaged picker; default the one of this package",
    )
    add("--hours", type=float, default=2.0, help="of record in a round")
    add("--rounds", type=options.count, default=5)
    add("--no_peer", action="store_true", help="without SeisBench")
    arguments = parser.parse_args(argv)
    if not 0 < arguments.hours <= 48:
        parser.error(f"--hours {arguments.hours} must be above 0, at most 48")
    named = [text.partition("=") for text in arguments.checkpoint or ["ours="]]
    arguments.checkpoint = {name: folder or None for name, _, folder in named}
    return arguments


def main(argv=None):
    """Runs the command line; returns the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    arguments = parse(argv)
    content = run(argv, arguments)
    report.write_json(arguments.output, "picking", content)
    report.write_text(arguments.output, "README.md", lines(content))
    print("\n".join(lines(content)))
    print(f"written to {arguments.output}")
    return 0


def run(argv, arguments):
    """Measures everything; returns what `picking.json` holds."""
    start = time.monotonic()
    contenders = {
        name: ours(folder) for name, folder in arguments.checkpoint.items()
    } | ({} if arguments.no_peer else {PEER: phasenet()})
    long, short = noise(3600 * arguments.hours), noise(RECORD)
    throughput = _measured(contenders, "annotate", long, arguments.rounds)
    latency = _measured(contenders, "classify", short, arguments.rounds)
    rows = []
    for name, (_, facts) in contenders.items():
        wall = statistics.median(one.wall for one in throughput[name])
        cpu = statistics.median(one.cpu for one in throughput[name])
        ratio = None
        if PEER in contenders:
            ratio = 1 / measure.median_ratio(throughput[name], throughput[PEER])
        rows.append(
            {
                "name": name,
                "hours_per_second": arguments.hours / wall,
                "ratio": ratio,
                "cpu_seconds_per_hour": cpu / arguments.hours,
                "latency": statistics.median(one.wall for one in latency[name]),
                "rounds": len(throughput[name]),
                **facts,
            }
        )
    return {
        "command": " ".join(["python", "-m", MODULE, *argv]),
        "machine": measure.machine(),
        "hours": arguments.hours,
        "record_seconds": RECORD,
        "seconds": time.monotonic() - start,
        "rows": rows,
    }


def _measured(contenders, method, stream, rounds):
    """{name: samples} of a method of all pickers on a stream."""
    runs = {
        name: lambda picker=picker: getattr(picker, method)(stream.copy())
        for name, (picker, _) in contenders.items()
    }
    for once in runs.values():  # what is compiled once is not counted
        once()
    return measure.interleave(runs, dict.fromkeys(runs, rounds))


def ours(folder):
    """A picker of this package, and facts about it."""
    import jax

    from jaxmodels.pipelines import pick

    picker = pick.load(folder)
    count = sum(x.size for x in jax.tree.leaves(picker.variables))
    return picker, {"window": picker.preprocessing.seconds, "parameters": count}


def phasenet():
    """SeisBench's PhaseNet, and facts about it."""
    import seisbench.models

    model = seisbench.models.PhaseNet(phases="PSN", norm="std")
    model.eval()
    count = sum(x.numel() for x in model.parameters())
    return model, {"window": model.in_samples / RATE, "parameters": count}


def noise(seconds):
    """A stream of whole numbers, as an instrument records them."""
    import obspy

    generator = np.random.default_rng(0)
    stream = obspy.Stream()
    for letter in "ZNE":
        samples = 1000 * generator.standard_normal(round(seconds * RATE))
        header = {"network": "XX", "station": "ABC", "channel": f"HH{letter}"}
        trace = obspy.Trace(samples.astype(np.int32), header)
        trace.stats.sampling_rate = RATE
        stream.append(trace)
    return stream


def lines(content):
    """README.md of the results."""
    rows = [
        [
            row["name"],
            report.number(row["hours_per_second"]),
            report.number(row["ratio"]),
            report.number(row["cpu_seconds_per_hour"]),
            report.number(1e3 * row["latency"]),
            report.number(row["window"]),
            f"{row['parameters']:,}",
            str(row["rounds"]),
        ]
        for row in content["rows"]
    ]
    return [
        "# Speed of picking",
        "",
        *report.setting(content),
        "",
        f"`annotate` of {content['hours']:g} h of three components at {RATE:g} Hz, "
        f"windows that overlap by half; latency is `classify` of "
        f"{content['record_seconds']:g} s.",
        "",
        *report.markdown(HEADER, rows),
    ]


if __name__ == "__main__":
    sys.exit(main())
