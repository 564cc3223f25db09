"""Pairs of texts made by rule: copies, reversals, numbers and their English words.

They teach a sequence-to-sequence model in minutes, and a program knows every answer.
The split of a pair follows from its source alone, so nothing that is held out was ever
trained on.
"""

import dataclasses
import json

import numpy as np
import tensorflow_datasets as tfds

from jaxmodels.data import builder, text
from jaxmodels.train.errors import ConfigError

NUM_PAIRS = 20_000
ALPHABET = "abcdefghijklmnopqrstuvwxyz"
# Most symbols of a source where none is named, and at all.
SYMBOLS = {"copy": (24, 4096), "reverse": (24, 4096), "number_to_words": (6, 12)}

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen "
    "fourteen fifteen sixteen seventeen eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
THOUSANDS = ("", " thousand", " million", " billion")


def number_to_words(number):
    """A whole number below 10^12 in American English, such as "one hundred seven".

    Raises:
        ValueError: the number is negative or too large.
    """
    if not 0 <= number < 1000 ** len(THOUSANDS):
        raise ValueError(f"{number} is not between 0 and {1000 ** len(THOUSANDS) - 1}")
    if number == 0:
        return ONES[0]
    groups = []
    for name in THOUSANDS:
        number, group = divmod(number, 1000)
        if group:
            groups.append(_below_thousand(group) + name)
    return " ".join(reversed(groups))


def _below_thousand(number):
    hundreds, rest = divmod(number, 100)
    words = [f"{ONES[hundreds]} hundred"] if hundreds else []
    if rest >= 20:
        tens, ones = divmod(rest, 10)
        words.append(TENS[tens - 2] + (f"-{ONES[ones]}" if ones else ""))
    elif rest:
        words.append(ONES[rest])
    return " ".join(words)


def answer(name, source):
    """The target that belongs to a source of the data set `name`."""
    if name == "number_to_words":
        return number_to_words(int(source))
    return source[::-1] if name == "reverse" else source


def draw_sources(name, max_symbols, num_pairs, seed=0):
    """Different sources, as many lengths of 1 to `max_symbols` as there are sources of.

    Returns:
        At most `num_pairs` strings, fewer where no more are found.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, None] = {}
    # Short sources run out; four draws a pair find enough of the others.
    for _ in range(4 * num_pairs):
        length = int(rng.integers(1, max_symbols + 1))
        if name == "number_to_words":
            low = 10 ** (length - 1) if length > 1 else 0
            source = str(int(rng.integers(low, 10**length)))
        else:
            source = "".join(ALPHABET[i] for i in rng.integers(0, 26, length))
        found[source] = None
        if len(found) == num_pairs:
            break
    return list(found)


@dataclasses.dataclass(eq=False)
class GeneratedConfig(tfds.core.BuilderConfig):
    """Numbers that a generated data set is made from."""

    max_symbols: int = 0
    num_pairs: int = 0
    seed: int = 0


class Pairs(builder.ArrayRecordBuilder):
    """Makes records {"source", "target"}.

    The version goes up when the same numbers are to give other records.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        entry = tfds.features.Text()
        return builder.LocalInfo(
            builder=self,
            description=self.builder_config.description,
            features=tfds.features.FeaturesDict({"source": entry, "target": entry}),
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in text.SPLITS}

    def _generate_examples(self, split):
        made = self.builder_config
        for source in draw_sources(
            self.name, made.max_symbols, made.num_pairs, made.seed
        ):
            if text.hashed_split(source) == split:
                yield source, {"source": source, "target": answer(self.name, source)}


class Copy(Pairs):
    """Builds `copy`: letters, and the same letters."""


class Reverse(Pairs):
    """Builds `reverse`: letters, and the same letters from the last to the first."""


class NumberToWords(Pairs):
    """Builds `number_to_words`: digits, and the number in English."""


BUILDERS = {"copy": Copy, "reverse": Reverse, "number_to_words": NumberToWords}


def is_generated(dataset):
    """Whether a data set's name is of this module: "copy", "reverse/64", ..."""
    return str(dataset).split("/")[0] in BUILDERS


def prepare(dataset, data_dir=None, num_pairs=NUM_PAIRS, seed=0):
    """Opens a generated data set, building it on the first call.

    Args:
        dataset: "copy", "reverse" or "number_to_words", and after a slash the most
            letters or digits of a source: "reverse/64".
        data_dir: see `builder.data_directory`.
        num_pairs: pairs of all splits together.
        seed: of the draws.

    Raises:
        ConfigError, StorageError: the number is impossible, or see `builder.prepare`.
    """
    name, _, size = str(dataset).partition("/")
    usual, most = SYMBOLS[name]
    if size and not (size.isdecimal() and 1 <= int(size) <= most):
        raise ConfigError(
            f"the data set {dataset!r}: {size!r} is no number of symbols between 1 and"
            f" {most}; write {name}/{usual}, or {name} alone"
        )
    numbers = [int(size or usual), num_pairs, seed]
    config = GeneratedConfig(
        name="-".join(map(str, numbers)),
        version=Pairs.VERSION,
        description=f"{name} with symbols, pairs, seed: {json.dumps(numbers)}",
        max_symbols=numbers[0],
        num_pairs=num_pairs,
        seed=seed,
    )
    return builder.prepare(BUILDERS[name], config, data_dir)
