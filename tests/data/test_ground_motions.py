import dataclasses
import json
import logging
import pickle

import numpy as np
import pytest

from experiments import config_file
from jaxmodels.data import ground_motions, pipeline
from jaxmodels.data.broadband import Preprocessing
from jaxmodels.data.ground_motions import ground_motion_data
from jaxmodels.data.motion_rows import (
    NO_AUGMENTATION,
    Augmentation,
    MotionRows,
    make_augmentation,
)
from jaxmodels.data.prepared_motions import prepare_motions
from jaxmodels.train.errors import ConfigError
from tests.data.motion_sources import SMALL, SYNTHETIC, Listed, shaking
from tests.data.test_seisbench import row as seisbench_row
from tests.data.test_seisbench import write_set

NAMES = ("targets", "condition", "scalars", "amplitude", "weights")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("tfds")


@pytest.fixture
def data(data_dir):
    def make(dataset="synthetic_motions", **options):
        options = {"data_dir": data_dir, "synthetic": SYNTHETIC, **options}
        return ground_motion_data(dataset, **{**SMALL, "batch_size": 4, **options})

    return make


def rows(count=3, **options):
    preprocessing = Preprocessing(**{**SMALL, **options.pop("preprocessing", {})})
    source = Listed(*(shaking(seed) for seed in range(count)))
    motions = prepare_motions(source, preprocessing, name="list", min_snr=3.0)
    return MotionRows(motions, preprocessing, **options)


def assert_equal(batch, other):
    assert batch.keys() == other.keys()
    for name in batch:
        np.testing.assert_array_equal(batch[name], other[name])


def test_batches_hold_what_a_model_takes(data):
    made = data()
    batch = made.train(0, 0, 1)
    shapes = [(4, 200, 3), (4, 200, 3), (4, 2), (4,), (4,)]
    for name, shape in zip(NAMES, shapes, strict=True):
        assert batch[name].shape == shape and batch[name].dtype == np.float32
        assert np.isfinite(batch[name]).all()
    assert made.num_eval_batches == 1 and made.unit == "windows"
    assert all(name.startswith("synthetic-0-") for name in made.records(0))


def test_a_batch_is_a_function_of_its_step_for_any_ranks(data):
    made, again = data(), data()
    for step in (0, 3, 17):
        whole = made.train(step, 0, 1)
        assert_equal(whole, again.train(step, 0, 1))
        parts = [made.train(step, rank, 2) for rank in (0, 1)]
        joined = {k: np.concatenate([part[k] for part in parts]) for k in whole}
        assert_equal(whole, joined)
    assert_equal(made.train(5, 0, 1), pickle.loads(pickle.dumps(made)).train(5, 0, 1))
    other = data(seed=1).train(0, 0, 1)
    assert not np.array_equal(other["targets"], made.train(0, 0, 1)["targets"])


def test_each_visit_varies_a_window_and_evaluation_does_not(data):
    varied = rows(augmentation=Augmentation())
    first, second = varied.varied([0, 0], [5, 6]).values(), varied.varied([0], [6])
    targets, condition, scalars, *_ = first
    for array in (targets, condition, scalars[:, 0]):
        assert not np.array_equal(array[0], array[1])
    np.testing.assert_array_equal(targets[1], second["targets"][0])
    plain = data(augment=False)
    assert_equal(plain.eval(0, 0, 1), data().eval(0, 0, 1))


def test_without_augmentation_a_window_is_always_the_same():
    fixed = rows()
    assert_equal(fixed.varied([1, 2], [8, 9]), fixed.batch([1, 2]))


def test_gain_and_polarity_change_the_size_told_and_nothing_else():
    only = Augmentation(shift=False, rotate=False, surroundings=0.0)
    gained, plain = rows(augmentation=only), rows()
    places = list(range(40))
    varied, fixed = gained.varied([0] * 40, places), plain.batch([0])
    signs = np.sign(np.sum(varied["targets"] * fixed["targets"], axis=(1, 2)))
    assert set(signs) == {-1.0, 1.0}
    for name in ("targets", "condition"):
        flipped = varied[name] * signs[:, None, None]
        np.testing.assert_allclose(flipped, fixed[name] + 0 * flipped, atol=1e-4)
    np.testing.assert_allclose(varied["amplitude"], fixed["amplitude"][0], atol=1e-5)
    gains = varied["scalars"][:, 0] - fixed["scalars"][0, 0]
    assert np.abs(gains).max() <= 0.3 and gains.min() < -0.15 < 0.15 < gains.max()


def test_rotation_turns_the_horizontals_of_both_waveforms_alike():
    only = dataclasses.replace(NO_AUGMENTATION, rotate=True)
    varied = rows(augmentation=only).varied([0] * 8, list(range(8)))
    fixed = rows().batch([0])
    for name in ("targets", "condition"):
        vertical = varied[name][:, :, 0]
        np.testing.assert_allclose(
            vertical, fixed[name][..., 0] + 0 * vertical, atol=1e-4
        )
        energy = np.square(varied[name][:, :, 1:]).sum(axis=2)
        expected = np.square(fixed[name][:, :, 1:]).sum(axis=2) + 0 * energy
        np.testing.assert_allclose(energy, expected, rtol=1e-2, atol=1e-2)
    assert np.std(varied["targets"][:, 60, 1]) > 0.01


