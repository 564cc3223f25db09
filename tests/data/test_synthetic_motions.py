import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaxmodels.data import builder, synthetic_motions
from jaxmodels.data.synthetic_motions import SyntheticMotions, draw_record
from jaxmodels.train.errors import ConfigError
from tests.data.motion_sources import RATE, SYNTHETIC

OPTIONS = SyntheticMotions(sampling_rate=RATE, **SYNTHETIC)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return synthetic_motions.prepare_synthetic(OPTIONS, tmp_path_factory.mktemp("tfds"))


def test_a_record_depends_on_its_numbers_alone():
    first, again = draw_record(OPTIONS, 3, 1), draw_record(OPTIONS, 3, 1)
    np.testing.assert_array_equal(first["waveform"], again["waveform"])
    other = draw_record(OPTIONS, 3, 0)
    assert not np.array_equal(first["waveform"], other["waveform"])
    assert first["source_id"] == other["source_id"] == "synthetic-0-3"
    assert first["magnitude"] == other["magnitude"]
    assert first["distance"] != other["distance"]


def test_draws_stay_within_their_ranges():
    for event in range(20):
        record = draw_record(OPTIONS, event, 0)
        assert 5.0 <= record["magnitude"] <= 6.0
        assert 8.0 <= record["distance"] <= 30.0
        assert record["waveform"].shape == (400, 3)
        assert record["p_sample"] < record["s_sample"] < 400
        assert record["snr"] > 20


def test_regions_are_classes_that_differ_in_attenuation():
    two = SyntheticMotions(regions=((120.0, 0.045), (180.0, 0.03)))
    sources = [synthetic_motions.draw_source(two, event) for event in range(60)]
    assert {source.region for source in sources} == {0, 1}
    for source in sources:
        assert source.kappa == (0.045, 0.03)[source.region]
        assert source.q0 == pytest.approx((120.0, 180.0)[source.region], rel=0.5)


def test_the_built_records_are_the_drawn_ones(prepared):
    train = builder.RecordFiles(prepared, "train")
    assert len(train) == 6
    for index in range(6):
        drawn = draw_record(OPTIONS, index // 2, index % 2)
        np.testing.assert_array_equal(train[index]["waveform"], drawn["waveform"])
        assert train[index]["p_sample"] == drawn["p_sample"]
        assert train[index]["s_sample"] == drawn["s_sample"]
        assert train[index]["source_id"].decode() == drawn["source_id"]


def test_no_event_is_in_two_splits(prepared):
    events = [
        {record["source_id"] for record in prepared.as_data_source(split)}
        for split in ("train", "validation", "test")
    ]
    assert [len(found) for found in events] == [3, 2, 2]
    assert len(set.union(*events)) == 7


def test_the_data_set_opens_with_tfds_alone_and_is_built_once(prepared):
    opened = tfds.builder_from_directory(prepared.data_path)
    assert opened.info.splits["validation"].num_examples == 4
    assert '"seed": 0' in opened.info.description
    root = prepared.data_path.parent.parent.parent
    again = synthetic_motions.prepare_synthetic(OPTIONS, root)
    assert again.data_path == prepared.data_path
    other = SyntheticMotions(sampling_rate=RATE, seed=1, **SYNTHETIC)
    moved = synthetic_motions.prepare_synthetic(other, root)
    assert moved.data_path != prepared.data_path


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(num_records=0), "num_records 0 must be at least 1"),
        (dict(seconds=10.0), "seconds 10 leave no room after S, .* at 120 km"),
        (dict(magnitude=(6.0, 5.0)), r"magnitude \(6.0, 5.0\) must rise"),
        (dict(regions=((0.0, 0.03),)), "must be pairs of positive numbers"),
        (dict(stress_drop=-1.0), "stress_drop -1.0 must be greater than 0"),
    ],
)
def test_impossible_options_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        SyntheticMotions(**fields)
