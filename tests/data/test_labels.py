import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaxmodels.data import builder, label_records, listops
from jaxmodels.data.label_records import label_of
from jaxmodels.data.labels import label_data
from jaxmodels.data.records import BadRecordError
from jaxmodels.data.vocabulary import ByteVocabulary
from jaxmodels.train.errors import ConfigError, StorageError

SMALL = dict(
    max_depth=3, max_args=3, min_tokens=4, max_tokens=12, num_train=40, num_held_out=10
)
REVIEWS = [("good " * (i % 4 + 1) + str(i), i % 3 == 0) for i in range(12)]


@pytest.fixture
def expressions(tmp_path):
    """Makes data of a few ListOps expressions."""

    def make(length=13, batch_size=8, **options):
        options = {"vocabulary": "listops", "listops": SMALL, **options}
        return label_data(
            "listops",
            length=length,
            batch_size=batch_size,
            data_dir=tmp_path,
            **options,
        )

    return make


@pytest.fixture
def reviews(tmp_path, monkeypatch):
    """Makes data of a prepared TFDS data set with the fields of imdb_reviews."""

    def make(entries=REVIEWS, **options):
        class Reviews(builder.ArrayRecordBuilder):
            name = "imdb_reviews"
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                features = {
                    "text": tfds.features.Text(),
                    "label": tfds.features.ClassLabel(names=["neg", "pos"]),
                    "stars": np.int64,
                }
                return builder.LocalInfo(
                    builder=self,
                    features=tfds.features.FeaturesDict(features),
                    disable_shuffling=True,
                )

            def _split_generators(self, dl_manager):
                held_out = [("bad film", 0), ("good film", 1), ("good", 1)]
                splits = {"train": entries, "test": held_out}
                return {s: self._generate_examples(e) for s, e in splits.items()}

            def _generate_examples(self, entries):
                for i, (text, label) in enumerate(entries):
                    yield i, {"text": text, "label": int(label), "stars": 5 * label}

        config = tfds.core.BuilderConfig(name="plain_text", version="1.0.0")
        builder.prepare(Reviews, config, tmp_path)
        options = {"eval_split": "test", "data_dir": tmp_path, **options}
        return label_data("imdb_reviews", length=12, batch_size=4, **options)

    return make


def read(data, which="train"):
    """All examples of an epoch as (ids, target), sorted."""
    vocab = listops.listops_vocabulary()
    found = []
    batches = range(data.num_eval_batches if which == "eval" else 5)
    for step in batches:
        batch = getattr(data, which)(step, 0, 1)
        for ids, mask, target, weight in zip(
            batch["inputs"],
            batch["mask"],
            batch["targets"],
            batch["weights"],
            strict=True,
        ):
            if weight:
                found.append((vocab.decode(ids[mask]), int(target)))
    return sorted(found)


def test_an_epoch_holds_every_expression_once_with_its_value(expressions):
    data = expressions()
    found = read(data)
    assert len({text for text, _ in found}) == len(found) == 40
    assert all(listops.evaluate(text) == target for text, target in found)
    held_out = read(data, "eval")
    assert len(held_out) == 10 and not set(held_out) & set(found)


def test_a_row_is_the_end_id_the_text_and_padding(expressions):
    batch = expressions().train(0, 0, 1)
    ids, mask = batch["inputs"], batch["mask"]
    assert ids.dtype == batch["targets"].dtype == np.int32
    assert (ids[:, 0] == 0).all() and mask[:, 0].all()
    np.testing.assert_array_equal(mask[:, 1:], ids[:, 1:] > 0)
    assert (np.diff(mask.astype(int), axis=1) <= 0).all()


def test_of_a_longer_text_the_beginning_is_kept_and_counted(expressions, caplog):
    whole, cut = expressions().train(0, 0, 1), expressions(length=6).train(0, 0, 1)
    np.testing.assert_array_equal(cut["inputs"], whole["inputs"][:, :6])
    np.testing.assert_array_equal(cut["mask"], whole["mask"][:, :6])
    texts = [text for text, _ in read(expressions())]
    long = sum(len(text.split()) > 5 for text in texts)
    assert f"{long} of 40 texts have more than 5 tokens" in caplog.text
    assert "than 12 tokens" not in caplog.text


