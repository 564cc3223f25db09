"""Describes what a config would train, without allocating any of it.

  python -m experiments.describe --config=configs/performer/lm.py:tiny --topology=v5e-8

Parameters by module and how a mesh cuts them, FLOPs a step, bytes a chip.
"""

import math
import re
import sys

from experiments import command_line, settings, tables
from experiments.command_line import Flag
from experiments.config_file import nearest
from jaxmodels.train.errors import ConfigError

# Name of a slice -> JAX's kind of device, and what the number in the name counts for
# each device: v4 and v5p slices are named after their cores, two a device.
CHIPS = {
    "v4": ("TPU v4", 2),
    "v5e": ("TPU v5e", 1),
    "v5litepod": ("TPU v5e", 1),
    "v5p": ("TPU v5p", 2),
    "v6e": ("TPU v6 lite", 1),
    "a100": ("NVIDIA A100-SXM4-80GB", 1),
    "h100": ("NVIDIA H100 80GB HBM3", 1),
    "h200": ("NVIDIA H200", 1),
}


def parse_devices(text):
    """A positive number of devices."""
    if not text.isdecimal() or int(text) < 1:
        raise ValueError("expected a number of devices, such as 256")
    return int(text)


def parse_topology(text):
    """ "v5e-256", or "4xv5e-256" for four slices, as (kind of device, devices)."""
    match = re.fullmatch(r"(?:(\d+)x)?([a-z]\w*)-(\d+)", text.lower())
    if not match or match[2] not in CHIPS:
        hint = nearest(match[2] if match else text, CHIPS)
        raise ValueError(
            f"expected a kind and a size such as v5e-256{hint}; "
            f"the kinds are {', '.join(CHIPS)}"
        )
    kind, cores = CHIPS[match[2]]
    size = int(match[3])
    if size < cores or size % cores:
        raise ValueError(
            f"a {match[2]} slice is named after its cores, {cores} a device; "
            f"{size} is no multiple of {cores}"
        )
    return kind, int(match[1] or 1) * size // cores


FLAGS = (
    Flag("devices", parse_devices, "Devices of the mesh.", "N"),
    Flag(
        "topology",
        parse_topology,
        f"Devices by name: a kind of {', '.join(CHIPS)} and a size, such as v5e-256, "
        f"or 4xv5e-256 for four slices.",
        "NAME",
    ),
    Flag("workdir", str, "Accepted as in training, and not looked at.", "DIR"),
)


def main(argv=None):
    """Runs the command line; returns the exit code."""
    return command_line.run(describe, FLAGS, argv, doc=__doc__)


def describe(arguments):
    config = arguments.config
    experiment = settings.load_experiment(arguments)
    kind, num_devices = _devices(arguments)
    if lines := settings.check_devices(config, num_devices):
        raise ConfigError("\n".join(f"{arguments.source}: {line}" for line in lines))
    import jax
    from jax.sharding import AbstractMesh, AxisType

    from jaxmodels.train import sharding

    # No accelerator is needed, and none should be taken.
    jax.config.update("jax_platforms", "cpu")
    task = experiment.make_task(config)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(task.init, key)
    batch = experiment.abstract_batch(config)
    shape = sharding.mesh_shape(num_devices, **config.mesh)
    axis_types = (AxisType.Auto,) * len(shape)
    mesh = AbstractMesh(shape, sharding.AXES, axis_types=axis_types)
    sizes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    chip = f"{kind} devices" if kind else "devices"
    chip = chip.removesuffix("s") if num_devices == 1 else chip
    print(f"{arguments.source}\non {num_devices} {chip}, mesh {sizes}\n")
    for lines in (
        parameter_lines(state.params, mesh),
        flops_lines(task, state, batch, key, kind, num_devices),
        memory_lines(state, batch, mesh, kind),
        replicated_lines(state.params, mesh),
    ):
        print("\n".join(lines) + "\n")


def _devices(arguments):
    """Kind of device or None, and how many the flags or the mesh ask for."""
    topology, devices = arguments.flags["topology"], arguments.flags["devices"]
    if topology and devices and topology[1] != devices:
        raise ConfigError(
            f"--topology has {topology[1]} devices and --devices is {devices}; give one"
        )
    if topology:
        return topology
    fixed = math.prod(size for size in dict(arguments.config.mesh).values() if size > 0)
    return None, devices or fixed


