"""Folders of runs with small models that were never trained."""

import functools

import jax.numpy as jnp

from jaxmodels.data.vocabulary import ByteVocabulary
from jaxmodels.models.performer import (
    AttentionSpec,
    PerformerLM,
    PerformerSeq2Seq,
    Stack,
)
from jaxmodels.train import checkpoint, model_file, state
from tests.variables import random_variables

SIZES = dict(embed_dim=8, num_heads=2, mlp_dim=12, num_layers=2)
SOURCE_LENGTH, TARGET_LENGTH = 5, 6
LM_PREPROCESSING = {"vocabulary": ByteVocabulary().to_json()}
PAIRS_PREPROCESSING = {
    "kind": "pairs",
    "dataset": "none/0/1.0.0",
    "splits": {"train": "train", "eval": "validation"},
    "source_field": "source",
    "target_field": "target",
    "source_length": SOURCE_LENGTH,
    "target_length": TARGET_LENGTH,
    "vocabulary": ByteVocabulary().to_json(),
    "source_vocabulary": None,
}


@functools.cache
def language_model():
    """A language model over bytes and its variables."""
    spec = AttentionSpec(num_features=6, chunk_size=4)
    model = PerformerLM(vocab_size=256, **SIZES, max_length=64, attention=spec)
    return model, random_variables(model, jnp.zeros((1, 3), jnp.int32))


@functools.cache
def pairs_model(vocab_size=256):
    """A sequence-to-sequence model over bytes and its variables."""
    linear, causal = (
        AttentionSpec(kind, num_features=6) for kind in ("linear", "causal_linear")
    )
    model = PerformerSeq2Seq(
        vocab_size=vocab_size,
        encoder=Stack(**SIZES, attention=linear),
        decoder=Stack(**SIZES, attention=causal, cross_attention=linear),
        max_length=8,
    )
    tokens = jnp.zeros((1, 3), jnp.int32)
    return model, random_variables(model, tokens, tokens)


def write_language_model(path):
    return write(path, *language_model(), LM_PREPROCESSING)


def write_pairs(path, **preprocessing):
    return write(path, *pairs_model(), PAIRS_PREPROCESSING | preprocessing)


def write(path, model, variables, preprocessing):
    """Writes a run that holds one model, and returns its folder."""
    model_file.write(path, {"model": model}, preprocessing)
    projections = {"model": {"projections": variables["projections"]}}
    run = state.start({"model": variables["params"]}, {}, {}, projections)
    saver = checkpoint.Checkpoints(path / "checkpoints")
    saver.save(run, wait=True)
    saver.close()
    return path
