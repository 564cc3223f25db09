"""Files of picks: CSV, QuakeML and a summary in JSON; same picks, same bytes."""

import csv
import hashlib
import io
import json
import math
import pathlib
import re

from jaxmodels.data.seismic_records import optional
from jaxmodels.train.errors import StorageError

CSV, QUAKEML, SUMMARY = "picks.csv", "picks.xml", "summary.json"
COLUMNS = (
    "trace_id",
    "phase",
    "time",
    "probability",
    "amplitude",
    "channel",
    "start_time",
    "end_time",
)
PREFIX = "smi:local/jaxmodels"


def write(folder, picks, summary, creator):
    """Writes all three; each is there as a whole or not at all.

    Args:
        folder: made where it is missing.
        picks: of `pick_results.Pick`.
        summary: JSON-able.
        creator: of `Picker.creator`.

    Returns:
        Their paths.

    Raises:
        StorageError: one cannot be written.
    """
    text = json.dumps(summary, indent=2, sort_keys=True, allow_nan=False) + "\n"
    contents = {
        CSV: csv_text(picks).encode(),
        QUAKEML: quakeml(picks, creator),
        SUMMARY: text.encode(),
    }
    folder = pathlib.Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            unfinished = folder / f".{name}"
            unfinished.write_bytes(content)
            unfinished.replace(folder / name)
    except OSError as error:
        raise StorageError(
            f"{folder} cannot be written: {error.strerror or error}"
        ) from None
    return [folder / name for name in contents]


def csv_text(picks):
    """A line for each pick, under the names of COLUMNS; times are in UTC."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(COLUMNS)
    for pick in picks:
        amplitude = "" if math.isnan(pick.amplitude) else f"{pick.amplitude:.6g}"
        lines.writerow(
            [
                pick.trace_id,
                pick.phase,
                pick.peak_time,
                f"{pick.peak_value:.4f}",
                amplitude,
                pick.channel,
                pick.start_time,
                pick.end_time,
            ]
        )
    return text.getvalue()


def quakeml(picks, creator):
    """QuakeML 1.2 of all picks, in one event, since they are of no known event."""
    from_obspy = optional("obspy.core.event")
    method = from_obspy.ResourceIdentifier(f"{PREFIX}/method/{_safe(creator)}")
    own = hashlib.sha256(csv_text(picks).encode()).hexdigest()[:16]
    found = []
    for pick in picks:
        # The name of a file that stands for a station may have dots.
        network, rest = pick.trace_id.split(".", 1)
        station, location = rest.rsplit(".", 1)
        name = f"{pick.trace_id}.{pick.channel}/{pick.phase}/{pick.peak_time.ns}"
        where = from_obspy.WaveformStreamID(
            network_code=network,
            station_code=station,
            location_code=location,
            channel_code=pick.channel,
        )
        about = from_obspy.Comment(
            text=f"probability {pick.peak_value:.4f}",
            resource_id=from_obspy.ResourceIdentifier(
                f"{PREFIX}/comment/{_safe(name)}"
            ),
        )
        found.append(
            from_obspy.Pick(
                resource_id=from_obspy.ResourceIdentifier(
                    f"{PREFIX}/pick/{_safe(name)}"
                ),
                time=pick.peak_time,
                waveform_id=where,
                phase_hint=pick.phase,
                method_id=method,
                evaluation_mode="automatic",
                evaluation_status="preliminary",
                comments=[about],
            )
        )
    event = from_obspy.Event(
        resource_id=from_obspy.ResourceIdentifier(f"{PREFIX}/event/{own}"),
        picks=found,
    )
    info = from_obspy.CreationInfo(author=creator)
    catalog = from_obspy.Catalog(
        [event],
        resource_id=from_obspy.ResourceIdentifier(f"{PREFIX}/catalog/{own}"),
        creation_info=info,
        description="picks of P and S, not associated with events",
    )
    content = io.BytesIO()
    catalog.write(content, format="QUAKEML")
    return content.getvalue()


def _safe(name):
    """A name as an identifier of QuakeML takes it."""
    return re.sub(r"[^\w.*()~'/-]", "_", name, flags=re.ASCII)
