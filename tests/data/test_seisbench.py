import csv

import numpy as np
import pytest

from jaxmodels.data import builder, record_folders, seisbench, seismic_records
from jaxmodels.data.record_folders import Reader, prepare_folder
from jaxmodels.data.records import BadRecordError
from jaxmodels.train.errors import ConfigError

NAN = float("nan")


def samples(seed, length=60, components=3):
    return np.random.default_rng(seed).standard_normal((components, length))


def write_set(folder, rows, blocks, chunk="", unit="m/s^2", **data_format):
    """Writes a folder in SeisBench's layout: metadata rows, and arrays by key."""
    h5py = seismic_records.optional("h5py")
    folder.mkdir(exist_ok=True)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with open(folder / f"metadata{chunk}.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    stated = {"dimension_order": "CW", "component_order": "ZNE", "sampling_rate": 20}
    stated |= {"unit": unit, **data_format}
    with h5py.File(folder / f"waveforms{chunk}.hdf5", "w") as file:
        for key, values in blocks.items():
            file[f"data/{key}"] = values
        for name, value in stated.items():
            if value is not None:
                file[f"data_format/{name}"] = value
    return folder


def row(name, split="train", source="e1", **fields):
    names = {"trace_name": name, "source_id": source, "split": split}
    return {**names, "station_network_code": "XX", "station_code": "AA", **fields}


def read(folder, split="train", data_dir=None, **reader):
    reader = Reader(**reader)
    prepared = prepare_folder(folder, reader, data_dir or folder / "tfds")
    return list(builder.RecordFiles(prepared, split).__getitems__([0, 1])[:2])


@pytest.fixture
def block(tmp_path):
    """Two traces in one block, of which the second is shorter than the block."""
    values = np.stack([samples(0), samples(1)])
    rows = [
        row(
            "bucket0$0,:3,:60", trace_p_arrival_sample=20, trace_Sn_arrival_sample=33.5
        ),
        row("bucket0$1,:3,:50", source="e2", trace_p_arrival_sample=NAN),
    ]
    return write_set(tmp_path / "set", rows, {"bucket0": values}), values


def test_traces_of_a_block_are_cut_out_of_it(block):
    folder, values = block
    first, second = read(folder)
    np.testing.assert_allclose(first["waveform"], values[0].T, rtol=1e-6)
    np.testing.assert_allclose(second["waveform"], values[1, :, :50].T, rtol=1e-6)
    assert first["sampling_rate"] == 20.0
    assert first["station"] == b"XX.AA" and first["source_id"] == b"e1"


def test_arrivals_that_are_not_there_are_minus_one(block):
    first, second = read(block[0])
    assert (first["p_sample"], first["s_sample"]) == (20.0, 33.5)
    assert (second["p_sample"], second["s_sample"]) == (-1.0, -1.0)


def test_the_earliest_phase_of_a_kind_counts(tmp_path):
    rows = [row("a", trace_Pg_arrival_sample=30, trace_Pn_arrival_sample=25)]
    rows += [row("b", trace_Pg_arrival_sample=8, trace_S_arrival_sample=9)]
    folder = write_set(tmp_path / "set", rows, {"a": samples(0), "b": samples(1)})
    first, second = read(folder)
    assert first["p_sample"] == 25.0
    assert (second["p_sample"], second["s_sample"]) == (8.0, 9.0)


def test_an_arrival_before_the_trace_hides_none_in_it(tmp_path):
    rows = [row("a", trace_P_arrival_sample=-30, trace_Pg_arrival_sample=25)]
    rows += [row("b", trace_P_arrival_sample=-1, trace_S_arrival_sample=-7.5)]
    folder = write_set(tmp_path / "set", rows, {"a": samples(0), "b": samples(1)})
    first, second = read(folder)
    assert first["p_sample"] == 25.0
    assert (second["p_sample"], second["s_sample"]) == (-1.0, -1.0)


def test_a_component_without_motion_stays_without_it_at_another_rate(tmp_path):
    values = samples(0, length=600)
    values[1] = 5.0
    folder = write_set(
        tmp_path / "set", [row("a"), row("b")], {"a": values, "b": values}
    )
    found, _ = read(folder, amplitude=False, sampling_rate=100.0)
    assert (found["waveform"][:, 1] == 5.0).all()
    assert found["waveform"][:, ::2].std() > 0.5


def test_short_records_are_left_out_where_it_is_asked_for(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(
        record_folders.logging, "warning", lambda text, *x: said.append(text % x)
    )
    rows = [row("a"), row("b$:3,:50"), row("c")]
    blocks = {name: samples(i) for i, name in enumerate("abc")}
    folder = write_set(tmp_path / "set", rows, blocks)
    found = read(folder, min_seconds=3.0)
    assert [one["name"] for one in found] == [b"a", b"c"]
    line = "split train: 1 of 3 records are shorter than min_seconds 3; left out"
    assert said.count(line) == 1
    assert [one["name"] for one in read(folder)] == [b"a", b"b$:3,:50"]
    with pytest.raises(ConfigError, match="all 3 records of split train are shorter"):
        read(folder, min_seconds=3.1)
    with pytest.raises(ConfigError, match="min_seconds 0 must be greater than 0"):
        Reader(min_seconds=0)


def test_resampling_moves_the_arrivals(block):
    first, _ = read(block[0], sampling_rate=100.0)
    assert first["waveform"].shape == (300, 3) and first["sampling_rate"] == 100.0
    assert (first["p_sample"], first["s_sample"]) == (100.0, 167.5)


def test_a_trace_may_have_its_own_rate(tmp_path):
    rows = [row("a", trace_sampling_rate_hz=50), row("b", trace_dt_s=0.01)]
    blocks = {"a": samples(0), "b": samples(1)}
    folder = write_set(tmp_path / "set", rows, blocks, sampling_rate=None)
    assert [one["sampling_rate"] for one in read(folder)] == [50.0, 100.0]
    rows = [row("a"), row("b")]
    folder = write_set(tmp_path / "none", rows, blocks, sampling_rate=None)
    with pytest.raises(ConfigError, match="at nan Hz is no trace"):
        read(folder)


def test_components_come_in_one_order(tmp_path):
    values = samples(0)
    rows = [row("a"), row("b", trace_component_order="1Z2")]
    blocks = {"a": values, "b": values}
    folder = write_set(tmp_path / "set", rows, blocks, component_order="ENZ")
    first, second = read(folder)
    np.testing.assert_allclose(first["waveform"], values[[2, 1, 0]].T, rtol=1e-6)
    np.testing.assert_allclose(second["waveform"], values[[1, 0, 2]].T, rtol=1e-6)


def test_samples_may_come_before_components(tmp_path):
    rows = [row("b$0,:,:"), row("b$1,5:15,:")]
    values = np.stack([samples(0).T, samples(1).T])
    folder = write_set(tmp_path / "set", rows, {"b": values}, dimension_order="NWC")
    first, second = read(folder)
    np.testing.assert_allclose(first["waveform"], values[0], rtol=1e-6)
    np.testing.assert_allclose(second["waveform"], values[1, 5:15], rtol=1e-6)


def test_missing_components_are_zero_or_copied(tmp_path):
    rows = [row("a"), row("b")]
    blocks = {"a": samples(0, components=1), "b": samples(1, components=1)}
    folder = write_set(tmp_path / "set", rows, blocks, component_order="Z")
    zeros, _ = read(folder)
    assert zeros["waveform"][:, 0].any() and not zeros["waveform"][:, 1:].any()
    copied, _ = read(folder, missing="copy")
    np.testing.assert_array_equal(copied["waveform"][:, 2], zeros["waveform"][:, 0])


def test_splits_are_those_of_the_set_or_by_event(tmp_path):
    rows = [row(f"b${i}", split="dev", source=f"e{i % 20}") for i in range(60)]
    values = np.stack([samples(i, 10) for i in range(60)])
    stated = write_set(tmp_path / "stated", rows, {"b": values})
    assert seisbench.scan(stated).splits() == {"dev": 60}
    for one in rows:
        one["split"] = ""
    unsaid = seisbench.scan(write_set(tmp_path / "unsaid", rows, {"b": values}))
    for folder in (unsaid, seisbench.scan(stated)):
        sizes = folder.splits("event")
        assert list(sizes) == ["train", "dev", "test"] and sum(sizes.values()) == 60
        events = [
            {trace.fields["source_id"] for trace in folder.traces(split, "event")}
            for split in sizes
        ]
        assert len(set.union(*events)) == sum(map(len, events)) == 20
    assert unsaid.splits() == unsaid.splits("event")


def test_chunks_are_read_one_after_the_other(tmp_path):
    for chunk in ("_b", "_a"):
        rows = [row(chunk, trace_name_original=f"trace{chunk}")]
        folder = write_set(tmp_path / "set", rows, {chunk: samples(0)}, chunk)
    assert [one["name"] for one in read(folder)] == [b"trace_a", b"trace_b"]
    (folder / "chunks").write_text("_b\n_a\n")
    assert [one["name"] for one in read(folder)] == [b"trace_b", b"trace_a"]


def test_each_block_is_read_once(block, monkeypatch):
    h5py = seismic_records.optional("h5py")
    read_keys = []
    plain = h5py.Dataset.__getitem__

    def counted(dataset, part, **options):
        read_keys.append(dataset.name)
        return plain(dataset, part, **options)

    folder = seisbench.scan(block[0])
    monkeypatch.setattr(h5py.Dataset, "__getitem__", counted)
    assert len(list(folder.traces("train"))) == 2
    assert read_keys == ["/data/bucket0"]


def test_counts_need_a_sensitivity_or_no_amplitude(block, tmp_path):
    rows, blocks = [row("a"), row("b")], {"a": samples(0), "b": samples(1)}
    folder = write_set(tmp_path / "counts", rows, blocks, unit="counts")
    with pytest.raises(ConfigError, match="is in counts, not in m/s.2; .* sensitivity"):
        read(folder)
    scaled, _ = read(folder, sensitivity=4.0)
    np.testing.assert_allclose(4 * scaled["waveform"], samples(0).T, rtol=1e-6)
    plain, _ = read(folder, amplitude=False)
    np.testing.assert_allclose(plain["waveform"], samples(0).T, rtol=1e-6)
    said, _ = read(folder, unit="cm/s^2")
    np.testing.assert_allclose(100 * said["waveform"], samples(0).T, rtol=1e-6)
    unsaid = write_set(tmp_path / "unsaid", rows, blocks, unit=None)
    with pytest.raises(ConfigError, match="is in unknown"):
        read(unsaid)


def test_each_chunk_is_in_a_unit_of_its_own(tmp_path):
    for chunk, unit in (("_a", "m/s^2"), ("_b", "counts")):
        rows = [row(chunk, trace_name_original=f"trace{chunk}")]
        folder = write_set(tmp_path / "set", rows, {chunk: samples(0)}, chunk, unit)
    with pytest.raises(ConfigError, match="waveforms_b.hdf5 is in counts, not in"):
        read(folder)
    plain, scaled = read(folder, sensitivity=4.0)
    np.testing.assert_allclose(plain["waveform"], samples(0).T, rtol=1e-6)
    np.testing.assert_allclose(4 * scaled["waveform"], samples(0).T, rtol=1e-6)
    with pytest.raises(ValueError, match="is in counts, not in m/s.2"):
        record_folders.to_acceleration(samples(0), 20.0, "counts", "", Reader())


def test_units_are_known_by_any_of_their_names():
    for unit, size in (("Gal", 0.01), (" CM/S**2", 0.01), ("1e-6 g", 9.80665e-6)):
        (value,) = record_folders.to_acceleration(np.ones(1), 1.0, unit, "", Reader())
        assert value == pytest.approx(size)


@pytest.mark.parametrize(
    "fields",
    [
        dict(unit="m/s^2", sensitivity=4.0),
        dict(unit="cm/s^2", inventory="a.xml"),
        dict(unit="counts", inventory="a.xml"),
        dict(sensitivity=4.0, inventory="a.xml"),
    ],
)
def test_what_contradicts_itself_about_a_unit_is_refused(fields):
    with pytest.raises(ConfigError, match="give one of sensitivity, inventory and a"):
        Reader(**fields)


def test_an_inventory_is_for_miniseed_alone(block):
    with pytest.raises(ConfigError, match="reader inventory is for miniSEED"):
        read(block[0], inventory="a.xml")


def test_velocity_becomes_acceleration(tmp_path):
    time = np.arange(200) / 20.0
    sine = np.sin(2 * np.pi * 1.0 * time)
    slope = 2 * np.pi * np.cos(2 * np.pi * 1.0 * time)
    velocity = np.stack([sine, 2 * sine, 0.5 * sine])
    rows = [row("a", trace_channel="HH"), row("b", trace_channel="HN")]
    folder = write_set(
        tmp_path / "set", rows, {"a": velocity, "b": velocity}, unit="m/s"
    )
    first, _ = read(folder)
    np.testing.assert_allclose(
        first["waveform"][20:-20, 1], 2 * slope[20:-20], atol=0.02
    )
    both, accelerometer = read(folder, unit="by_instrument")
    np.testing.assert_array_equal(both["waveform"], first["waveform"])
    np.testing.assert_allclose(accelerometer["waveform"], velocity.T, rtol=1e-6)


def test_derivatives_of_lines_and_sines_are_exact():
    time = np.arange(100) / 20.0
    line = np.stack([3 * time + 1, -time], axis=1)
    np.testing.assert_allclose(
        record_folders.differentiate(line, 20.0), [[3.0, -1.0]] * 100, atol=1e-9
    )


def test_names_of_traces_are_parsed_as_parts_of_arrays():
    assert seisbench.parse_name("abc") == ("abc", ())
    parsed = seisbench.parse_name("b$12,:3,5:900:2")
    assert parsed == ("b", (12, slice(None, 3), slice(5, 900, 2)))


def test_traces_without_an_event_are_in_the_split_that_the_file_states(tmp_path):
    rows = [row("a", source=""), row("b", source="")]
    blocks = {"a": samples(0), "b": samples(1)}
    folder = write_set(tmp_path / "set", rows, blocks)
    assert [one["source_id"] for one in read(folder)] == [b"a", b"b"]
    message = "a has no source_id, so its event may be in several splits; fill in"
    with pytest.raises(ConfigError, match=message):
        read(folder, split_by="event")
    rows = [row("a", source="", split=""), row("b", source="", split="")]
    with pytest.raises(ConfigError, match=message):
        read(write_set(tmp_path / "unsaid", rows, blocks))


def test_bad_traces_may_be_left_out(tmp_path):
    rows = [row("a"), row("lost"), row("b$7"), row("b")]
    blocks = {"a": samples(0), "b": samples(1)}
    folder = write_set(tmp_path / "set", rows, blocks)
    options = dict(on_bad_record="skip", max_bad_fraction=0.25)
    with pytest.raises(BadRecordError, match="with it 2 of 4 records are bad"):
        prepare_folder(folder, Reader(), tmp_path, **options)
    options["max_bad_fraction"] = 0.5
    prepared = prepare_folder(folder, Reader(), tmp_path, **options)
    found = builder.RecordFiles(prepared, "train").__getitems__([0, 1, 2, 3])
    assert [len(one["waveform"]) for one in found] == [60, 0, 0, 60]
    assert b"waveforms.hdf5: b$7: index 7 is out of bounds" in found[2]["name"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("lost")], "waveforms.hdf5, data/lost: "),
        ([row("group")], "waveforms.hdf5, data/group: is a group, not an array"),
        ([row("a$7")], "waveforms.hdf5: a.7: index 7 is out of bounds"),
        ([row("a$:3,:61")], "a.:3,:61: part None:61 is out of bounds for axis 1 with"),
        ([row("a$:3,7:7")], "a.:3,7:7: part 7:7 of axis 1 is empty"),
        ([row("a$x")], "metadata.csv, line 2: invalid literal"),
        ([row("a$0")], r"shape \(60,\) at 20.0 Hz is no trace"),
        ([row("a", trace_p_arrival_sample="soon")], "line 2: could not convert"),
        ([row("a", trace_component_order="XYW")], "'XYW' are none of Z, N, E"),
        ([{"name": "a"}], "metadata.csv has no column trace_name"),
    ],
)
def test_a_broken_set_names_file_and_trace(tmp_path, rows, message):
    blocks = {"a": samples(0), "group/a": samples(0)}
    folder = write_set(tmp_path / "set", rows, blocks)
    with pytest.raises(ConfigError, match=message):
        read(folder)


