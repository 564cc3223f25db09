"""What a run says: a line on the console, `metrics.jsonl`, events, a plot, a trace."""

import jax

from jaxmodels.train import metrics
from jaxmodels.train.guard import Guard


class Report:
    """Reports a run one step late, so that the device never waits for the host.

    The metrics of a step are fetched when the next one is under way; what they hold
    of refused updates goes to the guard.

    Args:
        task, data: what is trained.
        progress: a `console.Progress`.
        workdir: folder of the run, or None on processes that write nothing.
        limits: of the guard.
        state: the state that the run starts from.
    """

    def __init__(self, task, data, progress, workdir, limits, state):
        self._task, self._baselines = task, data.baselines
        self._progress, self._workdir = progress, workdir
        first, in_a_row = int(state.step), int(state.skips[0])
        self._guard = Guard(limits, data, in_a_row)
        self._writer = None
        if workdir is not None:
            self._writer = metrics.MetricsWriter(
                workdir, resume_step=first, warn=progress.message
            )
        self._deferred = None
        self._tracing = False

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self._tracing:
            jax.profiler.stop_trace()
        if self._writer:
            self._writer.plot(baselines=self._baselines)
            self._writer.close()
        self._progress.close()

    def defer(self, step, step_metrics, *, due):
        """Keeps the metrics of the update that completes `step` for `flush`."""
        self._deferred = step, step_metrics, due

    def flush(self):
        """Waits for the deferred metrics and reports them.

        Raises:
            DivergedError: too many updates were refused.
        """
        if self._deferred is None:
            return
        (step, step_metrics, due), self._deferred = self._deferred, None
        if due:
            step_metrics = jax.device_get(step_metrics)
            count = max((n for _, n in _losses(step_metrics)), default=0.0)
            values = self._task.summarize(step_metrics)
            self._progress.update(step, count=float(count))
            self.write(step, "train", values)
        else:
            self._progress.update(step)
        self._guard.count(step, float(step_metrics["skipped"][0]) > 0)

    def write(self, step, split, values):
        """Reports the values of one split after `step` updates."""
        self._progress.report(step, split, values)
        if self._writer:
            self._writer.write(step, split, values)
            if split == "eval":
                self._writer.plot(baselines=self._baselines)

    def profile(self, index, steps):
        """Traces the updates first <= index < last of `steps` into the workdir."""
        if not steps or self._workdir is None:
            return
        if index == steps[0]:
            jax.profiler.start_trace(str(self._workdir / "profile"))
            self._tracing = True
        elif index == steps[1] and self._tracing:
            self.flush()
            jax.profiler.stop_trace()
            self._tracing = False


def _losses(step_metrics):
    """The "loss" pair of every trained network."""
    return [
        pair for name, pair in step_metrics.items() if name.split("/")[-1] == "loss"
    ]
