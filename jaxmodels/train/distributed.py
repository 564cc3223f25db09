"""Processes of one run: how they meet, agree, wait for each other and stop.

A run of one process goes the same way as a run of many: it is a cluster of one, so
that SIGTERM is handled by the same code. Only this file knows `jax._src.distributed`.
"""

import contextlib
import itertools
import json
import os
import socket
import sys

import jax
from jax._src import distributed as _jax_distributed
from jax.experimental import multihost_utils

from jaxmodels.train.errors import ConfigError, HangError

HEARTBEAT_SECONDS = 60
SHUTDOWN_SECONDS = 120
VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
LOOPBACK = "127.0.0.1"
SHOWN_KEYS, SHOWN_CHARACTERS = 3, 40

_calls = itertools.count()


def initialize(*, seconds=300, heartbeat_seconds=HEARTBEAT_SECONDS):
    """Joins the processes of this run; entry points call it before anything else.

    The environment variables JAX_COORDINATOR_ADDRESS (host:port of process 0),
    JAX_NUM_PROCESSES and JAX_PROCESS_ID decide where they are set. Otherwise a cluster
    that JAX knows (Slurm, Open MPI, Cloud TPU, GKE, Kubernetes) does, and outside of
    one this process is alone. A coordinator on the loopback address listens there only.

    Args:
        seconds: time for all processes to appear.
        heartbeat_seconds: silence after which a process counts as lost; the others
            then end with SIGABRT, so that a launcher can restart all of them.

    Raises:
        ConfigError: the three variables are incomplete or make no sense.
    """
    if has_client():
        return
    options = dict(
        initialization_timeout=seconds,
        heartbeat_timeout_seconds=heartbeat_seconds,
        shutdown_timeout_seconds=SHUTDOWN_SECONDS,
    )
    if any(name in os.environ for name in VARIABLES[1:]):
        address, processes, process = _from_environment(os.environ)
        if address.rsplit(":", 1)[0] in (LOOPBACK, "localhost"):
            options["coordinator_bind_address"] = address
        with _no_proxy():
            jax.distributed.initialize(address, processes, process, **options)
        return
    try:
        jax.distributed.initialize(**options)
    except ValueError as error:
        if "defined" not in str(error):  # the address or a number is unknown
            raise
        if VARIABLES[0] in os.environ:
            raise ConfigError(
                f"{VARIABLES[0]} is set and no cluster was found; set {VARIABLES[1]} "
                f"and {VARIABLES[2]} as well, or none of them"
            ) from error
        _initialize_alone(options)


def _from_environment(environment):
    missing = [name for name in VARIABLES if name not in environment]
    if missing:
        raise ConfigError(f"set {' and '.join(missing)} as well as the others of three")
    address, *numbers = (environment[name] for name in VARIABLES)
    try:
        processes, process = map(int, numbers)
    except ValueError:
        processes, process = 0, 0
    port = address.rsplit(":", 1)[-1]
    if not 0 <= process < processes or ":" not in address or not port.isdigit():
        given = ", ".join(f"{name}={environment[name]}" for name in VARIABLES)
        raise ConfigError(
            f"{given} is no place in a run: host:port, the number of processes, and "
            "one of 0 ... that number - 1"
        )
    return address, processes, process


def _initialize_alone(options):
    # Devices of one process need no network between them.
    jax.config.update("jax_cpu_collectives_implementation", None)
    # Held until the service has taken it, so that no other run is given this port.
    with socket.socket() as held, _no_proxy():
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((LOOPBACK, 0))
        address = f"{LOOPBACK}:{held.getsockname()[1]}"
        jax.distributed.initialize(
            address,
            1,
            0,
            coordinator_bind_address=address,
            cluster_detection_method="deactivate",
            **options,
        )


@contextlib.contextmanager
def _no_proxy():
    """Hides proxies: the coordinator is never behind one, but gRPC would ask it."""
    names = [name for name in os.environ if name.lower().endswith("_proxy")]
    hidden = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(hidden)


def has_client():
    """Whether this process has joined a run."""
    return _client() is not None


def _client():
    return _jax_distributed.global_state.client


def _place():
    """This process and how many there are; unlike `jax.process_index`, touches no
    device."""
    state = _jax_distributed.global_state
    return state.process_id, state.num_processes


def is_alone():
    """Whether no other process takes part in this run."""
    return _client() is None or _place()[1] == 1


