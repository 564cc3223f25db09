"""What a user can get wrong: one line that helps, exit code 64, and no traceback."""

import json
import pathlib
import shutil
import subprocess
import sys

import pytest

from experiments import (
    config_file,
    describe,
    evaluate,
    performer_lm,
    sweep,
    train,
)
from jaxmodels.train import distributed
from tests.experiments import small_run

LONGEST = 260

# Words after --config of the small run; what the one line has to say.
FLAGS = [
    ("--wrkdir=x", "unknown flag --wrkdir (did you mean 'workdir'?)"),
    ("--workdir", "--workdir needs a value"),
    ("--config.seed=1 --config.seed=2", "--config.seed is given 2 times"),
    ("--config=other.py", "--config is given 2 times"),
    ("runs/lm", "unexpected argument 'runs/lm'; flags look like --name=value"),
    ("--profile_steps=15", "such as 10:15"),
    ("--init_from=runs/lm:", "such as runs/lm:model"),
    ("--learning_rate=1", "(did you mean 'config.optimizer.learning_rate'?)"),
]
FIELDS = [
    ("model.widht=3", "has no field 'model.widht'"),
    ("model.embde_dim=3", "(did you mean 'model.embed_dim'?)"),
    ("learning_rate=3", "(did you mean 'optimizer.learning_rate'?)"),
    ("model=3", "--config.model is a section; set its fields: "),
    ("num_steps=256.5", "expected a whole number, not '256.5'"),
    ("num_steps=True", "expected a whole number, not 'True'"),
    ("num_steps=many", "expected a whole number, not 'many'"),
    ("optimizer.learning_rate=high", "expected a number, not 'high'"),
    ("data.dataset=", "expected some text after the equals sign"),
]
VALUES = [
    ("num_steps=0", "num_steps 0 must be at least 1"),
    ("log_every=-1", "log_every -1 must be at least 0"),
    ("eval.num_batches=0", "eval.num_batches 0 must be at least 1"),
    ("data.batch_size=0", "data.batch_size 0 must be at least 1"),
    ("optimizer.learning_rate=-1", "learning_rate -1.0 must be greater than 0"),
    ("optimizer.name=adam", "(did you mean 'adamw'?)"),
    ("optimizer.warmup_steps=9", "must be below num_steps 4; lower --config."),
    ("optimizer.microbatches=3", "is not divisible by optimizer.microbatches 3"),
    ("limits.nonfinite_per_thousand=2000", "at least 1 and at most 1000"),
    ("experiment=performer_ml", "(did you mean 'performer_lm'?)"),
    ("model.num_heads=3", "embed_dim 8 is not divisible by num_heads 3"),
    ("model.vocab_size=300", "vocab_size is 300, but there are 256 bytes"),
    ("model.attention.kind=linaer", "'linaer'"),
    ("data.length=9", "data.length 9 is longer than model.max_length 8"),
]
# The tests run on eight devices.
MESHES = [
    ("mesh.data=3", "does not fit 8 devices: the axes must multiply to 8"),
    ("mesh.fsdp=3", "does not fit 8 devices"),
    ("mesh.fsdp=0", "mesh.fsdp 0 must be at least 1"),
    ("mesh.fsdp=-1", "at most one axis takes what the others leave"),
    ("data.batch_size=12", "batch_size 12 is not divisible by data x fsdp"),
    ("data.dataset=/no/such/folder", "/no/such/folder is neither a folder nor a file"),
    ("data.dataset=lm1q", "lm1q"),
]
OVERRIDES = [
    (f"--config.{text}", message) for text, message in FIELDS + VALUES + MESHES
]


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    return small_run.write_texts(tmp_path_factory.mktemp("texts"))


@pytest.fixture
def small(texts, tmp_path, tmp_path_factory, monkeypatch):
    data = tmp_path_factory.getbasetemp() / "tensorflow_datasets"
    monkeypatch.setenv("TFDS_DATA_DIR", str(data))
    # Has to come before the first device is touched; the last test starts processes.
    monkeypatch.setattr(distributed, "initialize", lambda: None)
    return small_run.write_config(tmp_path, texts)


def complaint(main, words, capsys):
    """The one line of error of a command line."""
    assert main([str(word) for word in words]) == 64
    found = capsys.readouterr()
    assert found.out == ""
    (line,) = found.err.splitlines()
    assert line.startswith("error: ")
    assert len(line) <= LONGEST + len(str(words[0])), line
    return line


@pytest.mark.parametrize("words, message", FLAGS + OVERRIDES)
def test_a_mistake_on_the_command_line_is_one_line(
    small, tmp_path, capsys, words, message
):
    folder = [] if "--workdir" in words else [f"--workdir={tmp_path}/runs"]
    line = complaint(train.main, [small, *words.split(), *folder], capsys)
    assert message in line
    assert not list(pathlib.Path(tmp_path).glob("runs/*"))


@pytest.mark.parametrize("main", [train.main, evaluate.main, sweep.main, describe.main])
@pytest.mark.parametrize(
    "source, message",
    [
        ("configs/performer/ml.py", "(did you mean 'configs/performer/lm.py'?)"),
        ("configs/performer/lm.py:tinny", "has no size 'tinny' (did you mean 'tiny'?)"),
        ("configs/performer", "no config file 'configs/performer'"),
        ("", "--config needs a value"),
    ],
)
def test_a_config_that_is_not_there_is_one_line(main, source, message, capsys):
    assert message in complaint(main, [f"--config={source}", "--workdir=x"], capsys)


