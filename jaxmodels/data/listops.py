"""ListOps: nested lists of digits under MIN, MAX, MED and SM, with their value.

Nangia & Bowman (2018), "ListOps: a diagnostic dataset for latent tree learning", as
sampled in the Long Range Arena (Tay et al., 2021, section 2.2.1). `[MAX 2 9 [MIN 4 7 ]
0 ]` is 9; a median of an even number of values is rounded down; SM adds modulo 10.

A node is an operator with probability 1/4, unless it lies at the greatest depth, and
has 2 to `max_args` arguments; operators, digits and numbers of arguments are uniform.
Expressions outside the range of lengths are thrown away, and none is drawn twice, so
no held-out expression was trained on.
"""

import dataclasses
import hashlib
import itertools
import json
import random

import tensorflow_datasets as tfds
import tqdm

from jaxmodels.data import builder
from jaxmodels.data.vocabulary import WordVocabulary
from jaxmodels.train.errors import ConfigError

DIGITS = tuple("0123456789")
END = "]"
OPERATOR_SHARE = 0.25
MAX_NUM_ARGS = 100
PATIENCE = 100_000  # draws without a new expression, after which there may be none
LABELS = DIGITS


def median(values):
    """The median, rounded down where it lies between two values."""
    ordered, half = sorted(values), len(values) // 2
    return (ordered[half] + ordered[~half]) // 2


OPERATORS = {
    "[MIN": min,
    "[MAX": max,
    "[MED": median,
    "[SM": lambda values: sum(values) % 10,
}
_OPERATORS = tuple(OPERATORS)


@dataclasses.dataclass(frozen=True)
class ListOps:
    """Which expressions are drawn, and how many; the Long Range Arena's by default.

    Attributes:
        max_depth: levels of nodes, so that operators nest at most `max_depth` - 1 deep.
        max_args: most arguments of an operator.
        min_tokens, max_tokens: of an expression, each digit, operator and closing
            bracket being one token.
        num_train: expressions to train on.
        num_held_out: expressions in each of validation and test.
        seed: of the draw.

    Raises:
        ValueError: fields out of range, one line each.
    """

    max_depth: int = 10
    max_args: int = 10
    min_tokens: int = 501
    max_tokens: int = 1999
    num_train: int = 96_000
    num_held_out: int = 2_000
    seed: int = 0

    def __post_init__(self):
        least = dict(max_depth=2, max_args=2, min_tokens=1, num_train=1, num_held_out=1)
        lines = [
            f"{name} {getattr(self, name)} must be at least {low}"
            for name, low in least.items()
            if getattr(self, name) < low
        ]
        if self.max_args > MAX_NUM_ARGS:
            lines.append(f"max_args {self.max_args} must be at most {MAX_NUM_ARGS}")
        if self.max_tokens < self.min_tokens:
            lines.append(
                f"max_tokens {self.max_tokens} must be at least min_tokens"
                f" {self.min_tokens}"
            )
        if lines:
            raise ValueError("\n".join(lines))


def listops_vocabulary():
    """One id for each digit, operator and the closing bracket, and the end id."""
    return WordVocabulary((*DIGITS, *OPERATORS, END))


def evaluate(tokens):
    """The value of an expression, 0 to 9.

    Args:
        tokens: strings; or one string, in which blanks separate them.

    Raises:
        ValueError: they are no expression; names the token at fault.
    """
    tokens = tokens.split() if isinstance(tokens, str) else tokens
    open_lists: list[tuple] = [(None, [])]  # operator, values so far
    for place, token in enumerate(tokens):
        if token in OPERATORS:
            open_lists.append((OPERATORS[token], []))
            continue
        if token in DIGITS:
            value = int(token)
        elif token == END and len(open_lists) > 1 and open_lists[-1][1]:
            operator, values = open_lists.pop()
            value = operator(values)
        else:
            raise ValueError(f"token {place}, {token!r}, is out of place in ListOps")
        open_lists[-1][1].append(value)
    if len(open_lists) != 1 or len(open_lists[0][1]) != 1:
        raise ValueError(
            f"{len(tokens)} tokens with {len(open_lists) - 1} open lists are not one"
            " ListOps expression"
        )
    return open_lists[0][1][0]


