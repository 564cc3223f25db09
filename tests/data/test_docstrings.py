import pathlib
import textwrap

from jaxmodels.data import builder, docstrings, text

MODULE = '''
import os


@decorated
def first(a, b=None):
    """Adds a to b.

    At length.
    """
    # Why.
    return a + b


class Thing:
    async def second(self):
        \'\'\'  Waits.  \'\'\'
        await self.third()

    def third(self):
        return "no docstring"

    def fourth(self):
        """Only a docstring."""

    def fifth(self): "One line."; return 5
'''


def test_a_function_becomes_its_code_and_the_first_line_of_its_docstring():
    found = {summary: (line, code) for line, code, summary in functions()}
    assert set(found) == {"Adds a to b.", "Waits."}
    line, code = found["Adds a to b."]
    assert MODULE.splitlines()[line - 1] == "def first(a, b=None):"
    assert code == "def first(a, b=None):\n    # Why.\n    return a + b"
    _, code = found["Waits."]
    assert code == "async def second(self):\n    await self.third()"


def functions():
    return list(docstrings.functions(MODULE))


def test_what_is_no_python_has_no_functions():
    assert list(docstrings.functions("def broken(:\n")) == []


def test_code_is_taken_once_and_split_by_file(tmp_path):
    root = tmp_path / "code"
    root.mkdir()
    same = 'def f(x):\n    """Says {}."""\n    return x\n'
    for number in range(40):
        own = f'def g{number}(x):\n    """Number {number}."""\n    return {number}\n'
        (root / f"{number}.py").write_text(same.format(number) + own)
    corpus = text.scan("code", root, [path.name for path in root.iterdir()], "code")
    prepared = text.prepare_corpus(
        corpus, tmp_path / "tfds", docstrings.PythonDocstrings
    )
    splits = {}
    for split in text.SPLITS:
        records = builder.RecordFiles(prepared, split)
        splits[split] = [records[index] for index in range(len(records))]
        for record in splits[split]:
            file, _, line = record["name"].decode().rpartition(":")
            assert text.hashed_split(file) == split
            code = textwrap.dedent(record["code"].decode()).splitlines()
            lines = pathlib.Path(root, file).read_text().splitlines()
            assert lines[int(line) - 1] == code[0]
    records = sum(splits.values(), [])
    assert len(records) == 40 + 1
    assert len({record["code"] for record in records}) == 41
