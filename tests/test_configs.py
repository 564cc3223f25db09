"""Every config fits its experiment at every size, and learns at `tiny`."""

import ast
import math
import re
import shlex
import subprocess
import sys

import chex
import jax
import pytest

from experiments import command_line, config_file, fields, settings, sweep, train
from jaxmodels.train import loop, sharding

FILES = config_file.available()
SIZES = [(path, size) for path in FILES for size in config_file.sizes(path)]
# Parameters of every network together.
COUNTS = {
    "configs/performer/classify.py:tiny": 86_922,
    "configs/performer/classify.py:small": 4_726_794,
    "configs/performer/classify.py:medium": 26_244_106,
    "configs/performer/classify.py:large": 203_563_018,
    "configs/performer/lm.py:tiny": 560_640,
    "configs/performer/lm.py:small": 4_273_664,
    "configs/performer/lm.py:medium": 25_337_856,
    "configs/performer/lm.py:large": 201_750_528,
    "configs/performer/seq2seq.py:tiny": 331_520,
    "configs/performer/seq2seq.py:small": 11_629_568,
    "configs/performer/seq2seq.py:medium": 73_226_240,
    "configs/performer/seq2seq.py:large": 486_363_136,
    "configs/performer/summarization.py:tiny": 1_220_096,
    "configs/performer/summarization.py:small": 13_562_880,
    "configs/performer/summarization.py:medium": 64_903_168,
    "configs/performer/summarization.py:large": 469_716_992,
    "configs/seismic/contrastive.py:tiny": 260_784,
    "configs/seismic/contrastive.py:small": 3_575_904,
    "configs/seismic/contrastive.py:base": 11_324_960,
    "configs/seismic/contrastive.py:large": 54_509_600,
    "configs/seismic/contrastive.py:seislm": 11_359_568,  # as SeisLM-base
    "configs/seismic/event_classification.py:tiny": 265_682,
    "configs/seismic/event_classification.py:small": 3_605_218,
    "configs/seismic/event_classification.py:base": 11_033_890,
    "configs/seismic/event_classification.py:large": 54_218_530,
    "configs/seismic/event_classification.py:seislm": 11_069_522,
    "configs/seismic/event_classification.py:masked_tiny": 239_090,
    "configs/seismic/event_classification.py:masked_base": 6_129_378,
    "configs/seismic/event_classification.py:masked_large": 11_906_370,
    "configs/seismic/masked.py:tiny": 224_060,
    "configs/seismic/masked.py:base": 6_045_548,
    "configs/seismic/masked.py:large": 11_822_540,
    "configs/seismic/phase_picking.py:tiny": 259_667,
    "configs/seismic/phase_picking.py:small": 3_564_963,
    "configs/seismic/phase_picking.py:base": 10_975_203,
    "configs/seismic/phase_picking.py:large": 54_159_843,
    "configs/seismic/phase_picking.py:seislm": 11_012_371,
    "configs/seismic/phase_picking.py:masked_tiny": 233_075,
    "configs/seismic/phase_picking.py:masked_base": 6_070_691,
    "configs/seismic/phase_picking.py:masked_large": 11_847_683,
    "configs/seismic/phase_picking.py:streaming": 140_339,
    "configs/seismic/signal_dit.py:tiny": 854_270,
    "configs/seismic/signal_dit.py:seed": 12_860_566,
    "configs/seismic/signal_dit.py:seed_literal": 12_770_266,
    "configs/seismic/signal_dit.py:base": 12_896_606,
    "configs/seismic/signal_dit.py:large": 28_397_630,
}
SEISMIC = "configs/seismic/"
# What makes the data of a tiny config smaller still, where that takes long to make.
FEW = ["--config.data.synthetic.num_records=64"]
SMALLER = {path: FEW for path in FILES if path.startswith(SEISMIC)}
for name in ("contrastive", "masked", "phase_picking"):
    path = f"configs/seismic/{name}.py"
    SMALLER[path] = [*SMALLER[path], "--config.data.batch_size=4"]
