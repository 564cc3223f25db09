"""Trains what a config describes, or goes on where its workdir stopped.

python -m experiments.train --config=configs/performer/lm.py:tiny --workdir=runs/lm
"""

import re
import sys

from experiments import command_line, settings, workdir
from experiments.command_line import Flag
from jaxmodels.train.errors import ConfigError


def parse_init_from(text):
    """ "DIR" or "DIR:network,..." as (DIR, networks or None)."""
    folder, colon, names = text.rpartition(":")
    if not colon or "/" in names:  # the colon of a URL, or none
        return text, None
    networks = tuple(name for name in names.split(",") if name)
    if not networks or not folder:
        raise ValueError("expected DIR or DIR:NETWORK,..., such as runs/lm:model")
    return folder, networks


def parse_profile_steps(text):
    """ "10:15" as (10, 15)."""
    match = re.fullmatch(r"(\d+):(\d+)", text)
    first, last = (int(step) for step in match.groups()) if match else (0, 0)
    if first >= last:
        raise ValueError("expected the first and the last update, such as 10:15")
    return first, last


FLAGS = (
    Flag(
        "workdir",
        str,
        "Folder of the run: checkpoints, metrics, plots.",
        "DIR",
        example="runs/lm",
    ),
    Flag(
        "init_from",
        parse_init_from,
        "Start from the parameters of another run, of all networks or of some.",
        "DIR[:NETWORK,...]",
    ),
    Flag(
        "profile_steps",
        parse_profile_steps,
        "First and last update to trace into the workdir.",
        "FIRST:LAST",
    ),
)


def main(argv=None):
    """Runs the command line; returns the exit code."""
    return command_line.run(train, FLAGS, argv, doc=__doc__)


def start_of(init_from, config, experiment):
    """What `loop.fit` starts from: --init_from, or the modules of `pretrained`.

    Raises:
        ConfigError: both are given.
    """
    folder = config.get("pretrained")
    if not folder:
        return init_from
    if init_from:
        raise ConfigError(
            f"--init_from={init_from[0]} and --config.pretrained={folder} are both "
            f"given; drop one: pretrained takes {', '.join(experiment.PRETRAINED)}"
        )
    return folder, experiment.PRETRAINED


def train(arguments):
    config, flags = arguments.config, arguments.flags
    experiment = settings.load_experiment(arguments)
    init_from = start_of(flags["init_from"], config, experiment)
    workdir.check(flags["workdir"], config)
    # Imported late: a mistake in the command line shows at once.
    import jax

    from experiments import launch
    from jaxmodels.train import loop

    facts = {"init_from": init_from}
    task, data, mesh = launch.start(arguments, experiment, facts)
    if jax.process_index() == 0:
        workdir.write_config(flags["workdir"], config)
    state = loop.fit(
        task,
        data,
        num_steps=config.num_steps,
        workdir=flags["workdir"],
        mesh=mesh,
        seed=config.seed,
        log_every=config.log_every,
        eval_every=config.eval_every,
        save_every=config.save_every,
        limits=loop.Limits(**config.limits),
        num_threads=config.data.get("num_threads", 2),
        num_workers=config.data.get("num_workers", 0),
        init_from=init_from,
        profile_steps=flags["profile_steps"],
    )
    if jax.process_index() == 0:
        print(f"checkpoint: {workdir.checkpoints(flags['workdir']) / str(state.step)}")


if __name__ == "__main__":
    sys.exit(main())
