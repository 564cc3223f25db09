import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers.linear_attention import orthogonal_projection
from jaxmodels.losses.classification import token_cross_entropy
from jaxmodels.models.performer import (
    AttentionSpec,
    PerformerLM,
    redraw,
)
from tests.variables import random_variables

BATCH, LENGTH, VOCAB = 2, 9, 11
SMALL = dict(
    vocab_size=VOCAB, embed_dim=8, num_heads=2, mlp_dim=12, num_layers=2, max_length=12
)
SPECS = {
    "linear": AttentionSpec(num_features=6, chunk_size=4),
    "softmax": AttentionSpec(kind="softmax"),
}
close = functools.partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-5)


@functools.cache
def build(kind="linear", **fields):
    model = PerformerLM(**{**SMALL, "attention": SPECS[kind], **fields})
    return model, random_variables(model, tokens())


def tokens(seed=1):
    return jax.random.randint(jax.random.key(seed), (BATCH, LENGTH), 0, VOCAB)


@functools.partial(jax.jit, static_argnames=("model", "method", "train"))
def apply(model, variables, *args, **options):
    return model.apply(variables, *args, **options)


@pytest.fixture(scope="module")
def initialized():
    """A model and its variables as `init` draws them, from a params key alone."""
    model = PerformerLM(
        **SMALL, attention=SPECS["linear"], dropout=0.5, tie_embeddings=False
    )
    return model, jax.jit(model.init)(jax.random.key(0), tokens())


def test_a_model_starts_near_the_uniform_distribution(initialized):
    model, variables = initialized
    logits = apply(model.clone(dtype="bfloat16"), variables, tokens())
    assert logits.shape == (BATCH, LENGTH, VOCAB) and logits.dtype == jnp.float32
    assert set(variables) == {"params", "projections"}
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(variables))
    nll = token_cross_entropy(logits, tokens()).mean()
    assert abs(nll - np.log(VOCAB)) < 1.0


@pytest.mark.parametrize("kind", SPECS)
def test_a_logit_ignores_later_tokens_to_the_bit(kind):
    model, variables = build(kind)
    run = functools.partial(apply, model, variables)
    for cut in (1, 4, 8):
        other = tokens().at[:, cut:].set((tokens()[:, cut:] + 1) % VOCAB)
        before, after = run(tokens()), run(other)
        np.testing.assert_array_equal(before[:, :cut], after[:, :cut])
        assert (before[:, cut:] != after[:, cut:]).any(axis=-1).all()


@pytest.mark.parametrize("kind", SPECS)
def test_packed_documents_do_not_see_each_other_to_the_bit(kind):
    model, variables = build(kind)
    run = functools.partial(apply, model, variables)
    ids = jnp.array([[1, 1, 1, 2, 2, 2, 2, 3, 3]] * BATCH)
    before = run(tokens(), segment_ids=ids)
    for document in (1, 2, 3):
        inside = ids == document
        other = jnp.where(inside, (tokens() + 1) % VOCAB, tokens())
        after = run(other, segment_ids=ids)
        np.testing.assert_array_equal(before[~inside], after[~inside])
        assert (before[inside] != after[inside]).any(axis=-1).all()


@pytest.mark.parametrize("kind", SPECS)
def test_a_packed_document_gets_the_logits_it_gets_alone(kind):
    model, variables = build(kind)
    ids = jnp.array([[1, 1, 1, 2, 2, 2, 2, 3, 3]] * BATCH)
    packed = apply(model, variables, tokens(), segment_ids=ids)
    alone = apply(model, variables, jnp.roll(tokens(), -3, axis=1))
    close(packed[:, 3:7], alone[:, :4])
    places = jnp.array([[0, 1, 2, 0, 1, 2, 3, 0, 1]] * BATCH)
    given = apply(model, variables, tokens(), segment_ids=ids, positions=places)
    np.testing.assert_array_equal(given, packed)


@pytest.mark.parametrize("kind", SPECS)
def test_padding_changes_no_valid_logit(kind):
    model, variables = build(kind)
    mask = jnp.arange(LENGTH)[None] < jnp.array([[6], [LENGTH]])
    run = functools.partial(apply, model, variables)
    other = jnp.where(mask, tokens(), 3)
    before, after = run(tokens(), mask=mask), run(other, mask=mask)
    np.testing.assert_array_equal(before[mask], after[mask])
    chex.assert_trees_all_close(before[:, :6], run(tokens())[:, :6], atol=1e-6)


@pytest.mark.parametrize("kind", SPECS)
def test_padding_on_the_left_counts_as_no_position(kind):
    model, variables = build(kind)
    mask = jnp.arange(LENGTH)[None] >= jnp.array([[3], [0]])
    padded = apply(model, variables, tokens(), mask=mask)
    alone = apply(model, variables, tokens()[:1, 3:])
    chex.assert_trees_all_close(padded[:1, 3:], alone, atol=2e-6)
    read, _ = apply(model, variables, tokens(), mask=mask, method="prefill")
    chex.assert_trees_all_close(padded[mask], read[mask], atol=2e-6)


