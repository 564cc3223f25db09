import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import config_file, signal_dit
from jaxmodels.data.pipeline import Data
from jaxmodels.diffusion import process

FILE = "configs/seismic/signal_dit.py:tiny"


@pytest.fixture
def parts():
    """The tiny config, made smaller still."""
    config, _ = config_file.load(FILE)
    config.unlock()
    config.update_from_flattened_dict(
        {
            "model.num_samples": 32,
            "model.patch_size": 4,
            "model.embed_dim": 8,
            "model.num_heads": 2,
            "model.mlp_dim": 16,
            "model.encoder_layers": 1,
            "model.decoder_layers": 1,
            "data.batch_size": 4,
            "optimizer.ema_decay": 0.0,
            "optimizer.warmup_steps": 0,
            "optimizer.learning_rate": 1e-2,
        }
    )
    return config


def start(config):
    task = signal_dit.make_task(config)
    return task, jax.jit(task.init)(jax.random.key(0))


def train(config, num_steps, batch=None):
    task, state = start(config)
    step, batch = jax.jit(task.train_step), make_batch() if batch is None else batch
    for index in range(num_steps):
        state, totals = step(state, batch, jax.random.key(index))
    return task, state, totals


def evaluate(task, state, batch, seed=0):
    return task.summarize(jax.jit(task.eval_step)(state, batch, jax.random.key(seed)))


def make_batch(rows=4, samples=32, channels=3):
    keys = jax.random.split(jax.random.key(1), 3)
    condition = jax.random.normal(keys[0], (rows, samples, channels))
    noise = jax.random.normal(keys[1], (rows, samples, channels))
    scalars = jnp.stack([jnp.linspace(-2.0, 1.0, rows), jnp.zeros(rows)], axis=1)
    return {
        "targets": 0.9 * condition + 0.4 * noise,
        "condition": condition,
        "scalars": scalars,
        "amplitude": 0.3 - 0.2 * scalars[:, 0],
        "weights": jnp.ones(rows),
    }


def test_the_loss_of_an_untrained_model_is_the_mean_square_of_the_velocity(parts):
    task, state = start(parts)
    batch, rng = make_batch(), jax.random.key(7)
    values = task.summarize(jax.jit(task.eval_step)(state, batch, rng))
    noise_rng, _ = jax.random.split(rng)
    velocity = process.cosine()
    zero, _ = process.diffusion_loss(
        velocity, lambda noisy, time: 0 * noisy, batch["targets"], noise_rng
    )
    assert values["loss"] == pytest.approx(float(zero.mean()), rel=1e-6)
    # Targets and noise have the same mean square here, and so has the velocity.
    assert values["loss"] == pytest.approx(1.0, abs=0.15)
    assert values["shuffle_gap"] == pytest.approx(0.0, abs=1e-6)


def test_a_model_that_reads_its_condition_loses_by_shuffled_ones(parts):
    parts.num_steps = 60
    task, state, _ = train(parts, 60)
    values = [evaluate(task, state, make_batch(), seed) for seed in range(4)]
    assert min(one["shuffle_gap"] for one in values) > 0.01
    # What is dropped in training is not dropped here, so that the loss is the model's.
    assert np.mean([one["loss"] for one in values]) < 0.9


@pytest.mark.slow
def test_every_parameter_learns_within_three_updates(parts):
    parts.loss.condition_dropout = 0.5
    parts.optimizer.weight_decay = 0.0
    _, first = start(parts)
    batch = make_batch()
    # One number is unknown, for what the model has learned of that.
    batch["scalars"] = batch["scalars"].at[0, 0].set(jnp.nan)
    # Weights of zero let two updates pass before the ones behind them get a gradient.
    _, state, _ = train(parts, 3, batch)
    moved = jax.tree.map(
        lambda old, new: bool(jnp.any(old != new)), first.params, state.params
    )
    chex.assert_trees_all_equal(moved, jax.tree.map(lambda _: True, moved))
    assert state.skips.tolist() == [0, 0]


