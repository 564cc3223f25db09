import json
import re

import jax
import numpy as np
import pytest

from jaxmodels.data import generated, rows
from jaxmodels.pipelines import score as scoring
from jaxmodels.pipelines.generate import generate_targets, load
from jaxmodels.pipelines.score import read_pairs, score, token_scores
from tests.pipelines import small_runs

WORDS = ("red", "green", "blue", "white", "a long source", "black", "gray")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of data sets."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def prepared(folder, tmp_path_factory):
    """A data set whose test split holds `WORDS` and their first letters."""
    files = tmp_path_factory.mktemp("files")
    for split in ("train", "validation", "test"):
        lines = [f"{word}\t{word[:3]}" for word in WORDS]
        (files / f"{split}.tsv").write_text("\n".join(["source\ttarget", *lines]))
    return rows.prepare_rows(rows.row_files(files), folder)


@pytest.fixture(scope="module")
def workdir(prepared, tmp_path_factory):
    """A run on the data set."""
    return small_runs.write_pairs(
        tmp_path_factory.mktemp("run"), dataset=prepared.info.full_name
    )


def pairs_of(prepared, limit=None):
    found, num_bad = read_pairs(prepared, "test", ("source", "target"), limit)
    assert num_bad == 0
    return found


def command(capsys, *arguments):
    code = scoring.main([*map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_tokens_count_against_the_whole_target_with_its_end():
    new = np.array([[5, 6, 0, 0], [5, 6, 7, 8], [5, 0, 0, 0], [5, 6, 7, 8]])
    targets = [[5, 6], [5, 6, 7], [5, 6], [5, 6, 7, 8, 9]]
    # Right are all three; three of four, for the end is missing; the first of three,
    # for it ends too early; four of six, for what was generated is too short.
    assert token_scores(new, targets, 0) == {
        "token_accuracy": (3 + 3 + 1 + 4) / (3 + 4 + 3 + 6),
        "exact_match": 1 / 4,
    }


def test_the_command_writes_the_scores_of_what_the_library_generates(
    workdir, prepared, folder, capsys
):
    arguments = ["--checkpoint", workdir, "--data_dir", folder, "--scores", ""]
    code, out, err = command(capsys, *arguments, "--beam_size", 2, "--batch_size", 4)
    assert (code, err) == (0, "")
    content = json.loads((workdir / "score.json").read_text())
    model, variables, form = load(workdir)
    words = [source for source, _ in pairs_of(prepared)]
    assert sorted(words) == sorted(WORDS)
    new = generate_targets(
        model, variables, form, words, jax.random.key(0), beam_size=2
    )[:, 0]
    targets = [form.vocabulary.encode(word[:3]) for word in words]
    assert content["metrics"] == token_scores(new, targets, 0)
    assert content["num_examples"] == len(WORDS)
    assert content["settings"]["beam_size"] == 2
    assert content["settings"]["max_tokens"] == small_runs.TARGET_LENGTH
    assert content["sources_cut"] == 1
    assert content["targets_too_long"] == 0
    assert content["examples"][4] == {
        "source": words[4],
        "target": words[4][:3],
        "generated": form.vocabulary.decode(new[4]),
    }
    value = content["metrics"]["token_accuracy"]
    assert re.search(rf"\n  token_accuracy +{value:.4f}\n", out)
    assert "\n  1 sources longer than the model reads\n" in out
    assert out.endswith(f"written to {workdir}/score.json\n")


def test_true_targets_have_the_highest_scores(workdir, folder, monkeypatch):
    pytest.importorskip("sacrebleu")
    pytest.importorskip("rouge_score")

    def oracle(model, variables, form, sources, **_):
        new = np.zeros((len(sources), 6), np.int32)
        for row, source in zip(new, sources, strict=True):
            row[: len(source[:3])] = form.vocabulary.encode(source[:3])
        return new

    monkeypatch.setattr(scoring, "generate_all", oracle)
    metrics = score(workdir, data_dir=folder)["metrics"]
    # No target has four words; one has two, which is all that ROUGE-2 finds.
    assert metrics.pop("bleu") is None
    assert metrics.pop("rouge2") == pytest.approx(1 / len(WORDS))
    ones = dict.fromkeys(("token_accuracy", "exact_match", "rouge1", "rougeL"), 1.0)
    assert metrics == pytest.approx({**ones, "chrf": 100.0})


def test_examples_are_spread_over_the_split(prepared):
    every = pairs_of(prepared)
    assert pairs_of(prepared, 3) == [every[0], every[2], every[4]]


def test_bad_pairs_are_left_out_and_counted(folder, tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text('{"a": "x", "b": "y"}\n{"a": "", "b": "y"}\n{"a": "z", "b": ""}\n')
    bad = rows.prepare_rows(rows.row_files(tmp_path), folder)
    assert read_pairs(bad, "test", ("a", "b")) == ([("x", "y")], 2)


def test_a_generated_data_set_is_made_again(tmp_path):
    first = generated.prepare("copy/2", tmp_path / "first")
    again = scoring.open_dataset(first.info.full_name, tmp_path / "second")
    assert again.info.full_name == first.info.full_name
    assert len(again.as_data_source("test")) == len(first.as_data_source("test"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "no/such/run"], "there is no model.json in no/such/run"),
        (["--split", "tests"], "has no split 'tests'; it has test, train, validation"),
        (["--scores", "bleu,meteor"], "unknown score 'meteor'"),
        (["--num_examples", "0"], "num_examples 0 must be at least 1"),
        (["--batch_size", "0"], "batch_size 0 must be at least 1"),
        (["--beam_size", "0"], "beam_size 0 must be at least 1"),
        (["--max_tokens", "9"], "1 tokens and 9 new ones make 10, .* max_length 8"),
        (["--dataset", "nothing"], "no prepared data set nothing in "),
        (["--sprit", "test"], "unrecognized arguments: --sprit test"),
    ],
)
def test_a_wrong_command_is_one_line_and_exit_code_64(
    workdir, folder, capsys, arguments, message
):
    known = ["--checkpoint", workdir, "--data_dir", folder, "--scores", ""]
    code, out, err = command(capsys, *known, *arguments)
    assert (code, out) == (64, "")
    assert len(err.splitlines()) == 1
    assert re.match(f"error: .*{message}", err)


def test_a_language_model_has_nothing_to_score(tmp_path, capsys):
    small_runs.write_language_model(tmp_path)
    code, _, err = command(capsys, "--checkpoint", tmp_path, "--scores", "")
    assert code == 64
    assert "holds a language model, which has no sources to score" in err
