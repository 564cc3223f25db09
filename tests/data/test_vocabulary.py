import json
import pickle
import random

import numpy as np
import pytest

from jaxmodels.data import vocabulary
from jaxmodels.train.errors import ConfigError

WORDS = "import pathlib while return lambda numpy argument value total index".split()
TEXTS = [
    f"def {a}_{b}({a}):\n    return {b}.{c}\n"
    for a in WORDS
    for b in WORDS
    for c in WORDS
]
STRINGS = [
    "def f(x):\n    return x\n",
    "  two  spaces, \t tabs and a trailing space ",
    "\r\n\n\x0b\x0c\x1c\x85\u2028\ufeff",
    "e\u0301 \u00e9 \ufb01 \u2460 \u00a0 \u3000",
    "\u2581 the space symbol \u2581\u2581",
    "<0x41></s><unk><s>",
    "日本語 한국어 😀\U0010ffff\ud7ff\ue000",
    "",
    " ",
]


def unicode_strings(count, length=12):
    """Random strings over all of Unicode but NUL and the surrogates."""
    rng = random.Random(0)
    pools = [
        lambda: rng.randrange(1, 128),
        lambda: rng.randrange(1, 0xD800),
        lambda: rng.randrange(0xE000, 0x110000),
        lambda: rng.choice([0x20, 0x0A, 0x2581]),
    ]
    for _ in range(count):
        yield "".join(chr(rng.choice(pools)()) for _ in range(rng.randrange(length)))


@pytest.fixture(scope="module")
def sentencepiece():
    return vocabulary.train_sentencepiece(TEXTS, 300)


@pytest.fixture(params=["bytes", "sentencepiece"])
def vocab(request, sentencepiece):
    return vocabulary.ByteVocabulary() if request.param == "bytes" else sentencepiece


def test_any_text_comes_back_exactly(vocab):
    for text in [*STRINGS, *unicode_strings(300)]:
        ids = vocab.encode(text)
        assert vocab.decode(ids) == text
        assert ids.dtype == vocab.dtype and vocab.end_id not in ids
        assert np.all(ids < vocab.vocab_size)


def test_token_bytes_add_up_to_the_bytes_of_the_text(vocab):
    for text in STRINGS:
        spelled = b"".join(vocab.token_bytes[token] for token in vocab.encode(text))
        assert spelled == text.encode("utf-8")
    assert len(vocab.token_bytes) == vocab.vocab_size
    assert vocab.token_bytes[vocab.end_id] == b""


def test_decoding_drops_the_end_and_marks_a_cut_character(vocab):
    assert vocab.decode([*vocab.encode("a"), vocab.end_id]) == "a"
    byte_ids = vocab.encode("日")
    if len(byte_ids) == 3:
        assert vocab.decode(byte_ids[:2]) == "\ufffd"


def test_nul_and_lone_surrogates_are_refused(vocab):
    with pytest.raises(ValueError, match="NUL character, which no text holds, at .* 3"):
        vocab.encode("abc\0d")
    with pytest.raises(ValueError, match="surrogates not allowed"):
        vocab.encode("\ud800")


def test_preprocessing_in_json_rebuilds_the_vocabulary(vocab):
    stored = json.loads(json.dumps({"vocabulary": vocab.to_json(), "length": 8}))
    again = vocabulary.from_preprocessing(stored)
    text = STRINGS[0] + STRINGS[4]
    np.testing.assert_array_equal(again.encode(text), vocab.encode(text))
    assert vocabulary.digest(again) == vocabulary.digest(vocab)
    copied = pickle.loads(pickle.dumps(vocab))
    np.testing.assert_array_equal(copied.encode(text), vocab.encode(text))


def test_the_same_texts_train_the_same_model(sentencepiece):
    assert vocabulary.train_sentencepiece(TEXTS, 300).model == sentencepiece.model
    assert sentencepiece.vocab_size == 300
    assert len(sentencepiece.encode("import pathlib")) < 6


def test_bytes_are_the_ids_of_the_byte_vocabulary():
    ids = vocabulary.ByteVocabulary().encode("aé")
    assert ids.tolist() == [0x61, 0xC3, 0xA9]


def test_the_sample_ends_the_training_of_a_vocabulary_early():
    def texts():
        yield from TEXTS
        raise AssertionError("read on past the sample")

    vocabulary.train_sentencepiece(texts(), 300, sample_bytes=30_000)


@pytest.mark.parametrize(
    ("size", "dtype"),
    [(256, np.uint8), (257, np.uint16), (65536, np.uint16), (65537, np.int32)],
)
def test_ids_are_stored_in_the_smallest_type(size, dtype):
    assert vocabulary.token_dtype(size) == dtype


def test_a_vocabulary_larger_than_the_text_is_a_config_error():
    with pytest.raises(ConfigError, match="cannot train a vocabulary of 5000 pieces"):
        vocabulary.train_sentencepiece(["a few words"], 5000)


def test_a_vocabulary_smaller_than_the_bytes_is_a_config_error():
    with pytest.raises(ConfigError, match="cannot train a vocabulary of 100 pieces"):
        vocabulary.train_sentencepiece(["a few words"], 100)


def test_broken_models_and_unknown_kinds_are_config_errors():
    with pytest.raises(ConfigError, match="7 bytes are no SentencePiece model"):
        vocabulary.SentencePieceVocabulary(b"garbage")
    with pytest.raises(ConfigError, match="kind 'syllables' is not \"bytes\", "):
        vocabulary.from_preprocessing({"vocabulary": {"kind": "syllables"}})
    with pytest.raises(ConfigError, match="kind None is not"):
        vocabulary.from_preprocessing({})


def test_words_come_back_with_single_blanks():
    words = vocabulary.WordVocabulary(["[MAX", "1", "]"])
    ids = words.encode("  [MAX 1\n1 ] ")
    assert ids.tolist() == [1, 2, 2, 3] and ids.dtype == np.uint8
    assert words.decode([*ids, words.end_id, 0]) == "[MAX 1 1 ]"
    assert words.vocab_size == len(words.token_bytes) == 4
    again = vocabulary.from_preprocessing({"vocabulary": words.to_json()})
    assert vocabulary.digest(again) == vocabulary.digest(words)
    assert len(words.encode("")) == 0


def test_a_word_that_is_not_in_the_list_is_a_value_error():
    words = vocabulary.WordVocabulary(["a", "b"])
    with pytest.raises(ValueError, match="the word 'c' is none of the 2 known: a, b"):
        words.encode("a c")


@pytest.mark.parametrize("words", [["a", "a"], ["a b"], [""], []])
def test_a_list_that_holds_no_different_words_is_a_config_error(words):
    with pytest.raises(ConfigError, match="a list of . words"):
        vocabulary.WordVocabulary(words)
