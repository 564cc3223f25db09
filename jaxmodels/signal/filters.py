"""Butterworth filters as multipliers of the spectrum, and the merge built on them.

The filters are the digital ones (bilinear transform, frequencies pre-warped), so that
they agree with `scipy.signal`, and they are differentiable in the waveform and in the
corner. Numpy in, numpy out (in float64 inside); an array of JAX anywhere in the
arguments makes it a JAX computation.

Shapes use B batch, T length, C components, F = T // 2 + 1 frequencies.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from scipy import fft as scipy_fft

# Decay of the slowest pole of a fourth-order Butterworth low-pass is
# exp(-2.4 corner t); over five periods of the corner on each side, and both sides
# meet in a circular transform, that is 4e-11. Higher orders decay more slowly.
PERIODS_OF_PADDING = 5.0
LEAST_PADDING = 10.0  # seconds


def lowpass_gain(length, sampling_rate, corner, order=4):
    """Amplitude gain of a low-pass run forward and backward: |H|^2, -6 dB at `corner`.

    |H|^2 = 1 / (1 + (tan(pi f / rate) / tan(pi corner / rate))^(2 order)), which is
    what `scipy.signal.sosfiltfilt(butter(order, corner))` does to each frequency.

    Args:
        length: T, samples of the (padded) signal.
        sampling_rate: Hz.
        corner: Hz; a number or an array [...], which may be traced.
        order: of the filter that runs once in each direction.

    Returns:
        [..., F], gains of the frequencies of `rfft`.

    Raises:
        ValueError: a corner that is not between 0 and half the sampling rate.
    """
    stop, passing = _warped(length, sampling_rate, corner)
    _check_order(order)
    stop, passing = stop ** (2 * order), passing ** (2 * order)
    return passing / (passing + stop)


def bandpass_gain(length, sampling_rate, low, high, order=4):
    """Amplitude gain of a band-pass run forward and backward, -6 dB at both corners.

    Args:
        length: T, samples of the (padded) signal.
        sampling_rate: Hz.
        low: lower corner in Hz.
        high: upper corner in Hz.
        order: as `scipy.signal.butter` counts it: each flank falls off with `order`.

    Returns:
        float64 [F].

    Raises:
        ValueError: the corners do not satisfy 0 < low < high < sampling_rate / 2.
    """
    _check_order(order)
    if not 0 < low < high < sampling_rate / 2:
        raise ValueError(
            f"band {low:g} to {high:g} Hz is not inside 0 to {sampling_rate / 2:g} Hz, "
            f"half the sampling rate; lower its upper corner or resample"
        )
    warped = np.tan(np.pi * np.fft.rfftfreq(length))
    warped_low = math.tan(math.pi * low / sampling_rate)
    warped_high = math.tan(math.pi * high / sampling_rate)
    passing = warped * (warped_high - warped_low)
    stop = np.abs(warped**2 - warped_low * warped_high)
    larger = np.maximum(passing, stop)
    passing, stop = (passing / larger) ** (2 * order), (stop / larger) ** (2 * order)
    return passing / (passing + stop)


def causal_gain(length, sampling_rate, corner, order=4):
    """Frequency response of a low-pass that runs once, forward, -3 dB at `corner`.

    H(s) = 1 / prod_k (s - p_k) with the Butterworth poles p_k on the left half of the
    unit circle and s = i tan(pi f / rate) / tan(pi corner / rate).

    Returns:
        complex [..., F], for the arguments of `lowpass_gain`.
    """
    _check_order(order)
    stop, passing = _warped(length, sampling_rate, corner)
    response = passing**order
    for k in range(order):
        angle = math.pi * (2 * k + order + 1) / (2 * order)
        pole = complex(math.cos(angle), math.sin(angle))
        response = response / (1j * stop - pole * passing)
    return response


def zero_phase_lowpass(waveform, sampling_rate, corner, order=4, pad_seconds=None):
    """Low-pass forward and backward, as if silence surrounded the waveform.

    Equals `scipy.signal.sosfiltfilt(..., padlen=0)` of the waveform between
    `pad_seconds` of zeros, cut back to the waveform.

    Args:
        waveform: [..., T, C].
        sampling_rate: Hz.
        corner: Hz; a number, or an array that broadcasts against the axes before T
            ([B] with a waveform [B, T, C]). May be traced.
        order: of the filter that runs once in each direction.
        pad_seconds: of zeros on each side; those of `lowpass_padding` when omitted.

    Returns:
        [..., T, C] in the waveform's own precision (integers become float64).

    Raises:
        ValueError: a corner that is not between 0 and half the sampling rate.
    """
    padded = _padded(waveform, sampling_rate, corner, order, pad_seconds)
    gain = lowpass_gain(padded, sampling_rate, corner, order)
    return _multiply(waveform, gain, padded)


def zero_phase_bandpass(waveform, sampling_rate, low, high, order=4, pad_seconds=None):
    """Band-pass forward and backward, as if silence surrounded the waveform.

    Args:
        waveform: [..., T, C].
        sampling_rate: Hz.
        low: lower corner in Hz.
        high: upper corner in Hz.
        order: of each flank, for the filter that runs once in each direction.
        pad_seconds: of zeros on each side; five periods of `low`, for orders above 4
            more, when omitted.

    Returns:
        [..., T, C] in the waveform's own precision (integers become float64).

    Raises:
        ValueError: the corners do not satisfy 0 < low < high < sampling_rate / 2.
    """
    if pad_seconds is None and low > 0:
        pad_seconds = _periods_of_padding(order) / low
    padded = padded_length(_length(waveform), sampling_rate, pad_seconds or 0.0)
    gain = bandpass_gain(padded, sampling_rate, low, high, order)
    return _multiply(waveform, gain, padded)


def causal_lowpass(waveform, sampling_rate, corner, order=4, pad_seconds=None):
    """Low-pass forward only: no precursor before an onset, but a delayed waveform.

    Equals `scipy.signal.sosfilt`. For conditions that come from causal simulations,
    where the zero-phase filter would leak about one period of the corner ahead of P.

    Args and returns are those of `zero_phase_lowpass`.
    """
    padded = _padded(waveform, sampling_rate, corner, order, pad_seconds)
    gain = causal_gain(padded, sampling_rate, corner, order)
    return _multiply(waveform, gain, padded)


def lowpass(
    waveform, sampling_rate, corner, order=4, pad_seconds=None, *, causal=False
):
    """`causal_lowpass` or `zero_phase_lowpass`, for code that has both as an option."""
    function = causal_lowpass if causal else zero_phase_lowpass
    return function(waveform, sampling_rate, corner, order, pad_seconds)


def complementary_merge(
    estimate,
    condition,
    sampling_rate,
    corner,
    iterations=8,
    order=4,
    pad_seconds=None,
    *,
    causal=False,
):
    """Gives an estimate the low frequencies of its condition, and keeps the high ones.

    Iterates y <- y + (x - LP(y)), Landweber's iteration for LP(y) = x (Landweber,
    1951). What LP(y) lacks of x shrinks by 1 - |H|^2 each time: in the pass band it is
    gone after the first, and only the flank of the filter needs more. Any y with
    LP(y) = x is a fixed point, so the true waveform stays as it is.

    A causal low-pass turns the phase, and the plain iteration would diverge where
    |1 - H| > 1; there the correction passes through the same filter backward, which
    gives the same factor 1 - |H|^2.

    Args:
        estimate: y, [..., T, C].
        condition: x, [..., T, C], low-passed by the same filter.
        sampling_rate: Hz.
        corner: Hz; a number or an array, as in `zero_phase_lowpass`.
        iterations: k; 0 returns the estimate.
        order, pad_seconds: of the filter that made the condition, as there.
        causal: whether the condition was made by `causal_lowpass`.

    Returns:
        [..., T, C], in the estimate's own precision (integers become float64), whatever
        that of the condition. Numpy is summed in float64.

    Raises:
        ValueError: shapes that differ, or a corner that is not between 0 and half the
            sampling rate.
    """
    if estimate.shape[-2:] != condition.shape[-2:]:
        raise ValueError(
            f"estimate {estimate.shape} and condition {condition.shape} differ in "
            f"length or components; cut both to the same window"
        )
    padded = _padded(estimate, sampling_rate, corner, order, pad_seconds)
    make_gain = causal_gain if causal else lowpass_gain
    gain = make_gain(padded, sampling_rate, corner, order)
    xp = jnp if _is_jax(estimate, condition, gain) else np
    dtype, wide = _dtypes(estimate, xp)
    estimate, condition = (xp.asarray(x, wide) for x in (estimate, condition))
    for _ in range(iterations):
        missing = condition - _multiply(estimate, gain, padded)
        if causal:
            missing = _multiply(missing, gain.conj(), padded)
        estimate = estimate + missing
    return estimate.astype(dtype)


def lowpass_padding(corner, order=4):
    """Seconds of zeros on each side of a waveform that is to be low-passed.

    Enough for the filter to fade to 4e-11, and at least 10 s.

    Args:
        corner: Hz; a number, or an array, of which the lowest counts. Of a traced one
            nothing is known, and 10 s are given: below 0.5 Hz (order 4) the end of the
            waveform then reaches its start, at 0.15 Hz by 1e-4. Name `pad_seconds`
            there.
        order: of the filter.
    """
    if isinstance(corner, jax.core.Tracer):
        return LEAST_PADDING
    # Of no corner at all the lowest is infinite; one not above 0 is refused later.
    lowest = float(np.min(np.asarray(corner), initial=np.inf))
    if not lowest > 0:
        return LEAST_PADDING
    return max(LEAST_PADDING, _periods_of_padding(order) / lowest)


def padded_length(length, sampling_rate, pad_seconds):
    """A length that is fast to transform and has the padding of both sides.

    In a circular transform, zeros after the end are also zeros before the start.
    """
    return scipy_fft.next_fast_len(
        length + 2 * round(pad_seconds * sampling_rate), real=True
    )


def _padded(waveform, sampling_rate, corner, order, pad_seconds):
    _check_order(order)
    if pad_seconds is None:
        pad_seconds = lowpass_padding(corner, order)
    return padded_length(_length(waveform), sampling_rate, pad_seconds)


def _periods_of_padding(order):
    """Periods of a corner over which the slowest pole fades as far for any order."""
    slower = math.sin(math.pi / 8) / math.sin(math.pi / (2 * order))
    return PERIODS_OF_PADDING * slower


def _multiply(waveform, gain, padded):
    """Filters [..., T, C] by gains [..., F] of the zero-padded waveform."""
    xp = jnp if _is_jax(waveform, gain) else np
    dtype, wide = _dtypes(waveform, xp)
    waveform = waveform.astype(wide)
    spectrum = xp.fft.rfft(waveform, n=padded, axis=-2)
    gain = gain[..., None].astype(spectrum.dtype)
    filtered = xp.fft.irfft(spectrum * gain, n=padded, axis=-2)
    return filtered[..., : waveform.shape[-2], :].astype(dtype)


def _dtypes(waveform, xp):
    """That of a result, and that of the arithmetic before it."""
    if xp is jnp:
        dtype = jnp.result_type(waveform.dtype, jnp.float32)
        return dtype, dtype
    return waveform.dtype if waveform.dtype.kind == "f" else np.float64, np.float64


def _warped(length, sampling_rate, corner):
    """tan(pi f / rate) [..., F] and tan(pi corner / rate) [..., 1], the larger made 1.

    Only their ratio matters. Scaled like this, no power of it overflows, at zero
    frequency and at half the rate neither, and gradients stay finite.
    """
    xp = jnp if _is_jax(corner) else np
    if not isinstance(corner, jax.core.Tracer):
        _check_corner(np.asarray(corner), sampling_rate)
    frequencies = np.tan(np.pi * np.fft.rfftfreq(length))
    corner = xp.asarray(corner)[..., None]
    if xp is jnp:
        frequencies = jnp.asarray(frequencies, jnp.result_type(corner, jnp.float32))
    warped = xp.tan(math.pi / sampling_rate * corner)
    larger = xp.maximum(frequencies, warped)
    return frequencies / larger, warped / larger


def _length(waveform):
    if waveform.ndim < 2:
        raise ValueError(
            f"a waveform {list(waveform.shape)} has no axis of components; it must be "
            f"[..., length, components]"
        )
    return waveform.shape[-2]


def _check_corner(corner, sampling_rate):
    bad = ~((corner > 0) & (corner < sampling_rate / 2))
    if bad.any():
        raise ValueError(
            f"corner {corner[bad].flat[0]:g} Hz is not between 0 and "
            f"{sampling_rate / 2:g} Hz, half the sampling rate; lower it or resample"
        )


def _check_order(order):
    if order < 1 or order != int(order):
        raise ValueError(f"order {order} is not a whole number of at least 1")


def _is_jax(*arrays):
    return any(isinstance(array, jax.Array) for array in arrays)
