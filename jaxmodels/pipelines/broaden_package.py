"""Packages a trained broadening model as a folder that `broaden` reads.

python -m jaxmodels.pipelines.broaden_package WORKDIR OUTPUT_DIR --card card.md

See `package` for which weights are stored, and how.
"""

import sys

import jax
import jax.numpy as jnp

from jaxmodels.pipelines import broaden_model
from jaxmodels.pipelines import package as packages
from jaxmodels.pipelines.generate import Parser
from jaxmodels.train.errors import INTERRUPTED, RunError

MAX_MEGABYTES = 6.0


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
        As `package.package`.

    Raises:
        ConfigError: no such run, a card without text, or a file above the limit.
        StorageError: no checkpoint can be restored, or a file cannot be written.
    """
    sampling = {key: value for key, value in sampling.items() if value is not None}

    def added(preprocessing):
        entries = {"trained_on": trained_on} if trained_on else {}
        if sampling:
            broaden_model.check_sampling(preprocessing, **sampling)
            entries["sampling"] = preprocessing.get("sampling", {}) | sampling
        return entries

    return packages.package(
        workdir,
        output,
        card,
        broaden_model.find_network,
        _predict,
        dtype=dtype,
        max_megabytes=max_megabytes,
        added=added,
    )


def _predict(model, variables):
    """The prediction on noise."""
    shape = 2, model.num_samples, model.channels
    noisy, condition = jax.random.normal(jax.random.key(0), (2, *shape))
    scalars = jnp.zeros((2, model.num_scalars))
    return model.apply(variables, noisy, jnp.full(2, 0.5), condition, scalars)[0]


def parser():
    """The command line."""
    flags = Parser(
        prog="python -m jaxmodels.pipelines.broaden_package",
        description=__doc__.split("\n")[0],
    )
    packages.add_flags(flags, MAX_MEGABYTES)
    flags.add_argument("--sampler", help="default of the pipeline")
    flags.add_argument("--steps", type=int, dest="num_steps", help="likewise")
    flags.add_argument("--guidance", type=float, help="likewise")
    return flags


def main(argv=None):
    """Writes the folder and prints its size; returns the exit code."""
    try:
        flags = vars(parser().parse_args(argv))
        card = packages.read_card(flags.pop("card"))
        workdir, output = flags.pop("workdir"), flags.pop("output")
        made = package(workdir, output, card, **flags)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    print(packages.told(output, made))
    return 0


if __name__ == "__main__":
    sys.exit(main())
