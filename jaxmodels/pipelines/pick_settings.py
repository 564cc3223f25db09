"""The keywords of a picker, as SeisBench has them: defaults and limits."""

from typing import NamedTuple

import numpy as np

from jaxmodels.pipelines import pick_windows
from jaxmodels.train.errors import ConfigError

THRESHOLD = 0.3
OVERLAP = 0.5
BATCH_SIZE = 16
# A model that looks back only knows little at the start of a window.
LOOKING_BACK = 0.25


class Settings(NamedTuple):
    """What a user asks for, checked.

    Attributes:
        windows: `pick_windows.Windows`.
        thresholds: of P and S.
        strict: whether all components must be there.
    """

    windows: pick_windows.Windows
    thresholds: tuple[float, float]
    strict: bool


def defaults(num_samples, looks_back_only, own=None):
    """All keywords with their defaults.

    Args:
        num_samples: of a window.
        looks_back_only: of the model.
        own: those that the model was packaged with.
    """
    before = round(LOOKING_BACK * num_samples) if looks_back_only else 0
    return {
        "P_threshold": THRESHOLD,
        "S_threshold": THRESHOLD,
        "overlap": OVERLAP,
        "blinding": (before, 0),
        "stacking": "avg",
        "batch_size": BATCH_SIZE,
        "strict": False,
    } | (own or {})


def make_settings(usual, num_samples, keywords):
    """`Settings` of keywords; those that are None or missing are as in `usual`.

    Raises:
        ConfigError: one is unknown or out of its range.
    """
    if unknown := sorted(keywords.keys() - usual.keys()):
        raise ConfigError(
            f"{unknown[0]!r} is no keyword of a picker; it has {', '.join(usual)}"
        )
    chosen = usual | {name: x for name, x in keywords.items() if x is not None}
    windows = pick_windows.make_windows(
        num_samples,
        overlap=chosen["overlap"],
        blinding=chosen["blinding"],
        stacking=chosen["stacking"],
        batch_size=chosen["batch_size"],
    )
    thresholds = (_threshold(chosen, "P"), _threshold(chosen, "S"))
    return Settings(windows, thresholds, bool(chosen["strict"]))


def _threshold(chosen, phase):
    value = chosen[f"{phase}_threshold"]
    if not (isinstance(value, (int, float, np.number)) and 0 < value < 1):
        raise ConfigError(f"{phase}_threshold {value!r} must be above 0 and below 1")
    return float(value)