def agree(facts, *, seconds=300):
    """Makes sure that all processes run the same thing, before anything is compiled.

    Without it, processes of different configurations hang in their first collective
    or, worse, train something that none of them was asked for.

    Args:
        facts: what has to be equal: nested dicts of what JSON can hold, such as the
            configuration and the versions of libraries.
        seconds: time for all processes to get here.

    Raises:
        ConfigError: names what differs, by process. Every process raises it, and all
            of them have left the run by then.
        HangError: not every process got here in time.
    """
    if is_alone():
        return
    client, key = _client(), f"jaxmodels/agree/{next(_calls)}"
    (process, processes), milliseconds = _place(), int(1000 * seconds)
    flat = {name: json.dumps(value) for name, value in _flatten(facts)}
    client.key_value_set(f"{key}/{process}", json.dumps(flat))
    if process == 0:
        told = [
            json.loads(_get(client, f"{key}/{other}", milliseconds, seconds, other))
            for other in range(processes)
        ]
        client.key_value_set(f"{key}/verdict", differences(told))
    # Process 0 may have waited for the slowest one until just now.
    verdict = _get(client, f"{key}/verdict", milliseconds + 10_000, seconds, 0)
    if verdict:
        # A barrier of all clients; the service in process 0 ends after them.
        jax.distributed.shutdown()
        raise ConfigError(f"the processes of this run do not agree: {verdict}")


def _flatten(facts, prefix=""):
    for name, value in facts.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _get(client, key, milliseconds, seconds, process):
    try:
        return client.blocking_key_value_get(key, milliseconds)
    except jax.errors.JaxRuntimeError as error:
        raise HangError(
            f"process {process} did not answer within {seconds} s; see its log"
        ) from error


def differences(told):
    """What is not equal everywhere, in one line; "" if everything is.

    Args:
        told: for each process {name: value as text}.
    """
    names = dict.fromkeys(name for facts in told for name in facts)
    clauses = []
    for name in names:
        values: dict[str, list[int]] = {}
        for process, facts in enumerate(told):
            values.setdefault(facts.get(name, "nothing"), []).append(process)
        if len(values) > 1:
            said = (f"{_who(who)} {_shorten(what)}" for what, who in values.items())
            clauses.append(f"{name}: {', '.join(said)}")
    more = len(clauses) - SHOWN_KEYS
    return "; ".join(clauses[:SHOWN_KEYS]) + (f"; and {more} more" if more > 0 else "")


def _who(processes):
    """[0, 1, 2, 5] -> "processes 0-2, 5 have"."""
    if len(processes) == 1:
        return f"process {processes[0]} has"
    spans: list[list[int]] = []
    for process in processes:
        if spans and process == spans[-1][1] + 1:
            spans[-1][1] = process
        else:
            spans.append([process, process])
    texts = [f"{a}" if a == b else f"{a}-{b}" for a, b in spans]
    return f"processes {', '.join(texts)} have"


def _shorten(text):
    half = SHOWN_CHARACTERS // 2
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:half]}...{text[-half:]}"


def leave(exit_code):
    """Ends this process when the others may not come to their end.

    An ordinary exit first waits for all processes of the run; after an error of one
    process alone, that is for ever. The others learn of it by the missing heartbeat.
    """
    if is_alone():
        sys.exit(exit_code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def barrier(name, seconds):
    """Waits until all processes have come here.

    Raises:
        HangError: they have not within `seconds`.
    """
    if is_alone():
        return
    key = f"jaxmodels/barrier/{name}/{next(_calls)}"
    try:
        _client().wait_at_barrier(key, int(1000 * seconds))
    except jax.errors.JaxRuntimeError as error:
        raise HangError(
            f"not all processes reached {name!r} within {seconds} s; see their logs"
        ) from error


def compile_together(jitted, *args, seconds=1800):
    """Compiles a jitted function for `args` and waits for all processes to have it.

    Collectives on CPU give peers 30 s to appear at the first one, and compile times
    of processes differ by more than that on a busy machine.

    Returns:
        The compiled function; call it with arguments of the same shapes and places.
    """
    compiled = jitted.lower(*args).compile()
    barrier("compiled", seconds)
    return compiled


def reached_preemption(step):
    """Whether all processes have to save `step` and stop, because one got SIGTERM.

    Call it after every step. False for ever in a process that has not joined a run.
    """
    return has_client() and multihost_utils.reached_preemption_sync_point(step)
