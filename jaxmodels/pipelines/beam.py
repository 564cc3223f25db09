"""Beam search: the likeliest continuations, as far as a beam of them sees.

Shapes use B batch, K beams, R results, N new tokens, V vocabulary, P prompt length,
S source length.
"""

import functools
import math

import flax
import jax
import jax.numpy as jnp

from jaxmodels.models.performer import take_rows
from jaxmodels.pipelines import decoding
from jaxmodels.train.errors import ConfigError

LENGTH_PENALTY = 0.6  # Wu et al. (2016), section 7: 0.6 to 0.7 was usually best


@flax.struct.dataclass
class Hypotheses:
    """The best sequences found for each row, best first.

    Attributes:
        tokens: int32 [..., R, N], `end_id` from where a sequence has ended.
        scores: float32 [..., R], log-probability over length penalty; -inf where there
            are fewer than R sequences.
        log_probs: float32 [..., R], the log-probability of the tokens with their end.
        lengths: int32 [..., R], tokens with the end, or N where there is no end yet.
    """

    tokens: jax.Array
    scores: jax.Array
    log_probs: jax.Array
    lengths: jax.Array


@flax.struct.dataclass
class Search:
    """A search after `index` tokens.

    Attributes:
        index: int32 [].
        tokens: int32 [B, K, N], of the beams that go on.
        log_probs: float32 [B, K], -inf for a beam that does not.
        found: `Hypotheses` [B, R] that have ended.
        num_ended: int32 [B], hypotheses that have ended, kept or not.
        greedy: bool [B], the first beam is greedy decoding, which has not ended.
    """

    index: jax.Array
    tokens: jax.Array
    log_probs: jax.Array
    found: Hypotheses
    num_ended: jax.Array
    greedy: jax.Array


def beam_search(
    model,
    variables,
    prompt_tokens,
    *,
    beam_size,
    max_tokens,
    end_id,
    length_penalty=LENGTH_PENALTY,
    num_results=1,
    prompt_mask=None,
    source=None,
    source_mask=None,
):
    """Searches for the continuations with the highest scores.

    The score is log P(tokens) / ((5 + length) / 6)^length_penalty (Wu et al., 2016,
    eq. 14, without its coverage term: linear attention has no weights to cover with).
    A hypothesis that ends among the best `beam_size` candidates leaves the beam and is
    kept, and the next best takes its place. The greedy sequence never loses its place
    to others, so no first result scores below it, and one beam is greedy decoding. A
    row is done once `beam_size` hypotheses have ended and the greedy one is among
    them, or none that goes on can enter the results any more. What has not ended after
    `max_tokens` is scored as it stands. The whole search is one compiled program.

    Args:
        model, variables, prompt_tokens, prompt_mask, source, source_mask: as in
            `decoding.generate`.
        beam_size: K; the cost of a step is that of a batch of B K rows.
        max_tokens: N.
        end_id: ends a sequence.
        length_penalty: 0 compares log-probabilities, larger prefers longer sequences.
        num_results: R, at most `beam_size`.

    Returns:
        `Hypotheses` [B, R].

    Raises:
        ConfigError: (a ValueError) as `decoding.generate`, or a size out of its range.
    """
    check_beam(beam_size, length_penalty, num_results)
    decoding.check_sampling(max_tokens)
    if not 0 <= end_id < model.vocab_size:
        raise ConfigError(
            f"end_id {end_id} is none of the model's {model.vocab_size} ids"
        )
    given = decoding.checked(
        model, prompt_tokens, prompt_mask, source, source_mask, max_tokens=max_tokens
    )
    return _search(
        model,
        variables,
        given,
        jnp.float32(length_penalty),
        beam_size=beam_size,
        max_tokens=max_tokens,
        end_id=end_id,
        num_results=num_results,
    )


def check_beam(beam_size, length_penalty=LENGTH_PENALTY, num_results=1):
    """Raises ConfigError for a setting of the search that is out of its range."""
    if beam_size < 1:
        raise ConfigError(f"beam_size {beam_size} must be at least 1 (1 is greedy)")
    if not (math.isfinite(length_penalty) and length_penalty >= 0):
        raise ConfigError(
            f"length_penalty {length_penalty} must be at least 0 (0 is none) and finite"
        )
    if not 1 <= num_results <= beam_size:
        raise ConfigError(
            f"num_results {num_results} must be at least 1 and at most beam_size "
            f"{beam_size}"
        )


