"""Packages a trained picker as a folder that `pick` reads.

python -m jaxmodels.pipelines.pick_package WORKDIR OUTPUT_DIR --card card.md \\
  --P_threshold 0.35 --S_threshold 0.3

See `package` for which weights are stored, and how.
"""

import sys

import jax

from jaxmodels.data.waveform_windows import WindowPreprocessing
from jaxmodels.pipelines import package as packages
from jaxmodels.pipelines import pick_model, pick_settings
from jaxmodels.pipelines.generate import Parser
from jaxmodels.train import model_file
from jaxmodels.train.errors import INTERRUPTED, RunError

MAX_MEGABYTES = 5.0
SHORT = 1024  # samples of the noise that rounding is tried on


def package(
    workdir,
    output,
    card,
    *,
    dtype="auto",
    trained_on=None,
    max_megabytes=MAX_MEGABYTES,
    **picking,
):
    """Writes the picker of a run as `packaged.write` does.

    Args:
        workdir: folder of the run of a picker.
        output: folder to write.
        card: text of `card.md`.
        dtype: "float32", "float16", or "auto": float32 where it fits.
        trained_on: text that every run of the pipeline prints; the data set and split
            of the run when omitted.
        max_megabytes: largest file of weights, in 10^6 bytes.
        picking: defaults of the pipeline, keywords of `Picker.classify`.

    Returns:
        As `package.package`.

    Raises:
        ConfigError: no such run, a card without text, an unknown keyword or one out of
            its range, or a file above the limit.
        StorageError: no checkpoint can be restored, or a file cannot be written.
    """
    picking = {key: value for key, value in picking.items() if value is not None}
    networks, described = model_file.read(workdir)
    model = networks[pick_model.find_network(workdir, networks)]
    length = WindowPreprocessing.from_json(described).num_samples
    usual = pick_settings.defaults(length, pick_model.looks_back_only(model))
    pick_settings.make_settings(usual, length, picking)

    def added(preprocessing):
        entries = {"trained_on": trained_on} if trained_on else {}
        if picking:
            entries["picking"] = preprocessing.get("picking", {}) | picking
        return entries

    return packages.package(
        workdir,
        output,
        card,
        pick_model.find_network,
        _predict,
        dtype=dtype,
        max_megabytes=max_megabytes,
        added=added,
    )


def _predict(model, variables):
    """Probabilities of noise."""
    noise = jax.random.normal(jax.random.key(0), (2, SHORT, model.channels))
    return jax.nn.softmax(model.apply(variables, noise))


def parser():
    """The command line."""
    flags = Parser(
        prog="python -m jaxmodels.pipelines.pick_package",
        description=__doc__.split("\n")[0],
    )
    packages.add_flags(flags, MAX_MEGABYTES)
    flags.add_argument("--P_threshold", type=float, help="default of the pipeline")
    flags.add_argument("--S_threshold", type=float, help="likewise")
    flags.add_argument("--overlap", type=float, help="likewise")
    flags.add_argument("--stacking", help="likewise")
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
