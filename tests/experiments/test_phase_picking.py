import functools
import math

import chex
import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from experiments import contrastive, masked, phase_picking
from jaxmodels.data.pick_labels import pick_labels
from jaxmodels.layers.span_masks import mask_spans
from jaxmodels.train import model_file, transfer
from jaxmodels.train.errors import ConfigError
from tests.experiments import seismic_parts

HEAD = {"model.head.head_channels": (4,), "loss.feature_mask_length": 2}
STREAMING = dict(kind="streaming", embed_dim=8, num_layers=1, num_heads=1)
STREAMING |= dict(head_channels=2, dtype="float32", param_dtype="float32")


def make_parts(**changes):
    return seismic_parts.load("phase_picking", {**HEAD, **changes})


@pytest.fixture
def parts():
    return make_parts()


@pytest.fixture(scope="module")
def started():
    return seismic_parts.start(phase_picking, make_parts())


def make_batch(rows=4, samples=64):
    p_sample = jnp.array([10.0, 20.0, 30.0, -1.0])
    s_sample = jnp.array([30.0, -1.0, 50.0, -1.0])
    targets = [
        pick_labels(p, s, samples, sigma=3.0)
        for p, s in zip(p_sample.tolist(), s_sample.tolist(), strict=True)
    ]
    batch = {"targets": jnp.stack(targets), "p_sample": p_sample, "s_sample": s_sample}
    return seismic_parts.waveforms(rows, samples) | batch


@pytest.mark.slow
def test_a_head_of_zeros_gives_all_classes_alike(started):
    params = jax.tree.map(jnp.asarray, started.state.params)
    head = params["model"]["head"]
    head["classes"] = jax.tree.map(jnp.zeros_like, head["classes"])
    values = started.evaluate(make_batch(), started.state.replace(params=params))
    assert values["loss"] == pytest.approx(math.log(3), rel=1e-6)


def test_hits_are_counted_over_the_arrivals_of_rows_with_weight(parts):
    parts.data.sampling_rate = 100.0
    batch = make_batch()
    sure = 20.0 * batch["targets"]
    assert hit_shares(sure, batch, parts) == [1.0, 1.0, 1.0, 1.0]
    late = jnp.roll(sure, 20, axis=1)  # 0.2 s
    assert hit_shares(late, batch, parts) == [0.0, 0.0, 1.0, 1.0]
    # Without the first row, two P and one S are left.
    batch["weights"] = batch["weights"].at[0].set(0.0)
    totals = phase_picking.hits(sure, batch, parts)
    assert [float(totals[f"{phase}_hit_0.5"][1]) for phase in "ps"] == [2, 1]


def hit_shares(logits, batch, config):
    totals = jax.jit(lambda *x: phase_picking.hits(*x, config))(logits, batch)
    names = [f"{phase}_hit_{far}" for far in ("0.1", "0.5") for phase in "ps"]
    assert set(totals) == set(names)
    return [float(totals[name][0] / totals[name][1]) for name in names]


def test_a_record_without_weight_changes_no_metric(started):
    first, second = seismic_parts.without_last(make_batch())
    for name in ("targets", "p_sample"):
        second[name] = second[name].at[-1].set(first[name][0])
    chex.assert_trees_all_close(
        started.evaluate(first), started.evaluate(second), rtol=1e-5
    )


def test_frames_are_hidden_in_training_and_nowhere_else(started, monkeypatch):
    drawn = []

    def record(rng, rows, frames, **fields):
        drawn.append((rows, frames, fields["mask_prob"]))
        return mask_spans(rng, rows, frames, **fields)

    monkeypatch.setattr(phase_picking, "mask_spans", record)
    arguments = started.state, make_batch(), jax.random.key(0)
    jax.eval_shape(started.task.eval_step, *arguments)
    assert not drawn
    jax.eval_shape(started.task.train_step, *arguments)
    assert drawn == [(4, 16, 0.2)]
    plain = phase_picking.make_task(make_parts(**{"loss.feature_mask_prob": 0.0}))
    jax.eval_shape(plain.train_step, *arguments)
    assert len(drawn) == 1


def test_channels_are_hidden_where_the_loss_says_so(parts):
    model, waveform = phase_picking.make_model(parts), jnp.zeros((3, 64, 3))
    draw = functools.partial(phase_picking.draw_masks, jax.random.key(0))
    assert set(draw(parts, model, waveform)) == {"span_mask"}
    changes = {"feature_mask_prob": 0.0, "mask_channel_prob": 0.5}
    parts.loss.update(changes | {"mask_channel_length": 2})
    assert phase_picking.check(parts) == []
    masks = draw(parts, model, waveform)
    assert set(masks) == {"channel_mask"}
    assert masks["channel_mask"].shape == (3, 8) and masks["channel_mask"].any()
    parts.loss.mask_channel_length = 9
    (line,) = phase_picking.check(parts)
    assert "channels: mask_length 9 must be at least 1 and at most the 8" in line


