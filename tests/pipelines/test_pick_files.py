import gzip
import io

import numpy as np
import pytest

from jaxmodels.pipelines import pick_files, pick_outputs, pick_run
from jaxmodels.train.errors import ConfigError
from tests.pipelines import picking_runs as runs
from tests.pipelines.picking_runs import P, S

obspy = pytest.importorskip("obspy")
HOUR = 3600 * pick_files.SECOND


def archive(*paths):
    found = pick_files.Archive()
    for path in paths:
        found.add(path)
    return found


def run(tmp_path, *paths, figures=0, **keywords):
    picker = runs.picker()
    settings = picker.settings(**keywords)
    one = pick_run.Run(picker, settings, archive(*paths), tmp_path / "out", figures)
    one.lines = list(one.pick(lambda seconds: None))
    return one


def rows(picks):
    return pick_outputs.csv_text(picks).splitlines()[1:]


@pytest.fixture
def hours(tmp_path, monkeypatch):
    """Twelve minutes with a gap, in one file, that are read in blocks of a minute."""
    monkeypatch.setattr(pick_files, "BLOCK", 60 * pick_files.SECOND)
    monkeypatch.setattr(pick_files, "SMALL", 0)
    block = 60 * pick_files.SECOND
    start = runs.START // block * block + 10 * pick_files.SECOND + 3_000_000
    # At 50 and at 170 s blocks end; what is picked there must be picked once.
    arrivals = [(P, 30.0), (P, 49.997), (S, 50.3), (P, 169.99), (S, 300.0), (P, 650.5)]
    waveform = runs.seismogram(720, arrivals)
    stream = runs.stream(waveform, start=start)
    begin = stream[0].stats.starttime
    stream = stream.slice(begin, begin + 400) + stream.slice(begin + 431.7)
    path = tmp_path / "long.mseed"
    stream.write(str(path), "MSEED")
    return path, stream, start, [at for _, at in arrivals]


def test_blocks_give_the_picks_of_one_piece(hours, tmp_path):
    path, stream, start, when = hours
    blocks = run(tmp_path, path)
    whole = runs.picker().classify(stream)
    assert rows(blocks.picks) == rows(whole.picks)
    np.testing.assert_allclose(runs.times(blocks.picks, start=start), when, atol=0.0101)
    (told,) = blocks.picked.values()
    assert told["detections"] == len(whole.detections)
    assert told["seconds"] == pytest.approx(720 - 31.7, abs=0.1)
    assert blocks.failures == [] and blocks.warnings == []


def test_blocks_of_another_rate_give_the_picks_of_one_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(pick_files, "BLOCK", 60 * pick_files.SECOND)
    monkeypatch.setattr(pick_files, "SMALL", 0)
    waveform = runs.seismogram(200, [(P, 30.0), (S, 57.0), (P, 117.01)], 75.19)
    stream = runs.stream(waveform, 75.19)
    path = tmp_path / "a.mseed"
    stream.write(str(path), "MSEED")
    found = run(tmp_path, path).picks
    assert len(found) == 3
    assert rows(found) == rows(runs.picker().classify(stream).picks)


def test_of_a_long_file_only_blocks_are_read(hours, monkeypatch):
    path, _, start, _ = hours
    held = archive(path)
    (key,) = held.headers
    lengths = []
    for block in held.blocks(key):
        stream = held.read(key, block.start, block.stop)
        lengths.append(max(len(trace) for trace in stream))
    assert len(lengths) >= 12 and max(lengths) <= 6001
    assert not held._held
    assert sum(block.seconds for block in held.blocks(key)) == pytest.approx(
        688.3, 0.01
    )


def test_components_in_files_of_their_own_come_together(tmp_path):
    waveform = runs.seismogram(60, [(P, 20.0), (S, 22.0)])
    paths = []
    for trace in runs.stream(waveform):
        paths.append(tmp_path / f"{trace.id}.D.2009[236]")
        trace.write(str(paths[-1]), "MSEED")
    found = run(tmp_path, *paths)
    assert runs.times(found.picks) == [20.0, 22.0] and found.warnings == []
    assert list(found.picked) == ["XX.ABC..HH"]


def test_days_in_files_of_their_own_come_together(tmp_path):
    waveform = runs.seismogram(60, [(P, 20.0), (S, 30.0)])
    stream = runs.stream(waveform)
    begin = stream[0].stats.starttime
    for index, part in enumerate(
        (stream.slice(begin, begin + 29.999), stream.slice(begin + 30))
    ):
        part.write(str(tmp_path / f"{index}.mseed"), "MSEED")
    found = run(tmp_path, tmp_path / "0.mseed", tmp_path / "1.mseed")
    assert runs.times(found.picks) == [20.0, 30.0]


