import io
import os
import pty

import pytest

from jaxmodels.train.console import Progress, duration, quantity


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def progress(stream, **options):
    clock = Clock()
    return clock, Progress(1000, 0, stream=stream, clock=clock, **options)


def train(bar, clock, first, last, seconds, count=64):
    for step in range(first, last + 1):
        clock.now += seconds
        bar.update(step, count=count)


def test_a_log_gets_one_plain_line_a_report():
    stream = io.StringIO()
    clock, bar = progress(stream)
    train(bar, clock, 1, 11, 0.5)
    bar.report(11, "train", {"loss": 2.34567, "grad_norm": 0.5})
    bar.close()
    assert stream.getvalue() == (
        "  11/1000  train  loss 2.346  grad_norm 0.5  128 tokens/s  eta 8:14\n"
    )


def test_a_log_never_holds_a_carriage_return_or_an_escape():
    stream = io.StringIO()
    clock, bar = progress(stream)
    for step in range(1, 50):
        train(bar, clock, step, step, 0.5)
        bar.report(step, "train", {"loss": 1.0})
        bar.message("a note")
    bar.close()
    assert stream.getvalue().count("\n") == 98
    assert not set("\r\x1b") & set(stream.getvalue())


def test_the_first_step_does_not_count_in_the_throughput():
    clock, bar = progress(io.StringIO())
    train(bar, clock, 1, 1, 60.0)
    train(bar, clock, 2, 11, 0.5)
    rates = bar.report(11, "train", {"loss": 1.0})
    assert rates == {"steps_per_second": 2.0, "tokens_per_second": 128.0}


def test_a_pause_counts_in_the_time_left_but_not_in_the_throughput():
    stream = io.StringIO()
    clock, bar = progress(stream)
    train(bar, clock, 1, 6, 0.5)
    with bar.pause():
        clock.now += 5.0
    train(bar, clock, 7, 11, 0.5)
    assert bar.report(11, "train", {"loss": 1.0})["steps_per_second"] == 2.0
    # 10 steps took 10 seconds of the clock; 989 are left.
    assert "eta 16:29" in stream.getvalue()


def test_each_report_measures_only_the_time_since_the_one_before():
    clock, bar = progress(io.StringIO())
    train(bar, clock, 1, 11, 0.5)
    bar.report(11, "train", {"loss": 1.0})
    train(bar, clock, 12, 21, 0.25)
    assert bar.report(21, "train", {"loss": 1.0})["steps_per_second"] == 4.0


def test_utilization_is_achieved_over_peak_and_absent_where_the_peak_is_unknown():
    stream = io.StringIO()
    clock, bar = progress(stream)
    bar.flops(3e12, 15e12)
    train(bar, clock, 1, 11, 0.5)
    assert bar.report(11, "train", {"loss": 1.0})["utilization"] == pytest.approx(0.4)
    assert "40% of peak" in stream.getvalue()
    bar.flops(3e12, None)
    train(bar, clock, 12, 21, 0.5)
    assert "utilization" not in bar.report(21, "train", {"loss": 1.0})


def test_a_resumed_run_measures_its_own_steps():
    stream = io.StringIO()
    clock = Clock()
    bar = Progress(1000, 900, stream=stream, clock=clock)
    train(bar, clock, 901, 951, 1.0)
    assert bar.report(951, "train", {"loss": 1.0})["steps_per_second"] == 1.0
    assert "eta 0:49" in stream.getvalue()


def test_values_that_are_not_finite_are_pointed_at():
    stream = io.StringIO()
    _, bar = progress(stream)
    bar.report(3, "train", {"loss": float("nan"), "a": 1.0, "norm": float("inf")})
    assert stream.getvalue().endswith(
        "loss nan  a 1  norm inf  <- not finite: loss, norm\n"
    )


def test_an_evaluation_is_a_line_without_rates():
    stream = io.StringIO()
    clock, bar = progress(stream)
    train(bar, clock, 1, 11, 0.5)
    assert bar.report(11, "eval", {"bits_per_byte": 2.93, "unigram": 5.0}) == {}
    assert stream.getvalue() == "  11/1000  eval   bits_per_byte 2.93  unigram 5\n"


def test_a_quiet_progress_prints_nothing_and_still_measures():
    stream = Terminal()
    clock, bar = progress(stream, quiet=True)
    train(bar, clock, 1, 11, 0.5)
    assert bar.report(11, "train", {"loss": 1.0})["steps_per_second"] == 2.0
    bar.message("a note")
    bar.close()
    assert stream.getvalue() == ""


def test_a_terminal_gets_one_line_that_moves_and_messages_above_it():
    stream = Terminal()
    clock, bar = progress(stream)
    train(bar, clock, 1, 11, 0.5)
    bar.report(11, "train", {"loss": 2.5, "grad_norm": 7.0})
    bar.message("saved step 11")
    bar.report(11, "eval", {"loss": 2.75})
    bar.close()
    lines = stream.getvalue().split("\n")
    # Two messages and the bar itself: what a terminal shows after the last redraw.
    shown = [line.split("\r")[-1].rstrip() for line in lines]
    assert shown[0] == "saved step 11"
    assert shown[1] == "  11/1000  eval   loss 2.75"
    assert "11/1000  loss 2.5  128 tokens/s  eta 8:14" in shown[2]
    assert "grad_norm" not in stream.getvalue()
    assert "compiling" in lines[0]


def test_the_losses_of_several_networks_share_the_line():
    stream = Terminal()
    clock, bar = progress(stream)
    train(bar, clock, 1, 11, 0.5)
    bar.report(11, "train", {"a/loss": 1.0, "b/loss": 2.0, "b/norm": float("nan")})
    bar.close()
    shown = stream.getvalue().split("\r")[-1]
    assert "a/loss 1  b/loss 2  128 tokens/s  <- not finite: b/norm" in shown


@pytest.mark.parametrize(
    "number, text",
    [(0.25, "0.25"), (999, "999"), (999.6, "1.00k"), (34100, "34.1k"), (2.5e6, "2.50M")]
    + [(101000, "101k"), (3e9, "3.00G")],
)
def test_quantities_have_three_digits(number, text):
    assert quantity(number) == text


@pytest.mark.parametrize(
    "seconds, text",
    [(0, "0:00"), (151, "2:31"), (3725, "1:02:05"), (90061, "1d 1:01:01")],
)
def test_durations_read_like_a_clock(seconds, text):
    assert duration(seconds) == text


def test_a_terminal_without_a_width_gets_whole_lines():
    primary, secondary = pty.openpty()  # zero columns until somebody sets them
    with os.fdopen(secondary, "w") as stream:
        progress = Progress(10, stream=stream)
        progress.report(1, "train", {"loss": 2.0})
        progress.close()
        text = os.read(primary, 1000).decode()
    os.close(primary)
    assert "1/10  train  loss 2" in text