def test_shifts_move_the_onset_through_its_range():
    only = dataclasses.replace(NO_AUGMENTATION, shift=True)
    varied = rows(augmentation=only).varied([0] * 60, list(range(60)))
    power = np.square(varied["targets"]).sum(axis=2)
    loud = power > 0.02 * power.max(axis=1, keepdims=True)
    onset = loud.argmax(axis=1)
    # 3 to 12 sixtieths of 200 samples; the band-pass reaches a little ahead.
    assert 0 <= onset.min() <= 14 and 30 <= onset.max() <= 55


def test_a_low_pass_may_see_what_is_around_a_window():
    seeing = dataclasses.replace(NO_AUGMENTATION, surroundings=1.0)
    around, cut = rows(augmentation=seeing), rows()
    preprocessing = around.preprocessing
    batch, plain = around.varied([1], [0]), cut.batch([1])
    record, start = around.motions.place(1, 0.5, 200)
    expected = preprocessing.low_pass(record, 1.0)[start : start + 200]
    size = 10 ** batch["scalars"][0, 0]
    error = np.abs(size * batch["condition"][0] - expected).max()
    assert error < 0.01 * np.abs(expected).max()
    np.testing.assert_array_equal(batch["targets"], plain["targets"])
    assert np.abs(batch["condition"] - plain["condition"]).max() > 0.1
    half = dataclasses.replace(NO_AUGMENTATION, surroundings=0.5)
    both = rows(augmentation=half).varied([1] * 40, list(range(40)))["condition"]
    alike = [np.allclose(one, plain["condition"][0], atol=1e-4) for one in both]
    assert 8 < sum(alike) < 32
    for one in both[~np.array(alike)]:
        np.testing.assert_allclose(one, batch["condition"][0], atol=1e-6)


def test_corners_are_drawn_from_their_range_and_told():
    pair = dict(preprocessing=dict(corner=(0.5, 4.0)))
    varied = rows(augmentation=Augmentation(), **pair).varied([0] * 50, list(range(50)))
    corners = 2.0 ** varied["scalars"][:, 1]
    assert 0.5 <= corners.min() < 0.7 and 3.0 < corners.max() <= 4.0
    held_out = rows(**pair)
    assert_equal(held_out.batch([0, 1, 2]), held_out.batch([0, 1, 2]))
    assert len(set(held_out.batch([0, 1, 2])["scalars"][:, 1])) == 3


def test_one_component_gives_three_rows_a_window():
    three, one = rows(), rows(preprocessing=dict(channels=1))
    assert len(three) == 3 and len(one) == 9
    batch = one.batch([3, 4, 5])
    assert batch["targets"].shape == (3, 200, 1)
    window, _ = three.window(1)
    for component in range(3):
        np.testing.assert_array_equal(
            one.window(3 + component)[0], window[:, component : component + 1]
        )
    assert one.names(4) == three.names(1) == ["r1"]


def test_padding_has_no_weight():
    batch = rows().batch([None, 1, None])
    assert batch["weights"].tolist() == [0.0, 1.0, 0.0]
    assert not batch["targets"][0].any() and np.isfinite(batch["scalars"]).all()
    assert_equal({k: v[1:2] for k, v in batch.items()}, rows().batch([1]))
    assert rows().batch([None])["targets"].shape == (1, 200, 3)


def test_rows_of_text_are_not_varied():
    assert not isinstance(pipeline.PackedText(None, 1, 0, None), pipeline.VariedRows)
    assert isinstance(rows(), pipeline.VariedRows)


def test_without_amplitude_the_size_is_unknown_to_the_model(data):
    made = data(amplitude=False)
    assert np.isnan(made.train(0, 0, 1)["scalars"][:, 0]).all()
    assert made.preprocessing["amplitude"] is None
    assert made.preprocessing["units"] == "any"


def test_the_preprocessing_says_all_that_makes_the_input(data):
    entry = json.loads(json.dumps(data().preprocessing))
    assert entry["kind"] == "broadband" and entry["dataset"] == "synthetic_motions"
    assert entry["splits"] == {"train": "train", "eval": "validation"}
    assert entry["synthetic"]["num_records"] == 6
    assert Preprocessing.from_json(entry) == Preprocessing(**SMALL)


def test_splits_that_share_an_event_are_refused(data):
    with pytest.raises(ConfigError, match="in both train and train.:50%. of"):
        data(eval_split="train[:50%]")


