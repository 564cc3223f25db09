import json
import math
import resource
import struct

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread
from tensorboardX.proto import event_pb2

from jaxmodels.train import metrics, plot
from jaxmodels.train.errors import StorageError
from jaxmodels.train.metrics import MetricsWriter


def lines(workdir):
    return (workdir / "metrics.jsonl").read_text().splitlines()


def steps(workdir):
    return [json.loads(line)["step"] for line in lines(workdir)]


def events(workdir):
    """Events of all files in the order of their names, by the framing of TFRecord."""
    found = []
    for path in sorted(workdir.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            found.append(event_pb2.Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    return found


def scalars(workdir):
    return [
        (event.step, value.tag, value.simple_value)
        for event in events(workdir)
        for value in event.summary.value
    ]


def write_steps(workdir, numbers, resume_step=0):
    writer = MetricsWriter(workdir, resume_step=resume_step)
    for step in numbers:
        writer.write(step, "train", {"loss": 1.0 / step})
    writer.close()
    return writer


def test_means_divide_sums_by_counts():
    pairs = {"loss": (jnp.array(6.0), jnp.array(4)), "hits": (3, 2)}
    assert metrics.means(pairs) == {"loss": 1.5, "hits": 1.5}


def test_the_mean_of_nothing_is_not_a_number():
    assert math.isnan(metrics.means({"loss": (0.0, 0)})["loss"])


def test_a_metric_that_is_no_pair_of_numbers_is_refused_by_name():
    with pytest.raises(ValueError, match=r"metric confusion has shapes \[\(2, 2\)"):
        metrics.means({"confusion": (jnp.ones((2, 2)), 4)})


def test_metrics_of_ragged_batches_add_up_to_those_of_all_rows():
    values = np.arange(7.0)
    batches = [values[:3], values[3:6], values[6:]]
    totals = {"loss": (0.0, 0)}
    for batch in batches:
        totals = metrics.add(totals, {"loss": (batch.sum(), len(batch))})
    assert metrics.means(totals) == {"loss": values.mean()}


def test_each_write_is_one_json_line_with_step_split_and_values(tmp_path):
    writer = MetricsWriter(tmp_path / "run")
    writer.write(10, "train", {"loss": np.float32(0.5), "skipped": 0})
    writer.write(10, "eval", {"loss": jnp.array(0.25)})
    assert lines(tmp_path / "run") == [
        '{"step": 10, "split": "train", "loss": 0.5, "skipped": 0}',
        '{"step": 10, "split": "eval", "loss": 0.25}',
    ]


def test_values_that_are_not_finite_become_null_and_are_named(tmp_path):
    MetricsWriter(tmp_path).write(
        1, "train", {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.0}
    )
    (line,) = lines(tmp_path)

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    assert json.loads(line, parse_constant=refuse) == {
        "step": 1,
        "split": "train",
        "a": None,
        "b": None,
        "c": None,
        "d": 1.0,
        "not_finite": {"a": "nan", "b": "inf", "c": "-inf"},
    }


def test_a_metric_cannot_hide_the_step(tmp_path):
    with pytest.raises(ValueError, match="metric 'step' would hide that field"):
        MetricsWriter(tmp_path).write(1, "train", {"step": 1.0})


def test_events_hold_the_same_values_under_split_and_name(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.write(10, "train", {"loss": 0.5, "norm": 2.0})
    writer.write(10, "eval", {"loss": 0.25})
    assert events(tmp_path)[0].file_version == "brain.Event:2"
    assert scalars(tmp_path) == [
        (10, "train/loss", 0.5),
        (10, "train/norm", 2.0),
        (10, "eval/loss", 0.25),
    ]


def test_a_resumed_run_shows_every_step_once(tmp_path):
    write_steps(tmp_path, range(1, 8))
    write_steps(tmp_path, range(5, 10), resume_step=4)
    assert steps(tmp_path) == list(range(1, 10))
    assert [step for step, *_ in scalars(tmp_path)] == list(range(1, 10))
    # A viewer that has read the dropped events forgets them at this mark.
    starts = [e.step for e in events(tmp_path) if e.HasField("session_log")]
    assert starts == [1, 5]


def test_a_run_that_begins_again_leaves_nothing_of_the_one_before(tmp_path):
    write_steps(tmp_path, range(1, 8))
    MetricsWriter(tmp_path)
    assert steps(tmp_path) == []
    assert list(tmp_path.glob("events.out.tfevents.*")) == []


@pytest.mark.parametrize("cut", range(1, 45, 4))
def test_a_torn_end_is_dropped_and_the_rest_kept(tmp_path, cut):
    write_steps(tmp_path, [1, 2, 3])
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-cut])
    write_steps(tmp_path, [3, 4], resume_step=3)
    kept = [1, 2] if cut < len('{"step": 3, "split": "train", "loss": 0.33333}') else []
    assert steps(tmp_path)[: len(kept)] == kept
    assert steps(tmp_path)[-2:] == [3, 4]
    assert [step for step, *_ in scalars(tmp_path)][-2:] == [3, 4]


def test_an_end_that_a_crash_filled_with_zeros_is_dropped(tmp_path):
    write_steps(tmp_path, [1, 2])
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes() + bytes(40))
    write_steps(tmp_path, [3], resume_step=2)
    assert steps(tmp_path) == [1, 2, 3]
    assert [step for step, *_ in scalars(tmp_path)] == [1, 2, 3]


