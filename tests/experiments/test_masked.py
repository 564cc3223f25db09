import chex
import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from experiments import masked
from jaxmodels.train import model_file
from tests.experiments import seismic_parts


@pytest.fixture
def parts():
    return seismic_parts.load("masked", {"loss.mask_length": 2})


@pytest.fixture(scope="module")
def started():
    parts = seismic_parts.load("masked", {"loss.mask_length": 2})
    return seismic_parts.start(masked, parts)


def with_decoder(state, scale):
    """The state with a decoder of zeros, which predicts 0 for everything."""
    params = {**state.params["model"]}
    params["decoder"] = jax.tree.map(lambda x: scale * x, params["decoder"])
    return state.replace(params={"model": params})


def test_a_decoder_of_zeros_is_as_good_as_the_mean(started):
    state = with_decoder(started.state, 0.0)
    values = started.evaluate(seismic_parts.waveforms(), state)
    assert values["loss"] == pytest.approx(values["mean_loss"], rel=1e-6)
    assert 0.5 < values["mean_loss"] < 1.0  # near 1 where the waveform moves
    assert values["coverage"] == 0.75 and values["token_std"] > 0


def test_a_straight_line_is_what_interpolation_finds(started):
    line = jnp.linspace(-1.7, 1.7, 64)[None, :, None] * jnp.array([1.0, -1.0, 0.5])
    batch = {"inputs": jnp.repeat(line, 4, axis=0), "weights": jnp.ones(4)}
    values = started.evaluate(batch)
    # Spans that reach an end of the window go on level, which is no line.
    assert values["interpolation_loss"] < 0.3 * values["mean_loss"]


def test_evaluation_leaves_out_the_frames_that_a_visible_one_sees_into(started):
    batch = seismic_parts.waveforms()
    _, trained = started.train(started.state, batch, 0)
    held_out = started.measure(started.state, batch, 0)
    assert trained["loss"][1] == 4 * 12
    assert 4 * 6 <= held_out["loss"][1] < 4 * 12
    for name in ("mean_loss", "interpolation_loss"):
        assert held_out[name][1] == held_out["loss"][1] and name not in trained


@pytest.mark.slow
def test_of_tokens_the_mean_is_that_of_all_frames(parts):
    parts.loss.target = "tokens"
    started = seismic_parts.start(masked, parts)
    assert started.state.params["model"]["decoder"]["kernel"].shape == (8, 8)
    values = started.evaluate(seismic_parts.waveforms())
    # What is left of the tokens is their variance, about their spread squared.
    assert values["mean_loss"] == pytest.approx(values["token_std"] ** 2, rel=0.5)
    assert "interpolation_loss" not in values


def test_a_record_without_weight_changes_no_metric(started):
    first, second = seismic_parts.without_last(seismic_parts.waveforms())
    chex.assert_trees_all_close(
        started.evaluate(first), started.evaluate(second), rtol=1e-5
    )


def test_the_model_comes_back_from_its_file(parts, tmp_path):
    model = masked.make_model(parts)
    model_file.write(tmp_path, {"model": model}, {})
    networks, _ = model_file.read(tmp_path)
    assert networks["model"] == model


def test_the_config_has_nothing_wrong(parts):
    assert masked.check(parts) == []


@pytest.mark.parametrize(
    "path, value, message",
    [
        ("loss.target", "row", "loss.target 'row' is none of raw, tokens_sg, tokens"),
        ("loss.mask_rule", "exat", "loss: unknown rule 'exat'"),
        ("model.encoder.mask_token", "one", "model: unknown mask_token 'one'"),
        (
            "model.encoder.padding",
            "same",
            "model.encoder.padding is no field of model.",
        ),
        ("model.head", 3, "model.head is no field of model"),
        ("data.num_samples", 66, "data.num_samples 66 is no multiple of the 4 samples"),
    ],
)
def test_a_config_that_contradicts_itself_is_one_line(parts, path, value, message):
    parts.update_from_flattened_dict({path: value})
    (line,) = masked.check(parts)
    assert message in line


def test_an_encoder_with_fewer_frames_than_patches_is_refused(parts):
    fields = dict(kind="conv_down", conv_channels=(8, 8), padding="valid")
    parts.model.encoder = ConfigDict(fields)
    (line,) = masked.check(parts)
    assert "makes 15 frames of 64 samples, and patches are 16; set its padding" in line
    parts.model.encoder.padding = "same"
    assert masked.check(parts) == []


def test_an_encoder_whose_visible_frames_see_into_hidden_ones_is_refused(parts):
    fields = dict(kind="conv_down", conv_channels=(8, 8), kernel_size=3, dilation=1)
    parts.model.encoder = ConfigDict(fields)
    assert masked.check(parts) == []
    for changed in (dict(kernel_size=5), dict(dilation=2)):
        parts.model.encoder = ConfigDict(fields | changed)
        (line,) = masked.check(parts)
        assert "sees 6 samples to a side of a frame" in line
        assert "set its kernel_size to 3 and its dilation to 1" in line
