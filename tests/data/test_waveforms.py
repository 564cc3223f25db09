import inspect
import json
import pickle

import numpy as np
import pytest

from jaxmodels.data import pipeline, waveforms
from jaxmodels.data.waveform_windows import WindowPreprocessing
from jaxmodels.data.waveforms import event_data, pick_data, waveform_data
from jaxmodels.train.errors import ConfigError
from tests.data.test_seisbench import row, write_set

SMALL = dict(num_records=8, num_held_out=4, stations=2, seconds=12.0)
SMALL |= dict(distance=(2.5, 20.0))
SIZES = dict(sampling_rate=40.0, num_samples=240, batch_size=4)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("tfds")


@pytest.fixture
def synthetic(data_dir):
    def make(function=pick_data, **options):
        options = {**SIZES, "synthetic": SMALL, "data_dir": data_dir, **options}
        return function("synthetic_motions", **options)

    return make


def quake(seed, length=2000, onset=900):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((3, length))
    values[:, onset:] += 40 * rng.standard_normal((3, length - onset))
    return values


@pytest.fixture
def folder(tmp_path):
    """Twelve real-looking traces of 20 s at 100 Hz in counts, of six events."""
    rows = [
        row(
            f"b${i}",
            split="train" if i < 8 else "dev",
            source=f"e{i // 2}",
            trace_p_arrival_sample=900,
            trace_s_arrival_sample=1100 if i % 3 else "",
            kind="ab"[i % 2],
        )
        for i in range(12)
    ]
    blocks = {"b": np.stack([quake(i) for i in range(12)])}
    return write_set(tmp_path / "set", rows, blocks, unit="counts", sampling_rate=100)


REAL = dict(eval_split="dev", **SIZES)


def test_batches_have_what_a_picker_takes(synthetic):
    data = synthetic(num_eval_batches=1)
    batch = data.train(0, 0, 1)
    assert batch["inputs"].shape == (4, 240, 3) and batch["targets"].shape == (
        4,
        240,
        3,
    )
    assert set(batch) == {"inputs", "targets", "weights", "p_sample", "s_sample"}
    assert {value.dtype.name for value in batch.values()} == {"float32"}
    assert isinstance(data.eval.rows.batch([0])["inputs"], np.ndarray)
    assert data.unit == "windows" and data.num_eval_batches == 1
    held_out = data.eval(0, 0, 1)
    assert (held_out["p_sample"] >= 0).all() and held_out["weights"].all()


def test_batches_are_a_pure_function_of_their_number(synthetic):
    data, again = synthetic(), pickle.loads(pickle.dumps(synthetic()))
    for step in (0, 5):
        for name, value in data.train(step, 0, 1).items():
            np.testing.assert_array_equal(value, again.train(step, 0, 1)[name])
    halves = [data.train(3, rank, 2)["inputs"] for rank in (0, 1)]
    np.testing.assert_array_equal(np.concatenate(halves), data.train(3, 0, 1)["inputs"])
    assert isinstance(data.train.rows, pipeline.VariedRows)


def test_models_without_labels_get_windows_alone(synthetic):
    data = synthetic(waveform_data, channels=1)
    batch = data.train(0, 0, 1)
    assert set(batch) == {"inputs", "weights"} and batch["inputs"].shape == (4, 240, 1)
    np.testing.assert_allclose(batch["inputs"].std(axis=1), 1.0, rtol=1e-4)


def test_the_preprocessing_is_that_of_the_windows(synthetic):
    data = synthetic(highpass=2.0, normalization="peak", sigma=5.0)
    entry = json.loads(json.dumps(data.preprocessing))
    made = WindowPreprocessing.from_json(entry)
    assert made == WindowPreprocessing(40.0, 240, normalization="peak", highpass=2.0)
    assert entry["kind"] == "waveform_windows" and entry["sigma"] == 5.0
    assert entry["synthetic"]["noise"] is None
    shared = "kind sampling_rate channels normalization per_component highpass"
    assert data.shared == tuple(shared.split())
    assert set(data.shared) <= set(entry)


