"""Our reader of SeisBench's format beside SeisBench's own."""

import warnings

import numpy as np
import pytest

from jaxmodels.data import builder
from jaxmodels.data.record_folders import Reader, prepare_folder
from tests.data.test_seisbench import row, samples, write_set

pytestmark = [
    pytest.mark.parity,
    # Of SeisBench's own imports and file handles.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module")
def seisbench_data():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("seisbench")
        return pytest.importorskip("seisbench.data")


@pytest.fixture
def folder(tmp_path):
    """Two chunks of blocks, in another order of components, with arrivals or not."""
    values = np.stack([samples(seed, 300) for seed in range(3)])
    rows = [
        row("bucket0$0,:3,:300", source="e0", trace_P_arrival_sample=20.0),
        row("bucket0$1,:3,:250", source="e1", trace_P_arrival_sample=33.5),
        row("bucket0$2,:3,20:200", source="e2", trace_P_arrival_sample=float("nan")),
    ]
    for index, one in enumerate(rows):
        one["trace_S_arrival_sample"] = 50.0 + index
    for chunk in ("_a", "_b"):
        path = write_set(
            tmp_path / "set", rows, {"bucket0": values}, chunk, component_order="ENZ"
        )
    (path / "chunks").write_text("_a\n_b\n")
    return path


def ours(folder, **reader):
    prepared = prepare_folder(folder, Reader(**reader), folder / "tfds")
    records = builder.RecordFiles(prepared, "train")
    return [records[index] for index in range(len(records))]


def arrival(value):
    return -1.0 if np.isnan(value) else value


def test_waveforms_and_arrivals_are_those_of_seisbench(folder, seisbench_data):
    theirs = seisbench_data.WaveformDataset(folder, component_order="ZNE")
    found = ours(folder)
    assert len(found) == len(theirs) == 6
    for index, record in enumerate(found):
        waveform, metadata = theirs.get_sample(index)
        np.testing.assert_allclose(record["waveform"], waveform.T, rtol=1e-6)
        assert record["p_sample"] == arrival(metadata["trace_P_arrival_sample"])
        assert record["s_sample"] == arrival(metadata["trace_S_arrival_sample"])
        assert record["source_id"].decode() == metadata["source_id"]


def test_arrivals_move_with_the_rate_as_in_seisbench(folder, seisbench_data):
    theirs = seisbench_data.WaveformDataset(
        folder, component_order="ZNE", sampling_rate=100.0
    )
    for index, record in enumerate(ours(folder, sampling_rate=100.0)):
        waveform, metadata = theirs.get_sample(index)
        assert abs(len(record["waveform"]) - waveform.shape[1]) <= 1
        assert record["p_sample"] == arrival(metadata["trace_P_arrival_sample"])
        assert record["s_sample"] == arrival(metadata["trace_S_arrival_sample"])
