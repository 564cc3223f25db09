import dataclasses

import numpy as np
import pytest

from jaxmodels.pipelines import broaden_files, broaden_records
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
    waveform, text = broaden_files.acceleration(record)
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


def test_units_and_sensitivities_are_those_that_are_given_or_the_files_own():
    (record,) = broaden_files.embedded("ridgecrest", "CI.TOW2")
    x = record.waveform

    def peak(record=record, **options):
        return broaden_files.acceleration(record, **options)[0].max() / x.max()

    assert peak() == pytest.approx(1.0)
    assert peak(units="cm/s^2") == pytest.approx(0.01)
    assert peak(record._replace(units="1e-6 g")) == pytest.approx(9.80665e-6)
    counts = record._replace(units="counts", sensitivity=4.0)
    assert peak(counts) == pytest.approx(0.25)
    assert peak(counts, sensitivity=2.0) == pytest.approx(0.5)
    assert peak(counts, units="gal") == pytest.approx(0.01)


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
