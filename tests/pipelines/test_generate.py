"""The command that generates text, on runs of both kinds of models."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.data.vocabulary import ByteVocabulary
from jaxmodels.models.performer import AttentionSpec, PerformerLM
from jaxmodels.pipelines import generate as generation
from jaxmodels.pipelines.generate import (
    generate,
    generate_targets,
    generate_text,
    load,
)
from jaxmodels.train.errors import ConfigError
from tests.pipelines import small_runs
from tests.variables import random_variables


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run that holds a language model over bytes."""
    return small_runs.write_language_model(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A run that holds a model of pairs of bytes."""
    return small_runs.write_pairs(tmp_path_factory.mktemp("pairs"))


def command(capsys, *arguments):
    code = generation.main([*map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command_prints_what_the_library_generates(workdir, capsys):
    arguments = ["--checkpoint", workdir, "--prompt", "def ", "--max_tokens", 9]
    code, out, err = command(capsys, *arguments, "--seed", 4, "--num_samples", 2)
    assert (code, err) == (0, "")
    model, variables = small_runs.language_model()
    texts = generate_text(
        model,
        variables,
        ByteVocabulary(),
        "def ",
        jax.random.key(4),
        num_samples=2,
        max_tokens=9,
        temperature=0.8,
    )
    assert out == texts[0] + "\n" + "-" * 72 + "\n" + texts[1] + "\n"
    assert all(text.startswith("def ") for text in texts)


def test_an_empty_prompt_starts_a_document(workdir, capsys):
    code, out, _ = command(capsys, "--checkpoint", workdir, "--temperature", 0)
    assert code == 0
    model, variables = small_runs.language_model()
    ids = generate(
        model,
        variables,
        np.zeros((1, 1), np.int32),
        jax.random.key(0),
        max_tokens=63,
        temperature=0,
        end_id=0,
    )
    assert out == ByteVocabulary().decode(ids[0]) + "\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", "x" * 80], "prompt of 81 tokens and 1 new ones make 82, .* 64"),
        (["--max_tokens", "64"], "prompt of 1 tokens and 64 new ones make 65, .* 64"),
        (["--max_tokens", "0"], "max_tokens 0 must be at least 1"),
        (["--num_samples", "0"], "num_samples 0 must be at least 1"),
        (["--temperature", "-1"], "temperature -1.0 must be"),
        (["--top_p", "2"], "top_p 2.0 must be"),
        (
            ["--top_k", "many"],
            "argument --top_k: invalid int value: 'many'; see --help",
        ),
        (["--prompt", "a\0b"], "the prompt cannot be encoded: .*NUL"),
        (["--checkpoint", "no/such/run"], "there is no model.json in no/such/run"),
        (["--promt", "x"], "unrecognized arguments: --promt"),
        (["--beam_size", "0"], "beam_size 0 must be at least 1"),
        (["--length_penalty", "1"], "length_penalty needs a beam_size above 1"),
        (["--beam_size", "2", "--top_k", "3"], "beam_size 2 .* leave out top_k"),
        (["--beam_size", "2", "--num_samples", "3"], "num_samples 3 is more than"),
        (
            ["--temperature", "0", "--top_k", "3", "--top_p", "0.5"],
            "temperature 0 .* top_k 3, top_p 0.5: set --temperature above 0",
        ),
        (
            ["--temperature", "0", "--num_samples", "2"],
            "temperature 0 .* num_samples 2",
        ),
    ],
)
def test_a_wrong_command_is_one_line_and_exit_code_64(
    workdir, capsys, arguments, message
):
    code, out, err = command(capsys, "--checkpoint", workdir, *arguments)
    assert (code, out) == (64, "")
    assert len(err.splitlines()) == 1
    assert re.match(f"error: .*{message}", err)


def test_the_command_turns_a_source_into_its_target(pairs, capsys):
    model, variables, form = load(pairs)
    (greedy,) = generate_targets(
        model, variables, form, ["abc"], jax.random.key(0), temperature=0
    )
    code, out, err = command(capsys, "--checkpoint", pairs, "--prompt", "abc")
    assert (code, err) == (0, "")
    assert out == form.vocabulary.decode(greedy[0]) + "\n"
    assert greedy.shape == (1, small_runs.TARGET_LENGTH)
    one_beam = command(
        capsys, "--checkpoint", pairs, "--prompt", "abc", "--beam_size", 1
    )
    assert one_beam == (code, out, err)


@pytest.mark.parametrize("flag", ["--top_k", "--top_p", "--num_samples"])
def test_a_greedy_target_takes_no_settings_of_draws(pairs, capsys, flag):
    value = "0.5" if flag == "--top_p" else "2"
    arguments = ["--checkpoint", pairs, "--prompt", "abc", flag, value]
    code, out, err = command(capsys, *arguments)
    assert (code, out) == (64, "")
    assert re.match(f"error: temperature 0 .* {flag[2:]} {value}: set --temp", err)
    assert command(capsys, *arguments, "--temperature", 1)[0] == 0


def test_the_command_prints_the_best_of_a_beam(pairs, capsys):
    model, variables, form = load(pairs)
    (found,) = generate_targets(
        model,
        variables,
        form,
        ["abc"],
        jax.random.key(0),
        beam_size=3,
        length_penalty=1.0,
        num_samples=2,
    )
    arguments = ["--beam_size", 3, "--length_penalty", 1, "--num_samples", 2]
    code, out, _ = command(capsys, "--checkpoint", pairs, "--prompt", "abc", *arguments)
    assert code == 0
    texts = [form.vocabulary.decode(row) for row in found]
    assert out == texts[0] + "\n" + "-" * 72 + "\n" + texts[1] + "\n"


def test_of_a_long_source_the_beginning_is_read_and_said_so(pairs, capsys):
    arguments = ["--checkpoint", pairs, "--prompt"]
    code, out, err = command(capsys, *arguments, "abcdefgh")
    assert code == 0
    assert err == "warning: of the 8 tokens of the source the first 5 are read\n"
    assert command(capsys, *arguments, "abcde") == (0, out, "")


def test_an_empty_source_is_refused(pairs, capsys):
    code, _, err = command(capsys, "--checkpoint", pairs)
    assert (code, err[:27]) == (64, "error: --prompt is empty; g")
    with pytest.raises(ConfigError, match="source 1 is empty"):
        generate_targets(*load(pairs), ["a", ""], jax.random.key(0))


def test_a_model_that_sees_the_future_generates_nothing(tmp_path):
    spec = AttentionSpec(kind="linear", num_features=6)
    model = PerformerLM(256, 8, 2, 12, 2, 12, attention=spec, causal=False)
    variables = random_variables(model, jnp.zeros((1, 3), jnp.int32))
    small_runs.write(tmp_path, model, variables, small_runs.LM_PREPROCESSING)
    with pytest.raises(ConfigError, match="holds 0 models that generate text"):
        load(tmp_path)


def test_a_vocabulary_of_another_size_is_told(tmp_path):
    model, variables = small_runs.pairs_model(vocab_size=300)
    small_runs.write(tmp_path, model, variables, small_runs.PAIRS_PREPROCESSING)
    with pytest.raises(ConfigError, match="has 300 ids and its vocabulary 256"):
        load(tmp_path)
