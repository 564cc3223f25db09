"""Folders that are built once and shared by every process on a file system.

A folder appears under its final name only when it is complete: it is built in a
temporary folder beside it and renamed. A file lock keeps processes that start
together from building it twice, and is released by the kernel when its holder dies.
"""

import contextlib
import errno
import fcntl
import os
import pathlib
import shutil
import zlib

from absl import logging

from jaxmodels.train.errors import ConfigError, StorageError

CHECKED_BYTES = 2**30  # arrays up to this size are checked whole when opened
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


def explain(path, error):
    """The `RunError` for an `OSError` met while writing below `path`."""
    reason = f"cannot write {path}: {error.strerror or error}"
    if error.errno in FORBIDDEN:
        return ConfigError(
            f"{reason}; name a folder that can be written, with data_dir, cache_dir"
            " or TFDS_DATA_DIR"
        )
    return StorageError(reason)


@contextlib.contextmanager
def opened(folder):
    """Around reading a folder that was built here: damage is a `StorageError`."""
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        raise StorageError(
            f"{folder} is damaged ({error}); delete it, it is made again"
        ) from error


def check_whole(folder, stored, crc32, complete):
    """Raises `StorageError` unless an array is what was written.

    Args:
        folder: where it lies.
        stored: the array; its checksum is taken up to `CHECKED_BYTES`.
        crc32: the checksum when it was written.
        complete: whether its length is right.
    """
    if complete and stored.nbytes <= CHECKED_BYTES:
        complete = zlib.crc32(stored.data) == crc32
    if not complete:
        raise StorageError(f"{folder} is damaged; delete it, it is made again")


@contextlib.contextmanager
def locked(path):
    """Holds the lock file `path`, waiting for any other process that has it.

    Raises:
        ConfigError: the folder of the lock cannot be written, or has no file locks.
        StorageError: the disk is full or fails.
    """
    path = pathlib.Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("a")
    except OSError as error:
        raise explain(path.parent, error) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logging.info("waiting for the process that holds %s", path)
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            raise ConfigError(
                f"{path.parent} has no file locks ({error.strerror}); set cache_dir to"
                " a folder on a local disk"
            ) from error
        yield


def build_once(directory, build):
    """Makes sure that `directory` exists, complete.

    Args:
        directory: the final path.
        build: called with an empty folder to fill, in at most one process at a time.

    Returns:
        `directory` as a `pathlib.Path`.

    Raises:
        ConfigError, StorageError: see `locked`; and whatever `build` raises.
    """
    directory = pathlib.Path(directory)
    if directory.exists():
        return directory
    parent, name = directory.parent, directory.name
    with locked(parent / f".{name}.lock"):
        if directory.exists():
            return directory
        # Under the lock, what a killed process left behind belongs to nobody.
        for stale in parent.glob(f".{name}.building.*"):
            shutil.rmtree(stale)
        temporary = parent / f".{name}.building.{os.getpid()}"
        try:
            temporary.mkdir()
            build(temporary)
            temporary.rename(directory)
        except OSError as error:
            raise explain(directory, error) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return directory
