import csv
import io
import math

import pytest

from jaxmodels.pipelines import pick_outputs
from jaxmodels.pipelines.pick_results import Pick
from jaxmodels.train.errors import StorageError

obspy = pytest.importorskip("obspy")
START = obspy.UTCDateTime(2020, 1, 2, 3, 4, 5, 678_900)


def pick(phase, after, **changes):
    time = START + after
    fields = dict(
        start_time=time - 0.1,
        end_time=time + 0.2,
        peak_time=time,
        trace_id="XX.ABC.00",
        phase=phase,
        peak_value=0.98765,
        amplitude=123.456789,
        channel="HHZ" if phase == "P" else "HHN",
    )
    return Pick(**fields | changes)


PICKS = [pick("P", 0.0), pick("S", 2.5, amplitude=math.nan, trace_id="..")]


def test_the_table_holds_what_is_known_of_each_pick():
    rows = list(csv.DictReader(io.StringIO(pick_outputs.csv_text(PICKS))))
    assert rows[0] == {
        "trace_id": "XX.ABC.00",
        "phase": "P",
        "time": "2020-01-02T03:04:05.678900Z",
        "probability": "0.9877",
        "amplitude": "123.457",
        "channel": "HHZ",
        "start_time": "2020-01-02T03:04:05.578900Z",
        "end_time": "2020-01-02T03:04:05.878900Z",
    }
    assert rows[1]["amplitude"] == "" and rows[1]["trace_id"] == ".."


def test_quakeml_is_read_back_with_channels_mode_and_method():
    content = pick_outputs.quakeml(PICKS, "jaxmodels.PhasePicker.0123456789ab")
    (event,) = obspy.read_events(io.BytesIO(content))
    first, second = event.picks
    assert first.time == START and first.phase_hint == "P"
    assert first.waveform_id.get_seed_string() == "XX.ABC.00.HHZ"
    assert first.evaluation_mode == "automatic"
    assert first.method_id.id.endswith("/method/jaxmodels.PhasePicker.0123456789ab")
    assert first.comments[0].text == "probability 0.9877"
    assert second.phase_hint == "S" and second.waveform_id.channel_code == "HHN"
    names = {one.resource_id.id for one in event.picks}
    assert len(names) == 2


def test_a_name_of_a_file_with_dots_is_the_station_in_quakeml():
    content = pick_outputs.quakeml([pick("P", 0.0, trace_id=".a.b.")], "c")
    (event,) = obspy.read_events(io.BytesIO(content))
    where = event.picks[0].waveform_id
    assert (where.network_code, where.station_code) == ("", "a.b")
    assert (where.location_code, where.channel_code) == ("", "HHZ")


def test_quakeml_follows_its_schema():
    content = pick_outputs.quakeml(PICKS, "jaxmodels.PhasePicker.0123456789ab")
    from obspy.io.quakeml.core import _validate

    assert _validate(io.BytesIO(content), verbose=True)


def test_the_same_picks_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        pick_outputs.write(tmp_path / name, PICKS, {"x": 1}, "creator")
    for name in (pick_outputs.CSV, pick_outputs.QUAKEML, pick_outputs.SUMMARY):
        one, other = ((tmp_path / folder / name).read_bytes() for folder in "ab")
        assert one == other and one


def test_no_pick_gives_a_table_of_names_alone(tmp_path):
    paths = pick_outputs.write(tmp_path, [], {}, "creator")
    assert paths[0].read_text() == ",".join(pick_outputs.COLUMNS) + "\n"
    assert obspy.read_events(str(paths[1]))[0].picks == []


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        pick_outputs.write(tmp_path / "a" / "b", PICKS, {}, "creator")
