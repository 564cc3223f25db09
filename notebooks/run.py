"""Runs every notebook of this folder from top to bottom.

python notebooks/run.py          check that they run
python notebooks/run.py --save   and store their outputs
"""

import argparse
import pathlib
import sys

import nbclient
import nbformat

FOLDER = pathlib.Path(__file__).resolve().parent


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--save", action="store_true", help="store the outputs")
    parser.add_argument("names", nargs="*", help="notebooks; all when omitted")
    arguments = parser.parse_args()
    paths = [FOLDER / name for name in arguments.names] or sorted(
        FOLDER.glob("*.ipynb")
    )
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        client = nbclient.NotebookClient(
            notebook, timeout=900, resources={"metadata": {"path": str(FOLDER.parent)}}
        )
        try:
            client.execute()
        except nbclient.exceptions.CellExecutionError as error:
            sys.exit(f"{path.name}: {error}")
        if arguments.save:
            nbformat.write(notebook, path)
        print(f"{path.name}: {len(notebook.cells)} cells ran")


if __name__ == "__main__":
    main()
