"""Position-wise feed-forward networks, plain and gated.

Shapes use D width, F hidden width; leading dimensions are free.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.initialization import scaled_normal


def gelu_erf(x):
    """x Phi(x), Phi the normal distribution function (Hendrycks and Gimpel, 2016)."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return (0.5 * wide * (1.0 + jax.lax.erf(wide * 0.5**0.5))).astype(x.dtype)


gelu_tanh = functools.partial(jax.nn.gelu, approximate=True)

ACTIVATIONS = {"relu": jax.nn.relu, "gelu": gelu_erf, "gelu_tanh": gelu_tanh}
GATES = {
    "reglu": jax.nn.relu,
    "geglu": gelu_erf,
    "geglu_tanh": gelu_tanh,
    "swiglu": jax.nn.silu,
}


def matched_width(hidden_dim):
    """Two thirds of `hidden_dim`, to the nearest multiple of 8, at least 8.

    A gated network of this width has about the parameters of a plain one of width
    `hidden_dim`; the multiple keeps it divisible by the axes of a mesh.
    """
    return max(8, round(hidden_dim / 12) * 8)


class Mlp(nn.Module):
    """down(activation(up(x))), as in Vaswani et al. (2017), eq. 2.

    Attributes:
        hidden_dim: F.
        activation: a name in `ACTIVATIONS`.
        out_scale: variance of the initial `down` kernel, relative to 1 / F; 0 is zeros.
    """

    hidden_dim: int
    activation: str = "relu"
    use_bias: bool = True
    out_scale: float = 1.0
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, x):
        activate = _named(ACTIVATIONS, self.activation, "an Mlp")
        hidden = _dense(self, self.hidden_dim, "up")(x)
        return _down(self, x.shape[-1], activate, hidden)


class GLU(nn.Module):
    """down(activation(gate(x)) * up(x)) (Shazeer, 2020, eq. 6).

    Attributes:
        hidden_dim: F.
        activation: a name in `GATES`.
        match_params: takes `matched_width(hidden_dim)` for F instead.
        out_scale: variance of the initial `down` kernel, relative to 1 / F; 0 is zeros.
    """

    hidden_dim: int
    activation: str = "swiglu"
    match_params: bool = False
    use_bias: bool = True
    out_scale: float = 1.0
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, x):
        activate = _named(GATES, self.activation, "a GLU")
        width = matched_width(self.hidden_dim) if self.match_params else self.hidden_dim
        gate, up = (_dense(self, width, name)(x) for name in ("gate", "up"))
        return _down(self, x.shape[-1], lambda g, u: activate(g) * u, gate, up)


def check(activation):
    """Raises ValueError unless some feed-forward network has that activation."""
    _named({**ACTIVATIONS, **GATES}, activation, "a feed-forward network")


def feed_forward(hidden_dim, activation, *, match_params=False, **fields):
    """The `Mlp` or `GLU` that `activation` names; `fields` as theirs.

    Raises:
        ValueError: no network has that activation.
    """
    check(activation)
    if activation in GATES:
        return GLU(hidden_dim, activation, match_params=match_params, **fields)
    return Mlp(hidden_dim, activation, **fields)


def _named(functions, name, owner):
    if name not in functions:
        raise ValueError(
            f"unknown activation {name!r} for {owner}; "
            f"choose one of {', '.join(functions)}"
        )
    return functions[name]


def _down(module, features, activate, *wide):
    """The last projection, of activate(*wide).

    The backward pass keeps what is in `wide` alone and activates it again: arrays of
    the hidden width are most of what a block would store.
    """

    def project(module, *wide):
        dense = _dense(module, features, "down", module.out_scale)
        return dense(activate(*wide))

    return nn.remat(project, prevent_cse=False)(module, *wide)


def _dense(module, features, name, scale=1.0):
    return nn.Dense(
        features,
        use_bias=module.use_bias,
        kernel_init=scaled_normal(scale),
        dtype=jnp.dtype(module.dtype),
        param_dtype=jnp.dtype(module.param_dtype),
        name=name,
    )
