"""What an evaluation of broadening systems comes to, in a few numbers for each system.

Shapes use R records, M samples of one record, K frequencies, P periods.
"""

import numpy as np

from jaxmodels.metrics import ensemble


def summarize(result):
    """What the table shows, for each system.

    Args:
        result: an `Evaluation`.

    Returns:
        {system: summary}. `measures` has mean and sd over all samples of all records of
        each name of `ground_motion.measures`; `fas` bias [K] and sd [K]; `psa` bias [P]
        and sd [P]; `psa_bias` and `psa_sigma` their means over periods; `spread_skill`
        (None for one sample a record) and `crps` of ln PSA at the chosen period;
        `frechet`, the distance of log Fourier spectra, observed and generated (None for
        one record). `psa_correlation` [P, P] is the interfrequency correlation of the
        PSA residuals of all samples, `spread_correlation` that of what sets the samples
        of a record apart; `correlation_error` is the rms difference between the latter
        and that of the error of their mean, which is 0 for samples among which the
        observed record could be (these two need several samples and records).
    """
    return {name: _summary(result, rows) for name, rows in result.systems.items()}


def _summary(result, records):
    measures = {
        name: np.stack([record["measures"][name] for record in records])
        for name in records[0]["measures"]
    }  # R M
    fas = np.stack([record["fas"] for record in records])  # R M K
    psa = np.stack([measures[psa_name(t)] for t in result.periods], axis=-1)  # R M P
    observed = np.stack(result.log_spectra)  # R K
    count, num_samples = fas.shape[:2]
    residual = measures[psa_name(result.settings.spread_period)]
    # A residual is ln PSA less that observed, which is then zero.
    nothing = np.zeros(count)
    spread = frechet = None
    if num_samples > 1:
        spread = ensemble.spread_skill(residual, nothing)
    if count > 1:
        generated = (observed[:, None] + fas).reshape(-1, observed.shape[1])
        frechet = ensemble.frechet_distance(generated, observed, diagonal=True)
    return _correlations(psa) | {
        "num_records": count,
        "num_samples": num_samples,
        "measures": {name: _moments(values) for name, values in measures.items()},
        "fas": {"bias": fas.mean(axis=(0, 1)), "sd": fas.std(axis=(0, 1))},
        "psa": {"bias": psa.mean(axis=(0, 1)), "sd": psa.std(axis=(0, 1))},
        "psa_bias": float(psa.mean()),
        "psa_sigma": float(psa.std(axis=(0, 1)).mean()),
        "spread_skill": spread,
        "crps": float(ensemble.crps(residual, nothing).mean()),
        "frechet": frechet,
    }


def _moments(values):
    # LF-SNR is infinite where nothing is left of the error.
    deviation = float(values.std()) if np.isfinite(values).all() else None
    return {"mean": float(values.mean()), "sd": deviation}


def _correlations(residuals):
    """Interfrequency correlations of PSA residuals [R, M, P]."""
    count, num_samples, num_periods = residuals.shape
    found = dict.fromkeys(
        ("psa_correlation", "spread_correlation", "correlation_error")
    )

    def correlation(values):
        return ensemble.interfrequency_correlation(values.reshape(-1, num_periods))

    if count * num_samples > 1:
        found["psa_correlation"] = correlation(residuals)
    if count > 1 and num_samples > 1:
        mean = residuals.mean(axis=1, keepdims=True)
        spread, error = correlation(residuals - mean), correlation(mean)
        found["spread_correlation"] = spread
        difference = (spread - error)[np.triu_indices(num_periods, 1)]
        if np.isfinite(difference).all():
            found["correlation_error"] = float(np.sqrt(np.mean(difference**2)))
    return found


def psa_name(period):
    """Of the PSA at a period in s, among the measures."""
    return f"psa_{period:g}s"
