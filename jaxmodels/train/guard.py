"""Counts refused updates and ends the run when there are too many."""

import collections

import numpy as np

from jaxmodels.train.errors import DivergedError

WINDOW = 1000
NAMED = 5


class Guard:
    """Host side of the non-finite policy; the task refuses the updates themselves.

    Args:
        limits: `nonfinite_in_a_row` and `nonfinite_per_thousand`.
        data: has `train` and `records`, to name what the bad batch held.
        in_a_row: refused updates just before the first one counted here.
    """

    def __init__(self, limits, data, in_a_row=0):
        self._limits, self._data, self._in_a_row = limits, data, in_a_row
        self._window: collections.deque = collections.deque(maxlen=WINDOW)

    def count(self, step, skipped):
        """Takes note of the update that completed `step`.

        Raises:
            DivergedError: more refused updates than the limits allow; names the step
                and the records of its batch.
        """
        self._in_a_row = self._in_a_row + 1 if skipped else 0
        self._window.append(bool(skipped))
        if not skipped:
            return
        limits, recent = self._limits, sum(self._window)
        if self._in_a_row >= limits.nonfinite_in_a_row:
            reason = f"{self._in_a_row} updates in a row were not finite"
        elif recent >= limits.nonfinite_per_thousand:
            reason = f"{recent} of the last {len(self._window)} updates were not finite"
        else:
            return
        raise DivergedError(
            f"diverged: {reason}, the last one at step {step} on "
            f"{self._records(step - 1)}; lower the learning rate, clip gradients, or "
            f"mend the records; limits.nonfinite_in_a_row is "
            f"{limits.nonfinite_in_a_row}"
        )

    def _records(self, index):
        """Names the rows of batch `index` that hold bad numbers, else all of them."""
        names = list(self._data.records(index))
        bad = np.zeros(len(names), bool)
        for values in self._data.train(index, 0, 1).values():
            if np.issubdtype(values.dtype, np.inexact) and len(values) == len(names):
                finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
                bad |= ~finite
        chosen = [name for name, is_bad in zip(names, bad, strict=True) if is_bad]
        kind = "record" if chosen else "a batch of finite records"
        chosen = chosen or names
        rest = f" and {len(chosen) - NAMED} more" if len(chosen) > NAMED else ""
        return f"{kind} {', '.join(chosen[:NAMED])}{rest}"
