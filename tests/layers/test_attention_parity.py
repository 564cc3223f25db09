"""Softmax attention beside PyTorch's, from the same random numbers."""

import numpy as np
import pytest

from jaxmodels.layers.attention import dot_product_attention

torch = pytest.importorskip("torch", reason="torch is not installed: make test-parity")
pytestmark = pytest.mark.parity


@pytest.mark.parametrize("causal", [False, True])
def test_softmax_attention_equals_pytorchs(causal):
    rng = np.random.default_rng(0)
    query, key, value = rng.normal(size=(3, 2, 7, 4, 8)).astype(np.float32)
    mask = np.tril(np.ones((7, 7), bool)) if causal else None
    heads_first = [torch.from_numpy(x).transpose(1, 2) for x in (query, key, value)]
    expected = torch.nn.functional.scaled_dot_product_attention(
        *heads_first, is_causal=causal
    )
    found = dot_product_attention(query, key, value, mask)
    np.testing.assert_allclose(
        found, expected.transpose(1, 2).numpy(), rtol=1e-5, atol=1e-6
    )
