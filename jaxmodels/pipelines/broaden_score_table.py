"""The table of an evaluation, in Markdown."""

from jaxmodels.metrics import spectra

NOTHING = "–"
INTENSITIES = (
    ("PGV", "pgv"),
    ("PGD", "pgd"),
    ("Arias", "arias"),
    ("CAV", "cav"),
    ("D5-75", "d5_75"),
    ("D5-95", "d5_95"),
)


def table(summaries, spread_period, *, title, notes=()):
    """The summaries of `broaden_scores.summarize` as text.

    Args:
        summaries: {system: summary}.
        spread_period: of the spread and the CRPS, in s.
        title: heading.
        notes: lines below it.
    """
    counts = {summary["num_records"] for summary in summaries.values()}
    parts = [f"# {title}", *notes, f"{max(counts)} records."]
    parts.append(_main(summaries))
    parts.append(_ensemble(summaries, spread_period))
    parts.append(_bands(summaries))
    parts.append(_intensities(summaries))
    parts.append(
        "Residuals are ln(generated / observed); bias / sd are their mean and standard "
        "deviation over all samples of all records. |FAS err|: mean of the absolute "
        "residual of smoothed Fourier amplitudes over frequencies above 1.5 corners, "
        "samples and records. LSD: root mean square of it over all frequencies, in ln "
        "units. LF-SNR is relative to the low-pass record. PSA is RotD50 at 5 % "
        "damping, bias and sigma are means over periods. Anderson, EG and PG: 10 is "
        "perfect, below 4 poor. Spread/skill: mean standard deviation of ln PSA "
        f"({spread_period:g} s) within the samples of a record over the rmse of their "
        "mean. CRPS: in ln units, lower is better. PSA corr. err: rms difference of "
        "interfrequency correlations of ln PSA, of the spread of samples and of the "
        "error of their mean; 0 where the record could be one of the samples. "
        "Frechet: squared distance of the log Fourier spectra of all records, observed "
        "and generated, each frequency alone."
    )
    return "\n\n".join(parts) + "\n"


def _main(summaries):
    header = (
        "system", r"\|FAS err\|", "LSD", "envelope corr.", "LF-SNR (dB)",
        "ln PGA bias / sd", "PSA bias / sigma", "Anderson", "EG", "PG",
    )  # fmt: skip
    rows = []
    for name, summary in summaries.items():
        mean = {key: value["mean"] for key, value in summary["measures"].items()}
        rows.append(
            (
                name,
                number(mean["fas_error"], 3),
                number(mean["lsd"], 3),
                number(mean["envelope_correlation"], 3),
                number(mean["lf_snr"], 1),
                _pair(summary["measures"]["pga"]),
                f"{number(summary['psa_bias'])} / {number(summary['psa_sigma'])}",
                *(number(mean[key]) for key in ("anderson", "eg", "pg")),
            )
        )
    return _rows(header, rows)


def _ensemble(summaries, period):
    header = (
        "system", "samples", "spread/skill", "CRPS", "PSA corr. err", "EM", "PM",
        "Frechet",
    )  # fmt: skip
    rows = [
        (
            name,
            str(summary["num_samples"]),
            number(summary["spread_skill"]),
            number(summary["crps"], 3),
            number(summary["correlation_error"]),
            *(number(summary["measures"][key]["mean"]) for key in ("em", "pm")),
            number(summary["frechet"]),
        )
        for name, summary in summaries.items()
    ]
    return f"Ensembles, ln PSA({period:g} s):\n\n" + _rows(header, rows)


def _bands(summaries):
    first = next(iter(summaries.values()))["measures"]
    named = [(band, f"fas_{band[0]:g}_{band[1]:g}hz") for band in spectra.BANDS]
    named = [(band, key) for band, key in named if key in first]
    header = ("system", *(f"{low:g} to {high:g} Hz" for (low, high), _ in named))
    rows = [
        (name, *(_pair(summary["measures"][key]) for _, key in named))
        for name, summary in summaries.items()
    ]
    return "Fourier amplitudes in bands, bias / sd:\n\n" + _rows(header, rows)


def _intensities(summaries):
    header = ("system", *(label for label, _ in INTENSITIES), "LF corr.")
    rows = [
        (
            name,
            *(_pair(summary["measures"][key]) for _, key in INTENSITIES),
            number(summary["measures"]["lf_correlation"]["mean"], 4),
        )
        for name, summary in summaries.items()
    ]
    return "Intensities, ln residuals, bias / sd:\n\n" + _rows(header, rows)


def number(value, digits=2):
    """With a minus sign that is one, and a dash for None."""
    if value is None:
        return NOTHING
    text = f"{value:.{digits}f}"
    return f"{0:.{digits}f}" if float(text) == 0 else text


def _pair(values):
    return f"{number(values['mean'])} / {number(values['sd'])}"


def _rows(header, rows):
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
