"""From the bytes of tokens to the text of an answer, piece by piece.

Bytes pass three gates in turn: incomplete UTF-8 is held back, what stands in a leading <think> block goes
aside, and text that may be the beginning of a stop string is held back until it is clear whether it is one.

Invariant: what `feed` and `close` return, joined, is `text`; nothing returned is ever taken back.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

THINK, END_THINK = "<think>", "</think>"


class AnswerText:
    """One answer as it is written."""

    def __init__(self, stop: Sequence[str] = (), *, reasons: bool = False) -> None:
        """`reasons`: the prompt itself already opened a <think> block."""
        self.text = ""
        self.stopped = False
        self._stop = [mark for mark in stop if mark]
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._part: str = "reasoning" if reasons else "opening"
        self._held = ""
        self._reasoning = ""

    @property
    def reasoning(self) -> str | None:
        return self._reasoning.strip() or None

    def feed(self, piece: bytes) -> str:
        """Take a token's bytes; returns the text that is now certain."""
        return self._advance(self._decoder.decode(piece))

    def close(self) -> str:
        """The answer ends here: what was held back is text (or reasoning) after all."""
        sure = self._advance(self._decoder.decode(b"", final=True))
        if self._part == "opening":
            self._part = "answer"
            sure += self._answer()
        held, self._held = self._held, ""
        if self._part == "reasoning":
            self._reasoning += held
            return sure
        return sure + self._keep("" if self.stopped else held)

    def _advance(self, new: str) -> str:
        if self.stopped:
            return ""
        self._held += new
        if self._part == "opening":
            self._open()
        if self._part == "reasoning":
            self._reason()
        if self._part == "after":
            self._held = self._held.lstrip()
            self._part = "answer" if self._held else "after"
        return self._answer() if self._part == "answer" else ""

    def _open(self) -> None:
        start = self._held.lstrip()
        if start.startswith(THINK):
            self._held, self._part = start[len(THINK) :], "reasoning"
        elif not THINK.startswith(start):
            self._part = "answer"

    def _reason(self) -> None:
        before, mark, after = self._held.partition(END_THINK)
        if mark:
            self._reasoning += before
            self._held, self._part = after, "after"
            return
        sure = len(self._held) - _overlap(self._held, END_THINK)
        self._reasoning += self._held[:sure]
        self._held = self._held[sure:]

    def _answer(self) -> str:
        found = [place for mark in self._stop if (place := self._held.find(mark)) >= 0]
        if found:
            self.stopped = True
            sure, self._held = self._held[: min(found)], ""
            return self._keep(sure)
        held = max((_overlap(self._held, mark) for mark in self._stop), default=0)
        cut = len(self._held) - held
        sure, self._held = self._held[:cut], self._held[cut:]
        return self._keep(sure)

    def _keep(self, text: str) -> str:
        self.text += text
        return text


def _overlap(text: str, mark: str) -> int:
    """How many characters at the end of `text` are the beginning of `mark` (never all of it)."""
    longest = min(len(text), len(mark) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(mark[:length])), 0)
