"""Windows of seismograms as input: unlabeled, with their arrivals, or with a class.

The first call on a machine builds the data set and stores its records, later ones open
them. Any number of processes may make the first call at once.

Shapes use B batch, N samples of a window, C components.
"""

import dataclasses
import functools

from absl import logging

from jaxmodels.data import builder, ground_motions, pipeline
from jaxmodels.data.drawn_windows import Windows
from jaxmodels.data.instruments import make_instruments
from jaxmodels.data.pick_labels import check_labels
from jaxmodels.data.records import policy_errors
from jaxmodels.data.waveform_augmentations import make_waveform_augmentation
from jaxmodels.data.waveform_rows import EventRows, MixedRows, PickRows, WaveformRows
from jaxmodels.data.waveform_sources import (
    WaveformSource,
    chosen_records,
    section,
    subset,
)
from jaxmodels.data.waveform_store import StoredWaveforms
from jaxmodels.data.waveform_windows import SHARED, WindowPreprocessing
from jaxmodels.train.errors import ConfigError

# Small earthquakes nearby, S 0.3 to 15 s after P, in rock from torn to firm.
LOCAL = dict(
    stations=1,
    magnitude=(0.0, 4.5),
    distance=(2.5, 125.0),
    seconds=45.0,
    noise=None,
    waves="varied",
    regions=((60, 0.06), (120, 0.04), (180, 0.03), (400, 0.015), (800, 0.005)),
)
# Two classes of events that differ in attenuation alone, well recorded.
CLASSES = dict(
    magnitude=(2.5, 4.5),
    distance=(5.0, 60.0),
    noise=None,
    regions=((120, 0.045), (180, 0.03)),
)
FAITHFUL = dict(kinds=("broadband",), snr=(20.0, 60.0), lowpassed=0.0, quantized=0.0)


def waveform_data(
    dataset,
    *,
    sampling_rate,
    num_samples,
    batch_size,
    channels=3,
    train_split="train",
    eval_split="validation",
    num_eval_batches=None,
    seed=0,
    normalization="std",
    per_component=True,
    fill="zeros",
    highpass=None,
    augment=True,
    instruments=True,
    second=None,
    noise=None,
    synthetic=None,
    reader=None,
    on_bad_record="stop",
    max_bad_fraction=0.001,
    data_dir=None,
    cache_dir=None,
):
    """Windows of seismograms, for a model that learns without labels.

    Args:
        dataset: "synthetic_motions"; "ridgecrest" or "napa", the real records of the
            package; or a folder of SeisBench files or of miniSEED files, written with
            a leading `/`, `./`, `../` or `~`.
        sampling_rate, num_samples, channels, normalization, per_component, fill,
            highpass: see `waveform_windows.WindowPreprocessing`.
        batch_size: windows of a global batch.
        train_split, eval_split: of the data set, or parts such as "train[:80%]"; of the
            package's records, stations (see `seismic_records.EmbeddedRecords`).
        num_eval_batches: at most so many, of windows spread evenly; None for all.
        seed: of the order of the rows and of what is random in them.
        augment: whether training varies the windows, or fields of
            `WaveformAugmentation`.
        instruments: how synthetic records without noise are written, in training as in
            evaluation: fields of `Instruments`; False leaves them as they are.
        second: another data set to train on: dict(dataset=..., share=0.5,
            train_split="train", eval_split=None); with an `eval_split`, evaluation is
            on that split of it instead.
        noise: real noise: dict(dataset=..., share=0.3, train_split="train"), of which
            the records' part before P is taken, or an npz file of recordings; the
            share is of the noise of records that have none, and noise alone is a
            window of its own at times.
        synthetic: fields of `SyntheticMotions`; those of `LOCAL` unless said.
        reader: fields of `record_folders.Reader`, for folders.
        on_bad_record, max_bad_fraction: see `jaxmodels.data.records`.
        data_dir: folder of TFDS data sets, see `builder.data_directory`.
        cache_dir: local folder for stored records; `data_dir` when omitted.

    Returns:
        `Data` with the arrays of `WaveformRows.batch`.

    Raises:
        BadRecordError: see `jaxmodels.data.records`.
        ConfigError: an argument is impossible, there is no such data, or the splits
            share an event.
        StorageError: the disk is full, or a cache is damaged.
    """
    return _data(dict(locals()), WaveformRows, LOCAL)


