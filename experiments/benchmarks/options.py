"""Numbers on the command line of a benchmark, refused where they make no sense."""

import argparse


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