def test_sac_asdf_and_npz_are_read_as_well(tmp_path):
    h5py = pytest.importorskip("h5py")
    waveform = runs.seismogram(40, [(P, 15.0), (S, 17.0)])
    stream = runs.stream(waveform)
    paths = []
    for trace in stream:
        paths.append(tmp_path / f"{trace.stats.channel}.sac")
        trace.write(str(paths[-1]), "SAC")
    np.savez(tmp_path / "a.npz", waveform=waveform, sampling_rate=100.0)
    np.savez(tmp_path / "b.npz", waveform=waveform, sampling_rate=100.0)
    with h5py.File(tmp_path / "c.h5", "w") as file:
        group = file.create_group("Waveforms/YY.DEF")
        for trace in stream:
            data = group.create_dataset(
                f"YY.DEF..{trace.stats.channel}__a__b__raw_recording", data=trace.data
            )
            data.attrs["starttime"] = runs.START
            data.attrs["sampling_rate"] = 100.0
    found = run(tmp_path, *paths, *(tmp_path / n for n in ("a.npz", "b.npz", "c.h5")))
    assert set(found.picked) == {"XX.ABC..HH", ".a..HN", ".b..HN", "YY.DEF..HH"}
    assert found.warnings == [] and found.failures == []
    assert {pick.trace_id for pick in found.picks} == {
        "XX.ABC.",
        ".a.",
        ".b.",
        "YY.DEF.",
    }
    assert runs.times(found.picks, "P")[-1] == pytest.approx(15.0, abs=1e-3)
    assert len(found.picks) == 8


def test_a_rate_that_is_none_of_seismograms_is_told_at_once(tmp_path):
    """Of the million hours that the record would last, none is read."""
    waveform = runs.seismogram(40, [(P, 15.0)])
    np.savez(tmp_path / "slow.npz", waveform=waveform, sampling_rate=1e-6)
    found = archive(tmp_path / "slow.npz")
    (key,) = found.headers
    assert len(found.blocks(key)) == 1
    one = run(tmp_path, tmp_path / "slow.npz")
    assert one.picked == {} and "its rate is 1e-06 Hz, not 0.1 to" in one.warnings[0]


def test_files_of_one_name_in_several_folders_are_several_records(tmp_path):
    paths = []
    for folder, at in (("a", 15.0), ("b", 25.0)):
        (tmp_path / folder).mkdir()
        paths.append(tmp_path / folder / "event.npz")
        waveform = runs.seismogram(40, [(P, at)])
        np.savez(paths[-1], waveform=waveform, sampling_rate=100.0)
    found = run(tmp_path, *paths)
    assert set(found.picked) == {".event..HN", ".b_event..HN"}
    when = {pick.trace_id: pick.peak_time.timestamp for pick in found.picks}
    assert when == {".event.": 15.0, ".b_event.": 25.0}
    assert found.warnings == []


def test_mixed_stations_and_rates_in_one_file(tmp_path):
    stream = runs.stream(runs.seismogram(40, [(P, 15.0)]))
    stream += runs.stream(runs.seismogram(40, [(P, 16.0)], 50.0), 50.0, station="DEF")
    stream += runs.stream(
        runs.seismogram(40, [(P, 17.0)]), channels=("hhz", "hh1", "hh2"), station="GHI"
    )
    path = tmp_path / "a.mseed"
    stream.write(str(path), "MSEED")
    found = run(tmp_path, path)
    np.testing.assert_allclose(runs.times(found.picks), [15, 16, 17], atol=0.0101)
    assert len(found.picked) == 3


def test_files_that_cannot_be_read_are_listed(tmp_path):
    good = tmp_path / "good.mseed"
    runs.stream(runs.seismogram(40, [(P, 15.0)])).write(str(good), "MSEED")
    for name, content in (("bad.mseed", b"no seismogram"), ("empty.mseed", b"")):
        (tmp_path / name).write_bytes(content)
    cut = tmp_path / "cut.mseed"
    cut.write_bytes(good.read_bytes()[:700])
    names = "bad.mseed", "empty.mseed", "none.mseed", "good.mseed"
    found = run(tmp_path, *(tmp_path / name for name in names))
    assert runs.times(found.picks) == [15.0]
    assert len(found.failures) == 3
    for line, name in zip(found.failures, names, strict=False):
        assert name in line
    assert "it is empty" in found.failures[1]
    assert "there is no file" in found.failures[2]


