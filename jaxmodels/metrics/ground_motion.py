"""What a generated accelerogram is judged by, beside the observed one.

Records are accelerations [T, C] in m/s^2, the vertical component before the horizontal
ones. Residuals are ln(generated / observed), the mean over the horizontals (over the
only component if there is one).
"""

import math

import numpy as np
from scipy import ndimage, signal

from jaxmodels.metrics import goodness_of_fit, response_spectrum, spectra
from jaxmodels.metrics.intensity import (
    arias,
    cav,
    displacement,
    pga,
    pgd,
    pgv,
    significant_duration,
    velocity,
)
from jaxmodels.signal import filters

__all__ = [
    "arias",
    "cav",
    "displacement",
    "envelope_correlation",
    "features",
    "high_frequency_envelope",
    "lf_correlation",
    "lf_snr",
    "measures",
    "pga",
    "pgd",
    "pgv",
    "significant_duration",
    "smoothed_envelope",
    "velocity",
]

# The flank of the low-pass ends here: its gain at 1.5 corners is 4 %.
END_OF_FLANK = 1.5
# Length of the running mean over envelopes.
ENVELOPE_SECONDS = 1.0


def smoothed_envelope(waveform, width):
    """Modulus of the analytic signal of each component, as a running mean.

    Args:
        waveform: [T, C].
        width: of the running mean, in samples.

    Returns:
        float64 [T, C].
    """
    length = len(waveform)
    # Mirrored, a window has no jump between its two ends, which would count as motion.
    whole = np.concatenate([waveform, waveform[::-1]])
    size = np.abs(signal.hilbert(whole, axis=0))[:length]
    width = max(1, round(width))
    return ndimage.uniform_filter1d(size, width, axis=0, mode="nearest")


def high_frequency_envelope(
    acceleration, sampling_rate, corner, seconds=ENVELOPE_SECONDS
):
    """`smoothed_envelope` of what the low-pass leaves out.

    Args:
        acceleration: [T, C].
        sampling_rate: Hz.
        corner: Hz.
        seconds: length of the running mean.

    Returns:
        float64 [T, C].
    """
    acceleration = np.asarray(acceleration, np.float64)
    low = filters.zero_phase_lowpass(acceleration, sampling_rate, corner)
    return smoothed_envelope(acceleration - low, seconds * sampling_rate)


def envelope_correlation(generated, observed, sampling_rate, corner):
    """Pearson correlation of two `high_frequency_envelope`s, the mean over components.

    Says whether the high frequencies come when they should. A second, or a period of
    the corner where that is longer, is left out at each end: where a window is cut, the
    low-pass errs in any two records alike.

    Raises:
        ValueError: shapes that differ, a component that is zero throughout, or less
            than a second left between the ends.
    """
    generated, observed = _pair(generated, observed, "observed record")
    return _envelope_correlation(
        high_frequency_envelope(generated, sampling_rate, corner),
        high_frequency_envelope(observed, sampling_rate, corner),
        sampling_rate,
        corner,
    )


def _envelope_correlation(generated, observed, sampling_rate, corner):
    seconds = max(ENVELOPE_SECONDS, 1 / corner)
    ends, length = math.ceil(seconds * sampling_rate), len(observed)
    if length - 2 * ends < ENVELOPE_SECONDS * sampling_rate:
        raise ValueError(
            f"a record of {length / sampling_rate:g} s is too short to compare "
            f"envelopes above {corner:g} Hz, which leaves out {seconds:g} s at each "
            "end; take longer windows or a higher corner"
        )
    inner = slice(ends, length - ends)
    return _mean_correlation(generated[inner], observed[inner])


def lf_snr(generated, condition, sampling_rate, corner, *, order=4, causal=False):
    """How exactly a record has its condition below the corner, in dB.

    10 log10(|x|^2 / |LP(y) - x|^2); infinite where nothing is left.

    Args:
        generated: y, [T, C].
        condition: x, [T, C].
        sampling_rate: Hz.
        corner: Hz.
        order, causal: of the `filters.lowpass` that made the condition.

    Raises:
        ValueError: shapes that differ, or a component that is zero throughout.
    """
    generated, condition = _pair(generated, condition, "condition")
    low = filters.lowpass(generated, sampling_rate, corner, order, causal=causal)
    error = np.sum((low - condition) ** 2)
    if not error:
        return math.inf
    return float(10 * np.log10(np.sum(condition**2) / error))


def lf_correlation(
    generated, condition, sampling_rate, corner, *, order=4, causal=False
):
    """Pearson correlation of LP(y) and x, the mean over components; see `lf_snr`."""
    generated, condition = _pair(generated, condition, "condition")
    low = filters.lowpass(generated, sampling_rate, corner, order, causal=causal)
    return _mean_correlation(low, condition)