@pytest.mark.parametrize("kind", SPECS)
def test_after_a_prefix_steps_equal_the_full_forward_with_it(kind):
    model, variables = build(kind)
    run = functools.partial(apply, model, variables)
    prefix = jnp.array([5, 3])
    full = run(tokens(), prefix_lengths=prefix)
    assert jnp.abs(full[0, :4] - run(tokens())[0, :4]).max() > 1e-3
    logits, state = run(tokens()[:, :6], prefix_lengths=prefix, method="prefill")
    outputs = [logits]
    for t in range(6, LENGTH):
        logits, state = run(state, tokens()[:, t], method="step")
        outputs.append(logits[:, None])
    close(jnp.concatenate(outputs, axis=1), full)


def test_the_last_logits_alone_are_those_of_the_last_token_that_is_there():
    model, variables = build()
    mask = jnp.arange(LENGTH)[None] < jnp.array([[6], [LENGTH]])
    run = functools.partial(model.apply, mask=mask, method="prefill")
    whole, state = run(variables, tokens())
    last, same = run(variables, tokens(), last_only=True)
    close(last, jnp.stack([whole[0, 5], whole[1, LENGTH - 1]]))
    chex.assert_trees_all_equal(same, state)


@pytest.mark.parametrize(
    ("kind", "positions"),
    [
        ("linear", "learned"),
        ("linear", "sinusoidal"),
        ("linear", "rotary"),
        ("softmax", "rotary"),
    ],
)
def test_prefill_and_steps_equal_the_full_forward_at_every_position(kind, positions):
    model, variables = build(kind, positions=positions)
    full = apply(model, variables, tokens())
    step = functools.partial(apply, model, variables, method="step")
    logits, state = apply(model, variables, tokens()[:, :4], method="prefill")
    outputs = [logits]
    for t in range(4, LENGTH):
        logits, state = step(state, tokens()[:, t])
        outputs.append(logits[:, None])
    close(jnp.concatenate(outputs, axis=1), full)


@pytest.mark.parametrize("kind", SPECS)
def test_a_stream_cut_anywhere_equals_one_pass(kind):
    model, variables = build(kind)
    full = apply(model, variables, tokens())
    outputs, state = [], None
    for cut in (slice(0, 4), slice(4, 8), slice(8, 9)):
        logits, state = apply(
            model, variables, tokens()[:, cut], state, method="prefill"
        )
        outputs.append(logits)
    close(jnp.concatenate(outputs, axis=1), full)


@pytest.mark.parametrize("kind", SPECS)
def test_a_padded_prompt_continues_as_the_prompt_alone(kind):
    model, variables = build(kind)
    mask = jnp.array([[True, True, True, False, False]] * BATCH)
    long = apply(model, variables, tokens()[:, :5], mask=mask, method="prefill")
    short = apply(model, variables, tokens()[:, :3], method="prefill")
    close(long[0][:, :3], short[0])
    token = tokens()[:, 7]
    first, second = (
        apply(model, variables, state, token, method="step")[0]
        for _, state in (long, short)
    )
    close(first, second)


def test_a_linear_state_does_not_grow_with_the_prompt():
    model, variables = build(positions="rotary")

    def shapes(length):
        prompt = jax.ShapeDtypeStruct((BATCH, length), jnp.int32)
        run = functools.partial(model.apply, method="prefill")
        return jax.tree.map(jnp.shape, jax.eval_shape(run, variables, prompt)[1])

    assert shapes(3) == shapes(1000)


def test_logits_past_the_learned_positions_are_nan():
    model, variables = build(max_length=LENGTH)
    _, state = apply(model, variables, tokens(), method="prefill")
    logits, _ = apply(model, variables, state, tokens()[:, 0], method="step")
    assert jnp.isnan(logits).all()


def test_every_layer_starts_with_weights_and_directions_of_its_own(initialized):
    _, variables = initialized
    layers = {name: tree["decoder"]["layers"] for name, tree in variables.items()}
    stacked = [
        *(layers["params"]["attention"][n]["kernel"] for n in ("query", "value")),
        *jax.tree.leaves(layers["projections"]),
    ]
    for leaf in stacked:
        assert leaf.shape[0] == 2
        assert not jnp.allclose(leaf[0], leaf[1])


