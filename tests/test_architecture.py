"""Imports point downward, files stay short, and nothing opens a pickle."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = sorted(
    path
    for folder in ("jaxmodels", "experiments", "configs", "tests")
    for path in (ROOT / folder).rglob("*.py")
)
# Package -> packages of jaxmodels that it may import.
BELOW = {
    "signal": {"signal"},
    "layers": {"layers", "signal"},
    "losses": {"losses", "layers", "signal"},
    "diffusion": {"diffusion", "layers", "losses", "signal"},
    "metrics": {"metrics", "signal"},
    "models": {"models", "layers", "losses", "diffusion", "metrics", "signal"},
    # Of the loop, data and converters know nothing but its errors.
    "data": {"data", "signal", "train.errors"},
    "convert": {"convert", "models", "layers", "signal", "train.errors"},
    "train": {"train", "metrics"},
    "pipelines": None,
}
# Packages that other JAX code imports single modules from.
LIGHT = ("signal", "layers", "losses", "diffusion", "metrics", "models")
LIGHT_LIBRARIES = {"jax", "flax", "chex", "numpy", "optax", "scipy"}
STANDARD = {"__future__", "collections", "dataclasses", "difflib", "functools"} | {
    "inspect",
    "itertools",
    "math",
    "operator",
    "re",
    "typing",
    "warnings",
}
UNSAFE = re.compile(
    r"weights_only\s*=\s*False|allow_pickle\s*=\s*True|pickle\.loads?\(|yaml\.load\("
    r"|trust_remote_code\s*=\s*True"
)
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|NotImplemented)\b")


def imports(path):
    """Dotted names of all modules that a file imports, as far as can be told."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative imports hide what is imported"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def in_package(module, packages):
    """Whether "jaxmodels.a.b..." lies in one of the packages "a" or "a.b"."""
    inside = module.removeprefix("jaxmodels.")
    return any(inside == name or inside.startswith(f"{name}.") for name in packages)


def test_every_package_has_an_import_rule():
    folders = {path.parent.name for path in (ROOT / "jaxmodels").glob("*/__init__.py")}
    assert folders <= set(BELOW)


@pytest.mark.parametrize("package", BELOW)
def test_package_imports_only_what_is_below_it(package):
    for path in (ROOT / "jaxmodels" / package).rglob("*.py"):
        for module in imports(path):
            top = module.split(".")[0]
            assert top not in ("experiments", "configs", "tests"), f"{path}: {module}"
            if top == "jaxmodels" and BELOW[package] is not None:
                assert in_package(module, BELOW[package]), f"{path}: {module}"


@pytest.mark.parametrize("package", LIGHT)
def test_a_module_to_reuse_needs_only_jax_and_numpy(package):
    for path in (ROOT / "jaxmodels" / package).rglob("*.py"):
        tops = {module.split(".")[0] for module in imports(path)}
        heavy = tops - LIGHT_LIBRARIES - STANDARD - {"jaxmodels"}
        assert not heavy, f"{path} imports {heavy}"


def test_configs_import_only_ml_collections():
    for path in (ROOT / "configs").rglob("*.py"):
        tops = {module.split(".")[0] for module in imports(path)}
        assert tops <= {"ml_collections"}, f"{path} imports {tops}"


def test_nothing_imports_an_experiment_but_experiments_and_tests():
    for path in (ROOT / "jaxmodels").rglob("*.py"):
        for module in imports(path):
            assert module.split(".")[0] != "experiments", f"{path}: {module}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_file_is_short_finished_and_opens_no_pickle(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    if path == pathlib.Path(__file__):
        return
    assert not UNFINISHED.search(text)
    if "tests" not in path.relative_to(ROOT).parts:
        assert not UNSAFE.search(text)


def test_there_is_no_utils_module():
    assert not [path for path in SOURCES if path.stem in ("utils", "util", "helpers")]
