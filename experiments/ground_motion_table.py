"""Scores trained broadening models beside their baselines, where the truth is known.

  python -m experiments.ground_motion_table --checkpoint dit=runs/dit \
    --checkpoint cross=runs/cross --output results/signal_dit/synthetic

Several --checkpoint stand in one table; the first says how windows are cut. Of several
--split, each is scored and all are put together: {split} in a checkpoint's folder then
stands for the split, as for models that left one station out each:

  python -m experiments.ground_motion_table --dataset ridgecrest --split CI.CCC \
    --split CI.CLC --split CI.TOW2 --checkpoint zero-shot=runs/dit \
    --checkpoint 'tuned=runs/tuned/{split}' --output results/signal_dit/ridgecrest

The baselines are the low-pass alone and shaped noise, which is fitted on the data of
the first model, and again on what else the others were trained on. A folder of records
is read, and synthetic records are drawn, as for the models that were trained on them;
--sensitivity, --inventory or --units say what any other folder of records is in.
"""

import functools
import json
import shlex
import sys
import time
from typing import NamedTuple

from experiments.ground_motion_sources import (
    check_split,
    check_unseen,
    check_windows,
    read_as,
    told,
    told_of,
)
from jaxmodels.pipelines.generate import Parser
from jaxmodels.train.errors import INTERRUPTED, ConfigError, RunError

MODULE = "experiments.ground_motion_table"
SPLIT = "{split}"


class Fold(NamedTuple):
    """One split and the models that are scored on it.

    Attributes:
        split: of the data set.
        models: name -> `broaden_model.Broadener`.
    """

    split: str
    models: dict


def parse_checkpoint(text):
    """ "NAME=DIR" as (NAME, DIR)."""
    name, _, folder = text.partition("=")
    if not name or not folder:
        raise ConfigError(f"--checkpoint {text}: give NAME=DIR, such as dit=runs/dit")
    return name, folder


def parser():
    """The command line."""
    flags = Parser(prog=f"python -m {MODULE}", description=__doc__.split("\n")[0])
    add = flags.add_argument
    add(
        "--checkpoint",
        action="append",
        required=True,
        metavar="NAME=DIR",
        help="a run, by the name that it has in the table; may be given again",
    )
    add("--dataset", default="synthetic_motions", help="as config.data.dataset")
    add("--split", action="append", help="default test; may be given again")
    add("--data_dir", help="folder of TFDS data sets")
    add("--sensitivity", type=float, help="of records in counts, counts per m/s^2")
    add("--inventory", help="StationXML file of miniSEED records in counts")
    add("--units", help="of records whose folder does not say, or is wrong")
    add("--corner", type=float, help="of the low-pass, Hz; default the first model's")
    add("--limit", type=int, default=96, help="windows of a split, spread evenly")
    add("--fitted", type=int, default=1000, help="windows that fit shaped noise")
    add("--samples", type=int, default=8, help="of each window and system")
    add("--seed", type=int, default=0, help="of the first window")
    add("--steps", type=int, help="of the sampler; default 25, or the model's own")
    add("--sampler", help="default the model's own")
    add("--guidance", type=float, help="default the model's own")
    add("--example", type=int, default=0, help="window of the figure")
    add("--output", required=True, help="folder of table, numbers and figures")
    return flags


