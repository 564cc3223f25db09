import json
import os
import sys

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodels.models
from jaxmodels.train import model_file
from jaxmodels.train.errors import ConfigError, StorageError

MODULE = """
import dataclasses
import os
import subprocess
from typing import Any

import flax.linen as nn


@dataclasses.dataclass(frozen=True)
class Spec:
    kind: str = "softmax"
    sizes: tuple = (1, 2)

    def __post_init__(self):
        if self.kind == "odd":
            raise ValueError("kind 'odd' is not known")


@dataclasses.dataclass
class Loose:
    kind: str = "softmax"


class Encoder(nn.Module):
    width: int
    scale: float = 1.0


class Sample(nn.Module):
    width: int
    spec: Spec = Spec()
    encoder: Any = None
    dtype: Any = "float32"
    extra: Any = None


def function():
    raise AssertionError("this file must not be able to call it")


text = "a string"
"""


@pytest.fixture
def sample(tmp_path, monkeypatch):
    """A module of `jaxmodels.models` that exists for one test."""
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "sample.py").write_text(MODULE)
    (folder / "other.py").write_text("from jaxmodels.models.sample import Spec\n")
    path = [*jaxmodels.models.__path__, str(folder)]
    monkeypatch.setattr(jaxmodels.models, "__path__", path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    import jaxmodels.models.sample as module

    yield module
    for name in ("sample", "other"):
        sys.modules.pop(f"jaxmodels.models.{name}", None)
        vars(jaxmodels.models).pop(name, None)


def stored(tmp_path):
    return json.loads((tmp_path / "model.json").read_text())


def read_with(tmp_path, content):
    (tmp_path / "model.json").write_text(json.dumps(content))
    return model_file.read(tmp_path)


def entry(label="sample.Sample", **fields):
    return {"class": label, "fields": fields}


def content_of(**networks):
    return {"format": 1, "networks": networks, "preprocessing": {}}


def test_networks_and_preprocessing_come_back_equal(sample, tmp_path):
    networks = {
        "model": sample.Sample(
            width=4,
            spec=sample.Spec("linear", (3, (4, 5))),
            encoder=sample.Encoder(2, scale=0.5),
            dtype="bfloat16",
            extra={"rates": (1, 2.5), "name": None, "on": True},
        ),
        "critic": sample.Encoder(7),
    }
    preprocessing = {"vocabulary": {"kind": "byte"}, "lengths": [1, 2], "rate": 0.5}
    model_file.write(tmp_path, networks, preprocessing)
    read, same = model_file.read(tmp_path)
    assert read == networks
    assert same == preprocessing
    assert sorted(os.listdir(tmp_path)) == ["model.json", "package"]


def test_the_file_names_classes_by_their_module_and_leaves_out_what_linen_adds(
    sample, tmp_path
):
    model_file.write(tmp_path, {"model": sample.Sample(width=4, name="given")}, {})
    assert stored(tmp_path) == {
        "format": 1,
        "networks": {
            "model": entry(
                width=4,
                spec=entry("sample.Spec", kind="softmax", sizes=[1, 2]),
                encoder=None,
                dtype="float32",
                extra=None,
            )
        },
        "preprocessing": {},
    }


def test_a_class_that_the_module_imports_from_this_package_is_found(sample, tmp_path):
    spec = entry("other.Spec", kind="linear")
    networks, _ = read_with(tmp_path, content_of(model=entry(width=1, spec=spec)))
    assert networks["model"].spec == sample.Spec("linear")


def test_fields_that_the_file_leaves_out_have_their_defaults(sample, tmp_path):
    networks, _ = read_with(tmp_path, content_of(model=entry(width=1)))
    assert networks["model"] == sample.Sample(width=1)


@pytest.mark.parametrize(
    "dtype", [jnp.bfloat16, np.dtype("float16"), np.float32, np.dtype(jnp.bfloat16)]
)
def test_a_dtype_is_stored_by_its_name(sample, tmp_path, dtype):
    model_file.write(tmp_path, {"model": sample.Sample(width=1, dtype=dtype)}, {})
    name = model_file.read(tmp_path)[0]["model"].dtype
    assert isinstance(name, str) and jnp.dtype(name) == jnp.dtype(dtype)


def test_numpy_scalars_are_stored_as_numbers(sample, tmp_path):
    module = sample.Sample(width=np.int64(3), extra=[np.float32(0.5), np.bool_(True)])
    model_file.write(tmp_path, {"model": module}, {})
    read = model_file.read(tmp_path)[0]["model"]
    assert (read.width, read.extra) == (3, (0.5, True))


def test_a_second_write_replaces_the_first_and_a_failed_one_does_not(sample, tmp_path):
    model_file.write(tmp_path, {"model": sample.Sample(width=1)}, {})
    model_file.write(tmp_path, {"model": sample.Sample(width=2)}, {})
    with pytest.raises(ConfigError):
        model_file.write(tmp_path, {"model": sample.Sample(width=print)}, {})
    assert model_file.read(tmp_path)[0]["model"].width == 2
    assert not (tmp_path / "model.json.tmp").exists()


def test_the_folder_of_a_run_is_made_where_it_is_missing(sample, tmp_path):
    model_file.write(tmp_path / "a/b", {"model": sample.Encoder(1)}, {})
    assert model_file.read(tmp_path / "a/b")[0] == {"model": sample.Encoder(1)}


def test_a_folder_that_cannot_be_written_is_a_storage_error(sample, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="file/run/model.json cannot be written"):
        model_file.write(tmp_path / "file/run", {"model": sample.Encoder(1)}, {})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (print, r"networks.model.extra: <built-in function print> cannot be stored"),
        (nn.Dense, r"networks.model.extra: .*Dense.* cannot be stored; use numbers"),
        ([1.0, float("nan")], r"networks.model.extra\[1\]: nan cannot be stored"),
        ({1: 2}, r"networks.model.extra: the key 1 is not a string"),
        ({"class": 1, "fields": 2}, r"reads as an object"),
        (nn.Dense(3), r"'sample.Dense' names no module"),
    ],
)
def test_what_cannot_be_stored_is_named(sample, tmp_path, value, message):
    networks = {"model": sample.Sample(width=1)}
    object.__setattr__(networks["model"], "extra", value)
    with pytest.raises(ConfigError, match=message):
        model_file.write(tmp_path, networks, {})
    assert not (tmp_path / "model.json").exists()