def test_the_last_eval_batch_is_padded_with_rows_without_weight(expressions):
    data = expressions()
    assert data.num_eval_batches == 2
    batch = data.eval(1, 0, 1)
    assert batch["weights"].tolist() == [1.0, 1.0] + 6 * [0.0]
    assert batch["mask"][2:].sum() == 6 and not batch["inputs"][2:].any()


def test_ranks_hold_slices_of_the_global_batch(expressions):
    data = expressions()
    whole = data.train(3, 0, 1)
    halves = [data.train(3, rank, 2) for rank in range(2)]
    for name, values in whole.items():
        both = np.concatenate([half[name] for half in halves])
        np.testing.assert_array_equal(both, values)


def test_data_pickles_and_a_second_call_gives_the_same(expressions):
    data = expressions()
    first = data.train(2, 0, 1)
    for again in (expressions(), pickle.loads(pickle.dumps(data))):
        for name, values in again.train(2, 0, 1).items():
            np.testing.assert_array_equal(values, first[name])
    assert len(data.records(2)) == 8 and "train[" in data.records(2)[0]


def test_preprocessing_says_all_that_a_text_needs(expressions):
    made = expressions().preprocessing
    assert made["kind"] == "labels" and made["labels"] == list("0123456789")
    assert (made["text_field"], made["label_field"]) == ("text", "label")
    assert made["length"] == 13 and made["vocabulary"]["kind"] == "words"
    assert made["splits"] == {"train": "train", "eval": "validation"}


def test_preprocessing_makes_the_same_expressions_again(expressions, reviews):
    data = expressions()
    stored = json.loads(json.dumps(data.preprocessing))
    again = expressions(listops=stored["listops"])
    assert again.preprocessing == data.preprocessing
    np.testing.assert_array_equal(
        again.train(0, 0, 1)["inputs"], data.train(0, 0, 1)["inputs"]
    )
    assert reviews().preprocessing["listops"] is None


def test_the_baseline_is_the_most_common_label_of_the_train_split(reviews):
    # 8 of 12 train labels are "neg"; 1 of 3 held-out ones is.
    assert reviews().baselines == {"majority_accuracy": pytest.approx(1 / 3)}


def test_classes_of_tfds_keep_their_names_and_numbers(reviews):
    data = reviews()
    assert data.preprocessing["labels"] == ["neg", "pos"]
    batch = data.eval(0, 0, 1)
    assert batch["targets"].tolist() == [0, 1, 1, 0]
    text = ByteVocabulary().decode(batch["inputs"][0])
    assert text == "bad film"


def test_whole_numbers_are_labels_in_their_order(reviews):
    data = reviews(label_field="stars")
    assert data.preprocessing["labels"] == ["0", "5"]
    assert data.eval(0, 0, 1)["targets"].tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("suffix", ["tsv", "jsonl"])
def test_files_of_ones_own_have_the_labels_of_their_train_split(tmp_path, suffix):
    for split, names in (("train", "zebra ant cat"), ("validation", "cat ant")):
        rows = [(f"a text on {name}", name) for name in names.split()]
        lines = ["text\tlabel", *map("\t".join, rows)]
        if suffix == "jsonl":
            lines = [f'{{"text": "{text}", "label": "{n}"}}' for text, n in rows]
        (tmp_path / f"{split}.{suffix}").write_text("\n".join(lines))
    data = label_data(str(tmp_path), length=20, batch_size=2, data_dir=tmp_path / "d")
    assert data.preprocessing["labels"] == ["ant", "cat", "zebra"]
    assert sorted(data.eval(0, 0, 1)["targets"].tolist()) == [0, 1]


