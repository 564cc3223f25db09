"""Picks and detections, as users of SeisBench know them, and how they are found.

Shapes use T samples; probabilities are P, S, noise.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from jaxmodels.pipelines import pick_peaks

PHASES = "PS"
DETECTION = 2  # the series 1 - noise
BEFORE, AFTER = 2.0, 2.0  # seconds around a pick that its amplitude is of
LONGEST_S_MINUS_P = 60.0  # seconds


@dataclasses.dataclass(frozen=True, order=True)
class Pick:
    """An arrival. Times are `obspy.UTCDateTime`.

    Attributes:
        start_time, end_time: where the probability is at its threshold or falls below
            half of it.
        peak_time: the arrival.
        trace_id: NET.STA.LOC.
        phase: "P" or "S".
        peak_value: the probability at the arrival.
        amplitude: the largest deviation of a component in the 2 s after the arrival
            from its mean in the 2 s before, in the unit of the samples.
        channel: the code of the channel that the phase is best seen on.
    """

    start_time: Any
    end_time: Any
    peak_time: Any
    trace_id: str
    phase: str
    peak_value: float
    amplitude: float
    channel: str


@dataclasses.dataclass(frozen=True, order=True)
class Detection:
    """An event at one instrument: a P and the S that follow it, or either alone.

    Attributes:
        start_time, end_time: of the first and the last of its picks.
        trace_id: NET.STA.LOC.
        peak_value: the largest 1 - probability of noise.
        channel: code, without the letter of the component.
    """

    start_time: Any
    end_time: Any
    trace_id: str
    peak_value: float
    channel: str


@dataclasses.dataclass
class Classification:
    """What `classify` returns.

    Attributes:
        creator: what made it, with the start of the weights' digest.
        picks: of `Pick`, by time.
        detections: of `Detection`, by time.
    """

    creator: str
    picks: list[Pick]
    detections: list[Detection]


class _Span(NamedTuple):
    """A run in time, nanoseconds since 1970."""

    series: int
    first: int
    last: int
    peak: int
    value: float


class Collector:
    """Finds picks and detections of one instrument, part after part.

    Args:
        instrument: `pick_stream.Instrument`; another one of the same name may take its
            place, as channels come and go.
        thresholds: of P and S.
        time: nanoseconds since 1970 -> `obspy.UTCDateTime`.
    """

    def __init__(self, instrument, thresholds, time):
        self.instrument = instrument
        self._time = time
        self._finder = pick_peaks.Finder([*thresholds, min(thresholds)])
        self._segment: Any = None
        self._next = 0
        self._spans: list[_Span] = []
        self.picks: list[Pick] = []

    def feed(self, segment, first, probabilities, recorded):
        """Adds the picks that are over by the end of a part [T, 3]."""
        values = np.concatenate(
            [probabilities[:, :DETECTION], 1 - probabilities[:, DETECTION:]], axis=1
        )
        if self._segment is not None and first != self._next:
            self._add(self._segment, self._finder.close())
        self._segment, self._next = segment, first + len(values)
        self._add(segment, self._finder.feed(first, values, recorded))

    def close(self):
        """Adds what is still open; returns (picks, detections), by time."""
        if self._segment is not None:
            self._add(self._segment, self._finder.close())
        self.picks.sort(key=lambda pick: (pick.peak_time, pick.phase))
        return self.picks, self._detections()

    def _add(self, segment, runs):
        for run in runs:
            span = _Span(
                run.series,
                segment.time(run.first),
                segment.time(run.last),
                segment.time(run.peak),
                run.value,
            )
            self._spans.append(span)
            if run.series == DETECTION:
                continue
            phase = PHASES[run.series]
            first, last, peak = map(self._time, (span.first, span.last, span.peak))
            self.picks.append(
                Pick(
                    start_time=first,
                    end_time=last,
                    peak_time=peak,
                    trace_id=self.instrument.trace_id,
                    phase=phase,
                    peak_value=run.value,
                    amplitude=segment.amplitude(span.peak, BEFORE, AFTER),
                    channel=self.instrument.channel_of(phase),
                )
            )

    def _detections(self):
        """Runs of 1 - noise, those of a P and of the S after it made one."""
        picks = sorted(
            (span for span in self._spans if span.series != DETECTION),
            key=lambda span: span.peak,
        )
        groups: list[list[_Span]] = []
        for span in picks:
            is_s = PHASES[span.series] == "S"
            waited = (span.peak - groups[-1][0].peak) / 1e9 if groups else 0.0
            if groups and is_s and waited <= LONGEST_S_MINUS_P:
                groups[-1].append(span)
            else:
                groups.append([span])
        events = [span for span in self._spans if span.series == DETECTION]
        firsts = np.array([span.first for span in events], np.int64)
        lasts = np.array([span.last for span in events], np.int64)
        found = []
        for group in groups:
            first, last = min(s.first for s in group), max(s.last for s in group)
            low = int(np.searchsorted(lasts, first))
            high = int(np.searchsorted(firsts, last, side="right"))
            values = [s.value for s in [*group, *events[low:high]]]
            found.append(
                Detection(
                    start_time=self._time(first),
                    end_time=self._time(last),
                    trace_id=self.instrument.trace_id,
                    peak_value=max(values),
                    channel=self.instrument.band,
                )
            )
        return found
