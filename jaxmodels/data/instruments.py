"""Seismographs and their noise, drawn anew for each window of a synthetic record.

A record of acceleration without noise becomes what one of many kinds of instruments
might have written: a broadband or short-period seismometer or an accelerometer, its
filter, ground noise of some color at some level, lines of machines, footsteps, counts
that are whole numbers, and a range that ends.

Every filter here is causal and starts at rest, so that P stays where it is.

Shapes use T samples of a record, N samples of a window.
"""

import dataclasses
import functools
import math

import numpy as np
import scipy.fft
import scipy.signal

from jaxmodels.data.town_noise import add_town
from jaxmodels.train.errors import ConfigError

BAND = 1.0  # Hz; sizes of signal and noise are compared above it
ONSET = 0.5  # seconds after P that tell the size of the signal
KINDS = ("broadband", "short_period", "accelerometer")
KIND_SHARES = (0.35, 0.4, 0.25)
NOISE_KNOTS = np.log(np.array([0.05, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 50.0]))


@dataclasses.dataclass(frozen=True)
class Instruments:
    """Which instruments and noise are drawn.

    Attributes:
        kinds: of `KINDS`.
        snr: least and largest signal-to-noise ratio in dB, equally likely between them:
            of the half second after P to the noise, vertical, above 1 Hz.
        microseism, lines, swell, bursts: shares of the windows whose noise has a peak
            at 0.1 to 0.4 Hz; one or more lines of machines; a size that varies;
            transients that are no arrivals.
        town: share of the windows whose noise has vehicles, footsteps or machines in
            it, see `town_noise`.
        lowpassed, quantized, clipped: shares of the windows that are low-passed by the
            instrument, are in whole counts, and go beyond its range.

    Raises:
        ConfigError: fields out of range.
    """

    kinds: tuple[str, ...] = KINDS
    snr: tuple[float, float] = (3.0, 50.0)
    microseism: float = 0.4
    lines: float = 0.15
    swell: float = 0.3
    bursts: float = 0.25
    town: float = 0.0
    lowpassed: float = 0.4
    quantized: float = 0.3
    clipped: float = 0.05

    def __post_init__(self):
        object.__setattr__(self, "kinds", tuple(self.kinds))
        object.__setattr__(self, "snr", tuple(map(float, self.snr)))
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        errors = []
        if unknown or not self.kinds:
            errors.append(f"kinds {self.kinds} are not some of {', '.join(KINDS)}")
        if len(self.snr) != 2 or not self.snr[0] <= self.snr[1]:
            errors.append(f"snr {self.snr} dB must be two numbers that rise")
        errors += share_errors(self, ("kinds", "snr"))
        if errors:
            raise ConfigError("instruments: " + "; ".join(errors))

    def respond(self, rng, motion, sampling_rate):
        """What a seismograph at rest makes of a motion that begins at sample 0.

        Args:
            motion: acceleration [T, 3].
            sampling_rate: Hz.

        Returns:
            float64 [T, 3]: velocity or acceleration, in no unit.
        """
        shares = np.array([KIND_SHARES[KINDS.index(kind)] for kind in self.kinds])
        kind = rng.choice(self.kinds, p=shares / shares.sum())
        low, high = {
            "broadband": (0.008, 0.1),
            "short_period": (0.7, 4.5),
            "accelerometer": (0.008, 0.2),
        }[kind]
        corner = low * (high / low) ** rng.uniform()
        damping = rng.uniform(0.4, 1.0)
        shape = "high" if kind == "accelerometer" else "band"
        sections = [section(shape, corner, damping, sampling_rate)]
        if rng.uniform() < self.lowpassed:
            # Those of slower instruments, which were sampled faster later on.
            corner = sampling_rate * rng.uniform(0.15, 0.45)
            sections.append(section("low", corner, 0.7, sampling_rate))
        return scipy.signal.sosfilt(np.stack(sections), motion, axis=0)

    def noise(self, rng, length, sampling_rate):
        """Noise of ground and instrument, of size about 1 above 1 Hz in the vertical.

        Returns:
            float64 [N, 3].
        """
        noise = colored(rng, length, sampling_rate, self._color(rng, sampling_rate))
        if rng.uniform() < self.swell:
            time = np.arange(length) / length
            wave = np.cos(2 * np.pi * (rng.uniform(0.3, 4.0) * time + rng.uniform()))
            noise *= np.exp(rng.uniform(0.1, 0.8) * wave)[:, None]
        noise *= np.exp(0.3 * rng.standard_normal(3))
        if rng.uniform() < self.bursts:
            for _ in range(rng.integers(1, 5)):
                _add_burst(rng, noise, sampling_rate)
        # Nothing is drawn for no town: windows stay what they are without one.
        if self.town and rng.uniform() < self.town:
            add_town(rng, noise, sampling_rate)
        return noise

    def _color(self, rng, sampling_rate):
        """Logarithm of the noise's amplitude as a function of frequency in Hz."""
        slope = rng.uniform(-0.5, 1.5)
        knots = 0.5 * rng.standard_normal(len(NOISE_KNOTS)) - slope * NOISE_KNOTS
        bump, center = 0.0, 0.0
        if rng.uniform() < self.microseism:
            bump = math.log(10.0) * rng.uniform(0.3, 1.7)
            center = math.log(rng.uniform(0.1, 0.4))
        lines = []
        if rng.uniform() < self.lines:
            for _ in range(rng.integers(1, 4)):
                lines.append(
                    (rng.uniform(2.0, 0.48 * sampling_rate), rng.uniform(1, 3))
                )
        width = rng.uniform(0.02, 0.3)  # Hz

        def color(frequency, log_frequency):
            level = np.interp(log_frequency, NOISE_KNOTS, knots)
            if bump:
                distance = (log_frequency - center) / 0.35
                level += bump * np.exp(-0.5 * np.square(distance))
            for line, height in lines:
                level += height * np.exp(-np.square((frequency - line) / width))
            return level

        return color

    def write(self, rng, signal, noise, size):
        """A record as it is written: signal and noise, in counts, within the range.

        Args:
            signal: [N, 3], as of `respond`.
            noise: [N, 3], of size 1 above 1 Hz.
            size: of the signal, as of `onset_size`; of 0 or None for noise alone.

        Returns:
            float64 [N, 3].
        """
        snr = 10 ** (rng.uniform(*self.snr) / 20)
        if size:
            written = noise + signal * (snr / size)
        else:
            written = np.array(noise)
        if rng.uniform() < self.clipped:
            limit = np.abs(written).max() * 10 ** rng.uniform(-1.5, -0.1)
            written = np.clip(written, -limit, limit)
        if rng.uniform() < self.quantized:
            step = noise.std() * 10 ** rng.uniform(-2.0, 0.1)
            written = np.rint(written / step) * step
        return written


