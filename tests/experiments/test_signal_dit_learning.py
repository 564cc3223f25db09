"""What `configs/seismic/signal_dit.py:tiny` has to be able to learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import config_file, signal_dit
from jaxmodels.data import ground_motions
from jaxmodels.data.broadband import Preprocessing
from jaxmodels.diffusion import samplers
from jaxmodels.metrics import ground_motion, spectra
from jaxmodels.signal import filters

RECORDS, UPDATES = 8, 1600


@pytest.fixture(scope="module")
def config():
    config, _ = config_file.load("configs/seismic/signal_dit.py:tiny")
    config.num_steps = UPDATES
    config.optimizer.learning_rate = 4e-3
    config.optimizer.ema_decay = 0.98
    config.loss.condition_dropout = 0.0
    return config


@pytest.fixture(scope="module")
def data(tmp_path_factory, config):
    return ground_motions.ground_motion_data(
        "synthetic_motions",
        sampling_rate=config.data.sampling_rate,
        num_samples=config.model.num_samples,
        channels=config.model.channels,
        corner=config.data.corner,
        batch_size=RECORDS,
        augment=False,
        synthetic=dict(num_records=RECORDS, num_held_out=RECORDS),
        data_dir=tmp_path_factory.mktemp("tfds"),
    )


@pytest.fixture(scope="module")
def trained(config, data):
    """The task and its state, trained on the same 8 windows, each twice a batch."""
    task = signal_dit.make_task(config)
    state, batch = jax.jit(task.init)(jax.random.key(0)), data.train(0, 0, 1)
    repeats = config.data.batch_size // RECORDS
    full = {name: np.repeat(x, repeats, axis=0) for name, x in batch.items()}
    step = jax.jit(task.train_step, donate_argnums=0)
    for index in range(UPDATES):
        state, _ = step(state, full, jax.random.fold_in(jax.random.key(1), index))
    return task, state, batch


def draw(config, state, batch):
    """One sample of each record, normalized, [B, N, C]."""
    model, process = signal_dit.make_model(config), signal_dit.make_process(config)
    variables = {"params": state.ema["model"]}
    run = jax.jit(model.apply, static_argnames="method")
    condition, scalars = batch["condition"], batch["scalars"]
    context = run(variables, condition, scalars, method="encode")

    def predict(noisy, time):
        return run(variables, noisy, time, scalars, context, method="decode")

    ddim = samplers.make_sampler("ddim", process, 25)
    return samplers.sample(ddim, predict, jax.random.key(2), condition.shape)


@pytest.mark.slow
def test_eight_records_are_learned_by_heart(config, data, trained):
    _, state, batch = trained
    batch = {name: jnp.asarray(x) for name, x in batch.items()}
    own = Preprocessing.from_json(data.preprocessing)
    rate, (corner, _) = own.sampling_rate, own.corners
    size = 10.0 ** np.asarray(batch["scalars"][:, 0], np.float64)[:, None, None]
    ratio = 10.0 ** np.asarray(batch["amplitude"], np.float64)[:, None, None]
    observed = np.asarray(batch["targets"]) * size * ratio
    low = np.asarray(batch["condition"]) * size
    estimate = np.asarray(draw(config, state, batch)) * size * ratio
    merged = filters.complementary_merge(estimate, low, rate, corner, iterations=8)
    centers = spectra.resolved_centers(own.num_samples, rate)
    distances, correlations = [], []
    for made, truth in zip(merged, observed, strict=True):
        distances.append(spectra.log_spectral_distance(made, truth, rate, centers))
        correlations.append(
            ground_motion.envelope_correlation(made, truth, rate, corner)
        )
    print(f"LSD {np.mean(distances):.3f}, envelopes {np.mean(correlations):.3f}")
    assert np.mean(distances) <= 0.25
    assert np.mean(correlations) >= 0.85


@pytest.mark.slow
def test_the_amplitude_of_records_is_better_than_a_constant(trained):
    task, state, batch = trained
    values = task.summarize(jax.jit(task.eval_step)(state, batch, jax.random.key(3)))
    print(values)
    assert values["amplitude_rmse"] <= 0.8 * values["amplitude_constant_rmse"]
