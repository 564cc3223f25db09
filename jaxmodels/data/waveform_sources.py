"""Which records the windows of a run are cut from.

Shapes use T samples of a record.
"""

import dataclasses
import hashlib
import pathlib
from typing import Any

import numpy as np

from jaxmodels.data import builder, ground_motions, record_folders
from jaxmodels.data.instruments import above_band, onset_size
from jaxmodels.data.noise_records import noise_of, noise_of_file
from jaxmodels.data.waveform_store import store_waveforms
from jaxmodels.data.waveform_windows import WindowPreprocessing
from jaxmodels.train.errors import ConfigError

QUIET = 2.0  # least seconds before P that tell the noise of a record


@dataclasses.dataclass(frozen=True)
class WaveformSource:
    """Where records are found and kept.

    Attributes:
        preprocessing: `WindowPreprocessing`, of which the rate counts.
        fields: of `SyntheticMotions`.
        reader: fields of `record_folders.Reader`, for folders.
        data_dir, cache_dir, on_bad_record, max_bad_fraction: see
            `waveforms.waveform_data`.
    """

    preprocessing: WindowPreprocessing
    fields: dict[str, Any]
    reader: dict[str, Any] | None = None
    data_dir: str | None = None
    cache_dir: str | None = None
    on_bad_record: str = "stop"
    max_bad_fraction: float = 0.001

    def stored(self, dataset, split, labeled=True):
        """The `StoredWaveforms` of a split.

        Args:
            labeled: whether the label that the reader names, if any, is read.

        Raises:
            BadRecordError, ConfigError, StorageError: see `waveforms.waveform_data`.
        """
        policy = {
            "on_bad_record": self.on_bad_record,
            "max_bad_fraction": self.max_bad_fraction,
        }
        fields = dict(self.reader or {})
        if not labeled:
            fields.pop("label", None)
        records, folder = ground_motions.open_split(
            dataset,
            split,
            preprocessing=self.preprocessing,
            data_dir=self.data_dir,
            synthetic=self.fields,
            reader=record_folders.reader_of(fields, amplitude=False),
            **policy,
        )
        directory = None
        if folder is not None:
            root = builder.data_directory(self.cache_dir or self.data_dir)
            if not builder.is_local(root):
                raise ConfigError(f"{root} is not a local folder: set cache_dir to one")
            directory = pathlib.Path(root) / "prepared" / folder
        return store_waveforms(
            records,
            self.preprocessing.sampling_rate,
            name=f"{folder or dataset} {split}",
            directory=directory,
            **policy,
        )

    def noise(self, given):
        """`NoiseRecords` of a section "noise", and their share; None and 0 of None.

        Raises:
            ConfigError: there is no such noise.
        """
        if given is None:
            return None, 0.0
        given = section("noise", given, share=0.3, train_split="train")
        dataset, rate = given["dataset"], self.preprocessing.sampling_rate
        if str(dataset).endswith(".npz"):
            return noise_of_file(dataset, rate), given["share"]
        stored = self.stored(dataset, given["train_split"], labeled=False)
        return noise_of(stored), given["share"]


def section(name, given, **usual):
    """A section of a config that names a data set, with what it does not say.

    Raises:
        ConfigError: it has other entries, no data set, or an impossible share.
    """
    known = ("dataset", *usual)
    given = dict(given)
    unknown = sorted(set(given) - set(known))
    if unknown or "dataset" not in given:
        what = f"has {unknown[0]!r}" if unknown else "names no dataset"
        raise ConfigError(f"{name} {what}; its entries are {', '.join(known)}")
    given = {**usual, **given}
    if not 0 < given["share"] < 1:
        raise ConfigError(f"{name} share {given['share']} is not between 0 and 1")
    return given


def chosen_records(stored, picked=False, min_snr=None):
    """The records of `StoredWaveforms` that windows are cut from, int64.

    Args:
        picked: whether those without arrivals are left out.
        min_snr: dB, see `waveforms.pick_data`; None leaves none out.

    Raises:
        ConfigError: none is left.
    """
    chosen = np.arange(len(stored))
    if picked:
        chosen = chosen[np.isfinite(stored.arrivals).any(axis=1)]
        if not len(chosen):
            raise ConfigError(
                f"none of the {len(stored)} records, such as {stored.names[0][0]}, has"
                " an arrival of P or S; name data with picks"
            )
    if min_snr is None:
        return chosen
    loud = [index for index in chosen if signal_to_noise(stored, index) >= min_snr]
    if not loud:
        raise ConfigError(
            f"none of the {len(chosen)} records has {min_snr:g} dB; lower min_snr"
        )
    return np.asarray(loud, np.int64)


def signal_to_noise(stored, index):
    """How far the half second after P is above what comes before it, in dB.

    Returns:
        A float, of the first component that moves, above 1 Hz; infinite where there is
        no noise, no P, or too little before it to tell.
    """
    rate, record = stored.sampling_rate, stored.record(index)
    p_sample = stored.arrivals[index, 0]
    if stored.clean[index] or not p_sample >= QUIET * rate or p_sample >= len(record):
        return np.inf
    alive = int((record != record[0]).any(axis=0).argmax())
    trace = above_band(record[:, alive : alive + 1] - record[0, alive], rate)
    p_sample = int(p_sample)
    noise = trace[round(0.5 * QUIET * rate) : p_sample].std()
    with np.errstate(divide="ignore"):
        return 20 * np.log10(onset_size(trace[p_sample:], rate) / noise)


def subset(stored, chosen, limit, seed):
    """At most `limit` of the chosen records, the first of an order that a seed sets.

    The order is that of hashes of the records' names: fewer are some of more, and stay
    the same where there is more data.
    """
    names = [stored.names[index][0] for index in chosen]
    digests = [hashlib.sha256(f"{seed} {name}".encode()).digest() for name in names]
    order = sorted(range(len(names)), key=digests.__getitem__)
    return np.sort(chosen[order[:limit]])
