"""What pickers and baselines say of a waveform, in one form.

Each system is a function of a waveform [N, 3] and its rate in Hz to what it found,
which has `within(start, end)`, `candidates(phase)`, `score(phase)`, `detection` and
`curves`. Times are seconds after the first sample of the waveform.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
import scipy.signal

from jaxmodels.pipelines import pick_baselines, pick_peaks

PHASES = ("P", "S")
STA_LTA, AR_PICKER = "STA/LTA", "AR picker"
LOWEST = 0.01  # probability that is looked at
TIE = 1e-9  # a sample, by which the first of two equal values counts as the larger


class Candidates(NamedTuple):
    """Possible picks of one phase.

    Attributes:
        times: [K] in seconds, in the order of their peaks.
        values: [K], the higher the surer.
        floors: [K], how far the curve falls between each and a higher one.
    """

    times: np.ndarray
    values: np.ndarray
    floors: np.ndarray

    @property
    def best(self):
        """Time of the surest one, NaN where there is none."""
        return float(self.times[np.argmax(self.values)]) if self.times.size else np.nan

    def above(self, threshold):
        """Times of the picks at a threshold, as `pick_peaks.Finder` makes them.

        Between two picks, the curve falls below half of the threshold.
        """
        apart = self.floors < pick_peaks.RELEASE * threshold
        return self.times[(self.values >= threshold) & apart]


NOTHING = Candidates(np.zeros(0), np.zeros(0), np.zeros(0))


@dataclasses.dataclass(frozen=True, eq=False)
class Probabilities:
    """What a trained picker says.

    Attributes:
        values: [N, 3], of P, S and noise.
        sampling_rate: Hz, the model's.
        start: seconds of the first value.
    """

    values: np.ndarray
    sampling_rate: float
    start: float = 0.0

    def within(self, start, end):
        """What is said of a part, both ends in seconds."""
        values, first = cut(self.values, self.sampling_rate, self.start, start, end)
        return dataclasses.replace(self, values=values, start=first)

    def candidates(self, phase):
        """Peaks of the probability of a phase, and its highest value in any case."""
        curve = np.asarray(self.values[:, PHASES.index(phase)], np.float64)
        if not len(curve):
            return NOTHING
        ranked = curve - TIE * np.arange(len(curve))
        padded = np.concatenate([[-1.0], ranked, [-1.0]])
        peaks, found = scipy.signal.find_peaks(padded, prominence=0)
        highest = np.argmax(padded)
        chosen = (padded[peaks] >= LOWEST) | (peaks == highest)
        peaks, depth = peaks[chosen], found["prominences"][chosen]
        middles = [pick_peaks.middle(curve, peak - 1) for peak in peaks]
        times = self.start + np.array(middles) / self.sampling_rate
        return Candidates(times, curve[peaks - 1], padded[peaks] - depth)

    def score(self, phase):
        """The highest probability of a phase."""
        return float(self.values[:, PHASES.index(phase)].max(initial=0.0))

    @property
    def detection(self):
        """The highest probability of anything but noise."""
        return float((1 - self.values[:, -1]).max(initial=0.0))

    @property
    def curves(self):
        """(times [N], {label: [N]}) for a figure."""
        times = self.start + np.arange(len(self.values)) / self.sampling_rate
        return times, dict(zip(PHASES, self.values.T, strict=False))


@dataclasses.dataclass(frozen=True, eq=False)
class Ratio:
    """What STA/LTA says: the P of a window, and that there is something.

    Attributes:
        values: [N] of the characteristic function.
        sampling_rate: Hz.
        method: `pick_baselines.StaLta`.
        start: seconds of the first value.
    """

    values: np.ndarray
    sampling_rate: float
    method: pick_baselines.StaLta
    start: float = 0.0

    def within(self, start, end):
        """What is said of a part, both ends in seconds."""
        values, first = cut(self.values, self.sampling_rate, self.start, start, end)
        return dataclasses.replace(self, values=values, start=first)

    def candidates(self, phase):
        """Triggers as P, and nothing as S."""
        found = self.method.triggers(self.values, self.sampling_rate)
        if phase != "P" or not found:
            return NOTHING
        onsets = np.array([one.onset for one in found])
        peaks = np.array([one.peak for one in found])
        return Candidates(self.start + onsets, peaks, np.zeros(len(found)))

    def score(self, phase):
        """None: it does not tell phases apart."""
        del phase

    @property
    def detection(self):
        """The highest ratio."""
        return float(self.values.max(initial=0.0))

    @property
    def curves(self):
        """(times [N], {label: [N]}) for a figure, 1 at the highest ratio."""
        times = self.start + np.arange(len(self.values)) / self.sampling_rate
        return times, {"STA/LTA": self.values / max(self.values.max(initial=0), 1e-9)}


@dataclasses.dataclass(frozen=True, eq=False)
class Fixed:
    """What the AR picker says: one P and one S, without a score.

    Attributes:
        arrivals: `pick_baselines.Arrivals`.
    """

    arrivals: pick_baselines.Arrivals
    detection = None

    def within(self, start, end):
        """The arrivals in a part, both ends in seconds."""
        kept = [time if start <= time < end else np.nan for time in self.arrivals]
        return Fixed(pick_baselines.Arrivals(*kept))

    def candidates(self, phase):
        """The one arrival, of value 1."""
        time = self.arrivals[PHASES.index(phase)]
        if np.isnan(time):
            return NOTHING
        return Candidates(np.array([time]), np.ones(1), np.zeros(1))

    def score(self, phase):
        """None."""
        del phase

    @property
    def curves(self):
        """No curve."""
        return np.zeros(0), {}


def cut(values, sampling_rate, first, start, end):
    """Values from `start` to before `end`, seconds, and where the first of them is."""
    begin = max(int(np.ceil((start - first) * sampling_rate - 1e-6)), 0)
    stop = max(int(np.ceil((end - first) * sampling_rate - 1e-6)), begin)
    return values[begin:stop], first + begin / sampling_rate


def of_picker(picker):
    """The system of a trained `pick_model.Picker`."""

    def find(waveform, sampling_rate):
        values = np.asarray(picker.annotate_array(waveform, sampling_rate))
        return Probabilities(values, picker.preprocessing.sampling_rate)

    return find


def baselines():
    """{name: system} of STA/LTA and the AR picker."""
    sta_lta, ar_picker = pick_baselines.StaLta(), pick_baselines.ARPicker()

    def triggers(waveform, sampling_rate):
        ratio = sta_lta.ratio(waveform, sampling_rate)
        return Ratio(ratio, sampling_rate, sta_lta)

    def arrivals(waveform, sampling_rate):
        return Fixed(ar_picker.pick(waveform, sampling_rate))

    return {STA_LTA: triggers, AR_PICKER: arrivals}
