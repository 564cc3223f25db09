"""Records of a user's own files: the components of one instrument over one time.

Files of one component each, as SAC files are, are put together by network, station,
location, channel and time.
"""

import numpy as np

from jaxmodels.pipelines import broaden_formats as formats
from jaxmodels.pipelines import broaden_npz
from jaxmodels.pipelines.broaden_formats import (
    COMPONENTS,
    ORDER,
    SECOND,
    Record,
    time_text,
)
from jaxmodels.train.errors import ConfigError


def read(paths, tag=None):
    """The records of files, one after the other.

    Args:
        paths: of files.
        tag: of the waveforms in an ASDF file; None for the only one, or the raw one.

    Yields:
        (name, `Record`), or (path, ConfigError) for what cannot be read.
    """
    waiting: dict = {}  # files of one component, by instrument
    for path in paths:
        try:
            records, traces = _read_file(path, tag)
        except ConfigError as error:
            yield str(path), error
            continue
        yield from ((record.name, record) for record in records)
        traces = _without_spares(traces)
        for group in _groups(traces).values():
            first = next(iter(group.values()))
            if len(group) == 1 and isinstance(first, formats.Trace):
                group = _joined(waiting, first)
                if len(group) < len(ORDER):
                    continue
            yield _outcome(group)
    for groups in waiting.values():
        yield from map(_outcome, groups)


def _read_file(path, tag):
    """The records and the traces of one file."""
    if not path.is_file():
        raise ConfigError(f"there is no file {path}; check the name")
    if path.suffix.lower() == ".npz":
        return broaden_npz.read_npz(path), []
    if path.suffix.lower() in formats.ASDF_SUFFIXES:
        traces = formats.read_asdf(path, tag)
    else:
        traces = formats.read_obspy(path)
    if not traces:
        raise ConfigError(f"{path} holds no waveforms; name a file that does")
    return [], traces


def _without_spares(traces):
    """Traces without those of a station that are beside its motion, such as a log.

    A rotated component (R, T) is no such one: it stands for one that is missing.
    """
    known = {_station(t) for t in traces if _letter(t) in COMPONENTS}
    kept = []
    spare: dict = {}
    for trace in traces:
        if _station(trace) in known and _letter(trace) not in (*COMPONENTS, "R", "T"):
            spare.setdefault(_station(trace), {})[trace.name] = None
        else:
            kept.append(trace)
    return [
        trace._replace(
            notes=tuple(
                f"{name} is left out, no component Z, N or E"
                for name in spare.get(_station(trace), ())
            )
        )
        for trace in kept
    ]


def _station(trace):
    return trace.network, trace.station


def _letter(trace):
    return trace.channel[-1:].upper()


def _groups(traces):
    """{instrument: {channel: traces without what follows another directly}}."""
    channels: dict = {}
    for trace in traces:
        channels.setdefault(trace.name, []).append(trace)
    groups: dict = {}
    for name, parts in channels.items():
        groups.setdefault(name[:-1], {})[name] = _merged(parts)
    return groups


def _merged(parts):
    """One trace of parts that follow each other, or the ConfigError that says why not.

    Samples that two parts have both are taken once where they are the same. An error
    instead of an exception, because it concerns this instrument alone.
    """
    parts = sorted(parts, key=lambda part: (part.start, len(part.samples)))
    whole = parts[0]
    pieces, end = [whole.samples], whole.end
    for part in parts[1:]:
        rate = whole.sampling_rate
        if part.sampling_rate != rate:
            return ConfigError(
                f"{whole.name} changes its rate from {rate:g} to "
                f"{part.sampling_rate:g} Hz; cut it there"
            )
        away = (part.start - end) * rate / SECOND  # samples
        if away < -0.5:
            so_far = np.concatenate(pieces)
            place = len(so_far) + round(away)
            shared = so_far[place:][: len(part.samples)]
            if not np.array_equal(shared, part.samples[: len(shared)]):
                return _unjoined(whole, "an overlap of other samples", away, end)
            pieces = [so_far, part.samples[len(shared) :]]
        elif away > 0.5:
            return _unjoined(whole, "a gap", away, end)
        else:
            pieces.append(part.samples)
        end = max(end, part.end)
    return whole._replace(samples=np.concatenate(pieces))


def _unjoined(trace, what, away, end):
    seconds = abs(away) / trace.sampling_rate
    return ConfigError(
        f"{trace.name} has {what} of {seconds:g} s at {time_text(end)}; cut the record "
        "there or fill it"
    )


def _joined(waiting, trace):
    """The group of single components that a trace belongs to, itself included."""
    groups = waiting.setdefault((trace.name[:-1], trace.sampling_rate), [])
    for group in groups:
        other = next(iter(group.values()))
        shared = min(trace.end, other.end) - max(trace.start, other.start)
        if trace.name not in group and shared > 0:
            group[trace.name] = trace
            break
    else:
        group = {trace.name: trace}
        groups.append(group)
    if len(group) == len(ORDER):
        groups.remove(group)
    return group


def _outcome(group):
    """(name, Record or ConfigError) of the traces of one instrument."""
    wrong = next((x for x in group.values() if isinstance(x, ConfigError)), None)
    if wrong is not None:
        return next(iter(group)), wrong
    traces = {}
    for trace in group.values():
        letter = COMPONENTS.get(_letter(trace))
        if letter is None or letter in traces:
            return trace.file, ConfigError(
                f"{trace.name} is no component Z, N (or 1) or E (or 2) that the record "
                "does not have already; rotate or rename it"
            )
        traces[letter] = trace
    components = "".join(letter for letter in ORDER if letter in traces)
    ordered = [traces[letter] for letter in components]
    if len({trace.sampling_rate for trace in ordered}) > 1:
        return ordered[0].file, ConfigError(
            f"{ordered[0].name} and its other components differ in rate; resample them"
        )
    return _record(ordered, components)


def _record(traces, components):
    first, rate = traces[0], traces[0].sampling_rate
    start = max(trace.start for trace in traces)
    skipped = [round((start - trace.start) * rate / SECOND) for trace in traces]
    length = min(len(t.samples) - n for t, n in zip(traces, skipped, strict=True))
    if length < 1:
        return first.file, ConfigError(
            f"{first.name} and its other components share no time; give one record"
        )
    columns = [t.samples[n:][:length] for t, n in zip(traces, skipped, strict=True)]
    stamp = time_text(start)[:19].replace("-", "").replace(":", "")
    instrument = ".".join(filter(None, first.name[:-1].split(".")))
    name = f"{instrument}_{stamp}"
    record = Record(
        name=name,
        waveform=np.stack(columns, axis=1).astype(np.float64),
        sampling_rate=rate,
        components=components,
        units=_units(traces),
        network=first.network,
        station=first.station,
        location=first.location,
        channels=tuple(trace.channel for trace in traces),
        start=start,
        files=tuple(dict.fromkeys(trace.file for trace in traces)),
        inventory=first.inventory,
        notes=tuple(dict.fromkeys(note for trace in traces for note in trace.notes)),
    )
    return name, record


def _units(traces):
    """What the files of a record say, the worst first; see `formats.Record`."""
    stated = [trace.units for trace in traces]
    for motion in formats.MOTIONS:
        if motion in stated:
            return motion
    if any(formats.whole_numbers(trace.samples) for trace in traces):
        return "counts"
    return formats.UNKNOWN if formats.UNKNOWN in stated else None