@functools.partial(
    jax.jit,
    static_argnames=("model", "beam_size", "max_tokens", "end_id", "num_results"),
)
def _search(
    model,
    variables,
    given,
    length_penalty,
    *,
    beam_size,
    max_tokens,
    end_id,
    num_results,
):
    def penalize(log_probs, length):
        return log_probs / ((5.0 + length) / 6.0) ** length_penalty

    def go_on(carry):
        search, _ = carry
        return (search.index < max_tokens) & jnp.any(search.log_probs > -jnp.inf)

    def step(carry):
        search, state = carry
        token = search.tokens[:, :, search.index - 1].reshape(-1)
        logits, state = model.apply(variables, state, token, method="step")
        search, beams = _extend(
            search, logits.reshape(batch, beam_size, -1), end_id, penalize
        )
        return search, _reorder(state, beams)

    logits, state = decoding.read(model, variables, *given)
    batch = logits.shape[0]
    state = take_rows(state, jnp.repeat(jnp.arange(batch), beam_size))
    logits = jnp.repeat(logits[:, None], beam_size, axis=1)
    search = _start(batch, beam_size, max_tokens, end_id, num_results)
    # All beams are the prompt at first, so their order is nothing to the state.
    search, _ = _extend(search, logits, end_id, penalize)
    search, _ = jax.lax.while_loop(go_on, step, (search, state))
    return _add(search.found, search.tokens, search.log_probs, max_tokens, penalize)


def _start(batch, beam_size, max_tokens, end_id, num_results):
    """Of the equal beams at the start one counts, else all would find the same."""
    found = Hypotheses(
        tokens=jnp.full((batch, num_results, max_tokens), end_id, jnp.int32),
        scores=jnp.full((batch, num_results), -jnp.inf),
        log_probs=jnp.full((batch, num_results), -jnp.inf),
        lengths=jnp.zeros((batch, num_results), jnp.int32),
    )
    return Search(
        index=jnp.zeros((), jnp.int32),
        tokens=jnp.full((batch, beam_size, max_tokens), end_id, jnp.int32),
        log_probs=jnp.full((batch, beam_size), -jnp.inf).at[:, 0].set(0.0),
        found=found,
        num_ended=jnp.zeros(batch, jnp.int32),
        greedy=jnp.ones(batch, bool),
    )


def _extend(search, logits, end_id, penalize):
    """One more token for each beam; returns the search and int [B, K], which beam each
    of the new ones continues."""
    _, num_beams, max_tokens = search.tokens.shape
    vocab_size = logits.shape[-1]
    log_probs = search.log_probs[..., None] + jax.nn.log_softmax(logits)  # B K V
    # At most one candidate of a beam ends it: of 2 K at least K go on.
    best, picked = _top(
        log_probs.reshape(-1, num_beams * vocab_size),
        min(2, vocab_size) * num_beams,
        first=jnp.argmax(log_probs[:, 0], axis=-1),
        where=search.greedy,
    )
    beams, token = picked // vocab_size, picked % vocab_size
    tokens = jnp.take_along_axis(search.tokens, beams[..., None], axis=1)
    tokens = tokens.at[:, :, search.index].set(token)
    length, ends = search.index + 1, token == end_id
    greedy = search.greedy & ~ends[:, 0]

    ended = jnp.where(ends, best, -jnp.inf)[:, :num_beams]
    found = _add(search.found, tokens[:, :num_beams], ended, length, penalize)
    num_ended = search.num_ended + jnp.sum(ended > -jnp.inf, axis=1)

    best, order = _top(
        jnp.where(ends, -jnp.inf, best), num_beams, first=0, where=greedy
    )
    # Log-probabilities only fall, so the longest sequence has the mildest penalty.
    bound = penalize(jnp.max(best, axis=1), max_tokens)
    done = (num_ended >= num_beams) & ~greedy | (bound <= found.scores[:, -1])
    search = Search(
        index=length,
        tokens=jnp.take_along_axis(tokens, order[..., None], axis=1),
        log_probs=jnp.where(done[:, None], -jnp.inf, best),
        found=found,
        num_ended=num_ended,
        greedy=greedy,
    )
    return search, jnp.take_along_axis(beams, order, axis=1)


def _top(values, number, *, first, where):
    """The largest `number` of [B, C] and their places; in the rows `where` [B] holds,
    the place `first` comes before all others."""
    column = jnp.arange(values.shape[1]) == jnp.reshape(first, (-1, 1))
    _, places = jax.lax.top_k(
        jnp.where(column & where[:, None], jnp.inf, values), number
    )
    return jnp.take_along_axis(values, places, axis=1), places


def _add(found, tokens, log_probs, length, penalize):
    """The best R of `found` and of sequences [B, K, N] of one length."""
    new = Hypotheses(
        tokens=tokens,
        scores=penalize(log_probs, length),
        log_probs=log_probs,
        lengths=jnp.full(log_probs.shape, length, jnp.int32),
    )
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), found, new)
    _, order = jax.lax.top_k(both.scores, found.scores.shape[1])

    def take(leaf):
        return jnp.take_along_axis(
            leaf, order.reshape(*order.shape, *[1] * (leaf.ndim - 2)), axis=1
        )

    return jax.tree.map(take, both)


def _reorder(state, beams):
    """The state of the beams int [B, K] that each row goes on with."""
    batch, num_beams = beams.shape
    rows = (beams + num_beams * jnp.arange(batch)[:, None]).reshape(-1)
    taken = take_rows(state, rows)
    # All beams of a row read one context: what is kept of it stays where it is.
    layers = taken.layers.replace(memory=state.layers.memory)
    return taken.replace(layers=layers)
