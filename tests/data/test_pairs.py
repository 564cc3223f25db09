import json
import logging
import pickle

import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaxmodels.data import builder, pairs, text, vocabulary
from jaxmodels.train.errors import ConfigError

LINES = [(f"wort {n}", f"the word {n}") for n in range(60)]
TYPES = {"source": "int32", "source_mask": "bool", "inputs": "int32"} | {
    "targets": "int32",
    "weights": "float32",
    "target_bytes": "float32",
}


class Translated(builder.ArrayRecordBuilder):
    """Given pairs in two splits, as the translations of TFDS are stored."""

    VERSION = tfds.core.Version("1.0.0")
    name = "translated"
    pairs: tuple = ()

    def _info(self):
        features = tfds.features.Translation(languages=("de", "en"))
        return builder.LocalInfo(
            builder=self, features=features, disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples() for split in text.SPLITS[:2]}

    def _generate_examples(self):
        for number, (source, target) in enumerate(self.pairs):
            yield number, {"de": source, "en": target}


@pytest.fixture
def translated(tmp_path):
    """Makes data of given pairs; arguments as of `pair_data`."""

    def make(lines=LINES, **options):
        made = type("Translated", (Translated,), {"pairs": lines, "name": "translated"})
        config = tfds.core.BuilderConfig(name="de_en", version="1.0.0")
        builder.prepare(made, config, tmp_path / "tfds")
        sizes = {"source_length": 12, "target_length": 16, "batch_size": 4}
        fields = {"source_field": "de", "target_field": "en"}
        options = sizes | fields | {"data_dir": tmp_path / "tfds"} | options
        return pairs.pair_data("translated/de_en", **options)

    return make


def decoded(ids, weights):
    return bytes(ids[weights > 0].astype(np.uint8)).decode()


def rows_of(batch):
    """(source, target with NUL for its end) of every row that is no padding."""
    rows = zip(
        *(batch[name] for name in ("source", "source_mask", "targets", "weights")),
        strict=True,
    )
    return [(decoded(s, m), decoded(t, w)) for s, m, t, w in rows if w.any()]


def test_a_batch_has_the_arrays_of_the_contract(translated):
    made = translated()
    for batch in (made.train(0, 0, 1), made.eval(0, 0, 1)):
        assert {name: str(value.dtype) for name, value in batch.items()} == TYPES
        for name, value in batch.items():
            assert value.shape == (4, 12 if name.startswith("source") else 16)


def test_the_decoder_reads_the_target_behind_the_end_and_predicts_its_end(translated):
    batch = translated().eval(0, 0, 1)
    assert rows_of(batch) == [(s, t + "\0") for s, t in LINES[:4]]
    lengths = batch["weights"].sum(1).astype(int)
    for inputs, targets, length in zip(
        batch["inputs"], batch["targets"], lengths, strict=True
    ):
        assert inputs[0] == 0 and targets[length - 1] == 0
        np.testing.assert_array_equal(inputs[1:length], targets[: length - 1])
        assert not inputs[length:].any() and not targets[length:].any()


def test_an_epoch_holds_every_pair_once_on_any_number_of_ranks(translated):
    made = translated()
    found = []
    for step in range(15):
        whole = made.train(step, 0, 1)
        halves = [made.train(step, rank, 2) for rank in (0, 1)]
        for name, value in whole.items():
            joined = np.concatenate([half[name] for half in halves])
            np.testing.assert_array_equal(joined, value)
        found += rows_of(whole)
    assert sorted(found) == sorted((s, t + "\0") for s, t in LINES)


def test_evaluation_ends_with_rows_without_weight(translated):
    made = translated(batch_size=16)
    last = made.eval(made.num_eval_batches - 1, 0, 1)
    assert len(rows_of(last)) == 60 % 16
    assert not last["source_mask"][60 % 16 :].any()


def test_long_texts_are_cut_stated_and_counted(translated, caplog):
    lines = [("a" * 5, "b" * 5), ("c" * 9, "d" * 4), ("e" * 4, "f" * 9)]
    with caplog.at_level(logging.WARNING):
        made = translated(lines, source_length=5, target_length=6, batch_size=3)
    rows = rows_of(made.eval(0, 0, 1))
    assert rows == [("aaaaa", "bbbbb\0"), ("ccccc", "dddd\0"), ("eeee", "ffffff")]
    counts = {"source": 1, "target": 1, "pairs": 3}
    assert made.preprocessing["truncated"] == {"train": counts, "eval": counts}
    assert "1 of 3 sources have more than 5 tokens, the rest is cut off" in caplog.text
    assert "1 of 3 targets have more than 5 tokens, the rest is cut off" in caplog.text


def test_a_record_that_is_bad_on_one_side_leaves_the_others_together(translated):
    lines = list(LINES)
    lines[3], lines[7] = ("", "no source"), ("no target", "")
    made = translated(lines, on_bad_record="skip", max_bad_fraction=0.05, batch_size=58)
    good = [pair for pair in lines if all(pair)]
    assert rows_of(made.eval(0, 0, 1)) == [(s, t + "\0") for s, t in good]
    assert made.train.rows.names(3) == ["translated/de_en/1.0.0 train[4]"]
    with pytest.raises(ConfigError, match="empty text; remove it or set on_bad_record"):
        translated(lines)
    # One of 60 on each side is little enough, two of 60 together are not.
    with pytest.raises(ConfigError, match="with it 2 of 60 records are bad, more than"):
        translated(lines, on_bad_record="skip", max_bad_fraction=0.02)