def test_fewer_labels_are_some_of_more(synthetic):
    found = []
    for count in (2, 4, 6):
        rows = synthetic(num_train=count).train.rows
        found.append({rows.names(place)[0] for place in range(len(rows))})
    assert [len(names) for names in found] == [2, 4, 6]
    assert found[0] < found[1] < found[2]
    rows = synthetic(num_train=4, seed=1).train.rows
    assert {rows.names(place)[0] for place in range(4)} != found[1]
    assert len(synthetic(num_train=100).train.rows) == 8


def test_a_folder_is_brought_to_the_rate_and_its_arrivals_with_it(folder, data_dir):
    data = pick_data(folder.as_posix(), data_dir=data_dir, augment=False, **REAL)
    batch = data.eval(0, 0, 1)
    stored = data.eval.rows.windows.stored
    np.testing.assert_array_equal(stored.arrivals[:, 0], 360.0)
    assert np.isnan(stored.arrivals[:, 1]).sum() == 1 and len(stored) == 4
    for window, p_sample in zip(batch["inputs"], batch["p_sample"], strict=True):
        before, after = window[: int(p_sample) - 8], window[int(p_sample) + 2 :]
        assert after.std() > 10 * before.std()


def test_records_without_arrivals_are_left_out_of_picking(tmp_path, data_dir):
    rows = [row("b$0", trace_P_arrival_sample=900), row("b$1", source="e2")]
    rows += [row("b$2", source="e3", split="dev", trace_S_arrival_sample=900)]
    blocks = {"b": np.stack([quake(i) for i in range(3)])}
    folder = str(write_set(tmp_path / "set", rows, blocks, sampling_rate=100))
    data = pick_data(folder, data_dir=data_dir, **REAL)
    assert len(data.train.rows) == 1
    assert len(waveform_data(folder, data_dir=data_dir, **REAL).train.rows) == 2
    for one in rows:
        one.pop("trace_P_arrival_sample", None)
        one.pop("trace_S_arrival_sample", None)
    silent = str(write_set(tmp_path / "none", rows, blocks, sampling_rate=100))
    with pytest.raises(ConfigError, match="none of the 2 records, .* has an arrival"):
        pick_data(silent, data_dir=data_dir, **REAL)


def test_weak_records_are_left_out(tmp_path, data_dir):
    rows = [
        row(f"b${i}", f"{split}", f"e{i}", trace_P_arrival_sample=900)
        for i, split in enumerate(("train", "train", "dev"))
    ]
    values = np.stack([quake(i) for i in range(3)])
    values[0, :, 900:] /= 30.0
    folder = str(write_set(tmp_path / "set", rows, {"b": values}, sampling_rate=100))
    options = dict(data_dir=data_dir, **REAL)
    assert len(pick_data(folder, min_snr=20.0, **options).train.rows) == 1
    assert len(pick_data(folder, **options).train.rows) == 2
    with pytest.raises(ConfigError, match="none of the 2 records has 90 dB; lower"):
        pick_data(folder, min_snr=90.0, **options)


def test_a_second_set_has_its_share_and_may_be_what_is_evaluated(synthetic, folder):
    second = dict(dataset=str(folder), share=0.5, eval_split="dev")
    data = synthetic(second=second)
    rows = data.train.rows
    names = [rows.names(place)[0] for place in range(len(rows))]
    real = [name for name in names if not name.startswith("synthetic")]
    assert len(real) == len(names) / 2 and len(set(real)) == 8
    assert len(data.eval.rows) == 4
    assert data.preprocessing["second"]["train_split"] == "train"
    assert data.train(0, 0, 1)["inputs"].shape == (4, 240, 3)
    assert len(synthetic(second=dict(dataset=str(folder))).eval.rows) == 4


