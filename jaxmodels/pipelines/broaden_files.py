"""From a record of a user to the input of a model, and from its samples to files.

Shapes use T samples, C components, M samples (draws) of one record.
"""

import csv
import dataclasses
import json
import os
import pathlib
import tempfile
from typing import Any, NamedTuple

import numpy as np

from jaxmodels.data import broadband, seismic_records
from jaxmodels.data.records import first_line
from jaxmodels.data.seismic_records import optional
from jaxmodels.metrics import ground_motion
from jaxmodels.pipelines import broaden_figure, broaden_units
from jaxmodels.pipelines import broaden_formats as formats
from jaxmodels.train.errors import ConfigError, StorageError

MAX_SAMPLES = 100  # location codes have two digits
LOW_PASS = "low-pass"
SUFFIXES = ("json", "csv", "md", "mseed", "npz", "png")  # the description first
CODES = {"network": 2, "station": 5, "channel": 3}  # characters that miniSEED holds


class Case(NamedTuple):
    """One record, ready for a model.

    Attributes:
        record: `formats.Record` as it was read.
        low_passed: [T, C] at the model's rate, m/s^2.
        observed: the broadband record [T, C] in the same form; None where unknown.
        notes: lines about what was done to it.
    """

    record: formats.Record
    low_passed: np.ndarray
    observed: np.ndarray | None
    notes: list[str]


def embedded(name, station=None):
    """Records that come with the package, such as "ridgecrest".

    Raises:
        ConfigError: there is no such station.
    """
    found = seismic_records.embedded(name)
    stations = [one["station"] for one in found]
    path = str(seismic_records.recording(name))
    if station is not None and station not in stations:
        raise ConfigError(f"{name} has no {station}; it has {', '.join(stations)}")
    return [
        formats.Record(
            name=one["station"],
            waveform=np.asarray(one["waveform"], np.float64),
            sampling_rate=one["sampling_rate"],
            components=formats.ORDER,
            units="m/s^2",
            network=one["station"].partition(".")[0],
            station=one["station"].partition(".")[2],
            location="",
            channels=tuple(f"HN{letter}" for letter in formats.ORDER),
            start=formats.nanoseconds(one["start"]) if "start" in one else None,
            files=(path,),
        )
        for one in found
        if station in (None, one["station"])
    ]


def prepare(record, preprocessing, corner, *, lowpassed=False, **units):
    """Makes the input of a model, as its training data were made.

    Args:
        record: `formats.Record`.
        preprocessing: of the model.
        corner: Hz.
        lowpassed: the record has that corner already.
        units: as in `broaden_units.acceleration`.

    Returns:
        `Case`.

    Raises:
        ConfigError: the record does not suit the model.
    """
    own = dataclasses.replace(preprocessing, corner=corner)
    if own.channels > 1 and record.components != formats.ORDER:
        raise ConfigError(
            f"{len(record.components)} component(s), {', '.join(record.components)}, "
            f"and the model reads {own.channels}, {', '.join(formats.ORDER)}; give the "
            "others as well, or a --checkpoint of one component"
        )
    rate = record.sampling_rate
    try:
        broadband.check_waveform(record.waveform)
        broadband.check_window(len(record.waveform), rate, own)
        waveform, text = broaden_units.acceleration(record, **units)
        waveform = broadband.resample(waveform, rate, own.sampling_rate)
        prepared = own.prepare(waveform)
    except ConfigError:
        raise
    except ValueError as error:
        letters = ", ".join(record.components)
        raise ConfigError(f"{error} (components {letters})") from None
    notes = [
        f"{len(record.components)} component(s) {record.components}, "
        f"{len(record.waveform) / rate:g} s at {rate:g} Hz, {text}",
        *record.notes,
    ]
    if rate != own.sampling_rate:
        notes.append(f"resampled from {rate:g} to {own.sampling_rate:g} Hz")
    if record.start is None:
        notes.append("the start is unknown, so miniSEED begins in 1970")
    if lowpassed:
        _check_lowpassed(prepared, own, corner)
        return Case(record, prepared, None, notes)
    low_passed = np.asarray(own.low_pass(prepared, corner))
    known = min(own.band[1], own.sampling_rate / 2)
    if rate < own.sampling_rate and rate / 2 < known:
        notes.append(
            f"nothing was recorded above {rate / 2:g} Hz, so the samples are compared "
            "with nothing"
        )
        return Case(record, low_passed, None, notes)
    return Case(record, low_passed, prepared, notes)


def _check_lowpassed(waveform, preprocessing, corner):
    """Raises where a record that should be low-passed is not."""
    spectrum = np.square(np.abs(np.fft.rfft(waveform, axis=0)))
    frequency = np.fft.rfftfreq(len(waveform), 1 / preprocessing.sampling_rate)
    share = spectrum[frequency > 2 * corner].sum() / spectrum.sum()
    if share > 0.01:
        raise ConfigError(
            f"--lowpassed, but {100 * share:.0f} % of the energy is above "
            f"{2 * corner:g} Hz, twice the corner; leave it out, or give the record's "
            "own --corner"
        )


def measured(case, samples, sampling_rate, corner, *, order=4, causal=False):
    """Scores of the low-pass record and of each sample, {row: {measure: number}}.

    See `ground_motion.measures`. Empty where the broadband record is unknown.
    """
    if case.observed is None:
        return {}
    rows = {LOW_PASS: case.low_passed}
    rows |= {f"{m:02d}": sample for m, sample in enumerate(samples)}
    periods = broaden_figure.periods_of(sampling_rate, len(case.observed))
    known = ground_motion.features(
        case.observed, sampling_rate, corner, periods=periods
    )
    return {
        name: ground_motion.measures(
            waveform,
            case.observed,
            case.low_passed,
            sampling_rate,
            corner,
            order=order,
            causal=causal,
            observed_features=known,
        )
        for name, waveform in rows.items()
    }


