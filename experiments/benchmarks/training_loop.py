"""How much of the training loop's time is spent outside the compiled step.

Timed in turn, on one device and with the same config: the compiled step alone, on a
batch that stays on the device; `fit` without a workdir; `fit` with one. The loop's
times are those of whole logging intervals as they pass within one call of `fit`. So
they hold reading and placing the batches, dispatch, the guard, fetching and summarizing
the metrics, and with a workdir writing metrics.jsonl and TensorBoard events. Compiling,
evaluations, checkpoints and the plot, which is drawn after an evaluation, lie outside.
"""

import contextlib
import functools
import itertools
import pathlib
import statistics
import tempfile
from typing import NamedTuple

import jax

from experiments import performer_lm
from jaxmodels.train import checkpoint, loop, sharding

# Of the loop's intervals, how many the step alone is timed for, before and after it.
STEP_SHARE = 3
# Two loops, and three times a third of one of them.
LOOPS_AND_STEPS = 3
WARM_STEPS = 2


class Round(NamedTuple):
    """Seconds of an update, one figure for each interval.

    Attributes:
        before, between, after: the compiled step alone, around the two loops.
        plain: in `fit` without a workdir.
        files: in `fit` with one.
    """

    before: list
    plain: list
    between: list
    files: list
    after: list


class Alone(NamedTuple):
    """The compiled programs of a run, without its loop.

    Attributes:
        update: () -> metrics of an update that may still be under way.
        evaluate: () -> metrics of one batch of the held-out split.
        save: folder -> None, when the state is on disk.
    """

    update: object
    evaluate: object
    save: object


