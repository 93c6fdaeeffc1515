"""What one types in: keys that a slow line brings together."""

from __future__ import annotations

from textual import events
from textual.widgets import Input

from tests.tui.app.conftest import Opening
from tui.app.dialogs import Line


async def test_keys_that_come_at_once_act_in_their_order(opening: Opening) -> None:
    """As a slow line brings them: letters do not overtake the keys that delete and send."""
    answers: list[str | None] = []
    async with opening() as driven:
        driven.app.push_screen(Line("How many?", "3"), answers.append)
        await driven.until(lambda: isinstance(driven.app.focused, Input), "one can type")
        for key, letter in (("backspace", None), ("1", "1"), ("enter", None)):
            driven.app.post_message(events.Key(key, letter))
        await driven.until(lambda: answers, "it is sent")
    assert answers == ["1"]
