"""Smoothed Fourier amplitude spectra, and distances between two of them.

Shapes use T length, C components, F frequencies of the transform, K center frequencies.
"""

import functools
import math

import numpy as np
from scipy import signal

CENTERS = np.geomspace(0.1, 30.0, 30)
BANDS = ((0.1, 1.0), (1.0, 5.0), (5.0, 10.0), (10.0, 30.0))
DECIBELS = 20.0 / math.log(10.0)
# Anti-alias filters of recorders and of resampling reach up to here.
USABLE_PART_OF_NYQUIST = 0.72


def fourier_amplitude(acceleration, sampling_rate, taper=0.0):
    """Amplitude of the Fourier transform, dt |sum_n a_n exp(-2 pi i f n dt)|.

    Args:
        acceleration: [T] or [T, C], m/s^2.
        sampling_rate: Hz.
        taper: part of the length that a cosine taper takes at each end.

    Returns:
        Frequencies [F] in Hz, and amplitudes [F] or [F, C] in m/s.
    """
    acceleration = np.asarray(acceleration, np.float64)
    length = len(acceleration)
    if taper:
        window = _taper(length, taper)
        acceleration = (acceleration.T * window).T
    amplitude = np.abs(np.fft.rfft(acceleration, axis=0)) / sampling_rate
    return np.fft.rfftfreq(length, 1 / sampling_rate), amplitude


def konno_ohmachi(frequencies, amplitude, centers, bandwidth=40.0):
    """Smooths a spectrum with windows of equal width in log frequency.

    W(f, c) = [sin(b log10(f/c)) / (b log10(f/c))]^4 (Konno and Ohmachi, 1998, eq. 4),
    normalized to sum 1 over the positive frequencies. The weights are kept between
    calls.

    Args:
        frequencies: [F], Hz; zero frequency is left out.
        amplitude: [F] or [F, C].
        centers: [K], Hz.
        bandwidth: b; larger is narrower.

    Returns:
        [K] or [K, C].

    Raises:
        ValueError: centers outside of the frequencies.
    """
    frequencies = np.asarray(frequencies, np.float64)
    centers = np.asarray(centers, np.float64)
    lowest, highest = frequencies[frequencies > 0][[0, -1]]
    # The last bits of 1 / (T dt) must not decide.
    outside = (centers < lowest * (1 - 1e-9)) | (centers > highest * (1 + 1e-9))
    if outside.any():
        raise ValueError(
            f"center {centers[outside][0]:g} Hz is outside of the {lowest:g} to "
            f"{highest:g} Hz that the record resolves; take centers from "
            f"resolved_centers"
        )
    weights = _konno_ohmachi_weights(
        frequencies.tobytes(), centers.tobytes(), bandwidth
    )
    return weights @ amplitude


def smoothed_spectrum(
    acceleration, sampling_rate, centers=CENTERS, component=None, taper=0.05
):
    """Fourier amplitudes of a record, smoothed by `konno_ohmachi`.

    Args:
        acceleration: [T, C], m/s^2.
        sampling_rate: Hz.
        centers: [K], Hz.
        component: which one; the geometric mean over all when omitted.
        taper: as in `fourier_amplitude`. Without one, the jump between the two ends of
            a window leaks into high frequencies and hides what is missing there.

    Returns:
        [K], m/s.

    Raises:
        ValueError: as `check_record` and `konno_ohmachi`.
    """
    acceleration = check_record(acceleration)
    frequencies, amplitude = fourier_amplitude(acceleration, sampling_rate, taper)
    smooth = konno_ohmachi(frequencies, amplitude, centers)
    if component is not None:
        return smooth[:, component]
    return np.exp(np.mean(np.log(smooth), axis=1))


def resolved_centers(length, sampling_rate, centers=CENTERS):
    """The centers between one cycle a record and 0.72 of half the sampling rate."""
    centers = np.asarray(centers, np.float64)
    highest = USABLE_PART_OF_NYQUIST * sampling_rate / 2
    return centers[(centers >= sampling_rate / length) & (centers <= highest)]


def fas_residual(generated, observed, sampling_rate, centers=CENTERS):
    """ln of generated over observed smoothed amplitudes.

    Args:
        generated, observed: [T, C], m/s^2; lengths may differ.
        sampling_rate: Hz.
        centers: [K], Hz.

    Returns:
        [K].
    """
    spectra = (
        smoothed_spectrum(record, sampling_rate, centers)
        for record in (generated, observed)
    )
    return np.subtract(*(np.log(spectrum) for spectrum in spectra))


def band_means(residual, centers=CENTERS, bands=BANDS):
    """Mean residual of each band (low, high] in Hz that holds a center.

    Args:
        residual: [K].
        centers: [K], Hz.
        bands: pairs in Hz; the first includes its lower end.

    Returns:
        {(low, high): mean}.
    """
    centers = np.asarray(centers)
    means = {}
    for index, (low, high) in enumerate(bands):
        # Ends of a geometric grid are off by rounding.
        above = centers > low * (1 + 1e-9) if index else centers >= low * (1 - 1e-9)
        inside = above & (centers <= high * (1 + 1e-9))
        if inside.any():
            means[low, high] = float(np.mean(np.asarray(residual)[inside]))
    return means


def log_spectral_distance(
    generated, observed, sampling_rate, centers=CENTERS, *, decibels=False
):
    """Root mean square of `fas_residual` over the centers, in ln units or in dB."""
    residual = fas_residual(generated, observed, sampling_rate, centers)
    return float(np.sqrt(np.mean(residual**2))) * (DECIBELS if decibels else 1.0)


def check_record(acceleration):
    """A record as float64 [T, C].

    Raises:
        ValueError: another number of axes, values that are not finite, or a component
            that is zero throughout.
    """
    acceleration = np.asarray(acceleration, np.float64)
    if acceleration.ndim != 2 or not acceleration.size:
        raise ValueError(
            f"a record has the shape [length, components], not "
            f"{list(acceleration.shape)}; add the missing axis"
        )
    finite = np.isfinite(acceleration)
    if not finite.all():
        raise ValueError(
            f"{finite.size - finite.sum()} of {finite.size} samples are not finite; "
            f"leave the record out or repair the gap"
        )
    for component, values in enumerate(acceleration.T):
        if not values.any():
            raise ValueError(
                f"component {component} is zero throughout, its spectrum has no "
                f"logarithm; leave it out"
            )
    return acceleration


@functools.lru_cache(maxsize=16)
def _taper(length, part):
    return signal.windows.tukey(length, 2 * part)


@functools.lru_cache(maxsize=16)
def _konno_ohmachi_weights(frequencies, centers, bandwidth):
    """[K, F]; arguments as bytes of float64, which a cache can hold."""
    frequencies, centers = np.frombuffer(frequencies), np.frombuffer(centers)
    positive = frequencies > 0
    ratio = np.log10(frequencies[positive] / centers[:, None])
    # numpy's sinc is sin(pi x) / (pi x).
    window = np.sinc(bandwidth / math.pi * ratio) ** 4
    weights = np.zeros((len(centers), len(frequencies)))
    weights[:, positive] = window / window.sum(axis=1, keepdims=True)
    return weights
