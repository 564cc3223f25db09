"""Scores of generated texts against true ones: BLEU, chrF and ROUGE.

The libraries that define them are loaded when they are asked for.
"""

import importlib
import importlib.metadata

import numpy as np

from jaxmodels.train.errors import ConfigError

NAMES = ("bleu", "chrf", "rouge")
_MODULES = {
    "bleu": "sacrebleu",
    "chrf": "sacrebleu",
    "rouge": "rouge_score.rouge_scorer",
}
ROUGE_KINDS = ("rouge1", "rouge2", "rougeL")


def load(names):
    """A function that takes these scores.

    Args:
        names: of `NAMES`.

    Returns:
        (texts, references), two lists as long as each other, to the scores by name, in
        the scale that their libraries report, and what defines each: the signature of
        sacrebleu, or the version and options of rouge-score. A score that even the
        references would not get above 0, as BLEU of single words, is None.

    Raises:
        ConfigError: there is no such score, or its library is not installed.
    """
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise ConfigError(f"unknown score {unknown[0]!r}; choose of {', '.join(NAMES)}")
    for name in names:
        _import(name)

    def compare(texts, references):
        values: dict[str, float | None] = {}
        signatures: dict[str, str] = {}
        for name in names:
            take = rouge if name == "rouge" else sacrebleu_score(name)
            found, signature = take(texts, references)
            values |= found
            signatures[name] = signature
        return values, signatures

    return compare


def _import(name):
    try:
        return importlib.import_module(_MODULES[name])
    except ImportError as error:
        raise ConfigError(
            f"the score {name} needs {error.name}: pip install 'jaxmodels[text]', or "
            "leave it out"
        ) from None


def sacrebleu_score(name):
    """Corpus BLEU (Papineni et al., 2002) or chrF (Popovic, 2015), 0 to 100, with the
    defaults of sacrebleu (Post, 2018)."""
    library = _import(name)

    def take(texts, references):
        metric = library.BLEU() if name == "bleu" else library.CHRF()
        value = metric.corpus_score(texts, [references]).score
        possible = metric.corpus_score(references, [references]).score > 0
        return {name: value if possible else None}, str(metric.get_signature())

    return take


def rouge(texts, references):
    """Mean F1 of ROUGE-1, ROUGE-2 and ROUGE-L (Lin, 2004), 0 to 1.

    Words are reduced to their stems, and what is no ASCII letter or digit separates
    words: a score for English.
    """
    scorer = _import("rouge").RougeScorer(ROUGE_KINDS, use_stemmer=True)

    def means(texts):
        found = [
            scorer.score(reference, text)
            for text, reference in zip(texts, references, strict=True)
        ]
        return {
            kind: float(np.mean([one[kind].fmeasure for one in found]))
            for kind in ROUGE_KINDS
        }

    best = means(references)
    values = {
        kind: value if best[kind] > 0 else None for kind, value in means(texts).items()
    }
    version = importlib.metadata.version("rouge-score")
    return values, f"rouge-score {version}, mean F1, stemmed"