def test_a_label_that_was_never_trained_on_is_a_bad_record(tmp_path):
    train = "text\tlabel\nx\ta\ny\tb\n"
    (tmp_path / "train.tsv").write_text(train)
    (tmp_path / "validation.tsv").write_text(train + "z\tc\n")

    def make(**policy):
        return label_data(
            str(tmp_path),
            length=20,
            batch_size=3,
            data_dir=tmp_path / "d",
            **policy,
        )

    with pytest.raises(BadRecordError, match="record .*: the label 'c' is none of"):
        make()
    data = make(on_bad_record="skip", max_bad_fraction=0.5)
    assert data.eval(0, 0, 1)["weights"].sum() == 2


def test_a_bad_label_of_the_train_split_is_held_to_the_policy(tmp_path):
    (tmp_path / "train.tsv").write_text("text\tlabel\nx\ta\ny\tb\nz\t\n")

    def make(**policy):
        return label_data(
            str(tmp_path),
            length=20,
            batch_size=2,
            eval_split="train",
            data_dir=tmp_path / "d",
            **policy,
        )

    with pytest.raises(BadRecordError, match="record .*: an empty label; remove it or"):
        make()
    with pytest.raises(BadRecordError, match="with it 1 of 3 records are bad, more"):
        make(on_bad_record="skip", max_bad_fraction=0.2)
    data = make(on_bad_record="skip", max_bad_fraction=0.5)
    assert data.preprocessing["labels"] == ["a", "b"]


def test_records_that_cannot_be_read_are_no_labels_and_are_not_swallowed(tmp_path):
    class Broken:
        identity = "broken"

        def __len__(self):
            return 3

        def __getitem__(self, index):
            raise OSError("the disk is gone")

        def __getitems__(self, indexes):
            raise OSError("the disk is gone")

        def where(self, index):
            return f"record {index}"

    info = SimpleNamespace(features={"label": tfds.features.Text()}, full_name="x")
    with pytest.raises(BadRecordError, match="record 0: the disk is gone"):
        label_records.label_names(
            SimpleNamespace(info=info),
            Broken(),
            "label",
            tmp_path,
            {"on_bad_record": "stop"},
        )
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


@pytest.mark.parametrize(
    "label, message",
    [(1.5, "neither text nor whole"), (b"", "an empty label"), ([1, 2], "neither")],
)
def test_what_is_no_label_is_a_value_error(label, message):
    with pytest.raises(ValueError, match=message):
        label_of({"label": label}, "label")


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(num_classes=2), "num_classes is 2, but listops/.* has 10 labels: 0, 1"),
        (dict(vocab_size=9), "vocab_size is 9, but ListOps has 16 ids"),
        (dict(label_field="lable"), "label_field is 'lable'; .* fields label, text"),
        (dict(text_field="label"), "text_field is 'label'; .* has the texts text"),
        (dict(length=1), "length is 1, and the end id"),
        (dict(batch_size=0), "batch_size is 0, not at least 1"),
        (dict(listops=dict(max_depth=1)), "listops: max_depth 1 must be at least 2"),
        (dict(listops=dict(depth=1)), "listops: .*unexpected keyword argument 'depth'"),
        (dict(vocabulary="sentencepiece"), "needs a vocab_size"),
    ],
)
def test_an_impossible_argument_is_a_config_error(expressions, options, message):
    with pytest.raises(ConfigError, match=message):
        expressions(**options)


def test_damaged_labels_are_a_storage_error(expressions, tmp_path):
    expressions()
    for path in tmp_path.rglob("labels.npy"):
        path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(StorageError, match="-labels is damaged .* delete it"):
        expressions()


def test_one_label_alone_is_a_config_error(tmp_path):
    (tmp_path / "train.tsv").write_text("text\tlabel\nx\ta\ny\ta\n")
    with pytest.raises(ConfigError, match="has 1 different labels in 'label': a"):
        label_data(str(tmp_path), length=9, batch_size=2, eval_split="train")
