"""Packages a trained broadening model as a folder that `broaden` reads.

python -m jaxmodels.pipelines.broaden_package WORKDIR OUTPUT_DIR --card card.md

Weights are the averaged ones where the run keeps them. They are stored as float16
where float32 would pass the limit of size; how much the model's output changes by
that is printed and stands in `model.json`.
"""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.pipelines import broaden_model
from jaxmodels.pipelines.generate import Parser
from jaxmodels.train import checkpoint, model_file, packaged
from jaxmodels.train.errors import INTERRUPTED, ConfigError, RunError

MAX_MEGABYTES = 6.0
DTYPES = ("auto", *packaged.DTYPES)


def package(
    workdir,
    output,
    card,
    *,
    dtype="auto",
    trained_on=None,
    max_megabytes=MAX_MEGABYTES,
    **sampling,
):
    """Writes the model of a run as `packaged.write` does.

    Args:
        workdir: folder of the run of a broadening model.
        output: folder to write.
        card: text of `card.md`.
        dtype: "float32", "float16", or "auto": float32 where it fits.
        trained_on: text that every run of the pipeline prints; the data set and split
            of the run when omitted.
        max_megabytes: largest file of weights, in 10^6 bytes.
        sampling: defaults of the pipeline, of `sampler`, `num_steps` and `guidance`.

    Returns:
        {bytes, dtype, error}: the last is the relative root-mean-square change of the
        prediction on noise.

    Raises:
        ConfigError: no such run, a card without text, or a file above the limit.
        StorageError: no checkpoint can be restored, or a file cannot be written.
    """
    if not card.strip():
        raise ConfigError("the card is empty; say what the model was trained on")
    if dtype not in DTYPES:
        raise ConfigError(f"dtype {dtype!r} is none of {', '.join(DTYPES)}")
    networks, preprocessing = model_file.read(workdir)
    name = broaden_model.find_network(workdir, networks)
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
    error = _error(networks[name], variables[name], dtype)
    preprocessing = {**preprocessing, "output_error": error}
    if trained_on:
        preprocessing["trained_on"] = trained_on
    sampling = {key: value for key, value in sampling.items() if value is not None}
    if sampling:
        broaden_model.check_sampling(preprocessing, **sampling)
        preprocessing["sampling"] = preprocessing.get("sampling", {}) | sampling
    written = packaged.write(
        output, networks, variables, preprocessing, card, dtype=dtype
    )
    return {"bytes": written, "dtype": dtype, "error": error}


def _error(model, variables, dtype):
    """Relative change of the prediction where weights are rounded to a type."""

    def rounded(x):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        return x.astype(dtype).astype(x.dtype)

    @jax.jit
    def predict(variables):
        return model.apply(variables, noisy, jnp.full(2, 0.5), condition, scalars)[0]

    if dtype == "float32":
        return 0.0
    shape = 2, model.num_samples, model.channels
    noisy, condition = jax.random.normal(jax.random.key(0), (2, *shape))
    scalars = jnp.zeros((2, model.num_scalars))
    exact, changed = map(predict, (variables, jax.tree.map(rounded, variables)))
    scale = float(jnp.sqrt(jnp.mean(exact**2))) or 1.0
    return float(np.float32(jnp.sqrt(jnp.mean((changed - exact) ** 2)) / scale))


def parser():
    """The command line."""
    flags = Parser(
        prog="python -m jaxmodels.pipelines.broaden_package",
        description=__doc__.split("\n")[0],
    )
    flags.add_argument("workdir", help="folder of the run")
    flags.add_argument("output", help="folder to write")
    flags.add_argument("--card", required=True, help="Markdown file about the model")
    flags.add_argument("--dtype", default="auto", choices=DTYPES)
    flags.add_argument("--trained_on", help="what every run prints about the training")
    flags.add_argument("--max_megabytes", type=float, default=MAX_MEGABYTES)
    flags.add_argument("--sampler", help="default of the pipeline")
    flags.add_argument("--steps", type=int, dest="num_steps", help="likewise")
    flags.add_argument("--guidance", type=float, help="likewise")
    return flags


def main(argv=None):
    """Writes the folder and prints its size; returns the exit code."""
    try:
        flags = vars(parser().parse_args(argv))
        path = flags.pop("card")
        try:
            card = pathlib.Path(path).read_text()
        except (OSError, ValueError) as error:
            raise ConfigError(f"card {path} cannot be read: {error}") from None
        workdir, output = flags.pop("workdir"), flags.pop("output")
        made = package(workdir, output, card, **flags)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    print(
        f"{output}: {made['bytes'] / 1e6:.2f} MB of {made['dtype']} weights; relative "
        f"change of the prediction by rounding {made['error']:.1e}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
