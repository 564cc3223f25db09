import pathlib

import pytest

from experiments import command_line
from experiments.command_line import Flag
from jaxmodels.train.errors import ConfigError, DivergedError

FLAGS = (
    Flag("workdir", str, "Folder of the run.", "DIR"),
    Flag("steps", int, "A number."),
    Flag("run", bool, "A switch."),
    Flag("pair", lambda text: tuple(text.split(":")), "Two words.", "A:B"),
)
CONFIG = """
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

SIZES = {"tiny": 1, "large": 2}


def get_config(size="large"):
    model = dict(
        width=SIZES[size], rate=0.5, name="plain", strides=(2, 2), scales=(0.5, 1.0),
        kinds=("a", 1), remat=False, features=placeholder(int), empty=(),
        blocks=((1, 2), (3, 4)),
    )
    return ConfigDict(dict(seed=0, model=model))
"""


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "plain.py"
    path.write_text(CONFIG)
    return str(path)


def parse(source, *words):
    return command_line.parse([f"--config={source}", *words], FLAGS)


def errors(source, *words):
    with pytest.raises(ConfigError) as caught:
        parse(source, *words)
    return str(caught.value).replace(source, "FILE").splitlines()


@pytest.mark.parametrize(
    "field, text, value",
    [
        ("width", "3", 3),
        ("width", "1e5", 100_000),
        ("width", "100.0", 100),
        ("width", "-1", -1),
        ("rate", "3e-4", 3e-4),
        ("rate", "2", 2.0),
        ("name", "a=b, c", "a=b, c"),
        ("remat", "true", True),
        ("features", "64", 64),
        ("features", "None", None),
        ("strides", "(4,)", (4,)),
        ("strides", "()", ()),
        ("scales", "(1, 2.5)", (1.0, 2.5)),
        ("kinds", "('b', 2)", ("b", 2)),
        ("empty", "(1, 'x')", (1, "x")),
        ("blocks", "((5, 6),)", ((5, 6),)),
    ],
)
def test_an_override_takes_the_type_of_its_field(source, field, text, value):
    found = parse(source, f"--config.model.{field}={text}").config.model[field]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "field, text, message",
    [
        ("width", "256.5", "expected a whole number, not '256.5'"),
        ("width", "true", "expected a whole number, not 'true'"),
        ("width", "many", "expected a whole number, not 'many'"),
        ("width", "inf", "expected a whole number, not 'inf'"),
        ("width", "None", "expected a whole number, not 'None'"),
        ("rate", "fast", "expected a number, not 'fast'"),
        ("rate", "nan", "expected a number, not 'nan'"),
        ("remat", "3", "expected true or false, not '3'"),
        ("name", "", "expected some text after the equals sign"),
        (
            "strides",
            "4",
            "expected a tuple such as (2, 2), not 4; for one element write (4,)",
        ),
        ("strides", "(2, 'x')", "expected elements of type int, not 'x'"),
        ("strides", "(2, True)", "expected elements of type int, not True"),
        ("strides", "(2,", "expected a tuple such as (2, 2), not '(2,'"),
        ("kinds", "('b',)", "expected 2 elements as in ('a', 1), got 1"),
    ],
)
def test_a_value_of_another_type_is_one_line_that_says_what_is_expected(
    source, field, text, message
):
    word = f"--config.model.{field}={text}"
    assert errors(source, word) == [f"{word}: {message}"]


def test_flags_take_spaces_or_equals_signs_and_booleans_a_no(source):
    found = parse(source, "--workdir", "runs/x", "--config.model.width", "-3", "--run")
    assert found.flags == {
        "workdir": "runs/x",
        "steps": None,
        "run": True,
        "pair": None,
    }
    assert found.config.model.width == -3
    assert found.words == ["--workdir=runs/x", "--config.model.width=-3", "--run=true"]
    found = parse(source, "--config.model.remat", "--norun", "--pair=a:b")
    assert found.config.model.remat is True
    assert found.flags["run"] is False
    assert found.flags["pair"] == ("a", "b")
    assert parse(source, "--noconfig.model.remat").config.model.remat is False


def test_the_config_is_locked_and_its_file_is_at_hand(source):
    found = parse(f"{source}:tiny")
    assert found.config.model.width == 1
    assert found.source == f"{source}:tiny"
    assert found.module.SIZES == {"tiny": 1, "large": 2}
    with pytest.raises(AttributeError, match="locked"):
        found.config.model.heigth = 3


