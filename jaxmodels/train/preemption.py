"""Requests to stop: SIGTERM from the machine, Ctrl-C from the user.

Both end at a step on which all processes agree. Where a distributed client runs (entry
points always start one), its notifier takes SIGTERM, and Ctrl-C is turned into one.
"""

import os
import signal
import threading

from jaxmodels.train import distributed


class StopRequests:
    """Context in which the first Ctrl-C asks for a stop and the second one insists."""

    def __init__(self):
        self._interrupted = False
        self._previous = None

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._on_interrupt)
        return self

    def __exit__(self, *exception):
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _on_interrupt(self, number, frame):
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True
        if distributed.has_client():
            os.kill(os.getpid(), signal.SIGTERM)

    def reached(self, step):
        """None, "interrupted" or "preempted"; call it after every step."""
        if distributed.has_client():
            if not distributed.reached_preemption(step):
                return None
            return "interrupted" if self._interrupted else "preempted"
        return "interrupted" if self._interrupted else None
