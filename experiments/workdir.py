"""The folder of a run: whose it is, and the config that it was started with."""

import json
import uuid

from etils import epath

from jaxmodels.train.errors import ConfigError

CONFIG_FILE = "config.json"
# What a resumed run may change, as sections or fields.
CHANGEABLE = (
    "mesh",
    "limits",
    "num_steps",
    "log_every",
    "eval_every",
    "save_every",
    "data.num_threads",
    "data.num_workers",
)
PROBE = ".write-test-"
SHOWN = 3  # differences that an error names


def check(workdir, config):
    """Makes the folder where it is missing, and checks that this run may use it.

    Raises:
        ConfigError: the folder cannot be written, holds something else, or belongs to
            a run with another config.
    """
    folder = epath.Path(workdir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f"{PROBE}{uuid.uuid4().hex}"
        probe.write_text("")
        probe.unlink()
        entries = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(
            f"workdir {workdir} cannot be written ({reason}); choose another --workdir"
        ) from error
    # Another process of the same run may be probing at this moment.
    entries = [name for name in entries if not name.startswith(PROBE)]
    if CONFIG_FILE in entries:
        check_same_config(workdir, config)
    elif entries:
        raise ConfigError(
            f"workdir {workdir} holds {entries[0]!r} but no {CONFIG_FILE}, so no run "
            f"made it; choose an empty or a new --workdir"
        )


def write_config(workdir, config):
    """Writes `config.json`."""
    write_json(workdir, CONFIG_FILE, json.loads(config.to_json()))


def write_json(workdir, name, content):
    """Writes a JSON file, whole or not at all, and returns its path."""
    path = epath.Path(workdir) / name
    temporary = path.parent / f".{name}"
    temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    return temporary.replace(path)


def read_config(workdir):
    """The config of the run in `workdir` as nested dicts.

    Raises:
        ConfigError: there is no run in it, or its `config.json` cannot be read.
    """
    path = epath.Path(workdir) / CONFIG_FILE
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ConfigError(
            f"{workdir} holds no {CONFIG_FILE}, so no run; give the --workdir of a run"
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} cannot be read ({error}); restore it or choose another --workdir"
        ) from error
    if not isinstance(config, dict) or "experiment" not in config:
        raise ConfigError(
            f"{path} is no config of a run; choose an empty or a new --workdir"
        )
    return config


def checkpoints(workdir):
    """The folder of checkpoints; the state after update n is in the folder n of it."""
    return epath.Path(workdir) / "checkpoints"


def check_same_config(workdir, config, sections=None):
    """Checks that a run was started with this config, up to what a resume may change.

    Args:
        sections: what to compare; everything when omitted.

    Raises:
        ConfigError: it was not; names the first differences.
    """
    found = [
        difference
        for difference in differences(
            read_config(workdir), json.loads(config.to_json())
        )
        if sections is None or difference[0].split(".")[0] in sections
    ]
    if not found:
        return
    texts = [f"{path} is {old} there and {new} here" for path, old, new in found]
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    raise ConfigError(
        f"workdir {workdir} belongs to another config: {', '.join(texts[:SHOWN])}"
        f"{more}; choose another --workdir or the same config"
    )


def differences(old, new):
    """[(path, old value, new value)] that no resumed run may have."""
    old, new = _flat(old), _flat(new)
    return [
        (path, old.get(path, "absent"), new.get(path, "absent"))
        for path in sorted({*old, *new})
        if old.get(path, "absent") != new.get(path, "absent")
        and not any(path == part or path.startswith(f"{part}.") for part in CHANGEABLE)
    ]


def _flat(nested, prefix=""):
    flat: dict = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
