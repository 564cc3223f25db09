"""The command line of all entry points: flags, a config file and its overrides.

absl keeps the flags and ml_collections assigns the overrides. Before they see the
command line, everything that can be wrong with it is collected here, so that each
error is one line that names the way out. A config file is Python and is executed.
"""

import functools
import os
import re
import sys
import textwrap
import traceback
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags as absl_flags
from ml_collections import ConfigDict, config_flags

from experiments import config_file, fields
from experiments.config_file import nearest
from jaxmodels.train.errors import (
    INTERRUPTED,
    ConfigError,
    DivergedError,
    Preempted,
    RunError,
)

DISTRIBUTED = "jaxmodels.train.distributed"
CONFIG_HELP = (
    "Config file, executed as Python; relative to here or to the repository. "
    "--config.<field>=<value> overrides a field."
)


class Flag(NamedTuple):
    """A flag of an entry point.

    Attributes:
        name: without dashes.
        kind: str, int, bool, or a function from text to value that raises `ValueError`.
        help: one sentence.
        meta: what the help shows after the equals sign.
        example: makes the flag required; a value to offer where it is missing.
    """

    name: str
    kind: Callable[[str], Any]
    help: str
    meta: str = "VALUE"
    example: str | None = None


class _Parser(absl_flags.ArgumentParser):
    """Makes an absl parser of a function."""

    def __init__(self, function):
        self._function = function

    def parse(self, argument):
        return self._function(argument)


class Arguments(NamedTuple):
    """A command line without errors.

    Attributes:
        config: the config, overrides assigned, locked.
        source: what --config named, such as "configs/performer/lm.py:tiny".
        module: the config file as a module.
        flags: flag -> value.
        words: all that was given but --config, one "--name=text" each.
    """

    config: ConfigDict
    source: str
    module: types.ModuleType
    flags: Mapping[str, Any]
    words: Sequence[str]


