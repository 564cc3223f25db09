import warnings

import numpy as np
import pytest

from jaxmodels.pipelines import pick_stream
from jaxmodels.train.errors import ConfigError
from tests.pipelines import picking_runs as runs
from tests.pipelines.picking_runs import P, S

obspy = pytest.importorskip("obspy")
ARRIVALS = [(P, 20.0), (S, 23.5), (P, 70.25), (S, 71.0)]
WHEN = [at for _, at in ARRIVALS]


@pytest.fixture(scope="module")
def picker():
    return runs.picker()


@pytest.fixture(scope="module")
def waveform():
    return runs.seismogram(90, ARRIVALS)


def found(picker, stream, phase=None, **keywords):
    return runs.times(picker.classify(stream, **keywords).picks, phase)


def test_annotate_gives_streams_of_probabilities_as_seisbench_names_them(
    picker, waveform
):
    stream = runs.stream(waveform)
    before = stream.copy()
    found = picker.annotate(stream)
    assert [trace.stats.channel for trace in found] == [
        "SpikeDetector_P",
        "SpikeDetector_S",
        "SpikeDetector_N",
    ]
    for trace in found:
        assert trace.stats.starttime == stream[0].stats.starttime
        assert trace.stats.sampling_rate == 100.0 and len(trace) == len(stream[0])
        assert trace.data.dtype == np.float32 and trace.stats.instrument == "HH"
        assert trace.id.startswith("XX.ABC..")
    total = sum(trace.data for trace in found)
    np.testing.assert_allclose(total, 1.0, atol=1e-6)
    peak = found.select(channel="*_P")[0].data[:4000].argmax()
    assert peak == 2000
    assert stream == before


def test_classify_gives_picks_and_detections(picker, waveform):
    result = picker.classify(runs.stream(waveform, location="00"))
    assert [pick.phase for pick in result.picks] == ["P", "S", "P", "S"]
    np.testing.assert_allclose(runs.times(result.picks), WHEN, atol=1e-6)
    first = result.picks[0]
    assert first.trace_id == "XX.ABC.00" and first.channel == "HHZ"
    assert result.picks[1].channel == "HHN"
    assert first.start_time <= first.peak_time <= first.end_time
    assert 0.9 < first.peak_value <= 1.0 and 0.9 < first.amplitude < 1.1
    assert len(result.detections) == 2
    event = result.detections[0]
    assert (event.start_time, event.end_time) == (
        first.start_time,
        result.picks[1].end_time,
    )
    assert event.trace_id == "XX.ABC.00" and event.peak_value >= first.peak_value
    assert result.creator.startswith("jaxmodels.SpikeDetector.")


@pytest.mark.parametrize("rate", [20.0, 50.0, 75.19, 99.9998, 125.0, 200.0, 500.0])
def test_records_of_any_rate_give_the_same_times(picker, rate):
    waveform = runs.seismogram(90, ARRIVALS, rate)
    start = runs.START + 3_700_001  # beside the samples of the grid
    stream = runs.stream(waveform, rate, start=start)
    times = runs.times(picker.classify(stream).picks, start=start)
    np.testing.assert_allclose(times, WHEN, atol=0.0101)  # a sample of the grid


def test_components_of_different_rates_come_together(picker):
    stream = runs.stream(runs.seismogram(90, ARRIVALS), channels=("HHZ",))
    stream += runs.stream(
        runs.seismogram(90, ARRIVALS, 40.0), 40.0, channels=(None, "HHN", "HHE")
    )
    np.testing.assert_allclose(found(picker, stream), WHEN, atol=0.011)


@pytest.mark.parametrize(
    "channels",
    [
        ("HHZ", "HH1", "HH2"),
        ("HH3", "HH1", "HH2"),
        ("hhz", "hhn", "hhe"),
        ("HHE", "HHN", "HHZ"),
        ("Z", "N", "E"),
    ],
)
def test_components_are_known_by_their_letters(picker, waveform, channels):
    columns = waveform[:, ::-1] if channels[0][-1] == "E" else waveform
    stream = runs.stream(columns, channels=channels)
    np.testing.assert_allclose(found(picker, stream), WHEN, atol=1e-6)
    detections = picker.classify(stream).detections
    assert {one.channel for one in detections} == {channels[0][:-1]}


