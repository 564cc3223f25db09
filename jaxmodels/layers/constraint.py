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
