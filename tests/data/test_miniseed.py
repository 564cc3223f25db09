import numpy as np
import pytest

from jaxmodels.data import builder, miniseed, seismic_records
from jaxmodels.data.ground_motions import ground_motion_data
from jaxmodels.data.record_folders import Reader, prepare_folder
from jaxmodels.data.records import BadRecordError
from jaxmodels.train.errors import ConfigError
from tests.data.motion_sources import SMALL, shaking

RATE = 20.0


def trace(letter, data, start=0.0, station="AA", band="HN"):
    obspy = seismic_records.optional("obspy")
    header = dict(network="XX", station=station, channel=band + letter)
    header |= dict(sampling_rate=RATE, starttime=obspy.UTCDateTime(2020, 1, 1) + start)
    return obspy.Trace(np.asarray(data, np.int32), header)


def write(path, *traces):
    obspy = seismic_records.optional("obspy")
    path.parent.mkdir(parents=True, exist_ok=True)
    obspy.Stream(list(traces)).write(str(path), format="MSEED")


def counts(seed, length=400):
    return np.random.default_rng(seed).integers(-1000, 1000, length)


def read(folder, split, **reader):
    prepared = prepare_folder(folder, Reader(**reader), folder.parent / "tfds")
    return list(prepared.as_data_source(split))


def everything(folder, **reader):
    splits = miniseed.scan(folder).splits()
    return [record for split in splits for record in read(folder, split, **reader)]


def test_components_of_several_files_make_a_record(tmp_path):
    folder = tmp_path / "set"
    data = {letter: counts(i) for i, letter in enumerate("ZNE")}
    for letter, values in data.items():
        write(folder / "below" / f"{letter}.mseed", trace(letter, values))
    (record,) = everything(folder, sensitivity=10.0)
    for place, letter in enumerate("ZNE"):
        np.testing.assert_allclose(10 * record["waveform"][:, place], data[letter])
    assert record["station"] == b"XX.AA" and record["sampling_rate"] == RATE
    assert record["name"] == b"XX.AA..HN.20200101T000000"
    assert record["p_sample"] == seismic_records.NO_ARRIVAL


def test_a_record_is_what_all_components_share(tmp_path):
    folder = tmp_path / "set"
    write(
        folder / "all.mseed",
        trace("Z", counts(0)),
        trace("1", counts(1), start=2.0),
        trace("2", counts(2, 300)),
    )
    (record,) = everything(folder, amplitude=False)
    expected = [counts(0)[40:300], counts(1)[:260], counts(2, 300)[40:]]
    np.testing.assert_array_equal(record["waveform"], np.stack(expected, axis=1))


def test_records_that_overlap_are_of_one_event(tmp_path):
    folder = tmp_path / "set"
    starts = {"AA": 0.0, "BB": 5.0, "CC": 18.0, "DD": 500.0}
    for station, start in starts.items():
        traces = [trace(c, counts(0), start, station) for c in "ZNE"]
        write(folder / f"{station}.mseed", *traces)
    found = everything(folder, amplitude=False)
    events = {one["station"][-2:].decode(): one["source_id"] for one in found}
    assert events["AA"] == events["BB"] == events["CC"] != events["DD"]


def test_a_gap_makes_two_records_and_a_lonely_trace_none(tmp_path):
    folder = tmp_path / "set"
    both = [trace(c, counts(0), start) for c in "ZNE" for start in (0.0, 40.0)]
    write(folder / "gap.mseed", *both)
    write(folder / "alone.mseed", trace("Z", counts(1), station="BB"))
    found = miniseed.scan(folder)
    assert [together.end - together.start for together in found.found] == [
        399 * 10**9 / RATE
    ] * 2
    (folder / "gap.mseed").unlink()
    with pytest.raises(ConfigError, match="no record of three components: 1 files"):
        miniseed.scan(folder)


def test_counts_need_a_sensitivity_or_an_inventory(tmp_path):
    folder = tmp_path / "set"
    write(folder / "a.mseed", *[trace(c, counts(0)) for c in "ZNE"])
    with pytest.raises(ConfigError, match="is in counts, .* reader inventory"):
        everything(folder)
    with pytest.raises(ConfigError, match="inventory .*no.xml"):
        read(folder, "train", inventory=str(tmp_path / "no.xml"))


