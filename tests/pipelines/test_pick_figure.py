import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from jaxmodels.pipelines import broaden_figure, pick_figure
from jaxmodels.pipelines.pick_results import Pick

obspy = pytest.importorskip("obspy")
START = obspy.UTCDateTime(2020, 1, 2, 3, 4, 5.5)


def view(count=500, phases="PS"):
    picks = [
        Pick(START, START, START + 1.0 + i, "XX.ABC.", phase, 0.9, 1.0, "HHZ")
        for i, phase in enumerate(phases)
    ]
    waveform = np.random.default_rng(0).standard_normal((count, 3))
    waveform[:100, 1] = np.nan
    probabilities = np.full((count, 3), 0.1)
    return pick_figure.View(START.timestamp, 100.0, waveform, probabilities, picks)


@pytest.fixture
def drawn(monkeypatch):
    """The axes of the figures that would be written."""
    held: list[Figure] = []
    monkeypatch.setattr(
        broaden_figure, "save", lambda figure, path: held.append(figure)
    )

    def draw(views, channels=("HHZ", "HHN", "HHE")):
        pick_figure.draw(
            "x", views, title="XX.ABC..HH", channels=channels, thresholds=(0.3, 0.4)
        )
        return held[-1].axes

    return draw


def test_each_component_has_a_row_and_each_pick_a_line_in_all_of_them(drawn):
    axes = drawn([view()])
    assert [axis.get_ylabel() for axis in axes] == ["HHZ", "HHN", "HHE", "probability"]
    for axis in axes[:3]:
        assert [line.get_xdata()[0] for line in axis.lines[1:]] == [1.0, 2.0]
    levels = [line.get_ydata()[0] for line in axes[3].lines[2:4]]
    assert levels == [0.3, 0.4]
    assert axes[3].get_xlabel() == "s after 2020-01-02 03:04:05.50"


def test_views_are_columns_and_missing_components_are_left_out(drawn):
    axes = drawn([view(), view(300, "P")], ("HHZ", None, "HHE"))
    assert len(axes) == 6
    assert [axis.get_ylabel() for axis in axes[::2]] == ["HHZ", "HHE", "probability"]


def test_a_thinned_line_keeps_the_extremes_and_the_gaps():
    values = np.zeros(40_000)
    values[[12_345, 23_456]] = 5.0, -7.0
    values[30_000:35_000] = np.nan
    time, thin = pick_figure._thinned(np.arange(40_000) / 100, values)
    assert len(thin) <= pick_figure.MAX_POINTS + 2
    assert np.nanmax(thin) == 5.0 and np.nanmin(thin) == -7.0
    assert abs(time[np.nanargmax(thin)] - 123.45) < 0.3
    assert np.isnan(thin[(time > 301) & (time < 349)]).all()


def test_the_figure_is_a_small_png(tmp_path):
    path = tmp_path / "out" / "a.png"
    pick_figure.draw(
        path,
        [view()],
        title="a",
        channels=("HHZ", "HHN", "HHE"),
        thresholds=(0.3, 0.3),
    )
    assert path.stat().st_size <= broaden_figure.MAX_BYTES
    with Image.open(path) as image:
        assert image.format == "PNG"
