"""Arrivals of P and S in seismograms, by a trained model.

python -m jaxmodels.pipelines.pick --example
python -m jaxmodels.pipelines.pick day.mseed --output picks
python -m jaxmodels.pipelines.pick archive/ --checkpoint runs/picker --P_threshold 0.5

FILE is miniSEED, SAC, ASDF, NPZ or what else ObsPy reads, or a folder of such files,
searched with all folders in it. Any length, rate, gaps, and one to three components
are fine. In the folder of --output there are then picks.csv, picks.xml (QuakeML), a
figure of each instrument round its clearest events, and summary.json. The same command
gives the same files.

In Python:

    from jaxmodels.pipelines import pick

    picker = pick.load()
    probabilities = picker.annotate(stream)
    picks = picker.classify(stream, P_threshold=0.5).picks
"""

import importlib.metadata
import sys

import tqdm

from jaxmodels.data.seismic_records import optional
from jaxmodels.pipelines import (
    broaden_files,
    pick_files,
    pick_outputs,
    pick_run,
    record_paths,
)
from jaxmodels.pipelines.generate import Parser
from jaxmodels.pipelines.pick_model import Picker, load
from jaxmodels.train.errors import INTERRUPTED, ConfigError, RunError

__all__ = ["Picker", "load", "main"]

SOME_FAILED = 1


def parser():
    """The command line."""
    flags = Parser(
        prog="python -m jaxmodels.pipelines.pick",
        description=__doc__.split("\n")[0],
    )
    add = flags.add_argument
    add("files", nargs="*", metavar="FILE", help="file or folder of seismograms")
    add("--example", action="store_true", help="ObsPy's own example record, as FILE")
    add("--checkpoint", help="folder of a run; default the model of this package")
    add("--output", default="picked", help="folder of what is made")
    add("--P_threshold", type=float, help="probability that a P has to reach")
    add("--S_threshold", type=float, help="probability that an S has to reach")
    add("--overlap", type=float, help="of windows, a share or samples; default 0.5")
    add(
        "--blinding",
        type=int,
        nargs="+",
        help="samples left out at both ends of a window, or at the start and the end",
    )
    add("--stacking", help="of windows, avg or max; default avg")
    add("--batch_size", type=int, help="windows at once; default 16")
    add(
        "--strict",
        action="store_true",
        default=None,
        help="pick only where all components were recorded",
    )
    add("--figures", type=int, default=10, help="most figures, of the first picked")
    return flags


def main(argv=None):
    """Writes files and prints what they are; returns the exit code."""
    try:
        flags = parser().parse_args(argv)
        if not flags.files and not flags.example:
            print(f"{__doc__}\n--help lists the flags.", file=sys.stderr)
            return ConfigError.exit_code
        return _run(flags)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(flags):
    if flags.figures < 0:
        raise ConfigError(f"figures {flags.figures} must be at least 0")
    broaden_files.check_folder(flags.output)
    optional("obspy")
    picker = load(flags.checkpoint)
    keywords = {name: getattr(flags, name) for name in picker.defaults()}
    settings = picker.settings(**keywords)
    print(picker.describe(), flush=True)
    archive = _archive(flags)
    total = sum(
        block.seconds for key in archive.headers for block in archive.blocks(key)
    )
    with tqdm.tqdm(
        total=round(total), unit="s", desc="picking", disable=None, leave=False
    ) as bar:
        run = pick_run.Run(picker, settings, archive, flags.output, flags.figures)
        for line in run.pick(lambda seconds: bar.update(round(seconds))):
            bar.write(line)
    return _finish(flags, picker, keywords, run)


def _archive(flags):
    """Headers of all files that are named."""
    archive = pick_files.Archive()
    if flags.example:
        archive.add(pick_files.EXAMPLE)
    paths = []
    for name in flags.files:
        try:
            found, passed, _ = record_paths.find(name, below=True)
        except ConfigError as error:
            archive.failures.append(str(error))
            continue
        paths += found
        if passed:
            print(f"{passed} files that are no records by their names are left alone")
    for path in tqdm.tqdm(paths, desc="reading headers", disable=None, leave=False):
        archive.add(path)
    return archive


def _finish(flags, picker, keywords, run):
    """Writes the lists of picks and says what there is; returns the exit code."""
    if not run.picked:
        if len(run.failures) == 1:
            raise ConfigError(run.failures[0])
        for failure in run.failures:
            print(f"  {failure}", file=sys.stderr)
        raise ConfigError("nothing could be picked; the lines above say why")
    summary = {
        "made_by": "jaxmodels.pipelines.pick",
        "version": importlib.metadata.version("jaxmodels"),
        "jax": importlib.metadata.version("jax"),
        "checkpoint": {"path": picker.source, "sha256": picker.digest},
        "trained_on": picker.trained_on,
        "preprocessing": picker.preprocessing.to_json(),
        "settings": picker.defaults()
        | {name: x for name, x in keywords.items() if x is not None},
        "files": [*flags.files, *(["ObsPy's example"] if flags.example else [])],
        "instruments": run.picked,
        "warnings": run.warnings,
        "failures": run.failures,
    }
    paths = pick_outputs.write(flags.output, run.picks, summary, picker.creator)
    seconds = sum(one["seconds"] for one in run.picked.values())
    counts = [sum(pick.phase == phase for pick in run.picks) for phase in "PS"]
    print(
        f"{counts[0]} P and {counts[1]} S in {seconds / 3600:.2f} h of "
        f"{len(run.picked)} instruments"
    )
    print(f"written: {', '.join(map(str, [*paths, *run.figures]))}")
    if not run.failures:
        return 0
    print(f"{len(run.failures)} failed:", file=sys.stderr)
    for failure in run.failures:
        print(f"  {failure}", file=sys.stderr)
    return SOME_FAILED


if __name__ == "__main__":
    sys.exit(main())
