"""What the disk, the machine and other processes do to a save."""

import os
import random
import shutil
import signal
import socket
import time

import pytest

from jaxmodels.train import checkpoint, stored
from jaxmodels.train.errors import StorageError
from tests.train.stored_states import (
    assert_same,
    make_state,
    output_of,
    restore,
    start_python,
)


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
