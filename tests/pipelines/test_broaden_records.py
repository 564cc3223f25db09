import numpy as np
import pytest

from jaxmodels.pipelines import broaden_formats, broaden_npz, broaden_records
from jaxmodels.train.errors import ConfigError

obspy = pytest.importorskip("obspy", reason="reads miniSEED and SAC")
h5py = pytest.importorskip("h5py", reason="reads ASDF")

START = 1_562_383_192_500_000_000  # 2019-07-06T03:19:52.5
RATE = 20.0


def trace(channel, first=0, count=40, *, start=START, dtype=np.int32, **codes):
    header = dict(network="CI", station="TOW2", location="", channel=channel)
    header |= dict(sampling_rate=RATE, starttime=obspy.UTCDateTime(ns=start)) | codes
    return obspy.Trace(np.arange(first, first + count, dtype=dtype), header)


def write(path, *traces, form="MSEED"):
    obspy.Stream(traces).write(str(path), format=form)
    return path


def read(*paths, tag=None):
    return list(broaden_records.read(paths, tag))


def only(*paths, **options):
    ((name, record),) = read(*paths, **options)
    assert name == record.name
    return record


def error(*paths, **options):
    ((_, found),) = read(*paths, **options)
    assert isinstance(found, ConfigError) and "\n" not in str(found)
    return str(found)


def test_a_miniseed_file_gives_vertical_north_east_and_its_headers(tmp_path):
    path = write(
        tmp_path / "a.mseed", trace("HNE", 200), trace("HNZ"), trace("HNN", 100)
    )
    record = only(path)
    assert record.name == "CI.TOW2.HN_20190706T031952"
    assert (record.components, record.channels) == ("ZNE", ("HNZ", "HNN", "HNE"))
    np.testing.assert_array_equal(record.waveform[0], [0, 100, 200])
    assert record.waveform.shape == (40, 3) and record.sampling_rate == RATE
    assert (record.start, record.units) == (START, "counts")
    assert broaden_formats.time_text(record.start) == "2019-07-06T03:19:52.500000"
    assert record.files == (str(path),)


def test_components_1_and_2_stand_for_north_and_east(tmp_path):
    traces = [trace(c, n) for c, n in (("HN2", 200), ("HN1", 100), ("HNZ", 0))]
    record = only(write(tmp_path / "a.mseed", *traces))
    assert (record.components, record.channels) == ("ZNE", ("HNZ", "HN1", "HN2"))
    np.testing.assert_array_equal(record.waveform[0], [0, 100, 200])


def test_pieces_that_follow_each_other_are_one_record(tmp_path):
    path = write(
        tmp_path / "a.mseed", trace("HNZ"), trace("HNZ", 40, start=START + 2 * 10**9)
    )
    record = only(path)
    np.testing.assert_array_equal(record.waveform[:, 0], np.arange(80))


@pytest.mark.parametrize(
    "seconds, message",
    [(3, "CI.TOW2..HNZ has a gap of 1 s at 2019-07-06T03:19:54.5"), (1, "an overlap")],
)
def test_a_gap_or_an_overlap_is_an_error_that_names_its_time(
    tmp_path, seconds, message
):
    later = trace("HNZ", 7, start=START + seconds * 10**9)
    path = write(tmp_path / "a.mseed", trace("HNZ"), later, trace("HNN"))
    assert message in error(path) and "cut the record there" in error(path)


def test_components_are_cut_to_the_time_that_they_share(tmp_path):
    late = trace("HNN", 100, 30, start=START + 500_000_000)
    record = only(write(tmp_path / "a.mseed", trace("HNZ"), late))
    assert record.components == "ZN" and record.start == START + 500_000_000
    np.testing.assert_array_equal(record.waveform[[0, -1]], [[10, 100], [39, 129]])


def test_sac_files_of_one_component_each_are_put_together(tmp_path):
    paths = []
    for day in (0, 1):
        for channel in "ZNE":
            start = START + day * 86_400 * 10**9
            one = trace(f"HN{channel}", start=start, dtype=np.float32)
            path = tmp_path / f"{day}{channel}.sac"
            paths.append(write(path, one, form="SAC"))
    records = read(*sorted(paths, key=lambda path: path.name[1]))
    assert [name for name, _ in records] == [
        "CI.TOW2.HN_20190706T031952",
        "CI.TOW2.HN_20190707T031952",
    ]
    for _, record in records:
        assert record.components == "ZNE" and record.units == "counts"
        assert len(record.files) == 3


def test_instruments_and_stations_are_records_of_their_own(tmp_path):
    others = trace("HHZ"), trace("HNZ", station="CCC"), trace("HNZ", location="10")
    records = read(write(tmp_path / "a.mseed", trace("HNZ"), *others))
    assert sorted(name.partition("_")[0] for name, _ in records) == [
        "CI.CCC.HN",
        "CI.TOW2.10.HN",
        "CI.TOW2.HH",
        "CI.TOW2.HN",
    ]


