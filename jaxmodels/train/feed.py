"""From a pure `read(step, rank, ranks)` to global arrays on the mesh, ahead of time.

The rank is the data shard of the mesh, not the process: devices that differ only along
`model` or `seq` hold the same rows, whichever process they belong to. Since a batch is
a function of its step, a run resumes on any number of processes with nothing but the
step.
"""

import collections
import itertools

import grain
import jax

from jaxmodels.train import sharding


class _LocalRows:
    """Reads the rows of one step that this process's devices hold; picklable."""

    def __init__(self, read, shards, num_shards):
        self.read, self.shards, self.num_shards = read, shards, num_shards

    def __call__(self, step):
        return {
            shard: self.read(int(step), shard, self.num_shards) for shard in self.shards
        }


def _shard_of(mesh):
    """Local device -> index of the data shard it holds."""
    num_shards = sharding.data_shards(mesh)
    placed = sharding.batch_sharding(mesh)
    indices = placed.addressable_devices_indices_map((num_shards,))
    return {device: index[0].start or 0 for device, index in indices.items()}


def place(rows, mesh):
    """Global arrays from {data shard: {name: rows of this shard}}."""
    placed, shard_of = sharding.batch_sharding(mesh), _shard_of(mesh)
    num_shards = sharding.data_shards(mesh)

    def assemble(name):
        example = next(iter(rows.values()))[name]
        shape = (example.shape[0] * num_shards, *example.shape[1:])
        parts = [
            jax.device_put(rows[shard][name], device)
            for device, shard in shard_of.items()
        ]
        return jax.make_array_from_single_device_arrays(shape, placed, parts)

    return {name: assemble(name) for name in next(iter(rows.values()))}


def batches(read, mesh, first, stop, *, num_threads=2, num_workers=0, ahead=2):
    """Global batches first .. stop-1, in order, read and placed ahead of their use.

    Args:
        read: (step, rank, ranks) -> {name: rows}, pure; picklable for workers.
        mesh: the mesh that the arrays are placed on.
        first, stop: steps.
        num_threads: threads that read; 0 reads when asked.
        num_workers: processes that read instead, for transforms heavy in Python. They
            import the main module anew, which therefore needs its `__main__` guard.
        ahead: batches placed on the devices before they are needed.
    """
    shards = sorted(set(_shard_of(mesh).values()))
    load = _LocalRows(read, shards, sharding.data_shards(mesh))
    # The default would hold 500 batches in memory.
    options = grain.ReadOptions(
        num_threads=num_threads, prefetch_buffer_size=2 * num_threads
    )
    steps = grain.MapDataset.range(first, stop).map(load).to_iter_dataset(options)
    if num_workers:
        # Grain's workers look at a flag that only an absl application parses.
        from absl import flags

        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        steps = steps.mp_prefetch(
            grain.multiprocessing.MultiprocessingOptions(num_workers=num_workers)
        )
    return _place_ahead((place(rows, mesh) for rows in steps), ahead)


def _place_ahead(placed, ahead):
    queue = collections.deque(itertools.islice(placed, ahead))
    while queue:
        yield queue.popleft()
        queue.extend(itertools.islice(placed, 1))
