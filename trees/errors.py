"""Errors that a person can mend: a sentence that quotes the value, and the next step.

The command line prints them without a traceback and ends with their exit code; a programming mistake stays a plain
ValueError or TypeError and shows its traceback. Exit codes: 0 done, 1 done with failures or findings, 2 wrong usage,
3 set-up to mend, 4 somebody else is at work on it, 130 interrupted.
"""

from __future__ import annotations


class EspalierError(Exception):
    """Base of every error whose message is meant for the person at the terminal."""

    exit_code = 3

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        """What to do next, a sentence or a command; None if the message says it all."""

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class SetupError(EspalierError):
    """The configuration, a prompt, a model or a file is not usable as it is."""


class StoreError(EspalierError):
    """The store cannot be opened, read or written."""


class StoreMissing(StoreError):
    """There is no store at this path."""


class StoreNewer(StoreError):
    """The store was written by a newer version of this program."""


class StoreFull(StoreError):
    """The disk, a quota or `max_page_count` leaves no room. What was committed before is kept."""


class NotFound(EspalierError):
    """No run, tree, node, persona or prompt has this id, or several do."""

    exit_code = 2


class Locked(EspalierError):
    """Another live process is the engine of this job."""

    exit_code = 4
