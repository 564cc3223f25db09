"""Placing activations on a mesh."""

import flax.linen as nn


def constrain(module, x, axes):
    """`nn.with_logical_constraint`, except while `module` is being initialized.

    Parameters do not depend on the batch they are initialized with, which may be a
    single row that no mesh divides.
    """
    if module.is_initializing():
        return x
    return nn.with_logical_constraint(x, axes)


def whole(module, x):
    """`constrain` for what goes into and comes out of a convolution, [B, T, D].

    Every device holds the whole length. Cut over the axis "seq", on a mesh that has
    the axis "model" as well, the gradient of a kernel came out of the partitioner
    `model` times too large (jax 0.10.2).
    """
    return constrain(module, x, ("batch", None, None))
