import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.data.listops import listops_vocabulary
from jaxmodels.models.performer import AttentionSpec
from jaxmodels.models.performer_classifier import PerformerClassifier
from jaxmodels.pipelines import classify as pipeline
from jaxmodels.train import checkpoint, model_file, state
from jaxmodels.train.errors import ConfigError
from tests.variables import random_variables

LENGTH = 10
TEXTS = ["[MAX 2 9 ]", "[MIN 1 [SM 5 6 ] 3 ]", "7", "[MED 4 5 6 7 8 ]"]
NAMES = tuple(f"class {n}" for n in range(10))


@functools.cache
def build():
    model = PerformerClassifier(
        vocab_size=16,
        num_classes=10,
        embed_dim=8,
        num_heads=2,
        mlp_dim=12,
        num_layers=2,
        max_length=LENGTH,
        attention=AttentionSpec(kind="linear", num_features=6),
    )
    return model, random_variables(model, jnp.zeros((1, 3), jnp.int32))


@pytest.fixture
def classifier():
    return pipeline.Classifier(*build(), listops_vocabulary(), NAMES, LENGTH)


def write_run(path, preprocessing=None, networks=None):
    """A run that holds a classifier of ListOps."""
    model, variables = build()
    described = {
        "kind": "labels",
        "labels": list(NAMES),
        "length": LENGTH,
        "vocabulary": listops_vocabulary().to_json(),
    }
    model_file.write(path, networks or {"model": model}, preprocessing or described)
    collections = {"model": {"projections": variables["projections"]}}
    run = state.start({"model": variables["params"]}, {}, {}, collections)
    saver = checkpoint.Checkpoints(path / "checkpoints")
    saver.save(run, wait=True)
    saver.close()
    return path


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


def test_probabilities_are_those_of_the_text_alone(classifier):
    got = pipeline.classify(classifier, TEXTS)
    assert got.shape == (4, 10) and got.dtype == np.float32
    apply = jax.jit(classifier.model.apply)
    for row, text in zip(got[:2], TEXTS[:2], strict=True):
        ids = [0, *classifier.vocabulary.encode(text)]
        logits = apply(classifier.variables, jnp.array([ids]))[0]
        shares = np.exp(logits - logits.max())
        np.testing.assert_allclose(row, shares / shares.sum(), atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_batches_of_any_size_give_the_same(classifier, batch_size):
    got = pipeline.classify(classifier, TEXTS, batch_size)
    np.testing.assert_allclose(got, pipeline.classify(classifier, TEXTS), atol=1e-6)


def test_of_a_text_that_is_too_long_the_beginning_is_read(classifier):
    long = "[MAX" + " 1 2 3" * 5
    begun = " ".join(long.split()[: LENGTH - 1])
    got = pipeline.classify(classifier, [long, begun])
    np.testing.assert_array_equal(got[0], got[1])


def test_no_text_has_no_probabilities(classifier):
    assert pipeline.classify(classifier, []).shape == (0, 10)


@pytest.mark.parametrize(
    "text, message",
    [
        ("[MAX 1 x ]", "text 1 cannot be encoded: the word 'x' is none of the 15"),
        (" ", "text 1 is empty"),
    ],
)
def test_a_text_without_ids_is_a_config_error(classifier, text, message):
    with pytest.raises(ConfigError, match=message):
        pipeline.classify(classifier, ["7", text])


def test_a_run_gives_back_its_classifier(workdir, classifier):
    loaded = pipeline.load(workdir)
    assert loaded.model == classifier.model
    assert (loaded.labels, loaded.length) == (NAMES, LENGTH)
    got = pipeline.classify(loaded, TEXTS)
    np.testing.assert_array_equal(got, pipeline.classify(classifier, TEXTS))


def test_a_run_without_labels_is_a_config_error(tmp_path):
    write_run(tmp_path, preprocessing={"kind": "pairs"})
    with pytest.raises(ConfigError, match="name the run of a classifier"):
        pipeline.load(tmp_path)


def test_other_labels_than_the_model_was_built_for_are_a_config_error(tmp_path):
    described = {"kind": "labels", "labels": ["a"], "length": LENGTH}
    described["vocabulary"] = listops_vocabulary().to_json()
    write_run(tmp_path, preprocessing=described)
    with pytest.raises(ConfigError, match="the model has 10 classes and .* 1"):
        pipeline.load(tmp_path)


def command(capsys, *arguments):
    code = pipeline.main([*map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out.splitlines(), err


def test_the_command_prints_a_line_a_text(workdir, classifier, capsys):
    code, lines, _ = command(capsys, "--checkpoint", workdir, "--top_k", 2, *TEXTS)
    assert code == 0 and len(lines) == 4
    for line, text, row in zip(
        lines, TEXTS, pipeline.classify(classifier, TEXTS), strict=True
    ):
        best, second = np.argsort(-row)[:2]
        shares = f"{NAMES[best]} {100 * row[best]:.1f} %"
        assert line.startswith(f"{NAMES[best]}  ({shares}, {NAMES[second]} ")
        assert line.endswith(f")  {text}")


def test_without_texts_the_command_reads_lines(workdir, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(TEXTS) + "\n"))
    lines = command(capsys, "--checkpoint", workdir)[1]
    assert lines == command(capsys, "--checkpoint", workdir, *TEXTS)[1]


def test_the_command_says_what_it_does_not_read(workdir, capsys):
    code, lines, err = command(capsys, "--checkpoint", workdir, "1 " * 40)
    assert code == 0 and "of the 40 tokens of text 0 the first 9 are read" in err
    assert lines[0].endswith("...")


def test_the_command_encodes_each_text_once(workdir, capsys, monkeypatch):
    encoded = []
    encode = pipeline.text_models.encode

    def counted(vocabulary, text, name):
        encoded.append(text)
        return encode(vocabulary, text, name)

    monkeypatch.setattr(pipeline.text_models, "encode", counted)
    assert command(capsys, "--checkpoint", workdir, *TEXTS)[0] == 0
    assert encoded == TEXTS


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--top_k", "0"], "top_k 0 must be at least 1"),
        (["hello"], "text 0 cannot be encoded"),
        (["--size", "3"], "unrecognized arguments"),
    ],
)
def test_a_wrong_command_ends_with_one_line(workdir, capsys, arguments, message):
    code, lines, err = command(capsys, "--checkpoint", workdir, *arguments)
    assert code == 64 and not lines
    assert message in err and len(err.splitlines()) == 1
