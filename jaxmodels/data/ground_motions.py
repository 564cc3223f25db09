"""Ground motion as input of a model that broadens it, and as it is evaluated.

Shapes use B batch, T samples of a record, N samples of a window, C components.
"""

import dataclasses
import functools
import math
import pathlib
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from jaxmodels.data import builder, pipeline, record_folders, seismic_records
from jaxmodels.data.broadband import Preprocessing, resample
from jaxmodels.data.motion_rows import NO_AUGMENTATION, MotionRows, make_augmentation
from jaxmodels.data.prepared_motions import prepare_motions
from jaxmodels.data.records import policy_errors
from jaxmodels.data.synthetic_motions import SyntheticMotions, prepare_synthetic
from jaxmodels.train.errors import ConfigError

SYNTHETIC = "synthetic_motions"


class Motion(NamedTuple):
    """A record or a window.

    Attributes:
        name: of the record, and of the window where it begins in it.
        event: the event's name.
        waveform: [T, C] or [N, C], in the records' unit.
        sampling_rate: Hz.
    """

    name: str
    event: str
    waveform: np.ndarray
    sampling_rate: float


def ground_motion_data(
    dataset,
    *,
    sampling_rate,
    num_samples,
    channels,
    corner,
    batch_size,
    train_split="train",
    eval_split="validation",
    num_eval_batches=None,
    seed=0,
    amplitude=True,
    augment=True,
    min_snr=3.0,
    order=4,
    band=None,
    causal=False,
    normalization="own_std",
    target="broadband",
    on_bad_record="stop",
    max_bad_fraction=0.001,
    data_dir=None,
    cache_dir=None,
    synthetic=None,
    reader=None,
):
    """Windows of ground motion with their low-pass as the condition.

    The first call on a machine builds the data set and prepares its records, later ones
    open them. Any number of processes may make the first call at once. With one
    component, each record gives three rows.

    Args:
        dataset: "synthetic_motions"; "ridgecrest" or "napa", the real records of the
            package; or a folder of SeisBench files or of miniSEED files, written with
            a leading `/`, `./`, `../` or `~`.
        sampling_rate, num_samples, channels, corner, order, band, causal,
            normalization, target: see `broadband.Preprocessing`.
        batch_size: windows of a global batch.
        train_split, eval_split: of the data set; of the package's records, stations
            (see `seismic_records.EmbeddedRecords`).
        num_eval_batches: at most so many, of windows spread evenly; None for all.
        seed: of the order of the rows and of what is random in them.
        amplitude: whether the model is told the size of the low-pass.
        augment: whether training varies the windows, or fields of `Augmentation`.
        min_snr: see `prepared_motions.prepare_motions`.
        on_bad_record, max_bad_fraction: see `jaxmodels.data.records`.
        data_dir: folder of TFDS data sets, see `builder.data_directory`.
        cache_dir: local folder for prepared records; `data_dir` when omitted.
        synthetic: fields of `SyntheticMotions`; the rate is that of the windows and
            the records are as long as they need to be, unless said.
        reader: fields of `record_folders.Reader`, for folders.

    Returns:
        `Data` with the arrays of `MotionRows.batch`.

    Raises:
        BadRecordError: see `jaxmodels.data.records`.
        ConfigError: an argument is impossible, there is no such data, or the splits
            share an event.
        StorageError: the disk is full, or a cache is damaged.
    """
    errors = policy_errors(on_bad_record, max_bad_fraction)
    numbers = {"batch_size": batch_size}
    if num_eval_batches is not None:
        numbers["num_eval_batches"] = num_eval_batches
    errors += [f"{k} is {v}, not at least 1" for k, v in numbers.items() if v < 1]
    if errors:
        raise ConfigError("; ".join(errors))
    augmentation = make_augmentation(augment)
    reader = record_folders.reader_of(reader, amplitude=amplitude)
    preprocessing = make_preprocessing(
        sampling_rate=sampling_rate,
        num_samples=num_samples,
        channels=channels,
        corner=corner,
        order=order,
        band=band,
        causal=causal,
        normalization=normalization,
        amplitude=amplitude,
        target=target,
    )
    prepared = functools.partial(
        _prepared,
        dataset,
        preprocessing=preprocessing,
        min_snr=min_snr,
        data_dir=data_dir,
        cache_dir=cache_dir,
        synthetic=synthetic,
        reader=reader,
        on_bad_record=on_bad_record,
        max_bad_fraction=max_bad_fraction,
    )
    motions = {split: prepared(split) for split in (train_split, eval_split)}
    check_disjoint(dataset, train_split, eval_split, motions)
    rows = functools.partial(MotionRows, preprocessing=preprocessing, seed=seed)
    train = rows(motions[train_split], augmentation=augmentation)
    held_out = rows(motions[eval_split], augmentation=NO_AUGMENTATION)
    data = pipeline.batched(
        train,
        held_out,
        batch_size=batch_size,
        num_eval_batches=num_eval_batches,
        seed=seed,
        unit="windows",
        preprocessing={
            **preprocessing.to_json(),
            "dataset": str(dataset),
            "splits": {"train": train_split, "eval": eval_split},
            "min_snr": min_snr,
            "synthetic": _synthetic_fields(dataset, synthetic, preprocessing),
            "reader": _reader_fields(dataset, reader),
        },
        baselines={},
    )
    _log_energy(data, len(train), len(held_out))
    return data


