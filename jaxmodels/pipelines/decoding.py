"""New tokens by a trained model: one pass over what is given, then one step a token.

Shapes use B batch, P prompt length, S source length, N new tokens, V vocabulary.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.train.errors import ConfigError


def generate(
    model,
    variables,
    prompt_tokens,
    rng,
    *,
    max_tokens,
    temperature=1.0,
    top_k=None,
    top_p=1.0,
    prompt_mask=None,
    prefix_lengths=None,
    source=None,
    source_mask=None,
    end_id=None,
):
    """Continues prompts: one pass over the prompt, then one step a token.

    Compiled once for each shape of prompt and source and each `max_tokens`.

    Args:
        model: module with `prefill`, `step` and `context_limit`, as `PerformerLM`, and
            where it takes a source with `encode`, as `PerformerSeq2Seq`.
        variables: what `model.apply` takes.
        prompt_tokens: int [B, P], P at least 1; with a source the beginning of the
            target, which is one `end_id` where nothing of it is known.
        rng: PRNG key; greedy decoding does not use it.
        max_tokens: N.
        temperature: divides the logits; 0 always takes the most likely token.
        top_k: samples among so many most likely tokens; None among all.
        top_p: samples among the fewest tokens, after `top_k`, that together have this
            probability (Holtzman et al., 2020).
        prompt_mask: bool [B, P], False for padding; None where there is none.
        prefix_lengths: int [B], the first columns of the prompt, which all of it sees,
            for a language model that was trained so; None where there are none.
        source: int [B, S], what a model with an encoder reads; else None.
        source_mask: bool [B, S], False for padding; None where there is none.
        end_id: a row that has drawn it holds nothing else from there on.

    Returns:
        int32 [B, N], the new tokens.

    Raises:
        ConfigError: (a ValueError) an argument out of its range, an empty prompt, more
            tokens than fit in one context, or a source or a prefix where the model
            takes none.
    """
    check_sampling(max_tokens, temperature, top_k, top_p)
    given = checked(
        model, prompt_tokens, prompt_mask, source, source_mask, max_tokens=max_tokens
    )
    return _decode(
        model,
        variables,
        (*given, checked_prefix(model, prefix_lengths, given[0].shape)),
        rng,
        jnp.float32(temperature),
        None if top_k is None else jnp.int32(top_k),
        None if top_p == 1.0 else jnp.float32(top_p),
        greedy=temperature == 0,
        max_tokens=max_tokens,
        end_id=end_id,
    )


@functools.partial(jax.jit, static_argnames=("model", "greedy", "max_tokens", "end_id"))
def _decode(
    model,
    variables,
    given,
    rng,
    temperature,
    top_k,
    top_p,
    *,
    greedy,
    max_tokens,
    end_id,
):
    def choose(logits, index, done):
        if greedy:
            token = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        else:
            rng_now = jax.random.fold_in(rng, index)
            token = sample(logits, rng_now, temperature, top_k, top_p)
        if end_id is None:
            return token, done
        token = jnp.where(done, end_id, token)
        return token, done | (token == end_id)

    def unfinished(carry):
        index, _, _, done, _ = carry
        return (index < max_tokens) & ~jnp.all(done)

    def step(carry):
        index, tokens, token, done, state = carry
        logits, state = model.apply(variables, state, token, method="step")
        token, done = choose(logits, index, done)
        return index + 1, tokens.at[:, index].set(token), token, done, state

    logits, state = read(model, variables, *given)
    batch = logits.shape[0]
    token, done = choose(logits, 0, jnp.zeros(batch, bool))
    tokens = jnp.full((batch, max_tokens), 0 if end_id is None else end_id, jnp.int32)
    start = jnp.int32(1), tokens.at[:, 0].set(token), token, done, state
    return jax.lax.while_loop(unfinished, step, start)[1]


def read(
    model, variables, prompt, mask, source=None, source_mask=None, prefix_lengths=None
):
    """Reads what `checked` returns: logits [B, V] of the first new token, and a state.

    Traced, so that a loop over steps may follow in the same program.
    """
    beside = {}
    if source is not None:
        context = model.apply(
            variables, source, source_mask=source_mask, method="encode"
        )
        beside = dict(context=context, context_mask=source_mask)
    if prefix_lengths is not None:
        beside["prefix_lengths"] = prefix_lengths
    return model.apply(
        variables, prompt, mask=mask, last_only=True, method="prefill", **beside
    )


def sample(logits, rng, temperature, top_k=None, top_p=None):
    """Draws one token a row: [B, V] to int32 [B]; limits as in `generate`."""
    # Shifted first, so that no temperature above 0 overflows.
    logits = (logits - jnp.max(logits, axis=-1, keepdims=True)) / temperature
    if top_k is None and top_p is None:
        return jax.random.categorical(rng, logits).astype(jnp.int32)
    order = jnp.argsort(logits, axis=-1, descending=True)
    logits = jnp.take_along_axis(logits, order, axis=-1)
    if top_k is not None:
        logits = jnp.where(jnp.arange(logits.shape[-1]) < top_k, logits, -jnp.inf)
    if top_p is not None:
        probabilities = jax.nn.softmax(logits, axis=-1)
        before = jnp.cumsum(probabilities, axis=-1) - probabilities
        # The first token stays however small top_p is.
        keep = (before < top_p).at[:, 0].set(True)
        logits = jnp.where(keep, logits, -jnp.inf)
    rank = jax.random.categorical(rng, logits)
    token = jnp.take_along_axis(order, rank[:, None], axis=-1)[:, 0]
    return token.astype(jnp.int32)


def check_sampling(max_tokens, temperature=1.0, top_k=None, top_p=1.0):
    """Raises ConfigError for an argument of `generate` that is out of its range."""
    if max_tokens < 1:
        raise ConfigError(f"max_tokens {max_tokens} must be at least 1")
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ConfigError(
            f"temperature {temperature} must be at least 0 (0 is greedy) and finite"
        )
    if top_k is not None and top_k < 1:
        raise ConfigError(f"top_k {top_k} must be at least 1; leave it out for all")
    if not 0 < top_p <= 1:
        raise ConfigError(f"top_p {top_p} must be above 0 and at most 1")


def reads_source(model):
    """Whether a model has an encoder, and so needs a source."""
    return hasattr(model, "source_limit")


def check_context(model, prompt_length, max_tokens):
    """Raises ConfigError where prompt and new tokens do not fit in one context."""
    limit, total = model.context_limit, prompt_length + max_tokens
    if limit is None:
        return
    if reads_source(model):
        # A target is as long as what the decoder reads: the start stands for its end.
        limit += 1
    if total > limit:
        raise ConfigError(
            f"a prompt of {prompt_length} tokens and {max_tokens} new ones make "
            f"{total}, and this model was built for max_length {model.context_limit}; "
            f"ask for at most {max(limit - prompt_length, 0)} new tokens or shorten "
            "the prompt"
        )


def checked(model, prompt, prompt_mask, source, source_mask, *, max_tokens):
    """What a model is given, as arrays with their masks.

    Returns:
        The prompt int32 [B, P] and its mask bool [B, P], then the source [B, S] and its
        mask or None for both.

    Raises:
        ConfigError: see `generate`.
    """
    prompt, prompt_mask = _with_mask("prompt", prompt, prompt_mask)
    check_context(model, prompt.shape[1], max_tokens)
    if reads_source(model) != (source is not None):
        raise ConfigError(
            f"{type(model).__name__} has {'an' if source is None else 'no'} encoder, "
            f"and a source is {'missing' if source is None else 'given'}"
        )
    if source is None:
        return prompt, prompt_mask, None, None
    source, source_mask = _with_mask("source", source, source_mask)
    if source.shape[0] != prompt.shape[0]:
        raise ConfigError(
            f"{source.shape[0]} sources and {prompt.shape[0]} prompts are not as many; "
            "give each source the prompt of its own target"
        )
    check_source(model, source.shape[1])
    return prompt, prompt_mask, source, source_mask


def checked_prefix(model, prefix_lengths, shape):
    """`prefix_lengths` of a prompt of `shape` [B, P] as int32 [B], or None.

    Raises:
        ConfigError: see `generate`.
    """
    if prefix_lengths is None:
        return None
    if reads_source(model):
        raise ConfigError(
            f"prefix_lengths are given and {type(model).__name__} has an encoder; what "
            "all tokens may see is its source"
        )
    lengths, (batch, longest) = np.asarray(prefix_lengths), shape
    whole = lengths.shape == (batch,) and np.issubdtype(lengths.dtype, np.integer)
    if not (whole and lengths.min() >= 0 and lengths.max() <= longest):
        raise ConfigError(
            f"prefix_lengths {lengths.tolist()} are not {batch} integers from 0 to "
            f"{longest}, one for each prompt"
        )
    return jnp.asarray(lengths, jnp.int32)


def check_source(model, length):
    """Raises ConfigError where a source is longer than the model's positions."""
    if model.source_limit is not None and length > model.source_limit:
        raise ConfigError(
            f"a source of {length} tokens is longer than max_length "
            f"{model.source_limit} of this model; shorten it"
        )


def _with_mask(name, tokens, mask):
    tokens = jnp.asarray(tokens, jnp.int32)
    mask = np.ones(tokens.shape, bool) if mask is None else np.asarray(mask)
    hint = "; start an empty text from the end id" if name == "prompt" else ""
    if tokens.ndim != 2 or 0 in tokens.shape:
        raise ConfigError(
            f"{name}_tokens of shape {tokens.shape} must be [batch, length] with at "
            f"least one row and one token{hint}"
        )
    if mask.shape != tokens.shape or mask.dtype != bool:
        raise ConfigError(
            f"a {mask.dtype} {name}_mask of shape {mask.shape} is not bool "
            f"{tokens.shape}, one entry a token"
        )
    if not mask.any(axis=1).all():
        row = int(np.argmin(mask.any(axis=1)))
        raise ConfigError(f"row {row} of {name}_mask leaves no token of the {name}")
    return tokens, jnp.asarray(mask)
