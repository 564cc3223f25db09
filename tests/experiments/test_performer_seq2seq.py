import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import config_file, performer_common, performer_seq2seq, settings
from jaxmodels.data import generated
from jaxmodels.train import loop, model_file, sharding

SMALL = {
    "data.dataset": "reverse/6",
    "data.source_length": 6,
    "data.target_length": 7,
    "data.batch_size": 8,
    "model.max_length": 8,
    "eval.num_batches": 2,
    "optimizer.warmup_steps": 0,
    "optimizer.learning_rate": 1e-2,
} | {
    f"model.{side}.{name}": value
    for side in ("encoder", "decoder")
    for name, value in dict(embed_dim=8, num_heads=2, mlp_dim=16, num_layers=1).items()
}


def small_config():
    """The tiny config, smaller."""
    config, _ = config_file.load("configs/performer/seq2seq.py:tiny")
    config.update_from_flattened_dict(SMALL)
    return config


@pytest.fixture
def parts():
    return small_config()


def make_batch(rng, rows=8, source_length=6, target_length=7):
    source = jax.random.randint(rng, (rows, source_length), 97, 123)
    padding = target_length - source_length
    targets = jnp.pad(source[:, ::-1], ((0, 0), (0, padding)))
    weights = jnp.ones((rows, target_length))
    return {
        "source": source,
        "source_mask": jnp.ones((rows, source_length), bool),
        "inputs": jnp.pad(targets[:, :-1], ((0, 0), (1, 0))),
        "targets": targets,
        "weights": weights,
        "target_bytes": weights,
    }


def start(config):
    task = performer_seq2seq.make_task(config)
    return task, jax.jit(task.init)(jax.random.key(0))


def evaluate(task, state, batch):
    return task.summarize(jax.jit(task.eval_step)(state, batch, jax.random.key(0)))


def test_padding_and_what_it_holds_change_no_metric(parts):
    task, state = start(parts)
    # Blocks start as the identity; a trained one mixes what it reads.
    noise = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: x + 0.3 * noise.standard_normal(x.shape, np.float32), state.params
    )
    state = state.replace(params=params)
    batch = make_batch(jax.random.key(1))
    batch["source_mask"] = batch["source_mask"].at[:, 4:].set(False)
    batch["weights"] = batch["weights"].at[:, 5:].set(0.0)
    other = dict(batch, source=batch["source"].at[:, 4:].set(7))
    other["targets"] = batch["targets"].at[:, 5:].set(9)
    other["inputs"] = batch["inputs"].at[:, 6:].set(3)
    assert evaluate(task, state, batch) == evaluate(task, state, other)
    seen = dict(batch, source=batch["source"].at[:, 3].set(7))
    assert evaluate(task, state, batch) != evaluate(task, state, seen)


@functools.cache
def run(kind):
    """Metrics before and after four updates, and the projections before each."""
    config = small_config()
    config.loss.feature_redraw_interval = 2
    if kind == "softmax":
        config.model.encoder.attention.kind = kind
        config.model.decoder.attention.kind = kind
        config.model.decoder.cross_attention.kind = kind
    task, state = start(config)
    batch, step = make_batch(jax.random.key(1)), jax.jit(task.train_step)
    values, projections = [evaluate(task, state, batch)], []
    for index in range(4):
        leaves = jax.tree.leaves(state.collections["model"].get("projections", {}))
        projections.append([np.asarray(leaf) for leaf in leaves])
        state, _ = step(state, batch, jax.random.key(index))
    return [*values, evaluate(task, state, batch)], projections


@pytest.mark.parametrize(
    "kind", ["linear", pytest.param("softmax", marks=pytest.mark.slow)]
)
def test_the_loss_falls_with_linear_and_with_softmax_attention(kind):
    (before, after), _ = run(kind)
    assert after["loss"] < before["loss"] - 0.05
    assert 0.0 <= after["sequence_accuracy"] <= after["token_accuracy"] <= 1.0


def test_projections_are_drawn_anew_at_each_interval():
    _, found = run("linear")
    assert len(found[0]) == 3  # encoder, decoder and its reading of the source
    same = [
        [np.array_equal(*pair) for pair in zip(*steps, strict=True)]
        for steps in zip(found, found[1:], strict=False)
    ]
    assert same == [[True] * 3, [True] * 3, [False] * 3]  # updates 0, 1, 2


def test_redraws_have_keys_that_the_run_does_not_use_elsewhere():
    used = {*map(key_of, loop.keys(3))}
    used |= {
        key_of(jax.random.fold_in(rng, n)) for rng in loop.keys(3) for n in range(9)
    }
    used |= {key_of(jax.random.fold_in(jax.random.key(3), n)) for n in range(9)}
    drawn = {key_of(performer_common.redraw_key(3, step)) for step in range(9)}
    assert len(drawn) == 9 and not drawn & used


def key_of(rng):
    return tuple(jax.random.key_data(rng).tolist())


