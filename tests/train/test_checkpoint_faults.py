import json
import random
import shutil

import pytest

from jaxmodels.train import checkpoint, stored
from jaxmodels.train.errors import ConfigError, StorageError
from tests.train.stored_states import (
    assert_same,
    listing,
    make_state,
    placed,
    restore,
    target_of,
    warnings,
)

KINDS = ("flip", "truncate", "zero", "garbage")


@pytest.fixture
def folder(tmp_path):
    """Checkpoints of steps 10 and 20."""
    folder = tmp_path / "checkpoints"
    checkpoints = checkpoint.Checkpoints(folder)
    for step in (10, 20):
        assert checkpoints.save(placed(make_state(step)), wait=True)
    checkpoints.close()
    return folder


def largest_file(folder):
    files = (path for path in folder.rglob("d/*") if path.is_file())
    return max(files, key=lambda path: path.stat().st_size)


def damage(path, kind, rng):
    data = bytearray(path.read_bytes())
    at = rng.randrange(len(data))
    if kind == "flip":
        data[at] ^= 1 << rng.randrange(8)
    elif kind == "truncate":
        del data[at:]
    elif kind == "zero":
        data[at : at + 4096] = bytes(len(data[at : at + 4096]))
    else:
        data[at : at + 64] = rng.randbytes(len(data[at : at + 64]))
    path.write_bytes(data)


def check_corruptions(folder, seed, count):
    """Damages the newest step over and over; returns how often it was passed over."""
    rng = random.Random(seed)
    good = folder.parent / "good"
    shutil.copytree(folder, good)
    passed_over = 0
    for trial in range(count):
        shutil.rmtree(folder)
        shutil.copytree(good, folder)
        files = sorted(path for path in (folder / "20").rglob("*") if path.is_file())
        path = rng.choice([path for path in files if path.stat().st_size])
        path = largest_file(folder / "20") if trial % 3 == 0 else path
        damage(path, KINDS[trial % len(KINDS)], rng)
        restored = restore(folder)
        # Some bytes are dead, and then the newest step is as good as it was.
        step = int(restored.step)
        assert step in (10, 20)
        assert_same(restored, make_state(step))
        passed_over += step == 10
    return passed_over


def test_no_random_corruption_is_silent(folder, capfd):
    assert check_corruptions(folder, seed=0, count=12) >= 2
    errors = capfd.readouterr().err
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors


@pytest.mark.slow
def test_no_random_corruption_of_a_hundred_is_silent(folder):
    assert check_corruptions(folder, seed=1, count=100) >= 25


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[: len(data) // 2],
        lambda data: bytes(len(data)),
        lambda data: b"",
        lambda data: bytes(byte ^ (i % 64 == 0) for i, byte in enumerate(data)),
    ],
    ids=["truncated", "zeros", "empty", "flips"],
)
def test_damage_to_the_arrays_is_noticed_and_named(folder, caplog, change):
    path = largest_file(folder / "20")
    path.write_bytes(change(path.read_bytes()))
    assert_same(restore(folder), make_state(10))
    (line,) = warnings(caplog)
    assert line.startswith(f"checkpoint 20 in {folder} is corrupt, passed over: ")
    assert "\n" not in line and len(line) < 500


def test_every_bit_of_the_digests_counts(folder):
    path = folder / "20/digests/digests.json"
    data = path.read_bytes()
    rng = random.Random(0)
    for _ in range(60):
        changed = bytearray(data)
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        with pytest.raises(stored.CorruptError):
            stored.read_record(folder, 20)


def test_a_changed_shape_in_the_digests_is_corruption_and_no_mismatch(folder, caplog):
    path = folder / "20/digests/digests.json"
    text = path.read_text()
    path.write_text(text.replace('"shape": [8, 500]', '"shape": [8, 501]', 1))
    assert path.read_text() != text
    assert_same(restore(folder), make_state(10))
    assert "digests.json does not match its checksum" in warnings(caplog)[0]


