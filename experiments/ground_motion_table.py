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
the first model, and again on what else the others were trained on.
"""

import functools
import shlex
import sys
import time
from typing import NamedTuple

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
        for name in ("limit", "fitted", "samples"):
            if getattr(flags, name) < 1:
                raise ConfigError(f"--{name} {getattr(flags, name)} must be at least 1")
        print(run(flags, argv))
        print(f"written to {flags.output}")
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def run(flags, argv):
    """Scores all splits, writes the files and returns the text of the table."""
    from jaxmodels.pipelines import broaden_scores

    start = time.monotonic()
    folds = load_folds(flags)
    corner = next(iter(folds[0].models.values())).corner(flags.corner)
    scored = [score(flags, fold, corner) for fold in folds]
    return broaden_scores.write(
        flags.output,
        broaden_scores.combine(scored),
        title=f"{flags.dataset}, {', '.join(flags.split)}",
        notes=notes(flags, argv, folds, corner, time.monotonic() - start),
        system=next(iter(folds[0].models)),
    )


def load_folds(flags):
    """The models of each split.

    Raises:
        ConfigError: a model cannot be read, takes other windows than the first, or was
            trained on what it would be scored on.
    """
    from jaxmodels.pipelines import broaden_model

    named = [parse_checkpoint(text) for text in flags.checkpoint]
    names = [name for name, _ in named]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"--checkpoint {name} is given twice; name each otherwise"
            )
    load = functools.cache(broaden_model.load)
    folds = [
        Fold(
            split,
            {name: load(folder.replace(SPLIT, split)) for name, folder in named},
        )
        for split in flags.split
    ]
    first = next(iter(folds[0].models.values())).preprocessing
    for fold in folds:
        for name, model in fold.models.items():
            check_windows(first, model.preprocessing, name)
            check_unseen(flags.dataset, fold.split, model, name)
    return folds


def check_windows(first, other, name):
    """Raises `ConfigError` where a model takes other windows than the first one."""
    for field in ("sampling_rate", "num_samples", "channels", "order", "band"):
        here, there = getattr(first, field), getattr(other, field)
        if here != there:
            raise ConfigError(
                f"{name} has {field} {there} and the first model {here}; give models "
                "of the same windows, or a table for each"
            )
    if (first.taper, first.causal) != (other.taper, other.causal):
        raise ConfigError(
            f"{name} was trained on another taper or low-pass than the first model; "
            "give it a table of its own"
        )


def check_unseen(dataset, split, model, name):
    """Raises `ConfigError` where a model was trained on the split, as far as told."""
    from jaxmodels.data import seismic_records

    trained, about = model.about.get("splits", {}).get("train"), model.about
    if about.get("dataset") != dataset or trained is None:
        return
    shared = {split} & {trained}
    if dataset in seismic_records.RECORDINGS:
        every = [record["station"] for record in seismic_records.embedded(dataset)]
        seen, held_out = (
            set(seismic_records.choose_stations(dataset, one, every))
            for one in (trained, split)
        )
        shared = seen & held_out
    if shared:
        raise ConfigError(
            f"{name} was trained on {min(shared)} of {dataset} (split {trained}); "
            "score it on another split"
        )


def score(flags, fold, corner):
    """The evaluation of one split."""
    from jaxmodels.pipelines import broaden_baselines, broaden_scores

    first = next(iter(fold.models.values()))
    systems = {broaden_baselines.LOW_PASS: broaden_baselines.low_pass_only}
    for label, noise in shaped_noises(flags, fold, corner).items():
        systems[label] = functools.partial(noise.sample, num_samples=flags.samples)
    for name, model in fold.models.items():
        systems[name] = sampler(flags, model, corner)
    return broaden_scores.evaluate(
        windows(
            flags.dataset,
            fold.split,
            first,
            corner,
            limit=flags.limit,
            data_dir=flags.data_dir,
        ),
        systems,
        broaden_scores.Settings(
            seed=flags.seed, causal=first.preprocessing.causal, example=flags.example
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


def shaped_noises(flags, fold, corner):
    """Shaped noise by label, one for each data set that a model was trained on."""
    from jaxmodels.pipelines import broaden_baselines

    fitted: dict = {}
    found: dict = {}
    for name, model in fold.models.items():
        data = model.about["dataset"], model.about["splits"]["train"]
        if data in fitted:
            continue
        label = broaden_baselines.SHAPED_NOISE
        label += f", data of {name}" if fitted else ""
        say(fold.split, f"fitting {label} on {data[0]}, {data[1]}")
        pairs = (
            (observed, condition)
            for _, _, observed, condition, _, _ in windows(
                *data, model, corner, limit=flags.fitted, data_dir=flags.data_dir
            )
        )
        rate = model.preprocessing.sampling_rate
        fitted[data] = broaden_baselines.ShapedNoise.fit(pairs, rate, corner)
        found[label] = fitted[data]
    return found


def windows(dataset, split, model, corner, *, limit, data_dir):
    """Yields what `broaden_scores.evaluate` takes.

    The windows of a synthetic data set are of the one that the model was trained on.
    """
    from jaxmodels.data import ground_motions

    own, drawn = model.preprocessing, None
    if dataset == ground_motions.SYNTHETIC:
        drawn = model.about.get("synthetic")
    for motion in ground_motions.windows(
        dataset, split, own, limit=limit, data_dir=data_dir, synthetic=drawn
    ):
        condition = own.low_pass(motion.waveform, corner)
        rate = motion.sampling_rate
        yield motion.name, motion.event, motion.waveform, condition, corner, rate


def notes(flags, argv, folds, corner, seconds):
    """Lines below the title of the table."""
    first = next(iter(folds[0].models.values()))
    name, num_steps, guidance = first.sampling(
        flags.steps, flags.sampler, flags.guidance
    )
    lines = [
        f"Command: `{shlex.join(['python', '-m', MODULE, *argv])}`",
        f"Windows of {first.preprocessing.seconds:g} s at "
        f"{first.preprocessing.sampling_rate:g} Hz, corner {corner:g} Hz; "
        f"{flags.samples} samples by {name} in {num_steps} steps, guidance "
        f"{guidance:g}, seed {flags.seed}; {seconds:.0f} s in all.",
    ]
    described = {
        f"{label}: {model.describe()}."
        for fold in folds
        for label, model in fold.models.items()
    }
    return lines + sorted(described)


def say(split, line):
    """A line of progress."""
    print(f"{split}: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
