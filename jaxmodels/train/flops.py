"""Floating-point operations of a program, and what accelerators can do of them.

Counted: matrix products, convolutions and ragged products, two operations for each
multiplication with its addition. Elementwise work, reductions, sorting and Fourier
transforms are not: on an accelerator they cost memory traffic, not the arithmetic
that the peak is about. A value that nothing uses is not counted, since the compiler
drops it. Recomputation (`jax.checkpoint`) is: the device does it.
"""

import itertools
import math

import jax
from jax.extend import core


def count_flops(fun, *args, notes=None):
    """Operations of one call of `fun`, from its jaxpr; nothing is run or allocated.

    Loops count as often as they run: compiled cost analysis counts a `scan` once.
    All devices together: a program in `shard_map` counts once for each device.

    Args:
        fun: any function that JAX can trace, gradients and jitted ones included.
        *args: arrays or `jax.ShapeDtypeStruct`, in trees.
        notes: a list that receives a line for each thing that can only be guessed.

    Returns:
        The number of operations, exact for programs of matrix products; a `cond`
        counts as its largest branch and a `while` whose trips only the data
        decide as one trip.
    """
    notes = [] if notes is None else notes
    return float(_count(jax.make_jaxpr(fun)(*args).jaxpr, notes))


def _count(jaxpr, notes, used=None):
    """Walks backwards, so that a value nothing uses is seen to be unused.

    Args:
        jaxpr: an open jaxpr.
        notes: see `count_flops`.
        used: for each output whether anything uses it; all when omitted.
    """
    used = [True] * len(jaxpr.outvars) if used is None else used
    outputs = itertools.compress(jaxpr.outvars, used)
    needed, total = set(_variables(outputs)), 0
    for equation in reversed(jaxpr.eqns):
        used = [variable in needed for variable in equation.outvars]
        if equation.effects or any(used):
            needed.update(_variables(equation.invars))
            total += _count_equation(equation, notes, used)
    return total


def _variables(atoms):
    return (atom for atom in atoms if not isinstance(atom, core.Literal))


def _count_equation(equation, notes, used):
    name, params = equation.primitive.name, equation.params
    if name in COUNTERS:
        return COUNTERS[name](equation)
    # The outputs of a loop body are also its next inputs: all of them are used.
    used = None if name in ("scan", "while", "pallas_call") else used
    inner = [_count(jaxpr, notes, used) for jaxpr in _inner(params)]
    if name == "scan":
        return params["length"] * sum(inner)
    if name == "cond":
        return max(inner)
    if name == "while" and any(inner):
        notes.append("a while loop with an unknown number of trips counts as one")
    if name == "shard_map":
        return math.prod(_manual_sizes(params)) * sum(inner)
    if name == "pallas_call":
        return math.prod(params["grid_mapping"].grid) * sum(inner)
    return sum(inner)


def _inner(params):
    return map(_open, core.jaxprs_in_params(params))


def _open(jaxpr):
    return jaxpr.jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else jaxpr


def _manual_sizes(params):
    """Sizes of the mesh axes along which the inner program sees its own part."""
    sizes = params["mesh"].shape
    axes = params.get("newly_manual_axes", params.get("manual_axes", sizes.keys()))
    return [sizes[axis] for axis in axes]


def _dot_general(equation):
    """2 x output x contracted sizes."""
    (contracting, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2 * _size(equation.outvars[0]) * math.prod(left[i] for i in contracting)


def _ragged_dot_general(equation):
    """As a dense product: every row meets the weights of its own group."""
    numbers = equation.params["ragged_dot_dimension_numbers"]
    (contracting, _), _ = numbers.dot_dimension_numbers
    left = equation.invars[0].aval.shape
    contracted = [left[i] for i in contracting]
    if set(numbers.lhs_ragged_dimensions) & set(contracting):
        # The groups share the contracted dimension: one product over it in all.
        groups = equation.invars[2].aval.shape[-1]
        return 2 * _size(equation.outvars[0]) // groups * math.prod(contracted)
    return 2 * _size(equation.outvars[0]) * math.prod(contracted)


def _convolution(equation):
    """2 x output x taps x channels of one group, padding included.

    The gradient of a strided convolution inserts zeros between its inputs; the
    products with those are not work.
    """
    params, kernel = equation.params, equation.invars[1].aval.shape
    _, channels, *window = params["dimension_numbers"].rhs_spec
    taps = math.prod(kernel[i] for i in window) * kernel[channels]
    inserted = math.prod(params["lhs_dilation"])
    return 2 * _size(equation.outvars[0]) * taps // inserted


def _size(variable):
    return math.prod(variable.aval.shape)


COUNTERS = {
    "dot_general": _dot_general,
    "ragged_dot_general": _ragged_dot_general,
    "conv_general_dilated": _convolution,
}

# Dense operations a second in bfloat16 and bytes of memory of what JAX calls one
# device, as published; figures with sparsity are not used. The first
# name that the kind of a device contains is taken, so longer names come first.
DEVICES = {
    "tpu v6": (918e12, 32 * 2**30),  # "TPU v6 lite" = v6e, Trillium
    "tpu v5 lite": (197e12, 16 * 2**30),
    "tpu v5e": (197e12, 16 * 2**30),
    "tpu v5": (459e12, 95 * 2**30),  # "TPU v5" and "TPU v5p"
    "tpu v4": (275e12, 32 * 2**30),  # megacore: two cores, one device
    "h200": (989e12, 141e9),
    "h100 nvl": (835e12, 94e9),
    "h100 pcie": (756e12, 80e9),
    "h100": (989e12, 80e9),  # SXM
    "a100-sxm4-40gb": (312e12, 40e9),
    "a100-pcie-40gb": (312e12, 40e9),
    "a100": (312e12, 80e9),
}


def _find(device_kind):
    kind = device_kind.lower()
    return next((value for name, value in DEVICES.items() if name in kind), None)


def peak_flops(device_kind, dtype="bfloat16"):
    """Most operations a second of one device, dense matrix products.

    Args:
        device_kind: `jax.devices()[0].device_kind`.
        dtype: of the operands: "bfloat16", "float16" or "float32". In float32 at the
            default precision, TPUs multiply in bfloat16, NVIDIA devices in TF32 at
            half its rate.

    Returns:
        Operations a second, or None for a device that is not in the table; a CPU
        is never in it.
    """
    known = _find(device_kind)
    if known is None:
        return None
    rates = {"bfloat16": 1.0, "float16": 1.0, "float32": 1.0}
    if not device_kind.lower().startswith("tpu"):
        rates["float32"] = 0.5
    rate = rates.get(str(dtype))
    return None if rate is None else rate * known[0]


def memory_bytes(device_kind):
    """Memory of one device in bytes, or None for a device not in the table."""
    known = _find(device_kind)
    return None if known is None else int(known[1])
