import inspect
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time

import chex
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxmodels.train import checkpoint, state, stored
from jaxmodels.train.errors import ConfigError, StorageError

ROOT = pathlib.Path(__file__).parents[2]
KINDS = ("flip", "truncate", "zero", "garbage")


def make_state(step, size=500):
    """A state whose values follow from its step; random, so that it cannot shrink."""
    values = jax.random.normal(jax.random.key(step), (8, size))
    params = {"model": {"kernel": values, "bias": values[0].astype(jnp.bfloat16)}}
    moments = {"model": (values * 2, jnp.int32(step))}
    new = state.start(params, moments, {}, {"model": {"statistics": values[1]}})
    return new.replace(step=jnp.int32(step))


PRELUDE = f"""
import os, resource, sys
import jax, jax.numpy as jnp
from jaxmodels.train import checkpoint, state, stored
from jaxmodels.train.errors import StorageError

{inspect.getsource(make_state)}

def abstract(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)

"""


def start_python(script, *arguments, devices=1):
    """A process of its own, because what happens to it must not happen to us."""
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(script), *map(str, arguments)],
        cwd=ROOT,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "PYTHONPATH": str(ROOT),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def output_of(process):
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    return text


def placed(tree):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def sharding(x):
        return NamedSharding(
            mesh, PartitionSpec("data") if x.ndim == 2 else PartitionSpec()
        )

    return jax.tree.map(lambda x: jax.device_put(x, sharding(x)), tree)


def target_of(tree):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
        placed(tree),
    )


def assert_same(one, other):
    chex.assert_trees_all_equal(jax.device_get(one), jax.device_get(other))


def restore(folder):
    """What a new process would restore."""
    checkpoints = checkpoint.Checkpoints(folder)
    try:
        return checkpoints.restore(target_of(make_state(0)))
    finally:
        checkpoints.close()


def listing(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def warnings(caplog):
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelname == "WARNING"
    ]


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
    largest_file(folder / "20").write_bytes(b"")
    networks = checkpoint.restore_networks(folder.parent)
    assert_same(networks["model"]["params"], make_state(10).params["model"])
    started, lines = checkpoint.init_from(folder.parent, placed(make_state(5)))
    assert lines == []
    assert_same(started.params, make_state(10).params)
    assert len(warnings(caplog)) == 2
    with pytest.raises(StorageError, match="step 20: "):
        checkpoint.restore_networks(folder.parent, step=20)


def test_a_folder_that_cannot_be_made_costs_a_line_and_not_the_run(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    checkpoints = checkpoint.Checkpoints(tmp_path / "file" / "checkpoints")
    assert not checkpoints.save(make_state(1))
    assert "checkpoint 1 was not saved" in checkpoints.last_error
    assert "NotADirectoryError" in checkpoints.last_error
    with pytest.raises(StorageError, match="checkpoint 1 was not saved"):
        checkpoints.save(make_state(1), wait=True)
    (tmp_path / "file").unlink()
    assert checkpoints.save(make_state(2), wait=True)
    checkpoints.close()
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]


def test_a_full_disk_costs_a_save_and_no_older_step(tmp_path):
    script = """
    checkpoints = checkpoint.Checkpoints(sys.argv[1])
    assert checkpoints.save(make_state(1), wait=True)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limits[1]))
    checkpoints.save(make_state(2, 2**16))
    checkpoints.wait()
    assert "checkpoint 2 was not saved" in checkpoints.last_error
    assert os.listdir(sys.argv[1]) == ["1"], os.listdir(sys.argv[1])
    try:
        checkpoints.save(make_state(3, 2**16), wait=True)
    except StorageError as error:
        assert error.exit_code == 75
        print("exit", error)
    assert os.listdir(sys.argv[1]) == ["1"], os.listdir(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpoints.save(make_state(4, 2**16), wait=True)
    assert checkpoints.last_error is None
    print("steps", checkpoints.steps())
    restored = checkpoints.restore(abstract(make_state(4, 2**16)))
    kernel = make_state(4, 2**16).params["model"]["kernel"]
    assert (restored.params["model"]["kernel"] == kernel).all()
    checkpoints.close()
    """
    folder = tmp_path / "checkpoints"
    lines = output_of(start_python(script, folder)).splitlines()
    (stop,) = [line for line in lines if line.startswith("exit checkpoint 3 was not")]
    assert "File too large" in stop
    assert "steps [1, 4]" in lines
    # Two failures, a line each.
    assert len(lines) == 4, lines
    shutil.rmtree(folder / "4")
    assert_same(restore(folder), make_state(1))


