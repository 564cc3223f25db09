"""Decoding with a Performer: reading a prompt, then one token at a time.

Shapes use B batch, T length, D width.
"""

import flax
import jax
import jax.numpy as jnp

from jaxmodels.models.performer_stack import LayerState
from jaxmodels.models.performer_tokens import count_places


@flax.struct.dataclass
class DecodingState:
    """What a model keeps of the tokens it has seen.

    Attributes:
        layers: `LayerState`, each leaf stacked over the layers on axis 0.
        position: int32 [B], of the next token.
    """

    layers: LayerState
    position: jax.Array


def prefill(embed, decoder, tokens, state, mask, *, last_only=False, **options):
    """Reads int [B, T] after `state`; returns [B, T, D] and the `DecodingState`.

    Args:
        embed, decoder: bound modules of a model.
        last_only: returns [B, 1, D] of the last token that is there, or of the last
            column where there is none.
        options: as in `PerformerLayer.prefill`.

    Raises:
        ValueError: there is no token.
    """
    batch, length = tokens.shape
    if length == 0:
        raise ValueError("prefill needs at least one token; T is 0")
    mask = jnp.ones((batch, length), bool) if mask is None else mask
    start = jnp.zeros(batch, jnp.int32) if state is None else state.position
    places, taken = count_places(mask, start)
    x, layers = decoder.prefill(
        embed(tokens, places),
        state=None if state is None else state.layers,
        positions=places,
        mask=mask,
        **options,
    )
    if last_only:
        last = length - 1 - jnp.argmax(mask[:, ::-1], axis=1)
        x = jnp.take_along_axis(x, last[:, None, None], axis=1)
    return x, DecodingState(layers, start + taken)


def step(embed, decoder, state, token):
    """`prefill` of one token [B]; returns [B, 1, D] and the `DecodingState`."""
    places = state.position[:, None]
    x = embed(token[:, None], places)
    x, layers = decoder.step(x, state.layers, positions=places)
    return x, DecodingState(layers, state.position + 1)


def take_rows(state, rows):
    """The `DecodingState` of other rows of its batch: of the beams that go on, say.

    Args:
        state: `DecodingState` of B rows.
        rows: int [N], each below B.
    """

    # What has no axis of rows, such as the length of a cache, belongs to all of them.
    def take(leaf):
        return jnp.take(leaf, rows, axis=1) if leaf.ndim > 1 else leaf

    return DecodingState(
        jax.tree.map(take, state.layers), jnp.take(state.position, rows, axis=0)
    )
