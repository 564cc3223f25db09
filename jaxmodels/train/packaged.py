"""A trained model as a small folder that can be published or installed.

model.safetensors  the weights of every network, by the names of their variables
model.json         see `model_file`; `preprocessing["weights"]` has the digest and the
                   type of the stored weights, which hold the preprocessing once more
card.md            what the model was trained on, and what it is good for
"""

import hashlib
import json
import pathlib
import struct

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from jaxmodels.train import digest, model_file
from jaxmodels.train.errors import ConfigError, StorageError

WEIGHTS, CARD = "model.safetensors", "card.md"
PREPROCESSING = "preprocessing"  # in the metadata of the weights
DTYPES = ("float32", "float16")


def is_packaged(folder):
    """Whether a folder holds weights in this form."""
    return (pathlib.Path(folder) / WEIGHTS).is_file()


def write(folder, networks, variables, preprocessing, card, *, dtype="float32"):
    """Writes the three files; what is there by their names is replaced.

    Args:
        folder: made where it is missing.
        networks: {name: linen module} of classes in `jaxmodels.models`.
        variables: {name: {"params": tree, collection: tree, ...}}.
        preprocessing: see `model_file.write`.
        card: text, in Markdown.
        dtype: of floating weights on disk, one of DTYPES.

    Returns:
        Bytes of the weights' file.

    Raises:
        ConfigError: an unknown `dtype`, weights that are not finite in it, or fields
            that cannot be stored.
        StorageError: a file cannot be written.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype {dtype!r} is none of {', '.join(DTYPES)}")
    arrays = {name: _stored(name, x, dtype) for name, x in flat(variables).items()}
    told = json.dumps(model_file.encoded(preprocessing), sort_keys=True)
    data = safetensors.numpy.save(arrays, metadata={PREPROCESSING: told})
    described = {"sha256": hashlib.sha256(data).hexdigest(), "dtype": dtype}
    path = pathlib.Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        for name, content in ((WEIGHTS, data), (CARD, card.encode())):
            unfinished = path / f".{name}"
            unfinished.write_bytes(content)
            unfinished.replace(path / name)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error}") from None
    model_file.write(path, networks, {**preprocessing, "weights": described})
    return len(data)


def read(folder):
    """A packaged model.

    Returns:
        {name: linen module}, {name: variables}, floating ones as float32, and the
        preprocessing without its "weights".

    Raises:
        ConfigError: a file is missing or unreadable, or the weights are not those that
            `model.json` describes.
    """
    networks, preprocessing = model_file.read(folder)
    path = pathlib.Path(folder) / WEIGHTS
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"{path} cannot be read: {reason}") from None
    described = preprocessing.pop("weights", None) or {}
    if described.get("sha256") != hashlib.sha256(data).hexdigest():
        raise ConfigError(
            f"{path} is not the file that {model_file.FILE} beside it describes; "
            "copy both from the same model"
        )
    try:
        arrays = safetensors.numpy.load(data)
    except Exception as error:  # the library's own type, or a bare ValueError
        raise ConfigError(f"{path} is no whole safetensors file: {error}") from None
    model_file.check_same(preprocessing, _told(data), folder)
    leaves = {name: jnp.asarray(_loaded(x)) for name, x in arrays.items()}
    variables = digest.nest(leaves)
    if unknown := sorted(networks.keys() ^ variables.keys()):
        raise ConfigError(
            f"{folder}: network {unknown[0]!r} is not in both {WEIGHTS} and "
            f"{model_file.FILE}; copy both from the same model"
        )
    return networks, variables, preprocessing


def flat(variables):
    """Variables as numpy arrays by name, in alphabetical order."""
    leaves = digest.flatten(variables)
    return {name: np.asarray(leaves[name]) for name in sorted(leaves)}


def weights_digest(variables):
    """SHA-256 of variables, by names, shapes, types and values; hexadecimal."""
    found = hashlib.sha256()
    for name, x in flat(variables).items():
        found.update(f"{name} {x.dtype}{list(x.shape)}\n".encode())
        found.update(np.ascontiguousarray(x).tobytes())
    return found.hexdigest()


def _stored(name, x, dtype):
    if not np.issubdtype(x.dtype, np.floating):
        return np.ascontiguousarray(x)
    with np.errstate(over="ignore"):
        narrow = np.ascontiguousarray(x.astype(dtype))
    if not np.isfinite(narrow).all():
        raise ConfigError(
            f"{name} is not finite as {dtype}: its largest value is "
            f"{np.abs(x).max():g}; store float32"
        )
    return narrow


def _told(data):
    """The preprocessing in a whole safetensors file; None where it has none."""
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    told = header.get("__metadata__", {}).get(PREPROCESSING)
    return None if told is None else json.loads(told)


def _loaded(x):
    return x.astype(np.float32) if np.issubdtype(x.dtype, np.floating) else x
