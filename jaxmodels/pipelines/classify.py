"""Labels of texts from a trained classifier.

python -m jaxmodels.pipelines.classify --checkpoint runs/c "[MAX 2 9 [MIN 4 7 ] 0 ]"

Shapes use N texts, B batch, T length, C classes.
"""

import functools
import sys
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxmodels.data import labels, vocabulary
from jaxmodels.models.performer_classifier import PerformerClassifier
from jaxmodels.pipelines import text_models
from jaxmodels.pipelines.generate import Parser
from jaxmodels.train import checkpoint, model_file
from jaxmodels.train.errors import INTERRUPTED, ConfigError, RunError

BATCH_SIZE = 16
SHOWN_TEXT = 60


class Classifier(NamedTuple):
    """A trained classifier and all that its input takes.

    Attributes:
        model: module of ids [B, T] and `mask` to logits [B, C].
        variables: what `model.apply` takes.
        vocabulary: see `jaxmodels.data.vocabulary`.
        labels: names of the classes, [C].
        length: T, tokens of a row.
    """

    model: Any
    variables: Any
    vocabulary: vocabulary.Vocabulary
    labels: tuple[str, ...]
    length: int


def load(workdir):
    """The classifier of a finished or running run.

    Args:
        workdir: folder of the run, with `model.json` and `checkpoints/`.

    Returns:
        `Classifier`, with averaged weights where the run keeps them.

    Raises:
        ConfigError: no run, or none of a classifier.
        StorageError: no checkpoint can be restored.
    """
    networks, preprocessing = model_file.read(workdir)
    names = [n for n, net in networks.items() if isinstance(net, PerformerClassifier)]
    if len(names) != 1 or preprocessing.get("kind") != "labels":
        raise ConfigError(
            f"{workdir} holds {len(names)} classifiers among its networks"
            f" ({', '.join(networks)}); name the run of a classifier, such as one of"
            " configs/performer/classify.py"
        )
    model, classes = networks[names[0]], tuple(preprocessing["labels"])
    vocab = vocabulary.from_preprocessing(preprocessing)
    sizes = {
        "classes": (model.num_classes, len(classes)),
        "ids": (model.vocab_size, vocab.vocab_size),
    }
    for what, (trained, described) in sizes.items():
        if trained != described:
            raise ConfigError(
                f"{workdir}: the model has {trained} {what} and its preprocessing"
                f" {described}"
            )
    variables = checkpoint.restore_networks(workdir, networks=names)[names[0]]
    return Classifier(model, variables, vocab, classes, preprocessing["length"])


def classify(classifier, texts, batch_size=BATCH_SIZE):
    """Probabilities of the labels of each text, float32 [N, C].

    Of a text longer than `classifier.length` - 1 tokens the beginning is read, as in
    training. What else is in `texts` changes no row, beyond rounding.

    Raises:
        ConfigError: a text is empty or cannot be encoded; says which.
    """
    return probabilities(classifier, encode(classifier, texts), batch_size)


def encode(classifier, texts):
    """The ids of each text.

    Raises:
        ConfigError: a text is empty or cannot be encoded; says which.
    """
    rows = [
        text_models.encode(classifier.vocabulary, text, f"text {place}")
        for place, text in enumerate(texts)
    ]
    for place, ids in enumerate(rows):
        if not ids.size:
            raise ConfigError(f"text {place} is empty; a text has at least one token")
    return rows


def probabilities(classifier, rows, batch_size=BATCH_SIZE):
    """`classify` of the ids of texts, as `encode` gives them."""
    found = [np.zeros((0, len(classifier.labels)), np.float32)]
    for begin in range(0, len(rows), batch_size):
        block = rows[begin : begin + batch_size]
        shape = batch_size, classifier.length
        inputs = np.full(shape, classifier.vocabulary.end_id, np.int32)
        mask = np.zeros(shape, bool)
        mask[:, 0] = True  # the end id before a text; all that a row of padding holds
        for place, ids in enumerate(block):
            labels.fill_row(inputs[place], mask[place], ids)
        run = _probabilities(classifier.model, classifier.variables, inputs, mask)
        found.append(np.asarray(run)[: len(block)])
    return np.concatenate(found)


@functools.partial(jax.jit, static_argnames="model")
def _probabilities(model, variables, inputs, mask):
    return jax.nn.softmax(model.apply(variables, inputs, mask=mask))


def describe(row, names, top_k):
    """The most likely label and the probabilities [C] of the `top_k` most likely."""
    order = np.argsort(-row, kind="stable")[:top_k]
    shares = [f"{names[place]} {100 * row[place]:.1f} %" for place in order]
    return f"{names[order[0]]}  ({', '.join(shares)})"


def parser():
    """The command line."""
    flags = Parser(
        prog="python -m jaxmodels.pipelines.classify",
        description=__doc__.split("\n")[0],
    )
    flags.add_argument("--checkpoint", required=True, help="folder of a run")
    flags.add_argument("--top_k", type=int, default=3, help="labels to print")
    flags.add_argument(
        "texts", nargs="*", metavar="TEXT", help="without any, lines of the input"
    )
    return flags


def main(argv=None):
    """Prints a line a text: label, probabilities, text; returns the exit code."""
    try:
        flags = parser().parse_args(argv)
        if flags.top_k < 1:
            raise ConfigError(f"top_k {flags.top_k} must be at least 1")
        classifier = load(flags.checkpoint)
        texts = flags.texts or [line.rstrip("\n") for line in sys.stdin]
        rows = encode(classifier, texts)
        for place, ids in enumerate(rows):
            if ids.size >= classifier.length:
                print(
                    f"warning: of the {ids.size} tokens of text {place} the first"
                    f" {classifier.length - 1} are read",
                    file=sys.stderr,
                )
        for text, row in zip(texts, probabilities(classifier, rows), strict=True):
            short = " ".join(text.split())
            short = short if len(short) <= SHOWN_TEXT else f"{short[:SHOWN_TEXT]}..."
            print(f"{describe(row, classifier.labels, flags.top_k)}  {short}")
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
