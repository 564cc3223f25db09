"""What a broadening model has to beat: the low-pass record itself, and shaped noise.

Shapes use T samples, C components, M samples of one record, F frequencies.
"""

import dataclasses

import numpy as np
import scipy.fft

from jaxmodels.metrics import ground_motion, spectra
from jaxmodels.signal import filters
from jaxmodels.train.errors import ConfigError

LOW_PASS, SHAPED_NOISE = "low-pass only", "shaped noise"
NUM_CENTERS = 60
QUIET_SECONDS = 2.0
TAPER = 0.05  # as for the spectra that samples are scored by


def low_pass_only(low_passed, seed=0):
    """The record as it is, [T, C], as one sample [1, T, C]."""
    del seed
    return np.asarray(low_passed)[None]


@dataclasses.dataclass(frozen=True)
class ShapedNoise:
    """White noise that follows the low frequencies in time and a mean spectrum.

    White noise times the smoothed envelope of the low-pass record gets the mean
    spectrum above the corner of the training records, and their mean ratio of
    amplitudes above and below it. The low frequencies are then those of the record, by
    complementary merge. Means are those of logarithms, so that no large record counts
    more than a small one. Each component has its own envelope, spectrum and ratio.

    Args:
        sampling_rate: Hz.
        corner: Hz, of the records that were fitted and of those to broaden.
        centers: [F] frequencies of the spectrum in Hz.
        log_amplitude: [F, C], mean of ln of the smoothed amplitudes above the corner,
            each record divided by its standard deviation there.
        log_ratio: [C], mean of ln of the standard deviation above the corner over that
            of the low-pass record.
        smoothing: seconds of the running mean over the envelope.
        iterations: of the complementary merge.
        order, causal: of the low-pass, as in `filters.lowpass`.
    """

    sampling_rate: float
    corner: float
    centers: np.ndarray
    log_amplitude: np.ndarray
    log_ratio: np.ndarray
    smoothing: float = 1.0
    iterations: int = 8
    order: int = 4
    causal: bool = False

    @classmethod
    def fit(
        cls,
        windows,
        sampling_rate,
        corner,
        *,
        smoothing=1.0,
        iterations=8,
        order=4,
        causal=False,
    ):
        """Takes the means over training windows.

        Args:
            windows: pairs (broadband, low-passed), both [T, C] in one unit.
            sampling_rate, corner: of all windows, in Hz.
            smoothing, iterations, order, causal: as in the class.

        Raises:
            ConfigError: there is no window, a window is no pair of finite arrays of one
                shape, or is shorter than two periods of the corner, or a component is
                zero below or above the corner.
        """
        if smoothing <= 0 or iterations < 1:
            raise ConfigError(
                f"smoothing {smoothing} s must be above 0 and iterations {iterations} "
                "at least 1"
            )
        top = 0.98 * sampling_rate / 2
        centers = np.geomspace(corner / 2, top, NUM_CENTERS)
        count, log_amplitude, log_ratio = 0, np.zeros(()), np.zeros(())
        for broadband, low_passed in windows:
            ratio, amplitude = _above(
                broadband, low_passed, sampling_rate, centers, f"window {count}"
            )
            if count and ratio.shape != log_ratio.shape:
                raise ConfigError(
                    f"window {count} has {ratio.size} components, those before it "
                    f"{log_ratio.size}; fit one number of components at a time"
                )
            log_amplitude = log_amplitude + np.log(amplitude)
            log_ratio = log_ratio + np.log(ratio)
            count += 1
        if not count:
            raise ConfigError("shaped noise needs at least one training window, got 0")
        return cls(
            sampling_rate=float(sampling_rate),
            corner=float(corner),
            centers=centers,
            log_amplitude=log_amplitude / count,
            log_ratio=log_ratio / count,
            smoothing=smoothing,
            iterations=iterations,
            order=order,
            causal=causal,
        )

    def sample(self, low_passed, seed, num_samples):
        """Broadens a record.

        Args:
            low_passed: [T, C], by the filter of the fit.
            seed: int; the same one gives the same samples.
            num_samples: M.

        Returns:
            [M, T, C] in the unit of the record.

        Raises:
            ConfigError: another number of components than those of the fit.
        """
        low_passed = np.asarray(low_passed, np.float64)
        length, channels = low_passed.shape
        if channels != self.log_ratio.size:
            raise ConfigError(
                f"record has {channels} components, shaped noise was fitted on "
                f"{self.log_ratio.size}; give it the same components"
            )
        rng = np.random.default_rng(seed)
        noise = rng.standard_normal((num_samples, length, channels))
        width = self.smoothing * self.sampling_rate
        noise *= ground_motion.smoothed_envelope(low_passed, width)
        # Zeros after the end keep it from acting on the start.
        padded = scipy.fft.next_fast_len(
            length + round(QUIET_SECONDS * self.sampling_rate), real=True
        )
        spectrum = scipy.fft.rfft(noise, padded, axis=1) * self._gain(padded)
        high = scipy.fft.irfft(spectrum, padded, axis=1)[:, :length]
        deviation = high.std(axis=1, keepdims=True)
        wanted = np.exp(self.log_ratio) * low_passed.std(axis=0)
        high *= np.divide(
            wanted, deviation, np.zeros_like(deviation), where=deviation > 0
        )
        return filters.complementary_merge(
            low_passed + high,
            low_passed,
            self.sampling_rate,
            self.corner,
            iterations=self.iterations,
            order=self.order,
            causal=self.causal,
        )

    def _gain(self, length):
        """Amplitude of each Fourier bin and component, [T // 2 + 1, C]."""
        frequencies = scipy.fft.rfftfreq(length, 1 / self.sampling_rate)
        place = np.log(np.maximum(frequencies, self.centers[0]))
        known = np.log(self.centers)
        gain = np.exp([np.interp(place, known, one) for one in self.log_amplitude.T]).T
        gain[0] = 0
        return gain


def systems(noise, num_samples):
    """Both baselines by name, each a function of condition and seed.

    Args:
        noise: a fitted `ShapedNoise`.
        num_samples: that shaped noise draws; the low-pass record is always one.
    """
    return {
        LOW_PASS: low_pass_only,
        SHAPED_NOISE: lambda condition, seed: noise.sample(
            condition, seed, num_samples
        ),
    }


def _above(broadband, low_passed, sampling_rate, centers, name):
    """Ratio [C] above and below the corner, and amplitudes above it [F, C]."""
    broadband = np.asarray(broadband, np.float64)
    low_passed = np.asarray(low_passed, np.float64)
    if broadband.ndim != 2 or broadband.shape != low_passed.shape:
        raise ConfigError(
            f"{name}: broadband {broadband.shape} and low-passed {low_passed.shape} "
            "must have one shape [T, C]"
        )
    high = broadband - low_passed
    below, above = low_passed.std(axis=0), high.std(axis=0)
    # Written so that a NaN is refused as well.
    if not (np.all(below > 0) and np.all(above > 0) and np.isfinite(above).all()):
        raise ConfigError(
            f"{name}: standard deviations {below} below and {above} above the corner "
            "must be above 0 and finite; leave the window out"
        )
    frequencies, amplitude = spectra.fourier_amplitude(
        high / above, sampling_rate, taper=TAPER
    )
    try:
        return above / below, spectra.konno_ohmachi(frequencies, amplitude, centers)
    except ValueError as error:
        raise ConfigError(f"{name} of {len(high)} samples: {error}") from None