def draw(rng, spec):
    """The tokens of one random expression.

    Args:
        rng: `random.Random`; only its `random()` is called, whose sequence is the same
            in every release of Python.
        spec: `ListOps`.

    Returns:
        A list of strings, or None for an expression that is too long.
    """
    tokens: list[str] = []
    arguments = [1]  # still to come, in each open list
    while arguments:
        if not arguments[-1]:
            arguments.pop()
            tokens.append(END)
            continue
        arguments[-1] -= 1
        # The innermost open list is `len(arguments) - 1` operators deep.
        if len(arguments) < spec.max_depth and rng.random() <= OPERATOR_SHARE:
            arguments.append(2 + int(rng.random() * (spec.max_args - 1)))
            tokens.append(_OPERATORS[int(rng.random() * len(_OPERATORS))])
        else:
            tokens.append(DIGITS[int(rng.random() * 10)])
        if len(tokens) + len(arguments) - 1 > spec.max_tokens:
            return None
    tokens.pop()  # of the level that holds the whole expression
    return tokens


def expressions(spec):
    """Yields different expressions, as texts, without end.

    Raises:
        ConfigError: the lengths leave (almost) no further expression.
    """
    rng, seen = random.Random(spec.seed), set[bytes]()
    while True:
        for _ in range(PATIENCE):
            tokens = draw(rng, spec)
            if tokens is None or len(tokens) < spec.min_tokens:
                continue
            text = " ".join(tokens)
            digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
            if digest not in seen:
                break
        else:
            raise ConfigError(
                f"{PATIENCE} draws found no ListOps expression besides {len(seen)} of"
                f" {spec.min_tokens} to {spec.max_tokens} tokens; widen the lengths,"
                " or raise max_depth or max_args"
            )
        seen.add(digest)
        yield text


@dataclasses.dataclass(eq=False)
class ListOpsConfig(tfds.core.BuilderConfig):
    """Names a data set by what is drawn."""

    spec: ListOps = ListOps()


class ListOpsBuilder(builder.ArrayRecordBuilder):
    """Makes records {"text", "label"} of ListOps expressions.

    The version goes up when the same fields are to give other records.
    """

    name = "listops"
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "text": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=list(LABELS)),
        }
        return builder.LocalInfo(
            builder=self,
            description=self.builder_config.description,
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        spec = self.builder_config.spec
        drawn = expressions(spec)
        sizes = {"train": spec.num_train}
        sizes |= dict.fromkeys(("validation", "test"), spec.num_held_out)
        # TFDS builds one split after another, in this order.
        return {split: _records(drawn, split, n) for split, n in sizes.items()}

    def _generate_examples(self):
        """The splits are not made one by one; see `_split_generators`."""


def _records(drawn, split, number):
    progress = tqdm.tqdm(
        itertools.islice(drawn, number),
        f"drawing {split}",
        total=number,
        unit=" expressions",
        disable=None,
        leave=False,
    )
    for index, text in enumerate(progress):
        yield index, {"text": text, "label": evaluate(text)}


def prepare_listops(spec, data_dir=None):
    """Opens the data set of a `ListOps`, drawing it when it is new.

    The default one takes about a minute of one core, and 100 MB.

    Raises:
        ConfigError, StorageError: see `builder.prepare` and `expressions`.
    """
    fields = json.dumps(dataclasses.asdict(spec), sort_keys=True)
    config = ListOpsConfig(
        name=hashlib.sha256(fields.encode()).hexdigest()[:16],
        version=ListOpsBuilder.VERSION,
        description=f"ListOps expressions: {fields}",
        spec=spec,
    )
    return builder.prepare(ListOpsBuilder, config, data_dir)
