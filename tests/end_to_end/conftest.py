import pytest

from tests.end_to_end import launcher


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    """A folder of texts, long enough for a validation split."""
    folder = tmp_path_factory.mktemp("corpus") / "texts"
    folder.mkdir()
    for index in range(40):
        rows = [f"row {n} of text {index} is {n * index % 97}\n" for n in range(60)]
        (folder / f"{index}.txt").write_text("".join(rows))
    return folder


@pytest.fixture(scope="session")
def pair_files(tmp_path_factory):
    """A folder of files of pairs, one a split."""
    folder = tmp_path_factory.mktemp("pairs") / "files"
    folder.mkdir()
    for split, start in (("train", 0), ("validation", 1000)):
        rows = [f"source {n}\ttarget {n}" for n in range(start, start + 60)]
        (folder / f"{split}.tsv").write_text("\n".join(["source\ttarget", *rows]))
    return folder


@pytest.fixture(scope="session")
def straight(texts, tmp_path_factory):
    """The workdir of an uninterrupted run."""
    workdir = tmp_path_factory.mktemp("straight") / "run"
    code, text = launcher.run(workdir, texts)
    assert code == 0, text
    return workdir