@pytest.mark.slow
def test_what_is_left_out_or_weighted_in_training_is_not_in_evaluation(parts):
    """An option at a time, on the same state, batch and key."""
    _, state, _ = train(parts, 2)
    found, programs = {}, set()
    for option in ({}, {"condition_dropout": 0.9}, {"loss_weight": "min_snr"}):
        parts.loss.update({"condition_dropout": 0.0, "loss_weight": None, **option})
        task, rng = signal_dit.make_task(parts), jax.random.key(3)
        _, totals = jax.jit(task.train_step)(state, make_batch(), rng)
        found[next(iter(option), "plain")] = task.summarize(totals)
        programs.add(str(jax.make_jaxpr(task.eval_step)(state, make_batch(), rng)))
    assert len(programs) == 1
    assert len({values["loss"] for values in found.values()}) == 3
    # The amplitude is of the condition, also where the decoder does not see it.
    assert len({values["amplitude_nll"] for values in found.values()}) == 1


@pytest.mark.slow
def test_a_record_without_weight_changes_no_metric(parts):
    task, state, _ = train(parts, 2)
    batch = make_batch()
    batch["weights"] = batch["weights"].at[-1].set(0.0)
    other = {
        name: x if name == "weights" else x.at[-1].multiply(3.0)
        for name, x in batch.items()
    }
    first, second = (evaluate(task, state, each) for each in (batch, other))
    chex.assert_trees_all_close(first, second, rtol=1e-6)


@pytest.mark.slow
def test_a_shuffled_record_gets_the_condition_from_half_a_batch_away(parts):
    """Rows beside each other may be components of one window."""
    task, state, _ = train(parts, 3)
    batch = make_batch()
    swapped = {name: jnp.roll(x, 2, axis=0) for name, x in batch.items()}
    swapped["targets"] = batch["targets"]
    own, other = (evaluate(task, state, one) for one in (batch, swapped))
    assert own["shuffle_gap"] == pytest.approx(other["loss"] - own["loss"], rel=1e-3)
    alone = {name: x[:1] for name, x in batch.items()}
    _, count = task.eval_step(state, alone, jax.random.key(0))["shuffle_gap"]
    assert count == 0
    assert "shuffle_gap" not in evaluate(task, state, alone)


@pytest.mark.slow
def test_records_are_shuffled_among_those_that_do_not_pad_the_batch(parts):
    task, state, _ = train(parts, 3)
    batch = make_batch()
    batch["weights"] = batch["weights"].at[2:].set(0.0)
    swapped = dict(batch)
    for name in ("condition", "scalars", "amplitude"):
        swapped[name] = batch[name].at[:2].set(batch[name][1::-1])
    own, other = (evaluate(task, state, one) for one in (batch, swapped))
    assert own["shuffle_gap"] == pytest.approx(other["loss"] - own["loss"], rel=1e-3)
    swap = signal_dit.half_away(jnp.array([1.0, 1.0, 1.0, 0.0]))
    assert swap.tolist() == [1, 2, 0, 3]


@pytest.mark.slow
def test_amplitudes_that_are_all_alike_are_learned_and_stay_finite(parts):
    """Their likelihood has no upper bound but the one of the head."""
    parts.optimizer.learning_rate = 0.1
    parts.num_steps = 150
    batch = make_batch() | {"amplitude": jnp.zeros(4)}
    task, state, totals = train(parts, 150, batch)
    values = task.summarize(totals)
    assert np.isfinite(values["loss"]) and state.skips.tolist() == [0, 0]
    assert -4.1 < values["amplitude_nll"] < -2.0


