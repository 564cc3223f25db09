import re
import sys

import pytest

from jaxmodels.pipelines import text_scores
from jaxmodels.train.errors import ConfigError

TEXTS = ["the cat sat on the mat", "a dog barked"]
REFERENCES = ["the cat sat on a mat", "the dogs were barking"]


def take(name, texts=TEXTS, references=REFERENCES):
    pytest.importorskip("rouge_score" if name == "rouge" else "sacrebleu")
    return text_scores.load([name])(texts, references)


def f1(common, made, true):
    return 2 * (common / made) * (common / true) / (common / made + common / true)


def test_rouge_is_the_mean_f1_of_common_words_pairs_and_subsequences():
    values, signatures = take("rouge")
    # Stemmed, the second pair is "a dog bark" and "the dog were bark".
    expected = {
        "rouge1": (f1(5, 6, 6) + f1(2, 3, 4)) / 2,
        "rouge2": (f1(3, 5, 5) + 0) / 2,
        "rougeL": (f1(5, 6, 6) + f1(2, 3, 4)) / 2,
    }
    assert values == pytest.approx(expected)
    assert re.match(r"rouge-score [\d.]+, mean F1, stemmed", signatures["rouge"])


def test_bleu_is_the_geometric_mean_of_precisions_with_a_brevity_penalty():
    texts, references = ["a b c d e f"], ["a b c d e g h"]
    values, signatures = take("bleu", texts, references)
    precisions = (5 / 6) * (4 / 5) * (3 / 4) * (2 / 3)
    brevity = 2.718281828 ** (1 - 7 / 6)
    assert values == pytest.approx({"bleu": 100 * brevity * precisions**0.25})
    assert "version:" in signatures["bleu"]


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_equal_texts_score_100_and_texts_with_nothing_in_common_score_0(name):
    texts = ["one two three four five", "six seven eight nine ten"]
    values, _ = take(name, texts, texts)
    assert values[name] == pytest.approx(100)
    values, _ = take(name, ["zzzzz zzzz zzz zz", "zzzzz zzzz"], texts)
    assert values[name] == pytest.approx(0, abs=1e-6)


def test_a_score_that_the_texts_are_too_short_for_is_none():
    texts = ["one", "two"]
    assert take("bleu", texts, texts)[0] == {"bleu": None}
    expected = {"rouge1": 1.0, "rouge2": None, "rougeL": 1.0}
    assert take("rouge", texts, texts)[0] == expected


def test_an_unknown_score_is_told():
    with pytest.raises(ConfigError, match="unknown score 'meteor'; choose of bleu, "):
        text_scores.load(["meteor"])


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("bleu", "sacrebleu"),
        ("chrf", "sacrebleu"),
        ("rouge", "rouge_score.rouge_scorer"),
    ],
)
def test_a_library_that_is_not_installed_is_told_with_the_way_out(
    name, module, monkeypatch
):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=r"needs .*: pip install 'jaxmodels\[text\]'"):
        text_scores.load([name])