def pick_data(
    dataset,
    *,
    sampling_rate,
    num_samples,
    batch_size,
    channels=3,
    sigma=20.0,
    shape="gaussian",
    num_train=None,
    min_snr=None,
    train_split="train",
    eval_split="validation",
    num_eval_batches=None,
    seed=0,
    normalization="std",
    per_component=True,
    fill="zeros",
    highpass=None,
    augment=True,
    instruments=True,
    second=None,
    noise=None,
    synthetic=None,
    reader=None,
    on_bad_record="stop",
    max_bad_fraction=0.001,
    data_dir=None,
    cache_dir=None,
):
    """Windows of seismograms with the probability of P, S and noise at each sample.

    Args:
        sigma, shape: see `pick_labels.pick_labels`.
        num_train: at most so many records to train on, of `dataset`. They are the first
            of an order that the seed sets, so that fewer are some of more.
        min_snr: dB; records of which P is less above the noise before it, vertical and
            above 1 Hz, are left out. None keeps all.
        dataset, ...: others as in `waveform_data`; records without arrivals are left
            out.

    Returns:
        `Data` with the arrays of `PickRows.batch`.

    Raises:
        BadRecordError, ConfigError, StorageError: see `waveform_data`.
    """
    given = dict(locals())
    labels = {"sigma": given.pop("sigma"), "shape": given.pop("shape")}
    check_labels(**labels)
    choice = {"num_train": given.pop("num_train"), "min_snr": given.pop("min_snr")}
    make = functools.partial(PickRows, **labels)
    return _data(given, make, LOCAL, picks=True, stated=labels | choice, **choice)


def event_data(
    dataset,
    *,
    sampling_rate,
    num_samples,
    batch_size,
    num_classes=2,
    label="region",
    channels=3,
    num_train=None,
    train_split="train",
    eval_split="validation",
    num_eval_batches=None,
    seed=0,
    normalization="std",
    per_component=True,
    fill="zeros",
    highpass=None,
    augment=True,
    instruments=True,
    second=None,
    noise=None,
    synthetic=None,
    reader=None,
    on_bad_record="stop",
    max_bad_fraction=0.001,
    data_dir=None,
    cache_dir=None,
):
    """Windows of seismograms with the class of the event.

    Of synthetic records, classes are the regions: events that differ in attenuation.

    Args:
        num_classes: of the model; as many as there are labels, or more.
        label: "region" of synthetic records, or of a SeisBench folder a column of its
            metadata. The classes are its values in order.
        num_train: see `pick_data`.
        instruments: as in `waveform_data`; True stands for `FAITHFUL`.
        synthetic: fields of `SyntheticMotions`; those of `CLASSES` unless said.
        dataset, ...: others as in `waveform_data`.

    Returns:
        `Data` with the arrays of `EventRows.batch`.

    Raises:
        BadRecordError, ConfigError, StorageError: see `waveform_data`.
    """
    given = dict(locals())
    stated = {"label": given.pop("label"), "num_classes": given.pop("num_classes")}
    choice = {"num_train": given.pop("num_train")}
    if given["instruments"] is True:
        given["instruments"] = FAITHFUL
    if builder.is_path(dataset):
        given["reader"] = {**(reader or {}), "label": label}
    elif label != "region":
        raise ConfigError(
            f"label {label!r}: of {dataset} it is region; another is a column of the"
            " metadata of a SeisBench folder"
        )
    # A class is that of one event, and of all of it.
    vary = {"superpose": 0.0, "noise_only": 0.0}
    if augment:
        given["augment"] = vary | ({} if augment is True else dict(augment))
    classes: dict[str, int] = {}

    def make(windows):
        if not classes:  # training comes first
            classes.update(_classes(windows, label, num_classes))
        found = {windows.labels(row)[3] for row in range(len(windows))}
        unknown = sorted(found - set(classes))
        if unknown:
            raise ConfigError(
                f"{label} {unknown[0]!r} of {dataset} is none of the classes to train"
                f" on, {', '.join(classes)}"
            )
        return EventRows(windows, dict(classes))

    return _data(given, make, CLASSES, whole=True, stated=stated | choice, **choice)


def _classes(windows, label, num_classes):
    """Label -> class, of the labels of windows."""
    labels = {windows.labels(row)[3] for row in range(len(windows))}
    number = all(one.lstrip("-").isdigit() for one in labels)
    ordered = sorted(labels, key=int if number else str)
    if len(ordered) < 2 or len(ordered) > num_classes:
        raise ConfigError(
            f"{label} has {len(ordered)} value(s), such as {ordered[0]!r}, for a model"
            f" of {num_classes} classes; name a label with 2 to {num_classes}"
        )
    return {one: place for place, one in enumerate(ordered)}


