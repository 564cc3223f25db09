"""The numpy rule beside the one of transformers, from the same generator."""

import numpy as np
import pytest

from jaxmodels.layers.span_masks import wav2vec2_spans

torch = pytest.importorskip("torch", reason="torch is not installed: make test-parity")
wav2vec2 = pytest.importorskip(
    "transformers.models.wav2vec2.modeling_wav2vec2",
    reason="transformers is not installed: make test-parity",
)
pytestmark = pytest.mark.parity

# Batch, frames, probability, frames a span, least spans.
SHAPES = [
    (1, 1, 1.0, 1, 0),
    (1, 10, 0.65, 10, 0),
    (2, 11, 0.65, 10, 2),
    (2, 30, 0.65, 10, 0),
    (2, 30, 0.65, 10, 2),
    (3, 7, 0.5, 3, 2),
    (3, 7, 0.0, 3, 0),
    (3, 7, 0.0, 3, 1),
    (4, 12, 0.9, 4, 1),
    (4, 12, 1.0, 4, 9),
    (5, 33, 0.05, 2, 0),
    (5, 33, 0.4, 1, 0),
    (8, 64, 0.75, 5, 0),
    (8, 100, 0.2, 10, 0),
    (2, 240, 0.2, 10, 0),
    (2, 256, 0.65, 10, 2),
    (2, 749, 0.65, 10, 2),
    (4, 1023, 0.65, 10, 2),
    (4, 1024, 0.65, 10, 0),
    (1, 1024, 0.75, 10, 0),
]


@pytest.mark.parametrize("seed, shape", list(enumerate(SHAPES)))
@pytest.mark.parametrize("padded", [False, True])
def test_every_bit_equals_that_of_transformers(seed, shape, padded):
    batch, frames, *sizes, least = shape
    there = None
    if padded:
        lengths = np.linspace(1, frames, batch).astype(int)
        there = np.arange(frames) < lengths[:, None]
    given = None if there is None else torch.tensor(there)
    state = np.random.get_state()
    np.random.seed(seed)
    expected = wav2vec2._compute_mask_indices(
        (batch, frames), *sizes, attention_mask=given, min_masks=least
    )
    np.random.set_state(state)
    found = wav2vec2_spans(
        np.random.RandomState(seed), (batch, frames), *sizes, least, there
    )
    np.testing.assert_array_equal(found, expected)
