"""What a run says while it trains: one line that moves, or plain lines in a log."""

import contextlib
import math
import os
import sys
import time

from tqdm import tqdm

BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}  {desc}"
REDRAW_SECONDS = 0.1


class Progress:
    """Steps done, loss, throughput, use of the device and time left.

    A terminal gets one line that is redrawn; any other stream gets whole lines, one a
    report, and never a carriage return. The first step (it may compile) and pauses
    do not count in the throughput; pauses do count in the time left.

    Args:
        num_steps: updates in all.
        first_step: updates done before this run.
        unit: what a batch is counted in.
        flops_per_step: operations of one update on all devices, None if unknown.
        peak_flops: operations a second of all devices together, None if unknown.
        stream: where to write, standard error when omitted.
        quiet: write nothing; every process but the first one is quiet.
        clock: seconds, for tests.
    """

    def __init__(
        self,
        num_steps,
        first_step=0,
        *,
        unit="tokens",
        flops_per_step=None,
        peak_flops=None,
        stream=None,
        quiet=False,
        clock=time.monotonic,
    ):
        self._num_steps, self._unit, self._clock = num_steps, unit, clock
        self._stream = sys.stderr if stream is None else stream
        self._quiet = quiet
        self.flops(flops_per_step, peak_flops)
        self._step = first_step
        self._start = None  # (step, seconds) after the first step of this run
        self._mark = first_step, 0.0  # (step, seconds of work) at the last report
        self._paused = 0.0
        self._count = None  # units in one batch
        self._latest = ""
        self._drawn = -math.inf
        self._bar = None
        if not quiet and _is_terminal(self._stream):
            known = _columns(self._stream) > 0
            self._bar = tqdm(
                total=num_steps,
                initial=first_step,
                file=self._stream,
                bar_format=BAR,
                dynamic_ncols=known,
                ncols=None if known else 80,
                desc="compiling",
            )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        """Leaves the line of a terminal as it is; later output starts below it."""
        if self._bar is not None:
            self._draw()
            self._bar.close()
            self._bar = None

    def flops(self, flops_per_step, peak_flops):
        """Sets what utilization is computed from, for all devices together."""
        self._flops_per_step, self._peak_flops = flops_per_step, peak_flops

    def update(self, step, count=None):
        """Takes note that `step` updates are done.

        Args:
            step: completed updates.
            count: units in the batch of this update; others are taken to hold as many.
        """
        self._step = step
        self._count = self._count if count is None else count
        now = self._clock()
        if self._start is None:
            self._start, self._mark = (step, now), (step, self._work(now))
        if self._bar is not None:
            self._bar.n = step
            if now - self._drawn >= REDRAW_SECONDS:
                self._draw()

    def report(self, step, split, values):
        """Shows the values of a split after `step` updates.

        Args:
            step: completed updates.
            split: "train" reports also measure the time since the one before.
            values: name -> float; those that are not finite are pointed at.

        Returns:
            name -> float of what was measured: `steps_per_second`,
            `{unit}_per_second` and `utilization`, as far as known.
        """
        rates = {}
        if split == "train":
            self.update(step)
            rates = self._measure(step)
        if self._bar is not None and split == "train":
            losses = {
                name: value for name, value in values.items() if _is_loss(name)
            } or values
            self._latest = "  ".join(
                [_texts(losses), *self._rate_texts(rates), *_alarms(values)]
            )
            self._draw()
            return rates
        parts = [f"{step:>{len(str(self._num_steps))}}/{self._num_steps}  {split:5}"]
        parts += [_texts(values), *self._rate_texts(rates)]
        if split == "train":
            parts += self._eta_texts()
        self.message("  ".join([*parts, *_alarms(values)]))
        return rates

    def message(self, text):
        """Prints a line; on a terminal, above the line that moves."""
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        else:
            print(text, file=self._stream, flush=True)

    @contextlib.contextmanager
    def pause(self):
        """Context for evaluating and saving: its time is no training time."""
        start = self._clock()
        try:
            yield
        finally:
            self._paused += self._clock() - start

    def _work(self, now):
        return now - self._paused

    def _measure(self, step):
        first, start = self._mark
        seconds = self._work(self._clock()) - start
        self._mark = (step, start + seconds)
        if step <= first or seconds <= 0:
            return {}
        rates = {"steps_per_second": (step - first) / seconds}
        if self._count is not None:
            rates[f"{self._unit}_per_second"] = self._count * rates["steps_per_second"]
        if self._flops_per_step and self._peak_flops:
            rates["utilization"] = (
                self._flops_per_step * rates["steps_per_second"] / self._peak_flops
            )
        return rates

    def _rate_texts(self, rates):
        texts = []
        if f"{self._unit}_per_second" in rates:
            rate = quantity(rates[f"{self._unit}_per_second"])
            texts.append(f"{rate} {self._unit}/s")
        elif rates:
            texts.append(f"{quantity(rates['steps_per_second'])} steps/s")
        if "utilization" in rates:
            texts.append(f"{rates['utilization']:.0%} of peak")
        return texts

    def _eta_texts(self):
        """Time left at the pace since the first step, pauses included."""
        if self._start is None:
            return []
        first, start = self._start
        if self._step <= first:
            return []
        pace = (self._clock() - start) / (self._step - first)
        return [f"eta {duration(pace * (self._num_steps - self._step))}"]

    def _draw(self):
        if self._bar is not None:
            if self._start is not None:
                texts = [text for text in [self._latest, *self._eta_texts()] if text]
                self._bar.set_description_str("  ".join(texts), refresh=False)
            self._bar.refresh()
        self._drawn = self._clock()


def _columns(stream):
    """Width of a terminal, 0 for one that does not tell (some containers)."""
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except OSError:
        return 0


def _is_terminal(stream):
    """Whether a line can move there; some terminals of containers have no width."""
    if not stream.isatty():
        return False
    try:
        return os.get_terminal_size(stream.fileno()).columns > 0
    except (OSError, ValueError):  # a stream with no file behind it
        return True


def quantity(number):
    """Three digits and a letter: 34100 -> "34.1k"."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= 0.9995 * size:
            return f"{number / size:#.3g}".rstrip(".") + letter
    return f"{number:.3g}"


def duration(seconds):
    """Days, hours, minutes and seconds: 3725 -> "1:02:05"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours}:{minutes:02}:{seconds:02}"
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _is_loss(name):
    return name.split("/")[-1] == "loss"


def _texts(values):
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())


def _alarms(values):
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    return [f"<- not finite: {', '.join(bad)}"] if bad else []