def test_damaged_files_are_picked_and_told_of_once(tmp_path, recwarn):
    content = io.BytesIO()
    whole = runs.stream(runs.seismogram(60, [(P, 8.0)]))
    whole.write(content, "MSEED", reclen=512)
    content = bytearray(content.getvalue())
    ends = tmp_path / "ends.mseed"
    ends.write_bytes(content[:-100])
    content[5120:5632] = b"x" * 512
    torn = tmp_path / "torn.mseed"
    torn.write_bytes(content)
    for path, line in ((ends, "ends within a miniSEED record"), (torn, "Not a SEED")):
        found = run(tmp_path, path)
        assert runs.times(found.picks) == [8.0] and found.failures == []
        (told,) = found.warnings
        assert told.startswith(f"{path}: ") and line in told
    assert not recwarn.list


def test_packed_files_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(pick_files, "SMALL", 0)
    content = io.BytesIO()
    runs.stream(runs.seismogram(40, [(P, 15.0)])).write(content, "MSEED")
    path = tmp_path / "a.mseed.gz"
    path.write_bytes(gzip.compress(content.getvalue()))
    found = run(tmp_path, path)
    assert runs.times(found.picks) == [15.0] and found.warnings == []


def test_samples_that_cannot_be_decoded_are_listed(tmp_path, monkeypatch):
    path = tmp_path / "a.mseed"
    runs.stream(runs.seismogram(40, [(P, 15.0)])).write(str(path), "MSEED")
    held = archive(path)
    (key,) = held.headers
    path.write_bytes(b"gone")
    assert len(held.read(key, runs.START, runs.START + HOUR)) == 0
    assert len(held.read(key, runs.START, runs.START + HOUR)) == 0
    assert len(held.failures) == 1 and "a.mseed cannot be read" in held.failures[0]


def test_what_cannot_be_picked_is_listed(tmp_path):
    stream = runs.stream(runs.seismogram(40, [(P, 15.0)]))
    stream += runs.stream(np.full((4000, 3), 7.0), station="DEAD")
    stream += runs.stream(runs.seismogram(40, [(P, 15.0)])[:50], station="SHORT")
    stream += runs.stream(runs.seismogram(40, []), channels=("LOG",), station="LOG")
    path = tmp_path / "a.mseed"
    stream.write(str(path), "MSEED")
    found = run(tmp_path, path)
    assert list(found.picked) == ["XX.ABC..HH"]
    assert [line.split(" ")[0] for line in found.failures] == [
        "XX.DEAD..HH",
        "XX.SHORT..HH",
    ]
    assert "XX.LOG..LOG is left out: channel 'LOG' is no component" in found.warnings[0]


def test_a_dead_hour_is_a_warning_and_no_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(pick_files, "BLOCK", 60 * pick_files.SECOND)
    waveform = runs.seismogram(400, [(P, 30.0), (P, 350.0)])
    waveform[6_000:30_000] = 0.0
    path = tmp_path / "a.mseed"
    runs.stream(waveform).write(str(path), "MSEED")
    found = run(tmp_path, path, P_threshold=0.5)
    times = runs.times(found.picks)
    assert 30.0 in times and 350.0 in times and found.failures == []
    assert any("constant in every component" in line for line in found.warnings)


def test_the_example_of_obspy_is_a_record_without_a_file():
    held = archive(pick_files.EXAMPLE)
    assert list(held.headers) == [("BW", "RJOB", "", "EH")]
    (block,) = held.blocks(("BW", "RJOB", "", "EH"))
    assert block.seconds == pytest.approx(30.0)


def test_strict_lists_what_lacks_a_component(tmp_path):
    stream = runs.stream(runs.seismogram(40, [(P, 15.0)]), channels=("HHZ",))
    path = tmp_path / "a.mseed"
    stream.write(str(path), "MSEED")
    assert len(run(tmp_path, path).picks) == 1
    found = run(tmp_path, path, strict=True)
    assert found.picked == {} and "no north and no east" in found.failures[0]


def test_a_block_has_a_margin_of_two_windows():
    assert pick_files.margin(10.24) >= 2 * 10.24 * pick_files.SECOND
    with pytest.raises(ConfigError, match="there is no file"):
        pick_files.Archive()._headers("nowhere.mseed")
