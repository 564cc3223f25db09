"""Text from a trained language model, at constant time a token.

python -m jaxmodels.pipelines.generate --checkpoint runs/lm --prompt "def "

Shapes use B batch, P prompt length, N new tokens, V vocabulary.
"""

import argparse
import functools
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.data import vocabulary as vocabularies
from jaxmodels.train import checkpoint, model_file
from jaxmodels.train.errors import INTERRUPTED, ConfigError, RunError

DEFAULT_MAX_TOKENS = 200


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
    end_id=None,
):
    """Continues prompts: one pass over the prompt, then one step a token.

    Compiled once for each shape of the prompt and each `max_tokens`.

    Args:
        model: module with `prefill`, `step` and `context_limit`, as `PerformerLM`.
        variables: what `model.apply` takes.
        prompt_tokens: int [B, P], P at least 1.
        rng: PRNG key; greedy decoding does not use it.
        max_tokens: N.
        temperature: divides the logits; 0 always takes the most likely token.
        top_k: samples among so many most likely tokens; None among all.
        top_p: samples among the fewest tokens, after `top_k`, that together have this
            probability (Holtzman et al., 2020).
        prompt_mask: bool [B, P], False for padding; None where there is none.
        end_id: a row that has drawn it holds nothing else from there on.

    Returns:
        int32 [B, N], the new tokens.

    Raises:
        ConfigError: (a ValueError) an argument out of its range, an empty prompt, or
            more tokens than fit in one context.
    """
    prompt_tokens = jnp.asarray(prompt_tokens, jnp.int32)
    if prompt_mask is None:
        prompt_mask = np.ones(prompt_tokens.shape, bool)
    prompt_mask = np.asarray(prompt_mask)
    _check_prompt(prompt_tokens, prompt_mask)
    check_sampling(max_tokens, temperature, top_k, top_p)
    check_context(model, prompt_tokens.shape[1], max_tokens)
    return _decode(
        model,
        variables,
        prompt_tokens,
        prompt_mask,
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
    prompt,
    mask,
    rng,
    temperature,
    top_k,
    top_p,
    *,
    greedy,
    max_tokens,
    end_id,
):
    def choose(logits, index):
        if greedy:
            return jnp.argmax(logits, axis=-1).astype(jnp.int32)
        rng_now = jax.random.fold_in(rng, index)
        return sample(logits, rng_now, temperature, top_k, top_p)

    def unfinished(carry):
        index, _, done, _, _ = carry
        return (index < max_tokens) & ~jnp.all(done)

    def step(carry):
        index, tokens, done, logits, state = carry
        token = choose(logits, index)
        if end_id is not None:
            token = jnp.where(done, end_id, token)
            done |= token == end_id
        tokens = tokens.at[:, index].set(token)
        logits, state = model.apply(variables, state, token, method="step")
        return index + 1, tokens, done, logits, state

    batch, length = prompt.shape
    logits, state = model.apply(variables, prompt, mask=mask, method="prefill")
    last = length - 1 - jnp.argmax(mask[:, ::-1], axis=1)
    logits = jnp.take_along_axis(logits, last[:, None, None], axis=1)[:, 0]  # B V
    tokens = jnp.full((batch, max_tokens), 0 if end_id is None else end_id, jnp.int32)
    start = jnp.zeros((), jnp.int32), tokens, jnp.zeros(batch, bool), logits, state
    return jax.lax.while_loop(unfinished, step, start)[1]


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


def check_context(model, prompt_length, max_tokens):
    """Raises ConfigError where prompt and new tokens do not fit in one context."""
    limit, total = model.context_limit, prompt_length + max_tokens
    if limit is not None and total > limit:
        raise ConfigError(
            f"a prompt of {prompt_length} tokens and {max_tokens} new ones make "
            f"{total}, and this model was built for max_length {limit}; ask for at "
            f"most {max(limit - prompt_length, 0)} new tokens or shorten the prompt"
        )


def _check_prompt(tokens, mask):
    if tokens.ndim != 2 or 0 in tokens.shape:
        raise ConfigError(
            f"prompt_tokens of shape {tokens.shape} must be [batch, length] with at "
            "least one row and one token; start an empty text from the end id"
        )
    if mask.shape != tokens.shape or mask.dtype != bool:
        raise ConfigError(
            f"a {mask.dtype} prompt_mask of shape {mask.shape} is not bool "
            f"{tokens.shape}, one entry a token"
        )
    if not mask.any(axis=1).all():
        row = int(np.argmin(mask.any(axis=1)))
        raise ConfigError(f"row {row} of prompt_mask leaves no token of the prompt")


