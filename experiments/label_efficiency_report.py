"""Scores of fine-tuned pickers: their numbers, tables and curves over labels.

Shapes use B batch, N samples.
"""

import csv
import json
import math
import pathlib

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from jaxmodels.metrics import picking

PHASES = ("p", "s")
TOLERANCE = 0.5  # s, of F1
# Column -> name in the table.
COLUMNS = {
    "p_f1": "P F1",
    "s_f1": "S F1",
    "p_within_0.1": "P <= 0.1 s",
    "p_within_0.5": "P <= 0.5 s",
    "s_within_0.1": "S <= 0.1 s",
    "s_within_0.5": "S <= 0.5 s",
    "p_median": "P median error, s",
    "s_median": "S median error, s",
}
SCORES, TABLE, CURVES = "scores.json", "table", "curves.png"
COLORS = ("#1f77b4", "#d1495b", "#2a9d8f", "#8e5ea2")
GRAYS = ("#555555", "#999999", "#bbbbbb")


def score(predict, data, sampling_rate, threshold):
    """What a picker makes of the evaluation batches of `data`.

    Args:
        predict: [B, N, C] -> probabilities [B, N, 3].
        data: `pipeline.Data` of `waveforms.pick_data`.
        sampling_rate: Hz.
        threshold: of the probability of a pick that counts for F1.

    Returns:
        {column: float}, the `COLUMNS` and "p_count", "s_count".
    """
    found: dict = {phase: [] for phase in PHASES}
    for step in range(data.num_eval_batches):
        batch = data.eval(step, 0, 1)
        kept = batch["weights"] > 0
        probabilities = np.asarray(predict(batch["inputs"]))[kept]
        for index, phase in enumerate(PHASES):
            true = batch[f"{phase}_sample"][kept].astype(float)
            true = np.where(true >= 0, true, math.nan) / sampling_rate
            of_phase = probabilities[..., index]
            picked = of_phase.argmax(axis=1) / sampling_rate
            found[phase].append(np.stack([picked, of_phase.max(axis=1), true]))
    scores: dict = {}
    for phase in PHASES:
        picked, heights, true = np.concatenate(found[phase], axis=1)
        counts = sum(
            picking.pick_counts(
                [time] if height >= threshold else [],
                [arrival] if math.isfinite(arrival) else [],
                TOLERANCE,
            )
            for time, height, arrival in zip(picked, heights, true, strict=True)
        )
        table = picking.residual_table(picked, true)
        scores[f"{phase}_f1"] = float(picking.pick_scores(counts).f1)
        scores[f"{phase}_median"] = table["median_absolute"]
        scores[f"{phase}_count"] = table["count"]
        for tolerance, share in table["within"].items():
            scores[f"{phase}_within_{tolerance:g}"] = float(share.value)
    return scores


def write(output, rows, *, notes):
    """Writes numbers, tables and curves; returns the text of the table.

    Args:
        output: folder.
        rows: a dict for each run and test: system, labels, seed, test, and scores.
        notes: lines below the title.
    """
    folder = pathlib.Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SCORES).write_text(json.dumps({"notes": notes, "rows": rows}, indent=1))
    means = summaries(rows)
    text = markdown(means, notes)
    (folder / f"{TABLE}.md").write_text(text + "\n")
    with open(folder / f"{TABLE}.csv", "w", newline="") as file:
        names = ["test", "labels", "system", "seeds"]
        writer = csv.writer(file)
        writer.writerow(
            names + [f"{c} {of}" for c in COLUMNS for of in ("mean", "std")]
        )
        for one in means:
            numbers = [one[column][of] for column in COLUMNS for of in (0, 1)]
            writer.writerow([one[name] for name in names] + numbers)
    figure(rows).savefig(folder / CURVES, dpi=120)
    return text


def summaries(rows):
    """Mean and standard deviation over the seeds, a dict for each group of runs."""
    groups: dict = {}
    for row in rows:
        groups.setdefault((row["test"], row["labels"], row["system"]), []).append(row)
    found = []
    for (test, labels, system), group in groups.items():
        one = {"test": test, "labels": labels, "system": system, "seeds": len(group)}
        for column in COLUMNS:
            values = np.array([row[column] for row in group], float)
            spread = values.std(ddof=1) if len(values) > 1 else math.nan
            one[column] = float(values.mean()), float(spread)
        found.append(one)
    return found


def markdown(means, notes):
    """The table of `summaries`, a part for each test."""
    lines = [
        "# Label efficiency of phase picking",
        "",
        *(f"- {note}" for note in notes),
    ]
    for test in dict.fromkeys(one["test"] for one in means):
        lines += ["", f"## {test}", ""]
        lines.append("| labels | start | " + " | ".join(COLUMNS.values()) + " |")
        lines.append("|---:|---|" + "---:|" * len(COLUMNS))
        for one in (one for one in means if one["test"] == test):
            cells = [_cell(*one[column]) for column in COLUMNS]
            head = f"| {one['labels']} | {one['system']} | "
            lines.append(head + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(mean, spread):
    if not math.isfinite(mean):
        return "-"
    return f"{mean:.3f}" + (f" ± {spread:.3f}" if math.isfinite(spread) else "")


def figure(rows):
    """F1 of P and S over the number of labels, a row of panels for each test."""
    tests = list(dict.fromkeys(row["test"] for row in rows))
    systems = list(dict.fromkeys(row["system"] for row in rows))
    random = [name for name in systems if name.startswith("random")]
    started = [name for name in systems if name not in random]
    colors = {name: COLORS[i % len(COLORS)] for i, name in enumerate(started)}
    colors |= {name: GRAYS[i % len(GRAYS)] for i, name in enumerate(random)}
    drawn = Figure(figsize=(11, 4 * len(tests)), layout="constrained")
    panels = drawn.subplots(len(tests), 2, squeeze=False)
    for test, line in zip(tests, panels, strict=True):
        for column, axes in zip(("p_f1", "s_f1"), line, strict=True):
            for system in systems:
                own = [r for r in rows if r["test"] == test and r["system"] == system]
                _curve(axes, own, column, system, colors[system], system in random)
            labels = sorted({row["labels"] for row in rows})
            axes.set_xscale("log")
            axes.set_xticks(labels, [str(count) for count in labels])
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xlabel("labeled records")
            axes.set_ylabel(f"{COLUMNS[column]} within {TOLERANCE:g} s")
            axes.set_title(test)
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].legend(framealpha=0.85, edgecolor="none")
    return drawn


def _curve(axes, rows, column, label, color, dashed):
    """The mean of the seeds as a line, their range as a band, each as a point."""
    counts = sorted({row["labels"] for row in rows})
    values = [[r[column] for r in rows if r["labels"] == count] for count in counts]
    means = [np.mean(one) for one in values]
    style = "--" if dashed else "-"
    axes.plot(counts, means, style, color=color, linewidth=1.8, label=label)
    low, high = [min(one) for one in values], [max(one) for one in values]
    axes.fill_between(counts, low, high, color=color, alpha=0.15, linewidth=0)
    for count, one in zip(counts, values, strict=True):
        axes.plot([count] * len(one), one, "o", color=color, markersize=3.5, alpha=0.7)
