import collections

import jax
import numpy as np
import pytest

from jaxmodels.train import feed, sharding

BATCH = 8


def read(step, rank, ranks):
    rows = np.arange(BATCH) + 100 * step
    own = rows.reshape(ranks, -1)[rank]
    return {"inputs": np.stack([own, own], axis=1)}


MESHES = [
    dict(data=8),
    dict(data=2, fsdp=2, model=2),
    dict(data=1, fsdp=2, model=2, seq=2),
    dict(data=1, model=8),
]


@pytest.mark.parametrize("shape", MESHES)
def test_every_mesh_sees_the_same_global_batches_in_order(shape):
    mesh = sharding.make_mesh(**shape)
    found = list(feed.batches(read, mesh, 3, 7))
    assert len(found) == 4
    for step, batch in enumerate(found, start=3):
        np.testing.assert_array_equal(batch["inputs"], read(step, 0, 1)["inputs"])
        rows = BATCH // sharding.data_shards(mesh)
        assert batch["inputs"].addressable_shards[0].data.shape == (rows, 2)


def test_a_shard_is_read_once_however_many_devices_hold_it():
    calls = collections.Counter()

    def counted(step, rank, ranks):
        calls[step, rank, ranks] += 1
        return read(step, rank, ranks)

    mesh = sharding.make_mesh(data=2, model=2, seq=2)
    list(feed.batches(counted, mesh, 0, 2))
    assert calls == {(step, rank, 2): 1 for step in (0, 1) for rank in (0, 1)}


def test_batches_are_placed_ahead_and_not_much_further():
    read_steps = []

    def recorded(step, rank, ranks):
        read_steps.append(step)
        return read(step, rank, ranks)

    stream = feed.batches(
        recorded, sharding.make_mesh(), 0, 100, num_threads=0, ahead=3
    )
    next(stream)
    assert max(read_steps) == 2


def test_an_error_while_reading_reaches_the_loop_as_it_is():
    def broken(step, rank, ranks):
        if step == 1:
            raise KeyError("record 17")
        return read(step, rank, ranks)

    stream = feed.batches(broken, sharding.make_mesh(), 0, 3, ahead=1)
    next(stream)
    with pytest.raises(KeyError, match="record 17"):
        next(stream)


@pytest.mark.slow
def test_worker_processes_give_what_threads_give():
    mesh = sharding.make_mesh()
    stream = feed.batches(read, mesh, 2, 6, num_workers=2)
    for step, batch in enumerate(stream, start=2):
        np.testing.assert_array_equal(
            jax.device_get(batch["inputs"]), read(step, 0, 1)["inputs"]
        )