# Its networks are those of configs/seismic/phase_picking.py, which compile for long.
AGAIN = "configs/seismic/event_classification.py"
# They take most of a minute or more to compile, and tests/experiments trains their
# networks.
LONG = [
    "configs/performer/seq2seq.py",
    "configs/performer/summarization.py",
    "configs/seismic/contrastive.py",
    "configs/seismic/masked.py",
    "configs/seismic/phase_picking.py",
    "configs/seismic/signal_dit.py",
]
# Sizes whose update is traced every time: of each network the one that a user gets
# without a choice, of the Performers the largest as well. That of `tiny` runs, and of
# others the networks are made alone.
TRACED = [
    *(f"{path}:small" for path in FILES if path.startswith("configs/performer/")),
    *(f"{path}:large" for path in FILES if path.startswith("configs/performer/")),
    "configs/seismic/contrastive.py:base",
    "configs/seismic/masked.py:base",
    "configs/seismic/phase_picking.py:masked_base",
    "configs/seismic/phase_picking.py:streaming",
    "configs/seismic/signal_dit.py:base",
]


def marked(paths, more=()):
    """The paths, those marked slow whose networks other ones have, and `more`."""
    slow = pytest.mark.slow
    return [pytest.param(x, marks=slow) if x in (AGAIN, *more) else x for x in paths]


UPDATES = [
    one if ":".join(one) in TRACED else pytest.param(*one, marks=pytest.mark.slow)
    for one in SIZES
]


def load(path, size, *words):
    """The experiment and the checked config of a command line."""
    words = [f"--config={path}:{size}", "--workdir=unused", *words]
    arguments = command_line.parse(words, train.FLAGS)
    return settings.load_experiment(arguments), arguments.config


def test_there_are_configs():
    assert FILES


def placeholders(section):
    """The references behind all fields without a value."""
    for name, value in section.items():
        if hasattr(value, "items"):
            yield from placeholders(value)
        elif value is None:
            yield section.get_ref(name)


@pytest.mark.parametrize("path", FILES)
def test_no_two_fields_are_one_placeholder(path):
    """One object in two places would be set in both by a flag for one of them."""
    found = list(placeholders(config_file.load(f"{path}:tiny")[0]))
    assert found and len(set(map(id, found))) == len(found)


@pytest.mark.parametrize("path", FILES)
def test_the_docstring_is_a_command_without_errors(path):
    text = (config_file.ROOT / path).read_text()
    commands = re.findall(
        r"^python -m experiments\.train (.+)$", ast.get_docstring(ast.parse(text)), re.M
    )
    assert commands and f"--config={path}:tiny" in commands[0]
    for command in commands:
        settings.load_experiment(command_line.parse(shlex.split(command), train.FLAGS))


@pytest.mark.parametrize("path", FILES)
def test_the_file_is_short_and_has_a_tiny_size_and_a_default(path):
    assert len((config_file.ROOT / path).read_text().splitlines()) <= 80
    sizes = config_file.sizes(path)
    assert "tiny" in sizes and len(sizes) > 1
    default, module = config_file.load(path)
    assert default.to_dict() in [module.get_config(size).to_dict() for size in sizes]


@pytest.mark.parametrize("path", FILES)
def test_every_run_of_the_sweep_is_a_valid_config(path):
    words = [f"--config={path}:tiny", "--workdir=unused"]
    points = sweep.make_points(command_line.parse(words, sweep.FLAGS))
    assert len({point.workdir for point in points}) > 1


@pytest.mark.parametrize("path, size", SIZES)
def test_every_size_has_the_parameters_it_should_have(path, size):
    experiment, config = load(path, size)
    task = experiment.make_task(config)
    state = jax.eval_shape(task.init, jax.random.key(0))
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params))
    assert count == COUNTS[f"{path}:{size}"]


@pytest.mark.parametrize(
    "name", ["contrastive", "phase_picking", "event_classification"]
)
def test_seislm_normalizes_first_and_drops_nothing_in_its_layers(name):
    experiment, config = load(f"{SEISMIC}{name}.py", "seislm")
    backbone = experiment.make_model(config).backbone
    assert backbone.normalize_first and backbone.dropout == 0.0


