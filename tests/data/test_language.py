import itertools
import json
import math
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from jaxmodels.data import vocabulary
from jaxmodels.data.language import argument_errors, language_model_data
from jaxmodels.data.pipeline import epoch_order
from jaxmodels.train.errors import ConfigError

NAMES = {"inputs", "targets", "weights", "segment_ids", "positions", "target_bytes"}


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].dtype == second[name].dtype
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def epoch_rows(data, epoch):
    """The rows of one epoch, as the order of the whole run gives them."""
    total = len(data.train.rows)
    places = range(epoch * total, (epoch + 1) * total)
    steps = range(places.start // data.batch_size, places.stop // data.batch_size + 1)
    targets = np.concatenate([data.train(step, 0, 1)["targets"] for step in steps])
    weights = np.concatenate([data.train(step, 0, 1)["weights"] for step in steps])
    skip = places.start - steps.start * data.batch_size
    return targets[skip : skip + total], weights[skip : skip + total]


def test_a_batch_is_a_pure_function_of_its_number(data):
    made = data()
    steps = [3, 0, 7, 3]
    batches = [made.train(step, 0, 1) for step in steps]
    assert_equal(batches[0], batches[3])
    again = data()
    for step, batch in zip(steps, batches, strict=True):
        assert_equal(again.train(step, 0, 1), batch)


def test_batches_have_the_arrays_of_the_contract(data):
    for batch in (data().train(0, 0, 1), data().eval(0, 0, 1)):
        assert set(batch) == NAMES
        for name, value in batch.items():
            assert value.shape == (8, 16)
            kind = np.float32 if name in ("weights", "target_bytes") else np.int32
            assert value.dtype == kind


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_ranks_together_hold_the_global_batch(data, ranks):
    made = data()
    for batches in (made.train, made.eval):
        for step in range(made.num_eval_batches):
            whole = batches(step, 0, 1)
            parts = [batches(step, rank, ranks) for rank in range(ranks)]
            joined = {n: np.concatenate([part[n] for part in parts]) for n in whole}
            assert_equal(joined, whole)


def test_impossible_ranks_and_eval_batches_are_value_errors(data):
    made = data()
    with pytest.raises(ValueError, match="batch_size 8 is not divisible by 3 ranks"):
        made.train(0, 0, 3)
    with pytest.raises(ValueError, match="rank 2 is not below 2 ranks"):
        made.eval(0, 2, 2)
    last = made.num_eval_batches
    with pytest.raises(ValueError, match=f"eval batch {last} of {last}"):
        made.eval(last, 0, 1)


def test_an_epoch_holds_every_token_of_the_split_once(data):
    made = data()
    stream = made.train.rows.stream
    length = made.train.rows.length
    rows = [stream.tokens[i : i + length] for i in range(0, len(stream.tokens), length)]
    expected = sorted(bytes(row) for row in rows)
    for epoch in range(3):
        targets, weights = epoch_rows(made, epoch)
        found = sorted(
            bytes(row[kept > 0].astype(np.uint8))
            for row, kept in zip(targets, weights, strict=True)
        )
        assert found == expected


def test_epochs_and_seeds_differ_in_order(data):
    orders = [
        epoch_rows(data(seed=seed), epoch)[0] for seed in (0, 1) for epoch in (0, 1)
    ]
    for first, second in itertools.combinations(orders, 2):
        assert np.any(first != second)


def test_the_order_of_a_seed_is_pinned():
    # Were it to change, every resumed run would go on with other rows.
    order = epoch_order(1000, seed=0)
    places = [0, 1, 2, 3, 1000, 1001]
    assert [int(order[place]) for place in places] == [311, 969, 729, 545, 243, 359]


@pytest.mark.parametrize("num_rows", [1, 2, 3, 97])
def test_each_epoch_is_a_permutation(num_rows):
    order = epoch_order(num_rows, seed=5)
    for epoch in range(4):
        places = range(epoch * num_rows, (epoch + 1) * num_rows)
        assert sorted(int(order[place]) for place in places) == list(range(num_rows))


def test_targets_are_the_documents_and_their_ends(folder, data):
    made = data(length=10_000, batch_size=1)
    batch = made.train(0, 0, 1)
    vocab = vocabulary.from_preprocessing(made.preprocessing)
    documents = set()
    for segment in range(1, batch["segment_ids"].max() + 1):
        chosen = batch["segment_ids"][0] == segment
        inputs, targets = batch["inputs"][0][chosen], batch["targets"][0][chosen]
        np.testing.assert_array_equal(inputs[1:], targets[:-1])
        assert inputs[0] == targets[-1] == vocab.end_id
        assert batch["positions"][0][chosen].tolist() == list(range(len(targets)))
        documents.add(vocab.decode(targets))
    names = made.records(0)
    assert documents == {(folder / name).read_bytes().decode() for name in names}
    assert len(names) == batch["segment_ids"].max() > 10


def test_target_bytes_add_up_to_the_text(folder, data):
    made = data(length=10_000, batch_size=1)
    batch = made.train(0, 0, 1)
    size = sum((folder / name).stat().st_size for name in made.records(0))
    assert batch["target_bytes"].sum() == size
    assert np.all(batch["target_bytes"][batch["weights"] == 0] == 0)


def test_records_are_the_documents_with_a_target_in_the_batch(folder, data):
    made = data(length=8, batch_size=2)
    for step in range(4):
        batch = made.train(step, 0, 1)
        text = "".join(
            (folder / name).read_bytes().decode() for name in made.records(step)
        )
        for targets, weights in zip(batch["targets"], batch["weights"], strict=True):
            row = bytes(targets[weights > 0].astype(np.uint8))
            for piece in row.split(b"\0"):
                assert piece in text.encode()


def test_evaluation_covers_the_held_out_split_once_and_pads(data):
    made = data(batch_size=4)
    batches = [made.eval(step, 0, 1) for step in range(made.num_eval_batches)]
    weights = np.concatenate([batch["weights"] for batch in batches])
    targets = np.concatenate([batch["targets"] for batch in batches])
    stream = made.eval.rows.stream.tokens
    np.testing.assert_array_equal(targets[weights > 0], stream)
    assert batches[-1]["weights"].any()
    rows = math.ceil(len(stream) / 16)
    assert len(batches) == math.ceil(rows / 4) and not weights[rows:].any()


def test_fewer_eval_batches_are_rows_spread_over_the_split(data):
    whole, few = data(batch_size=2), data(batch_size=2, num_eval_batches=2)
    assert few.num_eval_batches == 2
    total = len(whole.eval.rows)
    assert few.eval.chosen.tolist() == [0, total // 4, total // 2, 3 * total // 4]
    assert data(batch_size=2, num_eval_batches=10**6).num_eval_batches == (
        whole.num_eval_batches
    )


def test_the_unigram_baseline_by_hand(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "one.txt").write_text("aab\n" + "a\n" + "abb\n")
    made = language_model_data(
        folder, length=4, batch_size=1, data_dir=tmp_path / "tfds"
    )
    # Train is the first line and its end, held out the second line and its end.
    fitted = {"a": 2 + 1, "b": 1 + 1, "\n": 1 + 1, "end": 1 + 1}
    total = 5 + 257
    bits = -sum(math.log2(fitted[symbol] / total) for symbol in ("a", "\n", "end"))
    assert made.baselines == {"unigram_bits_per_byte": pytest.approx(bits / 2)}


def test_the_unigram_baseline_is_that_of_the_rows_evaluated(data):
    made = data(batch_size=2, num_eval_batches=2)
    counts, size = np.zeros(256), 0
    for step in range(2):
        batch = made.eval(step, 0, 1)
        kept = batch["targets"][batch["weights"] > 0]
        counts += np.bincount(kept, minlength=256)
        size += np.count_nonzero(kept)
    fitted = np.bincount(made.train.rows.stream.tokens, minlength=256) + 1
    bits = -counts @ np.log2(fitted / (fitted.sum() + 1))
    assert made.baselines["unigram_bits_per_byte"] == pytest.approx(bits / size)


def test_the_baseline_of_bytes_does_not_depend_on_the_vocabulary(data):
    pieces = data(vocabulary="sentencepiece", vocab_size=300).baselines
    assert pieces == {k: pytest.approx(v) for k, v in data().baselines.items()}


def test_a_sentencepiece_run_is_rebuilt_from_its_preprocessing(folder, data):
    made = data(length=10_000, batch_size=1, vocabulary="sentencepiece", vocab_size=300)
    batch = made.train(0, 0, 1)
    size = sum((folder / name).stat().st_size for name in made.records(0))
    assert batch["target_bytes"].sum() == size > batch["weights"].sum()
    stored = json.loads(json.dumps(made.preprocessing))
    vocab = vocabulary.from_preprocessing(stored)
    assert vocab.vocab_size == 300
    text = vocab.decode(batch["targets"][0][batch["segment_ids"][0] == 1])
    assert text == (folder / made.records(0)[0]).read_bytes().decode()
    # The model, as an object, gives the same tokens; it is not trained again.
    again = data(length=10_000, batch_size=1, vocabulary=vocab, vocab_size=300)
    assert_equal(again.train(0, 0, 1), batch)


def test_a_model_file_is_a_vocabulary(data, tmp_path):
    made = data(vocabulary="sentencepiece", vocab_size=300)
    (file,) = (tmp_path / "tfds").rglob("sentencepiece.model")
    assert_equal(data(vocabulary=str(file)).train(0, 0, 1), made.train(0, 0, 1))
    with pytest.raises(
        ConfigError, match="vocab_size is 256, .* vocabulary has 300 ids"
    ):
        data(vocabulary=str(file), vocab_size=256)
    with pytest.raises(
        ConfigError, match="vocabulary 'words': No such file .* is \"byte"
    ):
        data(vocabulary="words")


def test_data_pickles_and_is_small(data):
    made = data()
    stored = pickle.dumps(made)
    assert len(stored) < 10_000 + 4 * 256
    again = pickle.loads(stored)
    assert_equal(again.train(5, 1, 2), made.train(5, 1, 2))
    assert_equal(again.eval(0, 0, 1), made.eval(0, 0, 1))
    assert again.records(5) == made.records(5)


def test_threads_read_the_same_batches(data):
    made = data()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda step: made.train(step % 5, 0, 1), range(40)))
    for step, batch in enumerate(found):
        assert_equal(batch, found[step % 5])