@pytest.mark.parametrize("main", [train.main, evaluate.main, sweep.main, describe.main])
def test_a_config_that_is_not_named_is_one_line(main, capsys):
    line = complaint(main, ["--workdir=x"], capsys)
    assert "--config is required; the configs are " in line


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("def get_config", "def get_confg", "defines no function get_config(size)"),
        ("seed=0,", "seed=zero,", "NameError: name 'zero' is not defined"),
        ("seed=0,", "seed=,", "SyntaxError"),
        ("seed=0,", "", "the config has no field of type int 'seed'"),
        ("mesh=dict", "meshes=dict", "meshes"),
        ("seed=0,", "seed=None,", "field 'seed' is None: use placeholder("),
        ("batch_size=8", "batch_size=[8]", "'data.batch_size' is a list: use a tuple"),
        ("mlp_dim=16", "mlp=16", "model.mlp is no field of model"),
        ("return ConfigDict(", "return dict(", "returned dict, not a ConfigDict"),
    ],
)
def test_a_mistake_in_a_config_file_is_told_without_a_traceback(
    small, tmp_path, capsys, old, new, message
):
    path = pathlib.Path(small.partition("=")[2])
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    assert train.main([small, f"--workdir={tmp_path}/runs"]) == 64
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith(f"error: {path}") for line in lines)
    assert any(message in line for line in lines)


def test_a_missing_workdir_is_asked_for(small, capsys):
    for main in (train.main, evaluate.main, sweep.main):
        line = complaint(main, [small], capsys)
        assert line == "error: --workdir is required, such as --workdir=runs/lm"


def test_a_workdir_that_cannot_be_used_is_one_line(small, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("")
    line = complaint(train.main, [small, f"--workdir={tmp_path}/file/lm"], capsys)
    assert "cannot be written (Not a directory); choose another --workdir" in line
    line = complaint(train.main, [small, f"--workdir={foreign}"], capsys)
    assert "holds 'thesis.tex' but no config.json, so no run made it" in line
    line = complaint(evaluate.main, [small, f"--workdir={foreign}"], capsys)
    assert "holds no config.json, so no run" in line
    assert [path.name for path in foreign.iterdir()] == ["thesis.tex"]


def test_a_workdir_of_another_config_is_one_line(small, tmp_path, capsys):
    config, _ = config_file.load(small.partition("=")[2])
    content = json.loads(config.to_json())
    content["seed"] = 7
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "config.json").write_text(json.dumps(content))
    line = complaint(train.main, [small, f"--workdir={tmp_path}/runs"], capsys)
    assert "belongs to another config: seed is 7 there and 0 here; choose" in line


def test_an_empty_corpus_is_one_line(small, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    words = [f"--config.data.dataset={tmp_path}/empty", f"--workdir={tmp_path}/runs"]
    assert "holds no text" in complaint(train.main, [small, *words], capsys)


def test_a_folder_of_files_that_are_no_text_is_one_line(small, tmp_path, capsys):
    folder = tmp_path / "binary"
    folder.mkdir()
    (folder / "photo.jpg").write_bytes(bytes(range(256)))
    words = [f"--config.data.dataset={folder}", f"--workdir={tmp_path}/runs"]
    assert "holds no text" in complaint(train.main, [small, *words], capsys)


def test_a_corrupted_record_is_one_line_with_its_place(
    small, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    config, _ = config_file.load(small.partition("=")[2])
    performer_lm.make_data(config)
    shutil.rmtree(tmp_path / "data" / "tokens")
    (path,) = (tmp_path / "data").rglob("*-train.array_record-*")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    path.write_bytes(content)
    assert train.main([small, f"--workdir={tmp_path}/runs"]) == 64
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {path}: record 0: ")
    assert line.endswith("and max_bad_fraction to the share to allow")


def test_mistakes_are_told_all_at_once(small, tmp_path, capsys):
    words = [
        "--config.num_steps=0",
        "--config.mesh.fsdp=0",
        "--config.model.num_heads=3",
    ]
    assert train.main([small, f"--workdir={tmp_path}/runs", *words]) == 64
    assert len(capsys.readouterr().err.splitlines()) == 3


@pytest.mark.parametrize(
    "module, words, message",
    [
        ("train", ["--config=configs/performer/lm.py:tinny"], "'tinny'"),
        ("train", ["--config.mesh.fsdp=3", "--workdir=WORKDIR"], "does not fit 8"),
        ("describe", ["--topology=v5-8"], "the kinds are v4, v5e,"),
    ],
)
def test_a_real_process_ends_with_64_and_one_line(
    small, tmp_path, module, words, message
):
    words = [word.replace("WORKDIR", str(tmp_path / "runs")) for word in words]
    config = [] if any(word.startswith("--config=") for word in words) else [small]
    done = subprocess.run(
        [sys.executable, "-m", f"experiments.{module}", *config, *words],
        cwd=config_file.ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 64
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and message in line
