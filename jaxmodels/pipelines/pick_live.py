"""Picks of P and S while a seismogram arrives, by a model that looks back only.

python -m jaxmodels.pipelines.pick_live day.mseed --checkpoint runs/streaming

plays a file as if it arrived, and says how much faster than it was recorded. Live:

    live = pick_live.LivePicker(pick.load("runs/streaming"))
    for packet in packets:  # [samples, 3], vertical, north, east, of any length
        for pick in live.push(packet):
            print(pick.phase, start + pick.seconds)

The model reads frames of four samples, and its state is all that is kept of what came
before. A pick is given out when its probability has fallen to half of the threshold, or
`patience` after its peak, whichever is first: `LivePicker.latency` is the longest time
from an arrival to its pick, without that of the computation.

Shapes use T samples, C components.
"""

import functools
import sys
import time
from typing import NamedTuple

import jax
import numpy as np

from jaxmodels.models.streaming_picker import FRAME
from jaxmodels.pipelines import pick_files, pick_model, pick_peaks, pick_stream
from jaxmodels.pipelines.generate import Parser
from jaxmodels.train.errors import INTERRUPTED, ConfigError, RunError

PATIENCE = 0.5  # seconds
MANY = 64 * FRAME  # samples that are read at once where so many wait


class LivePick(NamedTuple):
    """An arrival.

    Attributes:
        phase: "P" or "S".
        seconds: from the first sample to the arrival.
        probability: there.
        waited: seconds from the arrival to the last sample that had been read when it
            was given out.
    """

    phase: str
    seconds: float
    probability: float
    waited: float


class _Rising(NamedTuple):
    """What is above its threshold now; `peak` is None once it was given out."""

    peak: int | None
    value: float


class LivePicker:
    """Reads one instrument's samples as they come.

    Args:
        picker: `pick_model.Picker` of a `StreamingPicker`.
        patience: longest wait after a peak for a larger one, seconds.
        P_threshold, S_threshold: as for `Picker.classify`.

    Raises:
        ConfigError: the model does not look back only, or a setting is out of range.
    """

    def __init__(self, picker, *, patience=PATIENCE, **thresholds):
        if not picker.looks_back_only:
            raise ConfigError(
                f"the model in {picker.source} reads whole windows; give the "
                "--checkpoint of a run of configs/seismic/phase_picking.py:streaming"
            )
        if picker.preprocessing.highpass is not None:
            raise ConfigError(
                f"the model in {picker.source} was trained on windows without what is "
                f"slower than {picker.preprocessing.highpass:g} Hz, which is taken off "
                "whole windows only; train one with data.highpass None"
            )
        if not 0 <= patience <= 60:
            raise ConfigError(f"patience {patience} s must be 0 to 60")
        if unknown := sorted(thresholds.keys() - {"P_threshold", "S_threshold"}):
            raise ConfigError(
                f"{unknown[0]!r} is no keyword of a live picker; it has patience, "
                "P_threshold, S_threshold"
            )
        self._picker = picker
        self._thresholds = picker.settings(**thresholds).thresholds
        self._patience = round(patience * self.sampling_rate)
        self._state = picker.model.initial_state(1)
        self._waiting = np.zeros((0, picker.model.channels), np.float32)
        self._offset: np.ndarray | None = None
        self._rising: list[_Rising | None] = [None, None]
        self.num_samples = 0

    @property
    def sampling_rate(self):
        """Of the samples, Hz."""
        return self._picker.preprocessing.sampling_rate

    @property
    def latency(self):
        """Longest time from an arrival to its pick, seconds of samples."""
        frame = self._picker.model.latency
        return (self._patience + frame) / self.sampling_rate

    def push(self, samples):
        """Reads samples that follow those before.

        Args:
            samples: [T, C], any T; zeros for components that are not recorded.

        Returns:
            List of `LivePick` that are certain now.

        Raises:
            ConfigError: samples of another shape, or that are not finite.
        """
        samples = np.asarray(samples, np.float64)
        if samples.ndim != 2 or samples.shape[1] != self._waiting.shape[1]:
            raise ConfigError(
                f"samples of shape {samples.shape} are not [samples, "
                f"{self._waiting.shape[1]}]"
            )
        if not np.isfinite(samples).all():
            raise ConfigError(
                "samples are not finite; repeat the last ones in short gaps, and begin "
                "another LivePicker after long ones"
            )
        if self._offset is None and len(samples):
            # Counts may be too large for the digits of float32.
            self._offset = samples[0]
        if len(samples):
            samples = (samples - self._offset).astype(np.float32)
            self._waiting = np.concatenate([self._waiting, samples])
        found = []
        while len(self._waiting) >= FRAME:
            size = MANY if len(self._waiting) >= MANY else FRAME
            part, self._waiting = self._waiting[:size], self._waiting[size:]
            self._state, values = _advance(
                self._picker.model, self._picker.variables, self._state, part[None]
            )
            found += self._look(np.asarray(values)[0])
        return found

    def _look(self, values):
        """Picks of probabilities [T, 3] of the newest samples."""
        first, found = self.num_samples, []
        self.num_samples += len(values)
        for column, phase in enumerate("PS"):
            for place, value in enumerate(values[:, column].tolist()):
                peak = self._follow(column, first + place, value)
                if peak is None:
                    continue
                # Samples come in frames: the rest of its frame had been read as well.
                read = (first + place) // FRAME * FRAME + FRAME - 1
                rate = self.sampling_rate
                found.append(
                    LivePick(phase, peak[0] / rate, peak[1], (read - peak[0]) / rate)
                )
        return sorted(found, key=lambda pick: pick.seconds)

    def _follow(self, column, sample, value):
        """(peak, probability) where a pick is given out at a sample, else None."""
        threshold, rising = self._thresholds[column], self._rising[column]
        if rising is None:
            if value >= threshold:
                self._rising[column] = _Rising(sample, value)
            return None
        fallen = value < pick_peaks.RELEASE * threshold
        out = None
        if rising.peak is not None:
            if value > rising.value:
                rising = _Rising(sample, value)
            if fallen or sample - rising.peak >= self._patience:
                out = rising.peak, rising.value
                rising = _Rising(None, rising.value)
        self._rising[column] = None if fallen else rising
        return out


