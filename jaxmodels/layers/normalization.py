"""Residual wrappers: how a branch reads the residual stream and adds to it.

Each wrapper is a module with the two halves `read` (stream to branch input) and
`write` (stream and branch output to the new stream), and `wrapper(x, branch)` for
both around a function. The halves let a branch return a decoding state as well.

Shapes use D width.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp


class PreLayerNorm(nn.Module):
    """x + branch(layer_norm(x)) (Xiong et al., 2020); float32 statistics."""

    epsilon: float = 1e-5
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def read(self, x):
        return _layer_norm(self, x)

    def write(self, x, branch):
        return x + branch

    def __call__(self, x, branch):
        return self.write(x, branch(self.read(x)))


class ReZero(nn.Module):
    """x + g branch(x) with a trained scalar g (Bachlechner et al., 2021, eq. 3).

    g starts at 0, so that a new stack is the identity.
    """

    initial_gain: float = 0.0
    dtype: str = "float32"
    param_dtype: str = "float32"

    def read(self, x):
        return x.astype(self.dtype)

    @nn.compact
    def write(self, x, branch):
        gain = self.param(
            "gain",
            nn.initializers.constant(self.initial_gain),
            (),
            jnp.dtype(self.param_dtype),
        )
        return x + gain.astype(branch.dtype) * branch

    def __call__(self, x, branch):
        return self.write(x, branch(self.read(x)))


class PreScaleNorm(nn.Module):
    """x + branch(g x / max(|x|, epsilon)) with a trained scalar g.

    Nguyen and Salazar (2019), eq. 5. `initial_gain` None is the paper's sqrt(D).
    """

    initial_gain: float | None = None
    epsilon: float = 1e-5
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def read(self, x):
        start = self.initial_gain
        start = x.shape[-1] ** 0.5 if start is None else start
        gain = self.param(
            "gain", nn.initializers.constant(start), (), jnp.dtype(self.param_dtype)
        )
        wide = x.astype(jnp.float32)
        # The root of the clipped square: its gradient at x = 0 is 0 instead of NaN.
        square = jnp.sum(wide * wide, axis=-1, keepdims=True)
        wide *= gain * jax.lax.rsqrt(jnp.maximum(square, self.epsilon**2))
        return wide.astype(self.dtype)

    def write(self, x, branch):
        return x + branch

    def __call__(self, x, branch):
        return self.write(x, branch(self.read(x)))


class LayerNorm(nn.Module):
    """Layer normalization with float32 statistics (Ba et al., 2016)."""

    epsilon: float = 1e-5
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, x):
        return _layer_norm(self, x)


RESIDUALS = {
    "layer_norm": PreLayerNorm,
    "rezero": ReZero,
    "scale_norm": PreScaleNorm,
}


def residual(name):
    """The wrapper class called `name`.

    Raises:
        ValueError: no wrapper has that name.
    """
    if name not in RESIDUALS:
        raise ValueError(
            f"unknown normalization {name!r}; choose one of {', '.join(RESIDUALS)}"
        )
    return RESIDUALS[name]


def _layer_norm(module, x):
    shape, dtype = x.shape[-1:], jnp.dtype(module.param_dtype)
    scale = module.param("scale", nn.initializers.ones, shape, dtype)
    bias = module.param("bias", nn.initializers.zeros, shape, dtype)
    return layer_norm(x, scale, bias, module.epsilon).astype(module.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x, scale, bias, epsilon):
    """scale (x - mean) / sqrt(variance + epsilon) + bias, float32.

    Its backward pass keeps x and two numbers a row, where automatic differentiation
    would keep three arrays of the size of x.

    Args:
        x: [..., D].
        scale, bias: [D].
        epsilon: float.
    """
    return _layer_norm_forward(x, scale, bias, epsilon)[0]


def _layer_norm_forward(x, scale, bias, epsilon):
    wide = x.astype(jnp.float32)
    mean = wide.mean(axis=-1, keepdims=True)
    wide -= mean
    inverse = jax.lax.rsqrt(jnp.square(wide).mean(axis=-1, keepdims=True) + epsilon)
    return wide * inverse * scale + bias, (x, mean, inverse, scale, bias)


def _layer_norm_backward(epsilon, kept, gradient):
    x, mean, inverse, scale, bias = kept
    normal = (x.astype(jnp.float32) - mean) * inverse
    inner = gradient * scale
    along = (inner * normal).mean(axis=-1, keepdims=True)
    inner -= inner.mean(axis=-1, keepdims=True) + normal * along
    rows = tuple(range(x.ndim - 1))
    return (
        (inner * inverse).astype(x.dtype),
        (gradient * normal).sum(axis=rows).astype(scale.dtype),
        gradient.sum(axis=rows).astype(bias.dtype),
    )


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)
