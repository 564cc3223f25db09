import pytest

from jaxmodels.data import builder, generated, text
from jaxmodels.train.errors import ConfigError


def read(prepared, split):
    records = builder.RecordFiles(prepared, split)
    pairs = [records[index] for index in range(len(records))]
    return [(pair["source"].decode(), pair["target"].decode()) for pair in pairs]


@pytest.mark.parametrize(
    "number, words",
    [
        (0, "zero"),
        (7, "seven"),
        (13, "thirteen"),
        (20, "twenty"),
        (42, "forty-two"),
        (100, "one hundred"),
        (118, "one hundred eighteen"),
        (1_000, "one thousand"),
        (90_005, "ninety thousand five"),
        (1_000_000, "one million"),
        (
            21_300_456,
            "twenty-one million three hundred thousand four hundred fifty-six",
        ),
        (5_000_000_010, "five billion ten"),
    ],
)
def test_numbers_have_their_english_words(number, words):
    assert generated.number_to_words(number) == words


def test_a_number_beyond_the_words_is_a_value_error():
    with pytest.raises(ValueError, match="1000000000000 is not between 0 and 9999999"):
        generated.number_to_words(10**12)
    with pytest.raises(ValueError, match="-1 is not between"):
        generated.number_to_words(-1)


def test_all_words_of_different_numbers_differ():
    words = [generated.number_to_words(number) for number in range(2000)]
    assert len(set(words)) == 2000


@pytest.mark.parametrize(
    "name, solve",
    [
        ("copy", lambda source: source),
        ("reverse", lambda source: "".join(reversed(source))),
        ("number_to_words", lambda source: generated.number_to_words(int(source))),
    ],
)
def test_splits_are_disjoint_and_hold_every_pair_once(name, solve, tmp_path):
    prepared = generated.prepare(name, tmp_path, num_pairs=400)
    splits = {split: read(prepared, split) for split in text.SPLITS}
    sources = [source for pairs in splits.values() for source, _ in pairs]
    assert len(set(sources)) == len(sources) == 400
    assert len(splits["train"]) > 320 and splits["test"] and splits["validation"]
    for pairs in splits.values():
        assert all(target == solve(source) for source, target in pairs)


def test_the_same_seed_draws_the_same_pairs_and_another_seed_others(tmp_path):
    first, again, other = (
        read(generated.prepare("copy/8", tmp_path / folder, 50, seed), "train")
        for folder, seed in (("a", 0), ("b", 0), ("a", 1))
    )
    assert first == again != other


def test_sources_have_all_lengths_up_to_the_one_that_is_named():
    for name, most in (("reverse", 5), ("number_to_words", 3)):
        lengths = [len(s) for s in generated.draw_sources(name, most, 300)]
        assert set(lengths) == set(range(1, most + 1))
    numbers = generated.draw_sources("number_to_words", 1, 1000)
    assert sorted(numbers) == list("0123456789")


@pytest.mark.parametrize("name", ["copy/0", "reverse/x", "copy/9999", "copy/-1"])
def test_an_impossible_number_of_symbols_is_one_line(name, tmp_path):
    with pytest.raises(ConfigError, match="no number of symbols between 1 and 4096; w"):
        generated.prepare(name, tmp_path)