def features(
    acceleration,
    sampling_rate,
    corner,
    *,
    periods=response_spectrum.PERIODS,
    centers=None,
):
    """All that `measures` needs of one record.

    A table over many samples of one observed record computes the observed one once.

    Args:
        acceleration: [T, C], m/s^2.
        sampling_rate: Hz.
        corner: Hz.
        periods: [P], seconds.
        centers: [K], Hz; those of `spectra.CENTERS` that the record resolves when
            omitted.

    Returns:
        {"ln_intensity": {name: [horizontals]}, "ln_psa": [2, P] (RotD50, geometric
        mean), "ln_spectrum": [K], "envelope": [T, C], "periods", "centers"}.

    Raises:
        ValueError: as `spectra.check_record` and `response_spectrum.horizontals`.
    """
    acceleration = spectra.check_record(acceleration)
    if centers is None:
        centers = spectra.resolved_centers(len(acceleration), sampling_rate)
    motion = response_spectrum.horizontals(acceleration)
    intensity = {
        "arias": arias(motion, sampling_rate),
        "d5_75": significant_duration(motion, sampling_rate, 0.05, 0.75),
        "d5_95": significant_duration(motion, sampling_rate, 0.05, 0.95),
        "cav": cav(motion, sampling_rate),
        "pga": pga(motion),
        "pgv": pgv(motion, sampling_rate),
        "pgd": pgd(motion, sampling_rate),
    }
    psa = response_spectrum.psa_rotd50_and_geometric_mean(
        acceleration, sampling_rate, periods
    )
    spectrum = spectra.smoothed_spectrum(acceleration, sampling_rate, centers)
    return {
        "ln_intensity": {name: np.log(value) for name, value in intensity.items()},
        "ln_psa": np.log(psa),
        "ln_spectrum": np.log(spectrum),
        "envelope": high_frequency_envelope(acceleration, sampling_rate, corner),
        "periods": np.asarray(periods),
        "centers": np.asarray(centers),
    }


def measures(
    generated,
    observed,
    condition,
    sampling_rate,
    corner,
    *,
    order=4,
    causal=False,
    observed_features=None,
    time_frequency=True,
):
    """Every residual, distance and score of one generated record.

    Args:
        generated, observed, condition: [T, C], m/s^2.
        sampling_rate: Hz.
        corner: Hz, of the low-pass that made the condition.
        order, causal: of that `filters.lowpass`.
        observed_features: `features(observed, ...)`, to compute them once; its periods
            and centers are then used.
        time_frequency: whether to compute the Kristekova misfits, which take longer
            than all others together.

    Returns:
        {name: float}:
        "arias d5_75 d5_95 cav pga pgv pgd": ln residuals;
        "psa_0.2s", "psa_gm_0.2s", ...: ln residuals of RotD50 and of the geometric
        mean; "psa_error": mean |ln residual| of RotD50 over the periods;
        "fas_0.1_1hz", ...: mean ln residual of the smoothed Fourier amplitudes in each
        band; "fas_error": mean |ln residual| over the centers above 1.5 corners;
        "lsd", "lsd_db": log-spectral distance over all centers;
        "envelope_correlation", "lf_snr" (dB), "lf_correlation";
        "anderson" (mean score, 0 to 10), and with `time_frequency` "eg pg em pm".

    Raises:
        ValueError: shapes that differ, samples that are not finite, a component that is
            zero throughout, a record too short for `envelope_correlation`, or no
            center above 1.5 corners.
    """
    generated, observed = _pair(generated, observed, "observed record")
    theirs = observed_features or features(observed, sampling_rate, corner)
    periods, centers = theirs["periods"], theirs["centers"]
    ours = features(generated, sampling_rate, corner, periods=periods, centers=centers)
    found = {
        name: float(np.mean(value - theirs["ln_intensity"][name]))
        for name, value in ours["ln_intensity"].items()
    }
    found |= _psa_measures(ours["ln_psa"] - theirs["ln_psa"], periods)
    found |= _spectrum_measures(
        ours["ln_spectrum"] - theirs["ln_spectrum"], centers, corner
    )
    found["envelope_correlation"] = _envelope_correlation(
        ours["envelope"], theirs["envelope"], sampling_rate, corner
    )
    for name, function in (("lf_snr", lf_snr), ("lf_correlation", lf_correlation)):
        found[name] = function(
            generated, condition, sampling_rate, corner, order=order, causal=causal
        )
    scores = goodness_of_fit.anderson(generated, observed, sampling_rate)
    found["anderson"] = scores["mean"]
    if time_frequency:
        misfits = goodness_of_fit.kristekova(generated, observed, sampling_rate)
        found |= {name.lower(): misfits[name] for name in ("EG", "PG", "EM", "PM")}
    return found


def _psa_measures(residual, periods):
    found: dict[str, float] = {}
    for name, row in zip(("psa", "psa_gm"), residual, strict=True):
        found |= {
            f"{name}_{period:g}s": float(value)
            for period, value in zip(periods, row, strict=True)
        }
    return found | {"psa_error": float(np.mean(np.abs(residual[0])))}


def _spectrum_measures(residual, centers, corner):
    high = centers >= END_OF_FLANK * corner
    if not high.any():
        raise ValueError(
            f"the highest center, {centers.max():g} Hz, is below {END_OF_FLANK:g} "
            f"times the corner {corner:g} Hz; lower the corner or add centers"
        )
    found = {
        f"fas_{low:g}_{top:g}hz": mean
        for (low, top), mean in spectra.band_means(residual, centers).items()
    }
    distance = float(np.sqrt(np.mean(residual**2)))
    return found | {
        "fas_error": float(np.mean(np.abs(residual[high]))),
        "lsd": distance,
        "lsd_db": distance * spectra.DECIBELS,
    }


def _mean_correlation(first, second):
    first = first - first.mean(axis=0)
    second = second - second.mean(axis=0)
    product = np.sum(first * second, axis=0)
    size = np.linalg.norm(first, axis=0) * np.linalg.norm(second, axis=0)
    return float(np.mean(product / size))


def _pair(generated, other, name):
    generated = spectra.check_record(generated)
    other = spectra.check_record(other)
    if generated.shape != other.shape:
        raise ValueError(
            f"generated record {list(generated.shape)} and {name} "
            f"{list(other.shape)} differ in shape; cut both to the same window"
        )
    return generated, other