def table(scores, names=None):
    """Lines of a Markdown table: the low-pass record, mean and spread of samples.

    Args:
        scores: of `measured`.
        names: measures, those among them that there are; all when omitted.
    """
    drawn = [row for name, row in scores.items() if name != LOW_PASS]
    yield f"| measure | {LOW_PASS} | mean of {len(drawn)} | standard deviation |"
    yield "|---|---:|---:|---:|"
    for measure, value in scores[LOW_PASS].items():
        if names is not None and measure not in names:
            continue
        values = np.array([row[measure] for row in drawn], np.float64)
        cells = value, values.mean(), values.std()
        yield f"| {measure} | " + " | ".join(f"{x:.3f}" for x in cells) + " |"


def writes_miniseed():
    """Whether ObsPy is there."""
    try:
        optional("obspy")
    except ConfigError:
        return False
    return True


def check_codes(record):
    """Raises `ConfigError` where codes of a record do not fit into miniSEED."""
    codes = [("network", record.network), ("station", record.station)]
    codes += [("channel", channel) for channel in record.channels]
    for kind, code in codes:
        if len(code) > CODES[kind] or not code.isascii():
            raise ConfigError(
                f"the {kind} code {code!r} does not fit into miniSEED, which holds "
                f"{CODES[kind]} ASCII characters; shorten it in the file"
            )


def check_folder(folder):
    """Raises `ConfigError` where no folder can be, before anything is computed."""
    folder = pathlib.Path(folder)
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise ConfigError(f"output {folder} is a file, not a folder; name another")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"output {folder} may not be written to; name another")


def write(folder, name, case, samples, sampling_rate, corner, scores, provenance):
    """Writes all files of a record, each whole or not at all; miniSEED with ObsPy only.

    Files of that name and kind that are there are deleted.

    Args:
        folder: made where it is missing.
        name: of the files.
        case: `Case`.
        samples: float32 [M, T, C].
        sampling_rate, corner: Hz.
        scores: of `measured`.
        provenance: JSON-able; the names of the files are added to it.

    Returns:
        Their paths.

    Raises:
        ConfigError: miniSEED cannot hold the record's codes.
        StorageError: a file cannot be written.
    """
    folder = pathlib.Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".unfinished-") as made:
            base = pathlib.Path(made) / name
            _write_npz(f"{base}.npz", case, samples, sampling_rate, corner)
            if writes_miniseed():
                _write_mseed(f"{base}.mseed", case.record, samples, sampling_rate)
            broaden_figure.draw(
                f"{base}.png",
                low_passed=case.low_passed,
                samples=samples,
                sampling_rate=sampling_rate,
                observed=case.observed,
                title=f"{name}, low-pass {corner:g} Hz",
                components=list(case.record.components),
            )
            if scores:
                _write_scores(base, scores)
            files = sorted(os.listdir(made))
            content = {**provenance, "files": files}
            text = json.dumps(content, indent=2, sort_keys=True, allow_nan=False)
            pathlib.Path(f"{base}.json").write_text(text + "\n")
            # What an earlier run of other flags left is no part of this record. The
            # description goes first and comes last: where it is, all else is.
            for suffix in SUFFIXES:
                (folder / f"{name}.{suffix}").unlink(missing_ok=True)
            files = [*files, f"{name}.json"]
            for file in files:
                os.replace(pathlib.Path(made) / file, folder / file)
    except OSError as error:
        raise StorageError(
            f"{folder} cannot be written: {error.strerror or error}"
        ) from None
    return [folder / file for file in files]


def _write_npz(path, case, samples, sampling_rate, corner):
    record = case.record
    arrays = {
        "samples": samples,
        "low_passed": np.asarray(case.low_passed, np.float32),
        "sampling_rate": np.float64(sampling_rate),
        "corner": np.float64(corner),
        "units": "m/s^2",
        "components": record.components,
        "network": record.network,
        "station": record.station,
        "location": record.location,
        "channels": np.array(record.channels),
    }
    if case.observed is not None:
        arrays["observed"] = np.asarray(case.observed, np.float32)
    if record.start is not None:
        arrays["starttime"] = formats.time_text(record.start)
    stored: dict[str, Any] = {name: np.asarray(x) for name, x in arrays.items()}
    np.savez(path, **stored)


def _write_mseed(path, record, samples, sampling_rate):
    obspy = optional("obspy")
    start = obspy.UTCDateTime(ns=record.start or 0)
    traces = []
    for index, sample in enumerate(samples):
        for channel, column in zip(record.channels, sample.T, strict=True):
            header = dict(
                network=record.network,
                station=record.station,
                location=f"{index:02d}",
                channel=channel,
                starttime=start,
                sampling_rate=sampling_rate,
            )
            column = np.ascontiguousarray(column, np.float32)
            traces.append(obspy.Trace(column, header))
    try:
        obspy.Stream(traces).write(path, format="MSEED", encoding="FLOAT32")
    except ValueError as error:
        raise ConfigError(
            f"{record.network}.{record.station} cannot be written as miniSEED: "
            f"{first_line(error)}"
        ) from None


def _write_scores(base, scores):
    names = list(scores[LOW_PASS])
    with open(f"{base}.csv", "w", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(["sample", *names])
        for row, values in scores.items():
            lines.writerow([row, *(f"{values[name]:.6g}" for name in names)])
    pathlib.Path(f"{base}.md").write_text("\n".join(table(scores)) + "\n")