def test_instruments_and_stations_are_picked_apart(picker):
    def shifted(by):
        return runs.seismogram(60, [(P, 10.0 + by)], seed=by)

    stream = runs.stream(shifted(0))
    stream += runs.stream(shifted(1), channels=("HNZ", "HNN", "HNE"))
    stream += runs.stream(shifted(2), location="10")
    stream += runs.stream(shifted(3), station="DEF")
    stream.traces = stream.traces[::-1]
    picks = picker.classify(stream).picks
    assert [(pick.trace_id, pick.channel) for pick in picks] == [
        ("XX.ABC.", "HHZ"),
        ("XX.ABC.", "HNZ"),
        ("XX.ABC.10", "HHZ"),
        ("XX.DEF.", "HHZ"),
    ]
    np.testing.assert_allclose(runs.times(picks), [10, 11, 12, 13], atol=1e-6)
    assert len(picker.annotate(stream)) == 12


def test_a_missing_component_is_zero_with_a_warning_and_skipped_where_strict(
    picker, waveform
):
    stream = runs.stream(waveform, channels=("HHZ", None, "HHE"))
    with pytest.warns(UserWarning, match="XX.ABC..HH has no north component; zeros"):
        assert found(picker, stream) == [20.0, 70.25]
    with pytest.raises(ConfigError, match="no north component; leave out --strict"):
        picker.classify(stream, strict=True)
    stream += runs.stream(waveform, station="DEF")
    with pytest.warns(UserWarning, match="XX.ABC..HH has no north component; leave"):
        assert found(picker, stream, strict=True) == WHEN


def test_one_component_alone_is_enough(picker, waveform):
    stream = runs.stream(waveform, channels=("EHZ",))
    with pytest.warns(UserWarning, match="no north and no east component"):
        assert found(picker, stream, "P") == [20.0, 70.25]


def test_a_gap_ends_a_part_and_brings_no_pick(picker, waveform):
    stream = runs.stream(waveform + 5.0)  # far from zero, as counts are
    start = stream[0].stats.starttime
    stream = stream.slice(start, start + 40) + stream.slice(start + 47.5)
    np.testing.assert_allclose(found(picker, stream), WHEN, atol=1e-6)
    probabilities = picker.annotate(stream).select(channel="*_P")
    assert [trace.stats.starttime - start for trace in probabilities] == [0, 47.5]
    assert [len(trace) for trace in probabilities] == [4001, 4250]


