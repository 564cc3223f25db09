"""What a trained picker has to beat: recursive STA/LTA, and an AR picker, of ObsPy.

Shapes use N samples, K triggers. Waveforms are [N, 3], vertical, north, east, in any
unit.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import numpy as np
import scipy.signal

from jaxmodels.data import broadband, seismic_records
from jaxmodels.data.seismic_records import COMPONENTS
from jaxmodels.train.errors import ConfigError

TOP = 0.45  # of the sampling rate, the highest frequency that a filter may pass
SLOWEST = 50.0  # Hz that the AR picker takes as it is
LEAD = 1.0  # seconds of a record's beginning that stand for what was before it
DITHER = 1e-6  # of the standard deviation


class Arrivals(NamedTuple):
    """When P and S begin, seconds after the first sample; NaN where not found."""

    p: float
    s: float


class Trigger(NamedTuple):
    """A stretch where a characteristic function exceeds its level.

    Attributes:
        onset: its first sample, seconds after the first one.
        peak: the highest value in it.
    """

    onset: float
    peak: float


class StreamPick(NamedTuple):
    """A pick on a stream.

    Attributes:
        trace_id: of the vertical trace.
        phase: "P" or "S".
        time: `obspy.UTCDateTime`.
    """

    trace_id: str
    phase: str
    time: object


@dataclasses.dataclass(frozen=True)
class StaLta:
    """Recursive STA/LTA (Withers et al., 1998) of the vertical component.

    The defaults are those of which the strongest trigger was nearest to P on the
    training records of the NCEDC set.

    Args:
        short, long: seconds of the two averages.
        band: Hz that a band-pass of fourth order lets through.
        level: ratio above which there is a trigger.
    """

    short: float = 0.3
    long: float = 2.0
    band: tuple[float, float] = (1.0, 20.0)
    level: float = 3.0

    def ratio(self, waveform, sampling_rate):
        """The characteristic function, [N]; 0 in the first `long` seconds.

        A vertical component that does not move has none: all is 0.

        Raises:
            ConfigError: see `checked`.
        """
        trigger = seismic_records.optional("obspy.signal.trigger")
        vertical = checked(waveform, sampling_rate)[:, 0]
        window = round(self.long * sampling_rate)
        if np.ptp(vertical) == 0 or len(vertical) <= window:
            return np.zeros(len(vertical))
        low, high = self.band
        sections = scipy.signal.butter(
            4,
            (low, min(high, TOP * sampling_rate)),
            "bandpass",
            fs=sampling_rate,
            output="sos",
        )
        vertical = scipy.signal.sosfiltfilt(sections, vertical - vertical.mean())
        short = max(round(self.short * sampling_rate), 1)
        ratio = trigger.recursive_sta_lta(vertical, short, window)
        # What begins with zeros has no long average to divide by.
        return np.where(np.isfinite(ratio), ratio, 0.0)

    def triggers(self, ratio, sampling_rate):
        """The `Trigger`s of a characteristic function, in their order."""
        above = np.concatenate([[False], np.asarray(ratio) > self.level, [False]])
        edges = np.flatnonzero(np.diff(above.astype(np.int8))).reshape(-1, 2)
        return [
            Trigger(begin / sampling_rate, float(np.max(ratio[begin:end])))
            for begin, end in edges
        ]

    def pick(self, waveform, sampling_rate):
        """`Arrivals`: P is the onset of the strongest trigger, S is never found."""
        found = self.triggers(self.ratio(waveform, sampling_rate), sampling_rate)
        if not found:
            return Arrivals(np.nan, np.nan)
        return Arrivals(max(found, key=lambda one: one.peak).onset, np.nan)


@dataclasses.dataclass(frozen=True)
class ARPicker:
    """ObsPy's AR-AIC picker (Akazawa, 2004), with the settings of ObsPy's tutorial.

    It finds one P and one S in whatever it is given.

    Args:
        band: Hz.
        short_p, long_p, short_s, long_s: seconds of the averages.
        order_p, order_s: of the autoregression.
        variance_p, variance_s: seconds of the windows of the variance.
    """

    band: tuple[float, float] = (1.0, 20.0)
    short_p: float = 0.1
    long_p: float = 1.0
    short_s: float = 1.0
    long_s: float = 4.0
    order_p: int = 2
    order_s: int = 8
    variance_p: float = 0.1
    variance_s: float = 0.2

    def pick(self, waveform, sampling_rate):
        """`Arrivals`.

        There is no S without horizontal components, and nothing where the vertical
        one does not move or is shorter than two of the longest averages. Waveforms of
        less than `SLOWEST` Hz are resampled: in the windows of the variance there have
        to be more samples than the autoregression has terms.

        Raises:
            ConfigError: see `checked`.
        """
        trigger = seismic_records.optional("obspy.signal.trigger")
        waveform = checked(waveform, sampling_rate)
        moving = np.ptp(waveform, axis=0) > 0
        if not moving[0] or len(waveform) < 2 * self.long_s * sampling_rate:
            return Arrivals(np.nan, np.nan)
        with_s = bool(moving[1:].any())
        if not with_s:
            waveform = waveform[:, [0, 0, 0]]
        low, high = self.band
        high = min(high, TOP * sampling_rate)
        if sampling_rate < SLOWEST:
            waveform = broadband.resample(waveform, sampling_rate, 2 * SLOWEST)
            sampling_rate = 2 * SLOWEST
        reach = math.ceil(self.long_s * sampling_rate)
        lead = 2 * reach
        waveform = led(waveform + dither(waveform), lead, round(LEAD * sampling_rate))
        pick = functools.partial(
            trigger.ar_pick,
            *waveform.T,
            sampling_rate,
            low,
            high,
            self.long_p,
            self.short_p,
            self.long_s,
            self.short_s,
            self.order_p,
            self.order_s,
            self.variance_p,
            self.variance_s,
        )
        p, s = pick(s_pick=False)[0], 0.0
        if with_s and p * sampling_rate > reach:
            s = pick(s_pick=True)[1]
        # It answers 0 where it finds no S; before `begin` is what was put there.
        begin = lead / sampling_rate
        found = [time - begin if time >= begin else np.nan for time in (p, s)]
        return Arrivals(*found)


def led(waveform, lead, mirrored):
    """A waveform behind `lead` samples of its mirrored beginning.

    To look for S, ObsPy's C code goes back from P by the longest average, and reads
    what is not its own where P is nearer to the first sample than that
    (github.com/obspy/obspy/issues/2642).

    Args:
        waveform: [N, 3].
        lead: samples to put before it.
        mirrored: samples that are mirrored, again and again.
    """
    # The last ones are followed by the first sample: they are in backward order.
    place = np.arange(lead)[::-1] % (2 * mirrored)
    place = np.minimum(place, 2 * mirrored - 1 - place)
    return np.concatenate([waveform[place], waveform])


def dither(waveform):
    """Noise far below the waveform, the same for all of one shape, [N, 3].

    ObsPy's C code takes the logarithm of the variance, and prints a line for each
    sample of a stretch that is filled with one number.
    """
    noise = np.random.default_rng(0).standard_normal(waveform.shape)
    return DITHER * waveform.std(axis=0) * noise


def checked(waveform, sampling_rate):
    """A waveform as float64 [N, 3].

    Raises:
        ConfigError: it is of another shape or not finite, or the rate is not above 0.
    """
    waveform = np.asarray(waveform, np.float64)
    if waveform.ndim != 2 or waveform.shape[1] != len(COMPONENTS) or not len(waveform):
        raise ConfigError(
            f"a waveform of shape {waveform.shape}: give [samples, 3], vertical, north"
            " and east, with zeros for a component that is not there"
        )
    if not np.isfinite(waveform).all():
        raise ConfigError("the waveform is not finite; cut it or fill what is missing")
    if not sampling_rate > 0:
        raise ConfigError(f"sampling rate {sampling_rate} Hz must be above 0")
    return waveform


def pick_stream(stream, method):
    """Picks on the traces of one instrument.

    Args:
        stream: `obspy.Stream` of up to three components of one instrument, without
            gaps; what all of them cover is looked at.
        method: a `StaLta` or `ARPicker`.

    Returns:
        A list of `StreamPick`.

    Raises:
        ConfigError: there is no vertical trace, two of one component, gaps, or traces
            of different rates or without common time.
    """
    letters = dict(zip("123", "NEZ", strict=True))
    found: dict = {}
    for trace in stream:
        letter = trace.stats.channel[-1:].upper()
        letter = letters.get(letter, letter)
        if letter in found or np.ma.is_masked(trace.data):
            raise ConfigError(
                f"{trace.id} occurs twice or has gaps; merge the stream and give what"
                " is between gaps alone"
            )
        found[letter] = trace
    if "Z" not in found:
        raise ConfigError(f"no vertical trace among {', '.join(t.id for t in stream)}")
    traces = {letter: found[letter] for letter in COMPONENTS if letter in found}
    rates = {trace.stats.sampling_rate for trace in traces.values()}
    start = max(trace.stats.starttime for trace in traces.values())
    end = min(trace.stats.endtime for trace in traces.values())
    if len(rates) > 1 or start >= end:
        raise ConfigError(
            f"{found['Z'].id}: traces of {sorted(rates)} Hz, all there from {start} to"
            f" {end}; give traces of one rate that overlap"
        )
    rate = rates.pop()
    cut = {letter: trace.slice(start, end).data for letter, trace in traces.items()}
    length = min(map(len, cut.values()))
    waveform = np.zeros((length, len(COMPONENTS)))
    for letter, data in cut.items():
        waveform[:, COMPONENTS.index(letter)] = data[:length]
    arrivals = method.pick(waveform, rate)
    return [
        StreamPick(found["Z"].id, phase, start + time)
        for phase, time in zip("PS", arrivals, strict=True)
        if np.isfinite(time)
    ]
