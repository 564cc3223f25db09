"""model.json: what rebuilds a trained run's networks and their inputs, without configs.

{"format": 1,
 "networks": {name: {"class": "performer.PerformerLM", "fields": {...}}},
 "preprocessing": {...}}

A class is looked up by name in one module of `jaxmodels.models` and nowhere else, so
that a file from a stranger runs no code but the constructors of this package. A field
may hold a frozen dataclass or a module of the same kind, in the same form.
"""

import dataclasses
import importlib
import importlib.util
import json
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from jaxmodels.train.errors import ConfigError, StorageError

FORMAT = 1
FILE = "model.json"
PACKAGE = "jaxmodels.models"
CLASS = re.compile(r"([a-z][a-z0-9_]*)\.([A-Za-z][A-Za-z0-9_]*)", re.ASCII)
NOT_STORED = ("parent", "name")  # what Linen adds to the fields of every module
# Fields in which modules of the same weights may differ: how, not what, they compute.
FREE_FIELDS = ("dtype", "remat", "chunk_size")
FREE_ENDINGS = ("dropout",)


def write(workdir, networks, preprocessing):
    """Writes model.json into the folder of a run, all of it or nothing.

    Args:
        workdir: folder of the run; made where it is missing.
        networks: {name: linen module} of classes in `jaxmodels.models`.
        preprocessing: all that turns a user's input into the networks' inputs, of
            dicts with string keys, lists, strings, finite numbers, booleans and None.

    Raises:
        ConfigError: something in it cannot be stored.
        StorageError: the file cannot be written.
    """
    content = {
        "format": FORMAT,
        "networks": {
            name: _encode(module, None, f"networks.{name}")
            for name, module in networks.items()
        },
        "preprocessing": encoded(preprocessing),
    }
    if jax.process_index() != 0:
        return
    path = epath.Path(workdir) / FILE
    unfinished = path.parent / f"{FILE}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
        unfinished.replace(path)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error}") from None


def read(workdir):
    """Rebuilds the networks of a run.

    Args:
        workdir: folder of the run.

    Returns:
        {name: linen module} and the preprocessing. Sequences in the fields of a module
        come back as tuples, in the preprocessing as lists.

    Raises:
        ConfigError: there is no such file, or it holds what this release cannot build.
    """
    path = epath.Path(workdir) / FILE
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError(
            f"there is no {FILE} in {workdir}; name the folder of a run"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    try:
        return _decode_file(content)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path} is nested too deeply") from None


def encoded(preprocessing):
    """A preprocessing as it is stored.

    Raises:
        ConfigError: something in it cannot be stored.
    """
    return _encode(preprocessing, None, "preprocessing")


def check_same(found, stored, where):
    """Checks what `model.json` says against what the weights were stored with.

    Args:
        found: the preprocessing of `model.json`; other entries may be added to it.
        stored: `encoded` when the weights were stored; None where that was not done.
        where: names the weights.

    Raises:
        ConfigError: an entry differs.
    """
    for name, value in (stored or {}).items():
        if name not in found or found[name] != value:
            raise ConfigError(
                f"{name} is {found.get(name)!r} in {FILE} and {value!r} in the weights "
                f"of {where}; copy both from the same run"
            )


def check_shared(workdir, preprocessing, names):
    """Checks that another run was trained on the same preprocessing.

    Args:
        workdir: folder of the other run.
        preprocessing: of this run.
        names: entries that both have to share, "outer.inner" for one of an entry that
            is a dict; without any, no file is read.

    Raises:
        ConfigError: one differs, or there is no such run.
    """
    if not names:
        return
    _, other = read(workdir)
    own = json.loads(json.dumps(encoded(preprocessing)))
    for name in names:
        here, there = _entry(own, name), _entry(other, name)
        if here != there:
            raise ConfigError(
                f"init_from: {name} is {there} in {workdir} and {here} here; "
                f"start from a run with the same {name}"
            )


def check_modules(workdir, networks, names):
    """Checks that modules of another run are those of this one, in all fields.

    Fields of which no output of a trained module depends (`FREE_FIELDS`, dropout) may
    differ.

    Args:
        workdir: folder of the other run.
        networks: {name: linen module} of this run.
        names: "network/field", for modules that are fields of networks.

    Raises:
        ConfigError: one differs or is missing, or there is no such run.
    """
    others, _ = read(workdir)
    for name in names:
        network, _, field = name.partition("/")
        own = getattr(networks[network], field)
        other = getattr(others.get(network), field, None)
        if not isinstance(other, nn.Module):
            raise ConfigError(
                f"the run in {workdir} has no {name}; start from one that has"
            )
        ours, theirs = (
            dict(_flat_fields(_encode(module, None, name))) for module in (own, other)
        )
        for path in sorted(ours.keys() | theirs.keys()):
            here, there = (found.get(path, "absent") for found in (ours, theirs))
            if here != there:
                raise ConfigError(
                    f"{name}{path} is {there!r} in {workdir} and {here!r} here; "
                    "give both the same"
                )


def _flat_fields(value, path=""):
    """(path, value) of all that is stored of a module and has to agree."""
    if not isinstance(value, dict):
        yield path, value
        return
    if value.keys() == {"class", "fields"}:
        yield f"{path}.class", value["class"]
        value = value["fields"]
    for name, one in value.items():
        if name not in FREE_FIELDS and not name.endswith(FREE_ENDINGS):
            yield from _flat_fields(one, f"{path}.{name}")