@pytest.mark.parametrize("content", ["", "[]", "null", "7", "{}", "[" * 10**5, "\xff"])
def test_digests_that_are_no_record_are_passed_over(folder, caplog, content):
    path = folder / "20/digests/digests.json"
    path.write_text(content, encoding="latin-1")
    assert_same(restore(folder), make_state(10))
    assert len(warnings(caplog)) == 1


def test_a_step_copied_under_another_number_is_passed_over(folder, caplog):
    shutil.copytree(folder / "10", folder / "30")
    assert_same(restore(folder), make_state(20))
    assert "it holds step 10" in warnings(caplog)[0]


def test_an_empty_folder_named_like_a_step_is_passed_over(folder, caplog):
    (folder / "30").mkdir()
    assert_same(restore(folder), make_state(20))
    assert "digests.json is missing" in warnings(caplog)[0]


@pytest.mark.parametrize("part", ["state", "digests", "state/d"])
def test_a_step_that_lost_a_part_is_passed_over(folder, part):
    path = folder / "20" / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert_same(restore(folder), make_state(10))


def test_a_step_whose_metadata_lost_an_array_is_passed_over(folder, caplog):
    path = folder / "20/state/_METADATA"
    content = json.loads(path.read_text())
    (name,) = [name for name in content["tree_metadata"] if "kernel" in name]
    del content["tree_metadata"][name]
    path.write_text(json.dumps(content))
    assert_same(restore(folder), make_state(10))
    assert "params/model/kernel is missing" in warnings(caplog)[0]


def test_a_newer_format_is_a_stop_and_no_corruption(folder):
    path = folder / "20/digests/digests.json"
    record = json.loads(path.read_text())
    del record["sha256"]
    path.write_text(json.dumps(stored.seal({**record, "format": 2})))
    with pytest.raises(ConfigError, match="checkpoint format 2, this release reads 1"):
        restore(folder)


def test_corrupt_steps_are_moved_aside_by_the_next_save_and_not_before(folder):
    (folder / "20/digests/digests.json").write_text("{}")
    (folder / "30").mkdir()
    before = listing(folder)
    checkpoints = checkpoint.Checkpoints(folder)
    assert_same(checkpoints.restore(target_of(make_state(0))), make_state(10))
    assert listing(folder) == before
    assert checkpoints.save(make_state(20), wait=True)
    assert checkpoints.steps() == [10, 20]
    assert_same(checkpoints.restore(target_of(make_state(0))), make_state(20))
    checkpoints.close()
    aside = sorted(path.name for path in folder.glob("*.corrupt"))
    assert aside == ["20.corrupt", "30.corrupt"]
    assert (folder / "20.corrupt/state/_METADATA").exists()


def test_when_every_step_is_corrupt_all_are_named_and_none_is_moved(folder):
    (folder / "10/state/manifest.ocdbt").write_bytes(b"x" * 99)
    (folder / "20/digests/digests.json").unlink()
    before = listing(folder)
    with pytest.raises(StorageError) as caught:
        restore(folder)
    message = str(caught.value)
    assert "step 20: digests.json is missing; step 10: its arrays are unread" in message
    assert "nothing was moved" in message and "\n" not in message
    assert listing(folder) == before


def test_networks_are_taken_from_the_newest_step_that_verifies(folder, caplog):
    for path in (folder / "20/state").rglob("d/*"):
        path.write_bytes(b"")
    networks = checkpoint.restore_networks(folder.parent)
    assert_same(networks["model"]["params"], make_state(10).params["model"])
    started, lines = checkpoint.init_from(folder.parent, placed(make_state(5)))
    assert lines == []
    assert_same(started.params, make_state(10).params)
    assert len(warnings(caplog)) == 2
    with pytest.raises(StorageError, match="step 20: "):
        checkpoint.restore_networks(folder.parent, step=20)