@pytest.mark.parametrize("name", ["phase_picking", "event_classification"])
def test_every_pretrained_size_has_one_that_starts_from_it(name):
    sizes = config_file.sizes(f"{SEISMIC}{name}.py")
    masked = config_file.sizes(f"{SEISMIC}masked.py")
    wanted = {*config_file.sizes(f"{SEISMIC}contrastive.py")}
    wanted |= {f"masked_{size}" for size in masked}
    assert wanted <= set(sizes)
    for size in wanted:
        _, config = load(f"{SEISMIC}{name}.py", size)
        pretrainer = "masked" if size.startswith("masked_") else "contrastive"
        _, start = load(f"{SEISMIC}{pretrainer}.py", size.removeprefix("masked_"))
        for field in ("embed_dim", "backbone"):
            assert config.model[field] == start.model[field]


@pytest.mark.parametrize("path, size", UPDATES)
def test_the_update_of_every_size_traces(path, size):
    experiment, config = load(path, size)
    task = experiment.make_task(config)
    state = jax.eval_shape(task.init, jax.random.key(0))
    batch = experiment.abstract_batch(config)
    after, metrics = jax.eval_shape(task.train_step, state, batch, jax.random.key(0))
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    assert "loss" in metrics


@pytest.mark.parametrize("path", marked(FILES))
def test_the_step_of_every_config_holds_sharding_constraints(path):
    experiment, config = load(
        path, "tiny", "--config.mesh.fsdp=2", "--config.mesh.model=2"
    )
    task = experiment.make_task(config)
    mesh = sharding.make_mesh(**config.mesh)
    batch = experiment.abstract_batch(config)
    with loop.on_mesh(mesh):
        state = jax.eval_shape(task.init, jax.random.key(0))
        step = jax.make_jaxpr(task.eval_step)(state, batch, jax.random.key(0))
    assert "sharding_constraint" in str(step)


@pytest.mark.parametrize("path", marked(FILES, LONG))
def test_tiny_learns_from_its_own_data(path, tmp_path_factory, monkeypatch):
    data_dir = tmp_path_factory.getbasetemp() / "tensorflow_datasets"
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    experiment, config = load(path, "tiny", *SMALLER.get(path, ()))
    task, data = experiment.make_task(config), experiment.make_data(config)
    state = jax.jit(task.init)(jax.random.key(0))
    step = jax.jit(task.train_step)
    batch = data.train(0, 0, 1)
    losses = []
    for _ in range(4):
        state, metrics = step(state, batch, jax.random.key(1))
        losses.append(task.summarize(metrics)["loss"])
    chex.assert_tree_all_finite((state.params, metrics))
    assert losses[-1] < losses[0]
    assert state.skips.tolist() == [0, 0]


CHECK_ALL = """
from experiments import command_line, config_file, settings, train
from jaxmodels.train import distributed

for path in config_file.available():
    words = [f"--config={path}:tiny", "--workdir=unused"]
    settings.load_experiment(command_line.parse(words, train.FLAGS))
distributed.initialize()
"""


def test_checking_a_config_starts_no_device():
    """The processes of a run meet after the check and before any device is used."""
    code = [sys.executable, "-W", "error", "-c", CHECK_ALL]
    done = subprocess.run(code, cwd=config_file.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", FILES)
def test_the_batch_is_what_the_experiment_says(path, tmp_path_factory, monkeypatch):
    data_dir = tmp_path_factory.getbasetemp() / "tensorflow_datasets"
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    experiment, config = load(path, "tiny", *SMALLER.get(path, ()))
    data = experiment.make_data(config)
    assert data.batch_size == config.data.batch_size
    abstract = experiment.abstract_batch(config)
    for read in (data.train, data.eval):
        batch = read(0, 0, 1)
        assert set(batch) == set(abstract)
        for name, values in batch.items():
            assert (values.shape, values.dtype) == (
                abstract[name].shape,
                abstract[name].dtype,
            )


@pytest.mark.parametrize("path, size", SIZES)
def test_every_field_can_be_given_on_the_command_line(path, size):
    config, _ = config_file.load(f"{path}:{size}")
    words = [
        f"--config.{name}={fields.as_text(value)}"
        for name, (_, value) in fields.flatten(config).items()
    ]
    again = command_line.parse([f"--config={path}:{size}", *words], ())
    assert again.config.to_dict() == config.to_dict()
