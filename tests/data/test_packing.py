import numpy as np
import pytest

from jaxmodels.data import packing

END = 0


def stream_of(documents):
    return np.concatenate([[*document, END] for document in documents]).astype(np.uint8)


def random_documents(seed, count=9, longest=11):
    rng = np.random.default_rng(seed)
    return [rng.integers(1, 9, rng.integers(1, longest)) for _ in range(count)]


def pack(documents, length):
    starts = packing.document_starts([len(document) for document in documents])
    rows = [
        packing.pack_row(stream_of(documents), starts, row, length, END)
        for row in range(packing.num_rows(starts, length))
    ]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def pack_slowly(documents, length):
    """The same by walking over tokens and pairs."""
    names = ["inputs", "targets", "weights", "segment_ids", "positions"]
    rows, row = [], []
    for document in documents:
        previous, fresh = END, True
        for token in [*document, END]:
            if len(row) == length:
                rows.append(row)
                row, fresh = [], True
            segment = (row[-1][3] if row else 0) + fresh
            position = 0 if fresh else row[-1][4] + 1
            row.append((previous, token, 1, segment, position))
            previous, fresh = token, False
    rows.append(row + [(END, END, 0, 0, 0)] * (length - len(row)))
    return dict(zip(names, np.moveaxis(np.asarray(rows), -1, 0), strict=True))


def test_two_documents_in_rows_of_four_by_hand():
    packed = pack([[5, 6], [7, 8, 9]], 4)
    expected = {
        "inputs": [[0, 5, 6, 0], [7, 8, 9, 0]],
        "targets": [[5, 6, 0, 7], [8, 9, 0, 0]],
        "weights": [[1, 1, 1, 1], [1, 1, 1, 0]],
        "segment_ids": [[1, 1, 1, 2], [1, 1, 1, 0]],
        "positions": [[0, 1, 2, 0], [0, 1, 2, 0]],
    }
    for name, value in expected.items():
        np.testing.assert_array_equal(packed[name], value, err_msg=name)


@pytest.mark.parametrize("length", [1, 2, 3, 7, 16, 200])
@pytest.mark.parametrize("seed", range(5))
def test_slices_of_the_stream_equal_a_walk_over_tokens(seed, length):
    documents = random_documents(seed)
    fast, slow = pack(documents, length), pack_slowly(documents, length)
    for name, value in slow.items():
        np.testing.assert_array_equal(fast[name], value, err_msg=name)


def test_every_token_and_every_end_is_a_target_once():
    documents = random_documents(0)
    packed = pack(documents, 7)
    targets = packed["targets"][packed["weights"] > 0]
    np.testing.assert_array_equal(targets, stream_of(documents))


def test_all_rows_but_the_last_are_full():
    documents = random_documents(1)
    weights = pack(documents, 7)["weights"]
    assert np.all(weights[:-1] == 1)
    assert weights.sum() == len(stream_of(documents)) > 7


def test_no_target_crosses_documents():
    documents = [[d] * 3 for d in range(1, 8)]
    packed = pack(documents, 5)
    first, last = packed["inputs"] == END, packed["targets"] == END
    same = packed["inputs"] == packed["targets"]
    assert np.all(first | last | same)
    assert first.sum() == last.sum() > len(documents) - 1
    # Each first token starts a segment, at position 0.
    assert np.all(packed["positions"][first] == 0)


def test_documents_in_a_row_are_those_with_a_target_in_it():
    documents = random_documents(2)
    starts = packing.document_starts([len(document) for document in documents])
    owner = np.repeat(np.arange(len(documents)), np.diff(starts))
    for row in range(packing.num_rows(starts, 6)):
        expected = np.unique(owner[row * 6 : row * 6 + 6])
        found = list(packing.documents_in_row(starts, row, 6))
        assert found == expected.tolist()


def test_types_are_those_of_a_batch():
    packed = pack([[1, 2, 3]], 3)
    kinds = {name: value.dtype.name for name, value in packed.items()}
    assert kinds.pop("weights") == "float32"
    assert set(kinds.values()) == {"int32"}
