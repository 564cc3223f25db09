import itertools
import random
import statistics

import pytest

from jaxmodels.data import builder, listops
from jaxmodels.data.listops import ListOps, evaluate
from jaxmodels.train.errors import ConfigError

SMALL = ListOps(
    max_depth=3, max_args=3, min_tokens=4, max_tokens=12, num_train=40, num_held_out=10
)


def parse(tokens):
    """The tree of an expression: a digit, or [operator, argument, ...]."""
    token = tokens.pop(0)
    if token.isdigit():
        return int(token)
    node = [token]
    while tokens[0] != "]":
        node.append(parse(tokens))
    tokens.pop(0)
    return node


def value(tree):
    """The value of a tree, by recursion over the definition of the operators."""
    if isinstance(tree, int):
        return tree
    operator, *arguments = [tree[0], *map(value, tree[1:])]
    if operator == "[MED":
        return int(statistics.median(arguments))
    return {"[MIN": min, "[MAX": max, "[SM": lambda x: sum(x) % 10}[operator](arguments)


def depth(tree):
    return 1 if isinstance(tree, int) else 1 + max(map(depth, tree[1:]))


def widths(tree):
    if not isinstance(tree, int):
        yield len(tree) - 1
        for argument in tree[1:]:
            yield from widths(argument)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("7", 7),
        ("[MAX 2 9 [MIN 4 7 ] 0 ]", 9),
        ("[MIN 3 [MAX 1 2 ] 8 ]", 2),
        ("[MED 1 4 ]", 2),
        ("[MED 9 3 5 ]", 5),
        ("[MED 1 9 3 4 ]", 3),
        ("[SM 9 9 [SM 4 8 ] ]", 0),
    ],
)
def test_values_by_hand(text, expected):
    assert evaluate(text) == expected


def test_drawn_values_follow_the_definition():
    texts = list(itertools.islice(listops.expressions(ListOps(num_train=1)), 5))
    texts += list(itertools.islice(listops.expressions(SMALL), 200))
    for text in texts:
        assert evaluate(text) == value(parse(text.split()))


@pytest.mark.parametrize("text", ["", "[MAX 1 2", "[MAX ]", "1 2", "] 1", "[MAX x ]"])
def test_what_is_no_expression_is_a_value_error(text):
    with pytest.raises(ValueError, match="ListOps"):
        evaluate(text)


def test_drawn_expressions_keep_to_every_bound_and_reach_it():
    texts = list(itertools.islice(listops.expressions(SMALL), 2000))
    lengths = {len(text.split()) for text in texts}
    trees = [parse(text.split()) for text in texts]
    assert (min(lengths), max(lengths)) == (SMALL.min_tokens, SMALL.max_tokens)
    assert max(map(depth, trees)) == SMALL.max_depth
    assert set(itertools.chain(*map(widths, trees))) == {2, 3}
    assert {tree[0] for tree in trees} == set(listops.OPERATORS)
    assert len(set(texts)) == len(texts)


def test_a_quarter_of_the_nodes_above_the_greatest_depth_are_operators():
    spec = ListOps(max_depth=2, max_args=2, min_tokens=1, max_tokens=4)
    rng = random.Random(0)
    drawn = [listops.draw(rng, spec) for _ in range(4000)]
    assert sum(len(tokens) > 1 for tokens in drawn) / 4000 == pytest.approx(
        0.25, abs=0.02
    )


def test_an_expression_that_grows_too_long_is_thrown_away():
    spec = ListOps(max_depth=2, max_args=9, min_tokens=1, max_tokens=6)
    rng = random.Random(0)
    drawn = [listops.draw(rng, spec) for _ in range(500)]
    assert None in drawn
    assert max(len(tokens) for tokens in drawn if tokens) == 6


def test_the_draw_of_a_seed_never_changes():
    # Pinned: another draw would be another data set under the same name.
    first = list(itertools.islice(listops.expressions(SMALL), 3))
    assert first == [
        "[SM [SM 1 5 ] [SM 4 0 3 ] ]",
        "[MED 8 9 5 ]",
        "[MED 0 8 8 ]",
    ]


def test_the_default_is_that_of_the_long_range_arena():
    text = next(listops.expressions(ListOps()))
    assert 500 < len(text.split()) < 2000
    ids = listops.listops_vocabulary().encode(text)
    assert len(ids) == len(text.split()) and ids.min() > 0


def test_lengths_that_leave_nothing_are_a_config_error():
    spec = ListOps(max_depth=2, max_args=2, min_tokens=4, max_tokens=4)
    with pytest.raises(ConfigError, match="besides 400 of 4 to 4 tokens; widen"):
        list(listops.expressions(spec))


def test_fields_out_of_range_are_one_line_each():
    with pytest.raises(ValueError) as caught:
        ListOps(max_depth=1, max_args=101, max_tokens=3)
    assert str(caught.value).splitlines() == [
        "max_depth 1 must be at least 2",
        "max_args 101 must be at most 100",
        "max_tokens 3 must be at least min_tokens 501",
    ]


def test_the_data_set_holds_each_expression_once_with_its_value(tmp_path):
    prepared = listops.prepare_listops(SMALL, tmp_path)
    texts = []
    for split, size in (("train", 40), ("validation", 10), ("test", 10)):
        records = builder.RecordFiles(prepared, split)
        assert len(records) == size
        for index in range(size):
            text = records[index]["text"].decode()
            assert records[index]["label"] == evaluate(text)
            texts.append(text)
    assert texts == list(itertools.islice(listops.expressions(SMALL), 60))


def test_another_seed_is_another_data_set(tmp_path):
    other = ListOps(**{**SMALL.__dict__, "seed": 1})
    first, second = (
        listops.prepare_listops(spec, tmp_path).info.full_name
        for spec in (SMALL, other)
    )
    assert first != second
