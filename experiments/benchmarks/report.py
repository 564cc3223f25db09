"""What a benchmark leaves behind: JSON, Markdown tables and a plot."""

import json
import math
import pathlib

from experiments.benchmarks import measure

GREY = "#888888"


def write_json(folder, name, content):
    """Writes `name`.json into the folder and returns its path."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def write_text(folder, name, lines):
    """Writes lines of text and returns the path."""
    path = pathlib.Path(folder) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def markdown(header, rows):
    """A Markdown table as lines; all cells but the first align to the right."""
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return [f"| {' | '.join(cells)} |" for cells in (header, rule, *rows)]


def number(value, digits=3):
    """A figure in so many digits; a dash where there is none."""
    if value is None:
        return "-"
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}"
    before = 1 + math.floor(math.log10(abs(value))) if value else 1
    return f"{value:,.{max(0, digits - before)}f}"


def megabytes(value):
    """Bytes in units of 10^6."""
    return number(None if value is None else value / 1e6)


def skipped(entries):
    """Lines that say what was left out and why."""
    if not entries:
        return ["Nothing was left out."]
    lines = []
    for entry in entries:
        line = f"- {entry['name']}, {entry['mode']}, length {entry['length']:,}: "
        line += entry["reason"]
        if entry.get("temporaries") is not None:
            size = megabytes(entry["temporaries"])
            line += f"; compiled only, it needs {size} MB of temporaries"
        lines.append(line + ".")
    return lines


def setting(content):
    """Lines on the machine and the command."""
    facts = content["machine"]
    versions = ", ".join(f"{name} {text}" for name, text in facts["versions"].items())
    if facts["torch_threads"] is not None:
        versions += f"; {facts['torch_threads']} threads of torch"
    return [
        f"Command: `{content['command']}`",
        "",
        f"{facts['processor']}, {facts['cores']} cores; Python {facts['python']}, "
        f"{versions}. The run took {content['seconds']:.0f} s.",
    ]


def of(rows, **wanted):
    """The rows with these values."""
    return [r for r in rows if all(r[key] == value for key, value in wanted.items())]


def lengths_of(rows):
    return sorted({row["length"] for row in rows})


def scaling(rows, modes, first=4096):
    """Exponents of time and memory from `first` to the greatest length.

    Returns:
        dicts with name, mode, from, to, the exponent of time and that of the
        compiler's temporaries, None without a compiler: growth of resident memory
        depends on what was freed before. A pair that has fewer than two lengths from
        `first` on has none.
    """
    found = []
    for mode in modes:
        for name in dict.fromkeys(row["name"] for row in rows):
            own = [r for r in of(rows, name=name, mode=mode) if r["length"] >= first]
            time = measure.exponent([(r["length"], r["seconds"]) for r in own])
            sizes = [(r["length"], r["temporaries"]) for r in own if r["temporaries"]]
            if time is not None:
                lengths = lengths_of(own)
                found.append(
                    {
                        "name": name,
                        "mode": mode,
                        "from": lengths[0],
                        "to": lengths[-1],
                        "time": time,
                        "temporaries": measure.exponent(sizes),
                    }
                )
    return found


def plot(path, rows, modes, title):
    """Time and memory against the length, both axes logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(modes), 8.4), layout="constrained")
    figure.suptitle(title, fontsize=12)
    panels = figure.subplots(2, len(modes), squeeze=False)
    names = list(dict.fromkeys(row["name"] for row in rows))
    for column, mode in enumerate(modes):
        for index, name in enumerate(names):
            own = sorted(of(rows, name=name, mode=mode), key=lambda r: r["length"])
            lengths = [row["length"] for row in own]
            style = {"marker": "o", "color": f"C{index}", "label": name}
            panels[0][column].plot(lengths, [r["seconds"] for r in own], **style)
            sizes = [(r["growth"] or 0) / 1e6 or None for r in own]
            known = [(x, y) for x, y in zip(lengths, sizes, strict=True) if y]
            panels[1][column].plot(
                *zip(*known, strict=True) if known else ([], []), **style
            )
        panels[0][column].set_title(mode)
        panels[0][column].set_ylabel("seconds")
        panels[1][column].set_ylabel("growth of resident memory, MB")
    for axes in panels.flat:
        axes.set_xscale("log", base=2)
        if axes.lines and any(len(line.get_xdata()) for line in axes.lines):
            axes.set_yscale("log")
        axes.set_xlabel("tokens")
        axes.grid(alpha=0.3, which="both", color=GREY, linewidth=0.4)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].legend(frameon=False)
    figure.savefig(path, dpi=120)
    return path