def _data(given, make_rows, usual, *, whole=False, stated=None, **choice):
    """`Data` of the arguments of `waveform_data`.

    Args:
        given: those arguments by name.
        make_rows: `Windows` -> rows; called for the rows to train on first.
        usual: fields of `SyntheticMotions`.
        whole: see `Windows`.
        stated: what else the preprocessing of the run says.
        choice: see `_rows`.
    """
    _check(given, choice.get("num_train"))
    preprocessing = _of_fields(WindowPreprocessing, given)
    fields = {**usual, **(given["synthetic"] or {})}
    source = _of_fields(
        WaveformSource, {**given, "preprocessing": preprocessing, "fields": fields}
    )
    noise, noise_share = source.noise(given["noise"])
    windows = functools.partial(
        Windows,
        preprocessing=preprocessing,
        instruments=make_instruments(given["instruments"]),
        noise=noise,
        noise_share=noise_share,
        whole=whole,
        seed=given["seed"],
    )
    augmentation = make_waveform_augmentation(given["augment"])
    second = given["second"]
    if second is not None:
        usual_second = {"share": 0.5, "train_split": "train", "eval_split": None}
        second = section("second", second, **usual_second)
    train, held_out = _rows(
        given, source, windows, make_rows, augmentation, second, **choice
    )
    logging.info("%d windows an epoch, %d held out", len(train), len(held_out))
    synthetic = ground_motions.SYNTHETIC in (
        given["dataset"],
        (second or {}).get("dataset"),
    )
    data = pipeline.batched(
        train,
        held_out,
        batch_size=given["batch_size"],
        num_eval_batches=given["num_eval_batches"],
        seed=given["seed"],
        unit="windows",
        preprocessing={
            **preprocessing.to_json(),
            "dataset": str(given["dataset"]),
            "splits": {"train": given["train_split"], "eval": given["eval_split"]},
            "synthetic": fields if synthetic else None,
            "reader": given["reader"] and dict(given["reader"]),
            "second": second,
            "noise": given["noise"] and dict(given["noise"]),
            "instruments": _listed(windows.keywords["instruments"]),
            "augment": _listed(augmentation),
            **(stated or {}),
        },
        baselines={},
    )
    return data._replace(shared=SHARED)


def _rows(
    given,
    source,
    windows,
    make_rows,
    augmentation,
    second,
    picks=False,
    num_train=None,
    min_snr=None,
):
    """The rows to train on, and those held out.

    Args:
        windows: makes `Windows`.
        second: the section, with all of its entries, or None.
        picks: whether records without arrivals are left out.
        num_train, min_snr: see `pick_data`.
    """
    kept: dict[tuple, StoredWaveforms] = {}

    def rows_of(dataset, split, limit=None, augmentation=None):
        stored = source.stored(dataset, split)
        kept[dataset, split] = stored
        chosen = chosen_records(stored, picks, min_snr)
        if limit is not None:
            chosen = subset(stored, chosen, limit, given["seed"])
        return make_rows(windows(stored, chosen, augmentation=augmentation))

    dataset, train_split = given["dataset"], given["train_split"]
    train = rows_of(dataset, train_split, num_train, augmentation)
    eval_split = given["eval_split"]
    if second is not None:
        other = second["dataset"], second["train_split"]
        more = rows_of(*other, augmentation=augmentation)
        train = MixedRows(train, more, second["share"])
        if second["eval_split"] is not None:
            (dataset, train_split), eval_split = other, second["eval_split"]
    held_out = rows_of(dataset, eval_split)
    both = {split: kept[dataset, split] for split in (train_split, eval_split)}
    ground_motions.check_disjoint(dataset, train_split, eval_split, both)
    return train, held_out


def _of_fields(kind, given):
    """A dataclass of those entries of a dict that are its fields."""
    return kind(**{field.name: given[field.name] for field in dataclasses.fields(kind)})


def _listed(options):
    """The fields of a dataclass as JSON has them; None of None."""
    if options is None:
        return None
    fields = dataclasses.asdict(options)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}


def _check(given, num_train):
    errors = policy_errors(given["on_bad_record"], given["max_bad_fraction"])
    numbers = {name: given[name] for name in ("batch_size", "num_eval_batches")}
    numbers["num_train"] = num_train
    errors += [
        f"{name} is {value}, not at least 1"
        for name, value in numbers.items()
        if value is not None and value < 1
    ]
    if errors:
        raise ConfigError("; ".join(errors))
