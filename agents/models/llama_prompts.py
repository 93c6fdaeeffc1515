"""From messages to the token ids of a prompt, by the vocabulary of a native model.

How the text is kept from acting as control tokens is `agents.models.prompt_parts`' business.

Invariant: the special tokens of a prompt are those that the template would write around empty messages.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

from agents.models.chat_template import ChatTemplate
from agents.models.prompt_parts import PartsReader, SpecialText
from agents.models.protocol import Message, ModelFailure


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
        return tokens_digest(self.tokens)


def tokens_digest(tokens: Sequence[int]) -> str:
    """The digest of a prompt as token ids."""
    packed = struct.pack(f"<{len(tokens)}i", *tokens)
    return blake2b(packed, digest_size=16).hexdigest()


class PromptReader:
    """One model's template and vocabulary. Keeps no state, so any thread may use it."""

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        specials = [SpecialText(text, not tokenizer.is_user_defined(token)) for token, text in tokenizer.specials]
        self._parts = PartsReader(template, specials)

    def read(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> Prompt:
        """Render and tokenise; by default ready for the assistant's answer. Raises ModelFailure("refused")."""
        parts = self._parts.read(messages, add_generation_prompt=add_generation_prompt)
        tokens = [token for part in parts.texts for token in self._tokenizer.tokenize(part, special=True)]
        if self._tokenizer.adds_bos and tokens[:1] != [self._tokenizer.bos]:
            tokens.insert(0, self._tokenizer.bos)
        if not tokens:
            raise ModelFailure("refused", "the prompt is empty: give at least one message")
        return Prompt(tokens, parts.reasons)
