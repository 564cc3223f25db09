"""The picture of an instrument: waveforms, probabilities and picks, round some events.

Shapes use T samples, C components.
"""

import datetime
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from jaxmodels.pipelines import broaden_figure

COLORS = {"P": "#1f77b4", "S": "#d1495b"}
WAVEFORM = "#333333"
MAX_POINTS = 6000  # of a line; more are drawn as the smallest and largest of groups


class View(NamedTuple):
    """What one column shows.

    Attributes:
        start: of the first sample, seconds since 1970.
        rate: Hz.
        waveform: [T, C], NaN where nothing was recorded.
        probabilities: [T, 3], P, S, noise; NaN where there are none.
        picks: of `pick_results.Pick` in it.
    """

    start: float
    rate: float
    waveform: np.ndarray
    probabilities: np.ndarray
    picks: list


def draw(path, views, *, title, channels, thresholds):
    """Writes the PNG of an instrument, a column for each view.

    Args:
        path: of the PNG.
        views: of `View`, one or more.
        title: above the figure.
        channels: C codes; None for a component that was not recorded.
        thresholds: of P and S.

    Raises:
        StorageError: it cannot be written.
    """
    rows = [place for place, code in enumerate(channels) if code is not None]
    width = 10.0 if len(views) == 1 else 5.0 * len(views) + 1
    figure = Figure(figsize=(width, 1.4 + 1.3 * (len(rows) + 1)), layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(len(rows) + 1, len(views), squeeze=False, sharex="col")
    for column, view in zip(axes.T, views, strict=True):
        time = np.arange(len(view.waveform)) / view.rate
        for axis, place in zip(column, rows, strict=False):
            shown, values = _thinned(time, view.waveform[:, place])
            axis.plot(shown, values, color=WAVEFORM, linewidth=0.5)
            axis.set_yticks([])
            _lines(axis, view)
        for name, values in zip("PS", view.probabilities.T, strict=False):
            shown, values = _thinned(time, values)
            column[-1].plot(shown, values, color=COLORS[name], linewidth=1, label=name)
        for name, threshold in zip("PS", thresholds, strict=True):
            column[-1].axhline(
                threshold, color=COLORS[name], linewidth=0.6, linestyle=":"
            )
        _lines(column[-1], view)
        column[-1].set_ylim(-0.03, 1.03)
        column[-1].set_xlim(0, time[-1] if len(time) > 1 else 1)
        column[-1].set_xlabel(f"s after {_utc(view.start)}", fontsize=9)
        for axis in column:
            axis.spines[["top", "right"]].set_visible(False)
    for axis, place in zip(axes[:, 0], rows, strict=False):
        axis.set_ylabel(channels[place], rotation=0, labelpad=18, fontsize=9)
    axes[-1, 0].set_ylabel("probability", fontsize=9)
    axes[-1, -1].legend(
        fontsize=8, framealpha=0.85, edgecolor="none", loc="upper right"
    )
    broaden_figure.save(figure, path)


def _lines(axis, view):
    for pick in view.picks:
        place = pick.peak_time.timestamp - view.start
        axis.axvline(place, color=COLORS[pick.phase], linewidth=0.9, alpha=0.8)


def _utc(seconds):
    time = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return time.strftime("%Y-%m-%d %H:%M:%S.%f")[:-4]


def _thinned(time, values):
    """A line of few points that looks the same: extremes of groups of samples."""
    size = -(-2 * len(values) // MAX_POINTS)
    if size <= 2:
        return time, values
    count = len(values) // size
    groups = values[: count * size].reshape(count, size)
    held = np.where(np.isnan(groups), np.inf, groups).min(axis=1)
    top = np.where(np.isnan(groups), -np.inf, groups).max(axis=1)
    both = np.stack([held, top], axis=1)
    both[~np.isfinite(both)] = np.nan
    starts = time[: count * size : size]
    return np.repeat(starts, 2), both.ravel()
