"""From messages to the token ids of a prompt, so that no text of a message acts as a control token.

The rendered prompt is tokenised with its special tokens, since the template writes them. Where a message
itself holds the text of a special token, that text is broken: a mark from Unicode's private use area goes in
after its first character before rendering, and the rendering is cut at the marks, each part tokenised on its
own. So a part never holds the whole text, and the message is still read letter by letter.

Invariant: the special tokens of a prompt are those that the template would write around empty messages.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import groupby
from typing import Protocol

from agents.models.chat_template import ChatTemplate
from agents.models.llama_text import THINK
from agents.models.protocol import Message, ModelFailure

_PRIVATE_USE = range(0xE000, 0xF900)


class Tokenizer(Protocol):
    """What prompts need of a vocabulary."""

    bos: int
    adds_bos: bool

    @property
    def specials(self) -> Sequence[tuple[int, str]]: ...

    def tokenize(self, text: str, *, special: bool) -> list[int]: ...

    def is_user_defined(self, token: int) -> bool: ...


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as the model reads it."""

    tokens: list[int]
    reasons: bool
    """The template already opened a <think> block, so the answer begins inside it."""

    @property
    def digest(self) -> str:
        packed = struct.pack(f"<{len(self.tokens)}i", *self.tokens)
        return blake2b(packed, digest_size=16).hexdigest()


class PromptReader:
    """One model's template and vocabulary. Keeps no state, so any thread may use it."""

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer) -> None:
        self._template = template
        self._tokenizer = tokenizer
        self._breakable = _breakable(_guarded(template, tokenizer))

    def read(self, messages: Sequence[Message]) -> Prompt:
        """Render and tokenise, ready for the assistant's answer. Raises ModelFailure("refused")."""
        mark = _unused_character(self._template.source, messages)
        broken = [Message(message.role, self._break(message.content, mark)) for message in messages]
        rendered = self._template.render(broken)
        tokens = [token for part in rendered.split(mark) for token in self._tokenizer.tokenize(part, special=True)]
        if self._tokenizer.adds_bos and tokens[:1] != [self._tokenizer.bos]:
            tokens.insert(0, self._tokenizer.bos)
        if not tokens:
            raise ModelFailure("refused", "the prompt is empty: give at least one message")
        return Prompt(tokens, rendered.rstrip().endswith(THINK))

    def _break(self, content: str, mark: str) -> str:
        return self._breakable.sub(lambda match: match.group() + mark, content)


def _guarded(template: ChatTemplate, tokenizer: Tokenizer) -> list[str]:
    """Texts of tokens that control a conversation: all control tokens, and those of the others that the
    template writes. The rest (runs of spaces, HTML tags) are found by the tokenizer in ordinary text and mean
    nothing."""
    return [
        text
        for token, text in tokenizer.specials
        if len(text) > 1 and (not tokenizer.is_user_defined(token) or (text.strip() and text in template.source))
    ]


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


def _unused_character(source: str, messages: Sequence[Message]) -> str:
    used = set(source).union(*(message.content for message in messages))
    free = next((chr(code) for code in _PRIVATE_USE if chr(code) not in used), None)
    if free is None:
        raise ModelFailure("refused", "the messages use every private-use character, so none is left as a mark")
    return free