@functools.partial(jax.jit, static_argnames="model")
def _advance(model, variables, state, samples):
    method = model.step if samples.shape[1] == FRAME else model.extend
    state, logits = model.apply(variables, state, samples, method=method)
    return state, jax.nn.softmax(logits.astype("float32"), axis=-1)


def parser():
    """The command line."""
    flags = Parser(
        prog="python -m jaxmodels.pipelines.pick_live",
        description=__doc__.split("\n")[0],
    )
    add = flags.add_argument
    add("file", help="seismograms, played as if they arrived")
    add("--checkpoint", required=True, help="folder of a run of a streaming picker")
    add("--packet", type=float, default=1.0, help="seconds that arrive at once")
    add("--patience", type=float, default=PATIENCE, help="seconds after a peak")
    add("--P_threshold", type=float)
    add("--S_threshold", type=float)
    return flags


def main(argv=None):
    """Prints picks; returns the exit code."""
    try:
        flags = parser().parse_args(argv)
        if not 0 < flags.packet <= 3600:
            raise ConfigError(f"packet {flags.packet} s must be above 0, at most 3600")
        picker = pick_model.load(flags.checkpoint)
        print(picker.describe(), flush=True)
        for line in play(picker, flags):
            print(line, flush=True)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def play(picker, flags):
    """Yields lines about the picks of a file, one instrument after the other."""
    archive = pick_files.Archive()
    archive.add(flags.file)
    if archive.failures:
        raise ConfigError(archive.failures[0])

    def warn(line):
        print(f"warning: {line}", file=sys.stderr)

    settings = picker.settings()
    for key in sorted(archive.headers):
        headers = archive.headers[key]
        stream = archive.read(
            key, min(h.start for h in headers), max(h.stop for h in headers)
        )
        for line in archive.damaged:
            warn(line)
        for instrument in pick_stream.instruments(stream, warn):
            for segment in pick_stream.segments(picker, instrument, settings, warn):
                yield from _play_segment(picker, instrument, segment, flags)


def _play_segment(picker, instrument, segment, flags):
    live = LivePicker(
        picker,
        patience=flags.patience,
        P_threshold=flags.P_threshold,
        S_threshold=flags.S_threshold,
    )
    size = max(1, round(flags.packet * live.sampling_rate))
    last = _first_values(segment)
    begin = time.perf_counter()
    for first in range(segment.first, segment.stop, size):
        samples = segment.read(first, min(first + size, segment.stop))
        # What is missing stays where it was: nothing is known of what follows.
        for component, column in enumerate(samples.T):
            held = np.maximum.accumulate(
                np.where(np.isnan(column), -1, np.arange(len(column)))
            )
            column[:] = np.where(held < 0, last[component], column[held])
        last = samples[-1]
        for pick in live.push(samples):
            at = segment.time(segment.first + round(pick.seconds * live.sampling_rate))
            when = pick_files.formats.time_text(at)
            yield (
                f"{instrument.name} {pick.phase} {when}Z {pick.probability:.2f}, "
                f"{pick.waited:.2f} s after it"
            )
    seconds = (segment.stop - segment.first) / live.sampling_rate
    speed = seconds / (time.perf_counter() - begin)
    yield (
        f"{instrument.name}: {seconds:g} s, {speed:.0f} times as fast as recorded, "
        f"picks at most {live.latency:.2f} s after arrivals"
    )


def _first_values(segment):
    """What each component of a segment begins with, [C]; 0 where it has no sample.

    Traces seldom begin together. Counts may be far from 0, and a component that went
    from 0 to them would be all that the model sees for a long time.
    """
    found = np.zeros(segment.channels)
    for piece, (first, _) in zip(
        segment.pieces[::-1], segment.spans[::-1], strict=True
    ):
        first = max(int(first), segment.first)
        found[piece.component] = segment.read(first, first + 1)[0, piece.component]
    return found


if __name__ == "__main__":
    sys.exit(main())
