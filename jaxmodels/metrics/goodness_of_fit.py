"""How well one accelerogram fits another, on scales from 0 to 10.

Below 4 a fit is called poor, from 4 fair, from 6 good and from 8 excellent, in both of
the measures here.

Shapes use T samples, C components, B bands, F frequencies, P periods, K Fourier bins.
"""

import functools
import math

import numpy as np
import scipy.fft

from jaxmodels.metrics import response_spectrum, spectra
from jaxmodels.signal import filters

BEST = 10.0
# Hz, as the SCEC Broadband Platform sets them; a tenth band holds all of them.
BANDS = (
    (0.1, 0.2),
    (0.2, 0.5),
    (0.5, 1.0),
    (1.0, 2.0),
    (2.0, 5.0),
    (5.0, 10.0),
    (10.0, 20.0),
    (20.0, 50.0),
    (50.0, 100.0),
)
SCORES = (
    "arias_duration",
    "energy_duration",
    "arias_intensity",
    "energy",
    "peak_acceleration",
    "peak_velocity",
    "peak_displacement",
    "response_spectrum",
    "fourier_spectrum",
    "correlation",
)
PERIODS_A_DECADE = 12
REACH = 5.0  # standard deviations that a wavelet reaches to each side


def highest_frequency(sampling_rate, limit=30.0):
    """Where comparisons end in Hz: `limit`, or where anti-alias filters begin."""
    return min(limit, spectra.USABLE_PART_OF_NYQUIST * sampling_rate / 2)


def anderson(generated, observed, sampling_rate, *, low=0.1, high=None, bands=BANDS):
    """Ten scores in up to ten bands (Anderson, 2004, 13th WCEE, paper 243).

    Both records are filtered into each band and integrated. Two numbers score
    `10 exp(-((p1 - p2) / min(p1, p2))^2)`; a normalized integral of the squared motion
    scores 10 less ten times the largest difference; the correlation scores ten times
    itself, negative ones 0. Spectra score frequency by frequency and are then averaged,
    the response spectrum over periods of the whole record. Every component counts the
    same.

    Args:
        generated, observed: accelerations [T, C] in one unit.
        sampling_rate: Hz.
        low, high: range that the records hold, in Hz; `high` defaults to
            `highest_frequency`.
        bands: pairs of Hz; those that lie within the range are scored, and the whole
            range as one more.

    Returns:
        {"mean": of all scores, "bands": B pairs, "scores": [B, 10] in the order of
        `SCORES`}.

    Raises:
        ValueError: shapes differ, a sample is not finite, or the range is empty.
    """
    generated, observed = _pair(generated, observed)
    high = highest_frequency(sampling_rate) if high is None else high
    _check_range(low, high, sampling_rate)
    chosen = [band for band in bands if low <= band[0] and band[1] <= high]
    chosen.append((low, high))
    pairs = list(
        zip(
            _motions(generated, sampling_rate, chosen),
            _kept(_motions, observed, sampling_rate, chosen),
            strict=True,
        )
    )
    accelerations, velocities, _ = pairs
    scores = [
        _shape_score(*accelerations),
        _shape_score(*velocities),
        _similarity(*(np.sum(x**2, axis=1) for x in accelerations)),
        _similarity(*(np.sum(x**2, axis=1) for x in velocities)),
    ]
    scores += [_similarity(*(np.abs(x).max(axis=1) for x in pair)) for pair in pairs]
    scores.append(_response_score(generated, observed, sampling_rate, chosen))
    scores.append(_fourier_score(generated, observed, sampling_rate, chosen))
    scores.append(_correlation_score(*accelerations))
    table = np.stack([score.mean(axis=-1) for score in scores], axis=-1)  # B 10
    return {"mean": float(table.mean()), "bands": chosen, "scores": table}


def kristekova(
    generated, observed, sampling_rate, *, low=0.1, high=None, num_frequencies=50
):
    """Misfit of time-frequency envelopes and phases (Kristekova et al., 2006, 2009).

    EM and PM are the single-valued misfits relative to the observed record (2006, eqs.
    14 and 15), EG = 10 exp(-EM) and PG = 10 (1 - PM) the goodness of fit (2009, with
    A = 10 and k = 1). Each component is its own reference; the values are means over
    components.

    Args:
        generated, observed: accelerations [T, C] in one unit.
        sampling_rate: Hz.
        low, high: range of frequencies in Hz, spaced logarithmically; `high` defaults
            to `highest_frequency`.
        num_frequencies: F.

    Returns:
        {"EM", "PM", "EG", "PG"}; 0, 0, 10 and 10 for equal records.

    Raises:
        ValueError: shapes differ, a sample is not finite, a component of either is
            zero, or the range is empty.
    """
    generated, observed = _pair(generated, observed)
    high = highest_frequency(sampling_rate) if high is None else high
    _check_range(low, high, sampling_rate)
    frequencies = np.geomspace(low, high, num_frequencies)
    envelope, phase = misfits(generated, observed, sampling_rate, frequencies)
    return {
        "EM": float(envelope.mean()),
        "PM": float(phase.mean()),
        "EG": float(np.mean(BEST * np.exp(-envelope))),
        "PG": float(np.mean(BEST * (1 - phase))),
    }


