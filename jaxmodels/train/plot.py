"""The picture of a run: curves of its losses, and of what has a baseline."""

import math

import numpy as np
from matplotlib.figure import Figure

TRAIN, EVAL, BASELINE = "#1f77b4", "#d1495b", "#555555"
MAX_PANELS = 6
NOTHING = np.array([]), np.array([])


def curves(records, baselines=None, *, title="", log_x=False):
    """Train values faint and smoothed, evaluations as points, baselines as lines.

    There is a panel for each metric named `loss` (or `network/loss`) and for each that
    a baseline belongs to. What is only evaluated and named after such a metric, as
    "mean_loss" after "loss", is a baseline that is measured anew each time.

    Args:
        records: lines of `metrics.jsonl`: `step`, `split`, then values, None where a
            value was not finite.
        baselines: {name: value}; `unigram_bits_per_byte` belongs to the metric
            `bits_per_byte` and is labeled "unigram".
        title: name of the run.
        log_x: steps on a logarithmic axis.

    Returns:
        A matplotlib `Figure`, or None where there is nothing to draw.
    """
    baselines = dict(baselines or {})
    series = _series(records)
    names = [metric for _, metric in series if metric not in baselines]
    measured = _measured(series, names)
    baselines |= {name: series["eval", name][1][-1] for name in measured}
    metrics = dict.fromkeys(name for name in names if name not in measured)
    owned = {metric: _owned(metric, metrics, baselines) for metric in metrics}
    panels = [m for m in metrics if m.split("/")[-1] == "loss"]
    panels += [m for m in metrics if owned[m] and m not in panels]
    panels = panels[:MAX_PANELS]
    if not panels:
        return None
    columns = min(len(panels), 3)
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(6.4 * columns, 4.2 * rows), layout="constrained")
    figure.suptitle(title, fontsize=13)
    for index, metric in enumerate(panels):
        axes = figure.add_subplot(rows, columns, index + 1)
        train = series.get(("train", metric), NOTHING)
        held_out = series.get(("eval", metric), NOTHING)
        _draw(axes, metric, train, held_out, owned[metric], log_x)
    return figure


def _series(records):
    """(split, metric) -> steps, values; nan where a value was not finite."""
    series: dict = {}
    for record in records:
        for name, value in record.items():
            if name not in ("step", "split", "not_finite"):
                steps, values = series.setdefault((record["split"], name), ([], []))
                steps.append(record["step"])
                values.append(math.nan if value is None else value)
    return {
        key: (np.array(steps), np.array(values, float))
        for key, (steps, values) in series.items()
    }


def _measured(series, names):
    """What is only evaluated, and named after a metric that is trained."""
    trained = [name for name in names if ("train", name) in series]
    return {
        name
        for name in names
        if name not in trained and any(name.endswith(f"_{one}") for one in trained)
    }


def _owned(metric, metrics, baselines):
    """Baselines of a metric: those named after it and after no longer metric."""
    owned = {}
    for name, value in baselines.items():
        owners = [m for m in metrics if name.endswith(f"_{m}")]
        if metric in owners and len(metric) == max(map(len, owners)):
            owned[name.removesuffix(f"_{metric}").replace("_", " ")] = value
    return owned


def _draw(axes, metric, train, held_out, baselines, log_x):
    (steps, values), (eval_steps, eval_values) = train, held_out
    if len(steps):
        marker = "o" if len(steps) == 1 else None
        axes.plot(steps, values, color=TRAIN, alpha=0.25, linewidth=1, marker=marker)
    if np.isfinite(values).any():
        smooth = _smooth(steps, values)
        axes.plot(*smooth, color=TRAIN, linewidth=1.8, label="train", marker=marker)
    if len(eval_steps):
        style = {"marker": "o", "markersize": 4.5, "linewidth": 1.2, "zorder": 3}
        label = f"held out, last {eval_values[-1]:.4g}"
        axes.plot(eval_steps, eval_values, color=EVAL, label=label, **style)
    for index, (name, value) in enumerate(baselines.items()):
        dashes = ("--", ":", "-.")[index % 3]
        label = f"{name} {value:.4g}"
        axes.axhline(value, color=BASELINE, ls=dashes, linewidth=1.2, label=label)
    _limit(axes, steps, values, [*eval_values, *baselines.values()])
    if log_x:
        axes.set_xscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel(metric.replace("_", " "))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(framealpha=0.85, edgecolor="none")


def _limit(axes, steps, train, others):
    """Leaves out spikes of single train values; marks steps that were not finite."""
    finite = train[np.isfinite(train)]
    if len(finite) >= 20:
        low, high = np.percentile(finite, (0.5, 99.5))
        shown = [low, high, *_smooth(steps, train)[1], *others]
        shown = [value for value in shown if math.isfinite(value)]
        low, high = min(shown), max(shown)
        margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        axes.set_ylim(low - margin, high + margin)
    bad = steps[~np.isfinite(train)]
    if len(bad):
        axes.plot(
            bad,
            np.full(len(bad), 0.02),
            "x",
            color="red",
            transform=axes.get_xaxis_transform(),
            label=f"not finite: {len(bad)}",
        )


def _smooth(steps, values):
    """Running mean of the middle half of the values; a spike leaves no trace in it.

    The window holds a twentieth of the points, is centered, and is narrower at the
    beginning, where losses fall fast.
    """
    finite = np.isfinite(values)
    steps, values = steps[finite], values[finite]
    half = len(values) // 40
    centers = np.unique(np.linspace(0, len(values) - 1, 500).round().astype(int))
    windows = [(max(0, i - half), i + min(half, i) + 1) for i in centers]
    sorted_values = [np.sort(values[start:end]) for start, end in windows]
    middles = [v[len(v) // 4 : len(v) - len(v) // 4].mean() for v in sorted_values]
    return steps[centers], np.array(middles)
