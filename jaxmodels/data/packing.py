"""Packing documents into rows of equal length: concatenate, then split.

A stream is all documents one after another, each followed by the end id. Token j of
the stream is predicted once an epoch, from token j - 1: the first token of a document
from the end id before it. Rows are cut from the stream every T tokens, so all but the
last are full, and a document that crosses a cut goes on in the next row as a new
segment. The plan is no more than the position at which each document starts.

Shapes use N tokens of the stream, D documents, T tokens a row.
"""

import numpy as np


def document_starts(lengths):
    """Where each document starts in the stream, and where the stream ends.

    Args:
        lengths: [D], tokens of each document without its end id.

    Returns:
        int64 [D + 1].
    """
    ends = np.cumsum(np.asarray(lengths, np.int64) + 1)
    return np.concatenate([np.zeros(1, np.int64), ends])


def num_rows(starts, length):
    """Number of rows of `length` tokens; the last one may be short of tokens."""
    return -(-int(starts[-1]) // length)


def documents_in_row(starts, row, length):
    """The range of documents that have a token in the row."""
    begin = row * length
    end = min(begin + length, int(starts[-1]))
    first = int(np.searchsorted(starts, begin, side="right")) - 1
    last = int(np.searchsorted(starts, end - 1, side="right")) - 1
    return range(first, last + 1)


def pack_row(stream, starts, row, length, end_id):
    """One row of the plan. Costs O(T + log D).

    Args:
        stream: [N] ids, each document followed by `end_id`.
        starts: see `document_starts`.
        row: index, below `num_rows`.
        length: T.

    Returns:
        inputs, targets, segment_ids, positions int32 [T] and weights float32 [T].
        Segments count from 1 and positions restart in each; past the end of the stream
        segment, position and weight are 0.
    """
    begin = row * length
    end = min(begin + length, int(starts[-1]))
    taken = end - begin
    inputs, targets = np.full((2, length), end_id, np.int32)
    targets[:taken] = stream[begin:end]
    skip = 1 if begin == 0 else 0
    inputs[skip:taken] = stream[begin + skip - 1 : end - 1]

    documents = documents_in_row(starts, row, length)
    borders = np.asarray(starts[documents.start + 1 : documents.stop]) - begin
    segment_ids, positions = np.zeros((2, length), np.int32)
    segment_ids[borders] = 1
    segment_ids[:taken] = 1 + np.cumsum(segment_ids[:taken])
    beginnings = np.zeros(taken, np.int32)
    beginnings[borders] = borders
    positions[:taken] = np.arange(taken) - np.maximum.accumulate(beginnings)
    weights = (np.arange(length) < taken).astype(np.float32)
    return {
        "inputs": inputs,
        "targets": targets,
        "weights": weights,
        "segment_ids": segment_ids,
        "positions": positions,
    }
