import math

import chex
import jax
import jax.numpy as jnp
import pytest

from experiments import contrastive
from jaxmodels.layers.span_masks import expected_coverage
from jaxmodels.train import metrics, model_file
from tests.experiments import seismic_parts


def make_parts(**changes):
    changes = {"loss.num_negatives": 5, "loss.mask_length": 2, **changes}
    config = seismic_parts.load("contrastive", changes)
    config.model.quantizer.update(dict(num_codes=4, code_dim=4))
    config.model.projection_dim = 4
    config.num_steps = 100
    return config


@pytest.fixture
def parts():
    return make_parts()


@pytest.fixture(scope="module")
def started():
    return seismic_parts.start(contrastive, make_parts())


def test_the_loss_is_the_cross_entropy_and_the_diversity_of_its_codes(started, parts):
    values = started.evaluate(seismic_parts.waveforms())
    diversity = 1 - values["perplexity"] / 8  # of 2 groups of 4 codes
    wanted = values["contrastive"] + parts.loss.diversity_weight * diversity
    assert values["loss"] == pytest.approx(wanted, rel=1e-5)
    # One of at most six is right by chance.
    assert 0 < values["contrastive"] < 1.5 * math.log(6)
    assert 2 <= values["perplexity"] <= 8 and 0 < values["code_usage"] <= 1


def test_codes_are_counted_over_batches_and_not_averaged(started):
    """The perplexity of two batches is that of all their frames together."""
    batch = seismic_parts.waveforms()
    first, second = (started.measure(started.state, batch, n) for n in (0, 1))
    both = metrics.add(first, second)
    total, count = both[contrastive.SHARES]
    wanted = first[contrastive.SHARES][0] + second[contrastive.SHARES][0]
    chex.assert_trees_all_close(total, wanted)
    by_hand = sum(
        math.exp(-sum(x * math.log(x) for x in row if x > 0))
        for row in (total / count).tolist()
    )
    values = started.task.summarize(both)
    assert values["perplexity"] == pytest.approx(by_hand, rel=1e-4)


def test_a_record_without_weight_changes_no_metric(started):
    first, second = seismic_parts.without_last(seismic_parts.waveforms())
    chex.assert_trees_all_close(
        started.evaluate(first), started.evaluate(second), rtol=1e-5
    )


@pytest.mark.slow
def test_the_temperature_of_an_update_is_that_of_its_number(started, parts):
    """It scales the gradient that goes through the codes, and no forward value."""
    start, end = (float(contrastive.temperature(n, parts)) for n in (0, 100))
    assert (start, end) == pytest.approx((2.0, 0.5))
    found, batch = [], seismic_parts.waveforms()
    for number in (0, 90):
        state = started.state.replace(step=started.state.step + number)
        _, totals = started.train(state, batch, 3)
        found.append(started.task.summarize(totals))
    first, last = found
    assert first["loss"] == pytest.approx(last["loss"], rel=1e-5)
    assert abs(first["grad_norm"] / last["grad_norm"] - 1) > 1e-3


def test_the_temperature_may_fall_by_a_factor_an_update(parts):
    parts.loss.update(dict(gumbel_schedule="exponential", gumbel_decay=0.9))
    found = [float(contrastive.temperature(n, parts)) for n in (0, 2, 99)]
    assert found == pytest.approx([2.0, 2.0 * 0.81, 0.5])


def test_channels_are_hidden_in_training_alone(started):
    changed = make_parts(
        **{"loss.mask_channel_prob": 0.5, "loss.mask_channel_length": 2}
    )
    model, waveform = contrastive.make_model(changed), jnp.zeros((3, 64, 3))
    rngs = jax.random.split(jax.random.key(0))
    trained, held_out = (
        contrastive.draw_masks(*rngs, changed, model, waveform, train)
        for train in (True, False)
    )
    assert trained["channel_mask"].shape == (3, 8) and trained["channel_mask"].any()
    assert set(held_out) == {"span_mask"} and held_out["span_mask"].shape == (3, 16)


def test_the_coverage_is_about_what_the_rule_says(started, parts):
    batch, rule = seismic_parts.waveforms(rows=4), contrastive.spans(parts)
    found = [started.evaluate(batch, seed=n)["coverage"] for n in range(8)]
    wanted = expected_coverage(16, **rule)
    assert sum(found) / len(found) == pytest.approx(wanted, abs=0.06)


def test_the_model_comes_back_from_its_file(parts, tmp_path):
    model = contrastive.make_model(parts)
    model_file.write(tmp_path, {"model": model}, {})
    networks, _ = model_file.read(tmp_path)
    assert networks["model"] == model


def test_the_config_has_nothing_wrong(parts):
    assert contrastive.check(parts) == []


@pytest.mark.parametrize(
    "path, value, message",
    [
        ("model.encoder.kind", "conv_dwn", "(did you mean 'conv_down'?)"),
        (
            "model.encoder.embed_dim",
            8,
            "model.encoder.embed_dim is no field of model.e",
        ),
        ("model.backbone.blocks", 2, "model.backbone.blocks is no field of model.back"),
        ("model.quantizer.codes", 2, "model.quantizer.codes is no field of model.quan"),
        ("model.projection_dims", 2, "(did you mean 'projection_dim'?)"),
        ("model.quantizer.code_dim", 5, "code_dim 5 is not divisible by num_groups 2"),
        ("loss.negatives", 5, "loss.negatives is no field of loss"),
        ("loss.mask_rule", "wav2vec", "loss: unknown rule 'wav2vec'"),
        ("loss.mask_length", 17, "loss: mask_length 17 must be at least 1 and at most"),
        ("loss.mask_channel_length", 9, "channels: mask_length 9 must be at least 1"),
        ("loss.perplexity_over", "all", "loss.perplexity_over 'all' is none of masked"),
        ("loss.gumbel_schedule", "sine", "'sine' is none of cosine, exponential"),
        ("loss.gumbel_decay", 1.5, "decay 1.5 must be above 0 and at most 1"),
        ("loss.temperature", 0.0, "loss.temperature 0.0 must be above 0"),
        ("loss.num_negatives", 0, "loss.num_negatives 0 must be above 0"),
        ("data.normalization", "sdt", "data: normalization 'sdt' is none of std, peak"),
        ("data.nois", 1, "data.nois is no field of data (did you mean 'noise'?)"),
    ],
)
def test_a_config_that_contradicts_itself_is_one_line(parts, path, value, message):
    parts.loss.update(dict(mask_channel_prob=0.1, mask_channel_length=2))
    parts.update_from_flattened_dict({path: value})
    (line,) = contrastive.check(parts)
    assert message in line