def main(argv=None):
    """Runs the command line; returns the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        flags = parser().parse_args(argv)
        flags.split = flags.split or ["test"]
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

    for name in ("limit", "fitted", "samples"):
        if getattr(flags, name) < 1:
            raise ConfigError(f"--{name} {getattr(flags, name)} must be at least 1")
    if not 0 <= flags.seed < 2**32:
        raise ConfigError(f"--seed {flags.seed} must be 0 to {2**32 - 1}")
    if flags.example < 0:
        raise ConfigError(f"--example {flags.example} must be at least 0")
    broaden_files.check_folder(flags.output)


def run(flags, argv):
    """Scores all splits, writes the files and returns the text of the table."""
    from jaxmodels.pipelines import broaden_scores

    start = time.monotonic()
    folds, corner = load_folds(flags)
    fitted: dict = {}
    scored = [score(flags, fold, corner, fitted) for fold in folds]
    return broaden_scores.write(
        flags.output,
        broaden_scores.combine(scored),
        title=f"{flags.dataset}, {', '.join(flags.split)}",
        notes=notes(flags, argv, folds, corner, fitted, time.monotonic() - start),
        system=next(iter(folds[0].models)),
    )


def load_folds(flags):
    """The models of each split, and the corner in Hz.

    Raises:
        ConfigError: a model cannot be read, has the name of a baseline, takes other
            windows than the first, does not know its corner, was trained on what it
            would be scored on, or on other data of that name than another one.
    """
    from jaxmodels.pipelines import broaden_baselines, broaden_model

    named = [parse_checkpoint(text) for text in flags.checkpoint]
    names = [name for name, _ in named]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"--checkpoint {name} is given twice; name each otherwise"
            )
        for baseline in (broaden_baselines.LOW_PASS, broaden_baselines.SHAPED_NOISE):
            if name.startswith(baseline):
                raise ConfigError(
                    f"--checkpoint {name}: {baseline!r} is a baseline of the table; "
                    "name the model otherwise"
                )
    load = functools.cache(broaden_model.load)
    folds = [
        Fold(
            split,
            {name: load(folder.replace(SPLIT, split)) for name, folder in named},
        )
        for split in flags.split
    ]
    first = next(iter(folds[0].models.values()))
    corner = first.corner(flags.corner)
    for fold in folds:
        read_as(flags, told_of(flags.dataset, fold.models))
        for name, model in fold.models.items():
            check_windows(first.preprocessing, model.preprocessing, name)
            model.corner(corner)
            model.sampling(flags.steps, flags.sampler, flags.guidance)
            check_unseen(flags, fold, model, name)
        check_split(flags, fold)
    return folds, corner


def score(flags, fold, corner, fitted):
    """The evaluation of one split; `fitted` is that of `shaped_noises`."""
    from jaxmodels.pipelines import broaden_baselines, broaden_scores

    first = next(iter(fold.models.values()))
    systems = {broaden_baselines.LOW_PASS: broaden_baselines.low_pass_only}
    for label, noise in shaped_noises(flags, fold, corner, fitted).items():
        systems[label] = functools.partial(noise.sample, num_samples=flags.samples)
    for name, model in fold.models.items():
        systems[name] = sampler(flags, model, corner)
    own = first.preprocessing
    source = read_as(flags, told_of(flags.dataset, fold.models))
    return broaden_scores.evaluate(
        windows(flags, flags.dataset, fold.split, own, corner, flags.limit, source),
        systems,
        broaden_scores.Settings(
            seed=flags.seed,
            order=own.order,
            causal=own.causal,
            example=flags.example,
        ),
        report=functools.partial(say, fold.split),
    )


def sampler(flags, model, corner):
    """A function of condition and seed to samples, [M, T, C]."""

    def sample(condition, seed):
        return model.sample(
            condition,
            seed=seed,
            num_samples=flags.samples,
            num_steps=flags.steps,
            sampler=flags.sampler,
            guidance=flags.guidance,
            corner=corner,
        )

    return sample


def shaped_noises(flags, fold, corner, fitted):
    """Shaped noise by label, one for each data set that a model was trained on.

    Args:
        fitted: shaped noise by data set, which grows: folds share what they can.
    """
    from jaxmodels.pipelines import broaden_baselines

    found: dict = {}
    seen = set()
    for name, model in fold.models.items():
        own = model.preprocessing
        data = model.about["dataset"], model.about["splits"]["train"]
        key = json.dumps([*data, told(model)], sort_keys=True, default=str)
        if key in seen:
            continue
        label = broaden_baselines.SHAPED_NOISE
        label += f", data of {name}" if found else ""
        if key not in fitted:
            say(fold.split, f"fitting {label} on {data[0]}, {data[1]}")
            pairs = (
                (observed, condition)
                for _, _, observed, condition, _, _ in windows(
                    flags, *data, own, corner, flags.fitted, told(model)
                )
            )
            fitted[key] = broaden_baselines.ShapedNoise.fit(
                pairs, own.sampling_rate, corner, order=own.order, causal=own.causal
            )
        seen.add(key)
        found[label] = fitted[key]
    return found


def windows(flags, dataset, split, preprocessing, corner, limit, source):
    """Yields what `broaden_scores.evaluate` takes; `source` is of `told`."""
    from jaxmodels.data import ground_motions

    for motion in ground_motions.windows(
        dataset, split, preprocessing, limit=limit, data_dir=flags.data_dir, **source
    ):
        condition = preprocessing.low_pass(motion.waveform, corner)
        rate = motion.sampling_rate
        yield motion.name, motion.event, motion.waveform, condition, corner, rate


def notes(flags, argv, folds, corner, fitted, seconds):
    """Lines below the title of the table."""
    own = next(iter(folds[0].models.values())).preprocessing
    noise = next(iter(fitted.values()))
    kind = "causal" if own.causal else "zero-phase"
    lines = [
        f"Command: `{shlex.join(['python', '-m', MODULE, *argv])}`",
        f"Windows of {own.seconds:g} s at {own.sampling_rate:g} Hz, {kind} low-pass of "
        f"order {own.order} at {corner:g} Hz; {flags.samples} samples of each, seed "
        f"{flags.seed}; {seconds:.0f} s in all.",
        f"Shaped noise: fitted on at most {flags.fitted} windows, envelope smoothed "
        f"over {noise.smoothing:g} s, {noise.iterations} iterations of the merge.",
    ]
    described = set()
    for fold in folds:
        for label, model in fold.models.items():
            name, num_steps, guidance = model.sampling(
                flags.steps, flags.sampler, flags.guidance
            )
            described.add(
                f"{label}: {name} in {num_steps} steps, guidance {guidance:g}; "
                f"{model.describe()}."
            )
    return lines + sorted(described)


def say(split, line):
    """A line of progress."""
    print(f"{split}: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