def test_data_without_a_good_pair_is_one_line(translated):
    with pytest.raises(ConfigError, match="train holds no pair of two good texts"):
        translated([("a", ""), ("", "b")], on_bad_record="skip", max_bad_fraction=1.0)


def test_target_bytes_count_the_text_without_its_end(translated):
    batch = translated().eval(0, 0, 1)
    expected = [len(target) for _, target in LINES[:4]]
    assert batch["target_bytes"].sum(1).tolist() == expected


def test_the_unigram_baseline_by_hand(translated):
    made = translated([("x", "ab"), ("y", "aa")], target_length=8, batch_size=2)
    fitted = {"a": 3 + 1, "b": 1 + 1, "end": 2 + 1}
    total = 6 + 257
    bits = -sum(np.log2(fitted[s] / total) for s in ("a", "b", "end", "a", "a", "end"))
    assert made.baselines == {"unigram_bits_per_byte": pytest.approx(bits / 4)}


def test_one_vocabulary_of_pieces_is_trained_on_both_sides(translated):
    options = {"vocabulary": "sentencepiece", "vocab_size": 286}
    made = translated(**options)
    stored = json.loads(json.dumps(made.preprocessing))
    assert stored["kind"] == "pairs" and stored["source_vocabulary"] is None
    vocab = vocabulary.from_preprocessing(stored)
    for name in ("wort", "word"):
        assert len(vocab.encode(name)) < 4
    batch = made.eval(0, 0, 1)
    assert vocab.decode(batch["source"][0][batch["source_mask"][0]]) == LINES[0][0]
    assert vocab.decode(batch["targets"][0][batch["weights"][0] > 0]) == LINES[0][1]


def test_each_side_may_have_a_vocabulary_of_its_own(translated):
    made = translated(
        source_vocabulary="sentencepiece", source_vocab_size=277, vocabulary="bytes"
    )
    stored = made.preprocessing
    own = {"vocabulary": stored["source_vocabulary"]}
    source = vocabulary.from_preprocessing(own)
    assert source.vocab_size == 277
    batch = made.eval(0, 0, 1)
    assert source.decode(batch["source"][0][batch["source_mask"][0]]) == LINES[0][0]
    assert rows_of(batch)[0][1] == LINES[0][1] + "\0"


def test_files_of_rows_are_pairs(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    for split in text.SPLITS:
        lines = [json.dumps({"q": f"{split} {n}", "a": str(n)}) for n in range(3)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    made = pairs.pair_data(
        folder,
        source_length=16,
        target_length=4,
        batch_size=3,
        source_field="q",
        target_field="a",
        data_dir=tmp_path / "tfds",
    )
    rows = sorted(rows_of(made.eval(0, 0, 1)))
    assert rows == [(f"validation {n}", f"{n}\0") for n in range(3)]


def test_equal_sources_of_a_single_file_share_a_split(tmp_path):
    lines = ["b\ta"] + [f"{n % 7}\tq {n % 60}" for n in range(240)]
    (tmp_path / "mine.tsv").write_text("\n".join(lines))
    made = pairs.pair_data(
        tmp_path / "mine.tsv",
        source_length=8,
        target_length=8,
        batch_size=4,
        source_field="a",
        target_field="b",
        data_dir=tmp_path / "tfds",
    )
    held_out, train = (
        {tuple(part.rows.ids("source", row).tolist()) for row in range(len(part.rows))}
        for part in (made.eval, made.train)
    )
    assert train and held_out and not train & held_out


def test_generated_pairs_are_data(tmp_path, monkeypatch):
    prepare = pairs.generated.prepare
    monkeypatch.setattr(
        pairs.generated, "prepare", lambda *args: prepare(*args, num_pairs=200)
    )
    made = pairs.pair_data(
        "reverse/6",
        source_length=6,
        target_length=7,
        batch_size=4,
        data_dir=tmp_path,
    )
    for source, target in rows_of(made.train(0, 0, 1)):
        assert target == source[::-1] + "\0"
    counts = made.preprocessing["truncated"]["train"]
    assert counts == {"source": 0, "target": 0, "pairs": len(made.train.rows)}


def test_data_pickles_and_is_small(translated):
    made = translated()
    made.train(0, 0, 1)
    stored = pickle.dumps(made)
    assert len(stored) < 10_000
    again = pickle.loads(stored)
    for name, value in made.train(5, 1, 2).items():
        np.testing.assert_array_equal(again.train(5, 1, 2)[name], value)


def test_fields_that_are_no_texts_are_one_line(translated):
    with pytest.raises(ConfigError, match="source_field is 'fr'; .* the texts de, en"):
        translated(source_field="fr")
    with pytest.raises(ConfigError, match="target_field is 'x'; .* the texts de, en"):
        translated(target_field="x")


def test_impossible_arguments_are_found_together_without_reading():
    errors = pairs.argument_errors(
        source_length=0,
        target_length=-1,
        batch_size=4,
        vocab_size=300,
        source_vocab_size=256,
    )
    assert errors == [
        "source_length is 0, not at least 1",
        "target_length is -1, not at least 1",
        "vocab_size is 300, but there are 256 bytes",
        "source_vocab_size is 256, but source_vocabulary is None: one vocabulary is on"
        " both sides",
    ]
    assert pairs.argument_errors(
        source_length=1,
        target_length=1,
        batch_size=1,
        source_vocabulary="sentencepiece",
    ) == ['the source\'s vocabulary "sentencepiece" needs a vocab_size']
    with pytest.raises(ConfigError, match="^source_length is 0, not at least 1$"):
        pairs.pair_data("/nowhere", source_length=0, target_length=1, batch_size=1)
