"""Fine-tunes pickers from pretrained and from random weights, on few labels and many.

  python -m experiments.label_efficiency --pretrained contrastive=runs/contrastive \
    --pretrained masked=runs/masked --labels 16,64,256 --seeds 3 --steps 200 \
    --output results/label_efficiency

Each run has the same budget. A picker takes encoder and backbone, and how they are
built, from the pretrained run; beside it stands one of the same networks with random
weights. A seed decides which records are labeled, their order and the first weights.
All are scored on the held-out records of the config, and with --real on those of a
folder that none was trained on. Runs that are done are not repeated.
"""

import functools
import json
import pathlib
import re
import sys
from typing import NamedTuple

from experiments import command_line, settings, workdir
from jaxmodels.pipelines.generate import Parser
from jaxmodels.train.errors import INTERRUPTED, ConfigError, RunError

CONFIG = "configs/seismic/phase_picking.py:tiny"
# Of the config of a pretrained run, what a picker is built with.
NETWORKS = ("embed_dim", "encoder", "backbone")
WARMUP = 0.1  # of the updates


class System(NamedTuple):
    """A way to start.

    Attributes:
        name: in the table.
        networks: {"embed_dim": D, "encoder": fields, "backbone": fields}.
        pretrained: folder of a run, or None for random weights.
    """

    name: str
    networks: dict
    pretrained: str | None


class Run(NamedTuple):
    """One fine-tuned picker."""

    system: System
    labels: int
    seed: int

    def folder(self, output):
        name = re.sub(r"[^\w.+-]+", "_", self.system.name)
        return pathlib.Path(output) / "runs" / f"{name}-{self.labels}-{self.seed}"


def parser():
    """The command line."""
    flags = Parser(
        prog="python -m experiments.label_efficiency",
        description=__doc__.split("\n")[0],
    )
    add = flags.add_argument
    add(
        "--pretrained",
        action="append",
        required=True,
        metavar="NAME=DIR",
        help="a run of contrastive.py or masked.py; may be given again",
    )
    add(
        "--no_random",
        action="append",
        default=[],
        metavar="NAME",
        help="leave out the twin of that run, the same networks from random weights",
    )
    add("--labels", default="16,64,256", help="numbers of labeled records")
    add("--seeds", type=int, default=3, help="runs of each, with seeds 0, 1, ...")
    add("--steps", type=int, default=200, help="updates of each run")
    add("--config", default=CONFIG, help="of the pickers; its networks are not used")
    add(
        "--override",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="of the config, such as data.synthetic.num_records=300",
    )
    add("--real", help="folder of records that the pickers are scored on as well")
    add("--real_split", default="dev", help="its split")
    add("--data_dir", help="folder of TFDS data sets")
    add("--threshold", type=float, default=0.3, help="of a pick's probability, for F1")
    add("--output", required=True, help="folder of table, numbers, figure and runs")
    return flags


