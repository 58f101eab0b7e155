"""What can be wrong with a request."""

from __future__ import annotations


class BadRequest(ValueError):
    """The request itself is wrong: one line that says what is wrong and what is allowed. Exit code 2."""


class Undetermined(RuntimeError):
    """A required fact could not be read, or the architecture has no reader. Exit code 3."""
