"""Broadband ground motion from low-pass records, by a trained diffusion model.

python -m jaxmodels.pipelines.broaden --example ridgecrest
python -m jaxmodels.pipelines.broaden event.mseed --inventory station.xml --output out
python -m jaxmodels.pipelines.broaden simulation.npz --lowpassed --corner 1 --samples 8

RECORD is a file of miniSEED, SAC, ASDF or NPZ, a folder of them, or "ridgecrest",
"ridgecrest:CI.TOW2" or "napa", records that come with the package. It is taken as
broadband acceleration and low-passed, unless --lowpassed says that it is already.

For each record there are, in the folder of --output, NAME.mseed (samples told apart by
location codes 00, 01, ...), NAME.npz, NAME.png and NAME.json (where all of it comes
from); where the broadband record is known also NAME.csv and NAME.md, the scores of each
sample against it. The same command gives the same files.
"""

import hashlib
import importlib.metadata
import pathlib
import re
import sys

from jaxmodels.data import seismic_records
from jaxmodels.data.seismic_records import RECORDINGS
from jaxmodels.pipelines import (
    broaden_files,
    broaden_model,
    broaden_records,
    broaden_units,
    record_paths,
)
from jaxmodels.pipelines import broaden_formats as formats
from jaxmodels.pipelines.generate import Parser
from jaxmodels.train.errors import INTERRUPTED, ConfigError, RunError

SOME_FAILED = 1
SHOWN = "arias d5_95 cav pga pgv psa_0.2s psa_1s fas_error lsd".split()
SHOWN += "envelope_correlation lf_snr anderson eg pg".split()


def parser():
    """The command line."""
    flags = Parser(
        prog="python -m jaxmodels.pipelines.broaden",
        description=__doc__.split("\n")[0],
    )
    add = flags.add_argument
    add("records", nargs="*", metavar="RECORD", help="file, folder or embedded record")
    add("--example", choices=sorted(RECORDINGS), help="an embedded record, as RECORD")
    add("--checkpoint", help="folder of a run; default the model of this package")
    add("--output", default="broadened", help="folder of what is made")
    add("--samples", type=int, default=8, help="broadband records a record")
    add("--seed", type=int, default=0)
    add("--corner", type=float, help="of the low-pass, Hz; default 1")
    add("--lowpassed", action="store_true", help="RECORD is low-passed already")
    add(
        "--causal",
        action="store_true",
        help="the low-pass runs forward only; the model has to be trained so",
    )
    add("--inventory", help="StationXML, whose response is removed")
    add("--sensitivity", type=float, help="counts a m/s^2")
    add(
        "--units",
        help=f"of RECORD, {broaden_units.SHOWN}; default what the file says, counts if "
        "whole numbers, else m/s^2",
    )
    add("--tag", help="of the waveforms in an ASDF file")
    add("--steps", type=int, help="of the sampler; default 25, or the model's own")
    add("--sampler", help="ddim, ddpm, dpm++2m or heun; default the model's own")
    add("--guidance", type=float, help="default 1: without; more narrows the samples")
    return flags


def main(argv=None):
    """Writes files and prints what they are; returns the exit code."""
    try:
        flags = parser().parse_args(argv)
        names = flags.records + ([flags.example] if flags.example else [])
        if not names:
            print(f"{__doc__}\n--help lists the flags.", file=sys.stderr)
            return ConfigError.exit_code
        return _run(flags, names)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(flags, names):
    _check(flags)
    broadener = broaden_model.load(flags.checkpoint)
    settings = _settings(flags, broadener)
    print(broadener.describe(), flush=True)
    if not broaden_files.writes_miniseed():
        print(
            "warning: obspy is missing, so no miniSEED is written; pip install "
            "'jaxmodels[seismic]'",
            file=sys.stderr,
        )
    found, failures, told = 0, [], 0
    taken: set[str] = set()
    for name, record in _records(names, flags.tag):
        found += 1
        try:
            if isinstance(record, ConfigError):
                raise record
            unique = _unique(name, taken)
            for line in broaden(broadener, record, unique, flags, settings):
                print(line, flush=True)
        except ConfigError as error:
            # What cannot be read names its file itself.
            named = error is record and name in str(error)
            failures.append(str(error) if named else f"{name}: {error}")
            if found > 1 or len(names) > 1:
                print(f"error: {failures[-1]}", file=sys.stderr)
                told += 1
    if not found:
        raise ConfigError(f"{', '.join(names)}: no record in there; name one that has")
    if not failures:
        return 0
    if found == 1:
        if told:
            return ConfigError.exit_code
        raise ConfigError(failures[0])
    print(f"{len(failures)} of {found} records failed:", file=sys.stderr)
    for failure in failures:
        print(f"  {failure}", file=sys.stderr)
    return SOME_FAILED


def _unique(name, taken):
    """A name for files that none has yet; it is added to `taken`.

    Codes come from the file, and may hold what a path must not.
    """
    safe = re.sub(r"[^\w.-]+", "_", name).lstrip(".") or "record"
    unique, count = safe, 1
    while unique in taken:
        count += 1
        unique = f"{safe}_{count}"
    taken.add(unique)
    return unique


