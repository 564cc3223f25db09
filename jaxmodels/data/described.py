"""Preprocessing as `model.json` describes it: a dict of a dataclass's fields and kind.

Other entries, such as the data set, stand beside the fields.
"""

import dataclasses

from jaxmodels.train.errors import ConfigError


def preprocessing_from(cls, kind, entry, trained_on):
    """The preprocessing that a run's `model.json` names.

    Args:
        cls: dataclass of the fields.
        kind: that the entry has to be of.
        entry: dict.
        trained_on: what runs of that kind were trained on, for the message.

    Raises:
        ConfigError: it is of another kind, or a field is missing or impossible.
    """
    if entry.get("kind") != kind:
        raise ConfigError(
            f"preprocessing of kind {entry.get('kind')!r} is not {kind!r}: the run"
            f" was not trained on {trained_on}"
        )
    names = [field.name for field in dataclasses.fields(cls)]
    missing = [name for name in names if name not in entry]
    if missing:
        raise ConfigError(f"the preprocessing of the run has no {missing[0]!r}")
    return cls(**{name: entry[name] for name in names})


def entries_beside(preprocessing, entry):
    """The entries of a dict that are no fields of the preprocessing made of it."""
    names = {field.name for field in dataclasses.fields(preprocessing)}
    return {name: value for name, value in entry.items() if name not in names}