def test_options_of_the_process_reach_the_loss_and_the_preprocessing(
    parts, monkeypatch
):
    parts.loss.update({"loss_weight": "min_snr", "options": {"gamma": 2.0}})
    assert signal_dit.check(parts) == []
    assert signal_dit.make_process(parts).gamma == 2.0
    data = Data(None, None, 1, 4, "windows", {}, None, {})
    monkeypatch.setattr(signal_dit.network_task, "make_data", lambda *a, **k: data)
    described = signal_dit.make_data(parts).preprocessing["diffusion"]
    assert described["options"] == {"gamma": 2.0}
    del parts.loss["options"]
    assert "options" not in signal_dit.make_data(parts).preprocessing["diffusion"]


PARTS = {
    "tiny": (229_152, 545_952, 79_166),
    "seed": (2_838_548, 9_466_996, 555_022),
    "seed_literal": (2_838_548, 9_376_696, 555_022),
    "base": (2_850_548, 9_478_996, 567_062),
    "large": (7_117_440, 20_425_344, 854_846),
}


@pytest.mark.parametrize("size", PARTS)
def test_encoder_and_decoder_of_a_config_have_their_shares_of_the_weights(size):
    config, _ = config_file.load(FILE.replace("tiny", size))
    params = jax.eval_shape(signal_dit.make_task(config).init, jax.random.key(0)).params
    counts = {
        name: sum(leaf.size for leaf in jax.tree.leaves(tree))
        for name, tree in params["model"].items()
    }
    parts = counts.pop("encoder"), counts.pop("decoder"), sum(counts.values())
    assert parts == PARTS[size]


def test_the_config_has_nothing_wrong(parts):
    assert signal_dit.check(parts) == []


@pytest.mark.parametrize(
    "path, value, message",
    [
        ("model.num_heads", 3, "model: embed_dim 8"),
        ("model.injection", "add", "model: unknown injection 'add'"),
        ("model.num_scalars", 3, "model.num_scalars 3 must be 2"),
        ("model.patch_size", 5, "model: num_samples 32 is not divisible"),
        ("loss.process", "sine", "loss: unknown process 'sine'"),
        ("loss.parameterization", "noise", "loss: noise prediction"),
        ("loss.loss_weight", "snr", "loss: unknown loss_weight 'snr'"),
        ("loss.process", "edm", "model.time_scale 1000.0 must be 1.0"),
        ("data.amplitude", False, "model.amplitude_head learns from data.amplitude"),
        ("data.normalization", "foo", "data: normalization 'foo' is none of own_std"),
        ("data.corner", (1.0, 40.0), "data: corner (1.0, 40.0) Hz does not lie within"),
        ("data.normalization", "by_x", "leaves nothing for model.amplitude_head"),
        ("model.channels", 2, "data: channels 2 is none of 1, 3"),
        ("loss.options", {"gama": 1.0}, "loss: process 'cosine' has no option 'gama'"),
        ("loss.options", {"process": "edm"}, "loss.options.process is loss.process"),
    ],
)
def test_a_config_that_contradicts_itself_is_one_line(parts, path, value, message):
    parts.update_from_flattened_dict({path: value})
    (line,) = signal_dit.check(parts)
    assert message in line


def test_edm_knows_the_size_of_its_targets(parts):
    parts.update_from_flattened_dict(
        {
            "loss.process": "edm",
            "loss.parameterization": "edm",
            "model.time_scale": 1.0,
            "model.amplitude_head": False,
            "data.normalization": "by_x",
        }
    )
    (line,) = signal_dit.check(parts)
    assert "another standard deviation than the 1 of loss.process 'edm'" in line
    parts.loss.options = {"sigma_data": 3.0}
    assert signal_dit.check(parts) == []
    assert signal_dit.make_process(parts).schedule.data_std == 3.0


@pytest.mark.parametrize(
    "section, name, message",
    [
        ("model", "embed_dims", "(did you mean 'embed_dim'?)"),
        ("data", "cornr", "(did you mean 'corner'?)"),
        ("loss", "dropout", "loss.dropout is no field of loss"),
    ],
)
def test_a_field_that_the_code_does_not_have_is_one_line(parts, section, name, message):
    parts[section][name] = 3
    (line,) = signal_dit.check(parts)
    assert message in line
