"""Scores systems that broaden low-pass records on windows whose truth is known.

`evaluate` measures every sample of every system, `combine` puts evaluations of several
test sets together, `write` leaves a table, all numbers and figures in a folder.

Shapes use T samples, C components, M samples of one record, R records, K frequencies,
P periods.
"""

import dataclasses
import json
import time
from typing import Any

import numpy as np
from etils import epath

from jaxmodels.metrics import ground_motion, spectra
from jaxmodels.pipelines import broaden_figure, broaden_score_figures
from jaxmodels.pipelines.broaden_score_summary import summarize
from jaxmodels.pipelines.broaden_score_table import table
from jaxmodels.train.errors import ConfigError, StorageError

TABLE, NUMBERS = "table.md", "scores.json"
FAS_FIGURE, PSA_FIGURE = "fas_bias.png", "psa_residual.png"
EXAMPLE_FIGURE = "example.png"
REPORT_SECONDS = 5.0
DIGITS = 5  # that the numbers keep


@dataclasses.dataclass(frozen=True)
class Settings:
    """How an evaluation is made; a config pins it.

    Args:
        seed: of the first record; the next one adds 1. All systems get the same.
        spread_period: of the PSA whose ensemble spread is compared with its error, s.
        order, causal: of the low-pass that made the conditions.
        example: index of the record in the figure.
    """

    seed: int = 0
    spread_period: float = 0.2
    order: int = 4
    causal: bool = False
    example: int = 0


@dataclasses.dataclass
class Evaluation:
    """What `evaluate` measures.

    Args:
        settings: as it was made.
        sampling_rate: Hz, of all windows.
        frequencies: [K] of the Fourier amplitude spectra, Hz.
        periods: [P] of the response spectra, s.
        log_spectra: R times [K], ln Fourier amplitudes observed.
        systems: {name: R records}, each with `name`, `event`, `corner`, `measures`
            {name: [M]} and `fas`, ln residuals [M, K].
        example: the record of the figure, with the samples of each system.
    """

    settings: Settings
    sampling_rate: float
    frequencies: np.ndarray
    periods: np.ndarray
    log_spectra: list
    systems: dict[str, list[dict]]
    example: dict


def evaluate(windows, systems, settings=None, *, report=print):
    """Measures every sample of every system on every window.

    Args:
        windows: iterable of (name, event, observed [T, C], condition [T, C], corner in
            Hz, sampling rate in Hz), accelerations in m/s^2, all of one length and
            rate.
        systems: {name: function of (condition, seed) to samples [M, T, C]}.
        settings: `Settings`.
        report: takes a line of progress now and then.

    Returns:
        An `Evaluation`.

    Raises:
        ConfigError: there is no window or system, windows differ in length or rate, the
            period is not among those of a window, or samples cannot be compared.
    """
    settings = settings or Settings()
    if not systems:
        raise ConfigError("there is no system to score; name at least one")
    result = None
    shape: tuple = ()
    began = said = time.monotonic()
    for index, window in enumerate(windows):
        name, event, observed, condition, corner, rate = window
        observed = np.asarray(observed, np.float64)
        condition = np.asarray(condition, np.float64)
        if result is None:
            shape = observed.shape
            result = _empty(settings, systems, shape, rate)
        if (observed.shape, rate) != (shape, result.sampling_rate):
            raise ConfigError(
                f"{name} has shape {observed.shape} at {rate:g} Hz, those before it "
                f"{shape} at {result.sampling_rate:g} Hz; cut and resample all alike"
            )
        truth = _features(name, observed, rate, corner, result)
        result.log_spectra.append(truth["ln_spectrum"])
        made = {}
        for system, sample in systems.items():
            made[system] = _sample(system, sample, name, condition, settings, index)
            scores = _score(system, made[system], window, truth, settings)
            result.systems[system].append(scores)
        if index == settings.example or not result.example:
            result.example = {
                "name": str(name),
                "observed": observed,
                "low_passed": condition,
                "samples": made,
            }
        if time.monotonic() - said > REPORT_SECONDS:
            said = time.monotonic()
            report(f"scored {index + 1} records in {said - began:.0f} s, last {name}")
    if result is None:
        raise ConfigError("there is no window to score; choose another split")
    count = len(result.log_spectra)
    report(
        f"scored {count} records by {len(systems)} systems in "
        f"{time.monotonic() - began:.0f} s"
    )
    return result


def combine(evaluations):
    """One evaluation of the records of all, such as the folds of a split.

    Raises:
        ConfigError: their systems, frequencies, periods or settings differ.
    """
    first, *others = evaluations
    systems = {name: list(records) for name, records in first.systems.items()}
    log_spectra = list(first.log_spectra)
    for other in others:
        same = (
            list(other.systems) == list(systems)
            and other.settings == first.settings
            and np.array_equal(other.frequencies, first.frequencies)
            and np.array_equal(other.periods, first.periods)
        )
        if not same:
            raise ConfigError(
                "evaluations with other systems, settings, window lengths or rates "
                "cannot be combined; make them alike"
            )
        log_spectra += other.log_spectra
        for name, records in other.systems.items():
            systems[name] += records
    return dataclasses.replace(first, systems=systems, log_spectra=log_spectra)