def test_stations_of_one_event_are_held_out_with_a_warning(data, caplog):
    sizes = dict(sampling_rate=50.0, num_samples=1000)
    with caplog.at_level(logging.WARNING):
        made = data("ridgecrest", train_split="-CI.TOW2", eval_split="CI.TOW2", **sizes)
    assert "ridgecrest is one event" in caplog.text
    train = {
        name.rpartition(".")[2] for step in range(6) for name in made.records(step)
    }
    assert train == {"CCC", "CLC"}
    assert made.eval(0, 0, 1)["weights"].all()
    with pytest.raises(ConfigError, match=r"1 station\(s\), such as CI.TOW2, are in"):
        data("ridgecrest", train_split="all", eval_split="CI.TOW2", **sizes)


def test_evaluation_windows_are_those_of_the_batches(data, data_dir):
    made = data()
    preprocessing = Preprocessing.from_json(made.preprocessing)
    windows = list(
        ground_motions.windows(
            "synthetic_motions",
            "validation",
            preprocessing,
            data_dir=data_dir,
            synthetic=SYNTHETIC,
        )
    )
    batch = made.eval(0, 0, 1)
    assert len(windows) == batch["weights"].sum()
    for row, (name, event, waveform, rate) in enumerate(windows):
        assert name.startswith(event) and name.endswith("s") and rate == 20.0
        example = preprocessing.example(waveform, 1.0)
        np.testing.assert_array_equal(example["targets"], batch["targets"][row])


def test_a_run_says_how_its_records_were_read_and_its_windows_are_read_so(tmp_path):
    rows = [seisbench_row(f"r{n}", source=f"e{n}") for n in range(8)]
    blocks = {f"r{n}": shaking(n)["waveform"].T for n in range(8)}
    folder = str(write_set(tmp_path / "set", rows, blocks))
    source = dict(data_dir=tmp_path / "tfds", reader={"split_by": "event"})
    made = ground_motion_data(folder, **SMALL, batch_size=2, eval_split="dev", **source)
    reader = made.preprocessing["reader"]
    assert reader["split_by"] == "event" and reader["amplitude"] is True
    preprocessing = Preprocessing.from_json(made.preprocessing)
    found = [
        motion.event
        for motion in ground_motions.windows(
            folder, "dev", preprocessing, **source | {"reader": reader}
        )
    ]
    assert found and len(found) == made.eval(0, 0, 1)["weights"].sum()


def test_fields_of_a_reader_that_are_none_count_as_not_given(tmp_path):
    config, _ = config_file.load("configs/seismic/signal_dit.py:tiny")
    rows = [seisbench_row(f"r{n}", source=f"e{n}", split="") for n in range(12)]
    blocks = {f"r{n}": 4 * shaking(n)["waveform"].T for n in range(12)}
    folder = str(write_set(tmp_path / "set", rows, blocks, unit="counts"))
    options = SMALL | dict(batch_size=2, eval_split="dev", data_dir=tmp_path / "tfds")
    with pytest.raises(ConfigError, match="waveforms.hdf5 is in counts"):
        ground_motion_data(folder, **options, reader=config.data.reader)
    config.data.reader.sensitivity = 4.0
    made = ground_motion_data(folder, **options, reader=config.data.reader)
    assert made.preprocessing["reader"]["sensitivity"] == 4.0
    assert made.preprocessing["reader"]["amplitude"] is True


def test_real_windows_begin_where_they_always_did():
    found = list(
        ground_motions.windows(
            "napa", "all", Preprocessing(50.0, 1000, 3, 1.0), limit=1
        )
    )
    assert [window.name for window in found] == ["nc72282711.CE.68150+22.70s"]
    assert np.abs(found[0].waveform).max() == pytest.approx(3.57, abs=0.05)


def test_whole_records_are_as_they_are_or_resampled():
    (record,) = ground_motions.records("napa", "all")
    assert record.sampling_rate == 200.0 and record.waveform.shape == (23800, 3)
    (slower,) = ground_motions.records("napa", "all", sampling_rate=100.0)
    assert slower.sampling_rate == 100.0 and slower.waveform.shape == (11900, 3)
    assert record.event == "nc72282711"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(batch_size=0), "batch_size is 0, not at least 1"),
        (dict(on_bad_record="go"), "on_bad_record is 'go', not \"stop\""),
        (
            dict(augment=dict(flip=True)),
            "its fields are shift, rotate, polarity, gain, ",
        ),
        (dict(augment=dict(gain=-1.0)), "gain -1.0 must be at least 0"),
        (dict(synthetic=dict(records=4)), "its fields are num_records"),
        (dict(reader=dict(units="g")), "its fields are amplitude, sensitivity"),
        (dict(dataset="ridgcrest"), "no data set 'ridgcrest' of ground motion"),
        (dict(eval_split="dev"), "has no split 'dev'; it has test, train, validation"),
        (dict(corner=9.0), "corner 9.0 Hz does not lie within"),
    ],
)
def test_impossible_arguments_are_refused_in_one_line(data, options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        data(**options)
    assert "\n" not in str(caught.value)


def test_augmentation_is_on_off_or_chosen():
    assert make_augmentation(True) == Augmentation()
    assert make_augmentation(None) == make_augmentation(False)
    assert make_augmentation(dict(gain=0.0)) == Augmentation(gain=0.0)
