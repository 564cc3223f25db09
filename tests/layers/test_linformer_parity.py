"""Linformer attention beside lucidrains' package, with the same random weights."""

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


@pytest.mark.parametrize(
    "length, width, heads, rank", [(9, 12, 3, 4), (300, 60, 2, 64)]
)
def test_headwise_sharing_equals_the_package(length, width, heads, rank):
    # `share_kv` of the package ties the projections to heads as well, which is not
    # what the paper shares.
    peer = linformer.LinformerSelfAttention(
        width, length, k=rank, heads=heads, dim_head=width // heads, share_kv=False
    )
    module = LinformerAttention(width, heads, length, rank, out_bias=True)
    x = jax.random.normal(jax.random.key(0), (2, length, width))
    variables = random_variables(module, x)
    params = jax.tree.map(np.asarray, variables["params"])
    # Logits of order 1.
    variables["params"]["key_projection"] /= length**0.5
    params["key_projection"] = np.asarray(variables["params"]["key_projection"])
    weights = {
        "to_q.weight": params["query"]["kernel"].reshape(width, width).T,
        "to_k.weight": params["key"]["kernel"].reshape(width, width).T,
        "to_v.weight": params["value"]["kernel"].reshape(width, width).T,
        "proj_k": params["key_projection"],
        "proj_v": params["value_projection"],
        "to_out.weight": params["out"]["kernel"].reshape(width, width).T,
        "to_out.bias": params["out"]["bias"],
    }
    peer.load_state_dict({k: torch.tensor(v) for k, v in weights.items()})
    with torch.no_grad():
        expected = peer(torch.tensor(np.asarray(x))).numpy()
    found = module.apply(variables, x)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found / scale, expected / scale, atol=1e-5)