def run(main, flags, argv=None, *, doc=""):
    """Calls `main(arguments)` and returns the exit code; errors go to stderr.

    A `RunError` is printed one line each, without a traceback: whatever else escapes is
    a bug and keeps its traceback.

    Args:
        main: takes `Arguments` and returns an exit code, or None for 0.
        flags: the `Flag`s of this entry point.
        argv: words after the program's name; those of this process when omitted.
        doc: help text of the entry point.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        arguments = parse(argv, flags, doc=doc)
        return 0 if arguments is None else main(arguments) or 0
    except RunError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        if not isinstance(error, Preempted | DivergedError):  # those end all processes
            _leave(error.exit_code)
        return error.exit_code
    except KeyboardInterrupt as interrupt:
        print(f"interrupted: {interrupt or 'nothing was saved'}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read the output, such as head, has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception:
        if _has_others():
            traceback.print_exc()
            _leave(1)
        raise


def _leave(exit_code):
    """Ends this process at once where an ordinary exit would wait for the others."""
    if _has_others():
        sys.modules[DISTRIBUTED].leave(exit_code)


def _has_others():
    # Looked up, not imported: mistakes in the command line show before JAX is loaded.
    return DISTRIBUTED in sys.modules and not sys.modules[DISTRIBUTED].is_alone()


def parse(argv, flags, *, doc=""):
    """Parses a command line into `Arguments`; None after printing the help.

    Raises:
        ConfigError: with one line for each thing that is wrong.
    """
    words = [word for word in argv if not _is_help(word)]
    wants_help = len(words) < len(argv)
    source = _config_source(words)
    if source is None and wants_help:
        print(_help(flags, doc))
        return None
    if source is None:
        choices = config_file.listed(config_file.available())
        raise ConfigError(f"--config is required; the configs are {choices}")
    config, module = config_file.load(source)
    kinds = {flag.name: flag.kind for flag in flags}
    known = fields.flatten(config)
    kinds |= {f"config.{path}": kind for path, (kind, _) in known.items()}
    pairs, errors = _split(words, kinds)
    names = [name for name, _ in pairs]
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            errors.append(f"--{name} is given {names.count(name)} times; keep one")
    assigned: list[str] = []
    for name, text in pairs:
        try:
            assigned += _read(name, text, kinds, known)
        except KeyError:
            errors.append(_unknown(name, kinds, config, source))
        except ValueError as error:
            errors.append(str(error))
    for flag in flags:
        if flag.example and flag.name not in names and not wants_help:
            errors.append(
                f"--{flag.name} is required, such as --{flag.name}={flag.example}"
            )
    if errors:
        raise ConfigError("\n".join(dict.fromkeys(errors)))
    config, given = _assign(config, flags, assigned)
    arguments = Arguments(config, source, module, given, assigned)
    if wants_help:
        print(_help(flags, doc, arguments))
        return None
    return arguments


def _read(name, text, kinds, known):
    """The words by which absl is told of one flag; none for --config itself.

    Raises:
        KeyError: there is no such flag.
        ValueError: its text is not what it takes.
    """
    if name == "config":
        return []
    kind = kinds[name]
    if text is None:
        raise ValueError(f"--{name} needs a value: --{name}=VALUE")
    try:
        if not name.startswith("config."):
            _value(text, kind)
            return [f"--{name}={text}"]
        _, default = known[name.removeprefix("config.")]
        return fields.as_argument(name, _value(text, kind, default))
    except ValueError as error:
        raise ValueError(f"--{name}={text}: {error}") from error


def _value(text, kind, default=None):
    known = kind in fields.KINDS
    return fields.parse_text(text, kind, default) if known else kind(text)


def _assign(config, flags, argv):
    """Lets absl and ml_collections assign an `argv` in which nothing is wrong.

    Returns:
        The config, and {flag: value}.
    """
    parsed = absl_flags.FlagValues()
    for flag in flags:
        if flag.kind is bool:
            absl_flags.DEFINE_boolean(flag.name, False, flag.help, flag_values=parsed)
        else:
            read = functools.partial(_value, kind=flag.kind)
            absl_flags.DEFINE(
                _Parser(read), flag.name, None, flag.help, flag_values=parsed
            )
    holder = config_flags.DEFINE_config_dict(
        "config", config, CONFIG_HELP, flag_values=parsed, sys_argv=["", *argv]
    )
    try:
        parsed(["", *argv])
    except absl_flags.Error as error:
        raise ConfigError(" ".join(str(error).split())) from error
    return holder.value, {flag.name: parsed[flag.name].value for flag in flags}


def _is_help(word):
    return word.startswith("-") and word.lstrip("-") in ("help", "h")


def _config_source(argv):
    """The value of --config, or None."""
    for index, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if name in ("--config", "-config"):
            value = value if equals else "".join(argv[index + 1 : index + 2])
            if not value or value.startswith("--"):
                raise ConfigError("--config needs a value: --config=FILE[:SIZE]")
            return value
    return None


def _split(argv, kinds):
    """Words -> [(flag, text or None)], errors; `--name value` is one pair."""
    pairs, errors, words = [], [], list(argv)
    while words:
        word = words.pop(0)
        if not re.match(r"--?\w", word):
            errors.append(f"unexpected argument {word!r}; flags look like --name=value")
            continue
        name, equals, text = word.lstrip("-").partition("=")
        if not equals:
            if kinds.get(name) is bool:
                text = "true"
            elif name.startswith("no") and kinds.get(name[2:]) is bool:
                name, text = name[2:], "false"
            elif words and not re.match(r"--?[A-Za-z]", words[0]):
                text = words.pop(0)
            else:
                text = None
        pairs.append((name, text))
    return pairs, errors


def _unknown(name, kinds, config, source):
    """What to say about a flag, or a field of the config, that does not exist."""
    field = name.removeprefix("config.") if name.startswith("config.") else None
    fields_of_config = [x for x in kinds if x.startswith("config.")]
    moved = [x for x in fields_of_config if x.split(".")[-1] == name.split(".")[-1]]
    hint = f" (did you mean {moved[0]!r}?)" if moved else ""
    if not field:
        hint = hint or nearest(name, [*kinds, "config", "help"])
        return f"unknown flag --{name}{hint}; --help lists the flags"
    section = config
    for part in field.split("."):
        section = section.get(part) if isinstance(section, ConfigDict) else None
    if isinstance(section, ConfigDict):
        inside = ", ".join(f"--config.{field}.{key}" for key in list(section)[:3])
        return f"--config.{field} is a section; set its fields: {inside}, ..."
    hint = (hint or nearest(name, fields_of_config)).replace("'config.", "'")
    return f"{source} has no field {field!r}{hint}; --help lists the fields"


def _help(flags, doc, arguments=None):
    """Help text, with every field of the config where one is given."""
    rows = [("--config=FILE[:SIZE]", CONFIG_HELP)]
    for flag in flags:
        meta = "" if flag.kind is bool else f"={flag.meta}"
        rows.append((f"--{flag.name}{meta}", flag.help))
    rows.append(("--help", "This text; with --config, every field of the config too."))
    width = max(len(name) for name, _ in rows)
    lines = [doc.strip(), "", "Flags:"]
    for name, text in rows:
        head, *more = textwrap.wrap(text, 92 - width)
        lines += [f"  {name:{width}}  {head}", *(" " * (width + 4) + x for x in more)]
    if arguments is None:
        lines += ["", "Configs:"]
        for path in config_file.available():
            sizes = ", ".join(config_file.sizes(path))
            text = f"{path}  sizes {sizes}" if sizes else path
            lines += textwrap.wrap(
                text, 96, initial_indent="  ", subsequent_indent=" " * 8
            )
        return "\n".join(lines)
    known = fields.flatten(arguments.config)
    width = max(len(path) for path in known)
    lines += ["", f"Fields of {arguments.source} (--config.<field>=<value>):"]
    for path, (kind, value) in known.items():
        lines.append(f"  {path:{width}}  {kind.__name__:5}  {fields.as_text(value)}")
    return "\n".join(lines)