def content(result):
    """What `scores.json` holds: summaries, and of each record every measure.

    Of a measure of several samples there is the mean and, in `spread`, the standard
    deviation.
    """
    return _rounded(
        {
            "settings": dataclasses.asdict(result.settings),
            "sampling_rate": result.sampling_rate,
            "frequencies": result.frequencies,
            "periods": result.periods,
            "summaries": summarize(result),
            "records": {
                system: [_record(record) for record in records]
                for system, records in result.systems.items()
            },
        }
    )


def _record(record):
    entry = {
        "name": record["name"],
        "event": record["event"],
        "corner": record["corner"],
        "measures": {k: v.mean() for k, v in record["measures"].items()},
        "fas": record["fas"].mean(axis=0),
    }
    if len(record["fas"]) > 1:
        entry["spread"] = {
            k: v.std(ddof=1) if np.isfinite(v).all() else None
            for k, v in record["measures"].items()
        }
    return entry


def write(folder, result, *, title, notes=(), components=None, system=None):
    """Writes `table.md`, `scores.json` and the figures.

    Args:
        folder: is made where it is not there.
        result: an `Evaluation`.
        title: heading of the table.
        notes: lines below it: data, model, command.
        components: C names; Z, N, E for three, numbers otherwise.
        system: whose samples the example shows; the last one when omitted.

    Returns:
        The text of the table.

    Raises:
        ConfigError: there is no such system.
        StorageError: a file cannot be written.
    """
    system = list(result.systems)[-1] if system is None else system
    if system not in result.systems:
        known = ", ".join(result.systems)
        raise ConfigError(f"no system {system!r} was scored; choose of {known}")
    folder = epath.Path(folder)
    summaries = summarize(result)
    text = table(summaries, result.settings.spread_period, title=title, notes=notes)
    _write(folder / TABLE, text)
    _write(folder / NUMBERS, json.dumps(content(result), ensure_ascii=False) + "\n")
    corners = [record["corner"] for record in next(iter(result.systems.values()))]
    figures = (
        (FAS_FIGURE, "fas", result.frequencies, min(corners)),
        (PSA_FIGURE, "psa", result.periods, None),
    )
    for name, key, places, corner in figures:
        curves = {label: summary[key] for label, summary in summaries.items()}
        figure = broaden_score_figures.residuals(curves, places, key, corner=corner)
        broaden_figure.save(figure, folder / name)
    channels = result.example["observed"].shape[1]
    numbers = [str(index + 1) for index in range(channels)]
    broaden_figure.draw(
        folder / EXAMPLE_FIGURE,
        low_passed=result.example["low_passed"],
        samples=result.example["samples"][system],
        observed=result.example["observed"],
        sampling_rate=result.sampling_rate,
        title=f"{result.example['name']}: {system}",
        components=components or (list("ZNE") if channels == 3 else numbers),
    )
    return text


def _empty(settings, systems, shape, rate):
    if len(shape) != 2:
        raise ConfigError(f"windows must be [length, components], not {list(shape)}")
    periods = broaden_figure.periods_of(rate, shape[0])
    if not np.isclose(periods, settings.spread_period).any():
        raise ConfigError(
            f"spread_period {settings.spread_period:g} s is not among the periods of "
            f"these windows: {', '.join(f'{t:g}' for t in periods)}"
        )
    return Evaluation(
        settings=settings,
        sampling_rate=float(rate),
        frequencies=spectra.resolved_centers(shape[0], rate),
        periods=periods,
        log_spectra=[],
        systems={name: [] for name in systems},
        example={},
    )


def _features(name, observed, rate, corner, result):
    try:
        return ground_motion.features(
            observed, rate, corner, periods=result.periods, centers=result.frequencies
        )
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from None


def _sample(system, sample, name, condition, settings, index):
    samples = np.asarray(sample(condition, settings.seed + index), np.float64)
    if samples.ndim != 3 or samples.shape[1:] != condition.shape or not len(samples):
        raise ConfigError(
            f"{system} made {samples.shape} of {name}; its samples must be [M, T, C] "
            f"with [T, C] = {condition.shape}"
        )
    return samples


def _score(system, samples, window, truth, settings):
    """The entry of one record in `Evaluation.systems`."""
    name, event, observed, condition, corner, rate = window
    rows: list[dict[str, Any]] = []
    fas = []
    for sample in samples:
        try:
            row = ground_motion.measures(
                sample,
                observed,
                condition,
                rate,
                corner,
                order=settings.order,
                causal=settings.causal,
                observed_features=truth,
            )
        except ValueError as error:
            raise ConfigError(f"{system} on {name}: {error}") from None
        rows.append(row)
        spectrum = spectra.smoothed_spectrum(sample, rate, truth["centers"])
        fas.append(np.log(spectrum) - truth["ln_spectrum"])
    return {
        "name": str(name),
        "event": str(event),
        "corner": float(corner),
        "measures": {key: np.array([row[key] for row in rows]) for key in rows[0]},
        "fas": np.stack(fas),
    }


def _rounded(value):
    """With lists for arrays, few digits, and None for what is not finite."""
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_rounded(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None
    return value


def _write(path, text):
    """Whole or not at all."""
    unfinished = path.parent / f".{path.name}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(text)
        unfinished.replace(path)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error}") from None