def test_lines_are_dropped_by_replacing_the_file_whole(tmp_path, monkeypatch):
    write_steps(tmp_path, range(1, 8))
    before = (tmp_path / "metrics.jsonl").read_bytes()

    def power_cut(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(metrics.os, "replace", power_cut)
    with pytest.raises(KeyboardInterrupt):
        MetricsWriter(tmp_path, resume_step=3)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_a_workdir_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be cut back to step 0") as raised:
        MetricsWriter(tmp_path / "file" / "run")
    assert "\n" not in str(raised.value)


def test_a_full_disk_costs_one_warning_and_no_line(tmp_path):
    warnings = []
    writer = MetricsWriter(tmp_path, warn=warnings.append)
    writer.write(1, "train", {"loss": 1.0})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    sizes = {path: path.stat().st_size for path in tmp_path.iterdir()}
    try:
        # The next line fits only in part: it must not be torn.
        limit = (tmp_path / "metrics.jsonl").stat().st_size + 10
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        for step in (2, 3, 4):
            writer.write(step, "train", {"loss": 1.0})
        assert {path: path.stat().st_size for path in tmp_path.iterdir()} == sizes
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(warnings) == 2, warnings  # one a file
    assert warnings[0].startswith("warning: metrics.jsonl could not be written: ")
    writer.write(5, "train", {"loss": 1.0})
    writer.close()
    assert steps(tmp_path) == [1, 2, 3, 4, 5]
    assert [step for step, *_ in scalars(tmp_path)] == [1, 2, 3, 4, 5]
    assert len(warnings) == 2


def test_a_plot_that_does_not_fit_leaves_the_one_before(tmp_path):
    warnings = []
    writer = MetricsWriter(tmp_path, warn=warnings.append)
    writer.write(1, "train", {"loss": 1.0})
    writer.plot()
    before = (tmp_path / "loss.png").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        writer.plot()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(warnings) == 1 and "loss.png could not be written" in warnings[0]
    assert (tmp_path / "loss.png").read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def run_records():
    """A loss that falls, with one spike and two values that are not finite."""
    records = []
    for step in range(1, 301):
        loss = 2 + 3 * math.exp(-step / 30)
        loss = {100: 80.0, 150: None, 151: None}.get(step, loss)
        records.append({"step": step, "split": "train", "loss": loss})
        if step % 50 == 0:
            values = {"loss": 2.1, "bits_per_byte": 3.0, "unigram_bits_per_byte": 5.0}
            records.append({"step": step, "split": "eval", **values})
    return records


def test_the_plot_has_a_panel_for_the_loss_and_one_for_what_has_a_baseline():
    baselines = {"unigram_bits_per_byte": 5.0, "chance_accuracy": 0.1}
    figure = plot.curves(run_records(), baselines, title="lm")
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "bits per byte"]
    assert [axes.get_xlabel() for axes in figure.axes] == ["step", "step"]
    labels = [
        [text.get_text() for text in axes.get_legend().get_texts()]
        for axes in figure.axes
    ]
    assert labels[0] == ["train", "held out, last 2.1", "not finite: 2"]
    assert labels[1] == ["held out, last 3", "unigram 5"]
    (line,) = [x for x in figure.axes[1].lines if x.get_label() == "unigram 5"]
    assert set(line.get_ydata()) == {5.0}


def test_a_spike_neither_sets_the_axis_nor_bends_the_smoothed_curve():
    axes = plot.curves(run_records()).axes[0]
    assert axes.get_ylim()[1] < 6
    (smooth,) = [line for line in axes.lines if line.get_label() == "train"]
    near = np.abs(smooth.get_xdata() - 100) < 5
    assert np.all(smooth.get_ydata()[near] < 2.3)


def test_a_baseline_goes_to_the_longest_metric_that_ends_its_name():
    values = {"loss": 1.0, "picking/loss": 2.0, "chance_picking/loss": 3.0}
    records = [{"step": 1, "split": "eval", **values}]
    figure = plot.curves(records, {"chance_picking/loss": 3.0})
    first, second = figure.axes
    assert "chance 3" not in [line.get_label() for line in first.lines]
    assert "chance 3" in [line.get_label() for line in second.lines]


def test_what_is_only_evaluated_and_named_after_a_metric_is_a_line_of_its_panel():
    records = [{"step": step, "split": "train", "loss": 1.0} for step in (1, 2, 3)]
    values = {"loss": 0.9, "mean_loss": 0.8, "accuracy": 0.5}
    records += [{"step": 3, "split": "eval", **values}]
    records += [{"step": 4, "split": "eval", **values, "mean_loss": 0.7}]
    (axes,) = plot.curves(records).axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["train", "held out, last 0.9", "mean 0.7"]


def test_the_image_is_drawn_without_global_state(tmp_path):
    import matplotlib.pyplot

    writer = MetricsWriter(tmp_path / "lm")
    for record in run_records():
        step, split = record.pop("step"), record.pop("split")
        values = {k: math.nan if v is None else v for k, v in record.items()}
        writer.write(step, split, values)
    writer.plot(baselines={"unigram_bits_per_byte": 5.0}, log_x=True)
    image = imread(tmp_path / "lm" / "loss.png")
    assert image.shape[:2] == (504, 1536)
    assert len(np.unique(image.reshape(-1, image.shape[-1]), axis=0)) > 20
    assert matplotlib.pyplot.get_fignums() == []


def test_nothing_is_drawn_before_the_first_loss(tmp_path):
    MetricsWriter(tmp_path).plot()
    assert not (tmp_path / "loss.png").exists()


@pytest.mark.parametrize("values", [[1.0], [None], [1.0, None], [None] * 30])
def test_few_or_no_finite_values_can_be_drawn(values):
    records = [
        {"step": i + 1, "split": "train", "loss": value}
        for i, value in enumerate(values)
    ]
    FigureCanvasAgg(plot.curves(records)).draw()