def make_preprocessing(*, amplitude=True, **fields):
    """The `Preprocessing` of what `ground_motion_data` is given.

    Raises:
        ConfigError: fields that are impossible or contradict each other.
    """
    return Preprocessing(
        amplitude="std_ratio" if amplitude else None,
        units="m/s^2" if amplitude else "any",
        **fields,
    )


def _log_energy(data, num_train, num_held_out):
    """Logs how much of the motion the condition holds."""
    batch = data.eval(0, 0, 1)
    ratios = batch["amplitude"][batch["weights"] > 0]
    logging.info(
        "%d windows to train on, %d held out; of the energy of those, the low-pass has"
        " %.2g (median)",
        num_train,
        num_held_out,
        np.median(10.0 ** (-2 * ratios)),
    )


def check_disjoint(dataset, train_split, eval_split, motions):
    """Raises `ConfigError` where an event is in both splits.

    The package's records are of one event; there, no station may be in both.

    Args:
        motions: split -> `PreparedMotions`.
    """
    train, held_out = motions[train_split], motions[eval_split]
    if dataset in seismic_records.RECORDINGS:
        what, shared = "station", train.stations & held_out.stations
        logging.warning(
            "%s is one event: %s and %s differ by station, not by event",
            dataset,
            train_split,
            eval_split,
        )
    else:
        what, shared = "event", train.events & held_out.events
    if shared:
        raise ConfigError(
            f"{len(shared)} {what}(s), such as {min(shared)}, are in both {train_split}"
            f" and {eval_split} of {dataset}; name splits without a common {what}"
            + ("" if what == "station" else ', or set reader split_by to "event"')
        )


def _synthetic_fields(dataset, given, preprocessing):
    """All that the synthetic data set is made from; None for any other."""
    if dataset != SYNTHETIC:
        return None
    return dataclasses.asdict(_synthetic_options(given, preprocessing))


def _reader_fields(dataset, reader):
    """How a folder is read; None for any other data set."""
    return dataclasses.asdict(reader) if builder.is_path(dataset) else None


def _synthetic_options(given, preprocessing):
    """`SyntheticMotions` of some of its fields, long enough for the windows."""
    usual: dict[str, Any] = {}
    if preprocessing is not None:
        usual["sampling_rate"] = preprocessing.sampling_rate
        usual["seconds"] = max(30.0, math.ceil(1.25 * preprocessing.seconds))
    try:
        return SyntheticMotions(**{**usual, **(given or {})})
    except TypeError as error:
        names = ", ".join(f.name for f in dataclasses.fields(SyntheticMotions))
        raise ConfigError(f"synthetic {dict(given)}: its fields are {names}") from error


