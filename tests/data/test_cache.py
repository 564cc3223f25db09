import multiprocessing
import os
import threading
import time

import pytest

from jaxmodels.data import cache
from jaxmodels.train.errors import ConfigError, StorageError


def write(folder):
    (folder / "file").write_text("content")


def test_a_folder_is_built_once(tmp_path):
    calls = []

    def build(folder):
        calls.append(folder)
        write(folder)

    target = tmp_path / "deep" / "target"
    assert cache.build_once(target, build) == target
    cache.build_once(target, build)
    assert (target / "file").read_text() == "content" and len(calls) == 1
    assert [path.name for path in target.parent.iterdir() if path != target] == [
        ".target.lock"
    ]


def test_a_build_that_fails_leaves_nothing_and_may_be_tried_again(tmp_path):
    def fail(folder):
        write(folder)
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        cache.build_once(tmp_path / "target", fail)
    assert [path.name for path in tmp_path.iterdir()] == [".target.lock"]
    cache.build_once(tmp_path / "target", write)
    assert (tmp_path / "target" / "file").exists()


def test_threads_that_start_together_build_once(tmp_path):
    calls = []

    def build(folder):
        calls.append(folder)
        time.sleep(0.05)
        write(folder)

    def enter():
        cache.build_once(tmp_path / "target", build)
        assert (tmp_path / "target" / "file").exists()

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


def build_and_die(target):
    def build(folder):
        write(folder)
        os.kill(os.getpid(), 9)

    cache.build_once(target, build)


def test_a_killed_build_is_cleared_away_and_its_lock_is_free(tmp_path):
    process = multiprocessing.get_context("spawn").Process(
        target=build_and_die, args=(tmp_path / "target",)
    )
    process.start()
    process.join()
    assert process.exitcode == -9
    left = [path.name for path in tmp_path.iterdir()]
    assert len(left) == 2 and "target" not in left
    cache.build_once(tmp_path / "target", write)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".target.lock",
        "target",
    ]


def test_a_full_disk_is_a_storage_error_and_a_forbidden_one_a_config_error(tmp_path):
    def full(folder):
        raise OSError(28, "No space left on device")

    def forbidden(folder):
        raise PermissionError(13, "Permission denied")

    with pytest.raises(StorageError, match="cannot write .*target: No space left"):
        cache.build_once(tmp_path / "target", full)
    with pytest.raises(
        ConfigError, match="Permission denied; name a folder that can be"
    ):
        cache.build_once(tmp_path / "target", forbidden)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="cannot write .*file"):
        cache.build_once(tmp_path / "file" / "target", write)