def inventory_of(path, gain):
    """A StationXML file of a flat accelerometer, counts = gain x m/s^2."""
    seismic_records.optional("obspy")
    from obspy.core.inventory import Channel, Inventory, Network, Station
    from obspy.core.inventory.response import Response

    place = dict(latitude=0.0, longitude=0.0, elevation=0.0)
    response = Response.from_paz([], [], stage_gain=gain, input_units="M/S**2")
    channels = [
        Channel(f"HN{c}", "", depth=0.0, response=response, **place) for c in "ZNE"
    ]
    station = Station("AA", channels=channels, **place)
    made = Inventory([Network("XX", stations=[station])])
    made.write(str(path), format="STATIONXML")
    return str(path)


def test_an_inventory_takes_the_instrument_away(tmp_path):
    folder, gain = tmp_path / "set", 2000.0
    time = np.arange(1200) / RATE
    sine = 1000 * np.sin(2 * np.pi * 1.0 * time)
    write(folder / "a.mseed", *[trace(c, sine) for c in "ZNE"])
    path = inventory_of(tmp_path / "a.xml", gain)
    (split,) = miniseed.scan(folder).splits()
    (record,) = read(folder, split, inventory=path)
    inner = slice(300, -300)
    np.testing.assert_allclose(
        record["waveform"][inner, 0], sine[inner] / gain, atol=0.03 * 0.5
    )


def test_an_unreadable_file_is_named(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "bad.mseed").write_bytes(b"no miniSEED")
    with pytest.raises(ConfigError, match="bad.mseed: cannot be read"):
        miniseed.scan(folder)


def test_bad_files_may_be_left_out(tmp_path):
    folder = shaking_folder(tmp_path / "set", 30)
    (folder / "bad.mseed").write_bytes(b"no miniSEED")
    options = SMALL | dict(batch_size=4, reader=dict(sensitivity=1e6))
    options |= dict(data_dir=tmp_path / "tfds", on_bad_record="skip")
    with pytest.raises(BadRecordError, match="bad.mseed: cannot be read .* 1 of 31"):
        ground_motion_data(str(folder), **options)
    ground_motion_data(str(folder), **options, max_bad_fraction=0.1)
    with pytest.raises(BadRecordError, match="bad.mseed: cannot be read"):
        ground_motion_data(str(folder), **options | dict(on_bad_record="stop"))


def test_records_without_a_response_may_be_left_out(tmp_path):
    """Also where the set was made under another policy."""
    folder = shaking_folder(tmp_path / "set", 30)
    other = [trace(c, counts(0, 600), 0.0, "BB") for c in "ZNE"]
    write(folder / "other.mseed", *other)
    reader = dict(inventory=inventory_of(tmp_path / "a.xml", 1e6))
    options = SMALL | dict(batch_size=4, reader=reader, data_dir=tmp_path / "tfds")
    (split,) = {
        split
        for split in ("train", "validation", "test")
        for one in miniseed.scan(folder, reader["inventory"]).traces(split)
        if one.reason
    }
    with pytest.raises(BadRecordError, match="XX.BB..HN: no response in the inventory"):
        ground_motion_data(str(folder), **options)
    skip = dict(on_bad_record="skip", max_bad_fraction=0.4)
    ground_motion_data(str(folder), **options, **skip)
    if split != "test":
        with pytest.raises(BadRecordError, match="no response in the inventory"):
            ground_motion_data(str(folder), **options)


def shaking_folder(folder, num_events):
    for event in range(num_events):
        motion = shaking(event, length=600, onset=250)["waveform"] * 1e6
        traces = [trace(c, motion[:, i], 1000.0 * event) for i, c in enumerate("ZNE")]
        write(folder / f"{event}.mseed", *traces)
    return folder


def test_a_folder_of_miniseed_trains_a_model(tmp_path):
    folder = shaking_folder(tmp_path / "set", 30)
    made = ground_motion_data(
        folder.as_posix(),
        batch_size=4,
        data_dir=tmp_path / "tfds",
        reader=dict(sensitivity=1e6),
        **SMALL,
    )
    batch = made.train(0, 0, 1)
    assert batch["targets"].shape == (4, 200, 3) and np.isfinite(batch["scalars"]).all()
    prepared = prepare_folder(folder, Reader(sensitivity=1e6), tmp_path / "tfds")
    sizes = {s: len(builder.RecordFiles(prepared, s)) for s in prepared.info.splits}
    assert sum(sizes.values()) == 30 and len(sizes) == 3
