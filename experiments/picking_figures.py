"""Figures of a table of pickers: residuals, and probabilities on examples."""

import numpy as np
from matplotlib.figure import Figure

from experiments.picking_systems import PHASES
from jaxmodels.pipelines.broaden_score_figures import COLORS

WIDEST = 1.0  # seconds on either side of the histogram
BINS = 41
PHASE_COLORS = {"P": "#1f77b4", "S": "#d1495b", "STA/LTA": "#7f7f7f"}


def residuals(errors, systems, title=""):
    """Histograms of residuals, and the share of arrivals within a distance.

    Args:
        errors: {phase: {system: [R] seconds, NaN for no pick}}; residuals beyond the
            axis are in its last bins.
        systems: names, in the order of their colors.
        title: above the figure.

    Returns:
        A matplotlib `Figure`.
    """
    figure = Figure(figsize=(9.6, 6.4), layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(2, len(PHASES), squeeze=False)
    edges = np.linspace(-WIDEST, WIDEST, BINS + 1)
    for column, phase in enumerate(PHASES):
        histogram, shares = axes[:, column]
        for system, error in errors.get(phase, {}).items():
            color = COLORS[systems.index(system) % len(COLORS)]
            found = np.clip(error[np.isfinite(error)], -WIDEST, WIDEST)
            heights, _ = np.histogram(found, edges)
            heights = heights / max(error.size, 1)
            histogram.stairs(heights, edges, color=color, label=system)
            size = np.sort(np.abs(error[np.isfinite(error)]))
            share = np.arange(1, size.size + 1) / max(error.size, 1)
            shares.step(np.maximum(size, 0.01), share, color=color, where="post")
        histogram.set_title(phase, fontsize=10)
        histogram.set_xlabel("picked later by (s)")
        shares.set_xscale("log")
        shares.set_xlim(0.01, 10)
        shares.set_ylim(0, 1)
        shares.set_xlabel("within (s)")
        for place in (0.1, 0.5):
            shares.axvline(place, color="#222222", linestyle=":", linewidth=0.8)
        for axis in (histogram, shares):
            axis.grid(alpha=0.25, linewidth=0.5)
            axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("share of arrivals")
    axes[1, 0].set_ylabel("share of arrivals")
    axes[0, 0].legend(fontsize=8, framealpha=0.85, edgecolor="none")
    return figure


def examples(kept, system):
    """Waveforms with the arrivals of the analyst, and what a system says of them.

    Args:
        kept: a list of `picking_scores.Example`.
        system: its name.

    Returns:
        A matplotlib `Figure`.
    """
    count = len(kept)
    figure = Figure(figsize=(9.6, 1.9 * count + 0.5), layout="constrained")
    figure.suptitle(f"{system}: solid; the analyst's P and S: dashed", fontsize=11)
    axes = figure.subplots(count, 1, squeeze=False)[:, 0]
    for axis, (window, picked, (times, curves)) in zip(axes, kept, strict=True):
        place = np.arange(len(window.waveform)) / window.sampling_rate
        for component, letter in enumerate("ZNE"):
            trace = window.waveform[:, component] - window.waveform[:, component].mean()
            trace = trace / max(np.abs(trace).max(), np.finfo(np.float32).tiny)
            axis.plot(place, 0.45 * trace - component, color="#999999", linewidth=0.5)
            axis.text(0, 0.2 - component, f" {letter}", fontsize=7)
        for label, curve in curves.items():
            color = PHASE_COLORS.get(label)
            axis.plot(times, 0.6 + curve, color=color, linewidth=1.2, label=label)
        for phase, time in (("P", window.p), ("S", window.s)):
            if np.isfinite(time):
                axis.axvline(time, color=PHASE_COLORS[phase], ls="--", linewidth=1.2)
        for phase, time in picked.items():
            if np.isfinite(time):
                axis.axvline(time, color=PHASE_COLORS[phase], linewidth=0.8)
        axis.set_title(window.name, fontsize=8, loc="left")
        axis.set_yticks([])
        axis.set_xlim(0, window.seconds)
        axis.spines[["top", "right", "left"]].set_visible(False)
    axes[-1].set_xlabel("s")
    if kept[0].curves[1]:
        axes[0].legend(fontsize=8, loc="upper right", framealpha=0.85, edgecolor="none")
    return figure
