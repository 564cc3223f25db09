"""Linformer attention beside lucidrains' package, with the same random weights.

The package has one matrix E and one F for all heads, which is "headwise". Its
`share_kv` ties the projections to heads as well, which is not what the paper shares, so
that "kv" and "layerwise" are its two matrices made equal. Matrices for each head are
the sum of one package module for each head.
"""

import jax
import numpy as np
import pytest

from jaxmodels.layers.linformer import LinformerAttention
from tests.variables import random_variables

torch = pytest.importorskip("torch", reason="torch is not installed: make test-parity")
linformer = pytest.importorskip(
    "linformer", reason="linformer is not installed: make test-parity"
)
pytestmark = pytest.mark.parity


def peer(x, params, key_projection, value_projection):
    """The package's output, where params are those of any number of heads."""
    length, rank = key_projection.shape
    width, heads, head_dim = params["query"]["kernel"].shape
    module = linformer.LinformerSelfAttention(
        width, length, k=rank, heads=heads, dim_head=head_dim, share_kv=False
    )
    inner = heads * head_dim
    weights = {
        "to_q.weight": params["query"]["kernel"].reshape(width, inner).T,
        "to_k.weight": params["key"]["kernel"].reshape(width, inner).T,
        "to_v.weight": params["value"]["kernel"].reshape(width, inner).T,
        "proj_k": key_projection,
        "proj_v": value_projection,
        "to_out.weight": params["out"]["kernel"].reshape(inner, width).T,
        "to_out.bias": params["out"]["bias"],
    }
    module.load_state_dict({k: torch.tensor(v) for k, v in weights.items()})
    with torch.no_grad():
        return module(torch.tensor(x)).numpy()


def of_head(params, head):
    """Parameters of one head alone; the bias is of the first."""
    one = slice(head, head + 1)
    alone = {n: {"kernel": params[n]["kernel"][:, one]} for n in ("query", "key")}
    alone["value"] = {"kernel": params["value"]["kernel"][:, one]}
    bias = params["out"]["bias"] * (head == 0)
    return alone | {"out": {"kernel": params["out"]["kernel"][one], "bias": bias}}


@pytest.mark.parametrize("sharing", ["none", "headwise", "kv", "layerwise"])
@pytest.mark.parametrize(
    "length, width, heads, rank", [(9, 12, 3, 4), (300, 60, 2, 64)]
)
def test_every_sharing_equals_the_package(length, width, heads, rank, sharing):
    module = LinformerAttention(width, heads, length, rank, sharing, out_bias=True)
    x = jax.random.normal(jax.random.key(0), (2, length, width))
    given = []
    if sharing == "layerwise":
        given = [jax.random.normal(jax.random.key(1), (length, rank)) / length**0.5]
    variables = random_variables(module, x, *given)
    own = variables["params"]
    if not given:
        own["key_projection"] /= length**0.5  # logits of order 1
    params, inputs = jax.tree.map(np.asarray, (own, x))
    first = np.asarray(given[0]) if given else params["key_projection"]
    second = params.get("value_projection", first)
    if sharing == "none":
        expected = sum(
            peer(inputs, of_head(params, head), first[head], second[head])
            for head in range(heads)
        )
    else:
        expected = peer(inputs, params, first, second)
    found = module.apply(variables, x, *given)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found / scale, expected / scale, atol=1e-5)