def test_noise_comes_from_before_p_or_from_a_file(synthetic, folder, tmp_path):
    values = np.random.default_rng(0).standard_normal((3, 2000))
    np.savez(tmp_path / "noise.npz", a=values)
    for dataset in (folder, tmp_path / "noise.npz"):
        data = synthetic(noise=dict(dataset=str(dataset), share=0.9))
        assert data.train.rows.windows.noise_share == 0.9
        assert np.isfinite(data.train(0, 0, 1)["inputs"]).all()
    with pytest.raises(ConfigError, match="noise share 2 is not between 0 and 1"):
        synthetic(noise=dict(dataset=str(folder), share=2))
    with pytest.raises(ConfigError, match="second has 'shares'; its entries are"):
        synthetic(second=dict(dataset=str(folder), shares=0.5))
    with pytest.raises(ConfigError, match="noise names no dataset"):
        synthetic(noise=dict(share=0.5))


def test_synthetic_classes_are_regions_of_different_attenuation(synthetic):
    fields = {**SMALL, "num_records": 24, "num_held_out": 16}
    data = synthetic(event_data, synthetic=fields, num_classes=2)
    batches = [data.train(step, 0, 1) for step in range(6)]
    targets = np.concatenate([batch["targets"] for batch in batches])
    assert set(targets) == {0, 1} and targets.dtype == np.int32
    assert data.train.rows.windows.instruments.kinds == ("broadband",)
    with pytest.raises(ConfigError, match="region has 2 value.* of 1 classes"):
        synthetic(event_data, synthetic=fields, num_classes=1)


def test_classes_of_a_folder_are_the_values_of_a_column(folder, data_dir):
    options = dict(data_dir=data_dir, num_classes=2, **REAL)
    data = event_data(str(folder), label="kind", **options)
    assert data.train.rows.classes == {"a": 0, "b": 1}
    for place in range(len(data.train.rows)):
        trace = int(data.train.rows.names(place)[0].split("$")[1])
        target = data.train.rows.batch([place])["targets"]
        assert target == trace % 2
    with pytest.raises(ConfigError, match="metadata.csv has no column mood"):
        event_data(str(folder), label="mood", **options)
    with pytest.raises(ConfigError, match="of synthetic_motions it is region"):
        event_data("synthetic_motions", label="kind", **options)


def test_an_event_in_both_splits_is_refused(folder, data_dir):
    with pytest.raises(ConfigError, match="are in both train and train of"):
        pick_data(str(folder), data_dir=data_dir, **{**REAL, "eval_split": "train"})


def test_real_records_of_the_package_are_windows_too():
    data = waveform_data(
        "ridgecrest",
        **SIZES,
        train_split="CI.CCC,CI.CLC",
        eval_split="CI.TOW2",
    )
    assert len(data.train.rows) == 2
    window = data.train(0, 0, 1)["inputs"]
    assert np.isfinite(window).all() and window.std() > 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(batch_size=0), "batch_size is 0, not at least 1"),
        (dict(num_train=0), "num_train is 0, not at least 1"),
        (dict(on_bad_record="ask"), 'on_bad_record is \'ask\', not "stop" or "skip"'),
        (dict(augment=dict(shift=1)), "its fields are around"),
        (dict(instruments=dict(noise=1)), "its fields are kinds"),
        (dict(synthetic=dict(size=1)), "its fields are num_records"),
        (dict(sigma=-1.0), "sigma -1.0 of labels must be greater than 0"),
        (dict(highpass=30.0), "highpass 30.0 Hz does not lie within 0 to 20 Hz"),
    ],
)
def test_impossible_arguments_are_refused(synthetic, options, message):
    with pytest.raises(ConfigError, match=message):
        synthetic(**options)


def test_the_three_kinds_of_data_share_their_arguments():
    common = set(inspect.signature(waveform_data).parameters)
    for function in (pick_data, event_data):
        assert common <= set(inspect.signature(function).parameters)
    assert waveforms.LOCAL["noise"] is None
