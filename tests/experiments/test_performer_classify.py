import math

import jax
import jax.numpy as jnp
import pytest

from experiments import config_file, performer_classify
from jaxmodels.data import listops

FILE = "configs/performer/classify.py:tiny"


@pytest.fixture
def parts(tmp_path_factory, monkeypatch):
    """The tiny config, made smaller still."""
    data = tmp_path_factory.getbasetemp() / "tensorflow_datasets"
    monkeypatch.setenv("TFDS_DATA_DIR", str(data))
    config, _ = config_file.load(FILE)
    config.unlock()
    config.update_from_flattened_dict(
        {
            "model.embed_dim": 8,
            "model.num_heads": 2,
            "model.mlp_dim": 16,
            "model.max_length": 16,
            "data.length": 16,
            "data.batch_size": 4,
            "data.listops.max_tokens": 15,
            "data.listops.num_train": 20,
            "data.listops.num_held_out": 6,
            "eval.num_batches": 2,
        }
    )
    return config


def start(config):
    task = performer_classify.make_task(config)
    return task, jax.jit(task.init)(jax.random.key(0))


def evaluate(task, state, batch):
    return task.summarize(jax.jit(task.eval_step)(state, batch, jax.random.key(0)))


def make_batch(rows=4, length=16):
    ids = jax.random.randint(jax.random.key(1), (rows, length), 1, 16)
    mask = jnp.arange(length) < jnp.array([[16], [9], [4], [1]])
    return {
        "inputs": ids * mask,
        "mask": mask,
        "targets": jnp.array([3, 1, 4, 1]),
        "weights": jnp.ones(rows),
    }


def test_an_untrained_model_is_as_good_as_a_guess(parts):
    # Each text once with each label, so that no label is likelier than another.
    batch = jax.tree.map(lambda x: jnp.repeat(x, 10, axis=0), make_batch())
    batch["targets"] = jnp.tile(jnp.arange(10), 4)
    values = evaluate(*start(parts), batch)
    assert set(values) == {"loss", "accuracy"}
    assert values["accuracy"] == pytest.approx(0.1)
    # Normal logits cost s^2 / 2 nats more than equal ones, and s is at most 1 here.
    assert math.log(10) < values["loss"] < math.log(10) + 0.5


def test_what_padding_holds_changes_no_metric(parts):
    task, state = start(parts)
    batch = make_batch()
    other = batch | {"inputs": jnp.where(batch["mask"], batch["inputs"], 7)}
    assert evaluate(task, state, batch) == evaluate(task, state, other)


def test_a_text_without_weight_changes_no_metric(parts):
    task, state = start(parts)
    batch = make_batch()
    batch["weights"] = batch["weights"].at[-1].set(0.0)
    other = batch | {"targets": batch["targets"].at[-1].set(9)}
    assert evaluate(task, state, batch) == evaluate(task, state, other)


def test_smoothing_changes_what_an_update_computes(parts):
    def program(share):
        parts.loss.label_smoothing = share
        task = performer_classify.make_task(parts)
        state = jax.eval_shape(task.init, jax.random.key(0))
        return jax.make_jaxpr(task.train_step)(state, make_batch(), jax.random.key(0))

    assert str(program(0.0)) == str(program(0.0)) != str(program(0.5))


def test_the_data_holds_expressions_with_their_values(parts):
    data = performer_classify.make_data(parts)
    vocab = listops.listops_vocabulary()
    batch = data.train(0, 0, 1)
    for ids, target in zip(batch["inputs"], batch["targets"], strict=True):
        assert listops.evaluate(vocab.decode(ids)) == target
    assert data.num_eval_batches == 2
    assert 0.0 <= data.baselines["majority_accuracy"] < 1.0


def test_the_config_has_nothing_wrong(parts):
    assert performer_classify.check(parts) == []


@pytest.mark.parametrize(
    "path, value, message",
    [
        ("model.num_heads", 3, "model: embed_dim 8"),
        ("model.pooling", "max", "model: unknown pooling 'max'"),
        ("model.max_length", 8, "data.length 16 is longer than model.max_length 8"),
        ("model.vocab_size", 17, "data: vocab_size is 17, but ListOps has 16 ids"),
        ("data.vocabulary", "bytes", "data: vocab_size is 16, but there are 256 bytes"),
        ("data.listops.max_args", 1, "data: listops: max_args 1 must be at least 2"),
        ("model.attention.kind", "causal_linear", "model: "),
    ],
)
def test_a_config_that_contradicts_itself_is_one_line(parts, path, value, message):
    parts.update_from_flattened_dict({path: value})
    (line,) = performer_classify.check(parts)
    assert message in line


@pytest.mark.parametrize(
    "section, name, message",
    [
        ("model", "num_class", "(did you mean 'num_classes'?)"),
        ("data", "label_feild", "(did you mean 'label_field'?)"),
        ("loss", "smoothing", "loss.smoothing is no field of loss"),
    ],
)
def test_a_field_that_the_code_does_not_have_is_one_line(parts, section, name, message):
    parts[section][name] = 3
    (line,) = performer_classify.check(parts)
    assert message in line


def test_fields_that_lack_are_one_line_each(parts):
    del parts.data.dataset
    del parts.model.num_classes
    assert performer_classify.check(parts) == [
        "model has no field 'num_classes'",
        "data has no field 'dataset'",
    ]
