"""Training state."""

from typing import Any

import flax
import jax
import jax.numpy as jnp

PyTree = Any


@flax.struct.dataclass
class TrainState:
    """Everything a step reads and writes, and everything a checkpoint holds.

    Attributes:
        step: int32 [], number of completed updates; update n (from 0) sees batch n.
        params: network -> parameters, trained or frozen.
        opt_state: trained network -> optimizer state.
        ema: trained network -> running average of its parameters, or empty.
        collections: network -> {collection: variables} that no gradient reaches:
            batch statistics, random projections, codebooks.
        skips: int32 [2], updates refused because they were not finite:
            in a row up to now, and in all.
    """

    step: jax.Array
    params: dict[str, PyTree]
    opt_state: dict[str, PyTree]
    ema: dict[str, PyTree]
    collections: dict[str, dict[str, PyTree]]
    skips: jax.Array


def start(params, opt_state, ema, collections):
    """The state before the first update."""
    zero = jnp.zeros((), jnp.int32)
    return TrainState(
        zero, params, opt_state, ema, collections, jnp.zeros(2, jnp.int32)
    )