def parameter_lines(params, mesh):
    """The parameter table: a line for each, and sums for networks and modules."""
    import jax

    from jaxmodels.train import sharding

    rows = []
    for network, tree in params.items():
        leaves = [
            (sharding.path_name(path), leaf)
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        ]
        rows.append(_sum_row(network, [leaf for _, leaf in leaves]))
        for module in dict.fromkeys(path.split("/")[0] for path, _ in leaves):
            inside = [
                (path, leaf) for path, leaf in leaves if path.split("/")[0] == module
            ]
            if len(inside) == 1:
                rows.append(_leaf_row(network, *inside[0], mesh, "  "))
                continue
            rows.append(_sum_row(f"  {module}", [leaf for _, leaf in inside]))
            for path, leaf in inside:
                rows.append(_leaf_row(network, path, leaf, mesh, "    ", module))
    header = ("parameter", "shape", "type", "count", "bytes", "cut along")
    lines = tables.table(rows, header=header, right=(3, 4))
    leaves = jax.tree.leaves(params)
    total = tables.quantity(_count(leaves)), tables.memory(_bytes(leaves))
    return [*lines, "", f"{total[0]} parameters in all, {total[1]}"]


def _sum_row(name, leaves):
    return name, "", "", f"{_count(leaves):,}", tables.memory(_bytes(leaves)), ""


def _leaf_row(network, path, leaf, mesh, indent, module=None):
    from jaxmodels.train import sharding

    names = sharding.param_names(f"{network}/{path}", leaf.shape)
    spec = sharding.fitting_spec(names, leaf.shape, mesh)
    cuts = [axis if axis and mesh.shape[axis] > 1 else "-" for axis in spec]
    return (
        indent + (path if module is None else path.removeprefix(f"{module}/")),
        "x".join(map(str, leaf.shape)) or "scalar",
        leaf.dtype.name,
        f"{_count([leaf]):,}",
        tables.memory(_bytes([leaf])),
        " ".join(cuts) if set(cuts) - {"-"} else "replicated",
    )


def flops_lines(task, state, batch, key, kind, num_devices):
    """FLOPs of a training step, and the time it takes at the peak of the devices."""
    from jaxmodels.train import flops

    notes: list[str] = []
    total = flops.count_flops(task.train_step, state, batch, key, notes=notes)
    rows = next(iter(batch.values())).shape[0]
    lines = [
        f"{tables.quantity(total)}FLOP a step of {rows} rows, "
        f"{tables.quantity(total / rows)}FLOP a row (forward, backward, recomputation)"
    ]
    peak = flops.peak_flops(kind) if kind else None
    if peak:
        seconds = total / (peak * num_devices)
        lines.append(
            f"at best {seconds * 1e3:.3g} ms a step, at {tables.quantity(peak)}FLOP/s "
            f"a device in bfloat16"
        )
    return lines + [f"({note})" for note in dict.fromkeys(notes)]


def memory_lines(state, batch, mesh, kind):
    """Bytes that each device holds from step to step, against what it has."""
    import jax

    from jaxmodels.train import flops, sharding

    placed = sharding.state_shardings(state, mesh)
    batch_placed = jax.tree.map(lambda _: sharding.batch_sharding(mesh), batch)
    params = _local_bytes(state.params, placed.params)
    parts = {
        "parameters": params,
        "gradients": params,
        "optimizer state": _local_bytes(state.opt_state, placed.opt_state),
        "averaged parameters": _local_bytes(state.ema, placed.ema),
        "collections": _local_bytes(state.collections, placed.collections),
        "batch": _local_bytes(batch, batch_placed),
    }
    total = sum(parts.values())
    rows = [(name, tables.memory(size)) for name, size in parts.items() if size]
    rows.append(("sum, activations not counted", tables.memory(total)))
    lines = ["bytes a device", *tables.table(rows, right=(1,), indent=2)]
    available = flops.memory_bytes(kind) if kind else None
    if available:
        verdict = "" if total < available else ": IT DOES NOT FIT"
        lines.append(
            f"  {100 * total / available:.1f} % of the {tables.memory(available)} "
            f"of a {kind}{verdict}"
        )
    return lines


def replicated_lines(params, mesh):
    """Parameter dimensions that a rule would cut and the mesh does not divide."""
    from jaxmodels.train import sharding

    lines = sharding.undivided(params, mesh)
    if not lines:
        return ["every parameter dimension that a rule cuts divides"]
    return ["replicated, since it does not divide:", *(f"  {line}" for line in lines)]


def _count(leaves):
    return sum(math.prod(leaf.shape) for leaf in leaves)


def _bytes(leaves):
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)


def _local_bytes(tree, shardings):
    """Bytes of a tree on one device."""
    import jax

    sizes = jax.tree.map(
        lambda leaf, placed: (
            math.prod(placed.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        ),
        tree,
        shardings,
    )
    return sum(jax.tree.leaves(sizes))


if __name__ == "__main__":
    sys.exit(main())
