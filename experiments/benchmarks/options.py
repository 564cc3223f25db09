"""The command line of a benchmark: what all have, and numbers that make sense."""

import argparse


def base_parser(module, description, output):
    """The parser of a benchmark, with `--output`."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", default=output, help="folder to write to")
    return parser


def comparison_parser(module, description, output, *, names, budget):
    """The parser of a benchmark that compares implementations within a budget."""
    parser = base_parser(module, description, output)
    add = parser.add_argument
    add("--names", default=names, help="implementations, with commas")
    add("--budget", type=float, default=budget, help="seconds")
    add("--memory_limit", type=float, help="GiB; default: 65 %% of what is free")
    add("--probe", help=argparse.SUPPRESS)
    return parser


def lengths(text):
    """Ascending integers from text such as 1024,4096, each of them once.

    Raises:
        ArgumentTypeError: one is no integer, or less than 1.
    """
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text}: give integers such as 1024,4096"
        ) from None
    if found[0] < 1:
        raise argparse.ArgumentTypeError(f"{found[0]} must be at least 1")
    return found


def count(text):
    """An integer from 1 on.

    Raises:
        ArgumentTypeError: it is none.
    """
    try:
        found = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: give an integer") from None
    if found < 1:
        raise argparse.ArgumentTypeError(f"{found} must be at least 1")
    return found


def check_names(parser, names, known):
    """Leaves the program by `parser.error` where a name is not among the known ones."""
    unknown = set(names) - set(known)
    if unknown:
        listed = ", ".join(sorted(unknown))
        parser.error(f"--names: unknown {listed}; known: {', '.join(known)}")
