"""Checks that every config passes before a device is touched, all of them at once.

An experiment adds its own in `check(config)`. What depends on the number of devices is
checked once that is known, and before anything is allocated.
"""

import importlib
import inspect
import math
import re

from ml_collections import ConfigDict

from experiments import fields
from experiments.config_file import ROOT, nearest
from jaxmodels.train.errors import ConfigError

SECTIONS = {
    "experiment": str,
    "seed": int,
    "model": ConfigDict,
    "data": ConfigDict,
    "loss": ConfigDict,
    "optimizer": ConfigDict,
    "eval": ConfigDict,
    "num_steps": int,
    "log_every": int,
    "eval_every": int,
    "save_every": int,
    "limits": ConfigDict,
    "mesh": ConfigDict,
}
# A run to start from, for experiments that name in `PRETRAINED` what they take of it.
OPTIONAL = {"pretrained": str}
_COUNT, _WHOLE, _SIZE = (1, math.inf), (0, math.inf), (0.0, math.inf)
_POSITIVE = (math.ulp(0.0), math.inf)
_BELOW_ONE = (0.0, math.nextafter(1.0, 0.0))
# Last part of a field's path -> smallest and largest value, both allowed.
RANGES = {
    "seed": (0, 2**32 - 1),
    "num_steps": _COUNT,
    "log_every": _WHOLE,
    "eval_every": _WHOLE,
    "save_every": _WHOLE,
    "batch_size": _COUNT,
    "length": _COUNT,
    "source_length": _COUNT,
    "target_length": _COUNT,
    "num_batches": _COUNT,
    "num_threads": _WHOLE,
    "num_workers": _WHOLE,
    "max_bad_fraction": (0.0, 1.0),
    "feature_redraw_interval": _WHOLE,
    "learning_rate": _POSITIVE,
    "warmup_steps": _WHOLE,
    "end_fraction": (0.0, 1.0),
    "weight_decay": _SIZE,
    "clip_norm": _SIZE,
    "b1": _BELOW_ONE,
    "b2": _BELOW_ONE,
    "ema_decay": _BELOW_ONE,
    "label_smoothing": _BELOW_ONE,
    "condition_dropout": _BELOW_ONE,
    "amplitude_scale": _SIZE,
    "sampling_rate": _POSITIVE,
    "num_records": _COUNT,
    "num_samples": _COUNT,
    "num_train": _COUNT,
    "num_negatives": _COUNT,
    "temperature": _POSITIVE,
    "diversity_weight": _SIZE,
    "gumbel_start": _POSITIVE,
    "gumbel_end": _POSITIVE,
    "gumbel_decay": (math.ulp(0.0), 1.0),
    "mask_prob": (0.0, 1.0),
    "mask_channel_prob": (0.0, 1.0),
    "feature_mask_prob": (0.0, 1.0),
    "dropout": _BELOW_ONE,
    "feature_dropout": _BELOW_ONE,
    "share": (0.0, 1.0),
    "microbatches": _COUNT,
    "nonfinite_in_a_row": _COUNT,
    "nonfinite_per_thousand": (1, 1000),
    "hang_seconds": _POSITIVE,
    "compile_seconds": _POSITIVE,
}
CHOICES = {"on_bad_record": ("stop", "skip")}
# Of the optimizer section, what the task takes rather than the optimizer.
TASK_FIELDS = ("ema_decay", "microbatches")


def load_experiment(arguments):
    """The module that `config.experiment` names, after every check it can make.

    Raises:
        ConfigError: one line for each thing that is wrong with the config.
    """
    config = arguments.config
    errors, module = check(config), None
    # An experiment may read any section, so all of them have to be there.
    if not _missing(config) and config.experiment in experiments():
        module = importlib.import_module(f"experiments.{config.experiment}")
        errors += module.check(config)
        if config.get("pretrained") and not hasattr(module, "PRETRAINED"):
            errors.append(
                f"experiment {config.experiment} takes no pretrained modules; "
                "start from all weights of a run with --init_from"
            )
    if errors:
        raise ConfigError("\n".join(f"{arguments.source}: {line}" for line in errors))
    return module


def experiments():
    """Names that `config.experiment` may have: modules here that build tasks."""
    return sorted(
        path.stem
        for path in (ROOT / "experiments").glob("*.py")
        if re.search(r"^def make_task\(", path.read_text(), re.MULTILINE)
    )


def check(config):
    """What is wrong with the parts that all configs share, one line each."""
    lines = _check_sections(config) + check_values(config)
    if not _missing(config):
        lines += _check_mesh(config.mesh) + _check_limits(config.limits)
        lines += _check_optimizers(config) + _check_batch(config)
        known = experiments()
        if config.experiment not in known:
            hint = nearest(config.experiment, known)
            lines.append(
                f"no experiment {config.experiment!r}{hint}; "
                f"the experiments are {', '.join(known)}"
            )
    return lines


