import math

import numpy as np
import pytest

from jaxmodels.data.waveform_sources import (
    WaveformSource,
    chosen_records,
    section,
    signal_to_noise,
    subset,
)
from jaxmodels.data.waveform_store import store_waveforms
from jaxmodels.data.waveform_windows import WindowPreprocessing
from jaxmodels.train.errors import ConfigError
from tests.data.motion_sources import Listed, shaking

RATE = 100.0


def store(*records):
    return store_waveforms(Listed(*records), RATE, name="list")


def flat(seed, ratio, **fields):
    """Noise of size 1, and of size `ratio` from P at 600 on."""
    record = shaking(seed, 1200, 600, RATE, **fields)
    values = np.random.default_rng(seed).standard_normal((1200, 3))
    values[600:] *= ratio
    record["waveform"] = values.astype(np.float32)
    return record


@pytest.mark.parametrize("ratio", [3.0, 10.0, 100.0])
def test_the_signal_to_noise_ratio_is_that_of_the_half_second_after_p(ratio):
    found = signal_to_noise(store(flat(0, ratio)), 0)
    assert found == pytest.approx(20 * math.log10(ratio), abs=2.0)


def test_the_ratio_is_of_the_first_component_that_moves():
    record = flat(0, 10.0)
    record["waveform"][:, 0] = 5.0
    assert signal_to_noise(store(record), 0) == pytest.approx(20.0, abs=2.0)


def test_nothing_is_known_of_noise_where_there_is_none_or_too_little():
    clean, soon = flat(0, 10.0, snr=math.inf), shaking(1, 400, 100, RATE)
    stored = store(clean, soon, flat(2, 10.0, p_sample=-1.0))
    assert [signal_to_noise(stored, index) for index in range(3)] == [math.inf] * 3


def test_records_are_chosen_by_arrivals_and_by_strength():
    stored = store(flat(0, 3.0), flat(1, 30.0), flat(2, 30.0, p_sample=-1.0))
    np.testing.assert_array_equal(chosen_records(stored), [0, 1, 2])
    np.testing.assert_array_equal(chosen_records(stored, picked=True), [0, 1])
    np.testing.assert_array_equal(chosen_records(stored, True, 20.0), [1])


def test_a_subset_is_the_same_whatever_else_there_is():
    few = store(*(flat(seed, 3.0) for seed in range(6)))
    more = store(*(flat(seed, 3.0) for seed in range(12)))
    every = np.arange(12)
    order = [more.names[index][0] for index in subset(more, every, 3, seed=0)]
    known = {few.names[index][0] for index in subset(few, every[:6], 6, seed=0)}
    largest = subset(more, every, 6, seed=0)
    assert set(subset(more, every, 3, seed=0)) < set(largest)
    again = {few.names[index][0] for index in subset(few, every[:6], 3, seed=0)}
    assert {name for name in order if name in known} <= again


def test_a_section_says_what_is_usual_and_refuses_what_is_not():
    given = section("noise", {"dataset": "x"}, share=0.3, train_split="train")
    assert given == {"dataset": "x", "share": 0.3, "train_split": "train"}
    with pytest.raises(
        ConfigError, match="second has 'split'; its entries are dataset"
    ):
        section("second", {"dataset": "x", "split": "a"}, share=0.5)
    with pytest.raises(ConfigError, match="second share 1 is not between 0 and 1"):
        section("second", {"dataset": "x", "share": 1}, share=0.5)


def test_records_in_a_bucket_need_a_local_folder():
    preprocessing = WindowPreprocessing(20.0, 100)
    source = WaveformSource(preprocessing, {}, data_dir="gs://bucket/data")
    with pytest.raises(ConfigError, match="is not a local folder"):
        source.stored("synthetic_motions", "train")
    with pytest.raises(ConfigError, match="no data set 'nothing' of ground motion"):
        source.stored("nothing", "train")
