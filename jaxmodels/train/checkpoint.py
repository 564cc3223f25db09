"""Checkpoints of the whole train state: written while training goes on, read verified.

Orbax writes them asynchronously and atomically, each process its own shards. Every one
carries digests of its arrays. A restore takes the newest step whose digests hold, on
whatever mesh and number of processes it is asked for; parts of a run are read the same
way by `restore_networks` and `init_from`.
"""

import concurrent.futures
import contextlib
import json
import time

import jax
import orbax.checkpoint as ocp
from absl import logging

from jaxmodels.train import digest, model_file, stored
from jaxmodels.train.errors import ConfigError, StorageError
from jaxmodels.train.transfer import init_from, restore_networks

__all__ = ["Checkpoints", "init_from", "restore_networks"]

TELLING = ("params/", "collections/")
MOST_DIFFERENCES = 5
WRITE, SAME, REPLACE, FAILED = range(4)


class Checkpoints:
    """The checkpoints of one run; its processes all make the same calls.

    Args:
        directory: folder of the steps; made at the first save. A path, or a URL that
            `etils.epath` opens.
        keep: how many of the newest are kept.
        keep_every: steps divisible by it are kept as well.
        preprocessing: that of `model.json`, stored beside the digests, which
            `restore_networks` can hold a `model.json` against.

    Attributes:
        last_error: one line about the last save if it failed, else None.

    Raises:
        ConfigError: `keep` or `keep_every` is less than 1.
    """

    def __init__(self, directory, *, keep=3, keep_every=None, preprocessing=None):
        for name, value in (("keep", keep), ("keep_every", keep_every)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} {value} is less than 1")
        stored.quiet_orbax()
        self.directory = stored.open_folder(directory)
        self.last_error = None
        self._keep, self._keep_every = keep, keep_every
        # As it comes back from JSON.
        told = None if preprocessing is None else model_file.encoded(preprocessing)
        self._preprocessing = json.loads(json.dumps(told))
        self._bad = {}
        self._writing = None
        self._prepared = False
        self._checkpointer = None
        # One thread sees each save to its end: it reports, cleans up and prunes.
        self._worker = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")

    def steps(self):
        """Steps on disk, ascending."""
        return stored.list_steps(self.directory)

    def save(self, state, *, wait=False):
        """Writes a state in the background; it may be donated as soon as this returns.

        Blocks until an earlier save is through and the arrays are copied. A failure,
        now or in the background, is one logged line and `last_error`: training goes on,
        older steps stay as they are, and the next save tries again.

        Args:
            state: a `TrainState` of arrays; its `step` names the checkpoint.
            wait: return when the state is on disk.

        Returns:
            Whether the state is on disk or on its way there.

        Raises:
            StorageError: with `wait`, the state is not on disk in the end.
        """
        self.wait()
        step = int(state.step)
        leaves = {
            name: jax.numpy.asarray(leaf)
            for name, leaf in digest.flatten(state).items()
        }
        digests, not_finite = digest.inspect(leaves)
        if not_finite:
            error = f"{not_finite[0]} is not finite; a state like that is never saved"
            self._failed(step, error)
        else:
            record = stored.make_record(step, leaves, digests, self._preprocessing)
            self._begin(step, leaves, record)
        if wait:
            self.wait()
            if self.last_error is not None:
                raise StorageError(self.last_error)
        return self.last_error is None

    def restore(self, target):
        """The newest state whose digests hold.

        A step that cannot be read or differs from what was saved is passed over with
        a warning; once an older one has verified, the next save moves it aside.

        Args:
            target: a `TrainState` of `jax.ShapeDtypeStruct` with shardings.

        Returns:
            The state, placed as `target` says, or None when there is no checkpoint.

        Raises:
            ConfigError: the checkpoint holds another tree, shape or dtype.
            StorageError: there are checkpoints and none can be restored.
        """
        self.wait()
        steps = self.steps()
        if not steps:
            return None
        wanted = digest.flatten(target)

        def choose(record):
            check_fit(wanted, record, self.directory)
            return wanted

        loaded = stored.newest(self.directory, steps, choose)
        self._bad = loaded.bad
        leaves = (loaded.leaves[name] for name in wanted)
        return jax.tree.unflatten(jax.tree.structure(target), leaves)

    def wait(self):
        """Blocks until no save is under way; `last_error` tells how it went."""
        if self._writing is None:
            return
        error, self._writing = self._writing.result(), None
        if stored.agree(error is not None) and error is None:
            error = "another process could not write its part"
            self._failed(None, error)

    def close(self):
        """Waits, then ends the threads. No other method may be called afterwards.

        It asks no other process, so that one of them may close alone after an error.
        """
        self._worker.shutdown()
        if self._checkpointer is not None:
            self._checkpointer.close()

    def _failed(self, step, error):
        where = f"checkpoint {step} " if step is not None else "the checkpoint "
        self.last_error = f"{where}was not saved to {self.directory}: {error}"
        self._prepared = False
        logging.error("%s", self.last_error)

    def _begin(self, step, leaves, record):
        """Starts the write, unless this very state is on disk already."""
        code, error = FAILED, "the first process could not prepare the folder"
        try:
            if jax.process_index() == 0:
                code = self._prepare(step, record)
        except OSError as caught:
            error = stored.first_line(caught)
        code = stored.from_primary([code])[0]
        if code == FAILED:
            self._failed(step, error)
            return
        self.last_error = None
        if code == SAME:
            return
        if self._checkpointer is None:
            self._checkpointer = ocp.AsyncCheckpointer(stored.handlers())
        try:
            self._checkpointer.save(
                self.directory / str(step),
                args=ocp.args.Composite(
                    **{
                        stored.STATE: ocp.args.PyTreeSave(digest.nest(leaves)),
                        stored.DIGESTS: ocp.args.JsonSave(stored.seal(record)),
                    }
                ),
                force=code == REPLACE,
            )
        except (OSError, ValueError, RuntimeError) as caught:
            self._clear_unfinished()
            error = stored.first_line(caught)
            self._failed(step, error)
            # The other processes will ask this one how its write went.
            self._writing = self._worker.submit(lambda: error)
        else:
            self._writing = self._worker.submit(self._finish, self._checkpointer, step)

    def _prepare(self, step, record):
        """Readies the folder; tells what is to be done about a step that is there."""
        if not self._prepared:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._clear_unfinished()
            self._prepared = True
        for bad in self._bad:
            self._move_aside(bad)
        self._bad = {}
        if not (self.directory / str(step)).exists():
            return WRITE
        try:
            same = stored.read_record(self.directory, step) == record
        except (stored.CorruptError, ConfigError):
            same = False
        return SAME if same else REPLACE

    def _finish(self, checkpointer, step):
        """Sees one save to its end, in the worker's thread; returns what went wrong."""
        try:
            checkpointer.wait_until_finished()
        except Exception as caught:  # TensorStore raises bare Exception too.
            self._clear_unfinished()
            error = stored.first_line(caught)
            self._failed(step, error)
            return error
        if jax.process_index() == 0:
            try:
                self._prune()
            except OSError as caught:
                logging.warning(
                    "old checkpoints in %s were not removed: %s",
                    self.directory,
                    stored.first_line(caught),
                )
        return None

    def _prune(self):
        """Removes old steps, but none for the sake of a newer one that is not whole."""
        names = [path.name for path in self._folders()]
        steps = sorted(int(name) for name in names if stored.is_step(name))
        whole = [step for step in steps if self._looks_whole(step)]
        if len(whole) < self._keep:
            return
        for step in steps:
            if step >= whole[-self._keep]:
                return
            if self._keep_every is None or step % self._keep_every:
                (self.directory / str(step)).rmtree()

    def _looks_whole(self, step):
        try:
            stored.read_record(self.directory, step)
        except (stored.CorruptError, ConfigError):
            return False
        return (self.directory / str(step) / stored.STATE).exists()

    def _clear_unfinished(self):
        """Removes what a killed or failed save left; only ever called by the writer."""
        for _ in range(20 if jax.process_index() == 0 else 0):
            with contextlib.suppress(OSError):
                left = [p for p in self._folders() if stored.UNFINISHED in p.name]
                if not left:
                    return
                for path in left:
                    path.rmtree()
            # Other arrays of a failed save may still be on their way into the folder.
            time.sleep(0.05)

    def _folders(self):
        return list(self.directory.iterdir()) if self.directory.exists() else []

    def _move_aside(self, step):
        source = self.directory / str(step)
        target = self.directory / f"{step}{stored.CORRUPT}"
        again = 1
        while target.exists():
            again += 1
            target = self.directory / f"{step}-{again}{stored.CORRUPT}"
        if source.exists():
            source.rename(target)


def check_fit(wanted, record, directory):
    """Compares what a model wants with what a checkpoint holds.

    Raises:
        ConfigError: they differ; names the first few differences.
    """
    held = record["leaves"]
    differences = {}
    for name in sorted(wanted.keys() | held.keys()):
        wants = stored.describe(wanted[name]) if name in wanted else "nothing"
        holds = stored.describe(held[name]) if name in held else "nothing"
        if wants != holds:
            differences[name] = f"the model wants {wants}, the checkpoint holds {holds}"
    if not differences:
        return
    # Averages and moments follow the parameters; they say something only by themselves.
    telling = [name for name in differences if name.startswith(TELLING)]
    shown = [
        f"{name.removeprefix('params/')}: {differences[name]}"
        for name in (telling or list(differences))[:MOST_DIFFERENCES]
    ]
    if rest := len(differences) - len(shown):
        shown.append(f"and {rest} more")
    raise ConfigError(
        f"checkpoint {record['step']} in {directory} does not fit: {'; '.join(shown)}; "
        "go back to its configuration or name another workdir"
    )
