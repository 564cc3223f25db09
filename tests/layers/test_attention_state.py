"""What attention of both kinds keeps: nothing of padding, and all of a prefix."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.layers.test_attention import (
    BATCH,
    LENGTH,
    MAKE,
    WIDTH,
    apply,
    build,
    close,
    noise,
    tokens,
)

PADDED = jnp.arange(LENGTH)[None] < jnp.array([[4], [LENGTH]])


def spoiled(x):
    return jnp.where(PADDED[..., None], x, jnp.nan)


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("causal", [False, True])
def test_not_even_nan_in_the_padding_reaches_a_token(kind, causal):
    module, variables = build(kind, causal=causal)
    run = functools.partial(apply, module, variables, mask=PADDED)
    before, after = run(tokens()), run(spoiled(tokens()))
    np.testing.assert_array_equal(before[PADDED], after[PADDED])


@pytest.mark.parametrize("kind", MAKE)
def test_nan_in_the_padding_of_a_context_reaches_no_gradient(kind):
    module, variables = build(kind)

    def total(params, x, context):
        out = module.apply({**variables, "params": params}, x, context, mask=PADDED)
        return jnp.sum(jnp.sin(out))

    run = jax.jit(jax.value_and_grad(total, (0, 1, 2)))
    context = noise(3, BATCH, LENGTH, WIDTH)
    before, after = (
        run(variables["params"], tokens(), x) for x in (context, spoiled(context))
    )
    chex.assert_trees_all_equal(before, after)
    assert (after[1][2][PADDED] != 0).all()
    np.testing.assert_array_equal(after[1][2][~PADDED], 0.0)


@pytest.mark.parametrize("kind", MAKE)
def test_nan_in_the_padding_of_a_prompt_is_not_remembered(kind):
    module, variables = build(kind, causal=True)
    run = functools.partial(apply, module, variables)
    token = noise(4, BATCH, 1, WIDTH)
    results = []
    for x in (tokens(), spoiled(tokens())):
        out, state = run(x, mask=PADDED, method="prefill")
        one, state = run(state, token, method="step")
        results.append((out[PADDED], one, run(state, token, method="step")[0]))
    chex.assert_trees_all_equal(*results)


@pytest.mark.parametrize("kind", MAKE)
def test_a_prefix_stays_seen_by_all_while_decoding(kind):
    module, variables = build(kind, causal=True)
    run = functools.partial(apply, module, variables)
    prefix = jnp.array([4, 2])
    whole = run(tokens(), prefix_lengths=prefix)
    first, state = run(tokens()[:, :5], prefix_lengths=prefix, method="prefill")
    outputs = [first]
    for t in range(5, LENGTH):
        one, state = run(state, tokens()[:, t : t + 1], method="step")
        outputs.append(one)
    close(jnp.concatenate(outputs, axis=1), whole)
    assert jnp.abs(run(tokens())[0, :3] - whole[0, :3]).max() > 1e-3


def test_a_prefix_of_later_tokens_is_the_same_for_both_kinds():
    """The first columns of what is read now, after what was read before."""
    for kind in MAKE:
        module, variables = build(kind, causal=True)
        run = functools.partial(apply, module, variables, method="prefill")
        prefix = jnp.array([3, 0])
        _, state = run(tokens()[:, :2])
        read = functools.partial(run, prefix_lengths=prefix)
        before, _ = read(tokens()[:, 2:], state)
        # Token 4 is the last of the prefix: it reaches those before it.
        after, _ = read(tokens()[:, 2:].at[:, 2].add(1.0), state)
        changed = (before != after).any(axis=-1)
        np.testing.assert_array_equal(changed[0], [True] * 5)
        np.testing.assert_array_equal(changed[1], [False] * 2 + [True] * 3)
