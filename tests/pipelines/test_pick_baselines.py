import numpy as np
import pytest

from jaxmodels.pipelines import pick_baselines as baselines
from jaxmodels.train.errors import ConfigError

obspy = pytest.importorskip("obspy")

RATE, LENGTH = 100.0, 3000
P, S = 12.0, 16.0


def record(p=P, s=S, rate=RATE, seconds=LENGTH / RATE, noise=0.02, seed=0):
    """Noise in which P begins, mainly vertical, and S, mainly horizontal."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    shaking = rng.standard_normal((2, len(time), 3))
    waveform = noise * rng.standard_normal((len(time), 3))
    for start, size, noises in ((p, (1, 0.2, 0.2), 0), (s, (0.5, 3, 2), 1)):
        envelope = np.where(time >= start, np.exp(-(time - start) / 3), 0)
        waveform += np.asarray(size) * envelope[:, None] * shaking[noises]
    return waveform


def stream_of(waveform, rate=RATE, channels=("HHZ", "HHN", "HHE"), **header):
    traces = []
    for channel, data in zip(channels, waveform.T, strict=False):
        stats = {"network": "XX", "station": "AA", "channel": channel, **header}
        stats["sampling_rate"] = rate
        stats.setdefault("starttime", obspy.UTCDateTime(2020, 1, 1))
        traces.append(obspy.Trace(np.array(data), stats))
    return obspy.Stream(traces)


def test_strongest_trigger_begins_at_p():
    arrivals = baselines.StaLta().pick(record(), RATE)
    assert abs(arrivals.p - P) < 0.1 and np.isnan(arrivals.s)


def test_ratio_is_that_of_the_recursion():
    """sta and lta are exponential means of the square (Withers et al., 1998)."""
    method = baselines.StaLta(short=0.5, long=2.0, band=(0.001, 40.0))
    waveform = record()
    ratio = method.ratio(waveform, RATE)
    waveform[:, 1:] = 0
    np.testing.assert_array_equal(method.ratio(waveform, RATE), ratio)
    assert not ratio[:199].any()
    np.testing.assert_allclose(method.ratio(1000 * waveform, RATE), ratio, rtol=1e-6)
    # A trigger lasts from where the ratio exceeds the level to where it falls below.
    (one,) = method.triggers(np.array([0, 1, 5, 7, 4, 1, 0]), 1.0)
    assert one == (2.0, 7.0)


def test_triggers_at_both_ends_are_whole():
    found = baselines.StaLta(level=3).triggers(np.array([4, 0, 0, 5.0]), 10.0)
    assert found == [(0.0, 4.0), (pytest.approx(0.3), 5.0)]


def test_ar_picker_finds_p_and_s():
    arrivals = baselines.ARPicker().pick(record(), RATE)
    assert abs(arrivals.p - P) < 0.1 and abs(arrivals.s - S) < 0.5


@pytest.mark.parametrize("p", [1.0, 2.5, 6.0])
def test_ar_picker_gives_the_same_near_the_start_whatever_memory_holds(p):
    """ObsPy's C code looks four seconds before P."""
    method, waveform = baselines.ARPicker(), record(p, p + 4)
    found = []
    for number in range(3):
        junk = [np.full(4000, 10.0**number, np.float32) for _ in range(20)]
        found.append(method.pick(waveform, RATE))
        del junk
    assert found[0] == found[1] == found[2]
    assert abs(found[0].p - p) < 0.1 and abs(found[0].s - p - 4) < 0.5


def test_what_stands_before_a_waveform_is_its_beginning_back_and_forth():
    waveform = np.arange(5.0)[:, None] * np.ones(3)
    lead = baselines.led(waveform, 7, 3)[:7, 0]
    np.testing.assert_array_equal(lead, [0, 0, 1, 2, 2, 1, 0])
    np.testing.assert_array_equal(baselines.led(waveform, 7, 3)[7:], waveform)


def test_without_horizontals_there_is_no_s():
    waveform = record()
    waveform[:, 1:] = 0
    arrivals = baselines.ARPicker().pick(waveform, RATE)
    assert abs(arrivals.p - P) < 0.1 and np.isnan(arrivals.s)


def test_other_rates_give_the_same_arrivals():
    for rate in (20.0, 50.0, 200.0):
        waveform = record(rate=rate)
        assert abs(baselines.StaLta().pick(waveform, rate).p - P) < 0.2
        assert abs(baselines.ARPicker().pick(waveform, rate).p - P) < 0.2


def test_a_stretch_that_is_filled_prints_nothing(capfd):
    waveform = record()
    waveform[:1000] = 0
    baselines.ARPicker().pick(waveform, RATE)
    baselines.StaLta().pick(waveform, RATE)
    assert capfd.readouterr() == ("", "")


def test_nothing_is_picked_in_what_does_not_move_or_is_too_short():
    still = np.ones((LENGTH, 3))
    still[:, 1] = record()[:, 1]
    for method in (baselines.StaLta(), baselines.ARPicker()):
        assert np.isnan(method.pick(still, RATE)).all()
        assert np.isnan(method.pick(record()[:150], RATE)).all()


def test_a_waveform_of_another_form_is_refused():
    for method in (baselines.StaLta(), baselines.ARPicker()):
        with pytest.raises(ConfigError, match=r"shape \(3000, 2\)"):
            method.pick(record()[:, :2], RATE)
        with pytest.raises(ConfigError, match="not finite"):
            method.pick(np.full((LENGTH, 3), np.nan), RATE)
        with pytest.raises(ConfigError, match="sampling rate 0 Hz"):
            method.pick(record(), 0)


@pytest.mark.parametrize("channels", [("HHZ", "HHN", "HHE"), ("hh3", "hh1", "hh2")])
def test_picks_of_a_stream_have_its_times(channels):
    method = baselines.ARPicker()
    arrivals = method.pick(record(), RATE)
    stream = stream_of(record(), channels=channels)
    stream[1].trim(stream[1].stats.starttime - 5, pad=True, fill_value=0.0)
    if channels[0] == "hh3":
        stream.reverse()
    picks = baselines.pick_stream(stream, method)
    start = obspy.UTCDateTime(2020, 1, 1)
    assert [pick.phase for pick in picks] == ["P", "S"]
    assert {pick.trace_id for pick in picks} == {f"XX.AA..{channels[0]}"}
    for pick, time in zip(picks, arrivals, strict=True):
        assert abs(pick.time - start - time) < 1e-6


def test_a_stream_of_the_vertical_alone_is_picked():
    picks = baselines.pick_stream(stream_of(record()[:, :1]), baselines.StaLta())
    assert [pick.phase for pick in picks] == ["P"]


def test_streams_that_are_not_of_one_instrument_are_refused():
    method, whole = baselines.StaLta(), stream_of(record())
    with pytest.raises(ConfigError, match="XX.AA..HHZ occurs twice"):
        baselines.pick_stream(whole + whole[:1], method)
    with pytest.raises(ConfigError, match="no vertical trace among XX.AA..HHN"):
        baselines.pick_stream(whole[1:], method)
    late = stream_of(record(), starttime=obspy.UTCDateTime(2021, 1, 1))
    with pytest.raises(ConfigError, match="give traces of one rate that overlap"):
        baselines.pick_stream(whole[:1] + late[1:], method)
    other = stream_of(record(), rate=50.0)
    with pytest.raises(ConfigError, match=r"traces of \[50.0, 100.0\] Hz"):
        baselines.pick_stream(whole[:1] + other[1:], method)
