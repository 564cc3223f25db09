import dataclasses

import numpy as np
import pytest

from jaxmodels.data import instrument_response
from jaxmodels.pipelines import broaden_files, broaden_records, broaden_units
from jaxmodels.pipelines import broaden_formats as formats
from jaxmodels.train.errors import ConfigError
from tests.pipelines import broadening_runs as runs


def response(channels, gain=1e6):
    """StationXML of accelerometers at XX.ABC that give `gain` counts a m/s^2."""
    obspy = pytest.importorskip("obspy")
    from obspy.core import inventory

    place = dict(latitude=0.0, longitude=0.0, elevation=0.0)
    units = dict(input_units="M/S**2", output_units="COUNTS")
    made = inventory.Response.from_paz([], [], gain, **units)
    named = [
        inventory.Channel(code, "", **place, depth=0.0, response=made)
        for code in channels
    ]
    station = inventory.Station("ABC", **place, channels=named)
    network = inventory.Network("XX", stations=[station])
    return obspy, inventory.Inventory([network], source="test")


def test_the_response_of_an_inventory_is_removed(tmp_path):
    obspy, known = response(["HNZ", "HNN", "HNE"])
    known.write(str(tmp_path / "station.xml"), "STATIONXML")
    motion = runs.ground_motion(20.0)
    counts = np.round(1e6 * motion).astype(np.int32)
    header = dict(network="XX", station="ABC", sampling_rate=runs.RATE)
    traces = [
        obspy.Trace(np.ascontiguousarray(column), header | {"channel": f"HN{letter}"})
        for letter, column in zip("ZNE", counts.T, strict=True)
    ]
    obspy.Stream(traces).write(str(tmp_path / "a.mseed"), "MSEED")
    ((name, record),) = broaden_records.read([tmp_path / "a.mseed"])
    assert name == "XX.ABC.HN_19700101T000000"
    own, given = runs.preprocessing(), {"inventory": str(tmp_path / "station.xml")}
    case = broaden_files.prepare(record, own, 1.0, **given)
    assert "response removed" in case.notes[0]
    error = case.observed - own.prepare(motion)
    # ObsPy tapers the ends and what is below 0.02 Hz.
    assert np.sqrt(np.mean(error**2)) < 0.05 * case.observed.std()
    other = record._replace(station="DEF")
    with pytest.raises(ConfigError, match="response of XX.DEF..HNZ cannot be removed"):
        broaden_files.prepare(other, own, 1.0, **given)
    with pytest.raises(ConfigError, match="inventory nowhere.xml cannot be read"):
        broaden_files.prepare(record, own, 1.0, inventory="nowhere.xml")


def test_an_asdf_file_brings_its_own_responses(tmp_path):
    h5py = pytest.importorskip("h5py")
    _, known = response(["HNZ"], gain=2e6)
    known.write(str(tmp_path / "station.xml"), "STATIONXML")
    xml = np.frombuffer((tmp_path / "station.xml").read_bytes(), np.uint8)
    motion = runs.ground_motion(20.0, channels=1)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        station = file.create_group("Waveforms/XX.ABC")
        station.create_dataset("StationXML", data=xml)
        data = np.round(2e6 * motion[:, 0]).astype(np.int32)
        data = station.create_dataset("XX.ABC..HNZ__a__b__raw_recording", data=data)
        data.attrs.update(starttime=0, sampling_rate=runs.RATE)
    ((_, record),) = broaden_records.read([tmp_path / "a.h5"])
    waveform, text = broaden_units.acceleration(record)
    assert text == "response removed"
    own = runs.preprocessing(1)
    error = own.prepare(waveform) - own.prepare(motion)
    assert np.sqrt(np.mean(error**2)) < 0.05 * motion.std()


def test_embedded_records_are_real_accelerations():
    ridgecrest, napa = (broaden_files.embedded(name) for name in ("ridgecrest", "napa"))
    assert [r.name for r in ridgecrest] == ["CI.TOW2", "CI.CCC", "CI.CLC"]
    assert np.abs(ridgecrest[0].waveform).max() == pytest.approx(4.28, abs=0.02)
    (one,) = broaden_files.embedded("ridgecrest", "CI.CCC")
    assert one.station == "CCC" and napa[0].sampling_rate == 200.0
    case = broaden_files.prepare(napa[0], runs.preprocessing(), 1.0)
    assert case.notes[1] == "resampled from 200 to 20 Hz"
    assert case.low_passed.shape == case.observed.shape == (2380, 3)


def test_an_embedded_record_begins_when_its_file_says(tmp_path):
    (napa,) = broaden_files.embedded("napa")
    assert formats.time_text(napa.start) == "2014-08-24T10:20:21.000000"
    assert napa.files[0].endswith("recordings/napa2014_ce68150_200hz_counts.npz")
    case = broaden_files.prepare(napa, runs.preprocessing(), 1.0)
    assert not any("1970" in note for note in case.notes)
    (other,) = broaden_files.embedded("ridgecrest", "CI.CCC")
    case = broaden_files.prepare(other, runs.preprocessing(), 1.0)
    assert case.notes[-1] == "the start is unknown, so miniSEED begins in 1970"


def test_codes_that_miniseed_cuts_are_an_error():
    (record,) = broaden_files.embedded("napa")
    broaden_files.check_codes(record)
    for kind, code, limit in (("network", "ABC", 2), ("station", "ABCDEF", 5)):
        with pytest.raises(ConfigError, match=f"{kind} code '{code}' .* {limit} ASCII"):
            broaden_files.check_codes(record._replace(**{kind: code}))
    with pytest.raises(ConfigError, match="channel code 'HNZZ'"):
        broaden_files.check_codes(record._replace(channels=("HNZZ",)))


def test_removing_a_response_tapers_the_same_time_of_a_long_record():
    obspy, known = response(["HNZ"])
    rate = 5.0
    wave = np.sin(2 * np.pi * 0.5 * np.arange(600 * rate) / rate)
    header = dict(network="XX", station="ABC", channel="HNZ", sampling_rate=rate)
    trace = instrument_response.without_response(obspy.Trace(1e6 * wave, header), known)
    at = slice(int(6 * rate), int(-6 * rate))
    # Half a hertz is far inside the band, so all but the ends is as it was.
    np.testing.assert_allclose(trace.data[at], wave[at], atol=0.01)


def test_a_causal_model_gets_low_passes_that_come_later():
    own = dataclasses.replace(runs.preprocessing(), causal=True)
    (record,) = broaden_files.embedded("napa")
    causal, zero_phase = (
        np.abs(broaden_files.prepare(record, one, 1.0).low_passed).max(axis=1)
        for one in (own, runs.preprocessing())
    )
    early = slice(0, int(zero_phase.argmax()))
    assert causal.argmax() > zero_phase.argmax()
    assert causal[early].sum() < zero_phase[early].sum()
