"""What commands share that package a trained model as a small folder.

Weights are the averaged ones where the run keeps them. They are stored as float16
where float32 would pass the limit of size; how much the model's output changes by
that is returned and stands in `model.json`.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.data import builder
from jaxmodels.train import checkpoint, model_file, packaged
from jaxmodels.train.errors import ConfigError

DTYPES = ("auto", *packaged.DTYPES)


def package(
    workdir,
    output,
    card,
    find_network,
    predict,
    *,
    dtype,
    max_megabytes,
    added=None,
):
    """Writes the model of a run as `packaged.write` does.

    Args:
        workdir: folder of the run.
        output: folder to write.
        card: text of `card.md`.
        find_network: (workdir, networks) -> name of the one that is stored.
        predict: (model, variables) -> output on noise, to be held against that of
            rounded weights.
        dtype: one of DTYPES; "auto" is float32 where it fits.
        max_megabytes: largest file of weights, in 10^6 bytes.
        added: preprocessing -> entries that are added to it.

    Returns:
        {bytes, dtype, error}: the last is the relative root-mean-square change of the
        prediction.

    Raises:
        ConfigError: no such run, a card without text, or a file above the limit.
        StorageError: no checkpoint can be restored, or a file cannot be written.
    """
    if not card.strip():
        raise ConfigError("the card is empty; say what the model was trained on")
    if dtype not in DTYPES:
        raise ConfigError(f"dtype {dtype!r} is none of {', '.join(DTYPES)}")
    networks, preprocessing = model_file.read(workdir)
    name = find_network(workdir, networks)
    networks = {name: networks[name]}
    variables = checkpoint.restore_networks(
        workdir, networks=[name], preprocessing=preprocessing
    )
    size = sum(x.size for x in jax.tree.leaves(variables)) * 4
    if dtype == "auto":
        dtype = "float32" if size <= 1e6 * max_megabytes else "float16"
    size = size if dtype == "float32" else size // 2
    if size > 1e6 * max_megabytes:
        raise ConfigError(
            f"the weights of {workdir} take {size / 1e6:.1f} MB as {dtype}, above "
            f"{max_megabytes:g} MB; train a smaller model or raise --max_megabytes"
        )
    error = 0.0
    if dtype != "float32":
        error = _error(predict, networks[name], variables[name], dtype)
    preprocessing = {**without_places(preprocessing), "output_error": error}
    if added is not None:
        preprocessing |= added(preprocessing)
    written = packaged.write(
        output, networks, variables, preprocessing, card, dtype=dtype
    )
    return {"bytes": written, "dtype": dtype, "error": error}


def read_card(path):
    """The text of a card.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return pathlib.Path(path).read_text()
    except (OSError, ValueError) as error:
        raise ConfigError(f"card {path} cannot be read: {error}") from None


def add_flags(flags, max_megabytes):
    """The flags of a command that packages a model."""
    flags.add_argument("workdir", help="folder of the run")
    flags.add_argument("output", help="folder to write")
    flags.add_argument("--card", required=True, help="Markdown file about the model")
    flags.add_argument("--dtype", default="auto", choices=DTYPES)
    flags.add_argument("--trained_on", help="what every run prints about the training")
    flags.add_argument("--max_megabytes", type=float, default=max_megabytes)


def told(output, made):
    """A line about what `package` wrote."""
    return (
        f"{output}: {made['bytes'] / 1e6:.2f} MB of {made['dtype']} weights; relative "
        f"change of the prediction by rounding {made['error']:.1e}"
    )


def without_places(preprocessing):
    """A preprocessing whose data sets in folders keep the folders' names alone.

    Where they were on the machine of the training run says nothing elsewhere.
    """
    if not isinstance(preprocessing, dict):
        return preprocessing
    kept = {name: without_places(value) for name, value in preprocessing.items()}
    if isinstance(kept.get("dataset"), str) and builder.is_path(kept["dataset"]):
        kept["dataset"] = pathlib.PurePath(kept["dataset"]).name
    return kept


def _error(predict, model, variables, dtype):
    """Relative change of the prediction where weights are rounded to a type."""

    def rounded(x):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        return x.astype(dtype).astype(x.dtype)

    run = jax.jit(lambda variables: predict(model, variables))
    exact, changed = map(run, (variables, jax.tree.map(rounded, variables)))
    scale = float(jnp.sqrt(jnp.mean(exact**2))) or 1.0
    return float(np.float32(jnp.sqrt(jnp.mean((changed - exact) ** 2)) / scale))
