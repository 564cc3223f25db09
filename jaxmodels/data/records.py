"""Records that may be bad, and what to do with them.

A record is bad when it cannot be read or fails its check. With `on_bad_record="stop"`
the first one ends the run with its file, index and reason. With `"skip"` the next good
record takes its place: which one that is depends on the data alone, so the order of a
run stays a function of the step. Past `max_bad_fraction` the run ends all the same.
"""

from jaxmodels.train.errors import ConfigError

POLICIES = ("stop", "skip")
REMEDY = (
    'remove it or set on_bad_record="skip" and max_bad_fraction to the share to allow'
)
BLOCK = 128  # records read at once when all are read: 8 times as fast as one at a time


class BadRecordError(ConfigError):
    """A record cannot be used. The message is one line: where, and why."""

    def __init__(self, where, reason, remedy=REMEDY):
        super().__init__(f"{where}: {reason}; {remedy}")
        self.where = where
        self.reason = reason
        self.remedy = remedy

    def __reduce__(self):
        return BadRecordError, (self.where, self.reason, self.remedy)


def first_line(error):
    """The first line of an error's text, or the error's name where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def policy_errors(on_bad_record, max_bad_fraction):
    """What is wrong with the two settings, one line each."""
    errors = []
    if on_bad_record not in POLICIES:
        errors.append(f'on_bad_record is {on_bad_record!r}, not "stop" or "skip"')
    if not 0 <= max_bad_fraction <= 1:
        errors.append(f"max_bad_fraction is {max_bad_fraction}, not between 0 and 1")
    return errors


class BadRecords:
    """The bad records met so far, and the policy on them.

    Attributes:
        seen: index -> (where, reason).
    """

    def __init__(self, total, on_bad_record="stop", max_bad_fraction=0.001):
        errors = policy_errors(on_bad_record, max_bad_fraction)
        if errors:
            raise ConfigError("; ".join(errors))
        self.total = total
        self.on_bad_record = on_bad_record
        self.max_bad_fraction = max_bad_fraction
        self.seen = {}

    def add(self, index, where, reason):
        """Takes note of a bad record.

        Raises:
            BadRecordError: the policy is to stop, or too many records are bad.
        """
        if self.on_bad_record == "stop":
            raise BadRecordError(where, reason)
        self.seen[index] = (where, reason)
        self.check_fraction(len(self.seen), where, reason)

    def check_fraction(self, count, where, reason):
        """Raises `BadRecordError` when `count` bad records are too many."""
        if count > self.max_bad_fraction * self.total:
            raise BadRecordError(
                where,
                reason,
                f"with it {count} of {self.total} records are bad, more than"
                f" max_bad_fraction={self.max_bad_fraction} allows",
            )


class CheckedRecords:
    """Random access to checked records; a bad one becomes the next good one.

    Args:
        source: has `__len__`, `__getitem__`, `__getitems__` (for a list of indexes) and
            `where(index) -> str`.
        check: record -> value; raises `ValueError` with the reason where it is bad.
        on_bad_record, max_bad_fraction: see the module.
    """

    def __init__(self, source, check, on_bad_record="stop", max_bad_fraction=0.001):
        self.source = source
        self.check = check
        self.bad = BadRecords(len(source), on_bad_record, max_bad_fraction)

    def __len__(self):
        return len(self.source)

    def read(self, index):
        """The value at `index`, or None where the policy is to skip it.

        Raises:
            BadRecordError: see `BadRecords.add`.
        """
        if index in self.bad.seen:
            return None
        try:
            # Readers of record files raise bare exceptions of their own kinds.
            record = self.source[index]
        except Exception as error:
            self.bad.add(index, self.source.where(index), first_line(error))
            return None
        return self._checked(index, record)

    def _checked(self, index, record):
        try:
            return self.check(record)
        except ValueError as error:
            self.bad.add(index, self.source.where(index), first_line(error))
            return None

    def __getitem__(self, index):
        """The first good value at `index` or after it, starting over at the end."""
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        for position in range(index, index + len(self)):
            value = self.read(position % len(self))
            if value is not None:
                return value
        raise ConfigError(f"{self.source.where(index)}: no record is good")

    def good(self):
        """Yields (index, value) of the good records, in order."""
        for begin in range(0, len(self), BLOCK):
            indexes = range(begin, min(begin + BLOCK, len(self)))
            for index, value in zip(indexes, self._block(indexes), strict=True):
                if value is not None:
                    yield index, value

    def _block(self, indexes):
        """Yields the values at `indexes`, None for the bad ones."""
        try:
            records = self.source.__getitems__(list(indexes))
        except Exception:  # one of them cannot be read: `read` tells which
            yield from map(self.read, indexes)
            return
        yield from map(self._checked, indexes, records)
