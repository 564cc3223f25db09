import pytest
from ml_collections.config_dict import placeholder

from experiments import settings
from experiments.command_line import Arguments
from jaxmodels.train import loop
from jaxmodels.train.errors import ConfigError


def test_a_good_config_has_no_errors(parts):
    assert settings.check(parts) == []
    assert settings.check_devices(parts, 8) == []


@pytest.mark.parametrize("name", settings.SECTIONS)
def test_every_section_is_needed(parts, name):
    del parts[name]
    kind = settings.SECTIONS[name].__name__
    what = "section" if kind == "ConfigDict" else f"field of type {kind}"
    assert settings.check(parts) == [f"the config has no {what} {name!r}"]


def test_a_section_that_nothing_reads_is_named_with_the_nearest(parts):
    with parts.unlocked():
        parts.modle = parts.model
    (line,) = settings.check(parts)
    assert line.startswith("'modle' is no section (did you mean 'model'?);")


@pytest.mark.parametrize(
    "path, value, message",
    [
        ("seed", -1, "seed -1 must be at least 0 and at most 4.29497e+09"),
        ("num_steps", 0, "num_steps 0 must be at least 1"),
        ("save_every", -5, "save_every -5 must be at least 0"),
        ("data.batch_size", 0, "data.batch_size 0 must be at least 1"),
        ("optimizer.learning_rate", 0.0, "learning_rate 0.0 must be greater than 0"),
        ("limits.nonfinite_per_thousand", 2000, "must be at least 1 and at most 1000"),
        ("mesh.fsdp", 0, "mesh.fsdp 0 must be at least 1, or -1 for the rest"),
        ("mesh.fsdp", -1, "mesh.data and mesh.fsdp are -1; at most one axis takes"),
        ("optimizer.name", "adam", "'adam' is none of adamw, lion, adafactor, muon"),
        ("optimizer.microbatches", 3, "8 is not divisible by optimizer.microbatches 3"),
        ("optimizer.warmup_steps", 4, "warmup_steps 4 must be below num_steps 4"),
        ("experiment", "performer_ml", "(did you mean 'performer_lm'?)"),
        ("experiment", "train", "no experiment 'train'; the experiments are "),
    ],
)
def test_a_value_out_of_range_is_one_line(parts, path, value, message):
    parts.update_from_flattened_dict({path: value})
    (line,) = settings.check(parts)
    assert message in line


@pytest.mark.parametrize(
    "section, name, message",
    [
        ("mesh", "fdsp", "mesh.fdsp is no field of mesh (did you mean 'fsdp'?); "),
        ("limits", "hang", "limits.hang is no field of limits; the fields are "),
        ("optimizer", "lr", "optimizer.lr is no field of optimizer; the fields are "),
    ],
)
def test_a_field_that_nothing_reads_is_one_line(parts, section, name, message):
    with parts.unlocked():
        parts[section][name] = 3
    (line,) = settings.check(parts)
    assert line.startswith(message)


def test_all_errors_come_at_once_and_name_the_config(parts):
    changes = {"num_steps": 0, "mesh.seq": 0, "data.length": 9, "model.num_heads": 3}
    parts.update_from_flattened_dict(changes)
    arguments = Arguments(parts, "some.py:tiny", None, {}, [])
    with pytest.raises(ConfigError) as caught:
        settings.load_experiment(arguments)
    lines = str(caught.value).splitlines()
    assert lines[:2] == [
        "some.py:tiny: num_steps 0 must be at least 1",
        "some.py:tiny: mesh.seq 0 must be at least 1, or -1 for the rest",
    ]
    model = "some.py:tiny: model: embed_dim 8 is not divisible by num_heads 3"
    assert [line[: len(model)] for line in lines[2:]] == [model]


@pytest.mark.parametrize(
    "changes, devices, message",
    [
        ({"mesh.fsdp": 3}, 8, "mesh data -1 x fsdp 3 x model 1 x seq 1 does not fit 8"),
        ({"data.batch_size": 12}, 8, "batch_size 12 is not divisible by data x fsdp x"),
        ({"optimizer.microbatches": 2}, 8, "try 16 or 32"),
        (
            {"mesh.seq": 8, "data.length": 4},
            8,
            "data.length 4 is not divisible by seq=8; try 8 or 16",
        ),
        ({"mesh.data": 2}, 8, "does not fit 8 devices: the axes must multiply to 8"),
    ],
)
def test_what_does_not_fit_the_devices_is_one_line(parts, changes, devices, message):
    parts.update_from_flattened_dict(changes)
    (line,) = settings.check_devices(parts, devices)
    assert message in line


def test_every_length_of_the_data_is_cut_over_seq_and_named(parts):
    with parts.unlocked():
        parts.mesh.seq = 4
        del parts.data.length
        assert settings.check_devices(parts, 8) == []
        parts.data.source_length, parts.data.target_length = 24, 26
        parts.data.lengthy = 3
    (line,) = settings.check_devices(parts, 8)
    assert line == ("data.target_length 26 is not divisible by seq=4; try 24 or 28")


def test_the_limits_that_are_checked_are_those_of_the_loop():
    assert set(loop.Limits._fields) <= set(settings.RANGES)


def test_several_optimizers_are_checked_one_by_one(parts):
    one = dict(name="adamw", learning_rate=1e-3)
    with parts.unlocked():
        parts.optimizer = dict(generator=one, discriminator=one | dict(name="sgd"))
    (line,) = settings.check(parts)
    assert line.startswith("optimizer.discriminator.name 'sgd' is none of adamw")


def test_pretrained_is_text_and_for_experiments_that_take_modules(parts, tmp_path):
    with parts.unlocked():
        parts.pretrained = placeholder(str)
    assert settings.check(parts) == []
    arguments = Arguments(parts, "small.py", None, {}, ())
    settings.load_experiment(arguments)
    parts.pretrained = "runs/other"
    message = "small.py: experiment performer_lm takes no pretrained modules; .*--init"
    with pytest.raises(ConfigError, match=message):
        settings.load_experiment(arguments)
    with parts.unlocked():
        del parts["pretrained"]
        parts.pretrained = 3
    assert settings.check(parts) == ["pretrained 3 is no str"]