def misfits(generated, observed, sampling_rate, frequencies):
    """Envelope and phase misfit of each component, two arrays [C]; see `kristekova`."""
    peaks = np.abs(observed).max(axis=0)
    for name, sizes in (
        ("observed", peaks),
        ("generated", np.abs(generated).max(axis=0)),
    ):
        # Zeros have no phase, and nothing is relative to them.
        if not sizes.all():
            raise ValueError(
                f"{name} component {int(np.argmin(sizes))} is zero everywhere, and its "
                "misfit is undefined; leave the component out"
            )
    envelopes, phases = [], []
    for one, reference, peak in zip(generated.T, observed.T, peaks, strict=True):
        both = np.stack([one, reference]) / peak
        made, true = morlet_transform(both, sampling_rate, frequencies)
        size = np.abs(true)
        power = np.sum(size**2, dtype=np.float64)
        difference = np.abs(np.angle(made) - np.angle(true))
        difference = np.minimum(difference, 2 * np.pi - difference) / np.pi
        errors = (np.abs(made) - size, size * difference)
        values = [np.sqrt(np.sum(e**2, dtype=np.float64) / power) for e in errors]
        envelopes.append(values[0])
        phases.append(values[1])
    return np.array(envelopes), np.array(phases)


def morlet_transform(waveform, sampling_rate, frequencies, omega=6.0):
    """Continuous wavelet transform with the analyzing Morlet wavelet.

    W(t, f) is the convolution with conj(psi(-t / s)) / sqrt(s), s = omega / (2 pi f),
    of a wavelet whose spectrum is exp(-(s w - omega)^2 / 2) (Kristekova et al., 2006,
    eqs. 1 to 3), up to a constant factor that misfits do not see. The record is padded
    with zeros as far as the longest wavelet reaches.

    Args:
        waveform: [..., T].
        sampling_rate: Hz.
        frequencies: [F] in Hz.
        omega: the wavelet's number of oscillations, 2 pi times.

    Returns:
        complex64 [..., F, T].
    """
    waveform = np.asarray(waveform, np.float32)
    frequencies = np.asarray(frequencies, np.float64)
    length = waveform.shape[-1]
    scales = omega / (2 * np.pi * frequencies)  # F, in seconds
    reach = math.ceil(REACH * scales.max() * sampling_rate)
    padded = scipy.fft.next_fast_len(length + reach)
    angular = 2 * np.pi * np.fft.rfftfreq(padded, 1 / sampling_rate)  # K
    wavelets = np.exp(-0.5 * (scales[:, None] * angular - omega) ** 2)  # F K
    wavelets = (np.sqrt(scales)[:, None] * wavelets).astype(np.float32)
    spectrum = scipy.fft.rfft(waveform, padded)[..., None, :]  # ... 1 K
    # The wavelet has nothing at negative frequencies: they stay zero.
    whole = np.zeros((*waveform.shape[:-1], frequencies.size, padded), np.complex64)
    whole[..., : angular.size] = wavelets * spectrum
    return scipy.fft.ifft(whole, overwrite_x=True)[..., :length]


def _pair(generated, observed):
    """Both as float64 [T, C], checked."""
    generated = np.asarray(generated, np.float64)
    observed = np.asarray(observed, np.float64)
    if generated.shape != observed.shape or observed.ndim != 2:
        raise ValueError(
            f"generated {generated.shape} and observed {observed.shape} must have one "
            "shape [T, C]; cut them to the same window and components"
        )
    for name, values in (("generated", generated), ("observed", observed)):
        bad = np.flatnonzero(~np.isfinite(values).all(axis=-1))
        if bad.size:
            raise ValueError(
                f"{name} has {bad.size} samples that are not finite, the first at "
                f"{bad[0]}; fill or cut them"
            )
    return generated, observed


