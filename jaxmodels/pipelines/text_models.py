"""Trained models of text, by the folder of a run: texts in, texts or ids out.

Shapes use B sources, S source length, T target length, R results, N new tokens.
"""

from typing import NamedTuple

import numpy as np

from jaxmodels.data import vocabulary as vocabularies
from jaxmodels.pipelines import beam
from jaxmodels.pipelines.decoding import generate, reads_source
from jaxmodels.train import checkpoint, model_file
from jaxmodels.train.errors import ConfigError

DEFAULT_MAX_TOKENS = 200


class PairFormat(NamedTuple):
    """How texts become the source, and tokens the text, of a sequence-to-sequence run.

    Attributes:
        source_vocabulary, vocabulary: of the source and of the target.
        source_length: S, tokens that are read of a source.
        target_length: T, tokens of a target with its end.
    """

    source_vocabulary: vocabularies.Vocabulary
    vocabulary: vocabularies.Vocabulary
    source_length: int
    target_length: int


def load(workdir):
    """The model of text of a finished or running run.

    Args:
        workdir: folder of the run, with `model.json` and `checkpoints/`.

    Returns:
        The module, its variables (averaged weights where the run keeps them) and its
        vocabulary, or its `PairFormat` where it is a sequence-to-sequence model.

    Raises:
        ConfigError: no run, or none of such a model.
        StorageError: no checkpoint can be restored.
    """
    networks, preprocessing = model_file.read(workdir)
    names = [
        name
        for name, net in networks.items()
        if hasattr(net, "context_limit") and getattr(net, "causal", True)
    ]
    if len(names) != 1:
        raise ConfigError(
            f"{workdir} holds {len(names)} models that generate text among its "
            f"networks ({', '.join(networks)}); name a run with exactly one"
        )
    model = networks[names[0]]
    vocabulary = vocabularies.from_preprocessing(preprocessing)
    _check_size(workdir, "", vocabulary, model.vocab_size)
    form = vocabulary
    if reads_source(model):
        form = _pair_format(workdir, model, preprocessing, vocabulary)
    variables = checkpoint.restore_networks(workdir, networks=names)[names[0]]
    return model, variables, form


def _pair_format(workdir, model, preprocessing, vocabulary):
    lengths = [preprocessing.get(f"{side}_length") for side in ("source", "target")]
    if not all(isinstance(length, int) and length > 0 for length in lengths):
        raise ConfigError(
            f"{workdir}: the preprocessing is not that of pairs of texts: source_length"
            f" and target_length are {lengths}"
        )
    own = preprocessing.get("source_vocabulary")
    source = vocabulary
    if own is not None:
        source = vocabularies.from_preprocessing({"vocabulary": own})
    _check_size(workdir, "source ", source, model.source_vocab_size or model.vocab_size)
    return PairFormat(source, vocabulary, *lengths)


def _check_size(workdir, side, vocabulary, size):
    if vocabulary.vocab_size != size:
        raise ConfigError(
            f"{workdir}: the model has {size} {side}ids and its vocabulary "
            f"{vocabulary.vocab_size}"
        )


def generate_text(
    model,
    variables,
    vocabulary,
    prompt,
    rng,
    *,
    num_samples=1,
    max_tokens=None,
    beam_size=1,
    length_penalty=beam.LENGTH_PENALTY,
    **sampling,
):
    """Continues a text, which may be empty.

    Args:
        prompt: the beginning of a document.
        num_samples: continuations to draw, or the best of a beam search.
        max_tokens: longest continuation; None is 200, or what the context still holds.
        beam_size: searches with so many beams instead of sampling; 1 samples.
        length_penalty: as in `beam_search`.
        sampling: `temperature`, `top_k` and `top_p`, as in `generate`.

    Returns:
        Texts, the prompt included, each up to the end of its document.

    Raises:
        ConfigError: see `generate` and `beam_search`, or a prompt that has no ids.
    """
    ids = encode(vocabulary, prompt, "prompt")
    # Every document was trained to follow the end of another.
    ids = np.concatenate([np.full(1, vocabulary.end_id, np.int32), ids])
    if max_tokens is None:
        max_tokens = _room(model, ids.size, DEFAULT_MAX_TOKENS)
    (new,) = _results(
        model,
        variables,
        vocabulary.end_id,
        ids[None],
        rng,
        num_samples=num_samples,
        max_tokens=max_tokens,
        beam_size=beam_size,
        length_penalty=length_penalty,
        **sampling,
    )
    return [vocabulary.decode(np.concatenate([ids, row])) for row in new]