def broaden(broadener, record, name, flags, settings):
    """Broadens one record and writes its files; yields lines to print.

    Raises:
        ConfigError: the record does not suit the model.
        StorageError: a file cannot be written.
    """
    corner, own = settings["corner"], broadener.preprocessing
    if broaden_files.writes_miniseed():
        broaden_files.check_codes(record)
    case = broaden_files.prepare(
        record,
        own,
        corner,
        lowpassed=flags.lowpassed,
        units=flags.units,
        sensitivity=flags.sensitivity,
        inventory=flags.inventory,
    )
    yield f"{name}: {'; '.join(case.notes)}"
    samples = broadener.sample(case.low_passed, progress=True, **settings)
    scores = {}
    try:
        scores = broaden_files.measured(
            case,
            samples,
            own.sampling_rate,
            corner,
            order=own.order,
            causal=own.causal,
        )
    except ValueError as error:
        yield f"no scores of {name}: {error}"
    paths = broaden_files.write(
        flags.output,
        name,
        case,
        samples,
        own.sampling_rate,
        corner,
        scores,
        provenance(broadener, case, flags, settings),
    )
    if scores:
        yield from broaden_files.table(scores, SHOWN)
    yield f"written: {', '.join(map(str, paths))}"


def provenance(broadener, case, flags, settings):
    """Where samples come from, JSON-able; the same for the same command and files."""
    record = case.record
    arguments = {key: x for key, x in vars(flags).items() if x is not None}
    del arguments["output"]  # files are the same wherever they are
    return {
        "made_by": "jaxmodels.pipelines.broaden",
        "version": importlib.metadata.version("jaxmodels"),
        "jax": importlib.metadata.version("jax"),
        "arguments": arguments,
        "settings": settings | {"merges": broaden_model.MERGES},
        "seed": settings["seed"],
        "corner": settings["corner"],
        "sampling_rate": broadener.preprocessing.sampling_rate,
        "checkpoint": {"path": broadener.source, "sha256": broadener.digest},
        "trained_on": broadener.trained_on,
        "training": broadener.about,
        "preprocessing": broadener.preprocessing.to_json(),
        "record": {
            "files": {_label(path): formats.sha256(path) for path in record.files},
            "inventory": _inventory(case, flags),
            "notes": list(case.notes),
            "network": record.network,
            "station": record.station,
            "location": record.location,
            "sampling_rate": record.sampling_rate,
            "components": record.components,
            "channels": list(record.channels),
            "samples": len(record.waveform),
            "start": None if record.start is None else formats.time_text(record.start),
        },
    }


def _label(path):
    """A path as it was given, of a file of this package from its root."""
    if path in {str(seismic_records.recording(name)) for name in RECORDINGS}:
        return f"jaxmodels/data/recordings/{pathlib.Path(path).name}"
    return path


def _inventory(case, flags):
    """The inventory whose responses were taken off a record, or None."""
    record = case.record
    if flags.inventory is not None:
        return {"path": flags.inventory, "sha256": formats.sha256(flags.inventory)}
    if record.inventory is not None and broaden_units.REMOVED in case.notes[0]:
        digest = hashlib.sha256(record.inventory).hexdigest()
        return {"path": "StationXML in the file", "sha256": digest}
    return None


def _settings(flags, broadener):
    """The keywords of `Broadener.sample`, defaults filled in."""
    if flags.causal and not broadener.preprocessing.causal:
        raise ConfigError(
            "--causal, but the model was trained on low-passes that run in both "
            "directions; leave it out, or train one with data.causal and give it as "
            "--checkpoint"
        )
    sampler, num_steps, guidance = broadener.sampling(
        flags.steps, flags.sampler, flags.guidance
    )
    return {
        "seed": flags.seed,
        "num_samples": flags.samples,
        "num_steps": num_steps,
        "sampler": sampler,
        "guidance": guidance,
        "corner": broadener.corner(flags.corner),
    }


def _check(flags):
    limit = broaden_files.MAX_SAMPLES
    if not 1 <= flags.samples <= limit:
        raise ConfigError(
            f"samples {flags.samples} must be 1 to {limit}, as location codes have two "
            "digits"
        )
    broaden_units.check_flags(flags.units, flags.sensitivity, flags.inventory)
    broaden_files.check_folder(flags.output)
    if not 0 <= flags.seed < 2**32:
        raise ConfigError(f"seed {flags.seed} must be 0 to {2**32 - 1}")


def _records(names, tag):
    """(name, Record or ConfigError) of everything that is named."""
    files = []
    for name in names:
        dataset, _, station = name.partition(":")
        if dataset in RECORDINGS:
            try:
                embedded = broaden_files.embedded(dataset, station or None)
            except ConfigError as error:
                yield name, error
                continue
            yield from ((record.name, record) for record in embedded)
        else:
            files.append(name)
    paths = []
    for name in files:
        try:
            found, passed, below = record_paths.find(name)
        except ConfigError as error:
            yield name, error
            continue
        paths += found
        if passed:
            print(f"{passed} files that are no records by their names are left alone")
        if below:
            print(f"{below} folders in {name} are not searched; name them as well")
    yield from broaden_records.read(paths, tag)


if __name__ == "__main__":
    sys.exit(main())
