"""How a window of a seismogram becomes what a model of waveforms sees.

Training and the pipelines call the same function: a picker that was trained on windows
divided by their peak finds fewer arrivals in windows divided by their deviation.

Shapes use N samples of a window, C components.
"""

import dataclasses
import math

import numpy as np
import scipy.fft

from jaxmodels.data import described
from jaxmodels.signal import filters
from jaxmodels.train.errors import ConfigError

KIND = "waveform_windows"
NORMALIZATIONS = ("std", "peak", "none")
FILLS = ("zeros", "copy")
CHANNELS = (1, 3)
HIGHPASS_ORDER = 2
# What two models of the same waveforms have to share, for `pipeline.Data.shared`.
SHARED = (
    "kind",
    "sampling_rate",
    "channels",
    "normalization",
    "per_component",
    "highpass",
)


@dataclasses.dataclass(frozen=True)
class WindowPreprocessing:
    """How a window is prepared for a model.

    Attributes:
        sampling_rate: Hz.
        num_samples: N, of the windows that a model is trained on.
        channels: C, in the order vertical, north, east; or 1, the vertical.
        normalization: what a window is divided by once its mean is gone: "std", its
            standard deviation; "peak", its largest absolute value; "none", nothing.
        per_component: each component is divided by its own number; False: all by one.
        fill: what stands for a component that does not move: "zeros", or a "copy" of
            the first one that does.
        highpass: corner in Hz of a Butterworth high-pass of second order that runs
            forward and backward over the window; None for none.

    Raises:
        ConfigError: fields that are impossible.
    """

    sampling_rate: float
    num_samples: int
    channels: int = 3
    normalization: str = "std"
    per_component: bool = True
    fill: str = "zeros"
    highpass: float | None = None

    def __post_init__(self):
        choices = {
            "channels": CHANNELS,
            "normalization": NORMALIZATIONS,
            "fill": FILLS,
            "per_component": (True, False),
        }
        errors = [
            f"{name} {getattr(self, name)!r} is none of {', '.join(map(str, allowed))}"
            for name, allowed in choices.items()
            if getattr(self, name) not in allowed
        ]
        rate = self.sampling_rate
        if not 0 < rate < math.inf:
            errors.append(f"sampling_rate {rate} is not positive")
        elif self.highpass is not None and not 0 < self.highpass < rate / 2:
            errors.append(
                f"highpass {self.highpass} Hz does not lie within 0 to {rate / 2:g} Hz,"
                f" half of the sampling rate {rate:g} Hz; None leaves it out"
            )
        if self.num_samples < 1:
            errors.append(f"num_samples {self.num_samples} is not at least 1")
        if errors:
            raise ConfigError("; ".join(errors))
        # JSON has no difference of 100 and 100.0, and `check_same` must see none.
        object.__setattr__(self, "sampling_rate", float(rate))
        if self.highpass is not None:
            object.__setattr__(self, "highpass", float(self.highpass))

    @property
    def seconds(self):
        """Length of a window."""
        return self.num_samples / self.sampling_rate

    def normalize(self, window):
        """A window as a model takes it: no mean, high-passed, and of one size.

        A component that is constant throughout counts as not recorded. It is zero, or
        a copy of another one.

        Args:
            window: [..., N, C], of any length N.

        Returns:
            float32 [..., N, C].

        Raises:
            ValueError: it has other components, no sample, or one that is not finite.
        """
        window = np.asarray(window, np.float64)
        if window.ndim < 2 or window.shape[-1] != self.channels or not window.size:
            raise ValueError(
                f"a window of shape {window.shape} is not [samples, {self.channels}];"
                " give each of the model's components, zeros for those not recorded"
            )
        if not np.isfinite(window).all():
            raise ValueError(
                f"{np.count_nonzero(~np.isfinite(window))} of {window.size} samples of"
                " a window are not finite; cut the record there or fill the gap"
            )
        alive = (window != window[..., :1, :]).any(axis=-2, keepdims=True)
        window = (window - window.mean(axis=-2, keepdims=True)) * alive
        if self.highpass is not None and window.shape[-2] > 1:
            window = self._high_passed(window, self.highpass)
        size = self._size(window, alive)
        window = window / np.where(size > 0, size, 1.0)
        if self.fill == "copy":
            first = alive.argmax(axis=-1, keepdims=True)
            window = np.where(alive, window, np.take_along_axis(window, first, axis=-1))
        return window.astype(np.float32)

    def _size(self, window, alive):
        """What to divide by, [..., 1, C] or, one number for all, [..., 1, 1]."""
        axes = -2 if self.per_component else (-2, -1)
        if self.normalization == "none":
            return np.ones_like(window[..., :1, :1])
        if self.normalization == "peak":
            return np.abs(window).max(axis=axes, keepdims=True)
        square = np.mean(np.square(window), axis=axes, keepdims=True)
        if not self.per_component:  # those that do not move do not make it smaller
            square = square * self.channels / np.maximum(alive.sum(-1)[..., None], 1)
        return np.sqrt(square)

    def _high_passed(self, window, corner):
        """[..., N, C] less what is slower than the corner in Hz.

        The window goes on at both ends as its mirror image of opposite sign, so that
        slow motion that the window cuts off rings at neither.
        """
        length = window.shape[-2]
        around = min(length - 1, math.ceil(2 * self.sampling_rate / corner))
        first, last = window[..., :1, :], window[..., -1:, :]
        before = 2 * first - window[..., around:0:-1, :]
        after = 2 * last - window[..., -2 : -2 - around : -1, :]
        longer = np.concatenate([before, window, after], axis=-2)
        padded = scipy.fft.next_fast_len(longer.shape[-2], real=True)
        slow = filters.lowpass_gain(padded, self.sampling_rate, corner, HIGHPASS_ORDER)
        # The step at which the padded window closes lies outside of what is kept.
        spectrum = scipy.fft.rfft(longer, padded, axis=-2) * (1 - slow)[:, None]
        filtered = scipy.fft.irfft(spectrum, padded, axis=-2)
        return filtered[..., around : around + length, :]

    def to_json(self):
        """A dict for `model.json`; `from_json` makes the same of it again."""
        return {"kind": KIND, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, entry):
        """The preprocessing that a run's `model.json` names.

        Raises:
            ConfigError: it is of another kind, or a field is missing or impossible.
        """
        return described.preprocessing_from(cls, KIND, entry, "windows of waveforms")