def test_missing_or_damaged_files_are_named(tmp_path, block):
    (block[0] / "waveforms.hdf5").write_bytes(b"no HDF5")
    with pytest.raises(ConfigError, match="waveforms.hdf5 cannot be read as HDF5"):
        read(block[0])
    (block[0] / "waveforms.hdf5").unlink()
    with pytest.raises(ConfigError, match="waveforms.hdf5: No such file"):
        read(block[0])
    with pytest.raises(ConfigError, match="is no folder of records"):
        read(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="reader missing 'x' is none of zeros, copy"):
        Reader(missing="x")
    with pytest.raises(ConfigError, match="sensitivity -1.0 must be greater than 0"):
        Reader(sensitivity=-1.0)


def test_a_column_of_labels_is_read_where_it_is_asked_for(tmp_path):
    rows = [row("a", mood="calm"), row("b", mood="")]
    folder = write_set(tmp_path / "set", rows, {"a": samples(0), "b": samples(1)})
    assert [one["label"] for one in read(folder, label="mood")] == [b"calm", b""]
    assert "label" not in read(folder)[0]
    with pytest.raises(ConfigError, match="metadata.csv has no column nerve"):
        read(folder, label="nerve")
    (tmp_path / "files").mkdir()
    with pytest.raises(ConfigError, match="is a folder of miniSEED, which has no col"):
        read(tmp_path / "files", label="mood")
