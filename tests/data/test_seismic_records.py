import numpy as np
import pytest

from jaxmodels.data import seismic_records
from jaxmodels.data.seismic_records import EmbeddedRecords
from jaxmodels.train.errors import ConfigError


def test_the_ridgecrest_records_are_in_meters_per_second_squared():
    records = {one["station"]: one for one in seismic_records.embedded("ridgecrest")}
    assert set(records) == {"CI.TOW2", "CI.CCC", "CI.CLC"}
    peaks = {  # in g, east, north or vertical, whichever is largest
        station: np.abs(one["waveform"]).max() / 9.80665
        for station, one in records.items()
    }
    assert peaks["CI.TOW2"] == pytest.approx(0.437, abs=0.002)
    assert peaks["CI.CCC"] == pytest.approx(0.567, abs=0.002)
    assert peaks["CI.CLC"] == pytest.approx(0.511, abs=0.002)
    for one in records.values():
        assert one["sampling_rate"] == 100.0
        assert one["waveform"].shape[1] == 3
        assert one["source_id"] == "ci38457511"
        assert one["p_sample"] == seismic_records.NO_ARRIVAL


def test_the_napa_record_is_converted_from_counts():
    (record,) = seismic_records.embedded("napa")
    assert record["sampling_rate"] == 200.0 and record["magnitude"] == 6.02
    waveform = record["waveform"] - record["waveform"].mean(axis=0)
    peaks = np.abs(waveform).max(axis=0)
    np.testing.assert_allclose(peaks, [2.1, 3.3, 3.7], atol=0.06)


def test_a_split_of_one_event_names_its_stations():
    def stations(split):
        return [one["station"] for one in EmbeddedRecords("ridgecrest", split)]

    assert len(stations("all")) == 3
    assert stations("CI.TOW2") == ["CI.TOW2"]
    assert stations("CI.CLC, CI.CCC") == ["CI.CCC", "CI.CLC"]
    assert stations("-CI.TOW2") == ["CI.CCC", "CI.CLC"]
    assert stations("-CI.TOW2,-CI.CCC") == ["CI.CLC"]


@pytest.mark.parametrize(
    "split", ["train", "", "CI.ZZZ", "-CI.ZZZ", "-CI.TOW2,CI.CCC", "all,-CI.TOW2"]
)
def test_an_unknown_station_is_answered_with_the_known_ones(split):
    with pytest.raises(ConfigError, match="it has all, CI.TOW2, CI.CCC, CI.CLC, and -"):
        EmbeddedRecords("ridgecrest", split)


def test_an_event_stays_in_its_split_and_shares_are_kept():
    shares = {"train": 0.6, "dev": 0.1, "test": 0.3}
    found = [seismic_records.hashed_split(f"e{i}", shares) for i in range(2000)]
    for split, share in shares.items():
        assert found.count(split) / 2000 == pytest.approx(share, abs=0.04)
    again = [seismic_records.hashed_split(f"e{i}", shares) for i in range(2000)]
    assert found == again


def test_values_from_threads_keep_their_order():
    values = seismic_records.in_threads(lambda x: x * x, range(20), block=8)
    assert list(values) == [x * x for x in range(20)]


def test_a_missing_library_names_the_extra():
    with pytest.raises(ConfigError, match=r"pip install 'jaxmodels\[seismic\]'"):
        seismic_records.optional("no_such_library_here")
