"""Config files: finding, executing and listing them."""

import difflib
import inspect
import pathlib
import traceback
import types

from ml_collections import ConfigDict

from experiments import fields
from jaxmodels.train.errors import ConfigError

ROOT = pathlib.Path(__file__).resolve().parents[1]


def nearest(name, names):
    """A question that offers the name most like `name`; empty when none is."""
    found = difflib.get_close_matches(str(name), list(names), n=1, cutoff=0.6)
    return f" (did you mean {found[0]!r}?)" if found else ""


def available():
    """Config files of the repository, relative to its root."""
    files = ROOT.glob("configs/*/*.py")
    names = sorted(path.relative_to(ROOT).as_posix() for path in files)
    return [name for name in names if not name.endswith("__init__.py")]


def listed(names):
    """Config files by their folders: "configs/performer/{classify,lm}.py, ...".

    What a shell makes of it are their names again.
    """
    folders: dict[str, list] = {}
    for name in names:
        folder, _, file = name.rpartition("/")
        folders.setdefault(folder, []).append(file.removesuffix(".py"))
    return ", ".join(
        f"{folder}/{{{','.join(files)}}}.py"
        if len(files) > 1
        else f"{folder}/{files[0]}.py"
        for folder, files in folders.items()
    )


def sizes(path):
    """Sizes that the config file at `path` names; empty when it has none."""
    return tuple(getattr(_execute(_find(path), path), "SIZES", ()))


def load(source):
    """The config that "FILE" or "FILE:SIZE" names, and the file as a module.

    Raises:
        ConfigError: there is no such file or size, the file raises, or what it returns
            is no config; one line each.
    """
    path, colon, size = source.partition(":")
    module = _execute(_find(path), path)
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise ConfigError(f"{path} defines no function get_config(size)")
    if colon:
        known = tuple(getattr(module, "SIZES", ()))
        if not inspect.signature(get_config).parameters:
            raise ConfigError(f"{path} has no sizes; write --config={path}")
        if known and size not in known:
            raise ConfigError(
                f"{path} has no size {size!r}{nearest(size, known)}; "
                f"the sizes are {', '.join(known)}"
            )
    try:
        config = get_config(size) if colon else get_config()
    except Exception as error:  # a config file is the user's code: anything may come
        raise ConfigError(_one_line(path, error)) from error
    if not isinstance(config, ConfigDict):
        raise ConfigError(
            f"{path}: get_config returned {type(config).__name__}, not a ConfigDict"
        )
    try:
        fields.flatten(config)
    except ValueError as error:
        lines = str(error).splitlines()
        raise ConfigError("\n".join(f"{path}: {line}" for line in lines)) from error
    return config.lock(), module


def _find(path):
    """The file, looked up from here and then from the root of the repository."""
    for candidate in (pathlib.Path(path), ROOT / path):
        if candidate.is_file():
            return candidate
    known = available()
    raise ConfigError(
        f"no config file {path!r}{nearest(path, known) or _choices(known)}"
    )


def _choices(names):
    return f"; the configs are {listed(names)}" if names else ""


def _execute(file, path):
    module = types.ModuleType(f"config_{file.stem}")
    module.__file__ = str(file)
    try:
        exec(compile(file.read_text(), str(file), "exec"), module.__dict__)
    except Exception as error:  # as above
        raise ConfigError(_one_line(path, error)) from error
    return module


def _one_line(path, error):
    """'configs/x.py line 3: NameError: ...' for what a config file raised."""
    if isinstance(error, SyntaxError):
        line, text = error.lineno, error.msg
    else:
        frames = traceback.extract_tb(error.__traceback__)
        inside = [f.lineno for f in frames if f.filename.endswith(path.split("/")[-1])]
        line, text = (inside or [None])[-1], " ".join(str(error).split())
    where = path if line is None else f"{path} line {line}"
    return f"{where}: {type(error).__name__}: {text}"
