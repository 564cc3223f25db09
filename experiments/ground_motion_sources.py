"""What the models of a table were trained on, held against what they are scored on."""

import pathlib

from jaxmodels.train.errors import ConfigError


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


def check_unseen(flags, fold, model, name):
    """Raises `ConfigError` where a model was trained on the split, as far as told."""
    from jaxmodels.data import seismic_records

    dataset, split = flags.dataset, fold.split
    trained = model.about.get("splits", {}).get("train")
    if trained is None or not same_data(model.about.get("dataset"), dataset):
        return
    if dataset in seismic_records.RECORDINGS:
        every = [record["station"] for record in seismic_records.embedded(dataset)]
        seen, held_out = (
            set(seismic_records.choose_stations(dataset, one, every))
            for one in (trained, split)
        )
        shared = seen & held_out
    elif trained == split:
        shared = {split}
    else:
        shared = events(flags, trained, model) & events(flags, split, model)
    if shared:
        raise ConfigError(
            f"{name} was trained on {min(shared)} of {dataset} (split {trained}); "
            "score it on another split"
        )


def same_data(one, other):
    """Whether two names of data sets, or paths of folders, mean the same.

    Of a folder, a packaged model knows the name alone.
    """
    from jaxmodels.data import builder

    if one is None or not builder.is_path(other):
        return one == other
    if not builder.is_path(one):
        return one == pathlib.Path(other).name
    one, other = (pathlib.Path(path).expanduser().resolve() for path in (one, other))
    return one == other


def events(flags, split, model):
    """Names of the events of a split of the data that a model was trained on."""
    from jaxmodels.data import ground_motions

    source = told(model) | {"data_dir": flags.data_dir}
    return ground_motions.prepared_split(
        flags.dataset, split, model.preprocessing, **source
    ).events


def told(model):
    """How the data of a model were made or read, as `ground_motions.windows` takes."""
    about = model.about
    names = ("synthetic", "reader", "min_snr")
    return {name: about[name] for name in names if about.get(name) is not None}


def told_of(dataset, models):
    """`told` of the models that were trained on a data set; {} where none was.

    Raises:
        ConfigError: two were trained on different data of that name.
    """
    found: dict = {}
    for name, model in models.items():
        if not same_data(model.about.get("dataset"), dataset):
            continue
        if found and told(model) != next(iter(found.values())):
            raise ConfigError(
                f"{name} and {next(iter(found))} were trained on different {dataset} "
                "(fields synthetic, reader or min_snr); give each a table of its own"
            )
        found[name] = told(model)
    return next(iter(found.values()), {})


def read_as(flags, source):
    """What is `told` of a data set, with what the command line says of its records.

    Raises:
        ConfigError: it is no folder, or the options contradict each other.
    """
    from jaxmodels.data import builder, record_folders

    names = {"sensitivity": "sensitivity", "inventory": "inventory", "unit": "units"}
    given = {field: getattr(flags, name) for field, name in names.items()}
    if all(value is None for value in given.values()):
        return source
    if not builder.is_path(flags.dataset):
        raise ConfigError(
            "--sensitivity, --inventory and --units are for a folder of records, and "
            f"--dataset {flags.dataset} is none; leave them out"
        )
    reader = (source.get("reader") or {}) | given
    record_folders.reader_of(reader)
    return source | {"reader": reader}


def check_split(flags, fold):
    """Raises `ConfigError` where a split is missing or lacks the window of the figure.

    Nothing is sampled or fitted for it.
    """
    from jaxmodels.data import ground_motions
    from jaxmodels.data.motion_rows import MotionRows

    own = next(iter(fold.models.values())).preprocessing
    source = read_as(flags, told_of(flags.dataset, fold.models))
    motions = ground_motions.prepared_split(
        flags.dataset, fold.split, own, data_dir=flags.data_dir, **source
    )
    count = min(flags.limit, len(MotionRows(motions, own)))
    if flags.example >= count:
        raise ConfigError(
            f"--example {flags.example} must be 0 to {count - 1}: split {fold.split} "
            f"has {count} windows to score"
        )