def generate_targets(
    model,
    variables,
    form,
    sources,
    rng,
    *,
    num_samples=1,
    max_tokens=None,
    beam_size=1,
    length_penalty=beam.LENGTH_PENALTY,
    **sampling,
):
    """Targets of texts by a sequence-to-sequence model, as token ids.

    Of a source longer than `form.source_length` tokens the beginning is read, as in
    training. `form.vocabulary.decode` makes texts of the ids.

    Args:
        model, variables, form: as `load` returns them.
        sources: B texts.
        num_samples: R, targets to draw for each, or the best of a beam search.
        max_tokens: N; None is `form.target_length`, the longest that was trained.
        beam_size, length_penalty, sampling: as in `generate_text`.

    Returns:
        int32 [B, R, N], the end id from where a target has ended.

    Raises:
        ConfigError: see `generate` and `beam_search`, or a source that has no ids.
    """
    length = form.source_length
    source = np.zeros((len(sources), length), np.int32)
    mask = np.zeros(source.shape, bool)
    for row, text in enumerate(sources):
        ids = encode(form.source_vocabulary, text, f"source {row}")[:length]
        if not ids.size:
            raise ConfigError(f"source {row} is empty; it needs at least one token")
        source[row, : ids.size], mask[row, : ids.size] = ids, True
    if max_tokens is None:
        max_tokens = _room(model, 0, form.target_length)
    end_id = form.vocabulary.end_id
    return _results(
        model,
        variables,
        end_id,
        np.full((len(sources), 1), end_id, np.int32),
        rng,
        num_samples=num_samples,
        max_tokens=max_tokens,
        beam_size=beam_size,
        length_penalty=length_penalty,
        source=source,
        source_mask=mask,
        **sampling,
    )


def encode(vocabulary, text, name):
    """The ids of a text, int32 [n]; `name` is what a ConfigError calls it."""
    try:
        return np.asarray(vocabulary.encode(text), np.int32)
    except ValueError as error:
        raise ConfigError(f"the {name} cannot be encoded: {error}") from None


def _room(model, prompt_length, usual):
    limit = model.context_limit
    room = usual if limit is None else limit - prompt_length
    return max(1, min(usual, room))


def _results(
    model,
    variables,
    end_id,
    prompts,
    rng,
    *,
    num_samples,
    beam_size,
    length_penalty,
    max_tokens,
    source=None,
    source_mask=None,
    **sampling,
):
    """New tokens [B, R, N] of prompts [B, P]: R samples or the R best of a beam."""
    check_search(num_samples, beam_size, length_penalty, **sampling)
    given = dict(source=source, source_mask=source_mask)
    shared = dict(max_tokens=max_tokens, end_id=end_id)
    if beam_size > 1:
        found = beam.beam_search(
            model,
            variables,
            prompts,
            beam_size=beam_size,
            length_penalty=length_penalty,
            num_results=num_samples,
            **given,
            **shared,
        )
        return np.asarray(found.tokens)

    def repeated(x):
        return None if x is None else np.repeat(x, num_samples, axis=0)

    new = generate(
        model,
        variables,
        repeated(prompts),
        rng,
        **{name: repeated(x) for name, x in given.items()},
        **shared,
        **sampling,
    )
    return np.asarray(new).reshape(len(prompts), num_samples, -1)


def check_search(num_samples, beam_size, length_penalty, **sampling):
    """Raises ConfigError for settings that are out of range or contradict another."""
    if num_samples < 1:
        raise ConfigError(f"num_samples {num_samples} must be at least 1")
    beam.check_beam(beam_size, length_penalty)
    if beam_size == 1:
        check_draws(num_samples, **sampling)
        return
    drawn = [name for name, value in sampling.items() if value is not None]
    if drawn:
        raise ConfigError(
            f"beam_size {beam_size} searches and draws nothing: leave out "
            f"{', '.join(drawn)}, or set beam_size to 1"
        )
    if num_samples > beam_size:
        raise ConfigError(
            f"num_samples {num_samples} is more than beam_size {beam_size} finds; "
            "raise beam_size"
        )


def check_draws(num_samples, temperature=None, top_k=None, top_p=None):
    """Raises ConfigError for settings of draws where a temperature of 0 draws none."""
    several = num_samples if num_samples > 1 else None
    limits = {"num_samples": several, "top_k": top_k, "top_p": top_p}
    useless = [f"{name} {x}" for name, x in limits.items() if x is not None]
    if temperature == 0 and useless:
        raise ConfigError(
            "temperature 0 always takes the most likely token, which leaves nothing to "
            f"{', '.join(useless)}: set --temperature above 0, or leave them out"
        )
