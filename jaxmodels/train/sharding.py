"""Device mesh and parameter sharding.

Parameters are sharded by path, so modules carry no sharding code and `module.init`
returns plain arrays. Optimizer moments and averages end in the same path as the
parameter they follow, so one table places them all.
"""

import math
import re

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "model", "seq")

# First match wins. Specs name the trailing dimensions; leading ones (scanned layers)
# are replicated. An embedding table is sharded over one axis only: over two, the
# partitioner rematerializes the whole table.
PARAM_RULES = (
    (r"(query|key|value)/kernel$", ("fsdp", "model", None)),
    (r"(query|key|value)/bias$", ("model", None)),
    (r"attention/out/kernel$", ("model", None, "fsdp")),
    (r"(up|gate)/kernel$", ("fsdp", "model")),
    (r"(up|gate)/bias$", ("model",)),
    (r"down/kernel$", ("model", "fsdp")),
    (r"head/kernel$", ("fsdp", "model")),
    (r"(key|value)_projection$", (None, "fsdp")),
    (r"embedding$", ("model", None)),
    (r"kernel$", ("fsdp", None)),
    (r"", ()),
)
ACTIVATION_RULES = (
    ("batch", ("data", "fsdp")),
    ("length", "seq"),
    ("heads", "model"),
    ("embed", None),
)
# Adafactor keeps, for its two largest dimensions, one moment without the largest
# (v_row) and one without the second largest (v_col).
FACTORED = re.compile(r"/(v_row|v_col)/(.+)$")


def mesh_shape(num_devices, *, data=-1, fsdp=1, model=1, seq=1):
    """Sizes of the four axes; an axis of -1 takes the devices that the others leave.

    Raises:
        ValueError: the axes do not multiply to `num_devices`.
    """
    sizes = dict(data=data, fsdp=fsdp, model=model, seq=seq)
    wrong = [f"{axis}={n}" for axis, n in sizes.items() if n != -1 and n < 1]
    free = [axis for axis, size in sizes.items() if size == -1]
    if wrong or len(free) > 1:
        raise ValueError(
            f"mesh {sizes}: every axis is at least 1, and at most one is -1"
        )
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if free and num_devices % fixed == 0:
        sizes[free[0]] = num_devices // fixed
    if math.prod(sizes.values()) != num_devices:
        text = " x ".join(f"{axis} {size}" for axis, size in sizes.items())
        raise ValueError(
            f"mesh {text} does not fit {num_devices} devices: the axes must multiply "
            f"to {num_devices}; let one of them be -1 to take what the others leave"
        )
    return tuple(sizes[axis] for axis in AXES)


def make_mesh(data=-1, fsdp=1, model=1, seq=1, devices=None):
    """Mesh over `devices` (all by default), with automatic partitioning.

    Raises:
        ValueError: the axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    shape = mesh_shape(len(devices), data=data, fsdp=fsdp, model=model, seq=seq)
    return jax.make_mesh(
        shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices
    )


def path_name(path):
    """A pytree path as 'params/model/decoder/...'."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def param_names(path, shape, rules=PARAM_RULES):
    """Mesh axis (or None) that each dimension asks for, whether it divides or not."""
    names = next(spec for pattern, spec in rules if re.search(pattern, path))
    if len(names) > len(shape):
        return (None,) * len(shape)
    return (None,) * (len(shape) - len(names)) + tuple(names)


def leaf_names(path, shape, param_shapes, rules=PARAM_RULES):
    """As `param_names`, for any leaf of a state, factored moments included."""
    factored = FACTORED.search(path)
    if not factored:
        return param_names(path, shape, rules)
    moment, param_path = factored.groups()
    full = param_shapes.get(param_path, ())
    if len(full) != len(shape) + 1:
        return (None,) * len(shape)
    names = list(param_names(param_path, full, rules))
    del names[np.argsort(full)[-1 if moment == "v_row" else -2]]
    return tuple(names)


def fitting_spec(names, shape, mesh):
    """PartitionSpec that drops the axes which do not divide their dimension."""
    return PartitionSpec(
        *(
            name if name and size % mesh.shape[name] == 0 else None
            for name, size in zip(names, shape, strict=True)
        )
    )


def state_shardings(abstract_state, mesh, rules=PARAM_RULES):
    """NamedSharding for every leaf of a state; `mesh` may be an AbstractMesh."""
    shapes = {
        path_name(path[1:]): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(abstract_state.params)
    }

    def place(path, leaf):
        names = leaf_names(path_name(path), leaf.shape, shapes, rules)
        return NamedSharding(mesh, fitting_spec(names, leaf.shape, mesh))

    return jax.tree_util.tree_map_with_path(place, abstract_state)


def undivided(params, mesh, rules=PARAM_RULES):
    """Parameter dimensions that their axis does not divide, so that are replicated.

    Returns:
        Lines such as "model/embed/embedding: 257 is not divisible by model=2".
    """
    lines = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        names = param_names(path_name(path), leaf.shape, rules)
        for name, size in zip(names, leaf.shape, strict=True):
            if name and size % mesh.shape[name]:
                lines.append(
                    f"{path_name(path)}: {size} is not divisible by "
                    f"{name}={mesh.shape[name]}"
                )
    return lines


def targets(abstract_state, shardings):
    """Abstract leaves that know where they live, as `restore` takes them."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        abstract_state,
        shardings,
    )


def batch_sharding(mesh):
    """Rows over `data` and `fsdp`; everything else is replicated."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def data_shards(mesh):
    """Number of parts that a global batch is cut into."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def activation_rules():
    """Context in which `nn.with_logical_constraint` knows the mesh axes."""
    return nn.logical_axis_rules(ACTIVATION_RULES)


def check_mesh(shape, num_devices, *, batch_size, lengths=None, microbatches=1):
    """Everything wrong with a mesh, one line each; empty when it can run.

    Args:
        shape: axis -> size, with -1 for what the others leave.
        batch_size: global batch.
        lengths: name -> length of the sequences that `seq` cuts.
        microbatches: slices that the batch is cut into.
    """
    try:
        data, fsdp, _, seq = mesh_shape(num_devices, **shape)
    except ValueError as error:
        return [str(error)]
    lines, rows = [], data * fsdp * microbatches
    if batch_size % rows:
        lines.append(
            f"batch_size {batch_size} is not divisible by data x fsdp x microbatches "
            f"= {data} x {fsdp} x {microbatches} = {rows}; {_remedy(batch_size, rows)}"
        )
    return lines + [
        f"{name} {length} is not divisible by seq={seq}; {_remedy(length, seq)}"
        for name, length in (lengths or {}).items()
        if length % seq
    ]


def _remedy(number, divisor):
    """Names the multiples of `divisor` next to a number."""
    lower = max(number // divisor, 1) * divisor
    return f"try {lower} or {lower + divisor}"
