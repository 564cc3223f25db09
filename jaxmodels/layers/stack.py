"""Equal blocks in a row, compiled once."""

import flax.linen as nn


def scan_layers(block, num_layers, *, remat=False):
    """`block` over layers whose variables are stacked on axis 0.

    Compile time then does not grow with depth.

    Args:
        block: (layer, carry, inputs) -> carry, outputs. What it closes over is the same
            for every layer.
        num_layers: length of the stack.
        remat: recomputes each block in the backward pass instead of storing what is
            inside it.

    Returns:
        (layers, carry, inputs stacked on axis 0) -> carry, outputs stacked on axis 0.
    """
    if remat:
        block = nn.remat(block, prevent_cse=False)
    return nn.scan(
        block,
        variable_axes={"params": 0, "projections": 0, "intermediates": 0},
        split_rngs={"params": True, "dropout": True},
        length=num_layers,
    )
