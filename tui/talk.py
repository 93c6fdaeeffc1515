"""The terminal's side of `chat`: reads lines, streams replies through the sanitiser, obeys /commands.

Between two exchanges the event loop stands still and the keyboard is read plainly, so that Ctrl-C acts at
once: at the prompt it leaves, during a reply it gives up that reply alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Awaitable
from pathlib import Path

from agents.calls import Asking, CallFailed
from trees.store import Store
from trees.values import Node
from tui.console import say
from tui.conversation import Conversation, Partner, begin
from tui.sanitise import visible

HELP = "/retry asks for another reply, /undo takes the last exchange back, /quit leaves"
_JOINERS = "\u200c\u200d"


class Printer:
    """Prints a reply while it is written. The sanitiser sees each piece beside the character before it.

    Joiners are held back until what they join has come.
    """

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Before a reply."""
        self._held = self._last = self._taken = ""

    def take(self, _asking: Asking, _index: int, text: str) -> None:
        """One delta of the call path."""
        self._taken += text
        whole = self._held + text
        ready = whole.rstrip(_JOINERS)
        self._held = whole[len(ready) :]
        self._write(ready)

    def end(self, reply: Node) -> None:
        """Print what is still missing of a reply that is complete."""
        self._write(self._held if self._taken else reply.text)
        sys.stdout.write("\n")
        if self._taken and self._taken.strip() != reply.text:
            say(f"(kept as)\n{reply.text}")

    def _write(self, text: str) -> None:
        if text:
            before = visible(self._last)
            sys.stdout.write(visible(self._last + text, longest=None)[len(before) :])
            sys.stdout.flush()
            self._last = text[-1]


class Talk:
    """One session at the terminal."""

    def __init__(self, runner: asyncio.Runner, partner: Partner, path: Path) -> None:
        self._runner = runner
        self._partner = partner
        self._path = path
        self._printer = Printer()
        self._conversation: Conversation | None = None

    def run(self) -> str | None:
        """Talk until the person leaves; returns the tree's id, or None if nothing was said."""
        say(f"{self._partner.model.name} listens; {HELP}")
        try:
            while (line := _read()) is not None:
                self._take(line)
        finally:
            if self._conversation is not None:
                self._runner.run(self._conversation.close())
        return None if self._conversation is None else self._conversation.tree.id

    def _take(self, line: str) -> None:
        """One line that is not the end."""
        if line == "/retry":
            self._retry()
        elif line == "/undo":
            undone = self._conversation is not None and self._conversation.undo()
            say("the last exchange is taken back" if undone else "nothing was said yet")
        elif line.startswith("/"):
            say(f"there is no {line.split()[0]!r}; {HELP}")
        elif line:
            self._answer(self._open(line).say(line))

    def _retry(self) -> None:
        if self._conversation is None:
            say("nothing was said yet")
        else:
            self._answer(self._conversation.retry())

    def _answer(self, asking: Awaitable[Node | None]) -> None:
        async def ask() -> Node | None:
            return await asking

        self._printer.begin()
        try:
            reply = self._runner.run(ask())
        except CallFailed as failure:
            say(f"no reply ({failure.kind}): {failure.message}\nsay it again, or /quit", stderr=True)
        except KeyboardInterrupt:
            say("\n(that reply was given up)", stderr=True)
        else:
            self._printer.end(reply) if reply is not None else say("nothing was said yet")

    def _open(self, first_words: str) -> Conversation:
        """The conversation, begun with its first words: who says nothing leaves no tree behind."""
        if self._conversation is None:
            with Store.open(self._path) as store:
                self._conversation = self._runner.run(self._begin(store, first_words))
        return self._conversation

    async def _begin(self, store: Store, first_words: str) -> Conversation:
        return begin(store, self._partner, first_words, self._printer.take)


def _read() -> str | None:
    """The next line without the spaces around it; None for the end."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - input() edits lines with it
    try:
        line = input("you> ").strip()
    except EOFError:
        say("")
        return None
    return None if line == "/quit" else line
