"""Initial values of kernels."""

import flax.linen as nn


def scaled_normal(scale=1.0):
    """Truncated normal values of variance `scale` / inputs; zeros for a scale of 0."""
    if scale == 0.0:
        return nn.initializers.zeros
    return nn.initializers.variance_scaling(scale, "fan_in", "truncated_normal")
