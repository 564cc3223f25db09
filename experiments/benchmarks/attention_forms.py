"""Causal attention by name: ours and its peers, each ready to run on the same inputs.

Peers are imported when they are asked for, from the extra `parity`.

Shapes use B batch, L length, H heads, K head width, M features.
"""

import contextlib
import functools
import io
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import google_scheme
from experiments.benchmarks.compare import MODES, Contender
from experiments.benchmarks.measure import Prepared
from jaxmodels.layers import linear_attention


class Problem(NamedTuple):
    """Sizes and inputs of a causal attention.

    Attributes:
        scale: standard deviation of the entries of queries and keys.
        num_features: M.
        chunk_size: of ours.
    """

    length: int
    batch_size: int = 1
    num_heads: int = 8
    head_dim: int = 64
    num_features: int = 256
    chunk_size: int = 64
    scale: float = 0.5
    seed: int = 0
    dtype: str = "float32"

    def arrays(self):
        """Query, key, value, cotangent of the output: float32 [B, L, H, K].

        Rounded to `dtype`, so that all, the reference too, begin with the same numbers.
        """
        shape = self.batch_size, self.length, self.num_heads, self.head_dim
        rng = np.random.default_rng(self.seed)
        drawn = [rng.standard_normal(shape, np.float32) for _ in range(4)]
        drawn = [drawn[0] * self.scale, drawn[1] * self.scale, *drawn[2:]]
        return [x.astype(jnp.dtype(self.dtype)).astype(np.float32) for x in drawn]

    def projection(self):
        """The random directions [M, K] that all kernel forms share."""
        rng = jax.random.key(self.seed)
        drawn = linear_attention.orthogonal_projection(
            rng, self.num_features, self.head_dim
        )
        return np.asarray(drawn)

    def published_features(self):
        """int(K ln K), the number of features that a model has by default."""
        return int(self.head_dim * math.log(self.head_dim))

    def model_flops(self):
        """Operations of our forward pass, counted from its products."""
        width, features, chunk = self.head_dim, self.num_features, self.chunk_size
        token = 4 * width * features + 2 * chunk * (features + width)
        token += 4 * features * width
        return token * self.batch_size * self.length * self.num_heads


class Form(NamedTuple):
    """An implementation.

    Attributes:
        build: Problem -> function of query, key, value, projection. JAX functions
            take [B, L, H, K], PyTorch's [B, H, L, K], the layout of each.
        library: "jax" or "torch".
        function: what it computes, in `reference.FUNCTIONS`.
        contender: how it grows.
    """

    build: Callable
    library: str
    function: str
    contender: Contender


def _ours(problem):
    def attend(query, key, value, projection):
        out, _ = linear_attention.causal_linear_attention(
            query,
            key,
            value,
            features=linear_attention.favor_plus(projection),
            chunk_size=problem.chunk_size,
        )
        return out

    return attend


def _google(problem, unroll=1):
    return functools.partial(google_scheme.attend, unroll=unroll)


def _jax_softmax(problem):
    def attend(query, key, value, projection):
        return jax.nn.dot_product_attention(query, key, value, is_causal=True)

    return attend


def _torch_softmax(problem):
    from torch.nn import functional

    def attend(query, key, value, projection):
        return functional.scaled_dot_product_attention(
            query, key, value, is_causal=True
        )

    return attend


def _performer_pytorch(problem):
    import performer_pytorch

    # It prints that its CUDA kernel is absent.
    with contextlib.redirect_stdout(io.StringIO()):
        attention = performer_pytorch.FastAttention(
            problem.head_dim, nb_features=problem.num_features, causal=True
        )

    def attend(query, key, value, projection):
        attention.projection_matrix.copy_(projection)
        return attention(query, key, value)

    return attend


FORMS = {
    "ours": Form(_ours, "jax", "positive", Contender(note="this package")),
    "google": Form(
        _google,
        "jax",
        "google",
        Contender(note="our transcription of google-research's scheme"),
    ),
    "google-unroll16": Form(
        functools.partial(_google, unroll=16),
        "jax",
        "google",
        Contender(note="the same, 16 tokens unrolled"),
    ),
    "performer-pytorch": Form(
        _performer_pytorch,
        "torch",
        "performer-pytorch",
        Contender(note="FastAttention(causal=True) without its CUDA kernel"),
    ),
    "torch-sdpa": Form(
        _torch_softmax,
        "torch",
        "softmax",
        Contender(2.0, 1.0, "exact softmax, scaled_dot_product_attention"),
    ),
    "jax-softmax": Form(
        _jax_softmax,
        "jax",
        "softmax",
        Contender(2.0, 2.0, "exact softmax, jax.nn.dot_product_attention"),
    ),
}


def prepare(name, problem, mode):
    """Form `name` of `FORMS` as a `Prepared`, whose result is `to_numpy`'s to read."""
    form = FORMS[name]
    make = _prepare_jax if form.library == "jax" else _prepare_torch
    return make(form.build(problem), problem, mode == MODES[1])


def temporaries(name, problem, mode):
    """Bytes that the compiled program of a form needs, with nothing run or allocated.

    Returns:
        An int; None where no compiler knows.
    """
    form = FORMS[name]
    if form.library != "jax":
        return None
    shape = problem.batch_size, problem.length, problem.num_heads, problem.head_dim
    one = jax.ShapeDtypeStruct(shape, problem.dtype)
    directions = problem.num_features, problem.head_dim
    projection = jax.ShapeDtypeStruct(directions, jnp.float32)
    arguments = (one, one, one), one, projection
    return _temporaries(_compile(form.build(problem), mode == MODES[1], arguments))


def to_numpy(result):
    """Output and gradients as float32 arrays [B, L, H, K]."""
    if isinstance(result[0], jax.Array):
        return [np.asarray(x, np.float32) for x in result]
    return [x.detach().float().transpose(1, 2).numpy() for x in result]


def _prepare_jax(attend, problem, backward):
    *inputs, d_out = (jnp.asarray(x, problem.dtype) for x in problem.arrays())
    arguments = inputs, d_out, jnp.asarray(problem.projection())
    compiled = _compile(attend, backward, arguments)
    return Prepared(
        lambda: jax.block_until_ready(compiled(*arguments)), _temporaries(compiled)
    )


def _compile(attend, backward, arguments):
    def forward(inputs, d_out, projection):
        return (attend(*inputs, projection),)

    def both(inputs, d_out, projection):
        out, pull = jax.vjp(lambda *x: attend(*x, projection), *inputs)
        return out, *pull(d_out)

    return jax.jit(both if backward else forward).lower(*arguments).compile()


def _temporaries(compiled):
    memory = compiled.memory_analysis()
    return None if memory is None else int(memory.temp_size_in_bytes)


def _prepare_torch(attend, problem, backward):
    import torch

    dtype = getattr(torch, problem.dtype)
    *inputs, d_out = (
        torch.from_numpy(x).to(dtype).transpose(1, 2).contiguous()
        for x in problem.arrays()
    )
    projection = torch.from_numpy(problem.projection().copy())

    def forward():
        with torch.no_grad():
            return (attend(*inputs, projection),)

    def both():
        for x in inputs:
            x.grad = None
        out = attend(*inputs, projection)
        out.backward(d_out)
        return out.detach(), *(x.grad for x in inputs)

    if backward:
        for x in inputs:
            x.requires_grad_()
    return Prepared(both if backward else forward)
