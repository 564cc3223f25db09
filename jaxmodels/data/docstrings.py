"""Functions of the standard library, and the first lines of their docstrings.

Real text to summarize that is on every machine. Split by file, as `python_source` is.
"""

import ast
import textwrap
import warnings

import tensorflow_datasets as tfds
import tqdm

from jaxmodels.data import builder, text

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def functions(source):
    """Yields the functions of a module that say in a docstring what they do.

    Args:
        source: text of the module.

    Yields:
        (line, code, summary): the number of its first line, its code without
        decorators and docstring, and the first line of the docstring.
    """
    try:
        with warnings.catch_warnings():
            # Escapes that a newer Python objects to are none of our business.
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except SyntaxError:
        return
    # Only what ends a line for the parser: `splitlines` also cuts at form feeds.
    lines = source.replace("\r\n", "\n").split("\n")
    for node in ast.walk(tree):
        if not isinstance(node, FUNCTIONS) or len(node.body) < 2:
            continue
        summary = (ast.get_docstring(node) or "").partition("\n")[0].strip()
        docstring, rest = node.body[0], node.body[1]
        # A docstring that shares a line with code cannot be cut out by lines.
        end = docstring.end_lineno or rest.lineno
        if summary and node.lineno < docstring.lineno and end < rest.lineno:
            code = lines[node.lineno - 1 : docstring.lineno - 1]
            code += lines[end : node.end_lineno]
            yield node.lineno, textwrap.dedent("\n".join(code)), summary


class PythonDocstrings(text.CorpusBuilder):
    """Builds `python_docstrings`: records {"name", "code", "summary"}.

    Code that occurs twice is taken once, wherever it stands: what is held out was
    never trained on.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        names = ("name", "code", "summary")
        entry = tfds.features.Text()
        return builder.LocalInfo(
            builder=self,
            description=self.builder_config.description,
            features=tfds.features.FeaturesDict(dict.fromkeys(names, entry)),
        )

    def _split_generators(self, dl_manager):
        found = self._records()
        return {split: iter(found[split]) for split in text.SPLITS}

    def _records(self):
        """split -> [(name, record)]."""
        corpus, seen = self.builder_config.corpus, set()
        found: dict[str, list] = {split: [] for split in text.SPLITS}
        documents = [
            (split, *document)
            for split, listed in corpus.splits().items()
            for document in listed
        ]
        progress = tqdm.tqdm(
            documents, "reading functions", unit=" files", disable=None, leave=False
        )
        for split, _, file, part in progress:
            for line, code, summary in functions(corpus.read(file, part)):
                if code not in seen and "\0" not in code:
                    seen.add(code)
                    name = f"{file}:{line}"
                    record = {"name": name, "code": code, "summary": summary}
                    found[split].append((name, record))
        return found


def prepare(data_dir=None):
    """Opens `python_docstrings`, building it when the library's content is new.

    Raises:
        ConfigError, StorageError: this Python came without its sources, or see
            `builder.prepare`.
    """
    corpus = text.python_source_corpus()
    return text.prepare_corpus(corpus, data_dir, PythonDocstrings)