def test_all_errors_of_a_command_line_come_at_once(source):
    found = errors(
        source,
        "--config.model.widht=3",
        "--config.width=3",
        "--config.model=3",
        "--config.model.rate=x",
        "--wrkdir=x",
        "--steps=1.5",
        "--workdir",
        "--seed=3",
        "--seed=4",
        "extra",
    )
    assert found == [
        "unexpected argument 'extra'; flags look like --name=value",
        "--seed is given 2 times; keep one",
        "FILE has no field 'model.widht' (did you mean 'model.width'?); --help lists "
        "the fields",
        "FILE has no field 'width' (did you mean 'model.width'?); --help lists the "
        "fields",
        "--config.model is a section; set its fields: --config.model.blocks, "
        "--config.model.empty, --config.model.features, ...",
        "--config.model.rate=x: expected a number, not 'x'",
        "unknown flag --wrkdir (did you mean 'workdir'?); --help lists the flags",
        "--steps=1.5: expected a whole number, not '1.5'",
        "--workdir needs a value: --workdir=VALUE",
        "unknown flag --seed (did you mean 'config.seed'?); --help lists the flags",
    ]


def test_a_required_flag_is_asked_for_with_an_example(source):
    flag = Flag("workdir", str, "Folder.", "DIR", example="runs/lm")
    with pytest.raises(ConfigError, match="--workdir is required, such as --workdir="):
        command_line.parse([f"--config={source}"], [flag])


def test_a_missing_config_lists_the_configs():
    with pytest.raises(ConfigError) as caught:
        command_line.parse(["--workdir=x"], FLAGS)
    assert str(caught.value).startswith("--config is required; the configs are ")
    assert "configs/performer/{classify,lm," in str(caught.value)


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help_without_a_config_lists_flags_and_configs(word, capsys):
    assert command_line.parse([word], FLAGS, doc="Does this.") is None
    text = capsys.readouterr().out
    assert text.startswith("Does this.")
    assert "--pair=A:B " in text
    assert "configs/performer/lm.py  sizes tiny, small, medium, large" in text
    assert max(map(len, text.splitlines())) <= 100


def test_help_with_a_config_lists_every_field_with_type_and_value(source, capsys):
    words = [f"--config={source}:tiny", "--help", "--config.model.rate=0.25"]
    assert command_line.parse(words, FLAGS) is None
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["model.width", "int", "1"] in lines
    assert ["model.rate", "float", "0.25"] in lines
    assert ["model.features", "int", "None"] in lines
    assert ["model.remat", "bool", "false"] in lines
    assert ["model.strides", "tuple", "(2,", "2)"] in lines


def test_a_config_of_the_repository_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = command_line.parse(["--config=configs/performer/lm.py:tiny"], FLAGS)
    assert found.config.experiment == "performer_lm"


def test_a_config_here_goes_before_that_of_the_repository(source, monkeypatch):
    monkeypatch.chdir(pathlib.Path(source).parent)
    assert parse("plain.py:tiny").config.model.width == 1


def test_run_turns_errors_into_exit_codes_and_lines(source, capsys):
    def diverge(arguments):
        raise DivergedError("diverged at step 3")

    def refuse(arguments):
        raise ConfigError("one thing\nanother thing")

    def interrupt(arguments):
        raise KeyboardInterrupt("stopped after update 3; saved in runs/x")

    words = [f"--config={source}"]
    assert command_line.run(lambda arguments: None, FLAGS, words) == 0
    assert command_line.run(lambda arguments: 7, FLAGS, words) == 7
    assert command_line.run(diverge, FLAGS, words) == 65
    assert command_line.run(refuse, FLAGS, words) == 64
    assert command_line.run(interrupt, FLAGS, words) == 130
    assert capsys.readouterr().err.splitlines() == [
        "error: diverged at step 3",
        "error: one thing",
        "error: another thing",
        "interrupted: stopped after update 3; saved in runs/x",
    ]


def test_a_bug_keeps_its_traceback(source):
    with pytest.raises(ZeroDivisionError):
        command_line.run(lambda arguments: 1 / 0, FLAGS, [f"--config={source}"])
