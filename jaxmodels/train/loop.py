"""The training loop: it owns time, the task owns mathematics.

Update n (from 0) is a function of the state before it, of batch n and of
fold_in(key, n), and of nothing else. So a run that was stopped, killed or moved to
another mesh goes on as if it never had been.
"""

import contextlib
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from jaxmodels.train import (
    checkpoint,
    distributed,
    feed,
    flops,
    metrics,
    model_file,
    sharding,
)
from jaxmodels.train.console import Progress
from jaxmodels.train.errors import Preempted
from jaxmodels.train.preemption import StopRequests
from jaxmodels.train.report import Report
from jaxmodels.train.watchdog import Watchdog


class Limits(NamedTuple):
    """When a run gives up.

    Attributes:
        nonfinite_in_a_row: refused updates in a row that end the run.
        nonfinite_per_thousand: refused updates among the last 1000 that end it.
        hang_seconds: longest time between two steps; None waits for ever.
        compile_seconds: longest time to the first step; None waits for ever.
    """

    nonfinite_in_a_row: int = 10
    nonfinite_per_thousand: int = 100
    hang_seconds: float | None = None
    compile_seconds: float | None = None


class Programs(NamedTuple):
    """The compiled functions of a run and where its state lives."""

    target: object  # TrainState of ShapeDtypeStruct with shardings
    init: object  # rng -> state
    train_step: object  # (state, batch, rng) -> (state, metrics)
    eval_step: object  # (state, batch, rng) -> metrics


def programs(task, mesh, rules=sharding.PARAM_RULES):
    """Jits a task for a mesh. Enter the mesh and the activation rules first."""

    def train_step(state, batch, rng):
        return task.train_step(state, batch, jax.random.fold_in(rng, state.step))

    # Metrics come back whole to every process.
    whole = NamedSharding(mesh, PartitionSpec())
    abstract = jax.eval_shape(task.init, jax.random.key(0))
    shardings = sharding.state_shardings(abstract, mesh, rules)
    return Programs(
        sharding.targets(abstract, shardings),
        jax.jit(task.init, out_shardings=shardings),
        jax.jit(train_step, donate_argnums=0, out_shardings=(shardings, whole)),
        jax.jit(task.eval_step, out_shardings=whole),
    )


@contextlib.contextmanager
def on_mesh(mesh):
    """Enters a mesh and the activation rules; both are part of what is traced."""
    with jax.set_mesh(mesh), sharding.activation_rules():
        yield mesh


def keys(seed):
    """The three keys of a run: initialization, training, evaluation."""
    return jax.random.split(jax.random.key(seed), 3)


def evaluate(task, data, state, *, mesh=None, seed=0):
    """Metrics of a state on all evaluation batches.

    Args:
        task: a `Task`.
        data: has `eval(step, rank, ranks)`, `num_eval_batches` and `baselines`.
        state: a `TrainState` that lives on `mesh`.
        mesh: all devices along `data` when omitted.

    Returns:
        name -> float, the baselines of the data among them.
    """
    mesh = sharding.make_mesh() if mesh is None else mesh
    with on_mesh(mesh):
        step = programs(task, mesh).eval_step
        still = Watchdog(None, first_seconds=None)
        return _evaluate(task, step, data, state, mesh, keys(seed)[2], still)


def _evaluate(task, eval_step, data, state, mesh, rng, watchdog):
    totals = None
    held_out = feed.batches(data.eval, mesh, 0, data.num_eval_batches, num_threads=0)
    for index, batch in enumerate(held_out):
        batch_metrics = eval_step(state, batch, jax.random.fold_in(rng, index))
        batch_metrics = jax.device_get(batch_metrics)
        totals = metrics.add(totals, batch_metrics) if totals else batch_metrics
        watchdog.beat(index)
    return {**task.summarize(totals), **data.baselines}


