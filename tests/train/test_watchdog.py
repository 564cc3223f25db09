import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from jaxmodels.train.watchdog import Watchdog

SETUP = """
import sys, threading, time
from jaxmodels.train.watchdog import Watchdog

def steps(watchdog, number):
    for step in range(number):
        watchdog.beat(step + 1)
        time.sleep(0.05)
"""

# Each of them stands still in `hang`, after three steps.
KINDS = {
    "a sleeping loader": """
        def load():
            time.sleep(1000)
        hang = load
    """,
    "an endless device program": """
        import jax, jax.numpy as jnp
        jnp.ones(()).block_until_ready()
        def hang():
            endless = jax.jit(lambda x: jax.lax.while_loop(
                lambda x: x >= 0, lambda x: jnp.abs(x), x))
            endless(jnp.ones(())).block_until_ready()
    """,
    "a lock that is never given back": """
        lock = threading.Lock()
        lock.acquire()
        def hang():
            lock.acquire()
    """,
    "a callback that never returns": """
        import jax, jax.numpy as jnp
        jnp.ones(()).block_until_ready()
        def callback(x):
            while True:
                time.sleep(0.01)
        def hang():
            shape = jax.ShapeDtypeStruct((), jnp.float32)
            jitted = jax.jit(lambda x: jax.pure_callback(callback, shape, x))
            jitted(jnp.ones(())).block_until_ready()
    """,
}
SLOW = {"a lock that is never given back", "a callback that never returns"}


def run(code, **options):
    return subprocess.run(
        [sys.executable, "-c", SETUP + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )


@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=pytest.mark.slow if k in SLOW else ()) for k in KINDS],
)
def test_a_hang_ends_with_stacks_one_line_and_exit_code_85(kind):
    code = textwrap.dedent(KINDS[kind]) + textwrap.dedent("""
        with Watchdog(1.0, first_seconds=30.0) as watchdog:
            steps(watchdog, 3)
            print(time.time(), flush=True)
            hang()
    """)
    result = run(code)
    stopped = time.time() - float(result.stdout)
    assert result.returncode == 85, result.stderr
    assert stopped < 1.0 + 3.0
    assert "in hang" in result.stderr or "in load" in result.stderr
    assert result.stderr.splitlines()[-1].startswith(
        "error: no step finished in 1 s since step 3; the stacks above show where"
    )


def test_the_first_step_has_its_own_limit():
    result = run("""
        with Watchdog(0.1, first_seconds=0.5):
            time.sleep(0.3)
            print("compiled", flush=True)
            time.sleep(30)
    """)
    assert result.returncode == 85
    assert result.stdout == "compiled\n"
    assert "no step finished in 0.5 s since the start" in result.stderr


def test_a_pause_has_the_limit_of_the_first_step_and_then_ends():
    result = run("""
        with Watchdog(0.2, first_seconds=1.0) as watchdog:
            watchdog.beat(7)
            with watchdog.pause():
                time.sleep(0.6)
            print("saved", flush=True)
            time.sleep(30)
    """)
    assert result.returncode == 85
    assert result.stdout == "saved\n"
    assert "no step finished in 0.2 s since step 7" in result.stderr


def test_beats_of_an_evaluation_keep_a_long_pause_alive():
    result = run("""
        with Watchdog(0.1, first_seconds=0.4) as watchdog:
            watchdog.beat(7)
            with watchdog.pause():
                for _ in range(10):
                    time.sleep(0.1)
                    watchdog.beat(7)
                print("evaluated", flush=True)
                time.sleep(30)
    """)
    assert result.returncode == 85
    assert result.stdout == "evaluated\n"


def test_what_is_to_be_called_on_a_hang_cannot_hang_itself():
    result = run("""
        from jaxmodels.train import watchdog
        watchdog.HANDLER_SECONDS = 0.2
        def on_hang(message):
            print(message, flush=True)
            time.sleep(1000)
        with watchdog.Watchdog(0.1, first_seconds=0.1, on_hang=on_hang):
            time.sleep(30)
    """)
    assert result.returncode == 85
    assert result.stdout.startswith("error: no step finished in 0.1 s")


def test_a_process_that_was_stopped_for_a_while_goes_on():
    code = """
        with Watchdog(1.0, first_seconds=1.0) as watchdog:
            watchdog.beat(1)
            print("ready", flush=True)
            for _ in range(8):
                time.sleep(0.1)
            print("done", flush=True)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", SETUP + textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(2.0)
        os.kill(process.pid, signal.SIGCONT)
        assert process.stdout.readline() == "done\n"
    assert process.returncode == 0


def test_steps_within_the_limit_and_a_clean_end_do_not_disturb():
    result = run("""
        with Watchdog(1.0, first_seconds=1.0) as watchdog:
            for step in range(6):
                time.sleep(0.25)
                watchdog.beat(step)
    """)
    assert (result.returncode, result.stderr) == (0, "")


def test_without_a_limit_nothing_is_watched_but_the_heartbeat_is_written(tmp_path):
    path = tmp_path / "heartbeat"
    with Watchdog(None, first_seconds=None, heartbeat=path) as watchdog:
        watchdog.beat(41)
        watchdog.beat(42)  # within the same second
    step, written = path.read_text().split()
    assert step == "41"
    assert abs(time.time() - float(written)) < 60
    assert list(tmp_path.iterdir()) == [path]


def test_the_heartbeat_follows_the_steps_at_most_once_a_second(tmp_path, monkeypatch):
    path = tmp_path / "heartbeat"
    clock = iter([0.0, 0.9, 1.0, 1.5, 2.1])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    watchdog = Watchdog(None, first_seconds=None, heartbeat=path)
    seen = []
    for step in range(5):
        watchdog.beat(step)
        seen.append(path.read_text().split()[0])
    assert seen == ["0", "0", "2", "2", "4"]


def test_a_heartbeat_that_cannot_be_written_costs_one_warning(
    tmp_path, capfd, monkeypatch
):
    clock = iter([0.0, 2.0, 4.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    watchdog = Watchdog(None, first_seconds=None, heartbeat=tmp_path / "no" / "file")
    for step in range(3):
        watchdog.beat(step)
    assert capfd.readouterr().err.count("warning:") == 1


def test_a_limit_of_nothing_is_refused():
    with pytest.raises(ValueError, match="seconds 0 must be positive, or None"):
        Watchdog(0, first_seconds=1)