def test_the_baselines_are_those_of_a_random_sample(parts, monkeypatch):
    class Nothing:
        baselines: dict = {}

        def _replace(self, baselines):
            return baselines

    monkeypatch.setattr(
        phase_picking.seismic_networks, "make_data", lambda *_: Nothing()
    )
    parts.data.num_samples = 1010
    baselines = phase_picking.make_data(parts)
    assert baselines["chance_p_hit_0.5"] == pytest.approx(0.1)
    assert baselines["chance_s_hit_0.1"] == pytest.approx(21 / 1010)


@pytest.mark.parametrize(
    "source", ["contrastive", pytest.param("masked", marks=pytest.mark.slow)]
)
def test_encoder_and_backbone_start_from_a_pretrained_run(source, tmp_path):
    experiment = {"contrastive": contrastive, "masked": masked}[source]
    pretraining = seismic_parts.load(source, {"loss.mask_length": 2})
    if source == "contrastive":
        pretraining.loss.num_negatives = 5
    there = seismic_parts.write_run(tmp_path, experiment, pretraining)
    tuned = make_parts()
    if source == "masked":
        fields = dict(kind="bidir_autoreg", mask_token="learned", dropout=0.1)
        tuned.model.encoder = ConfigDict(fields)
    task = phase_picking.make_task(tuned)
    model_file.check_modules(tmp_path, task.networks, phase_picking.PRETRAINED)
    state = jax.jit(task.init)(jax.random.key(0))
    started, lines = transfer.init_from(tmp_path, state, phase_picking.PRETRAINED)
    assert lines == []
    old, new = there.params["model"], started.params["model"]
    for name in ("encoder", "backbone"):
        chex.assert_trees_all_equal(new[name], old[name])
    chex.assert_trees_all_equal(new["head"], state.params["model"]["head"])


def test_an_encoder_of_another_kind_is_refused(parts, tmp_path):
    pretraining = seismic_parts.load("masked", {"loss.mask_length": 2})
    networks = {"model": masked.make_model(pretraining)}
    model_file.write(tmp_path, networks, {})
    task = phase_picking.make_task(parts)
    with pytest.raises(ConfigError, match="model/encoder.* is .* in .* here; give bo"):
        model_file.check_modules(tmp_path, task.networks, phase_picking.PRETRAINED)


def test_the_streaming_picker_is_a_kind_of_model(parts):
    parts.model = ConfigDict(STREAMING)
    assert phase_picking.check(parts) == []
    model = phase_picking.make_model(parts)
    assert (model.channels, model.sampling_rate) == (3, 100.0)
    state = jax.eval_shape(phase_picking.make_task(parts).init, jax.random.key(0))
    assert "encoder" not in state.params["model"]
    parts.pretrained = "runs/c"
    (line,) = phase_picking.check(parts)
    assert "'streaming' has no encoder and no backbone" in line


def test_models_come_back_from_their_files(parts, tmp_path):
    streaming = make_parts()
    streaming.model = ConfigDict(STREAMING)
    for config in (parts, streaming):
        model = phase_picking.make_model(config)
        model_file.write(tmp_path, {"model": model}, {})
        assert model_file.read(tmp_path)[0]["model"] == model


def test_the_config_has_nothing_wrong(parts):
    assert phase_picking.check(parts) == []


@pytest.mark.parametrize(
    "path, value, message",
    [
        ("model.kind", "piker", "model.kind 'piker' is none of picker, streaming"),
        ("model.head.channels", 3, "model.head.channels is no field of model.head"),
        ("model.head.norm", "batch", "model: unknown norm 'batch'"),
        ("model.quantizer", 3, "model.quantizer is no field of model"),
        ("loss.feature_mask", 0.1, "loss.feature_mask is no field of loss"),
        ("loss.feature_mask_length", 17, "loss: mask_length 17 must be at least 1"),
        ("data.corner", 1.0, "data.corner is no field of data"),
        ("data.highpass", 60.0, "data: highpass 60.0 Hz does not lie within"),
    ],
)
def test_a_config_that_contradicts_itself_is_one_line(parts, path, value, message):
    parts.update_from_flattened_dict({path: value})
    (line,) = phase_picking.check(parts)
    assert message in line
