"""Weights of the package performer-pytorch (1.1.4) as models of this package.

    from jaxmodels.convert import performer_pytorch

    model, variables = performer_pytorch.language_model("weights.pt")
    logits = model.apply(variables, tokens)

A state dict tells all sizes. It does not tell the kernel of the attention, nor
whether a model is causal: these are arguments.

What differs from the original on purpose:

- Causal attention leaves out the constants that the original adds to features of the
  softmax kernel (1e-4) and to normalizers (1e-6): relative to the largest key of the
  whole sequence, the first lets later tokens change earlier ones. So the logits of a
  converted causal model with this kernel are those of the original without the
  constants, and differ from the published ones by what these weigh.
- A mask leaves padding out. The original silences the values of padding only, and
  its keys still count in the normalizer.
- The original has two switches for biases and two normalizations where this package
  has one; biases that a file lacks are zeros.

The original draws its projections with Gaussian norms, and those are converted as they
are; who redraws them in training keeps their law by
`redraw(variables, rng, ortho_scaling=0.0)`.

Not converted, as these models are other functions: local attention heads, axial
positions, shifted tokens, reversible stacks, and kernel functions other than ReLU,
which leave no trace in a state dict.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.convert.performer_pytorch_stack import Side
from jaxmodels.convert.weights import Weights, listed, read
from jaxmodels.models.performer import (
    PerformerDecoder,
    PerformerEncoder,
    PerformerLM,
    PerformerSeq2Seq,
    Stack,
)
from jaxmodels.train.errors import ConfigError

UNSUPPORTED = {
    r"\.net\.blocks\.|^net\.blocks\.": "a reversible stack (reversible=True), which "
    "adds its halves otherwise than a plain one",
    r"\.local_attn\.": "local attention heads (local_attn_heads)",
    r"\.0\.0\.fn\.fn\.": "shifted tokens (shift_tokens=True)",
    r"pos_emb\.weights": "axial positions (axial_position_emb=True)",
}


def language_model(source, *, causal=True, feature_map="favor_plus", **fields):
    """A `PerformerLM` of performer-pytorch, causal or not.

    Args:
        source: its state dict or the path of a file with it; see `weights.read`. A
            wrapper around the model (`AutoregressiveWrapper`) does no harm.
        causal: how the model was made.
        feature_map: "favor_plus"; "relu" for generalized_attention=True;
            "exponential" for no_projection=True.
        fields: of `PerformerLM` that change no output, such as `dropout`.

    Returns:
        The `PerformerLM` and its variables, {"params", "projections"}.

    Raises:
        ConfigError: a model that this package does not have, arrays that do not fit
            each other or are left over.
    """
    weights = _weights(source)
    side = Side(weights, _prefix(weights, "token_emb.weight"), feature_map, causal)
    table, positions, max_length = side.embedding()
    tied = f"{side.prefix}to_out.weight" not in weights
    stack = "decoder" if causal else "encoder"
    # The output layer of an untied model has a bias in every file.
    use_bias = side.has_bias or not tied
    params = {"embed": table, stack: side.params(use_bias)}
    if not tied:
        params["head"] = side.head()
    model = PerformerLM(
        **side.sizes(),
        vocab_size=table["embedding"].shape[0],
        max_length=max_length,
        causal=causal,
        attention=side.attention(),
        activation=side.activation,
        normalization=side.normalization,
        positions=positions,
        tie_embeddings=tied,
        use_bias=use_bias,
        **fields,
    )
    projections = {stack: side.projections} if side.projections else {}
    arguments = (jnp.zeros((1, 1), jnp.int32),)
    return model, _finish(model, weights, params, projections, arguments)


def stack(source, *, causal, cross_attention=False, feature_map="favor_plus", **fields):
    """A bare `Performer` of performer-pytorch: vectors to vectors.

    Args:
        source, feature_map: as in `language_model`.
        causal, cross_attention: how the model was made.
        fields: of the class that change no output, such as `dropout`; and `rotary` for
            a model that is called with `pos_emb`.

    Returns:
        A `PerformerDecoder` where it is causal, otherwise a `PerformerEncoder`; and
        its variables.

    Raises:
        ConfigError: as in `language_model`; cross-attention without a causal order.
    """
    if cross_attention and not causal:
        raise ConfigError(
            "a bidirectional stack with cross-attention is no class of this package; "
            "convert it with causal=True if it was made so"
        )
    weights = _weights(source)
    prefix = _prefix(weights, "net.layers.0.0.fn.to_q.weight")
    side = Side(weights, prefix, feature_map, causal, cross_attention)
    x = jnp.zeros((1, 1, side.embed_dim))
    options = dict(
        **side.sizes(),
        attention=side.attention(),
        activation=side.activation,
        normalization=side.normalization,
        use_bias=side.has_bias,
        normalize_output=False,
        **fields,
    )
    params = side.params(side.has_bias, final_norm=False)
    if not causal:
        encoder = PerformerEncoder(**options)
        return encoder, _finish(encoder, weights, params, side.projections, (x,))
    decoder = PerformerDecoder(
        cross_attention=side.attention(cross=True) if cross_attention else None,
        self_mlp=cross_attention,
        **options,
    )
    arguments = (x, x) if cross_attention else (x,)
    return decoder, _finish(decoder, weights, params, side.projections, arguments)


def encoder_decoder(
    source, *, feature_map="favor_plus", encoder_feature_map=None, **fields
):
    """A `PerformerEncDec` of performer-pytorch.

    Tables of learned positions of two lengths get the longer one, with zeros behind
    the shorter: a sequence that the original refuses has untrained positions there.
    One table of tokens for both sides stays one unless positions are learned, which
    the original never shares; the two tables are then equal at first.

    Args:
        source, feature_map: as in `language_model`.
        encoder_feature_map: that of the encoder, where it is another.
        fields: of `PerformerSeq2Seq` that change no output, such as `dropout`.

    Returns:
        The `PerformerSeq2Seq` and its variables.

    Raises:
        ConfigError: as in `language_model`; positions, normalization or activation
            that are not the same on both sides.
    """
    weights = _weights(source)
    source_map = feature_map if encoder_feature_map is None else encoder_feature_map
    prefix = _prefix(weights, "enc.token_emb.weight")
    encoder = Side(weights, f"{prefix}enc.", source_map, False)
    decoder = Side(weights, f"{prefix}dec.net.", feature_map, True, cross=True)
    for name in ("normalization", "activation"):
        _same(name, getattr(encoder, name), getattr(decoder, name))
    source_table, source_positions, source_length = encoder.embedding()
    table, positions, target_length = decoder.embedding()
    _same("positions", source_positions, positions)
    max_length = max(source_length, target_length)
    tied = f"{decoder.prefix}to_out.weight" not in weights
    use_bias = encoder.has_bias or decoder.has_bias or not tied
    params = {
        "embed": _lengthened(table, max_length),
        "transformer": {
            "encoder": encoder.params(use_bias),
            "decoder": decoder.params(use_bias),
        },
    }
    shared = positions != "learned" and np.array_equal(
        source_table["embedding"], table["embedding"]
    )
    if not shared:
        params["source_embed"] = _lengthened(source_table, max_length)
    if not tied:
        params["head"] = decoder.head()
    for name in ("weight", "bias"):
        # The encoder hands on what it has before its output layer.
        if (whole := f"{encoder.prefix}to_out.{name}") in weights:
            weights.drop(whole)
    model = PerformerSeq2Seq(
        vocab_size=table["embedding"].shape[0],
        encoder=Stack(**encoder.sizes(), attention=encoder.attention()),
        decoder=Stack(
            **decoder.sizes(),
            attention=decoder.attention(),
            cross_attention=decoder.attention(cross=True),
        ),
        max_length=max_length,
        source_vocab_size=None if shared else source_table["embedding"].shape[0],
        activation=decoder.activation,
        normalization=decoder.normalization,
        positions=positions,
        tie_embeddings=tied,
        use_bias=use_bias,
        self_mlp=True,
        **fields,
    )
    sides = {"encoder": encoder.projections, "decoder": decoder.projections}
    sides = {name: tree for name, tree in sides.items() if tree}
    projections = {"transformer": sides} if sides else {}
    tokens = jnp.zeros((1, 1), jnp.int32)
    return model, _finish(model, weights, params, projections, (tokens, tokens))


def _weights(source):
    """`Weights` under the names that a plain stack has, without what repeats them."""
    label = "the state dict" if hasattr(source, "items") else str(source)
    arrays: dict[str, np.ndarray] = {}
    repeated: dict[str, np.ndarray] = {}
    for name, array in read(source).items():
        # A counter of training steps, and the stack once more, under its updater.
        if name.endswith("proj_updater.calls_since_last_redraw"):
            continue
        own = name.replace("proj_updater.instance.", "net.")
        (arrays if own == name else repeated)[own] = array
    for name, array in repeated.items():
        kept = arrays.setdefault(name, array)
        if not np.array_equal(kept, array, equal_nan=True):
            raise ConfigError(
                f"{name} of {label} differs from its copy under proj_updater.instance; "
                "save the state dict of one model"
            )
    for pattern, what in UNSUPPORTED.items():
        if found := [name for name in arrays if re.search(pattern, name)]:
            raise ConfigError(
                f"{label} is of a model with {what}, which this package does not have: "
                f"{listed(found)}"
            )
    return Weights(arrays, label)


def _prefix(weights, ending):
    """What stands before the one name with that ending."""
    found = [name for name in weights.names() if f".{name}".endswith(f".{ending}")]
    if len(found) != 1:
        raise ConfigError(
            f"{weights.source} has {len(found)} arrays called {ending} instead of one; "
            f"it has {listed(weights.names())}. language_model, stack and "
            "encoder_decoder convert three kinds of models"
        )
    return found[0].removesuffix(ending)


def _same(name, encoder, decoder):
    if encoder != decoder:
        raise ConfigError(
            f"the encoder has {name} {encoder!r} and the decoder {decoder!r}; "
            "PerformerSeq2Seq has one for both"
        )


def _lengthened(tables, length):
    """The tables of an embedding, with zeros up to `length` learned positions."""
    if "position" not in tables:
        return tables
    table = tables["position"]["embedding"]
    table = np.pad(table, ((0, length - len(table)), (0, 0)))
    return tables | {"position": {"embedding": table}}


def _finish(model, weights, params, projections, arguments):
    """Variables of the model, once all arrays are used and have its shapes."""
    weights.finish()
    variables = {"params": params}
    if projections:
        variables["projections"] = projections
    expected = jax.eval_shape(model.init, jax.random.key(0), *arguments)
    wanted, found = (
        {jax.tree_util.keystr(path): x.shape for path, x in leaves}
        for leaves in map(jax.tree_util.tree_leaves_with_path, (expected, variables))
    )
    if wanted != found:
        wrong = {name for name, _ in wanted.items() ^ found.items()}
        raise ConfigError(
            f"the arrays of {weights.source} do not fit a {type(model).__name__}: "
            f"{listed(wrong)}"
        )
    return jax.tree.map(jnp.asarray, variables)