def losses_on(shape, config):
    """Losses of the first updates on a mesh of the shape."""
    task = performer_seq2seq.make_task(config)
    devices = jax.devices()[: math.prod(shape)]
    mesh = sharding.make_mesh(*shape, devices=devices)
    init_rng, train_rng, _ = loop.keys(0)
    found = []
    with loop.on_mesh(mesh):
        jitted = loop.programs(task, mesh)
        state = jitted.init(init_rng)
        for index in range(3):
            batch = make_batch(jax.random.key(index), target_length=8)
            batch = jax.device_put(batch, sharding.batch_sharding(mesh))
            state, metrics = jitted.train_step(state, batch, train_rng)
            total, count = jax.block_until_ready(metrics["loss"])
            found.append(float(total) / float(count))
    return found


@pytest.mark.slow
def test_a_mesh_that_cuts_the_lengths_gives_the_losses_of_one_device(parts):
    shape = (2, 1, 2, 2)
    parts.data.target_length = 8
    parts.mesh = dict(zip(sharding.AXES, shape, strict=True))
    assert settings.check_devices(parts, 8) == []
    np.testing.assert_allclose(
        losses_on(shape, parts), losses_on((1, 1, 1, 1), parts), rtol=1e-5
    )


def test_the_smoothing_of_the_config_reaches_the_loss(parts, monkeypatch):
    shares, true_loss = [], performer_seq2seq.sequence_loss

    def loss(*arguments):
        shares.append(arguments[-1])
        return true_loss(*arguments)

    monkeypatch.setattr(performer_seq2seq, "sequence_loss", loss)
    parts.loss.label_smoothing = 0.1
    task = performer_seq2seq.make_task(parts)
    state = jax.eval_shape(task.init, jax.random.key(0))
    batch = performer_seq2seq.abstract_batch(parts)
    jax.eval_shape(task.train_step, state, batch, jax.random.key(0))
    assert set(shares) == {0.1}


def test_a_model_of_two_widths_and_kinds_is_rebuilt_from_its_file(parts, tmp_path):
    parts.model.source_vocab_size = 50
    parts.model.encoder.embed_dim = 4
    parts.model.decoder.attention.kind = "softmax"
    model = performer_seq2seq.make_model(parts)
    model_file.write(tmp_path, {"model": model}, {"kind": "pairs"})
    networks, _ = model_file.read(tmp_path)
    assert networks["model"] == model
    assert networks["model"].encoder.embed_dim == 4


def test_the_data_yields_the_abstract_batch(parts, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    prepare = generated.prepare
    monkeypatch.setattr(
        generated, "prepare", lambda *args: prepare(*args, num_pairs=300)
    )
    data = performer_seq2seq.make_data(parts)
    abstract = performer_seq2seq.abstract_batch(parts)
    for read in (data.train, data.eval):
        batch = read(0, 0, 1)
        assert {name: (x.shape, x.dtype) for name, x in batch.items()} == {
            name: (x.shape, x.dtype) for name, x in abstract.items()
        }


@pytest.mark.parametrize(
    "path, value, message",
    [
        ("model.encoder.embed_dim", 9, "encoder: embed_dim 9 is not divisible by num_"),
        ("model.decoder.attention.kind", "linear", "decoder: "),
        ("model.encoder.attention.kind", "sotfmax", "attention kind 'sotfmax'"),
        ("data.source_length", 9, "data.source_length 9 is longer than model.max_len"),
        ("data.target_length", 9, "data.target_length 9 is longer than model.max_len"),
        ("model.vocab_size", 300, "vocab_size is 300, but there are 256 bytes"),
        ("model.source_vocab_size", 300, "but source_vocabulary is None: one"),
        ("data.source_vocabulary", "sentencepiece", "the source's vocabulary"),
    ],
)
def test_a_config_that_contradicts_itself_is_told_so(parts, path, value, message):
    parts.update_from_flattened_dict({path: value})
    lines = performer_seq2seq.check(parts)
    assert [line for line in lines if message in line], lines


@pytest.mark.parametrize(
    "path, name, message",
    [
        ("model", "num_layer", "model.num_layer is no field of model"),
        ("model.encoder", "embed_dims", "(did you mean 'embed_dim'?)"),
        ("model.decoder.cross_attention", "kinds", "(did you mean 'kind'?)"),
        ("data", "source_lenght", "(did you mean 'source_length'?)"),
        ("loss", "smoothing", "loss.smoothing is no field of loss"),
    ],
)
def test_a_field_that_the_code_does_not_have_is_one_line(parts, path, name, message):
    section = parts
    for part in path.split("."):
        section = section[part]
    with parts.unlocked():
        section[name] = 3
    (line,) = performer_seq2seq.check(parts)
    assert message in line


def test_a_field_that_lacks_is_one_line(parts):
    with parts.unlocked():
        del parts.model.decoder.cross_attention
        del parts.data.dataset
    lines = performer_seq2seq.check(parts)
    assert lines == ["data has no field 'dataset'"]
    with parts.unlocked():
        parts.data.dataset = "copy"
    (line,) = performer_seq2seq.check(parts)
    assert "decoder: cross_attention is missing" in line
