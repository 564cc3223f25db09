"""Performer: a universal transformer whose attention is linear in the length.

Choromanski et al. (2021), "Rethinking attention with Performers". The classes of the
family, from the files that hold them.

Shapes use M rows and K columns of a projection.
"""

import functools
import math

import jax

from jaxmodels.layers.attention import AttentionSpec
from jaxmodels.layers.feature_maps import orthogonal_projection
from jaxmodels.models.performer_classifier import PerformerClassifier
from jaxmodels.models.performer_decoding import DecodingState, take_rows
from jaxmodels.models.performer_lm import PerformerLM
from jaxmodels.models.performer_seq2seq import (
    EncoderDecoderTransformer,
    PerformerSeq2Seq,
    Stack,
)
from jaxmodels.models.performer_stack import (
    PerformerDecoder,
    PerformerEncoder,
    PerformerLayer,
)

__all__ = [
    "AttentionSpec",
    "DecodingState",
    "EncoderDecoderTransformer",
    "PerformerClassifier",
    "PerformerDecoder",
    "PerformerEncoder",
    "PerformerLM",
    "PerformerLayer",
    "PerformerSeq2Seq",
    "Stack",
    "redraw",
    "take_rows",
]


def redraw(collections, rng, *, ortho_scaling=1.0):
    """Draws every random projection anew; a function of `rng` and the shapes alone.

    Args:
        collections: {collection: tree}, with or without "projections"; `variables` of
            `init` will do. In "projections" each leaf is [M, K] or, in a scanned
            stack, [layers, M, K], and every layer gets a projection of its own.
        rng: PRNG key.
        ortho_scaling: the norms of the rows, as in `orthogonal_projection`.

    Returns:
        The same collections, "projections" replaced.
    """
    if "projections" not in collections:
        return dict(collections)
    draw = functools.partial(orthogonal_projection, ortho_scaling=ortho_scaling)
    draw = jax.vmap(draw, in_axes=(0, None, None))
    leaves, tree = jax.tree.flatten(collections["projections"])
    drawn = []
    for index, leaf in enumerate(leaves):
        *stack, rows, width = leaf.shape
        rngs = jax.random.split(jax.random.fold_in(rng, index), math.prod(stack))
        drawn.append(draw(rngs, rows, width).reshape(leaf.shape).astype(leaf.dtype))
    return {**collections, "projections": jax.tree.unflatten(tree, drawn)}