def test_dropout_acts_in_training_alone_and_follows_its_key():
    model, variables = build(dropout=0.5)

    def train(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return apply(model, variables, tokens(), train=True, rngs=rngs)

    np.testing.assert_array_equal(train(0), train(0))
    assert (train(0) != train(1)).any()
    assert (train(0) != apply(model, variables, tokens())).any()


def test_redraw_changes_every_projection_and_no_parameter():
    _, variables = build()
    drawn = redraw(variables, jax.random.key(5))
    chex.assert_trees_all_equal(drawn["params"], variables["params"])
    for old, new in zip(
        jax.tree.leaves(variables["projections"]),
        jax.tree.leaves(drawn["projections"]),
        strict=True,
    ):
        assert old.shape == new.shape == (2, 6, 4)
        assert (old != new).any(axis=(1, 2)).all()
        assert len({float(layer[0, 0]) for layer in new}) == 2
        gram = new[:, :4] @ jnp.swapaxes(new[:, :4], 1, 2)
        close(gram, jnp.broadcast_to(4.0 * jnp.eye(4), gram.shape))


def test_redraw_is_a_function_of_its_key():
    _, variables = build()
    collections = {"projections": variables["projections"]}
    zeros = jax.tree.map(jnp.zeros_like, collections)
    first = jax.jit(redraw)(collections, jax.random.key(5))
    chex.assert_trees_all_equal(first, jax.jit(redraw)(zeros, jax.random.key(5)))
    other = redraw(collections, jax.random.key(6))
    assert (jax.tree.leaves(first)[0] != jax.tree.leaves(other)[0]).all()


def test_redraw_takes_an_unstacked_projection_and_networks_without_any():
    flat = {"projections": {"projection": jnp.zeros((6, 4))}}
    drawn = redraw(flat, jax.random.key(0))["projections"]["projection"]
    rng = jax.random.split(jax.random.fold_in(jax.random.key(0), 0), 1)[0]
    close(drawn, orthogonal_projection(rng, 6, 4))
    assert redraw({}, jax.random.key(0)) == {}


def test_redraw_keeps_the_law_of_the_norms_that_it_is_told():
    flat = {"projections": {"projection": jnp.zeros((4000, 4))}}
    for scaling, variance in ((1.0, 0.0), (0.0, 8.0)):
        drawn = redraw(flat, jax.random.key(0), ortho_scaling=scaling)
        square = jnp.sum(drawn["projections"]["projection"] ** 2, axis=-1)
        assert abs(square.mean() - 4) < 0.15 and abs(square.var() - variance) < 1


def test_a_tied_model_has_no_head_and_an_untied_one_has():
    tied, untied = (build(tie_embeddings=tie)[1]["params"] for tie in (True, False))
    assert "head" not in tied
    assert untied["head"]["kernel"].shape == (8, VOCAB)


def test_bfloat16_products_stay_near_float32():
    model, variables = build(embed_dim=32, num_heads=2)
    half = model.clone(dtype="bfloat16")
    exact, near = (apply(m, variables, tokens()) for m in (model, half))
    assert jnp.abs(exact - near).max() < 0.05 * jnp.abs(exact).max()


# vocabulary 256, gelu, mlp_dim 4 x embed_dim, learned positions of 1024, tied.
SIZES = {
    "small": ((256, 4, 4), 3_483_136),
    "medium": ((512, 8, 6), 19_558_400),
    "large": ((1024, 16, 12), 152_418_304),
}


@pytest.mark.parametrize("size", SIZES)
def test_the_named_sizes_have_their_parameters(size):
    (width, heads, layers), expected = SIZES[size]
    model = PerformerLM(
        256, width, heads, 4 * width, layers, max_length=1024, activation="gelu"
    )
    sample = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), sample)
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    block = 4 * width**2 + 2 * 4 * width**2 + 5 * width + 4 * width
    assert count == layers * block + (256 + 1024) * width + 2 * width == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_heads": 3}, "embed_dim 8 is not divisible by num_heads 3; try .* 9"),
        ({"num_layers": 0}, "num_layers 0 must be at least 1"),
        ({"dropout": 1.0}, r"dropout 1.0 must be at least 0 and below 1"),
        ({"activation": "gleu"}, "unknown activation 'gleu'"),
        ({"normalization": "post_norm"}, "unknown normalization 'post_norm'"),
        ({"positions": "relative"}, "unknown positions 'relative'"),
        ({"embed_dim": 6, "positions": "rotary"}, "head width .* is 3.*make it even"),
        ({"attention": AttentionSpec(kind="linear")}, "'linear' in a block .* causal"),
    ],
)
def test_fields_that_contradict_each_other_are_refused_at_construction(fields, message):
    with pytest.raises(ValueError, match=message):
        PerformerLM(**{**SMALL, **fields})


def test_all_wrong_fields_are_named_at_once():
    with pytest.raises(ValueError) as caught:
        PerformerLM(**{**SMALL, "num_heads": 3, "activation": "a", "positions": "b"})
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize("method", ["__call__", "prefill"])
def test_a_sequence_longer_than_the_learned_positions_is_refused(method):
    model = PerformerLM(**{**SMALL, "max_length": 5})
    message = "sequence of 9 tokens is longer than max_length 5.* 'rotary'"
    with pytest.raises(ValueError, match=message):
        random_variables(model, tokens(), method=method)


def test_an_empty_prompt_is_refused():
    model, variables = build()
    with pytest.raises(ValueError, match="prefill needs at least one token"):
        apply(model, variables, tokens()[:, :0], method="prefill")


def test_the_context_limit_is_that_of_what_bounds_it():
    rotary = {**SMALL, "positions": "rotary"}
    assert PerformerLM(**SMALL).context_limit == 12
    assert PerformerLM(**rotary).context_limit is None
    assert PerformerLM(**rotary, attention=SPECS["softmax"]).context_limit == 12
