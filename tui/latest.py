"""Work in threads of which only the newest may answer, so that no key ever waits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, TypeVar

from textual.message import Message

if TYPE_CHECKING:
    from textual.message_pump import MessagePump

T = TypeVar("T")


class Stale(Exception):
    """Somebody asked again meanwhile."""


class Answered(Message, bubble=False):
    """The newest work of a ``Latest`` has ended. ``value`` raises what it raised."""

    def __init__(self, latest: Latest[object], number: int, result: object, error: Exception | None) -> None:
        super().__init__()
        self.latest, self.number, self.result, self.error = latest, number, result, error

    @property
    def is_newest(self) -> bool:
        """False where somebody asked again while this message was under way."""
        return self.latest.number == self.number

    def value(self) -> object:
        """The result. Raises ``Refused``, or whatever fault the work had."""
        if self.error is not None:
            raise self.error
        return self.result


class Latest(Generic[T]):
    """Runs work and posts ``Answered`` to its owner.

    The threads are daemons: one that hangs in a driver does not keep the program from ending.
    """

    def __init__(self, owner: MessagePump) -> None:
        self.owner, self.number = owner, 0

    def ask(self, work: Callable[[Callable[[int, int], None]], T]) -> threading.Thread:
        """Start it. What it is handed raises ``Stale`` in it once somebody has asked again."""
        self.number += 1
        number = self.number

        def alive(done: int, total: int) -> None:
            del done, total
            if number != self.number:
                raise Stale

        thread = threading.Thread(target=self._run, args=(number, work, alive), daemon=True)
        thread.start()
        return thread

    def forget(self) -> None:
        """Nobody waits for what runs."""
        self.number += 1

    def _run(
        self, number: int, work: Callable[[Callable[[int, int], None]], T], alive: Callable[[int, int], None]
    ) -> None:
        result: T | None = None
        error: Exception | None = None
        try:
            result = work(alive)
        except Stale:
            return
        except Exception as found:  # Raised again by the screen that asked.
            error = found
        if number == self.number:
            # The screen may have gone, and its event loop with it.
            with suppress(RuntimeError):
                self.owner.post_message(Answered(self, number, result, error))  # type: ignore[arg-type]
