"""Reasoning apart from speech: <think> blocks are taken out of an answer, whole or while it is streamed.

A block runs from `<think>` to `</think>`, or to the end if the answer was cut. A closing tag that nothing
opened ends a block that the template opened inside the prompt: all before it is reasoning.

Invariant: the final split depends on the text alone, never on the pieces in which it came, and no word of a
closed or open block is in the speech. What `ReasoningSplitter.feed` returns is for showing as it comes;
only a block opened inside the prompt can make it show what turns out to be reasoning.
"""

from __future__ import annotations

import re

OPEN, CLOSE = "<think>", "</think>"
_BLOCK = re.compile(r"<think>(.*?)(?:</think>|\Z)", re.DOTALL)


def split_reasoning(text: str) -> tuple[str, str | None]:
    """The speech of an answer, and its reasoning or None. An answer without reasoning is returned
    unchanged.
    """
    if OPEN not in text and CLOSE not in text:
        return text, None
    thoughts: list[str] = []
    first_close = text.find(CLOSE)
    if first_close >= 0 and OPEN not in text[:first_close]:
        thoughts.append(text[:first_close])
        text = text[first_close + len(CLOSE) :]
    thoughts += _BLOCK.findall(text)
    speech = _BLOCK.sub("", text).replace(CLOSE, "").strip()
    return speech, "\n".join(t.strip() for t in thoughts if t.strip()) or None


class ReasoningSplitter:
    """Splits one answer that comes in pieces."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._held = ""
        """The end of what came, while it may be the beginning of a tag."""
        self._thinking = False
        self._shown = False

    def feed(self, piece: str) -> str:
        """Take the next piece; return what of it can be shown as speech now."""
        self._pieces.append(piece)
        if not self._held and not self._thinking and "<" not in piece:
            return self._visible(piece)
        return self._visible(self._outside_blocks(self._held + piece))

    def finish(self) -> tuple[str, str | None]:
        """The split of everything that was fed."""
        return split_reasoning("".join(self._pieces))

    def _outside_blocks(self, text: str) -> str:
        speech = []
        while True:
            tag = CLOSE if self._thinking else OPEN
            before, found, after = text.partition(tag)
            if not found:
                break
            if not self._thinking:
                speech.append(before)
            self._thinking = not self._thinking
            text = after
        keep = _partial_tag(text, tag)
        self._held = text[len(text) - keep :]
        if not self._thinking:
            speech.append(text[: len(text) - keep])
        return "".join(speech)

    def _visible(self, speech: str) -> str:
        """Without the white space that stands between a block and the speech after it."""
        if self._shown:
            return speech
        speech = speech.lstrip()
        self._shown = bool(speech)
        return speech


def _partial_tag(text: str, tag: str) -> int:
    """How many characters at the end of the text may be the beginning of the tag."""
    longest = min(len(text), len(tag) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(tag[:n])), 0)
