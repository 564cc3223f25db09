"""Tables of pickers as text and as CSV."""

import csv
import io
import math

from experiments.picking_systems import AR_PICKER

NOTHING = "–"
PICKS_NOTE = (
    "Residuals are of each window's surest pick, picked less true time, whatever its "
    "probability; median |dt|, bias / sd, MAE and RMSE over arrivals with a pick. "
    "Shares are of all arrivals; in brackets the 95 % interval of Wilson, for as many "
    "independent trials as there are records. Precision, recall and F1: all picks "
    "above the threshold, within 0.5 s of the analyst's; a real arrival without a "
    "label counts as wrong. Recordings of the vertical component alone are in `all`. "
    "The AR picker has no threshold, and STA/LTA no S."
)
PROTOCOL_NOTE = (
    "Detection: windows of 30 s with the first arrival, against windows of noise. "
    "Phase: windows of 10 s with one arrival, P is positive, scored by log10 of the "
    "ratio of the highest probabilities. Onset: the same windows, "
    "the surest pick of the phase that is there. A window that holds no pick counts in "
    "the shares alone. In brackets the 95 % interval of Wilson. Picks an hour: in the "
    "windows of noise of the detection."
)


def picks_table(summaries, *, title, notes):
    """Markdown of `picking_scores.summarize`.

    Args:
        summaries: list of dicts.
        title: heading.
        notes: lines below it.
    """
    header = (
        "phase", "system", "arrivals", r"median \|dt\| (s)", *within_names(summaries),
        "bias / sd (s)", "MAE", "RMSE", "threshold", "precision", "recall", "F1",
    )  # fmt: skip
    parts = [f"# {title}", *notes]
    for condition, subset in dict.fromkeys(
        (one["condition"], one["subset"]) for one in summaries
    ):
        chosen = [
            one
            for one in summaries
            if (one["condition"], one["subset"]) == (condition, subset)
        ]
        rows = [
            (
                one["phase"],
                one["system"],
                counted(one),
                *residual_cells(one),
                threshold_cell(one),
                *(number(one[name]) for name in ("precision", "recall", "f1")),
            )
            for one in chosen
        ]
        parts.append(f"{condition[0].upper()}{condition[1:]}, {subset}:")
        parts.append(markdown(header, rows))
    return "\n\n".join([*parts, PICKS_NOTE]) + "\n"


def protocol_table(tables, *, title, notes):
    """Markdown of `picking_protocol.summarize`; arguments as in `picks_table`."""
    parts = [f"# {title}", *notes]
    names = ("auc", "threshold", "precision", "recall", "f1")
    for task, classes, more in (
        ("detection", ("earthquake", "noise"), ()),
        ("phase", ("P", "S"), ("mcc",)),
    ):
        header = ("system", *classes, "AUC", "threshold", "precision", "recall", "F1")
        rows = [
            (
                one["system"],
                str(one["positive"]),
                str(one["negative"]),
                *(number(one[name], 3) for name in (*names, *more)),
            )
            for one in tables[task]
        ]
        if rows:
            parts.append(f"{task.capitalize()}:")
            parts.append(markdown((*header, *(m.upper() for m in more)), rows))
    onset = tables["onset"]
    if onset:
        header = (
            "phase", "system", "arrivals", r"median \|dt\| (s)", *within_names(onset),
            "bias / sd (s)", "MAE", "RMSE",
        )  # fmt: skip
        rows = [
            (one["phase"], one["system"], str(one["count"]), *residual_cells(one))
            for one in onset
        ]
        parts.append("Onset:")
        parts.append(markdown(header, rows))
    false = tables["false"]
    if false:
        rates = [name for name in false[0] if name.startswith("at_")]
        columns = [f">= {name.removeprefix('at_')}" for name in rates]
        rows = [
            (
                one["phase"],
                one["system"],
                number(one["hours"]),
                *(number(one[name], 1) for name in rates),
            )
            for one in false
        ]
        parts.append("Picks an hour of noise, by their probability:")
        parts.append(markdown(("phase", "system", "hours", *columns), rows))
    return "\n\n".join([*parts, PROTOCOL_NOTE]) + "\n"


def within_names(rows):
    """Headings of the shares."""
    return [f"<= {tolerance:g} s" for tolerance in rows[0]["within"]] if rows else []


def counted(row):
    """Arrivals, and of how many records where that differs."""
    records = row["records"]
    if records == row["count"]:
        return str(records)
    return f"{row['count']} of {records} records"


def residual_cells(row):
    """Cells of a `picking.residual_table`."""
    shares = [
        f"{number(share.value)} [{number(share.low)}, {number(share.high)}]"
        for share in row["within"].values()
    ]
    return (
        number(row["median_absolute"], 3),
        *shares,
        f"{number(row['mean'])} / {number(row['std'])}",
        number(row["mae"]),
        number(row["rmse"]),
    )


def threshold_cell(row):
    """A threshold, or a dash for the AR picker, whose picks have no score."""
    return NOTHING if row["system"] == AR_PICKER else number(row["threshold"])


def flat(row):
    """A row with a column for each end of each interval."""
    found = {name: value for name, value in row.items() if name != "within"}
    for tolerance, share in row.get("within", {}).items():
        for name, value in share._asdict().items():
            found[f"within_{tolerance:g}_{name}"] = value
    return found


def comma_separated(rows):
    """CSV of dicts that may differ in their names."""
    rows = [flat(row) for row in rows]
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {
                name: f"{value:.5g}" if isinstance(value, float) else value
                for name, value in row.items()
            }
        )
    return text.getvalue()


def number(value, digits=2):
    """A float of few digits, or a dash for NaN."""
    if value != value:
        return NOTHING
    text = f"{value:.{digits}f}"
    return f"{0:.{digits}f}" if float(text) == 0 else text


def markdown(header, rows):
    """A Markdown table, numbers to the right."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain(value):
    """As JSON holds it: floats of few digits, and None for what is not finite."""
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value