def _entry(preprocessing, name):
    """The entry of a dotted name; None where there is none."""
    value = preprocessing
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _decode_file(content):
    parts = _mapping(content, "the file")
    if type(parts.get("format")) is not int or parts["format"] != FORMAT:
        raise ConfigError(
            f"format {parts.get('format')!r} is not {FORMAT}; "
            "read it with the release that wrote it"
        )
    if unknown := sorted(parts.keys() ^ {"format", "networks", "preprocessing"}):
        raise ConfigError(f"{unknown[0]!r} is missing or unknown")
    networks = {}
    for name, entry in _mapping(parts["networks"], "networks").items():
        networks[name] = _build(entry, f"networks.{name}")
        if not isinstance(networks[name], nn.Module):
            raise ConfigError(f"networks.{name}: {entry['class']} is no module")
    return networks, _mapping(parts["preprocessing"], "preprocessing")


def _encode(value, home, where):
    """The JSON form of a field; `home` is the module of models that the class is in."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, (np.bool_, np.integer, np.floating)):
        value = value.item()
    if isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        if not np.isfinite(value):
            raise ConfigError(f"{where}: {value} cannot be stored; use a finite number")
        return value
    if isinstance(value, (list, tuple)):
        return [_encode(one, home, f"{where}[{i}]") for i, one in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _encode_object(value, home, where)
    if hasattr(value, "items"):
        return _encode_mapping(value, home, where)
    if isinstance(value, (np.dtype, type(jnp.float32))) or _is_scalar_type(value):
        return jnp.dtype(value).name
    raise ConfigError(
        f"{where}: {value!r} cannot be stored; use numbers, strings, lists, dicts or "
        f"classes of {PACKAGE}"
    )


def _encode_mapping(value, home, where):
    if odd := [key for key in value if not isinstance(key, str)]:
        raise ConfigError(f"{where}: the key {odd[0]!r} is not a string")
    if home is not None and value.keys() == {"class", "fields"}:
        raise ConfigError(f"{where}: a dict of 'class' and 'fields' reads as an object")
    return {key: _encode(one, home, f"{where}.{key}") for key, one in value.items()}


def _encode_object(value, home, where):
    kind = type(value)
    if kind.__module__.startswith(f"{PACKAGE}."):
        home = kind.__module__.removeprefix(f"{PACKAGE}.")
    label = f"{home}.{kind.__name__}"
    if _lookup(label, where) is not kind:
        raise ConfigError(f"{where}: {label} is another class than the one in use")
    fields = {
        field.name: _encode(getattr(value, field.name), home, f"{where}.{field.name}")
        for field in dataclasses.fields(value)
        if field.init and not _of_linen(kind, field.name)
    }
    return {"class": label, "fields": fields}


def _build(entry, where):
    entry = _mapping(entry, where)
    if entry.keys() != {"class", "fields"}:
        raise ConfigError(f"{where}: wants 'class' and 'fields', has {sorted(entry)}")
    kind = _lookup(entry["class"], where)
    known = {
        field.name
        for field in dataclasses.fields(kind)
        if field.init and not _of_linen(kind, field.name)
    }
    fields = {}
    for name, value in _mapping(entry["fields"], f"{where}.fields").items():
        if name not in known:
            raise ConfigError(
                f"{where}: {entry['class']} has no field {name!r}; "
                f"it has {', '.join(sorted(known))}"
            )
        fields[name] = _decode(value, f"{where}.{name}")
    try:
        return kind(**fields)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from None


def _decode(value, where):
    if isinstance(value, list):
        return tuple(_decode(one, f"{where}[{i}]") for i, one in enumerate(value))
    if isinstance(value, dict):
        if value.keys() == {"class", "fields"}:
            return _build(value, where)
        return {key: _decode(one, f"{where}.{key}") for key, one in value.items()}
    return value


def _lookup(label, where):
    """The class behind "performer.PerformerLM": a module's or a frozen dataclass."""
    match = CLASS.fullmatch(label) if isinstance(label, str) else None
    if match is None or importlib.util.find_spec(f"{PACKAGE}.{match[1]}") is None:
        raise ConfigError(f"{where}: {label!r} names no class of {PACKAGE}")
    kind = getattr(importlib.import_module(f"{PACKAGE}.{match[1]}"), match[2], None)
    if not isinstance(kind, type) or not _is_ours(kind):
        raise ConfigError(
            f"{where}: {label!r} names no module and no frozen dataclass of {PACKAGE}"
        )
    return kind


def _is_ours(kind):
    if not kind.__module__.startswith(f"{PACKAGE.split('.')[0]}."):
        return False
    frozen = getattr(kind, "__dataclass_params__", None)
    return issubclass(kind, nn.Module) or (frozen is not None and frozen.frozen)


def _is_scalar_type(value):
    return isinstance(value, type) and issubclass(value, np.generic)


def _of_linen(kind, name):
    return issubclass(kind, nn.Module) and name in NOT_STORED


def _mapping(value, where):
    if not isinstance(value, dict):
        raise ConfigError(f"{where} is not a JSON object")
    return value
