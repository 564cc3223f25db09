import pytest

from experiments import config_file
from jaxmodels.train.errors import ConfigError

HEAD = "from ml_collections import ConfigDict\n"


def refusal(path, text, size=""):
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        config_file.load(f"{path}{size}")
    return str(caught.value).replace(str(path), "FILE")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "some.py"


def test_a_file_that_is_not_there_offers_the_nearest():
    with pytest.raises(ConfigError) as caught:
        config_file.load("configs/performer/ml.py:tiny")
    assert str(caught.value) == (
        "no config file 'configs/performer/ml.py' "
        "(did you mean 'configs/performer/lm.py'?)"
    )


def test_a_file_like_none_of_the_repository_lists_them():
    with pytest.raises(ConfigError, match="'nothing'; the configs are configs/"):
        config_file.load("nothing")


def test_a_size_that_is_not_there_offers_the_nearest():
    with pytest.raises(ConfigError) as caught:
        config_file.load("configs/performer/lm.py:tinny")
    assert str(caught.value) == (
        "configs/performer/lm.py has no size 'tinny' (did you mean 'tiny'?); "
        "the sizes are tiny, small, medium, large"
    )


def test_a_size_is_refused_where_there_are_none(path):
    text = HEAD + "def get_config():\n  return ConfigDict()\n"
    assert refusal(path, text, ":tiny") == "FILE has no sizes; write --config=FILE"


def test_a_file_that_raises_names_its_own_line(path):
    text = HEAD + "import json\n\ndef get_config():\n  return json.loads('{')\n"
    message = refusal(path, text)
    assert message.startswith("FILE line 5: JSONDecodeError: Expecting property name")
    assert refusal(path, "x = unknown\n") == (
        "FILE line 1: NameError: name 'unknown' is not defined"
    )
    assert refusal(path, "x = (\n") == "FILE line 1: SyntaxError: '(' was never closed"


def test_a_file_without_get_config_or_without_a_config_is_refused(path):
    assert refusal(path, "x = 3\n") == "FILE defines no function get_config(size)"
    text = "def get_config():\n  return dict(seed=0)\n"
    assert refusal(path, text) == "FILE: get_config returned dict, not a ConfigDict"


def test_fields_that_no_command_line_could_override_are_refused_all_at_once(path):
    text = HEAD + (
        "def get_config():\n"
        "  model = dict(a=None, b=[1], c=print)\n"
        "  return ConfigDict(dict(model=model))\n"
    )
    assert refusal(path, text).splitlines() == [
        "FILE: field 'model.a' is None: use placeholder(<its type>)",
        "FILE: field 'model.b' is a list: use a tuple",
        "FILE: field 'model.c' is a builtin_function_or_method: a config holds int, "
        "float, bool, str, tuples of them and sections",
    ]


def test_every_config_of_the_repository_is_listed_with_its_sizes():
    assert "configs/performer/lm.py" in config_file.available()
    sizes = config_file.sizes("configs/performer/lm.py")
    assert sizes == ("tiny", "small", "medium", "large")