def test_a_component_that_has_no_place_is_an_error(tmp_path):
    path = write(tmp_path / "a.mseed", trace("HNZ"), trace("HNR"))
    assert "CI.TOW2..HNR is no component Z, N (or 1) or E (or 2)" in error(path)
    path = write(tmp_path / "b.mseed", trace("HNN"), trace("HN1"))
    assert "that the record does not have already" in error(path)


def test_files_that_cannot_be_read_are_told_and_the_others_read(tmp_path):
    bad, good = tmp_path / "bad.mseed", tmp_path / "good.mseed"
    bad.write_bytes(b"no seismogram")
    write(good, trace("HNZ"))
    missing = tmp_path / "none.mseed"
    found = dict(read(bad, good, missing))
    assert "cannot be read as miniSEED or SAC" in str(found[str(bad)])
    assert "there is no file" in str(found[str(missing)])
    assert found["CI.TOW2.HN_20190706T031952"].components == "Z"


def asdf(path, *, tags=("raw_recording",), xml=None):
    with h5py.File(path, "w") as file:
        station = file.create_group("Waveforms/CE.68150")
        for tag in tags:
            for place, letter in enumerate("NEZ"):
                name = f"CE.68150.10.HN{letter}__2014-08-24T10__2014-08-24T10__{tag}"
                data = station.create_dataset(name, data=np.arange(50) + 100 * place)
                data.attrs.update(starttime=START, sampling_rate=RATE)
        if xml is not None:
            content = np.frombuffer(xml, np.uint8)
            station.create_dataset("StationXML", data=content)
    return path


def test_an_asdf_file_gives_waveforms_and_its_responses(tmp_path):
    record = only(asdf(tmp_path / "a.h5", xml=b"<xml/>"))
    assert record.name == "CE.68150.10.HN_20190706T031952"
    np.testing.assert_array_equal(record.waveform[0], [200, 0, 100])
    assert (record.inventory, record.units) == (b"<xml/>", "counts")
    both = asdf(tmp_path / "b.h5", tags=("raw_recording", "processed"))
    assert only(both).components == "ZNE"


def test_waveforms_of_several_tags_are_chosen_by_tag(tmp_path):
    path = asdf(tmp_path / "a.h5", tags=("p", "q"))
    assert "tagged p, q; choose one with --tag" in error(path)
    assert only(path, tag="q").components == "ZNE"
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_group("data")
    assert "HDF5 without Waveforms" in error(tmp_path / "b.h5")


def npz(path, **entries):
    np.savez(path, **entries)
    return path


@pytest.mark.parametrize("turned", [False, True])
def test_an_npz_file_may_hold_its_waveform_either_way(tmp_path, turned):
    x = np.arange(120.0).reshape(40, 3)
    path = npz(
        tmp_path / "a.npz",
        waveform=x.T if turned else x,
        sampling_rate=50,
        components="NEZ",
        units="cm/s^2",
        starttime="2019-07-06T03:19:52.5Z",
        channels=["BNN", "BNE", "BNZ"],
    )
    record = only(path)
    np.testing.assert_array_equal(record.waveform, x[:, [2, 0, 1]])
    assert (record.name, record.components, record.units) == ("a", "ZNE", "cm/s^2")
    assert (record.start, record.sampling_rate) == (START, 50.0)
    assert record.channels == ("BNZ", "BNN", "BNE")


def test_an_npz_file_of_stations_gives_a_record_each(tmp_path):
    x = np.arange(120).reshape(3, 40)
    path = npz(tmp_path / "a.npz", CI_TOW2=x, CI_CCC=x, fs=100, unit="1e-6 g")
    records = read(path)
    assert [name for name, _ in records] == ["CI.TOW2", "CI.CCC"]
    assert (records[1][1].network, records[1][1].station) == ("CI", "CCC")
    assert records[0][1].units == "1e-6 g"


def test_integers_and_what_has_a_sensitivity_are_counts(tmp_path):
    x = np.arange(40)
    assert only(npz(tmp_path / "a.npz", x=x, fs=1)).units == "counts"
    assert only(npz(tmp_path / "b.npz", x=x * 1.5, fs=1)).units is None
    assert only(npz(tmp_path / "d.npz", x=x * 1.0, fs=1)).units == "counts"
    record = only(npz(tmp_path / "c.npz", x=x * 1.0, fs=1, sens=5))
    assert (record.units, record.sensitivity, record.components) == ("counts", 5, "Z")