def _check_range(low, high, sampling_rate):
    if not 0 < low < high < sampling_rate / 2:
        raise ValueError(
            f"low {low:g} Hz and high {high:g} Hz must satisfy 0 < low < high < "
            f"{sampling_rate / 2:g} Hz, half the sampling rate"
        )


def _motions(acceleration, sampling_rate, bands):
    """Acceleration, velocity and displacement in each band, each [B, T, C].

    Integrated by Fourier transform: a band without its lowest frequencies has no drift.
    """
    length = len(acceleration)
    padded = scipy.fft.next_fast_len(2 * length, real=True)
    gains = np.stack(
        [filters.bandpass_gain(padded, sampling_rate, *band) for band in bands]
    )
    angular = 2 * np.pi * np.fft.rfftfreq(padded, 1 / sampling_rate)[:, None]  # K 1
    integral = np.zeros(angular.shape, np.complex128)
    integral[1:] = 1 / (1j * angular[1:])
    spectrum = gains[..., None] * scipy.fft.rfft(acceleration, padded, axis=0)  # B K C
    motions = []
    for _ in range(3):
        motions.append(scipy.fft.irfft(spectrum, padded, axis=1)[:, :length])
        spectrum = spectrum * integral
    return motions


def _kept(function, record, sampling_rate, bands):
    """function(record, sampling_rate, bands), remembered for the next samples of it."""
    data = np.ascontiguousarray(record).tobytes()
    return _of_bytes(function, data, record.shape, sampling_rate, tuple(bands))


@functools.lru_cache(maxsize=4)
def _of_bytes(function, data, shape, sampling_rate, bands):
    return function(np.frombuffer(data).reshape(shape), sampling_rate, list(bands))


def _similarity(first, second):
    """Anderson's score of two numbers that are not negative, for any shape."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = (first - second) / np.minimum(first, second)
        score = BEST * np.exp(-(ratio**2))
    return np.where(first == second, BEST, score)


def _shape_score(first, second):
    """Of the normalized integrals of the squares of [B, T, C]: [B, C]."""
    shares = []
    for motion in (first, second):
        grown = np.cumsum(motion**2, axis=1)
        total = grown[:, -1:]
        shares.append(np.divide(grown, total, np.zeros_like(grown), where=total > 0))
    return BEST * (1 - np.abs(shares[0] - shares[1]).max(axis=1))


def _correlation_score(first, second):
    """[B, T, C] twice -> [B, C]; two components that are both zero agree."""
    product = np.sum(first * second, axis=1)
    energies = [np.sum(motion**2, axis=1) for motion in (first, second)]
    size = np.sqrt(energies[0] * energies[1])
    agree = (energies[0] == energies[1]).astype(float)
    correlation = np.divide(product, size, agree, where=size > 0)
    return BEST * np.clip(correlation, 0, 1)


def _response_score(generated, observed, sampling_rate, bands):
    """Mean score over the periods of each band: [B, C]."""
    scores = _similarity(
        _responses(generated, sampling_rate, bands),
        _kept(_responses, observed, sampling_rate, bands),
    )  # P C
    return _band_means(scores, 1 / _periods(bands), bands)


def _responses(motion, sampling_rate, bands):
    """Response spectrum of each component, [P, C]."""
    periods = _periods(bands)
    return np.stack([_response(a, sampling_rate, periods) for a in motion.T], axis=-1)


def _periods(bands):
    low, high = bands[-1]
    count = math.ceil(PERIODS_A_DECADE * math.log10(high / low)) + 1
    return np.geomspace(1 / high, 1 / low, count)


def _response(acceleration, sampling_rate, periods):
    if not acceleration.any():
        return np.zeros(len(periods))
    return response_spectrum.psa(acceleration, sampling_rate, periods)


def _fourier_score(generated, observed, sampling_rate, bands):
    """Mean score over the Fourier bins of each band: [B, C]."""
    frequencies = np.fft.rfftfreq(len(observed), 1 / sampling_rate)
    sizes = [np.abs(scipy.fft.rfft(a, axis=0)) for a in (generated, observed)]
    return _band_means(_similarity(*sizes), frequencies, bands)


def _band_means(scores, frequencies, bands):
    """Mean of scores [K, C] over each band, of the nearest one where it has none."""
    means = []
    for low, high in bands:
        inside = (frequencies >= low) & (frequencies <= high)
        if not inside.any():
            inside = np.abs(frequencies - math.sqrt(low * high)).argmin()[None]
        means.append(scores[inside].mean(axis=0))
    return np.stack(means)
