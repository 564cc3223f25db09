"""Phase picking on ObsPy streams: probabilities of samples, picks, detections.

Traces belong together by network, station, location and channel without its last
letter. Z, N and E are as good as 3, 1, 2 and as lower-case letters. Rates may differ,
traces may overlap, be masked or have gaps.
"""

import dataclasses
import functools
import warnings
from typing import NamedTuple

import numpy as np

from jaxmodels.data.seismic_records import optional
from jaxmodels.pipelines import pick_results, pick_segments, pick_windows
from jaxmodels.train.errors import ConfigError

COMPONENTS = ("Z3", "N1Y", "E2X")  # letters of each, the first that is there is taken
NAMES = ("vertical", "north", "east")
LOWEST, HIGHEST = 0.1, 1e5  # Hz
COARSE = 0.2  # of the model's rate, below which little is left of an arrival


@dataclasses.dataclass(frozen=True)
class Instrument:
    """The components of one instrument over some time.

    Attributes:
        network, station, location: codes.
        band: the code of its channels without the last letter.
        pieces: of `pick_segments.Piece`.
        channels: the code of each component, None where there is none.
    """

    network: str
    station: str
    location: str
    band: str
    pieces: tuple[pick_segments.Piece, ...]
    channels: tuple[str | None, ...]

    @property
    def trace_id(self):
        """NET.STA.LOC."""
        return f"{self.network}.{self.station}.{self.location}"

    @property
    def name(self):
        """NET.STA.LOC.BAND, or what stands for it where there are no codes."""
        full = f"{self.trace_id}.{self.band}"
        return full if full.strip(".") else "the record"

    @functools.cached_property
    def still(self):
        """Components whose samples are all the same."""
        return _still(self.pieces)

    def channel_of(self, phase):
        """The code of the channel that a phase is best seen on, of one that moves."""
        order = (0, 1, 2) if phase == "P" else (1, 2, 0)
        there = [place for place in order if self.channels[place] is not None]
        moving = [place for place in there if place not in self.still]
        return self.channels[(moving or there)[0]]


class Part(NamedTuple):
    """Probabilities of some samples of an instrument that follow each other.

    Attributes:
        segment: `pick_segments.Segment` that they are of.
        first: sample of its grid.
        probabilities: float32 [T, 3], P, S, noise.
        recorded: bool [T].
    """

    segment: pick_segments.Segment
    first: int
    probabilities: np.ndarray
    recorded: np.ndarray


def annotate(picker, stream, **keywords):
    """Probabilities of a stream; see `pick_model.Picker.annotate`."""
    obspy = optional("obspy")
    settings = picker.settings(**keywords)
    found = obspy.Stream()
    for instrument, own in _usable(picker, stream, settings):
        for segment in own:
            held = parts(picker, segment, settings=settings)
            values = np.concatenate([part.probabilities for part in held])
            for letter, column in zip("PSN", values.T, strict=True):
                header = {
                    "network": instrument.network,
                    "station": instrument.station,
                    "location": instrument.location,
                    "channel": f"{picker.label}_{letter}",
                    "starttime": obspy.UTCDateTime(ns=segment.time(segment.first)),
                    "sampling_rate": float(segment.grid.rate),
                    "instrument": instrument.band,
                }
                found.append(obspy.Trace(np.ascontiguousarray(column), header))
    return found


def classify(picker, stream, **keywords):
    """Picks and detections of a stream; see `pick_model.Picker.classify`."""
    obspy = optional("obspy")
    settings = picker.settings(**keywords)
    picks, detections = [], []
    for instrument, own in _usable(picker, stream, settings):
        collector = pick_results.Collector(
            instrument, settings.thresholds, lambda time: obspy.UTCDateTime(ns=time)
        )
        for segment in own:
            for part in parts(picker, segment, settings=settings):
                collector.feed(*part)
        found_picks, found_detections = collector.close()
        picks += found_picks
        detections += found_detections
    return pick_results.Classification(
        picker.creator,
        sorted(picks, key=lambda pick: (pick.peak_time, pick.trace_id, pick.phase)),
        sorted(detections, key=lambda one: (one.start_time, one.trace_id)),
    )