def _missing(config):
    return [
        name
        for name, kind in SECTIONS.items()
        if not isinstance(config.get(name), kind)
    ]


def _check_sections(config):
    lines = []
    for name in _missing(config):
        kind = SECTIONS[name]
        what = "section" if kind is ConfigDict else f"field of type {kind.__name__}"
        lines.append(f"the config has no {what} {name!r}")
    known = {**SECTIONS, **OPTIONAL}
    for name in config:
        if name not in known:
            lines.append(
                f"{name!r} is no section{nearest(name, known)}; "
                f"the sections are {', '.join(known)}"
            )
    for name, kind in OPTIONAL.items():
        if name in config and config.get_type(name) is not kind:
            lines.append(f"{name} {config[name]!r} is no {kind.__name__}")
    return lines


def check_values(config):
    """Lines for numbers out of range and unknown choices, wherever they stand."""
    lines = []
    for path, (kind, value) in fields.flatten(config).items():
        name = path.split(".")[-1]
        if name in CHOICES and value not in CHOICES[name]:
            hint = nearest(value, CHOICES[name])
            lines.append(
                f"{path} {value!r} is none of {', '.join(CHOICES[name])}{hint}"
            )
        if name not in RANGES or kind not in (int, float) or value is None:
            continue
        low, high = RANGES[name]
        if not low <= value <= high:
            lines.append(f"{path} {value} must be {_limits_text(low, high)}")
    return lines


def _limits_text(low, high):
    text = "greater than 0" if low == math.ulp(0.0) else f"at least {low:g}"
    if high == math.inf:
        return text
    return f"{text} and {'below 1' if high == _BELOW_ONE[1] else f'at most {high:g}'}"


def _check_mesh(mesh):
    from jaxmodels.train.sharding import AXES

    lines = check_names("mesh", mesh, AXES)
    for axis in AXES:
        size = mesh.get(axis, 1)
        if size != -1 and size < 1:
            lines.append(f"mesh.{axis} {size} must be at least 1, or -1 for the rest")
    free = [axis for axis in AXES if mesh.get(axis, 1) == -1]
    if len(free) > 1:
        both = " and ".join(f"mesh.{axis}" for axis in free)
        lines.append(f"{both} are -1; at most one axis takes what the others leave")
    return lines


def _check_limits(limits):
    from jaxmodels.train.loop import Limits

    return check_names("limits", limits, Limits._fields)


def _check_optimizers(config):
    """Checks the optimizer, or each of them where there are several."""
    if "name" in config.optimizer:
        return _check_optimizer("optimizer", config.optimizer, config.num_steps)
    lines = []
    for name, section in config.optimizer.items():
        if isinstance(section, ConfigDict):
            lines += _check_optimizer(f"optimizer.{name}", section, config.num_steps)
    return lines


def _check_optimizer(path, section, num_steps):
    from jaxmodels.train import optimizer

    parameters = inspect.signature(optimizer.make_optimizer).parameters
    allowed = [name for name in parameters if name != "num_steps"]
    required = [
        name for name in allowed if parameters[name].default is parameters[name].empty
    ]
    lines = check_names(path, section, [*allowed, *TASK_FIELDS], required)
    for field, known in (("name", optimizer.NAMES), ("schedule", optimizer.SCHEDULES)):
        if field in section and section[field] not in known:
            hint = nearest(section[field], known)
            lines.append(
                f"{path}.{field} {section[field]!r} is none of {', '.join(known)}{hint}"
            )
    if section.get("warmup_steps", 0) >= num_steps > 0:
        lines.append(
            f"{path}.warmup_steps {section.warmup_steps} must be below num_steps "
            f"{num_steps}; lower --config.{path}.warmup_steps"
        )
    return lines


def _check_batch(config):
    batch_size = config.data.get("batch_size", 0)
    microbatches = config.optimizer.get("microbatches", 1)
    if microbatches < 1 or batch_size % microbatches == 0:
        return []
    return [
        f"data.batch_size {batch_size} is not divisible by "
        f"optimizer.microbatches {microbatches}"
    ]


def check_names(path, section, allowed, needed=()):
    """Lines for fields of a section that nothing reads, and for those that lack."""
    unknown = [
        f"{path}.{name} is no field of {path}{nearest(name, allowed)}; "
        f"the fields are {', '.join(allowed)}"
        for name in section
        if name not in allowed
    ]
    return unknown + [
        f"{path} has no field {name!r}" for name in needed if name not in section
    ]


def check_devices(config, num_devices):
    """What is wrong with the config on so many devices, one line each."""
    from jaxmodels.train import sharding

    lengths = {
        f"data.{name}": value
        for name, value in config.data.items()
        if (name == "length" or name.endswith("_length")) and isinstance(value, int)
    }
    return sharding.check_mesh(
        dict(config.mesh),
        num_devices,
        batch_size=config.data.batch_size,
        lengths=lengths,
        microbatches=config.optimizer.get("microbatches", 1),
    )
