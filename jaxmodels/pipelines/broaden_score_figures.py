"""Figures of an evaluation: residuals against frequency and against period."""

import numpy as np
from matplotlib.figure import Figure

COLORS = ("#7f7f7f", "#1f77b4", "#d1495b", "#2a9d8f", "#e09f3e", "#6a4c93")
LABELS = {
    "fas": ("frequency (Hz)", "ln FAS, generated / observed"),
    "psa": ("period (s)", "ln PSA (RotD50, 5 %), generated / observed"),
}
LIMIT = 3.0  # ln units that the axis shows; the low-pass record goes far beyond


def residuals(curves, places, kind, *, corner=None):
    """Mean residual of each system, with a band of one standard deviation.

    Args:
        curves: {system: {"bias": [N], "sd": [N]}}.
        places: [N] frequencies in Hz or periods in s.
        kind: "fas" or "psa".
        corner: of the low-pass in Hz, drawn as a line; None for none.

    Returns:
        A matplotlib `Figure`.
    """
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.add_subplot()
    for index, (name, curve) in enumerate(curves.items()):
        color = COLORS[index % len(COLORS)]
        bias, deviation = np.asarray(curve["bias"]), np.asarray(curve["sd"])
        axes.semilogx(places, bias, color=color, linewidth=1.8, label=name)
        axes.fill_between(
            places, bias - deviation, bias + deviation, color=color, alpha=0.13,
            linewidth=0,
        )  # fmt: skip
    axes.axhline(0, color="#222222", linewidth=0.9)
    if corner is not None:
        axes.axvline(corner, color="#222222", linestyle=":", linewidth=0.9)
        axes.text(corner, 0.02, " corner", fontsize=8,
                  transform=axes.get_xaxis_transform())  # fmt: skip
    extremes = [
        np.abs(np.asarray(curve["bias"])) + np.asarray(curve["sd"])
        for curve in curves.values()
    ]
    limit = min(LIMIT, 1.1 * max(values.max() for values in extremes) or 1.0)
    axes.set_ylim(-limit, limit)
    xlabel, ylabel = LABELS[kind]
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(alpha=0.25, which="both", linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(framealpha=0.85, edgecolor="none", fontsize=9)
    return figure