def fit(
    task,
    data,
    *,
    num_steps,
    workdir=None,
    mesh=None,
    seed=0,
    log_every=100,
    eval_every=1000,
    save_every=1000,
    keep=3,
    limits=Limits(),  # noqa: B008, an immutable default
    num_threads=2,
    num_workers=0,
    init_from=None,
    profile_steps=None,
    rules=sharding.PARAM_RULES,
    quiet=False,
):
    """Trains `task` on `data` and returns the state after `num_steps` updates.

    A workdir that holds checkpoints is resumed. In it appear `model.json`,
    `metrics.jsonl`, TensorBoard events, `loss.png` and `checkpoints/`.

    Args:
        task: a `Task`.
        data: a `Data`: `train(step, rank, ranks)` and `eval(step, rank, ranks)` give
            rows of global batches as numpy arrays; see `jaxmodels.data.pipeline`.
        num_steps: updates in all, those of an earlier run of this workdir included.
        workdir: folder of the run; nothing is written when omitted.
        mesh: from `sharding.make_mesh`; all devices along `data` when omitted.
        seed: of initialization and of every update.
        log_every, eval_every, save_every: updates between two of each; the last
            update does all three, and 0 means only then.
        keep: newest checkpoints that stay.
        limits: when to give up.
        num_threads, num_workers: threads, or processes, that read batches.
        init_from: (folder of another run, names of networks or None for all); a name
            may be "network/module", and then that module has to be the same one there.
        profile_steps: (first, last) updates to trace into `workdir/profile`.
        rules: parameter sharding by path.
        quiet: no progress on the console.

    Raises:
        ConfigError: the checkpoint does not fit the task, or the run to start from was
            trained on another preprocessing or other modules.
        DivergedError: more refused updates than `limits` allow.
        StorageError: the last state could not be saved, or none could be read.
        Preempted: the machine asked to stop; the state is saved.
        KeyboardInterrupt: the user asked to stop; the state is saved.
        ValueError: a step count or cadence that makes no sense.
    """
    _check_numbers(num_steps, log=log_every, eval=eval_every, save=save_every)
    mesh = sharding.make_mesh() if mesh is None else mesh
    workdir = pathlib.Path(workdir) if workdir else None
    written = workdir if jax.process_index() == 0 else None
    init_rng, train_rng, eval_rng = keys(seed)
    with contextlib.ExitStack() as stack:
        stack.enter_context(on_mesh(mesh))
        watchdog = stack.enter_context(_watchdog(limits, written))
        stops = stack.enter_context(StopRequests())
        jitted = programs(task, mesh, rules)
        checkpoints = _open_checkpoints(stack, workdir, keep, data.preprocessing)
        state, notes = _first_state(
            jitted, checkpoints, init_rng, init_from, task, data
        )
        first = int(state.step)
        progress = Progress(
            num_steps, first, unit=data.unit, quiet=quiet or jax.process_index() > 0
        )
        report = stack.enter_context(
            Report(task, data, progress, written, limits, state)
        )
        for note in notes:
            progress.message(note)
        if written:
            model_file.write(written, task.networks, data.preprocessing)
        batches = feed.batches(
            data.train,
            mesh,
            first,
            num_steps,
            num_threads=num_threads,
            num_workers=num_workers,
        )
        train_step, eval_step = (
            _together(jitted.train_step),
            _together(jitted.eval_step),
        )
        progress.flops(*_cost(task, data, state, train_rng))
        for index, batch in zip(range(first, num_steps), batches, strict=True):
            report.profile(index, profile_steps)
            state, step_metrics = train_step(state, batch, train_rng)
            step, last = index + 1, index + 1 == num_steps
            report.flush()
            watchdog.beat(index)
            report.defer(step, step_metrics, due=last or _due(step, log_every))
            stop = stops.reached(step)
            if last or _due(step, eval_every):
                report.flush()
                with progress.pause(), watchdog.pause():
                    values = _evaluate(
                        task, eval_step, data, state, mesh, eval_rng, watchdog
                    )
                report.write(step, "eval", values)
            if checkpoints and (last or stop or _due(step, save_every)):
                report.flush()
                with progress.pause(), watchdog.pause():
                    checkpoints.save(state, wait=bool(last or stop))
            if stop and not last:
                report.flush()
                _stop(stop, step, workdir)
        report.flush()
    return state


def _due(step, every):
    return bool(every) and step % every == 0


def _check_numbers(num_steps, **cadences):
    if num_steps < 1:
        raise ValueError(f"num_steps {num_steps} must be at least 1")
    for name, every in cadences.items():
        if every < 0:
            raise ValueError(
                f"{name}_every {every} must be at least 1, or 0 for the end only"
            )


def _stop(stop, step, workdir):
    where = f"saved in {workdir}" if workdir else "nothing was saved: no workdir"
    if stop == "interrupted":
        raise KeyboardInterrupt(f"stopped after update {step}; {where}")
    raise Preempted(f"preempted after update {step}; {where}; run it again to resume")


def _watchdog(limits, workdir):
    heartbeat = workdir / "heartbeat" if workdir else None
    seconds, first_seconds = limits.hang_seconds, limits.compile_seconds
    return Watchdog(seconds, first_seconds=first_seconds, heartbeat=heartbeat)


def _together(jitted):
    """Compiles at the first call, which waits until all processes have compiled."""
    compiled: list = []

    def call(*args):
        if not compiled:
            compiled.append(distributed.compile_together(jitted, *args))
        return compiled[0](*args)

    return call


def _cost(task, data, state, rng):
    """Operations of an update and the peak of all devices; None where unknown."""
    peak = flops.peak_flops(jax.devices()[0].device_kind)
    if peak is None:
        return None, None
    batch = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, data.train(0, 0, 1)))
    count = flops.count_flops(task.train_step, state, batch, rng)
    return count, peak * jax.device_count()


def _open_checkpoints(stack, workdir, keep, preprocessing):
    if workdir is None:
        return None
    saver = checkpoint.Checkpoints(
        workdir / "checkpoints", keep=keep, preprocessing=preprocessing
    )
    return stack.enter_context(contextlib.closing(saver))


def _first_state(jitted, checkpoints, rng, init_from, task, data):
    """The restored state or a new one, and lines that say which."""
    state = checkpoints.restore(jitted.target) if checkpoints else None
    if state is not None:
        return state, [f"resumed after update {int(state.step)}"]
    state = _together(jitted.init)(rng)
    if not init_from:
        return state, []
    folder, networks = init_from
    model_file.check_shared(folder, data.preprocessing, data.shared)
    if modules := [name for name in networks or () if "/" in name]:
        model_file.check_modules(folder, task.networks, modules)
    state, lines = checkpoint.init_from(folder, state, networks)
    return state, [f"parameters from {folder}", *lines]