@pytest.mark.parametrize("starts", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_a_kill_during_a_save_leaves_what_can_be_restored(tmp_path, starts):
    script = """
    checkpoints = checkpoint.Checkpoints(sys.argv[1])
    size = 2**16
    restored = checkpoints.restore(abstract(make_state(0, size)))
    step = 0 if restored is None else int(restored.step)
    if restored is not None:
        kernel = make_state(step, size).params["model"]["kernel"]
        assert (restored.params["model"]["kernel"] == kernel).all()
    print("restored", step, *sorted(os.listdir(sys.argv[1])), flush=True)
    while True:
        step += 1
        assert checkpoints.save(make_state(step, size))
    """
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    rng = random.Random(0)
    reached, in_flight = [], 0
    for _ in range(starts):
        process = start_python(script, folder)
        line = process.stdout.readline().split()
        assert line[:1] == ["restored"], line + process.stdout.readlines()
        reached.append(int(line[1]))
        in_flight += any(stored.UNFINISHED in name for name in line)
        time.sleep(rng.uniform(0.5, 1.5))
        wait_for_unfinished(folder)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert reached[0] == 0 and reached == sorted(set(reached))
    assert (
        in_flight == starts - 1
    )  # each later start found the save that the kill cut off


def wait_for_unfinished(folder):
    deadline = time.time() + 60
    while time.time() < deadline:
        if any(stored.UNFINISHED in name for name in os.listdir(folder)):
            return
    raise AssertionError("no save was seen on its way")


def test_processes_agree_which_step_is_good(tmp_path):
    script = """
    rank, folder = int(sys.argv[1]), sys.argv[3]
    jax.distributed.initialize(f"localhost:{sys.argv[2]}", 2, rank)
    import numpy as np
    from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))

    def place(x):
        sharding = NamedSharding(mesh, P("data") if x.ndim == 2 else P())
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    checkpoints = checkpoint.Checkpoints(folder)
    for step in (1, 2):
        assert checkpoints.save(jax.tree.map(place, make_state(step)))
    checkpoints.wait()
    assert checkpoints.last_error is None
    read = stored._read_arrays

    def misread(path, wanted):
        if rank == 1 and path.parent.name == "2":
            raise stored.CorruptError("only this process sees it")
        return read(path, wanted)

    stored._read_arrays = misread
    placed = jax.tree.map(place, make_state(0))
    target = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), placed
    )
    restored = checkpoints.restore(target)
    print("step", int(restored.step), checkpoints.steps(), flush=True)
    assert checkpoints.save(jax.tree.map(place, make_state(3)), wait=True)
    print("steps", checkpoints.steps(), flush=True)
    checkpoints.close()
    jax.distributed.shutdown()
    """
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    folder = tmp_path / "checkpoints"
    processes = [start_python(script, rank, port, folder, devices=2) for rank in (0, 1)]
    texts = [output_of(process) for process in processes]
    assert all("step 1 [1, 2]\n" in text for text in texts), texts
    assert all("steps [1, 3]\n" in text for text in texts), texts
    assert "another process" in texts[0]
    assert "only this process sees it" in texts[1]
    assert (folder / "2.corrupt").is_dir()
    assert_same(restore(folder), make_state(3))
