"""Vocabularies: text to token ids and back.

Every vocabulary has

    vocab_size          number of ids
    end_id              the id that ends a document; it also stands before the first
                        token, as the input from which that token is predicted
    token_bytes         the bytes each id stands for; none for `end_id`
    dtype               the smallest numpy type that holds every id
    encode(text)        ids [n] of a text, without `end_id`
    decode(ids)         text; `end_id` vanishes, broken UTF-8 becomes U+FFFD
    to_json()           all that `from_preprocessing` needs to build it again
"""

import base64
import functools
import hashlib
import io
import json

import numpy as np
import sentencepiece

from jaxmodels.train.errors import ConfigError

NUL_REASON = "a NUL character, which no text holds"


def token_dtype(vocab_size):
    """The smallest of uint8, uint16 and int32 that holds every id."""
    if vocab_size <= 2**8:
        return np.dtype(np.uint8)
    return np.dtype(np.uint16) if vocab_size <= 2**16 else np.dtype(np.int32)


def digest(vocabulary):
    """A hexadecimal hash that two vocabularies share only if they are equal."""
    text = json.dumps(vocabulary.to_json(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def from_preprocessing(preprocessing):
    """Builds the vocabulary that a run's preprocessing names.

    Args:
        preprocessing: a dict with the entry "vocabulary", as `to_json` returned it.

    Raises:
        ConfigError: the entry is missing or of an unknown kind.
    """
    entry = preprocessing.get("vocabulary") or {}
    if entry.get("kind") == "bytes":
        return ByteVocabulary()
    if entry.get("kind") == "sentencepiece":
        return SentencePieceVocabulary(base64.b64decode(entry["model"]))
    if entry.get("kind") == "words":
        return WordVocabulary(entry.get("words", ()))
    raise ConfigError(
        f'the vocabulary kind {entry.get("kind")!r} is not "bytes", "sentencepiece" or'
        ' "words"'
    )


class ByteVocabulary:
    """The 256 byte values of UTF-8 text; NUL, which no text holds, ends a document."""

    vocab_size = 256
    end_id = 0
    dtype = token_dtype(256)
    token_bytes = (b"", *(bytes([value]) for value in range(1, 256)))

    def encode(self, text):
        """Ids, uint8 [n].

        Raises:
            ValueError: the text holds NUL or a lone surrogate.
        """
        data = text.encode("utf-8")
        if b"\0" in data:
            raise ValueError(f"{NUL_REASON}, at byte {data.index(0)}")
        return np.frombuffer(data, np.uint8)

    def decode(self, ids):
        data = np.asarray(ids, np.uint8)
        return data[data != 0].tobytes().decode("utf-8", errors="replace")

    def to_json(self):
        return {"kind": "bytes"}


class SentencePieceVocabulary:
    """A SentencePiece model (Kudo & Richardson, 2018).

    One that `train_sentencepiece` made keeps every text exactly: nothing is normalized,
    and what has no piece is spelled in bytes. Models from elsewhere may normalize.

    Args:
        model: the bytes of a `.model` file.

    Raises:
        ConfigError: they are no SentencePiece model, or it has no end symbol.
    """

    # SentencePiece writes a space as this character, so a text that holds the character
    # itself would come back with a space.
    SPACE = "\u2581"

    def __init__(self, model):
        self.model = bytes(model)
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(self.model)
        except RuntimeError as error:
            raise ConfigError(
                f"{len(self.model)} bytes are no SentencePiece model"
            ) from error
        self.vocab_size = self._processor.vocab_size()
        self.end_id = self._processor.eos_id()
        self.dtype = token_dtype(self.vocab_size)
        if self.end_id < 0:
            raise ConfigError(
                "the SentencePiece model has no end symbol (eos_id); train one with it"
            )
        spelled = [self._processor.piece_to_id(f"<0x{b:02X}>") for b in SPACE_BYTES]
        self._space = (
            spelled if all(self._processor.is_byte(i) for i in spelled) else None
        )

    def __reduce__(self):
        return SentencePieceVocabulary, (self.model,)

    @functools.cached_property
    def token_bytes(self):
        return tuple(self._bytes_of(token) for token in range(self.vocab_size))

    def _bytes_of(self, token):
        if self._processor.is_control(token) or self._processor.is_unknown(token):
            return b""
        piece = self._processor.id_to_piece(token)
        if self._processor.is_byte(token):
            return bytes([int(piece[3:-1], 16)])
        return piece.replace(self.SPACE, " ").encode("utf-8")

    def encode(self, text):
        """Ids, [n] of `dtype`.

        Raises:
            ValueError: the text holds NUL or a lone surrogate.
        """
        text.encode("utf-8")
        if "\0" in text:
            raise ValueError(f"{NUL_REASON}, at character {text.index(chr(0))}")
        if self._space is None or self.SPACE not in text:
            return np.asarray(self._processor.encode(text), self.dtype)
        first, *rest = text.split(self.SPACE)
        ids = self._processor.encode(first)
        for part in rest:
            ids = ids + self._space + self._processor.encode(part)
        return np.asarray(ids, self.dtype)

    def decode(self, ids):
        data = b"".join(self.token_bytes[token] for token in np.asarray(ids).tolist())
        return data.decode("utf-8", errors="replace")

    def to_json(self):
        return {
            "kind": "sentencepiece",
            "model": base64.b64encode(self.model).decode("ascii"),
        }


class WordVocabulary:
    """Words out of a list, for a language of a few symbols. Id 0 ends a document.

    Args:
        words: different strings without blanks; they get the ids from 1 on.

    Raises:
        ConfigError: there is none, or one is empty, has a blank or stands there twice.
    """

    end_id = 0

    def __init__(self, words):
        self.words = tuple(words)
        self._ids = {word: number for number, word in enumerate(self.words, 1)}
        odd = [word for word in self.words if word.split() != [word]]
        if odd or not self.words or len(self._ids) != len(self.words):
            what = f"{odd[0]!r} is no word" if odd else "it takes some, each once"
            raise ConfigError(f"a list of {len(self.words)} words: {what}")
        self.vocab_size = len(self.words) + 1
        self.dtype = token_dtype(self.vocab_size)
        self.token_bytes = (b"", *(word.encode("utf-8") for word in self.words))

    def encode(self, text):
        """Ids of the words between blanks, [n] of `dtype`.

        Raises:
            ValueError: a word is not in the list.
        """
        try:
            return np.asarray([self._ids[word] for word in text.split()], self.dtype)
        except KeyError as error:
            raise ValueError(
                f"the word {error} is none of the {len(self.words)} known:"
                f" {', '.join(self.words[:20])}"
            ) from None

    def decode(self, ids):
        """The words with single blanks between them."""
        kept = [number for number in np.asarray(ids).tolist() if number != self.end_id]
        return " ".join(self.words[number - 1] for number in kept)

    def to_json(self):
        return {"kind": "words", "words": list(self.words)}


Vocabulary = ByteVocabulary | SentencePieceVocabulary | WordVocabulary
SPACE_BYTES = SentencePieceVocabulary.SPACE.encode("utf-8")


def train_sentencepiece(texts, vocab_size, sample_bytes=10_000_000):
    """Trains a unigram model (Kudo, 2018) that keeps every text exactly.

    The same texts give the same model, to the byte.

    Args:
        texts: strings, read until `sample_bytes` characters are taken.
        vocab_size: number of ids: the end symbol, an unknown symbol that is never
            used, 256 bytes, and pieces.
        sample_bytes: limit of the text that is looked at; 5 MB take about 15 s.

    Raises:
        ConfigError: the texts do not hold enough for the vocabulary size.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_sentences(texts, sample_bytes),
            model_writer=model,
            vocab_size=vocab_size,
            model_type="unigram",
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            eos_id=0,
            unk_id=1,
            bos_id=-1,
            pad_id=-1,
            # The sums of the EM steps depend on the number of threads.
            num_threads=4,
            minloglevel=3,
        )
    except RuntimeError as error:
        # "INTERNAL: file.cc(1) [condition] reason": the reason is for the user.
        reason = " ".join(str(error).rpartition("] ")[2].split())[:200]
        raise ConfigError(
            f"cannot train a vocabulary of {vocab_size} pieces: {reason}"
        ) from error
    return SentencePieceVocabulary(model.getvalue())


def _sentences(texts, sample_bytes, longest=1000):
    """Lines of at most `longest` characters, `sample_bytes` characters in all."""
    taken = 0
    for text in texts:
        for line in text.splitlines():
            for start in range(0, len(line), longest):
                yield line[start : start + longest]
            taken += len(line)
            if taken >= sample_bytes:
                return
