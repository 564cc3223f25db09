"""The records among the paths that a user names."""

import os
import pathlib

from jaxmodels.train.errors import ConfigError

NO_RECORDS = (".txt", ".md", ".json", ".csv", ".xml", ".png", ".pdf", ".log", ".py")


def find(name, *, below=False):
    """The files of a file or folder.

    Of a folder those are passed over that are hidden or, by their suffix, no records;
    and the folders in it, unless `below`. Links are followed, each folder once.

    Returns:
        Paths, how many files are passed over, and how many folders.

    Raises:
        ConfigError: a folder holds nothing.
    """
    path = pathlib.Path(name)
    if not path.is_dir():
        return [path], 0, 0
    files, folders = [], 0
    seen = set()
    for folder, names, inside in os.walk(path, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:
            names.clear()
            continue
        seen.add(real)
        names[:] = sorted(name for name in names if name[0] != ".")
        files += [pathlib.Path(folder) / file for file in sorted(inside)]
        if not below:
            folders = len(names)
            break
    kept = [
        file
        for file in files
        if file.name[0] != "." and file.suffix.lower() not in NO_RECORDS
    ]
    if not kept:
        deeper = ", and the folders in it are not searched" if folders else ""
        raise ConfigError(
            f"the folder {name} holds no records{deeper}; name one that does"
        )
    return kept, len(files) - len(kept), folders
