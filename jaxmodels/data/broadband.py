"""Ground motion for a model that broadens it: windows, and the low-pass of each.

Shapes use B batch, T samples of a record, N samples of a window, C components.
"""

import dataclasses
import fractions
import math

import numpy as np
import scipy.signal

from jaxmodels.data import described
from jaxmodels.signal import filters
from jaxmodels.train.errors import ConfigError

KIND = "broadband"
NORMALIZATIONS = ("own_std", "joint_peak", "by_x")
AMPLITUDES = ("std_ratio", None)
TARGETS = ("broadband", "residual")
UNITS = ("m/s^2", "any")
LONGEST_TAPER = 5.0  # seconds; a share of a long record would cut into its events


def default_band(sampling_rate):
    """The pass band in Hz: 0.1 to 30, or to 0.4 of the rate where that is less."""
    return 0.1, min(30.0, 0.4 * sampling_rate)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How a record becomes the arrays that a model sees, and back.

    Attributes:
        sampling_rate: Hz.
        num_samples: N, of a window.
        channels: C, in the order vertical, north, east; or 1, any one of them.
        corner: of the low-pass in Hz, or (lowest, highest) for a model of any corner
            between the two.
        order: of the Butterworth filters, each of which runs forward and backward.
        band: (low, high) in Hz, what is kept of a record; `default_band` when omitted.
        taper: share of a record that is tapered at each of its ends, up to 5 s.
        causal: the low-pass runs forward only, as that of a simulation may.
        normalization: what each of the two waveforms is divided by. "own_std": its
            standard deviation over all components; "joint_peak": its largest absolute
            value in any component (one number for all, as the model predicts one);
            "by_x": both by the standard deviation of the low-pass.
        amplitude: "std_ratio": the size of the low-pass is told to the model. None: it
            is not, as records in counts want it.
        target: "broadband", or "residual" for that without the low-pass.
        units: of the records: "m/s^2", or "any" where their size is not told.

    Raises:
        ConfigError: fields that are impossible or contradict each other.
    """

    sampling_rate: float
    num_samples: int
    channels: int
    corner: float | tuple[float, float]
    order: int = 4
    band: tuple[float, float] | None = None
    taper: float = 0.05
    causal: bool = False
    normalization: str = "own_std"
    amplitude: str | None = "std_ratio"
    target: str = "broadband"
    units: str = "m/s^2"

    def __post_init__(self):
        corners = tuple(np.atleast_1d(self.corner).astype(float).tolist())
        corner = corners if len(set(corners)) > 1 else corners[0]
        # Lists, as JSON has them, would not compare equal to tuples.
        object.__setattr__(self, "sampling_rate", float(self.sampling_rate))
        object.__setattr__(self, "corner", corner)
        object.__setattr__(self, "band", tuple(map(float, self.passed)))
        errors = self._errors()
        if errors:
            raise ConfigError("; ".join(errors))

    def _errors(self):
        errors = []
        choices = {
            "normalization": NORMALIZATIONS,
            "amplitude": AMPLITUDES,
            "target": TARGETS,
            "units": UNITS,
            "channels": (1, 3),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                known = ", ".join(map(str, allowed))
                errors.append(f"{name} {getattr(self, name)!r} is none of {known}")
        if self.units == "any" and self.amplitude is not None:
            errors.append(
                'the size of records in "any" unit says nothing to a model; use m/s^2'
                " or set amplitude to None"
            )
        if self.num_samples < 1 or self.order < 1:
            errors.append(
                f"num_samples {self.num_samples} and order {self.order} must be at"
                " least 1"
            )
        if not 0 <= self.taper < 0.5:
            errors.append(f"taper {self.taper} is not at least 0 and below 0.5")
        return errors + self._frequency_errors()

    def _frequency_errors(self):
        nyquist = self.sampling_rate / 2
        if not nyquist > 0 or not math.isfinite(nyquist):
            return [f"sampling_rate {self.sampling_rate} is not positive"]
        low, high = self.passed
        errors = []
        if not 0 < low < high < nyquist:
            errors.append(
                f"band {self.band} Hz does not rise within 0 to {nyquist:g} Hz, half of"
                f" the sampling rate {self.sampling_rate:g} Hz"
            )
        if not low < self.corners[0] <= self.corners[1] < min(high, nyquist):
            errors.append(
                f"corner {self.corner} Hz does not lie within {low:g} to"
                f" {min(high, nyquist):g} Hz, the band of records at"
                f" {self.sampling_rate:g} Hz"
            )
        return errors

    @property
    def corners(self):
        """The lowest and highest corner in Hz."""
        return self.corner if isinstance(self.corner, tuple) else (self.corner,) * 2

    @property
    def passed(self):
        """What is kept of a record, (low, high) in Hz."""
        return default_band(self.sampling_rate) if self.band is None else self.band

    @property
    def seconds(self):
        """Length of a window."""
        return self.num_samples / self.sampling_rate

    def corner_at(self, share):
        """The corner at a share, 0 to 1, of the logarithmic range; [...] like it."""
        low, high = self.corners
        return low * (high / low) ** np.asarray(share)

    @property
    def margin(self):
        """Samples around a window that its low-pass may depend on: two periods."""
        return math.ceil(2 / self.corners[0] * self.sampling_rate)

    def prepare(self, waveform):
        """A record without trend, tapered and band-passed (zero phase).

        Args:
            waveform: [T, C], at `sampling_rate`.

        Returns:
            float32 [T, C].

        Raises:
            ValueError: see `check_waveform`.
        """
        waveform = check_waveform(waveform)
        waveform = detrend(waveform) * self._taper(len(waveform))[:, None]
        low, high = self.passed
        filtered = filters.zero_phase_bandpass(
            waveform, self.sampling_rate, low, high, order=self.order
        )
        return np.asarray(filtered, np.float32)

    def tapered(self, length):
        """Samples at each end of a record of `length` that the taper changes."""
        longest = LONGEST_TAPER * self.sampling_rate
        return math.ceil(min(self.taper * length, longest))

    def _taper(self, length):
        """Weights [T] that rise from 0 and fall to 0 like half a cosine."""
        return scipy.signal.windows.tukey(length, 2 * self.tapered(length) / length)

    def low_pass(self, waveform, corner):
        """The low-pass of windows or records, with zeros around them.

        Args:
            waveform: [..., N, C].
            corner: Hz; a number, or [B] for `waveform` [B, N, C].
        """
        return filters.lowpass(
            waveform, self.sampling_rate, corner, order=self.order, causal=self.causal
        )

    def example(self, window, corner):
        """What a model sees of one window of a prepared record.

        Args:
            window: [N, C], m/s^2.
            corner: Hz.

        Returns:
            {targets, condition: float32 [N, C], normalized; scalars: float32 [2],
             log10 of what the condition was divided by (NaN: not told) and log2 of the
             corner; amplitude: float32 [], log10 of what the target was divided by over
             the same of the condition}

        Raises:
            ValueError: the window has another shape, or nothing is in it.
        """
        batch = self.examples(np.asarray(window)[None], np.asarray([corner]))
        return {name: value[0] for name, value in batch.items()}

    def examples(self, windows, corners, margin=0):
        """`example` of a batch.

        Args:
            windows: [B, N, C], or [B, margin + N + margin, C] with what is around them.
            corners: Hz, [B].
            margin: samples at both ends that the low-pass sees and nothing else.

        Returns:
            The arrays of `example`, each with B rows.

        Raises:
            ValueError: see `example`.
        """
        shape = (len(windows), self.num_samples + 2 * margin, self.channels)
        if windows.shape != shape:
            raise ValueError(f"windows of shape {windows.shape}, not {shape}")
        windows = np.asarray(windows, np.float32)
        corners = np.asarray(corners, np.float64)
        condition = np.asarray(self.low_pass(windows, corners))
        inner = slice(margin, margin + self.num_samples)
        windows, condition = windows[:, inner], condition[:, inner]
        targets = windows - condition if self.target == "residual" else windows
        condition_size, target_size = self.size(condition), self.size(targets)
        if self.normalization == "by_x":
            target_size = condition_size
        dead = np.flatnonzero(~((condition_size > 0) & (target_size > 0)))
        if dead.size:
            raise ValueError(f"window {dead[0]} of {len(windows)} holds no motion")
        targets = targets - targets.mean(axis=1, keepdims=True)
        log_size = np.log10(condition_size)
        told = log_size if self.amplitude else np.full_like(log_size, np.nan)
        return {
            "targets": targets / target_size[:, None, None],
            "condition": condition / condition_size[:, None, None],
            "scalars": np.stack([told, np.log2(corners)], axis=1).astype(np.float32),
            "amplitude": np.log10(target_size) - log_size,
        }

    def size(self, waveform):
        """What each of [B, N, C] is divided by, [B]."""
        if self.normalization == "joint_peak":
            return np.abs(waveform).max(axis=(1, 2))
        mean = waveform.mean(axis=1, keepdims=True)
        return np.sqrt(np.mean(np.square(waveform - mean), axis=(1, 2)))

    def restore(self, normalized, log10_std_x, amplitude, low_passed=None):
        """Targets in the unit of the records again, up to the mean of the window.

        The mean lies below the corner, where the complementary merge puts it back.

        Args:
            normalized: [..., N, C], like "targets" of `example`.
            log10_std_x: [...] or a number, the first of its "scalars" where it is told.
            amplitude: [...] or a number, like its "amplitude".
            low_passed: [..., N, C] in the records' unit, for a residual target.

        Raises:
            ValueError: the target is residual and `low_passed` is missing.
        """
        size = np.power(10.0, np.asarray(log10_std_x) + np.asarray(amplitude))
        restored = normalized * size[..., None, None]
        if self.target == "broadband":
            return restored
        if low_passed is None:
            raise ValueError("a residual target is restored with its low_passed")
        return restored + low_passed

    def to_json(self):
        """A dict for `model.json`; `from_json` makes the same of it again."""
        fields = dataclasses.asdict(self)
        listed = {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}
        return {"kind": KIND, **listed}

    @classmethod
    def from_json(cls, entry):
        """The preprocessing that a run's `model.json` names.

        Raises:
            ConfigError: it is of another kind, or a field is missing or impossible.
        """
        return described.preprocessing_from(cls, KIND, entry, "ground motion")


def detrend(waveform):
    """[T, C] less its least-squares line in each component."""
    time = np.arange(len(waveform)) - (len(waveform) - 1) / 2
    waveform = waveform - waveform.mean(axis=0)
    slope = time @ waveform / max(time @ time, 1.0)
    return waveform - time[:, None] * slope


def resample(waveform, sampling_rate, target):
    """[T, C] at another rate (polyphase, with its own anti-alias filter).

    Sample i comes to lie at i * target / sampling_rate. A component without motion
    keeps its value: what rounding makes of it would be noise once it is normalized.

    Args:
        sampling_rate, target: Hz.

    Raises:
        ValueError: a rate is not positive.
    """
    if not (0 < sampling_rate < math.inf and 0 < target < math.inf):
        raise ValueError(f"cannot resample from {sampling_rate} Hz to {target} Hz")
    ratio = fractions.Fraction(target / sampling_rate).limit_denominator(10_000)
    if ratio == 1:
        return np.asarray(waveform)
    # The line from the first sample to the last: zeros outside a record that is off
    # zero would ring at its ends.
    waveform = np.asarray(waveform, np.float64)
    found = scipy.signal.resample_poly(
        waveform, ratio.numerator, ratio.denominator, axis=0, padtype="line"
    )
    still = (waveform == waveform[:1]).all(axis=0)
    return np.where(still, waveform[:1], found)


def check_waveform(waveform, channels=None):
    """A record as float64 [T, C], the first `channels` components of it.

    Raises:
        ValueError: it is no [T, C], has too few components, a sample that is not
            finite, or a component without motion. One line, with the way out.
    """
    waveform = np.asarray(waveform, np.float64)
    if waveform.ndim != 2 or 0 in waveform.shape:
        raise ValueError(f"a record of shape {waveform.shape} is not [samples, 3 or 1]")
    channels = waveform.shape[1] if channels is None else channels
    if waveform.shape[1] < channels:
        raise ValueError(
            f"{waveform.shape[1]} component(s), and the model takes {channels}; give"
            " vertical, north and east, or use a model of one component"
        )
    waveform = waveform[:, :channels]
    bad = np.argwhere(~np.isfinite(waveform))
    if len(bad):
        sample, component = bad[0]
        raise ValueError(
            f"sample {sample} of component {component} is"
            f" {waveform[sample, component]}, the first of {len(bad)} that are not"
            " finite; cut the record there or fill the gap"
        )
    still = np.flatnonzero(np.ptp(waveform, axis=0) == 0)
    if still.size:
        raise ValueError(
            f"component {still[0]} is {waveform[0, still[0]]:g} throughout; use a"
            " record of working components, or a model of one component"
        )
    return waveform


def check_window(length, sampling_rate, preprocessing):
    """Raises `ValueError` where a record is too slow or too short for a model.

    Args:
        length: samples of the record.
        sampling_rate: Hz, its own.
    """
    corner, seconds = preprocessing.corners[1], preprocessing.seconds
    if sampling_rate / 2 <= corner:
        raise ValueError(
            f"a sampling rate of {sampling_rate:g} Hz ends at {sampling_rate / 2:g} Hz,"
            f" which is not above the corner {corner:g} Hz; use a faster record or a"
            " lower corner"
        )
    if length / sampling_rate < seconds - 0.5 / sampling_rate:
        raise ValueError(
            f"a record of {length / sampling_rate:g} s is shorter than the window of"
            f" {seconds:g} s; use a longer record or a model of shorter windows"
        )
