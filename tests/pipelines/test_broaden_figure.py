import numpy as np
import pytest
from matplotlib.figure import Figure

from jaxmodels.pipelines import broaden_figure
from jaxmodels.pipelines.broaden_score_figures import residuals
from jaxmodels.train.errors import ConfigError, StorageError

RATE = 50.0


def motion(*shape):
    return np.random.default_rng(0).standard_normal(shape)


@pytest.fixture
def drawn(monkeypatch):
    """Figures in the place of files."""
    figures = []
    monkeypatch.setattr(
        broaden_figure, "save", lambda figure, path: figures.append(figure)
    )
    return figures


def draw(path="x.png", **changes):
    options = {
        "low_passed": motion(200, 2),
        "samples": motion(3, 200, 2),
        "sampling_rate": RATE,
        "observed": motion(200, 2),
        "title": "a record",
        "components": ["Z", "N"],
    }
    broaden_figure.draw(path, **options | changes)


def test_each_component_has_waveforms_and_two_spectra_of_every_record(drawn):
    draw()
    axes = drawn[0].axes
    assert len(axes) == 6
    assert [len(axis.lines) for axis in axes] == [5] * 6
    assert [axes[0].get_ylabel(), axes[3].get_ylabel()] == ["Z", "N"]


def test_a_record_without_truth_has_one_curve_less(drawn):
    draw(observed=None)
    assert [len(axis.lines) for axis in drawn[0].axes] == [4] * 6
    labels = [text.get_text() for text in drawn[0].axes[1].get_legend().get_texts()]
    assert labels == ["low-pass", "samples (3)"]


def test_of_many_samples_all_spectra_and_some_waveforms_are_drawn(drawn):
    draw(samples=motion(12, 200, 2))
    waveforms, fourier, response = drawn[0].axes[:3]
    assert len(waveforms.lines) == 2 + broaden_figure.MAX_WAVEFORMS
    assert len(fourier.lines) == len(response.lines) == 14


def test_waveforms_of_a_component_share_one_scale(drawn):
    observed = motion(200, 2)
    draw(observed=observed, low_passed=0.1 * observed, samples=0.5 * observed[None])
    heights = [np.ptp(line.get_ydata()) for line in drawn[0].axes[0].lines]
    assert heights[1] == pytest.approx(0.1 * heights[0])
    assert heights[2] == pytest.approx(0.5 * heights[0])


def test_the_file_is_a_small_png(tmp_path):
    path = tmp_path / "new" / "record.png"
    draw(
        path,
        low_passed=motion(900, 1),
        samples=motion(8, 900, 1),
        observed=None,
        components=["Z"],
    )
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size < 150_000


def test_a_figure_too_large_is_drawn_more_coarsely(tmp_path):
    figure = Figure()
    figure.add_subplot().plot(motion(2000))
    broaden_figure.save(figure, tmp_path / "fine.png")
    fine = (tmp_path / "fine.png").stat().st_size
    broaden_figure.save(figure, tmp_path / "coarse.png", max_bytes=fine - 1)
    assert (tmp_path / "coarse.png").stat().st_size < fine


def test_periods_are_those_that_a_window_tells_about():
    periods = broaden_figure.periods_of(RATE, 200)
    assert periods.min() >= 0.04 and periods.max() <= 2.0
    assert 0.2 in periods


def test_residuals_show_the_corner_and_every_system():
    curves = {name: {"bias": [0.1, -9.0], "sd": [0.2, 1.0]} for name in "ab"}
    figure = residuals(curves, [1.0, 10.0], "fas", corner=1.0)
    axis = figure.axes[0]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["a", "b"]
    assert axis.get_ylim() == (-3, 3)
    # Two systems, the zero line and the corner.
    assert len(axis.lines) == 4
    assert len(residuals(curves, [0.1, 1.0], "psa").axes[0].lines) == 3


def test_refuses_shapes_that_do_not_fit(tmp_path):
    with pytest.raises(ConfigError, match=r"samples \(3, 199, 2\)"):
        draw(samples=motion(3, 199, 2))
    with pytest.raises(ConfigError, match=r"observed \(200, 1\)"):
        draw(observed=motion(200, 1))
    with pytest.raises(ConfigError, match="1 names for 2 components"):
        draw(components=["Z"])
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        draw(tmp_path / "file" / "x.png")
