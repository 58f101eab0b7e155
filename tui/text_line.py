"""A line of text to edit, whose keys are taken in the order in which they were pressed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Final

from textual import events
from textual.binding import Binding, BindingType
from textual.widgets import Input

LATER: Final = ("submit", "copy")
"""Actions that change nothing in the line, and may wait for their turn."""


def keys_of(bindings: Iterable[BindingType]) -> dict[str, str]:
    """Actions by key.

    >>> keys_of([Binding("left", "cursor_left"), ("ctrl+u,super+backspace", "delete_left_all", "Delete")])
    {'left': 'cursor_left', 'ctrl+u': 'delete_left_all', 'super+backspace': 'delete_left_all'}
    """
    pairs = [(one.key, one.action) if isinstance(one, Binding) else one[:2] for one in bindings]
    return {key.strip(): action for keys, action in pairs for key in keys.split(",") if action not in LATER}


class TextLine(Input):
    """Textual's input takes a character at once, but sends a key of a binding up to the app and acts on its return.

    Ctrl+U and text right behind it, as a terminal hands on what is pasted or typed while the machine is busy, would
    delete that text.
    """

    EDITING: ClassVar[dict[str, str]] = keys_of(Input.BINDINGS)

    async def _on_key(self, event: events.Key) -> None:
        action = self.EDITING.get(event.key)
        if action is not None:
            event.stop()
            event.prevent_default()
            await self.run_action(action)
