"""Config values as text: what a field accepts, and how it is written.

A config holds int, float, bool, str and tuples of them, nested in sections, and typed
placeholders for what may be left out.
"""

import ast
import math

from ml_collections import ConfigDict

KINDS = (int, float, bool, str, tuple)


def flatten(config):
    """Dotted path -> (type, value) of every field, in the order of the config.

    Raises:
        ValueError: one line for each field that no command line could override.
    """
    fields, errors = {}, []

    def visit(section, prefix):
        for key in section:
            path, value = f"{prefix}{key}", section[key]
            if isinstance(value, ConfigDict):
                visit(value, f"{path}.")
                continue
            kind = section.get_type(key)
            if value is None and kind not in KINDS:
                errors.append(f"field {path!r} is None: use placeholder(<its type>)")
            elif isinstance(value, list):
                errors.append(f"field {path!r} is a list: use a tuple")
            elif kind not in KINDS:
                errors.append(
                    f"field {path!r} is a {kind.__name__}: a config holds int, float, "
                    f"bool, str, tuples of them and sections"
                )
            else:
                fields[path] = kind, value

    visit(config, "")
    if errors:
        raise ValueError("\n".join(errors))
    return fields


def parse_text(text, kind, default=None):
    """The value that `text` stands for in a field of type `kind`.

    An int may be written 1e5 or 100.0; nothing else is converted. A tuple may change
    its length when its elements are of one kind, and keeps it when they are not.

    Args:
        text: what follows the equals sign.
        kind: int, float, bool, str or tuple.
        default: the value so far: the model for tuples; None marks a placeholder,
            which the text "None" leaves empty.

    Raises:
        ValueError: what was expected instead.
    """
    if default is None and text == "None":
        return None
    if kind is int:
        return _parse_int(text)
    if kind is float:
        return _parse_float(text)
    if kind is bool:
        return _parse_bool(text)
    if kind is tuple:
        return _parse_tuple(text, default or ())
    if not text:
        raise ValueError("expected some text after the equals sign")
    return text


def _parse_int(text):
    try:
        return int(text)
    except ValueError:
        pass
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value.is_integer():
        raise ValueError(f"expected a whole number, not {text!r}")
    return int(value)


def _parse_float(text):
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise ValueError(f"expected a number, not {text!r}")
    return value


def _parse_bool(text):
    known = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in known:
        raise ValueError(f"expected true or false, not {text!r}")
    return known[text.lower()]


def _parse_tuple(text, model):
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        raise ValueError(
            f"expected a tuple such as {_example_of(model)}, not {text!r}"
        ) from None
    return _like(value, model)


def _like(value, model):
    """`value` as a tuple whose elements are of the kinds that `model` has."""
    if not isinstance(value, tuple):
        hint = f"; for one element write ({value!r},)" if model else ""
        raise ValueError(
            f"expected a tuple such as {_example_of(model)}, not {value!r}{hint}"
        )
    kinds = [type(element) for element in model]
    if len(set(kinds)) > 1 and len(value) != len(model):
        raise ValueError(
            f"expected {len(model)} elements as in {model!r}, got {len(value)}"
        )
    if not model:
        return value
    models = model if len(set(kinds)) > 1 else [model[0]] * len(value)
    return tuple(_element(x, like) for x, like in zip(value, models, strict=True))


def _element(value, model):
    kind = type(model)
    if kind is tuple:
        return _like(value, model)
    if kind is float and type(value) is int:
        return float(value)
    if kind is int and type(value) is float and value.is_integer():
        return int(value)
    if type(value) is not kind:
        raise ValueError(f"expected elements of type {kind.__name__}, not {value!r}")
    return value


def _example_of(value):
    """An example of the tuple that a field takes."""
    return repr(value) if value else "(1, 2)"


def as_text(value):
    """A value as a command line would write it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def as_argument(name, value):
    """The words that make absl and ml_collections assign `value` to `name`."""
    if value is None:
        return []
    return [f"--{name}={as_text(value)}"]
