import json

import pytest

from experiments import workdir
from jaxmodels.train.errors import ConfigError


def refusal(folder, config):
    with pytest.raises(ConfigError) as caught:
        workdir.check(folder, config)
    return str(caught.value).replace(str(folder), "DIR")


def test_a_new_folder_is_made_and_stays_empty(tmp_path, parts):
    folder = tmp_path / "runs" / "lm"
    workdir.check(folder, parts)
    assert list(folder.iterdir()) == []


def test_a_folder_that_no_run_made_is_refused(tmp_path, parts):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "cat.jpg").write_text("")
    assert refusal(folder, parts) == (
        "workdir DIR holds 'cat.jpg' but no config.json, so no run made it; "
        "choose an empty or a new --workdir"
    )


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, parts):
    (tmp_path / "file").write_text("")
    message = refusal(tmp_path / "file" / "lm", parts)
    assert message.startswith("workdir DIR cannot be written (Not a directory)")


@pytest.mark.parametrize("text", ["{", '{"name": "a web page"}', "[]"])
def test_a_config_file_that_is_none_is_refused(tmp_path, parts, text):
    (tmp_path / "config.json").write_text(text)
    assert "config.json" in refusal(tmp_path, parts)


def test_the_same_config_resumes(tmp_path, parts):
    workdir.write_config(tmp_path, parts)
    workdir.check(tmp_path, parts)
    assert [path.name for path in tmp_path.glob("*config*")] == ["config.json"]
    assert workdir.read_config(tmp_path)["model"]["embed_dim"] == 8


@pytest.mark.parametrize(
    "path, value",
    [
        ("mesh.fsdp", 2),
        ("num_steps", 9),
        ("log_every", 1),
        ("eval_every", 1),
        ("save_every", 1),
        ("limits.nonfinite_in_a_row", 9),
        ("data.num_threads", 3),
    ],
)
def test_a_resume_may_change_what_is_not_the_result(tmp_path, parts, path, value):
    workdir.write_config(tmp_path, parts)
    parts.update_from_flattened_dict({path: value})
    workdir.check(tmp_path, parts)


def test_any_other_difference_is_refused_and_named(tmp_path, parts):
    workdir.write_config(tmp_path, parts)
    parts.update_from_flattened_dict({"data.length": 4})
    assert refusal(tmp_path, parts) == (
        "workdir DIR belongs to another config: data.length is 8 there and 4 here; "
        "choose another --workdir or the same config"
    )


def test_many_differences_are_counted(tmp_path, parts):
    workdir.write_config(tmp_path, parts)
    with parts.unlocked():
        parts.model = dict(a=1)
        parts.seed = 3
    message = refusal(tmp_path, parts)
    assert "model.a is absent there and 1 here" in message
    assert " and 8 more; " in message
    assert len(message) < 250


def test_only_the_sections_asked_for_are_compared(tmp_path, parts):
    workdir.write_config(tmp_path, parts)
    parts.seed = 3
    workdir.check_same_config(tmp_path, parts, sections=("model",))
    parts.model.embed_dim = 4
    with pytest.raises(ConfigError, match="model.embed_dim is 8 there and 4 here"):
        workdir.check_same_config(tmp_path, parts, sections=("model",))


def test_a_folder_without_a_run_has_no_config(tmp_path):
    with pytest.raises(ConfigError, match="holds no config.json, so no run"):
        workdir.read_config(tmp_path)


def test_json_is_written_whole_under_its_own_name(tmp_path):
    path = workdir.write_json(tmp_path, "evaluation.json", {"step": 3})
    assert json.loads(path.read_text()) == {"step": 3}
    assert [entry.name for entry in tmp_path.iterdir()] == ["evaluation.json"]