def test_preprocessing_that_cannot_be_stored_is_named(tmp_path):
    with pytest.raises(ConfigError, match="preprocessing.rates.low: .* cannot be stor"):
        model_file.write(tmp_path, {}, {"rates": {"low": object()}})


def test_a_network_from_outside_the_package_is_refused(tmp_path):
    with pytest.raises(
        ConfigError, match="networks.model: 'None.Dense' names no class"
    ):
        model_file.write(tmp_path, {"model": nn.Dense(3)}, {})


@pytest.mark.parametrize(
    "label",
    [
        "sample.Missing",
        "missing.Sample",
        "sample.function",
        "sample.text",
        "sample.os",
        "sample.subprocess",
        "sample.nn",
        "sample.Loose",
        "sample.dataclasses",
        "sample.Any",
        "sample",
        "Sample",
        "",
        "sample.Sample.__init__",
        "sample.os.system",
        "..sample.Sample",
        "sample..Sample",
        "sample/Sample",
        "sample.Sample\n",
        "sample.S\u0430mple",
        "s\u0430mple.Sample",
        "sample.__builtins__",
        "_private.Sample",
        "os.system",
        "subprocess.Popen",
        "train.loop",
        None,
        7,
        ["sample.Sample"],
        {"class": "sample.Sample"},
    ],
)
def test_nothing_but_classes_of_this_package_is_built(sample, tmp_path, label):
    content = content_of(model={"class": label, "fields": {"width": 1}})
    with pytest.raises(ConfigError) as caught:
        read_with(tmp_path, content)
    assert f"networks.model: {label!r} names no " in str(caught.value)
    assert "\n" not in str(caught.value)
    inner = content_of(model=entry(width=1, extra=[content["networks"]["model"]]))
    with pytest.raises(ConfigError, match=r"networks.model.extra\[0\]: .* names no "):
        read_with(tmp_path, inner)


