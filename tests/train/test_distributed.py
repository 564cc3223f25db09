import os
import signal
import socket
import subprocess
import sys
import textwrap
import time

import jax
import jax.numpy as jnp
import pytest

from jaxmodels.train import distributed
from jaxmodels.train.errors import ConfigError

SETUP = """
import os, sys, time
from jaxmodels.train import distributed
from jaxmodels.train.errors import RunError
process = int(os.environ.get("JAX_PROCESS_ID", 0))
distributed.initialize(seconds=60, heartbeat_seconds=20)
"""


def start(code, **environment):
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "PYTHONUNBUFFERED": "1",
        **environment,
    }
    return subprocess.Popen(
        [sys.executable, "-c", SETUP + textwrap.dedent(code)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_many(number, code):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    place = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(number)}
    return [start(code, JAX_PROCESS_ID=str(i), **place) for i in range(number)]


def finish(processes):
    """(exit code, standard output, standard error) of each; none outlives the test."""
    try:
        outputs = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [
        (process.returncode, *output)
        for process, output in zip(processes, outputs, strict=True)
    ]


def test_processes_that_disagree_stop_with_one_line_that_names_the_difference():
    began = time.monotonic()
    results = finish(
        start_many(
            2,
            """
            try:
                layers = {"num_layers": 2 + process, "dropout": 0.1}
                distributed.agree({"model": layers, "seed": 1})
            except RunError as error:
                print(f"error: {error}", file=sys.stderr)
                sys.exit(error.exit_code)
            """,
        )
    )
    assert time.monotonic() - began < 15
    expected = (
        "error: the processes of this run do not agree: "
        "model.num_layers: process 0 has 2, process 1 has 3\n"
    )
    assert results == [(64, "", expected)] * 2


def test_processes_that_agree_go_on_and_compute_together():
    results = finish(
        start_many(
            2,
            """
            distributed.agree({"model": {"num_layers": 2}})
            distributed.agree({"again": [1, None, "text"]})
            distributed.barrier("here", 60)
            import jax, jax.numpy as jnp
            from jax.sharding import NamedSharding, PartitionSpec
            mesh = jax.make_mesh(
                (4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
            )
            rows = NamedSharding(mesh, PartitionSpec("data"))
            local = jnp.arange(4.0)[2 * process:2 * process + 2]
            x = jax.make_array_from_process_local_data(rows, local)
            whole = NamedSharding(mesh, PartitionSpec())
            total = jax.jit(jnp.sum, out_shardings=whole)
            print(distributed.compile_together(total, x)(x))
            """,
        )
    )
    # Gloo has written to standard output before.
    ended = [(code, output.splitlines()[-1:]) for code, output, _ in results]
    assert ended == [(0, ["6.0"])] * 2, results


@pytest.mark.slow
def test_a_process_that_never_comes_is_named_and_not_waited_for():
    processes = start_many(
        2,
        """
        try:
            if process == 1:
                time.sleep(1000)
            distributed.agree({"seed": 1}, seconds=2)
        except RunError as error:
            print(f"error: {error}", file=sys.stderr)
            distributed.leave(error.exit_code)
        """,
    )
    (result,) = finish(processes[:1])
    finish_code = processes[1].poll()
    processes[1].kill()
    processes[1].communicate()
    assert finish_code is None
    message = "error: process 1 did not answer within 2 s; see its log\n"
    assert result == (85, "", message)


STEPS = """
for step in range(1, 1000):
    time.sleep(0.02)
    if step == 5:
        print("ready", flush=True)
    if distributed.reached_preemption(step):
        print(step)
        sys.exit(83)
"""


def test_sigterm_to_a_single_process_stops_it_after_a_step():
    process = start(STEPS)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    ((code, output, _),) = finish([process])
    assert code == 83
    assert 5 < int(output) < 1000


@pytest.mark.slow
def test_sigterm_to_one_of_two_processes_stops_both_after_the_same_step():
    processes = start_many(2, STEPS)
    assert processes[1].stdout.readline() == "ready\n"
    processes[1].send_signal(signal.SIGTERM)
    results = finish(processes)
    assert [code for code, *_ in results] == [83, 83]
    assert results[0][1] == "ready\n" + results[1][1]


def test_a_single_process_listens_on_the_loopback_only_and_asks_no_proxy():
    process = start(
        """
        own = {os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
               if os.path.exists(f"/proc/self/fd/{fd}")}
        for table in ("tcp", "tcp6"):
            for line in open(f"/proc/self/net/{table}").readlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and f"socket:[{fields[9]}]" in own:
                    print(fields[1].split(":")[0])
        print(os.environ["http_proxy"])
        """,
        http_proxy="http://127.0.0.1:9",
    )
    ((code, output, error),) = finish([process])
    assert (code, error) == (0, "")
    *addresses, proxy = output.split()
    loopback = {"0100007F", "0000000000000000FFFF00000100007F"}
    assert addresses and set(addresses) <= loopback
    assert proxy == "http://127.0.0.1:9"


@pytest.mark.parametrize(
    "values, message",
    [
        (
            {"JAX_NUM_PROCESSES": "2"},
            "set JAX_COORDINATOR_ADDRESS and JAX_PROCESS_ID as well",
        ),
        (
            {
                "JAX_COORDINATOR_ADDRESS": "host:1234",
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": "2",
            },
            "JAX_NUM_PROCESSES=2, JAX_PROCESS_ID=2 is no place in a run",
        ),
        (
            {
                "JAX_COORDINATOR_ADDRESS": "host",
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": "0",
            },
            "JAX_COORDINATOR_ADDRESS=host, .* is no place in a run: host:port",
        ),
        (
            {
                "JAX_COORDINATOR_ADDRESS": "host:1234",
                "JAX_NUM_PROCESSES": "two",
                "JAX_PROCESS_ID": "0",
            },
            "JAX_NUM_PROCESSES=two, .* is no place in a run",
        ),
    ],
)
def test_a_place_in_the_environment_that_makes_no_sense_is_refused(
    values, message, monkeypatch
):
    for name in distributed.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        distributed.initialize()


def test_an_address_alone_outside_a_cluster_says_what_is_missing():
    process = start("", JAX_COORDINATOR_ADDRESS="host:1234")
    ((code, _, error),) = finish([process])
    assert code == 1
    assert error.splitlines()[-1].endswith(
        "JAX_COORDINATOR_ADDRESS is set and no cluster was found; set "
        "JAX_NUM_PROCESSES and JAX_PROCESS_ID as well, or none of them"
    )


def test_without_a_run_everything_returns_at_once():
    assert not distributed.has_client()
    distributed.agree({"seed": 1})
    distributed.barrier("here", 1)
    assert not distributed.reached_preemption(3)
    double = distributed.compile_together(jax.jit(lambda x: 2 * x), jnp.ones(()))
    assert double(jnp.ones(())) == 2
    with pytest.raises(SystemExit) as raised:
        distributed.leave(75)
    assert raised.value.code == 75


def test_a_difference_groups_processes_and_shortens_what_is_long():
    told = [{"a": "1", "b": '"x"'} for _ in range(6)]
    told[3] = {"a": "2", "b": '"' + 100 * "y" + '"'}
    told[5] = {"b": '"x"'}
    assert distributed.differences(told) == (
        "a: processes 0-2, 4 have 1, process 3 has 2, process 5 has nothing; "
        'b: processes 0-2, 4-5 have "x", process 3 has '
        '"yyyyyyyyyyyyyyyyyyy...yyyyyyyyyyyyyyyyyyy"'
    )
    assert distributed.differences(told[:3]) == ""


def test_many_differences_are_counted_and_not_all_listed():
    told = [{f"k{i}": str(i + p) for i in range(9)} for p in range(2)]
    line = distributed.differences(told)
    assert line.startswith("k0: process 0 has 0, process 1 has 1; k1: ")
    assert line.endswith("; and 6 more")
