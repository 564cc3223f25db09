"""Records of a user's own files: the components of one instrument over one time.

Files of one component each, as SAC files are, are put together by network, station,
location, channel and time.
"""

import pathlib

import numpy as np

from jaxmodels.pipelines import broaden_formats as formats
from jaxmodels.pipelines.broaden_formats import (
    COMPONENTS,
    ORDER,
    SECOND,
    Record,
    time_text,
)
from jaxmodels.train.errors import ConfigError

NO_RECORDS = (".txt", ".md", ".json", ".csv", ".xml", ".png", ".pdf", ".log", ".py")


def find(names):
    """The files of files and folders: paths, and how many are passed over.

    Of a folder those are passed over that are hidden or, by their suffix, no records.

    Raises:
        ConfigError: one is not there, or a folder holds nothing.
    """
    found, passed = [], 0
    for name in names:
        path = pathlib.Path(name)
        if not path.is_dir():
            found.append(path)
            continue
        entries = sorted(p for p in path.iterdir() if p.is_file())
        kept = [
            p
            for p in entries
            if not p.name.startswith(".") and p.suffix.lower() not in NO_RECORDS
        ]
        if not kept:
            raise ConfigError(f"the folder {name} holds no records; name one that does")
        found += kept
        passed += len(entries) - len(kept)
    return found, passed


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
            records, traces = formats.read_file(path, tag)
        except ConfigError as error:
            yield str(path), error
            continue
        yield from ((record.name, record) for record in records)
        for group in _groups(traces).values():
            first = next(iter(group.values()))
            if len(group) == 1 and isinstance(first, formats.Trace):
                group = _joined(waiting, first)
                if len(group) < len(ORDER):
                    continue
            yield _outcome(group)
    for groups in waiting.values():
        yield from map(_outcome, groups)


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

    An error instead of an exception, because it concerns this instrument alone.
    """
    parts = sorted(parts, key=lambda part: part.start)
    first, samples = parts[0], [parts[0].samples]
    end = first.end
    for part in parts[1:]:
        seconds = (part.start - end) / SECOND
        if part.sampling_rate != first.sampling_rate:
            return ConfigError(
                f"{first.name} changes its rate from {first.sampling_rate:g} to "
                f"{part.sampling_rate:g} Hz; cut it there"
            )
        if abs(seconds) * first.sampling_rate > 0.5:
            what = "a gap" if seconds > 0 else "an overlap"
            return ConfigError(
                f"{first.name} has {what} of {abs(seconds):g} s at {time_text(end)}; "
                "cut the record there or fill it"
            )
        samples.append(part.samples)
        end = part.end
    return first._replace(samples=np.concatenate(samples))


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
        letter = COMPONENTS.get(trace.channel[-1:].upper())
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
    counts = any(column.dtype.kind in "iu" for column in columns)
    stamp = time_text(start)[:19].replace("-", "").replace(":", "")
    instrument = ".".join(filter(None, first.name[:-1].split(".")))
    name = f"{instrument}_{stamp}"
    record = Record(
        name=name,
        waveform=np.stack(columns, axis=1).astype(np.float64),
        sampling_rate=rate,
        components=components,
        units="counts" if counts else None,
        network=first.network,
        station=first.station,
        location=first.location,
        channels=tuple(trace.channel for trace in traces),
        start=start,
        files=tuple(dict.fromkeys(trace.file for trace in traces)),
        inventory=first.inventory,
    )
    return name, record