@pytest.mark.parametrize(
    "entries, message",
    [
        ({"waveform": np.zeros((9, 3))}, "no sampling_rate .or fs., in Hz"),
        ({"x": np.zeros(9), "fs": np.nan}, "a sampling rate of nan Hz; write the re"),
        ({"x": np.zeros(9), "fs": "fast"}, "a sampling_rate that cannot be read"),
        ({"x": np.zeros(9), "fs": 1, "start": "noon"}, "a starttime that cannot be"),
        ({"x": np.zeros(9), "fs": 1, "start": 1e12}, "between 1678 and 2262"),
        ({"x": np.array([{}]), "fs": 1}, "x cannot be read; save it as numbers"),
        ({"sampling_rate": 10, "title": "x"}, "holds no waveform; it has title"),
        ({"x": np.zeros((2, 3, 4)), "fs": 1}, r"an array of shape \(2, 3, 4\)"),
        ({"x": np.zeros((9, 3)), "fs": 1, "order": "ZRT"}, "named 'ZRT'; name each"),
        ({"x": np.zeros((9, 4)), "fs": 1}, r"4 component\(s\) named 'ZNE'"),
        ({"x": np.zeros((9, 2)), "fs": 1, "order": "N1"}, "named 'N1'"),
    ],
)
def test_an_npz_file_that_lacks_something_is_an_error(tmp_path, entries, message):
    with pytest.raises(ConfigError, match=message):
        broaden_npz.read_npz(npz(tmp_path / "a.npz", **entries))


def test_a_broken_npz_file_is_an_error(tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(b"PK no archive")
    assert "cannot be read: it is no NPZ file" in error(path)


def sac(path, idep=None, scale=0.1):
    from obspy.core.util.attribdict import AttribDict

    one = trace("HNZ", dtype=np.float32)
    one.data *= np.float32(scale)
    if idep is not None:
        one.stats.sac = AttribDict(idep=idep)
    return write(path, one, form="SAC")


def test_a_sac_file_says_by_its_header_what_it_holds(tmp_path):
    wanted = {None: "unknown", 5: "unknown", 6: "displacement", 7: "velocity", 8: None}
    for idep, units in wanted.items():
        assert only(sac(tmp_path / "a.sac", idep)).units == units
    assert only(sac(tmp_path / "a.sac", scale=3.0)).units == "counts"


@pytest.mark.parametrize("missing", ["starttime", "sampling_rate"])
def test_an_asdf_file_that_lacks_an_attribute_stops_no_other(tmp_path, missing):
    bad, good = asdf(tmp_path / "a.h5"), asdf(tmp_path / "b.h5")
    with h5py.File(bad, "a") as file:
        for data in file["Waveforms/CE.68150"].values():
            del data.attrs[missing]
    (first, second) = read(bad, good)
    assert isinstance(first[1], ConfigError) and f"has no {missing}" in str(first[1])
    assert second[1].components == "ZNE"


def test_an_hdf5_file_of_other_form_is_an_error(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("Waveforms/XX.ABC", data=np.zeros(3))
    assert "a.h5 cannot be read as ASDF" in error(tmp_path / "a.h5")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_group("Waveforms")
    assert "b.h5 holds no waveforms" in error(tmp_path / "b.h5")
    wide = asdf(tmp_path / "c.h5")
    with h5py.File(wide, "a") as file:
        station = file["Waveforms/CE.68150"]
        data = station.create_dataset("CE.68150.20.HNZ__a__b__x", data=np.zeros((2, 3)))
        data.attrs.update(starttime=0, sampling_rate=1.0)
    assert "has no 1-D numbers" in error(wide, tag="x")


def test_a_tag_that_is_not_there_is_answered_with_the_known_ones(tmp_path):
    path = asdf(tmp_path / "a.h5", tags=("p", "q"))
    assert "has no waveforms tagged 'zz'; its tags are p, q" in error(path, tag="zz")


@pytest.mark.parametrize(
    "time",
    [
        1_562_383_192.5,
        "1562383192.5",
        "2019-07-06T03:19:52.5+00:00",
        "2019-07-06T05:19:52.500+0200",
        "2019-07-05T22:49:52.5-04:30",
        np.datetime64("2019-07-06T03:19:52.5"),
    ],
)
def test_a_start_is_seconds_since_1970_or_a_time_with_its_offset(tmp_path, time):
    path = npz(tmp_path / "a.npz", x=np.zeros(9), fs=1, starttime=time)
    assert only(path).start == START


def test_a_start_of_whole_seconds_is_exact(tmp_path):
    path = npz(tmp_path / "a.npz", x=np.zeros(9), fs=1, starttime=1_562_383_180)
    start = only(path).start
    assert broaden_formats.time_text(start) == "2019-07-06T03:19:40.000000"
    with pytest.raises(ValueError, match="'NaT' is no time"):
        broaden_formats.nanoseconds("NaT")


def test_samples_that_two_pieces_share_are_taken_once(tmp_path):
    later = trace("HNZ", 20, start=START + 10**9)
    record = only(write(tmp_path / "a.mseed", trace("HNZ"), later, trace("HNZ")))
    np.testing.assert_array_equal(record.waveform[:, 0], np.arange(60))
    assert record.start == START


def test_a_channel_beside_the_motion_is_left_out_and_told(tmp_path):
    triple = [trace(f"HN{letter}") for letter in "ZNE"]
    record = only(write(tmp_path / "a.mseed", *triple, trace("LOG"), trace("HNX")))
    assert record.components == "ZNE"
    assert record.notes == tuple(
        f"CI.TOW2..{channel} is left out, no component Z, N or E"
        for channel in ("LOG", "HNX")
    )
