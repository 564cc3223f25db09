"""Records that pickers are scored on, held against what they were trained on."""

from typing import Any

from experiments import picking_windows
from experiments.ground_motion_sources import same_data
from jaxmodels.data import ground_motions, waveforms
from jaxmodels.data.instruments import make_instruments
from jaxmodels.train.errors import ConfigError


def check_unseen(flags, name, about):
    """Raises `ConfigError` where a model was trained on the split, as far as told.

    Args:
        flags: of the command line.
        name: of the model.
        about: what it says of its training.
    """
    second, noise = about.get("second") or {}, about.get("noise") or {}
    trained = [
        (about.get("dataset"), about.get("splits", {}).get("train")),
        (second.get("dataset"), second.get("train_split", "train")),
        # Of these it saw what is before P.
        (noise.get("dataset"), noise.get("train_split", "train")),
    ]
    for dataset, split in trained:
        if same_data(dataset, flags.dataset) and share_records(split, flags.split):
            raise ConfigError(
                f"{name} was trained on split {split} of {dataset}; score it on another"
            )
    if flags.noise is not None and same_data(noise.get("dataset"), flags.noise):
        raise ConfigError(
            f"{name} was trained on the noise of {flags.noise}; give another"
        )


def share_records(one, other):
    """Whether two splits are the same, or one is a part of the other.

    Two parts, such as train[:60%] and train[60%:], are taken as the user names them.
    """
    if one == other:
        return True
    return f"{one}".startswith(f"{other}[") or f"{other}".startswith(f"{one}[")


def source_of(dataset, pickers):
    """How records are made or read, as `picking_windows.records` takes it.

    Raises:
        ConfigError: two models were trained on different data of that name.
    """
    found: dict = {}
    synthetic = dataset == ground_motions.SYNTHETIC
    names = ("synthetic", "instruments") if synthetic else ("reader",)
    for name, picker in pickers.items():
        about = picker.about
        data = about.get("dataset"), (about.get("second") or {}).get("dataset")
        if not any(same_data(one, dataset) for one in data):
            continue
        told = {field: about.get(field) for field in names}
        if found and told != next(iter(found.values())):
            raise ConfigError(
                f"{name} and {next(iter(found))} were trained on different "
                f"{dataset} (fields {', '.join(names)}); give each a table of its own"
            )
        found[name] = told
    source: dict[str, Any] = next(iter(found.values()), {"instruments": True})
    if not synthetic:
        return {"reader": source.get("reader")}
    fields = {**waveforms.LOCAL, **(source.get("synthetic") or {})}
    clean = fields["noise"] is None
    instruments = make_instruments(source["instruments"]) if clean else None
    return {"synthetic": fields, "instruments": instruments}


def records(flags, source, split):
    """Yields the records of a split, and windows of noise where they are asked for.

    Args:
        flags: of the command line.
        source: of `source_of`.
        split: of the data set; that which is scored gets the second half of the noise.
    """
    rate = None
    for window in picking_windows.records(
        flags.dataset, split, limit=flags.limit, data_dir=flags.data_dir, **source
    ):
        rate = window.sampling_rate
        yield window
    if flags.noise is not None and rate is not None:
        half = int(split == flags.split)
        yield from picking_windows.noise_windows(flags.noise, rate, half)