def parts(picker, segment, *, settings, keep=None, tick=None):
    """Probabilities of a segment, part after part.

    Args:
        segment: `pick_segments.Segment`.
        settings: of `picker.settings`.
        keep: (start, stop) in nanoseconds since 1970, what is wanted of it; windows
            reach beyond. None for all.
        tick: called with the seconds that are done.

    Yields:
        `Part`s that follow each other.
    """
    first, stop = segment.first, segment.stop
    if keep is not None:
        grid = segment.grid
        first, stop = (
            max(first, grid.nearest(keep[0])),
            min(stop, grid.nearest(keep[1])),
        )
    if first >= stop:
        return
    rate = float(segment.grid.rate)
    for at, values, recorded in pick_windows.probabilities(
        segment,
        (first, stop),
        settings.windows,
        picker.preprocessing.normalize,
        picker.predict,
        None if tick is None else lambda count: tick(count / rate),
    ):
        yield Part(segment, at, values, recorded)


def segments(picker, instrument, settings, warn):
    """Segments of an instrument.

    Args:
        warn: called with lines about what is not as it should be.

    Raises:
        ConfigError: nothing of it can be picked.
    """
    channels = picker.preprocessing.channels
    pieces = [p for p in instrument.pieces if p.component < channels]
    still = {component for component in instrument.still if component < channels}
    alive = sorted({piece.component for piece in pieces} - still)
    missing = [NAMES[c] for c in range(channels) if c not in alive]
    if not alive:
        raise ConfigError(
            f"{instrument.name} is constant in every component; there is nothing to "
            "pick"
            if pieces
            else f"{instrument.name} has no vertical component, and the model reads no "
            "other; give another --checkpoint"
        )
    for component in sorted(still):
        code = instrument.channels[component]
        warn(f"{instrument.name}: {code} is constant and counts as not recorded")
    if missing and settings.strict:
        raise ConfigError(
            f"{instrument.name} has no {' and no '.join(missing)} component; leave out "
            "--strict (strict) to take zeros for it"
        )
    if missing:
        warn(
            f"{instrument.name} has no {' and no '.join(missing)} component; zeros "
            "stand for it"
        )
    rate = picker.preprocessing.sampling_rate
    lowest = min(piece.rate for piece in pieces)
    if lowest < COARSE * rate:
        warn(
            f"{instrument.name} was recorded at {lowest:g} Hz, and the model reads "
            f"{rate:g} Hz; expect few picks of local events"
        )
    if _differ(pieces):
        warn(f"{instrument.name}: traces overlap and differ; the earlier one is taken")
    found, short = pick_segments.segments(
        pieces, rate, channels, strict=settings.strict
    )
    if short and found:
        warn(
            f"{instrument.name}: {len(short)} part(s) shorter than "
            f"{pick_segments.SHORTEST:g} s are left out"
        )
    if not found:
        raise ConfigError(
            f"{instrument.name} has no part of {pick_segments.SHORTEST:g} s"
            f"{' with all components' if settings.strict else ''}; give more of it"
        )
    return found


def instruments(stream, warn):
    """The instruments of a stream, by name.

    Args:
        stream: of ObsPy.
        warn: called with lines about traces that are left out.

    Returns:
        List of `Instrument`; empty where no trace can be picked.
    """
    groups: dict[tuple[str, ...], dict[str, list]] = {}
    for trace in stream:
        stats, data = trace.stats, np.ma.getdata(trace.data)
        letter = stats.channel[-1:].upper()
        reason = None
        if not any(letter and letter in letters for letters in COMPONENTS):
            reason = f"channel {stats.channel!r} is no component Z, N, E or 3, 1, 2"
        elif not len(data):
            reason = "it has no samples"
        elif data.dtype.kind not in "iuf":
            reason = "its samples are no numbers"
        elif not LOWEST <= stats.sampling_rate <= HIGHEST:
            rate = stats.sampling_rate
            reason = f"its rate is {rate:g} Hz, not {LOWEST:g} to {HIGHEST:g}"
        if reason is not None:
            warn(f"{trace.id} is left out: {reason}")
            continue
        key = stats.network, stats.station, stats.location, stats.channel[:-1].upper()
        groups.setdefault(key, {}).setdefault(letter, []).append(trace)
    found = [_instrument(groups[key], warn) for key in sorted(groups)]
    return [instrument for instrument in found if instrument is not None]