def test_reading_imports_no_module_outside_of_models(sample, tmp_path):
    before = set(sys.modules)
    for label in ("antigravity.Sample", "this.Sample", "turtle.Turtle"):
        with pytest.raises(ConfigError):
            read_with(tmp_path, content_of(model=entry(label)))
    assert not {"antigravity", "this", "turtle"} & (set(sys.modules) - before)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "the file is not a JSON object"),
        (None, "the file is not a JSON object"),
        ({}, "format None is not 1; read it with the release that wrote it"),
        ({**content_of(), "format": 2}, "format 2 is not 1"),
        ({**content_of(), "format": True}, "format True is not 1"),
        ({**content_of(), "format": "1"}, "format '1' is not 1"),
        ({**content_of(), "more": 1}, "'more' is missing or unknown"),
        ({"format": 1, "networks": {}}, "'preprocessing' is missing or unknown"),
        ({**content_of(), "networks": []}, "networks is not a JSON object"),
        ({**content_of(), "preprocessing": 3}, "preprocessing is not a JSON object"),
        (content_of(model=3), "networks.model is not a JSON object"),
        (content_of(model={"class": "sample.Sample"}), "wants 'class' and 'fields'"),
        (
            content_of(model={"class": "sample.Sample", "fields": [1]}),
            "networks.model.fields is not a JSON object",
        ),
        (
            content_of(model=entry(width=1, wdith=2)),
            "sample.Sample has no field 'wdith'; it has dtype, encoder, extra, spec",
        ),
        (content_of(model=entry(width=1, name="x")), "has no field 'name'"),
        (content_of(model=entry(width=1, parent=None)), "has no field 'parent'"),
        (content_of(model=entry()), "networks.model: .*width"),
        (
            content_of(model=entry(width=1, spec=entry("sample.Spec", kind="odd"))),
            "networks.model.spec: kind 'odd' is not known",
        ),
        (content_of(model=entry("sample.Spec")), "sample.Spec is no module"),
    ],
)
def test_a_file_of_another_form_is_refused_in_one_line(
    sample, tmp_path, content, message
):
    with pytest.raises(ConfigError, match=message) as caught:
        read_with(tmp_path, content)
    assert str(caught.value).startswith(f"{tmp_path / 'model.json'}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "\xff", "[" * 10**5, '{"a": 1'])
def test_a_file_that_is_no_json_is_refused(tmp_path, text):
    (tmp_path / "model.json").write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match="model.json cannot be read"):
        model_file.read(tmp_path)


def test_objects_nested_without_end_are_refused(sample, tmp_path):
    text = json.dumps(content_of(model=entry(width=1, extra="HERE")))
    text = text.replace('"HERE"', '{"a": ' * 10**5 + "1" + "}" * 10**5)
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(ConfigError, match="nested too deeply|cannot be read"):
        model_file.read(tmp_path)


def test_a_folder_without_the_file_is_refused(tmp_path):
    with pytest.raises(
        ConfigError, match="there is no model.json in .*; name the fold"
    ):
        model_file.read(tmp_path)


def test_entries_to_share_with_another_run_are_compared(tmp_path):
    held = {"rate": 100, "band": [0.1, 30], "noise": {"kind": "cosine", "steps": 9}}
    model_file.write(tmp_path, {}, held)
    names = ("rate", "band", "noise.kind", "neither")
    own = {"rate": 100, "band": (0.1, 30), "noise": {"kind": "cosine", "steps": 5}}
    model_file.check_shared(tmp_path, own, names)
    model_file.check_shared(tmp_path / "nowhere", {"rate": 50}, ())
    message = f"init_from: noise.kind is cosine in {tmp_path} and None here; start from"
    with pytest.raises(ConfigError, match=message):
        model_file.check_shared(tmp_path, own | {"noise": "edm"}, names)
    with pytest.raises(ConfigError, match="there is no model.json in "):
        model_file.check_shared(tmp_path / "nowhere", own, names)


def test_modules_of_another_run_have_to_have_the_same_fields(sample, tmp_path):
    def model(width=3, outer=7, **fields):
        encoder = sample.Encoder(width=width, **fields)
        return {"model": sample.Sample(width=outer, encoder=encoder)}

    names = ("model/encoder",)
    model_file.write(tmp_path, model(), {})
    # Fields of the network itself may differ.
    model_file.check_modules(tmp_path, model(outer=9), names)
    message = f"model/encoder.width is 3 in {tmp_path} and 4 here; give both the same"
    with pytest.raises(ConfigError, match=message):
        model_file.check_modules(tmp_path, model(width=4), names)
    with pytest.raises(ConfigError, match="model/encoder.scale is 1.0 in "):
        model_file.check_modules(tmp_path, model(scale=2.0), names)
    other = {"model": sample.Sample(width=7, encoder=sample.Sample(width=3))}
    with pytest.raises(ConfigError, match="model/encoder.class is 'sample.Encoder'"):
        model_file.check_modules(tmp_path, other, names)


def test_a_run_without_the_module_is_nothing_to_take_it_from(sample, tmp_path):
    model_file.write(tmp_path, {"model": sample.Sample(width=1)}, {})
    own = {"model": sample.Sample(width=1, encoder=sample.Encoder(width=1))}
    with pytest.raises(ConfigError, match="has no model/encoder; start from one that"):
        model_file.check_modules(tmp_path, own, ("model/encoder",))
