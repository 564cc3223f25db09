"""Optimizers, schedules and decay masks by name; all of them are optax's."""

import re

import jax
import optax

from jaxmodels.train.sharding import path_name

# Muon orthogonalizes matrices. For each kind of kernel: the trailing axes that a
# matrix product sums over, and the axes that it produces. Leading axes (scanned
# layers, taps of a convolution) are independent matrices. Everything that matches
# None goes to Adam, as do all biases and norms.
MUON_RULES = (
    (r"(query|key|value)/kernel$", ((-3,), (-2, -1))),
    (r"attention/out/kernel$", ((-3, -2), (-1,))),
    (r"(head|embed|stem)/kernel$", None),
    (r"kernel$", ((-2,), (-1,))),
    (r"", None),
)
SCHEDULES = ("cosine", "linear", "constant")
NAMES = ("adamw", "lion", "adafactor", "muon")


def decay_mask(params):
    """True where weight decay applies: kernels and embedding tables."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: bool(re.search(r"(kernel|embedding)$", path_name(path))), params
    )


def muon_dimensions(params):
    """optax's `MuonDimensionNumbers` for every matrix, None for the rest."""

    def dimensions(path, x):
        axes = next(a for p, a in MUON_RULES if re.search(p, path_name(path)))
        if axes is None or any(-axis > x.ndim for axis in (*axes[0], *axes[1])):
            return None
        reduction, output = (tuple(x.ndim + axis for axis in part) for part in axes)
        return optax.contrib.MuonDimensionNumbers(reduction, output)

    return jax.tree_util.tree_map_with_path(dimensions, params)


def make_schedule(
    learning_rate, num_steps, *, warmup_steps=0, schedule="cosine", end_fraction=0.0
):
    """Linear warm-up to `learning_rate`, then a decay to `end_fraction` of it.

    Args:
        learning_rate: the peak.
        num_steps: updates in all; the decay ends there.
        warmup_steps: updates of linear warm-up, from learning_rate / warmup_steps.
        schedule: "cosine", "linear" or "constant".
        end_fraction: the last learning rate over the peak.

    Raises:
        ValueError: an unknown schedule, or a warm-up as long as the run.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule {schedule!r} is none of {', '.join(SCHEDULES)}")
    if not 0 <= warmup_steps < max(num_steps, 1):
        raise ValueError(
            f"warmup_steps {warmup_steps} must lie in [0, num_steps {num_steps})"
        )
    end, steps = end_fraction * learning_rate, max(num_steps - warmup_steps, 1)
    decay = {
        "cosine": optax.cosine_decay_schedule(learning_rate, steps, end_fraction),
        "linear": optax.linear_schedule(learning_rate, end, steps),
        "constant": optax.constant_schedule(learning_rate),
    }[schedule]
    if not warmup_steps:
        return decay
    start = learning_rate / warmup_steps
    warmup = optax.linear_schedule(start, learning_rate, warmup_steps)
    return optax.join_schedules([warmup, decay], [warmup_steps])


def make_optimizer(
    name,
    learning_rate,
    num_steps,
    *,
    warmup_steps=0,
    schedule="cosine",
    end_fraction=0.0,
    weight_decay=0.0,
    clip_norm=0.0,
    b1=0.9,
    b2=0.999,
    freeze=(),
):
    """A named optax optimizer with schedule, gradient clipping and decay mask.

    Args:
        name: "adamw", "lion", "adafactor" or "muon" (matrices by Muon, Jordan et al.,
            2024, with updates of AdamW's size, Liu et al., 2025; the rest by Adam).
        learning_rate: peak learning rate.
        num_steps: updates in all.
        weight_decay: decoupled decay of kernels and embedding tables.
        clip_norm: largest global gradient norm; 0 clips nothing.
        b1, b2: decay of the first and second moment; Muon's momentum is `b1`,
            Adafactor's moments follow its own schedule.
        freeze: modules that stay as they are, an outermost one by its name, another one
            by its path, as "encoder/feature_extractor"; their gradients count for no
            norm that is clipped.

    Raises:
        ValueError: an unknown name or schedule, a warm-up as long as the run, or, from
            the optimizer, no module of a name in `freeze`.
    """
    rate = make_schedule(
        learning_rate,
        num_steps,
        warmup_steps=warmup_steps,
        schedule=schedule,
        end_fraction=end_fraction,
    )
    moments, decay = dict(b1=b1, b2=b2), dict(weight_decay=weight_decay)
    if name == "adamw":
        transform = optax.adamw(rate, **moments, **decay, mask=decay_mask)
    elif name == "lion":
        transform = optax.lion(rate, **moments, **decay, mask=decay_mask)
    elif name == "adafactor":
        transform = optax.adafactor(
            rate,
            # optax does not scale this rate by the learning rate; the others do.
            weight_decay_rate=lambda count: weight_decay * rate(count),
            weight_decay_mask=decay_mask,
        )
    elif name == "muon":
        transform = optax.contrib.muon(
            rate,
            beta=b1,
            **decay,
            adam_b1=b1,
            adam_b2=b2,
            muon_weight_dimension_numbers=muon_dimensions,
            consistent_rms=0.2,
        )
    else:
        raise ValueError(f"optimizer {name!r} is none of {', '.join(NAMES)}")
    if clip_norm:
        transform = optax.chain(optax.clip_by_global_norm(clip_norm), transform)
    return _except_frozen(transform, freeze) if freeze else transform


def _except_frozen(transform, freeze):
    """`transform` for all but the modules whose names or paths `freeze` holds."""

    def labels(params):
        for path in freeze:
            _check_module(params, path)
        return jax.tree.map_with_path(
            lambda path, _: "frozen" if is_frozen(path_name(path)) else "trained",
            params,
        )

    def is_frozen(name):
        return any(name == path or name.startswith(f"{path}/") for path in freeze)

    return optax.partition(
        {"trained": transform, "frozen": optax.set_to_zero()}, labels
    )


def _check_module(params, path):
    """Raises ValueError unless a module or parameter lies at a path of names."""
    inner, above = params, ""
    for name in path.split("/"):
        if not isinstance(inner, dict) or name not in inner:
            there = ", ".join(inner) if isinstance(inner, dict) else "none"
            where = f" in {above}" if above else ""
            raise ValueError(f"freeze names {path!r}; the modules{where} are {there}")
        inner, above = inner[name], f"{above}/{name}" if above else name
