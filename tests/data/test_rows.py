import json

import pytest

from jaxmodels.data import builder, rows, text
from jaxmodels.train.errors import ConfigError

ROWS = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(60)]


def write_tsv(path, table, columns=("text", "label")):
    lines = ["\t".join(columns)]
    lines += ["\t".join(row[column] for column in columns) for row in table]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_jsonl(path, table):
    path.write_text("".join(json.dumps(row) + "\n" for row in table))
    return path


def rows_of(prepared):
    """split -> set of (text, label) in a data set."""
    found = {}
    for split in prepared.info.splits:
        records = builder.RecordFiles(prepared, split)
        found[split] = {
            (records[i]["text"].decode(), records[i]["label"].decode())
            for i in range(len(records))
        }
    return found


@pytest.mark.parametrize(
    "write, name", [(write_tsv, "a.tsv"), (write_jsonl, "a.jsonl")]
)
def test_a_file_becomes_three_disjoint_splits_of_all_its_rows(tmp_path, write, name):
    source = rows.row_files(write(tmp_path / name, ROWS))
    assert source.columns == ("text", "label")
    found = rows_of(rows.prepare_rows(source, tmp_path / "tfds"))
    assert set(found) == set(text.SPLITS) and all(found.values())
    everything = [row for split in found.values() for row in split]
    assert sorted(everything) == sorted((r["text"], r["label"]) for r in ROWS)


def splits(path, split_by=None):
    """split -> rows of a file."""
    source = rows.row_files(path, split_by)
    return {split: list(source.rows(split)) for split in text.SPLITS}


def test_rows_stay_in_their_split_whatever_is_added(tmp_path):
    before = splits(write_tsv(tmp_path / "a.tsv", ROWS))
    after = splits(
        write_tsv(tmp_path / "b.tsv", [*ROWS[::-1], {**ROWS[0], "text": ""}])
    )
    for split in text.SPLITS:
        assert all(row in after[split] for row in before[split])


@pytest.mark.parametrize("split_by", [None, "text", "label"])
def test_equal_inputs_share_a_split_whatever_their_labels(tmp_path, split_by):
    field = split_by or "text"
    other = {"text": "label", "label": "text"}[field]
    table = [{field: row["text"], other: row["label"]} for row in ROWS]
    table += [{field: row["text"], other: "another"} for row in ROWS]
    columns = ("label", "text") if split_by else ("text", "label")
    held = splits(write_tsv(tmp_path / "a.tsv", table, columns), split_by)
    inputs = [{row[field] for row in held[split]} for split in text.SPLITS]
    assert all(inputs) and sum(map(len, inputs)) == len(set.union(*inputs)) == len(ROWS)
    assert sum(map(len, held.values())) == 2 * len(ROWS)


def test_a_file_split_by_another_field_is_another_data_set(tmp_path):
    path = write_tsv(tmp_path / "a.tsv", ROWS)
    first, other = (rows.row_files(path, field) for field in ("text", "label"))
    assert first.digest != other.digest
    write_tsv(tmp_path / "train.tsv", ROWS)
    path.unlink()
    first, other = (rows.row_files(tmp_path, field) for field in ("text", "label"))
    assert first.digest == other.digest


def test_a_field_to_split_by_that_is_not_there_is_a_config_error(tmp_path):
    path = write_tsv(tmp_path / "a.tsv", ROWS)
    with pytest.raises(ConfigError, match="has no field 'txt'; it has text, label"):
        rows.row_files(path, "txt")


def test_a_folder_holds_a_file_for_each_split(tmp_path):
    write_tsv(tmp_path / "train.tsv", ROWS[:9])
    write_jsonl(tmp_path / "test.jsonl", ROWS[9:12])
    found = rows_of(rows.prepare_rows(rows.row_files(tmp_path), tmp_path / "tfds"))
    assert {split: len(held) for split, held in found.items()} == {
        "train": 9,
        "test": 3,
    }


def test_columns_may_stand_in_another_order_in_another_file(tmp_path):
    write_tsv(tmp_path / "train.tsv", ROWS[:9])
    write_tsv(tmp_path / "test.tsv", ROWS[9:12], columns=("label", "text"))
    source = rows.row_files(tmp_path)
    assert list(source.rows("test")) == ROWS[9:12]


def test_texts_keep_every_character_but_tab_and_newline(tmp_path):
    odd = 'a "quoted"  \u2028 \x0c text\\n'
    path = write_tsv(tmp_path / "a.tsv", [{"text": odd, "label": "1"}])
    (row,) = rows.read_rows(path, ("text", "label"))
    assert row["text"] == odd


def test_numbers_in_json_become_texts(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "t", "label": 3}])
    assert list(rows.read_rows(path, ("label",))) == [{"label": "3"}]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.tsv", "text\tlabel\nonly one\n", "line 2: 1 values for 2 columns"),
        ("a.tsv", "", "holds no rows"),
        ("a.tsv", "text\ttext\n", "are no column names"),
        ("a.jsonl", '{"text": "x"}\n[1]\n', "line 2: \\[1\\] is no JSON object"),
        ("a.jsonl", '{"text": "x"}\n\n{"t": 1}\n', "line 3: no field 'text'"),
        ("a.jsonl", "{'text'}\n", "line 1: not JSON"),
        ("a.jsonl", '{"text": null}\n', "line 1: None is neither text nor number"),
        ("a.tsv", "text\n\udcff\n", "is not UTF-8"),
        ("a.csv", "text\n", "is no folder and no .tsv or .jsonl file"),
    ],
)
def test_what_is_no_row_is_a_config_error(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content, errors="surrogateescape")
    with pytest.raises(ConfigError, match=message):
        source = rows.row_files(path)
        rows.prepare_rows(source, tmp_path / "tfds")


def test_a_folder_without_splits_is_a_config_error(tmp_path):
    write_tsv(tmp_path / "other.tsv", ROWS)
    with pytest.raises(ConfigError, match="one file for each of train, .* it has none"):
        rows.row_files(tmp_path)


def test_two_files_of_one_split_are_a_config_error(tmp_path):
    write_tsv(tmp_path / "train.tsv", ROWS)
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    with pytest.raises(ConfigError, match="it has train.tsv, train.jsonl"):
        rows.row_files(tmp_path)


def test_a_file_of_too_few_rows_for_three_splits_is_a_config_error(tmp_path):
    source = rows.row_files(write_tsv(tmp_path / "a.tsv", ROWS[:3]))
    with pytest.raises(ConfigError, match="is of the split '.*'; add rows, or make a"):
        rows.prepare_rows(source, tmp_path / "tfds")


def test_a_changed_file_is_another_data_set(tmp_path):
    first = rows.row_files(write_tsv(tmp_path / "a.tsv", ROWS))
    second = rows.row_files(write_tsv(tmp_path / "a.tsv", ROWS[1:]))
    assert first.digest != second.digest