def make_instruments(instruments):
    """`Instruments` of True or a dict of its fields; None of False or None.

    Raises:
        ConfigError: there is no such field, or its value is out of range.
    """
    return made_of(Instruments, instruments, "instruments")


def made_of(kind, given, what):
    """A dataclass of True or a dict of its fields; None of False or None.

    Raises:
        ConfigError: there is no such field, or its value is out of range.
    """
    if given is None or isinstance(given, bool):
        return kind() if given else None
    try:
        return kind(**given)
    except TypeError as error:
        names = ", ".join(field.name for field in dataclasses.fields(kind))
        raise ConfigError(f"{what} {dict(given)}: its fields are {names}") from error


def share_errors(options, but=()):
    """Lines for the numbers of a dataclass that are not between 0 and 1."""
    values = {
        field.name: getattr(options, field.name)
        for field in dataclasses.fields(options)
        if field.name not in but
    }
    return [
        f"{k} {v} is not between 0 and 1" for k, v in values.items() if not 0 <= v <= 1
    ]


def section(shape, corner, damping, sampling_rate):
    """A second-order filter by the bilinear transform, as a row of `sosfilt`'s.

    With s in units of the corner, over s^2 + 2 damping s + 1: s^2 for "high", s for
    "band", which is a seismometer's velocity of acceleration, 1 for "low".

    Args:
        corner: Hz, below half of `sampling_rate`.

    Returns:
        float64 [6].
    """
    warped = math.tan(math.pi * corner / sampling_rate)
    square = warped * warped
    scale = 1 + 2 * damping * warped + square
    numerator = {
        "high": (1.0, -2.0, 1.0),
        "band": (warped, 0.0, -warped),
        "low": (square, 2 * square, square),
    }[shape]
    below = (scale, 2 * (square - 1), 1 - 2 * damping * warped + square)
    return np.array([*numerator, *below]) / scale


def onset_size(signal, sampling_rate):
    """Root mean square of the half second after P, vertical, above 1 Hz.

    Args:
        signal: [T, 3], which begins with P.
    """
    vertical = signal[: round(ONSET * sampling_rate), 0]
    return math.sqrt(np.mean(np.square(above_band(vertical, sampling_rate))) + 1e-60)


def above_band(waveform, sampling_rate):
    """[T] or [T, C] above `BAND`, by a causal filter that starts at rest."""
    return scipy.signal.sosfilt(_band_filter(sampling_rate), waveform, axis=0)


@functools.lru_cache(maxsize=8)
def _band_filter(sampling_rate):
    return section("high", BAND, 0.7, sampling_rate)[None]


@functools.lru_cache(maxsize=8)
def _axis(length, sampling_rate):
    """Frequencies [F] and their logarithms, the first of which counts as the second."""
    frequency = scipy.fft.rfftfreq(length, 1 / sampling_rate)
    return frequency, np.log(np.maximum(frequency, frequency[1]))


def colored(rng, length, sampling_rate, color):
    """Gaussian noise of a color, of size 1 above 1 Hz, float64 [length, 3].

    Args:
        color: (frequency [F], its logarithm) -> logarithm of the amplitude [F].
    """
    padded = scipy.fft.next_fast_len(length + 2, real=True)
    frequency, log_frequency = _axis(padded, sampling_rate)
    amplitude = np.exp(color(frequency, log_frequency))
    amplitude[0] = 0.0
    power = np.sum(np.square(amplitude[frequency >= BAND]))
    # Of 2 F parts of variance 1, each sample of the inverse gets 4 / padded^2.
    amplitude *= padded / math.sqrt(4 * power)
    parts = rng.standard_normal((3, 2 * len(frequency))).view(complex)
    return scipy.fft.irfft(parts * amplitude, padded)[:, :length].T


def _add_burst(rng, noise, sampling_rate):
    """Adds a transient that is no arrival: a spike, a step on the ground, a vehicle."""
    seconds = 10 ** rng.uniform(-1.7, 0.5)
    length = min(max(round(5 * seconds * sampling_rate), 2), len(noise))
    first = int(rng.integers(len(noise) - length + 1))
    time = np.arange(length) / sampling_rate
    shape = np.exp(-time / seconds) * np.minimum(
        time / (seconds * rng.uniform(0, 2) + 1e-6), 1
    )
    shape[0] = max(shape[0], 1e-3)
    tone = np.cos(2 * np.pi * (rng.uniform(2.0, 40.0) * time + rng.uniform()))
    wave = tone if rng.uniform() < 0.5 else rng.standard_normal(length)
    size = 10 ** rng.uniform(0.5, 1.5) * rng.standard_normal(3)
    noise[first : first + length] += (shape * wave)[:, None] * size
