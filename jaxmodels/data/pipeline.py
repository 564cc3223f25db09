"""The input of a training run: what the loop asks of data, and text that answers it.

A batch is a pure function of its number. The order of the rows is global, and a rank
holds a slice of each batch of it, so a run may stop and go on with another number of
ranks and still see every row as if it had not.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import grain
import numpy as np

from jaxmodels.data import packing, tokens


class Data(NamedTuple):
    """What the loop trains and evaluates on. Everything in it pickles.

    Attributes:
        train: (step, rank, ranks) -> {name: array}, the rows of global batch `step`
            that data shard `rank` of `ranks` holds. Pure, and safe in threads.
        eval: the same for batches 0 to `num_eval_batches` - 1 of the held-out split;
            the last one is padded with rows of weight 0.
        num_eval_batches: int.
        batch_size: rows of a global batch.
        unit: what weights count.
        preprocessing: JSON-able; all that it takes to make the same input again.
        records: step -> names of the records in global train batch `step`.
        baselines: name -> what a trivial model scores on the batches of `eval`.
        shared: entries of `preprocessing` that a run has to share with the one whose
            parameters it starts from.
    """

    train: Callable[[int, int, int], dict[str, np.ndarray]]
    eval: Callable[[int, int, int], dict[str, np.ndarray]]
    num_eval_batches: int
    batch_size: int
    unit: str
    preprocessing: dict[str, Any]
    records: Callable[[int], list[str]]
    baselines: dict[str, float]
    shared: tuple[str, ...] = ()


def shard(batch_size, rank, ranks):
    """The range of a global batch's rows that a rank holds.

    Raises:
        ValueError: the ranks do not divide the batch, or there is no such rank.
    """
    if ranks < 1 or batch_size % ranks:
        raise ValueError(f"batch_size {batch_size} is not divisible by {ranks} ranks")
    if not 0 <= rank < ranks:
        raise ValueError(f"rank {rank} is not below {ranks} ranks")
    rows = batch_size // ranks
    return range(rank * rows, (rank + 1) * rows)


class Rows(Protocol):
    """Rows that batches are made of: `PackedText`, pairs of texts, labeled texts."""

    def __len__(self) -> int: ...

    def batch(self, rows: list[int | None]) -> dict[str, np.ndarray]:
        """Stacks rows; None gives a row of padding."""
        ...

    def names(self, row: int) -> list[str]:
        """Names of the records that the row holds."""
        ...


@runtime_checkable
class VariedRows(Rows, Protocol):
    """Rows that training sees another way each time: moved, turned, scaled."""

    def varied(self, rows: list[int], places: list[int]) -> dict[str, np.ndarray]:
        """Stacks rows; the place in the order of the run says how each is varied."""
        ...


@dataclasses.dataclass(frozen=True)
class PackedText:
    """Rows of a token stream as arrays for a language model.

    Attributes:
        stream: a `tokens.TokenStream`.
        length: T.
        end_id: of the vocabulary.
        target_bytes: float32 [vocab_size], bytes of text that each id stands for.
    """

    stream: tokens.TokenStream
    length: int
    end_id: int
    target_bytes: np.ndarray

    def __len__(self):
        return packing.num_rows(self.stream.starts, self.length)

    def batch(self, rows):
        """Stacks rows; None gives a row of padding.

        Returns:
            {inputs, targets, segment_ids, positions: int32 [B, T];
             weights, target_bytes: float32 [B, T]}, see `packing.pack_row`.
        """
        packed = [self._padding() if row is None else self._row(row) for row in rows]
        batch = {name: np.stack([row[name] for row in packed]) for name in packed[0]}
        batch["target_bytes"] = self.target_bytes[batch["targets"]] * batch["weights"]
        return batch

    def _row(self, row):
        stream = self.stream
        return packing.pack_row(
            stream.tokens, stream.starts, row, self.length, self.end_id
        )

    def _padding(self):
        nothing = np.zeros(0, np.int32)
        return packing.pack_row(nothing, np.zeros(1, int), 0, self.length, self.end_id)

    def names(self, row):
        """Names of the documents that have a token in the row."""
        documents = packing.documents_in_row(self.stream.starts, row, self.length)
        return [self.stream.name(document) for document in documents]


@dataclasses.dataclass(frozen=True)
class TrainBatches:
    """Rows in an order that is shuffled anew each epoch, cut into batches."""

    rows: Rows
    order: grain.MapDataset
    batch_size: int

    def __call__(self, step, rank, ranks):
        held = shard(self.batch_size, rank, ranks)
        rows = [self._row(step, place) for place in held]
        if isinstance(self.rows, VariedRows):
            first = step * self.batch_size
            return self.rows.varied(rows, [first + place for place in held])
        return self.rows.batch(rows)

    def records(self, step):
        rows = [self._row(step, place) for place in range(self.batch_size)]
        return list(
            dict.fromkeys(name for row in rows for name in self.rows.names(row))
        )

    def _row(self, step, place):
        return int(self.order[step * self.batch_size + place])


def epoch_order(num_rows, seed):
    """Places 0, 1, ... -> rows; each epoch is another permutation of all rows."""
    # grain draws epoch e from `seed + e`: hashing keeps the orders of neighbouring
    # seeds from being shifts of one another.
    digest = hashlib.sha256(f"order of rows, seed {seed}".encode()).digest()
    shuffle_seed = int.from_bytes(digest[:4], "big")
    return grain.MapDataset.range(num_rows).shuffle(seed=shuffle_seed).repeat()


@dataclasses.dataclass(frozen=True)
class EvalBatches:
    """Chosen rows in a fixed order, the last batch padded."""

    rows: Rows
    chosen: np.ndarray
    batch_size: int

    @property
    def num_batches(self):
        return -(-len(self.chosen) // self.batch_size)

    def __call__(self, step, rank, ranks):
        if not 0 <= step < self.num_batches:
            raise ValueError(f"eval batch {step} of {self.num_batches}")
        batch = self.chosen[step * self.batch_size :][: self.batch_size].tolist()
        batch += [None] * (self.batch_size - len(batch))
        held = shard(self.batch_size, rank, ranks)
        return self.rows.batch(batch[held.start : held.stop])


def batched(
    train,
    held_out,
    *,
    batch_size,
    num_eval_batches,
    seed,
    unit,
    preprocessing,
    baselines,
):
    """`Data` that cuts the rows of two splits into batches.

    Args:
        train, held_out: `Rows`.
        num_eval_batches: at most so many, of rows spread evenly; None for all rows.
        seed: of the order of the train rows.
        baselines: name -> (train rows, `EvalBatches`) -> what `Data.baselines` states.
        batch_size, unit, preprocessing: as in `Data`.
    """
    limit = None if num_eval_batches is None else num_eval_batches * batch_size
    evaluation = EvalBatches(held_out, spread(len(held_out), limit), batch_size)
    batches = TrainBatches(train, epoch_order(len(train), seed), batch_size)
    return Data(
        train=batches,
        eval=evaluation,
        num_eval_batches=evaluation.num_batches,
        batch_size=batch_size,
        unit=unit,
        preprocessing=preprocessing,
        records=batches.records,
        baselines={name: of(train, evaluation) for name, of in baselines.items()},
    )


def spread(num_rows, limit):
    """At most `limit` rows, evenly spread over all of them; None for no limit."""
    if limit is None or limit >= num_rows:
        return np.arange(num_rows)
    return np.arange(limit, dtype=np.int64) * num_rows // limit