def test_masked_traces_are_gaps(picker, waveform):
    stream = runs.stream(waveform + 5.0)
    start = stream[0].stats.starttime
    stream = stream.slice(start, start + 40) + stream.slice(start + 47.5)
    stream.merge()
    assert np.ma.isMaskedArray(stream[0].data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(found(picker, stream), WHEN, atol=1e-6)


def test_a_gap_of_few_samples_leaves_the_picks_beside_it(picker, waveform):
    stream = runs.stream(waveform)
    start = stream[0].stats.starttime
    pieces = stream.slice(start, start + 19.5) + stream.slice(start + 19.7)
    np.testing.assert_allclose(found(picker, pieces), WHEN, atol=1e-6)
    assert len(picker.annotate(pieces)) == 3


def test_a_gap_of_one_component_leaves_the_others(picker, waveform):
    stream = runs.stream(waveform)
    start = stream[0].stats.starttime
    vertical = stream.select(channel="HHZ")
    others = stream.select(channel="HHN") + stream.select(channel="HHE")
    vertical = vertical.slice(start, start + 60) + vertical.slice(start + 75)
    np.testing.assert_allclose(
        found(picker, vertical + others), [20.0, 23.5, 71.0], atol=1e-6
    )
    strict = picker.classify(vertical + others, strict=True)
    np.testing.assert_allclose(runs.times(strict.picks), [20.0, 23.5], atol=1e-6)


def test_traces_that_overlap_are_one_record(picker, waveform):
    stream = runs.stream(waveform)
    start = stream[0].stats.starttime
    parts = stream.slice(start, start + 40) + stream.slice(start + 15)
    np.testing.assert_allclose(found(picker, parts), WHEN, atol=1e-6)
    parts.traces[-1].data = parts.traces[-1].data + 0.5
    with pytest.warns(UserWarning, match="traces overlap and differ; the earlier"):
        picker.classify(parts)


def test_a_record_shorter_than_a_window_is_picked(picker):
    stream = runs.stream(runs.seismogram(6, [(P, 2.5), (S, 4.0)]))
    np.testing.assert_allclose(found(picker, stream), [2.5, 4.0], atol=1e-6)
    assert len(picker.annotate(stream)[0]) == 600


@pytest.mark.parametrize("shift", [0.01, 0.37, 1.0, 2.56, 5.111])
@pytest.mark.parametrize("stacking", ["avg", "max"])
def test_windows_that_start_elsewhere_move_no_pick(picker, waveform, shift, stacking):
    def at(by):
        start = runs.START + round(by * 1e9)
        picks = picker.classify(
            runs.stream(waveform, start=start), stacking=stacking
        ).picks
        return runs.times(picks, start=start)

    np.testing.assert_allclose(at(shift), at(0.0), atol=0.05)


def test_thresholds_and_batches_are_taken_from_keywords(picker):
    model = runs.SpikeDetector(height=11.0)
    weak = runs.picker(model)
    stream = runs.stream(runs.seismogram(60, [(P, 20.0), (S, 30.0)], noise=0.02))
    values = [pick.peak_value for pick in weak.classify(stream, P_threshold=0.01).picks]
    assert len(values) == 2
    lowest = min(values)
    assert 0.01 < lowest < 0.99
    above = {"P_threshold": 0.999, "S_threshold": 0.999}
    assert weak.classify(stream, **above).picks == []
    few = picker.annotate(stream, batch_size=1)
    many = picker.annotate(stream, batch_size=64)
    for a, b in zip(few, many, strict=True):
        np.testing.assert_allclose(a.data, b.data, atol=1e-6)


def test_one_trace_is_a_stream_and_numbers_may_be_those_of_numpy(picker, waveform):
    stream = runs.stream(waveform)[:1]
    with pytest.warns(UserWarning, match="no north and no east component"):
        expected = picker.classify(stream, P_threshold=0.5)
    with pytest.warns(UserWarning, match="no north and no east component"):
        found = picker.classify(stream[0], P_threshold=np.float32(0.5))
    assert found == expected and found.picks


@pytest.mark.parametrize(
    "given", [None, np.zeros(3), "day.mseed", ["a"], (np.ones(9),)]
)
def test_what_is_no_stream_is_refused(picker, given):
    with pytest.raises(ConfigError, match="is no stream; read one with obspy.read"):
        picker.classify(given)


@pytest.mark.parametrize(
    "keywords, message",
    [
        ({"threshold": 0.3}, "'threshold' is no keyword of a picker; it has P_thres"),
        ({"P_threshold": 0}, "P_threshold 0 must be above 0 and below 1"),
        ({"S_threshold": 1.5}, "S_threshold 1.5 must be"),
        ({"S_threshold": "low"}, "S_threshold 'low' must be"),
        ({"stacking": "median"}, "stacking 'median' is none of avg, max"),
    ],
)
def test_a_wrong_keyword_is_refused(picker, waveform, keywords, message):
    for method in (picker.annotate, picker.classify):
        with pytest.raises(ConfigError, match=message):
            method(runs.stream(waveform), **keywords)


def zero_length(stream):
    for trace in stream:
        trace.data = trace.data[:0]


def constant(stream):
    for trace in stream:
        trace.data[:] = 7


def no_number(stream):
    for trace in stream:
        trace.data[:] = np.nan


def too_short(stream):
    for trace in stream:
        trace.data = trace.data[:50]


def unknown(stream):
    for trace in stream:
        trace.stats.channel = "LOG"


def no_rate(stream):
    for trace in stream:
        trace.stats.sampling_rate = 1e6


BAD = [
    (no_rate, "HHZ is left out: its rate is 1e\\+06 Hz, not 0.1 to 100000"),
    (zero_length, "XX.ABC..HHZ is left out: it has no samples"),
    (constant, "XX.ABC..HH is constant in every component"),
    (no_number, "XX.ABC..HHZ is left out: no sample of it is finite"),
    (too_short, "XX.ABC..HH has no part of 3 s; give more"),
    (unknown, "channel 'LOG' is no component Z, N, E or 3, 1, 2"),
]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("change, message", BAD)
def test_what_cannot_be_picked_is_an_error_and_a_warning_beside_others(
    picker, waveform, change, message
):
    stream = runs.stream(waveform)
    change(stream)
    with pytest.raises(ConfigError, match=message):
        picker.classify(stream)
    stream += runs.stream(waveform, station="DEF")
    with pytest.warns(UserWarning, match=message):
        assert found(picker, stream) == WHEN


def test_samples_that_are_not_finite_are_gaps_with_a_warning(picker, waveform):
    stream = runs.stream(waveform)
    stream[0].data[4000:4500] = np.nan
    with pytest.warns(UserWarning, match="500 samples are not finite and count as gap"):
        np.testing.assert_allclose(found(picker, stream), WHEN, atol=1e-6)


def test_a_dead_component_counts_as_not_recorded(picker, waveform):
    stream = runs.stream(waveform)
    stream[1].data[:] = 3
    with pytest.warns(UserWarning) as caught:
        assert found(picker, stream) == [20.0, 70.25]
    lines = [str(one.message) for one in caught]
    assert any("HHN is constant and counts as not recorded" in line for line in lines)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_pick_is_of_a_channel_that_moves(picker, waveform):
    stream = runs.stream(waveform)
    stream[0].data[:] = 3
    (instrument,) = pick_stream.instruments(stream, print)
    assert instrument.channel_of("P") == "HHN"
    stream[0].data, stream[1].data = stream[1].data, stream[0].data
    (instrument,) = pick_stream.instruments(stream, print)
    assert (instrument.channel_of("P"), instrument.channel_of("S")) == ("HHZ", "HHE")


def test_a_rate_far_below_that_of_the_model_is_told(picker):
    stream = runs.stream(runs.seismogram(90, [], 10.0), 10.0)
    with pytest.warns(UserWarning, match="recorded at 10 Hz, and the model reads 100"):
        assert len(picker.annotate(stream)[0]) == 8991


def test_an_empty_stream_is_an_error(picker):
    with pytest.raises(ConfigError, match="the stream has no trace"):
        picker.annotate(obspy.Stream())


def test_two_channels_of_one_component_are_told(picker, waveform):
    stream = runs.stream(waveform)
    stream += runs.stream(waveform * 0.5, channels=(None, "HH1"))
    with pytest.warns(UserWarning, match="HH1 is left out: XX.ABC..HHN is the same"):
        assert found(picker, stream) == WHEN


def test_a_component_may_be_renamed_in_between(picker, waveform):
    early = runs.stream(waveform[:5000])
    late = runs.stream(waveform[5000:], start=runs.START + 50 * 10**9)
    for trace, letter in zip(late, "Z12", strict=True):
        trace.stats.channel = f"HH{letter}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = picker.classify(early + late)
    assert runs.times(result.picks) == WHEN
    whole = picker.classify(runs.stream(waveform))
    for one, other in zip(result.picks, whole.picks, strict=True):
        assert one.peak_value == pytest.approx(other.peak_value, abs=1e-6)


def test_whole_numbers_are_read_as_they_are(picker, waveform):
    stream = runs.stream(waveform)
    for trace in stream:
        trace.data = np.round(1000 * trace.data).astype(np.int32) + 100_000
    picks = picker.classify(stream).picks
    np.testing.assert_allclose(runs.times(picks), WHEN, atol=0.011)
    assert 900 < picks[0].amplitude < 1100
