"""One run over the files of a user: picks, figures, and what went wrong.

Shapes use T samples, C components.
"""

import pathlib
import re
import sys
from typing import Any

import numpy as np

from jaxmodels.data.seismic_records import optional
from jaxmodels.pipelines import pick_figure, pick_files, pick_results, pick_stream
from jaxmodels.train.errors import ConfigError

SECOND = pick_files.SECOND
WHOLE = 120 * SECOND  # a record up to this length is drawn as a whole
AROUND = 15.0, 45.0  # seconds round the start of an event that are drawn
MAX_VIEWS = 3


class Run:
    """What a command makes of its files.

    Attributes:
        picks: of `pick_results.Pick`, by time.
        picked: {instrument: {"seconds", "P", "S", "detections"}}.
        figures: paths.
        warnings, failures: lines.
    """

    def __init__(self, picker, settings, archive, output, max_figures):
        self._picker, self._settings = picker, settings
        self._archive = archive
        self._output = pathlib.Path(output)
        self._max_figures = max_figures
        self.picks: list[pick_results.Pick] = []
        self.picked: dict[str, Any] = {}
        self.figures: list[pathlib.Path] = []
        self.warnings: list[str] = []
        self._failures: list[str] = []

    @property
    def failures(self):
        """Files that cannot be read, and instruments that cannot be picked."""
        return [*self._archive.failures, *self._failures]

    def pick(self, tick):
        """Picks one instrument after the other; yields a line about each.

        Args:
            tick: called with seconds of record that are done.
        """
        for key in sorted(self._archive.headers):
            self._warn_of_damage()
            yield from self._instrument(key, tick)
        self._warn_of_damage()
        self.picks.sort(key=lambda one: (one.peak_time, one.trace_id, one.phase))

    def _instrument(self, key, tick):
        obspy = optional("obspy")
        own = self._picker.preprocessing
        margin = pick_files.margin(own.seconds)
        collector: pick_results.Collector | None = None
        reasons: list[str] = []
        seconds = 0.0
        for block in self._archive.blocks(key):
            stream = self._archive.read(key, block.start - margin, block.stop + margin)
            for instrument in pick_stream.instruments(stream, self._warn):
                if collector is None:
                    collector = pick_results.Collector(
                        instrument,
                        self._settings.thresholds,
                        lambda time: obspy.UTCDateTime(ns=time),
                    )
                collector.instrument = instrument
                try:
                    for part in self._parts(instrument, block, tick):
                        collector.feed(*part)
                        seconds += len(part.probabilities) / own.sampling_rate
                except ConfigError as error:
                    reasons.append(str(error))
        if collector is None or not seconds:
            self._failures += dict.fromkeys(reasons)
            return
        for reason in dict.fromkeys(reasons):
            self._warn(reason)
        picks, detections = collector.close()
        self.picks += picks
        name = collector.instrument.name
        counts = {phase: sum(p.phase == phase for p in picks) for phase in "PS"}
        self.picked[name] = {
            "seconds": round(seconds, 3),
            **counts,
            "detections": len(detections),
        }
        yield (
            f"{name}: {counts['P']} P, {counts['S']} S, {len(detections)} detections "
            f"in {seconds / 3600:.2f} h"
        )
        if len(self.figures) < self._max_figures:
            self._draw(key, name, picks, detections)

    def _parts(self, instrument, block, tick=None, warn=None):
        warn = self._warn if warn is None else warn
        keep = block.start, block.stop
        for segment in pick_stream.segments(
            self._picker, instrument, self._settings, warn
        ):
            yield from pick_stream.parts(
                self._picker, segment, settings=self._settings, keep=keep, tick=tick
            )

    def _warn(self, line):
        if line not in self.warnings:
            self.warnings.append(line)
            print(f"warning: {line}", file=sys.stderr)

    def _warn_of_damage(self):
        for line in self._archive.damaged:
            self._warn(line)

    def _draw(self, key, name, picks, detections):
        """The figure of an instrument, of the whole of it or round some events."""
        spans = self._spans(key, detections)
        views, channels = [], None
        for start, stop in spans:
            found = self._view(key, start, stop, picks)
            if found is not None:
                views.append(found[0])
                channels = channels or found[1]
        if not views:
            return
        safe = re.sub(r"[^\w.-]+", "_", name).strip("._") or "record"
        path = self._output / f"{safe}.png"
        pick_figure.draw(
            path,
            views,
            title=name,
            channels=channels,
            thresholds=self._settings.thresholds,
        )
        self.figures.append(path)

    def _spans(self, key, detections):
        """(start, stop) in nanoseconds since 1970 of what is drawn, by time."""
        headers = self._archive.headers[key]
        start = min(header.start for header in headers)
        stop = max(header.stop for header in headers)
        if stop - start <= WHOLE:
            return [(start, stop)]
        before, after = (round(x * SECOND) for x in AROUND)
        found: list[tuple[int, int]] = []
        for one in sorted(detections, key=lambda one: -one.peak_value):
            low = max(start, one.start_time.ns - before)
            high = min(stop, low + before + after)
            if all(high <= other[0] or low >= other[1] for other in found):
                found.append((low, high))
            if len(found) == MAX_VIEWS:
                break
        return sorted(found)

    def _view(self, key, start, stop, picks):
        """`pick_figure.View` of some time and the codes of its channels, or None."""
        own = self._picker.preprocessing
        margin = pick_files.margin(own.seconds)
        stream = self._archive.read(key, start - margin, stop + margin)
        found = pick_stream.instruments(stream, lambda line: None)
        if not found:
            return None
        (instrument,) = found
        block = pick_files.Block(start, stop, 0.0)
        held = None
        for part in self._parts(instrument, block, warn=lambda line: None):
            grid = part.segment.grid
            first, last = grid.nearest(start), grid.nearest(stop)
            if held is None:
                held = np.full((last - first, 3 + own.channels), np.nan)
            low = part.first - first
            high = low + len(part.probabilities)
            held[low:high, :3] = part.probabilities
            held[low:high, 3:] = part.segment.read(part.first, first + high)
        if held is None:
            return None
        begin = grid.time(first) / SECOND
        inside = [p for p in picks if start <= p.peak_time.ns < stop]
        view = pick_figure.View(
            begin, float(grid.rate), held[:, 3:], held[:, :3], inside
        )
        return view, instrument.channels[: own.channels]
