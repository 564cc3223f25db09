import numpy as np
import pytest

from jaxmodels.pipelines import pick, pick_model
from jaxmodels.train import packaged
from tests.pipelines.picking_runs import command

obspy = pytest.importorskip("obspy")
pytestmark = pytest.mark.skipif(
    not packaged.is_packaged(pick_model.PACKAGED),
    reason="no picker is packaged; make picker",
)


@pytest.fixture(scope="module")
def picker():
    return pick.load()


def test_the_packaged_picker_is_small_and_says_what_it_was_trained_on(picker):
    weights = pick_model.PACKAGED / "model.safetensors"
    assert weights.stat().st_size <= 5_000_000
    assert "synthetic" in picker.describe()
    card = (pick_model.PACKAGED / "card.md").read_text()
    assert "make picker" in card


def first(picker, stream, phase):
    """Seconds from the start to the most certain pick of a phase."""
    picks = [one for one in picker.classify(stream).picks if one.phase == phase]
    best = max(picks, key=lambda one: one.peak_value)
    return best.peak_time - stream[0].stats.starttime


def test_the_packaged_picker_picks_the_example_of_obspy(tmp_path, capsys, picker):
    code, lines, _ = command(capsys, "--example", "--output", tmp_path)
    assert code == 0 and lines[1].startswith("BW.RJOB..EH: ")
    # By eye: P at 4.7 s, S at 5.7 s.
    stream = obspy.read()
    assert abs(first(picker, stream, "P") - 4.7) < 0.2
    assert abs(first(picker, stream, "S") - 5.7) < 0.5


@pytest.mark.parametrize("shift", [0.01, 0.53, 3.21, 7.77])
def test_windows_that_start_elsewhere_move_no_pick(picker, shift):
    """The same minute, the windows over it anywhere."""
    length = 3 * picker.preprocessing.num_samples
    noise = np.random.default_rng(0).standard_normal((length, 3))
    example = obspy.read().detrend("linear").taper(0.05)
    for column, trace in zip(noise.T, example, strict=True):
        column *= 0.2 * trace.data[150:400].std()
        column[2000 : 2000 + len(trace)] += trace.data
        trace.data = column
    moved = example.copy()
    for trace in moved:
        trace.stats.starttime += shift
    for phase in "PS":
        assert abs(first(picker, example, phase) - first(picker, moved, phase)) <= 0.05