def test_a_changed_folder_gives_other_batches(folder, data):
    before = data().train(0, 0, 1)
    for file in folder.glob("*.md"):
        file.write_text("nothing but this\n")
    after = data().train(0, 0, 1)
    assert np.any(before["targets"] != after["targets"])


def test_impossible_arguments_are_found_together_without_reading(tmp_path):
    errors = argument_errors(
        length=0, batch_size=-1, num_eval_batches=0, vocab_size=512, on_bad_record="x"
    )
    assert errors == [
        "length is 0, not at least 1",
        "batch_size is -1, not at least 1",
        "num_eval_batches is 0, not at least 1",
        "vocab_size is 512, but there are 256 bytes",
        'on_bad_record is \'x\', not "stop" or "skip"',
    ]
    assert argument_errors(length=8, batch_size=4, vocabulary="sentencepiece") == [
        'vocabulary "sentencepiece" needs a vocab_size'
    ]
    with pytest.raises(
        ConfigError, match="^length is 0, not at least 1; batch_size is"
    ):
        language_model_data("/nowhere", length=0, batch_size=0)


MAKE = """
import pathlib, sys, time
from jaxmodels.data.language import language_model_data
from jaxmodels.data import vocabulary
folder, data_dir, name = sys.argv[1:]
pathlib.Path(data_dir, name).touch()
while len(list(pathlib.Path(data_dir).glob("ready-*"))) < 3:
    time.sleep(0.001)
data = language_model_data(
    folder, length=16, batch_size=8, data_dir=data_dir + "/tfds",
    vocabulary="sentencepiece", vocab_size=300,
)
print(data.train(3, 0, 1)["targets"].sum(), vocabulary.digest(
    vocabulary.from_preprocessing(data.preprocessing)))
"""


def test_processes_that_start_together_build_one_data_set(folder, tmp_path):
    command = [sys.executable, "-W", "error", "-c", MAKE, str(folder), str(tmp_path)]
    processes = [
        subprocess.Popen(
            [*command, f"ready-{i}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(3)
    ]
    results = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], results
    assert len({out for out, _ in results}) == 1
    found = [path.name for path in (tmp_path / "tfds").rglob("*")]
    assert len([name for name in found if name == "tokens.bin"]) == 2
    assert not [name for name in found if "building" in name or "incomplete" in name]