def measure_loop(chosen, *, steps, rounds, seconds, clock):
    """Times the loop, its step alone, an evaluation batch and a checkpoint.

    Args:
        chosen: config of the language model.
        steps: updates timed in each loop of a round.
        rounds: of both loops.
        seconds: that all rounds may take; a slow machine times fewer updates.
        clock: () -> seconds.

    Returns:
        `figures`, the interval, the timed updates, and the seconds of an evaluation
        batch and of a checkpoint.
    """
    # `fit` ends with an evaluation.
    chosen.eval.num_batches = 1
    data, task = performer_lm.make_data(chosen), performer_lm.make_task(chosen)
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    every = min(chosen.log_every, steps)
    timed = {"every": every, "clock": clock}

    with tempfile.TemporaryDirectory() as folder:
        with loop.on_mesh(mesh):
            alone = prepare(task, data, mesh)
        (lap,) = step_laps(alone.update, every=WARM_STEPS, count=1, clock=clock)
        count = intervals(steps, every, lap, seconds / rounds)
        step = functools.partial(
            step_laps, alone.update, count=max(1, count // STEP_SHARE), **timed
        )
        in_loop = functools.partial(
            loop_laps,
            functools.partial(loop.fit, mesh=mesh, quiet=True),
            task,
            data,
            count=count,
            num_threads=chosen.data.num_threads,
            **timed,
        )
        seen = [
            one_round(step, in_loop, pathlib.Path(folder) / str(number))
            for number in range(rounds)
        ]
        alone.evaluate()
        marks = [clock()]
        alone.evaluate()
        marks.append(clock())
        alone.save(pathlib.Path(folder) / "checkpoint")
        marks.append(clock())
    return figures(seen) | {
        "log_every": every,
        "updates": rounds * count * every,
        "evaluation_batch_seconds": marks[1] - marks[0],
        "checkpoint_seconds": marks[2] - marks[1],
    }


def intervals(steps, every, lap, seconds):
    """Logging intervals to time in each of two loops, one at least.

    Args:
        steps: updates that are wanted.
        every: updates of an interval.
        lap: seconds of an update.
        seconds: for both loops with an interval of compiling each, and for the step.
    """
    fit = int(seconds / (every * lap) - 2) // LOOPS_AND_STEPS
    return max(1, min(steps // every, fit))


def prepare(task, data, mesh):
    """`Alone`, compiled and run once, on the first batches of `data`."""
    programs = loop.programs(task, mesh)
    placed = sharding.batch_sharding(mesh)
    batch, held_out = (
        jax.device_put(read(0, 0, 1), placed) for read in (data.train, data.eval)
    )
    rng = jax.random.key(0)
    held = [programs.init(rng)]
    compiled = programs.train_step.lower(held[0], batch, rng).compile()
    judge = programs.eval_step.lower(held[0], held_out, rng).compile()

    def update():
        held[0], metrics = compiled(held[0], batch, rng)
        return metrics

    def evaluate():
        fresh = jax.device_put(data.eval(0, 0, 1), placed)
        return jax.device_get(judge(held[0], fresh, rng))

    def save(folder):
        with contextlib.closing(checkpoint.Checkpoints(folder)) as kept:
            kept.save(held[0], wait=True)

    jax.block_until_ready(update())
    return Alone(update, evaluate, save)


def one_round(step, in_loop, workdir):
    """The step alone, the loop, the step, the loop with files, the step: a `Round`."""
    return Round(step(), in_loop(), step(), in_loop(workdir=workdir), step())


def step_laps(update, *, every, count, clock):
    """Seconds of an update in each of `count` intervals of `every` updates."""
    laps = []
    for _ in range(count):
        begin = clock()
        for _ in range(every):
            metrics = update()
        jax.block_until_ready(metrics)
        laps.append((clock() - begin) / every)
    return laps


def loop_laps(fit, task, data, *, every, count, clock, **options):
    """Seconds of an update in each of `count` logging intervals within `fit`.

    The interval before them, in which it compiles, is not counted, nor is what follows
    the last.
    """
    marks: list = []

    def marked(totals):
        marks.append(clock())
        return task.summarize(totals)

    fit(
        task._replace(summarize=marked),
        data,
        num_steps=(count + 1) * every + 1,
        log_every=every,
        eval_every=0,
        save_every=0,
        **options,
    )
    pairs = itertools.pairwise(marks[: count + 1])
    return [(end - begin) / every for begin, end in pairs]


def figures(rounds):
    """Seconds and shares of `Round`s.

    Returns:
        seconds of an update (medians over all intervals), and for `plain` and `files`
        the share of the loop's time outside the step: 1 - step / loop with the step
        timed just before and just after; of medians, and of all time, pauses of the
        machine included. Medians over the rounds.
    """
    shares: dict = {
        kind: {
            "share_outside": _share(rounds, kind, statistics.median),
            "share_outside_of_all_time": _share(rounds, kind, statistics.fmean),
            "update_seconds": statistics.median(
                itertools.chain(*(getattr(one, kind) for one in rounds))
            ),
        }
        for kind in ("plain", "files")
    }
    steps = (lap for one in rounds for lap in one.before + one.between + one.after)
    return shares | {
        "step_seconds": statistics.median(steps),
        "rounds": [one._asdict() for one in rounds],
    }


def _share(rounds, kind, middle):
    def share(one):
        around = one.before + one.between
        if kind == "files":
            around = one.between + one.after
        return 1 - middle(around) / middle(getattr(one, kind))

    return statistics.median(map(share, rounds))


def lines(found):
    """The figures as Markdown, with what they hold and what they do not."""

    def row(name, kind):
        own = found[kind]
        return (
            f"| {name} | {1e3 * own['update_seconds']:.1f} | "
            f"{100 * own['share_outside']:.1f} % | "
            f"{100 * own['share_outside_of_all_time']:.1f} % |"
        )

    return [
        "## The training loop",
        "",
        "`configs/performer/lm.py:tiny` on its text, one `fit` for each loop, "
        f"{found['updates']} timed updates, logged every {found['log_every']}.",
        "",
        "| | ms an update | outside the step | of all time |",
        "| --- | ---: | ---: | ---: |",
        f"| compiled step alone | {1e3 * found['step_seconds']:.1f} | - | - |",
        row("loop, nothing written", "plain"),
        row("loop, metrics.jsonl and events written", "files"),
        "",
        "`outside the step`: 1 - step / loop from the medians of logging intervals, "
        "the step timed just before and after; `of all time`: from their means. Within "
        "the loop's time: reading and placing batches, dispatch, the guard, fetching "
        "and summarizing metrics, and in the last row writing them. Outside of it: "
        "compiling, evaluations, the plot drawn after each, checkpoints, the console. "
        f"A batch of an evaluation takes {1e3 * found['evaluation_batch_seconds']:.0f} "
        "ms, a checkpoint until it is on disk "
        f"{1e3 * found['checkpoint_seconds']:.0f} ms (training goes on meanwhile).",
        "",
    ]