def open_split(
    dataset,
    split,
    *,
    preprocessing=None,
    data_dir=None,
    synthetic=None,
    reader=None,
    **policy,
):
    """The records of a split, and the folder name for what is made of them, or None.

    Args:
        policy: on bad records of a folder, see `record_folders.prepare_folder`.

    Raises:
        BadRecordError: see `jaxmodels.data.records`.
        ConfigError: there is no such data set or split.
    """
    if dataset in seismic_records.RECORDINGS:
        return seismic_records.EmbeddedRecords(dataset, split), None
    if dataset == SYNTHETIC:
        options = _synthetic_options(synthetic, preprocessing)
        prepared = prepare_synthetic(options, data_dir)
    elif builder.is_path(dataset):
        reader = reader or record_folders.Reader()
        prepared = record_folders.prepare_folder(dataset, reader, data_dir, **policy)
    else:
        known = ", ".join((SYNTHETIC, *seismic_records.RECORDINGS))
        raise ConfigError(
            f"no data set {dataset!r} of ground motion; it is one of {known}, or a"
            " folder of SeisBench or miniSEED files, written like ./folder"
        )
    return builder.RecordFiles(prepared, split), prepared.info.full_name


def _prepared(
    dataset,
    split,
    *,
    preprocessing,
    min_snr,
    data_dir,
    cache_dir,
    synthetic,
    reader,
    **policy,
):
    source, folder = open_split(
        dataset,
        split,
        preprocessing=preprocessing,
        data_dir=data_dir,
        synthetic=synthetic,
        reader=reader,
        **policy,
    )
    directory = None
    if folder is not None:
        root = builder.data_directory(cache_dir or data_dir)
        if not builder.is_local(root):
            raise ConfigError(f"{root} is not a local folder: set cache_dir to one")
        directory = pathlib.Path(root) / "prepared" / folder
    return prepare_motions(
        source,
        preprocessing,
        name=f"{folder or dataset} {split}",
        min_snr=min_snr,
        directory=directory,
        **policy,
    )


def prepared_split(
    dataset,
    split,
    preprocessing,
    *,
    min_snr=3.0,
    on_bad_record="stop",
    max_bad_fraction=0.001,
    data_dir=None,
    cache_dir=None,
    synthetic=None,
    reader=None,
):
    """The `PreparedMotions` of a split; arguments as in `ground_motion_data`."""
    return _prepared(
        dataset,
        split,
        preprocessing=preprocessing,
        min_snr=min_snr,
        data_dir=data_dir,
        cache_dir=cache_dir,
        synthetic=synthetic,
        reader=record_folders.reader_of(reader),
        on_bad_record=on_bad_record,
        max_bad_fraction=max_bad_fraction,
    )


def windows(dataset, split, preprocessing, *, limit=None, **source):
    """The fixed windows of a split that a model is evaluated on.

    Each has its onset at 7.5/60 of its length; where they begin depends on the records
    and the window's length alone.

    Args:
        preprocessing: `Preprocessing`.
        limit: at most so many, spread evenly; None for all.
        source: others as in `prepared_split`.

    Yields:
        `Motion` with waveform [N, C], prepared and in the records' unit.
    """
    motions = prepared_split(dataset, split, preprocessing, **source)
    rows = MotionRows(motions, preprocessing)
    for row in pipeline.spread(len(rows), limit).tolist():
        waveform, start = rows.window(row)
        name, event, _ = rows.labels(row)
        seconds = start / preprocessing.sampling_rate
        yield Motion(
            f"{name}+{seconds:.2f}s", event, waveform, preprocessing.sampling_rate
        )


def records(dataset, split, *, sampling_rate=None, limit=None, **source):
    """The records of a split as they are, in their own unit.

    Args:
        sampling_rate: Hz, to resample to; None keeps that of each record.
        limit: at most so many, spread evenly; None for all.
        source: `data_dir`, `synthetic`, `reader` and `preprocessing`, as in
            `open_split`.

    Yields:
        `Motion` with waveform [T, 3].
    """
    found, _ = open_split(dataset, split, **source)
    for index in pipeline.spread(len(found), limit).tolist():
        record = found[index]
        rate = float(record["sampling_rate"])
        waveform = record["waveform"]
        if not len(waveform):  # it could not be read; the name says why
            raise ConfigError(seismic_records.text_of(record["name"]))
        if sampling_rate is not None:
            waveform, rate = resample(waveform, rate, sampling_rate), sampling_rate
        text_of = seismic_records.text_of
        yield Motion(
            text_of(record["name"]), text_of(record["source_id"]), waveform, rate
        )
