"""Errors that end a run, each with the exit code that a launcher acts on.

0 done; 64 wrong configuration or input, never retry; 65 training diverged, do not
retry blindly; 75 storage trouble; 83 preempted after saving, retry; 85 no progress;
130 stopped by the user after saving.
"""

INTERRUPTED = 130


class RunError(Exception):
    """Ends a run. The message is one line that names the value and the way out."""

    exit_code = 1


class ConfigError(RunError, ValueError):
    """What the user asked for cannot be done as asked."""

    exit_code = 64


class DivergedError(RunError):
    """Too many updates were not finite."""

    exit_code = 65


class StorageError(RunError):
    """A checkpoint could not be written, or none could be read."""

    exit_code = 75


class Preempted(RunError):
    """The machine asked to stop; the state is saved."""

    exit_code = 83


class HangError(RunError):
    """No step finished within the limit."""

    exit_code = 85
