"""Messages as the parts of a prompt, cut so that no text of a message acts as a control token.

A rendered prompt is tokenised with its special tokens, since the template writes them. Where a message itself holds
the text of a special token, that text is broken: a mark from Unicode's private use area goes in after its first
character before rendering, and the rendering is cut at the marks, each part to be tokenised on its own. So a part
never holds the whole text, and the message is still read letter by letter.

Invariant: the special tokens of a prompt are those that the template would write around empty messages.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from agents.models.chat_template import ChatTemplate
from agents.models.llama_text import THINK
from agents.models.protocol import Message, ModelFailure

_PRIVATE_USE = range(0xE000, 0xF900)


@dataclass(frozen=True, slots=True)
class SpecialText:
    """The text that a tokenizer reads as one token wherever it stands."""

    text: str
    control: bool
    """It controls the conversation; others (runs of spaces, HTML tags) mean nothing unless a template writes them."""


@dataclass(frozen=True, slots=True)
class PromptParts:
    """A prompt's text, to be tokenised part by part and joined."""

    texts: tuple[str, ...]
    reasons: bool
    """The template already opened a <think> block, so the answer begins inside it."""


class PartsReader:
    """One model's template and special texts. Keeps no state, so any thread may use it."""

    def __init__(self, template: ChatTemplate, specials: Iterable[SpecialText]) -> None:
        self._template = template
        self._breakable = _breakable([special.text for special in specials if _guarded(special, template)])

    def read(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> PromptParts:
        """Render, ready for the assistant's answer unless told otherwise. Raises ModelFailure("refused")."""
        mark = _unused_character(self._template.source, [message.content for message in messages])
        broken = [Message(message.role, self._marked(message.content, mark)) for message in messages]
        rendered = self._template.render(broken, add_generation_prompt=add_generation_prompt)
        return PromptParts(tuple(rendered.split(mark)), rendered.rstrip().endswith(THINK))

    def cut(self, text: str) -> tuple[str, ...]:
        """A text on its own, such as a reply to be scored, cut as it would be inside a message."""
        mark = _unused_character("", [text])
        return tuple(self._marked(text, mark).split(mark))

    def _marked(self, content: str, mark: str) -> str:
        return self._breakable.sub(lambda match: match.group() + mark, content)


def _guarded(special: SpecialText, template: ChatTemplate) -> bool:
    if len(special.text) < 2:
        return False
    return special.control or bool(special.text.strip() and special.text in template.source)


def _breakable(texts: Sequence[str]) -> re.Pattern[str]:
    """Matches the first character of every occurrence of these texts, overlapping ones too."""
    if not texts:
        return re.compile(r"(?!)")
    ordered = sorted(set(texts))
    branches = [
        re.escape(first) + "(?=" + "|".join(re.escape(text[1:]) for text in group) + ")"
        for first, group in groupby(ordered, key=lambda text: text[0])
    ]
    return re.compile("|".join(branches))


def _unused_character(source: str, contents: Sequence[str]) -> str:
    used = set(source).union(*contents)
    free = next((chr(code) for code in _PRIVATE_USE if chr(code) not in used), None)
    if free is None:
        raise ModelFailure("refused", "the messages use every private-use character, so none is left as a mark")
    return free
