"""How each role reads a path: head, transcript, tail, in that order.

The three views are the only places where a prompt is put together. Nothing that changes by turn stands before the
transcript, and the tail sits inside the last user message, since many templates refuse a second system message; so
along a path each prompt begins with the one before it, up to that one's tail. A tail is never kept in later history.

Invariant: messages alternate user, assistant after an optional system message, and the last one is the user's.
"""

from __future__ import annotations

from collections.abc import Sequence

from agents.messages import Line
from agents.models.protocol import Message

_LABELS = {"user": "PERSON", "assistant": "ASSISTANT"}


def responder_view(head: str, history: Sequence[Line], tail: str) -> tuple[Message, ...]:
    """The conversation as the assistant in it sees it; also what the likelihood judge scores replies under."""
    return _with_tail([*_system(head), *(Message(line.speaker, line.text) for line in history)], tail)


def user_view(head: str, opening: str, history: Sequence[Line], tail: str) -> tuple[Message, ...]:
    """The conversation as the persona user sees it: their own words are the assistant's part of the template."""
    turned = [Message("user" if line.speaker == "assistant" else "assistant", line.text) for line in history]
    return _with_tail([*_system(head), Message("user", opening), *turned], tail)


def observer_view(head: str, history: Sequence[Line], tail: str) -> tuple[Message, ...]:
    """The conversation as a text to be read, for the inducer and the judges that are asked a question.

    Each message's lines are indented, so that no message can pass itself off as the beginning of another.
    """
    blocks = (f"{_LABELS[line.speaker]}:\n{_indented(line.text)}\n\n" for line in history)
    return (*_system(head), Message("user", "The conversation so far:\n\n" + "".join(blocks) + tail))


def _system(head: str) -> list[Message]:
    return [Message("system", head)] if head else []


def _with_tail(messages: list[Message], tail: str) -> tuple[Message, ...]:
    if tail:
        last = messages[-1]
        messages[-1] = Message(last.role, f"{last.content}\n\n{tail}" if last.content else tail)
    return tuple(messages)


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
