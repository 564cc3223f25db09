"""Tokens a second while decoding, after a short and a long context.

python -m experiments.benchmarks.decoding --output results/decoding

`PerformerLM.step` with linear attention keeps a state of fixed size; with softmax
attention, for contrast, a cache of the whole context. Writes decoding.json and
README.md to the output folder.
"""

import dataclasses
import statistics
import sys
import time

from experiments.benchmarks import measure, options, report

MODULE = "experiments.benchmarks.decoding"
KINDS = ("causal_linear", "softmax")
# Where the cache of softmax attention is filled without reading a prompt.
PROMPT = 8


def parse(argv=None):
    parser = options.base_parser(MODULE, __doc__, "results/decoding")
    add = parser.add_argument
    contexts = "tokens before, with commas"
    add("--contexts", type=options.lengths, default="1024,65536", help=contexts)
    add("--kinds", default=",".join(KINDS), help="attention kinds, with commas")
    add("--size", default="small", help="of configs/performer/lm.py")
    add("--batch", type=options.count, default=1)
    add("--steps", type=options.count, default=64, help="tokens decoded in a run")
    add("--rounds", type=options.count, default=11)
    arguments = parser.parse_args(argv)
    arguments.kinds = arguments.kinds.split(",")
    unknown = set(arguments.kinds) - set(KINDS)
    if unknown:
        known = ", ".join(KINDS)
        parser.error(f"--kinds: unknown {', '.join(sorted(unknown))}; known: {known}")
    return arguments


def prepare(kind, context, *, size, batch_size, steps):
    """Greedy decoding of `steps` tokens after `context` as a `measure.Prepared`.

    A run gives the tokens, and whether all logits were finite.

    The linear state is that of a prompt of `context` random tokens. The cache of
    softmax attention is as large and as full as that prompt would leave it; reading it
    takes memory that is quadratic in the context.
    """
    import jax
    import jax.numpy as jnp

    from experiments import performer_lm
    from experiments.benchmarks import training_forms

    chosen = training_forms.config(size, context + steps, batch_size)
    chosen.model.attention.kind = kind
    model = performer_lm.make_model(chosen)
    shape = batch_size, context if kind == "causal_linear" else PROMPT
    tokens = jax.random.randint(jax.random.key(1), shape, 0, model.vocab_size)
    variables = jax.jit(model.init)(jax.random.key(0), tokens[:, :PROMPT])
    prefill = jax.jit(lambda v, t: model.apply(v, t, method="prefill"))
    logits, state = prefill(variables, tokens)
    if kind == "softmax":
        state = filled(state, context)

    @jax.jit
    def decode(variables, state, token):
        def step(carry, _):
            state, token, finite = carry
            logits, state = model.apply(variables, state, token, method="step")
            finite &= jnp.isfinite(logits).all()
            return (state, jnp.argmax(logits, axis=-1), finite), token

        carry = state, token, jnp.array(True)
        carry, drawn = jax.lax.scan(step, carry, None, length=steps)
        return drawn, carry[2]

    arguments = variables, state, jnp.argmax(logits[:, -1], axis=-1)
    compiled = decode.lower(*arguments).compile()
    state_bytes = sum(x.nbytes for x in jax.tree.leaves(state.layers))
    return measure.Prepared(
        lambda: jax.block_until_ready(compiled(*arguments)),
        facts={"state_bytes": state_bytes},
    )


def filled(state, context):
    """A decoding state whose caches hold `context` tokens."""
    import jax
    import jax.numpy as jnp

    from jaxmodels.layers.attention import KeyValueCache

    def fill(cache):
        there = jnp.arange(cache.valid.shape[-1]) < context
        return dataclasses.replace(
            cache,
            valid=jnp.broadcast_to(there, cache.valid.shape),
            length=jnp.full_like(cache.length, context),
        )

    def is_cache(x):
        return isinstance(x, KeyValueCache)

    layers = jax.tree.map(
        lambda x: fill(x) if is_cache(x) else x, state.layers, is_leaf=is_cache
    )
    return state.replace(layers=layers, position=jnp.full_like(state.position, context))


def run(argv, arguments):
    """Measures everything; returns what `decoding.json` holds.

    Raises:
        FloatingPointError: a logit is not finite.
    """
    start = time.monotonic()
    prepared = {
        (kind, context): prepare(
            kind,
            context,
            size=arguments.size,
            batch_size=arguments.batch,
            steps=arguments.steps,
        )
        for kind in arguments.kinds
        for context in arguments.contexts
    }
    runs = {key: value.run for key, value in prepared.items()}
    for (kind, context), each in runs.items():
        if not each()[1]:
            raise FloatingPointError(
                f"{kind} attention after {context} tokens gave a logit that is not "
                "finite; its speed says nothing"
            )
    short = {
        key
        for key, each in runs.items()
        if measure.sample(each).wall < measure.SHORT_SECONDS
    }
    rounds = dict.fromkeys(runs, arguments.rounds)
    samples = measure.interleave(runs, rounds, short=short)
    rows = []
    for (kind, context), own in samples.items():
        shortest = samples[kind, arguments.contexts[0]]
        seconds = statistics.median(one.wall for one in own)
        rows.append(
            {
                "kind": kind,
                "context": context,
                "tokens_per_second": arguments.batch * arguments.steps / seconds,
                "speed_ratio": 1 / measure.median_ratio(own, shortest),
                "rounds": len(own),
                **prepared[kind, context].facts,
            }
        )
    return {
        "command": " ".join(["python", "-m", MODULE, *argv]),
        "machine": measure.machine(),
        "size": arguments.size,
        "batch_size": arguments.batch,
        "seconds": time.monotonic() - start,
        "rows": rows,
    }


def lines(content):
    """The report as Markdown."""
    header = "attention, context|tokens/s|over the shortest context|state MB|rounds"
    rows = [
        (
            f"{row['kind']}, {row['context']:,}",
            report.number(row["tokens_per_second"]),
            report.number(row["speed_ratio"]),
            report.megabytes(row["state_bytes"]),
            str(row["rounds"]),
        )
        for row in content["rows"]
    ]
    return [
        "# Decoding after a short and a long context",
        "",
        *report.setting(content),
        f"`configs/performer/lm.py:{content['size']}` in float32, "
        f"{content['batch_size']} sequence(s); speeds are medians, their ratio the "
        "median over interleaved rounds.",
        "",
        *report.markdown(header.split("|"), rows),
    ]


def main(argv=None):
    """Runs the command line; returns the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    arguments = parse(argv)
    content = run(argv, arguments)
    report.write_json(arguments.output, "decoding", content)
    report.write_text(arguments.output, "README.md", lines(content))
    print("\n".join(lines(content)))
    print(f"written to {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
