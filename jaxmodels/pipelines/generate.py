"""Text from a trained model, at constant time a token.

python -m jaxmodels.pipelines.generate --checkpoint runs/lm --prompt "def "
python -m jaxmodels.pipelines.generate --checkpoint runs/reverse --prompt abc \\
  --beam_size 4

A language model continues the prompt; a sequence-to-sequence model reads it as its
source, and what is printed is the target.
"""

import argparse
import sys

import jax

from jaxmodels.pipelines import beam
from jaxmodels.pipelines.decoding import check_sampling, generate
from jaxmodels.pipelines.text_models import (
    PairFormat,
    check_search,
    encode,
    generate_targets,
    generate_text,
    load,
)
from jaxmodels.train.errors import INTERRUPTED, ConfigError, RunError

__all__ = ["generate", "generate_targets", "generate_text", "load", "main"]


class Parser(argparse.ArgumentParser):
    """Raises what is wrong with the command line instead of leaving the process."""

    def error(self, message):
        raise ConfigError(f"{message}; see --help")


def parser():
    """The command line."""
    flags = Parser(
        prog="python -m jaxmodels.pipelines.generate",
        description=__doc__.split("\n")[0],
    )
    flags.add_argument("--checkpoint", required=True, help="folder of a run")
    flags.add_argument(
        "--prompt", default="", help="beginning of the text, or the source of a target"
    )
    add_search_flags(flags)
    flags.add_argument("--num_samples", type=int, default=1)
    return flags


def add_search_flags(flags):
    """The flags that say how tokens are chosen."""
    flags.add_argument(
        "--max_tokens", type=int, help="default 200 or the longest trained target"
    )
    flags.add_argument(
        "--temperature",
        type=float,
        help="0 is greedy; default 0.8, and 0 for sequence to sequence",
    )
    flags.add_argument("--top_k", type=int, help="draw among the K most likely")
    flags.add_argument("--top_p", type=float, help="draw among the top P")
    flags.add_argument(
        "--beam_size", type=int, default=1, help="search with so many beams"
    )
    flags.add_argument(
        "--length_penalty", type=float, help=f"of the beams, {beam.LENGTH_PENALTY}"
    )
    flags.add_argument("--seed", type=int, default=0)


def search_settings(flags, num_samples=1):
    """How tokens are chosen, by the flags of `add_search_flags`, as keywords.

    Raises:
        ConfigError: one is out of its range, or two contradict each other.
    """
    names = ("temperature", "top_k", "top_p")
    sampling = {name: getattr(flags, name) for name in names}
    sampling = {name: value for name, value in sampling.items() if value is not None}
    penalty = flags.length_penalty
    if penalty is None:
        penalty = beam.LENGTH_PENALTY
    elif flags.beam_size == 1:
        raise ConfigError("length_penalty needs a beam_size above 1")
    check_sampling(1 if flags.max_tokens is None else flags.max_tokens, **sampling)
    check_search(num_samples, flags.beam_size, penalty, **sampling)
    return {
        "num_samples": num_samples,
        "max_tokens": flags.max_tokens,
        "beam_size": flags.beam_size,
        "length_penalty": penalty,
        **sampling,
    }


def main(argv=None):
    """Prints texts; returns the exit code."""
    try:
        flags = parser().parse_args(argv)
        settings = search_settings(flags, flags.num_samples)
        texts = _run(flags, settings)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    separator = "\n" + "-" * 72 + "\n"
    print(separator.join(texts))
    return 0


def _run(flags, settings):
    model, variables, form = load(flags.checkpoint)
    pairs = isinstance(form, PairFormat)
    if settings["beam_size"] == 1:
        settings.setdefault("temperature", 0.0 if pairs else 0.8)
    rng = jax.random.key(flags.seed)
    if not pairs:
        return generate_text(model, variables, form, flags.prompt, rng, **settings)
    count = encode(form.source_vocabulary, flags.prompt, "prompt").size
    if not count:
        raise ConfigError("--prompt is empty; give it the source, such as a sentence")
    if count > form.source_length:
        print(
            f"warning: of the {count} tokens of the source the first "
            f"{form.source_length} are read",
            file=sys.stderr,
        )
    (new,) = generate_targets(model, variables, form, [flags.prompt], rng, **settings)
    return [form.vocabulary.decode(row) for row in new]


if __name__ == "__main__":
    sys.exit(main())