def main(argv=None):
    """Runs the command line; returns the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        flags = parser().parse_args(argv)
        print(run(flags, argv))
        print(f"written to {flags.output}")
    except RunError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def run(flags, argv):
    """Trains and scores every run, writes the files and returns the table."""
    labels = check(flags)
    systems = find_systems(flags.pretrained, alone=flags.no_random)
    runs = [
        Run(system, count, seed)
        for count in labels
        for seed in range(flags.seeds)
        for system in systems
    ]
    configs = [make_config(flags, one) for one in runs]
    # Imported late: a mistake in the command line shows at once.
    from experiments import label_efficiency_report as report
    from jaxmodels.pipelines import broaden_files

    broaden_files.check_folder(flags.output)
    sources = test_sets(flags, configs[0])
    rows = []
    for number, (one, config) in enumerate(zip(runs, configs, strict=True), 1):
        predict = fine_tune(config, one.folder(flags.output))
        for source, data in sources.items():
            scores = report.score(
                predict, data, config.data.sampling_rate, flags.threshold
            )
            row = {"system": one.system.name, "labels": one.labels, "seed": one.seed}
            rows.append({**row, "test": source, **scores})
        said = ", ".join(f"{name} {rows[-1][name]:.3f}" for name in ("p_f1", "s_f1"))
        where = f"{one.system.name}, {one.labels} labels, seed {one.seed}"
        print(f"[{number}/{len(runs)}] {where}: {said}", file=sys.stderr, flush=True)
    return report.write(flags.output, rows, notes=notes(flags, argv, systems))


def check(flags):
    """The numbers of labels, rising.

    Raises:
        ConfigError: a flag is out of its range.
    """
    if not re.fullmatch(r"\d+(,\d+)*", flags.labels):
        raise ConfigError(f"--labels {flags.labels}: give numbers such as 16,64,256")
    labels = sorted({int(text) for text in flags.labels.split(",")})
    numbers = {"labels": labels[0], "seeds": flags.seeds, "steps": flags.steps}
    for name, value in numbers.items():
        if value < 1:
            raise ConfigError(f"--{name} {value} must be at least 1")
    if not 0 < flags.threshold < 1:
        raise ConfigError(f"--threshold {flags.threshold} must lie between 0 and 1")
    return labels


def find_systems(pretrained, *, alone=()):
    """The `System`s of --pretrained, each followed by its random twin.

    Args:
        pretrained: texts NAME=DIR.
        alone: names of those without a twin.

    Raises:
        ConfigError: a name is given twice, a folder holds no run of such networks, or
            `alone` has a name that none has.
    """
    found: dict = {}
    for text in pretrained:
        name, _, folder = text.partition("=")
        if not name or not folder:
            raise ConfigError(
                f"--pretrained {text}: give NAME=DIR, such as contrastive=runs/c"
            )
        if name in found:
            raise ConfigError(
                f"--pretrained {name} is given twice; name each otherwise"
            )
        model = workdir.read_config(folder).get("model", {})
        if missing := [field for field in NETWORKS if field not in model]:
            raise ConfigError(
                f"--pretrained {text}: the run has no model.{missing[0]}; give one of "
                "configs/seismic/contrastive.py or masked.py"
            )
        networks = {field: tuples(model[field]) for field in NETWORKS}
        found[name] = System(name, networks, folder)
        twins = [one for one in found.values() if one.pretrained is None]
        if name not in alone and all(one.networks != networks for one in twins):
            twin = twin_name(networks)
            number = sum(one.name.startswith(twin) for one in twins)
            twin += f" {number + 1}" if number else ""
            found[twin] = System(twin, networks, None)
    if unknown := [name for name in alone if name not in found]:
        raise ConfigError(
            f"--no_random {unknown[0]}: no --pretrained has that name; give one of "
            f"{', '.join(text.partition('=')[0] for text in pretrained)}"
        )
    return list(found.values())


def twin_name(model):
    """What networks from random weights are called, by the `model` of a config."""
    return f"random ({model['encoder']['kind']}, {model['backbone']['kind']})"


def tuples(value):
    """A value of JSON as a config holds it."""
    if isinstance(value, dict):
        return {name: tuples(one) for name, one in value.items()}
    return tuple(map(tuples, value)) if isinstance(value, list) else value


def make_config(flags, one):
    """The checked config of a run.

    Raises:
        ConfigError: one line for each thing that is wrong.
    """
    words = [f"--config={flags.config}"]
    words += [f"--config.{word}" for word in flags.override]
    arguments = command_line.parse(words, ())
    config = arguments.config.unlock()
    if config.experiment != "phase_picking" or config.model.get("kind") != "picker":
        raise ConfigError(f"--config {flags.config} is no picker with an encoder")
    config.model.update(one.system.networks)
    for part in ("encoder", "backbone"):
        config.model[part] = one.system.networks[part]
    config.pretrained = one.system.pretrained
    config.seed, config.num_steps = one.seed, flags.steps
    config.data.num_train = one.labels
    config.optimizer.warmup_steps = int(WARMUP * flags.steps)
    config.eval_every = config.save_every = 0
    if flags.data_dir:
        config.data.data_dir = flags.data_dir
    settings.load_experiment(arguments._replace(config=config.lock()))
    return config


def test_sets(flags, config):
    """Name -> `pipeline.Data` of what all pickers are scored on."""
    from experiments import phase_picking

    found = {"held out": phase_picking.make_data(config)}
    if flags.real:
        fields = {"dataset": flags.real, "eval_split": flags.real_split}
        real = config.copy_and_resolve_references().unlock()
        real.data.update(fields)
        real.data.num_train = None
        found[f"{pathlib.Path(flags.real).name}, {flags.real_split}"] = (
            phase_picking.make_data(real.lock())
        )
    return found


def fine_tune(config, folder):
    """Trains one picker, or reads it where it is done.

    Returns:
        A function of waveforms [B, N, C] to probabilities [B, N, 3].

    Raises:
        ConfigError: the batch does not divide among the devices, the folder holds
            something else, or the pretrained run has other networks.
    """
    import jax

    from experiments import phase_picking
    from jaxmodels.train import loop, sharding

    if lines := settings.check_devices(config, jax.device_count()):
        raise ConfigError("\n".join(lines))
    start = config.get("pretrained")
    workdir.check(folder, config)
    workdir.write_config(folder, config)
    task = phase_picking.make_task(config)
    state = loop.fit(
        task,
        phase_picking.make_data(config),
        num_steps=config.num_steps,
        workdir=folder,
        mesh=sharding.make_mesh(**config.mesh),
        seed=config.seed,
        log_every=config.log_every,
        eval_every=config.eval_every,
        save_every=config.save_every,
        keep=1,
        limits=loop.Limits(**config.limits),
        num_threads=config.data.get("num_threads", 2),
        init_from=(start, phase_picking.PRETRAINED) if start else None,
        quiet=True,
    )
    params = jax.device_get({**state.params, **state.ema}["model"])
    return functools.partial(predictor(task.networks["model"]), params)


@functools.cache
def predictor(model):
    """A compiled function of weights and waveforms to probabilities."""
    import jax

    return jax.jit(lambda params, x: jax.nn.softmax(model.apply({"params": params}, x)))


def notes(flags, argv, systems):
    """Lines below the title of the table."""
    lines = [
        f"Command: `python -m experiments.label_efficiency {' '.join(argv)}`",
        f"{flags.steps} updates of each run, {flags.seeds} seeds; mean and standard "
        f"deviation over the seeds. F1: the likeliest sample of a window, where its "
        f"probability is {flags.threshold:g} or more, within 0.5 s.",
    ]
    for system in systems:
        if system.pretrained:
            start = json.loads(json.dumps(workdir.read_config(system.pretrained)))
            lines.append(
                f"{system.name}: from {system.pretrained}, {start['num_steps']} updates"
                f" of {start['experiment']}, seed {start['seed']}."
            )
    return lines


if __name__ == "__main__":
    sys.exit(main())