def load(workdir):
    """The language model of a finished or running run.

    Args:
        workdir: folder of the run, with `model.json` and `checkpoints/`.

    Returns:
        The module, its variables (averaged weights where the run keeps them) and its
        vocabulary.

    Raises:
        ConfigError: no run, or none of a language model.
        StorageError: no checkpoint can be restored.
    """
    networks, preprocessing = model_file.read(workdir)
    names = [name for name, net in networks.items() if hasattr(net, "context_limit")]
    if len(names) != 1:
        raise ConfigError(
            f"{workdir} holds {len(names)} language models among its networks "
            f"({', '.join(networks)}); name a run with exactly one"
        )
    model = networks[names[0]]
    vocabulary = vocabularies.from_preprocessing(preprocessing)
    if vocabulary.vocab_size != model.vocab_size:
        raise ConfigError(
            f"{workdir}: the model has {model.vocab_size} ids and its vocabulary "
            f"{vocabulary.vocab_size}"
        )
    variables = checkpoint.restore_networks(workdir, networks=names)[names[0]]
    return model, variables, vocabulary


def generate_text(
    model,
    variables,
    vocabulary,
    prompt,
    rng,
    *,
    num_samples=1,
    max_tokens=None,
    **sampling,
):
    """Continues a text, which may be empty.

    Args:
        prompt: the beginning of a document.
        num_samples: continuations to draw.
        max_tokens: longest continuation; None is 200, or what the context still holds.
        sampling: `temperature`, `top_k` and `top_p`, as in `generate`.

    Returns:
        Texts, the prompt included, each up to the end of its document.

    Raises:
        ConfigError: see `generate`, or a prompt that has no ids.
    """
    if num_samples < 1:
        raise ConfigError(f"num_samples {num_samples} must be at least 1")
    try:
        ids = np.asarray(vocabulary.encode(prompt), np.int32)
    except ValueError as error:
        raise ConfigError(f"the prompt cannot be encoded: {error}") from None
    # Every document was trained to follow the end of another.
    ids = np.concatenate([np.full(1, vocabulary.end_id, np.int32), ids])
    if max_tokens is None:
        limit = model.context_limit
        room = DEFAULT_MAX_TOKENS if limit is None else limit - ids.size
        max_tokens = max(1, min(DEFAULT_MAX_TOKENS, room))
    new = generate(
        model,
        variables,
        np.tile(ids, (num_samples, 1)),
        rng,
        max_tokens=max_tokens,
        end_id=vocabulary.end_id,
        **sampling,
    )
    return [vocabulary.decode(np.concatenate([ids, row])) for row in np.asarray(new)]


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise ConfigError(f"{message}; see --help")


def parser():
    """The command line."""
    flags = _Parser(
        prog="python -m jaxmodels.pipelines.generate",
        description=__doc__.split("\n")[0],
    )
    flags.add_argument("--checkpoint", required=True, help="folder of a run")
    flags.add_argument("--prompt", default="", help="beginning of the text")
    flags.add_argument("--max_tokens", type=int, help="default 200, or what fits")
    flags.add_argument("--temperature", type=float, default=0.8, help="0 is greedy")
    flags.add_argument("--top_k", type=int, help="draw among the K most likely")
    flags.add_argument("--top_p", type=float, default=1.0, help="draw among the top P")
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--num_samples", type=int, default=1)
    return flags


def main(argv=None):
    """Prints texts; returns the exit code."""
    try:
        flags = parser().parse_args(argv)
        sampling = {name: getattr(flags, name) for name in ("top_k", "top_p")}
        sampling["temperature"] = flags.temperature
        check_sampling(1 if flags.max_tokens is None else flags.max_tokens, **sampling)
        model, variables, vocabulary = load(flags.checkpoint)
        texts = generate_text(
            model,
            variables,
            vocabulary,
            flags.prompt,
            jax.random.key(flags.seed),
            num_samples=flags.num_samples,
            max_tokens=flags.max_tokens,
            **sampling,
        )
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    separator = "\n" + "-" * 72 + "\n"
    print(separator.join(texts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
