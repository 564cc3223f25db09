"""Named arrays of a published model, each to be used exactly once.

Files are read without running any code that they hold: safetensors, or PyTorch's
format restricted to tensors.
"""

import pathlib

import numpy as np
from safetensors import safe_open

from jaxmodels.train.errors import ConfigError

# Names that a message lists before it breaks off.
LISTED = 8


class Weights:
    """Arrays by name; `take` hands each out once and `finish` asks for the rest.

    Args:
        arrays: {name: array}.
        source: what they come from, for messages.
    """

    def __init__(self, arrays, source="the state dict"):
        self.arrays = dict(arrays)
        self.source = source
        self.taken = set()

    def __contains__(self, name):
        return name in self.arrays

    def names(self):
        return list(self.arrays)

    def shape(self, name):
        """The shape of an array that stays to be taken."""
        return self._find(name).shape

    def take(self, name, *shape):
        """The array called `name`, float32.

        Raises:
            ConfigError: there is none, it was taken before, or it has another shape.
        """
        array = self._find(name)
        if name in self.taken:
            raise ConfigError(f"{name} of {self.source} would be used twice")
        if array.shape != shape:
            raise ConfigError(
                f"{name} of {self.source} has the shape {list(array.shape)}, and the "
                f"other arrays ask for {list(shape)}; is the file whole?"
            )
        self.taken.add(name)
        return array.astype(np.float32)

    def drop(self, name):
        """Leaves out an array that the function of the model does not read."""
        self._find(name)
        self.taken.add(name)

    def finish(self):
        """Raises ConfigError where arrays are left over, and names them."""
        left = [name for name in self.arrays if name not in self.taken]
        if left:
            raise ConfigError(
                f"{len(left)} arrays of {self.source} have no place in this model: "
                f"{listed(left)}; check the arguments of the conversion"
            )

    def _find(self, name):
        if name not in self.arrays:
            raise ConfigError(
                f"{self.source} has no {name}; it has {listed(self.arrays)}. Is it of "
                "another model, or are the arguments of the conversion?"
            )
        return self.arrays[name]


def read(source):
    """The arrays of a state dict, or of a file that holds one.

    Args:
        source: {name: array or torch tensor}, or a path: `.safetensors`, or anything
            else that `torch.save(model.state_dict(), path)` wrote.

    Returns:
        {name: numpy array}. A name that a safetensors file only refers to stands for
        the array of the other.

    Raises:
        ConfigError: no such file, not a state dict, or torch is missing.
    """
    if not isinstance(source, str | pathlib.Path):
        return _arrays(source, "the state dict")
    path = pathlib.Path(source)
    if not path.is_file():
        raise ConfigError(f"there is no file {path}; give the path of the weights")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _arrays(_read_torch(path), str(path))


def listed(names):
    """The first names in one line, and how many more there are."""
    names = sorted(names)
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _read_safetensors(path):
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            aliases = file.metadata() or {}
    except Exception as error:
        raise ConfigError(f"{path} is no whole safetensors file: {error}") from error
    for name, kept in aliases.items():
        if kept in arrays:
            arrays.setdefault(name, arrays[kept])
    return arrays


def _read_torch(path):
    try:
        import torch
    except ImportError as error:
        raise ConfigError(
            f"{path} needs torch to be read: pip install torch, or save the weights "
            "as .safetensors"
        ) from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ConfigError(
            f"{path} is not what torch.save(model.state_dict(), path) writes: {error}"
        ) from error


def _arrays(state, source):
    if not hasattr(state, "items"):
        raise ConfigError(
            f"{source} holds a {type(state).__name__}, not a state dict; save "
            "model.state_dict() instead"
        )
    wrong = [str(name) for name, x in state.items() if not hasattr(x, "shape")]
    if wrong:
        raise ConfigError(
            f"{source} holds other things than arrays under {listed(wrong)}; give the "
            "state dict of the model alone"
        )
    return {name: _array(x) for name, x in state.items()}


def _array(x):
    if hasattr(x, "detach"):
        x = x.detach().cpu()
        # NumPy has no bfloat16 of its own.
        x = (x.float() if x.is_floating_point() else x).numpy()
    return np.asarray(x)