def _instrument(by_letter, warn):
    """The instrument of traces by the last letter of their channel, or None."""
    pieces, channels = [], []
    for component, letters in enumerate(COMPONENTS):
        traces = _of_one(
            [by_letter[letter] for letter in letters if letter in by_letter], warn
        )
        held = []
        for trace in traces:
            own, left_out = pick_segments.pieces_of(
                component,
                trace.stats.channel,
                trace.stats.starttime.ns,
                float(trace.stats.sampling_rate),
                trace.data,
            )
            held += own
            if left_out and not np.ma.isMaskedArray(trace.data):
                warn(f"{trace.id}: {left_out} samples are not finite and count as gaps")
        pieces += held
        channels.append(traces[0].stats.channel if held else None)
    if not pieces:
        some = next(iter(by_letter.values()))[0]
        warn(f"{some.id} is left out: no sample of it is finite")
        return None
    stats = next(iter(by_letter.values()))[0].stats
    return Instrument(
        stats.network,
        stats.station,
        stats.location,
        stats.channel[:-1],
        tuple(pieces),
        tuple(channels),
    )


def _of_one(named, warn):
    """The traces of a component that has had several letters.

    Args:
        named: lists of the traces of each letter, the letter that is taken first.
    """
    kept = list(named[0]) if named else []
    for traces in named[1:]:
        for trace in traces:
            stats = trace.stats
            same = [
                one
                for one in kept
                if one.stats.starttime < stats.endtime
                and stats.starttime < one.stats.endtime
            ]
            if same:
                warn(f"{trace.id} is left out: {same[0].id} is the same component")
            else:
                kept.append(trace)
    return kept


def _usable(picker, stream, settings):
    """(instrument, segments) of those that can be picked; warns of the others.

    Raises:
        ConfigError: there is none.
    """
    obspy = optional("obspy")
    if isinstance(stream, obspy.Trace):
        stream = obspy.Stream([stream])
    kinds = [type(one) for one in stream] if isinstance(stream, (list, tuple)) else []
    wrong = [kind for kind in kinds if not issubclass(kind, obspy.Trace)]
    if wrong or not isinstance(stream, (obspy.Stream, list, tuple)):
        kind = f"list of {wrong[0].__name__}" if wrong else type(stream).__name__
        raise ConfigError(
            f"a {kind} is no stream; read one with obspy.read, and give arrays to "
            "annotate_array"
        )
    if not len(stream):
        raise ConfigError("the stream has no trace; read a file that has")
    lines: list[str] = []
    found = []
    for instrument in instruments(stream, lines.append):
        try:
            own = segments(picker, instrument, settings, lines.append)
            found.append((instrument, own))
        except ConfigError as error:
            lines.append(str(error))
    if not found:
        raise ConfigError("; ".join(lines))
    for line in lines:
        _warn(line)
    return found


def _warn(line):
    # Four calls up is who called `annotate` or `classify` of a `Picker`.
    warnings.warn(line, UserWarning, stacklevel=5)


def _still(pieces):
    """Components whose samples are all the same."""
    found: dict[int, tuple] = {}
    for piece in pieces:
        low, high = piece.samples.min(), piece.samples.max()
        before = found.get(piece.component, (low, high))
        found[piece.component] = min(before[0], low), max(before[1], high)
    return {component for component, (low, high) in found.items() if low == high}


def _differ(pieces):
    """Whether two pieces of one component hold different samples at the same times."""
    latest: dict[int, pick_segments.Piece] = {}
    for piece in sorted(pieces, key=lambda piece: piece.start):
        before = latest.get(piece.component)
        if before is None:
            latest[piece.component] = piece
            continue
        if piece.start < before.stop and piece.rate == before.rate:
            place = round((piece.start - before.start) * piece.rate / 1e9)
            shared = before.samples[place:]
            count = min(len(shared), len(piece.samples))
            if not np.array_equal(shared[:count], piece.samples[:count]):
                return True
        if piece.stop > before.stop:
            latest[piece.component] = piece
    return False
