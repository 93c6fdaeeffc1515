"""A tokenizer of transformers as prompts are read with it; without torch, since whoever only counts needs none."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any


class Vocab:
    """A tokenizer as `agents.models.llama_prompts` wants it."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.bos = -1 if tokenizer.bos_token_id is None else int(tokenizer.bos_token_id)
        self.adds_bos = self.bos >= 0 and tokenizer.encode("")[:1] == [self.bos]
        self.template = _default(tokenizer.chat_template)
        self.bos_text: str = tokenizer.bos_token or ""
        self.eos_text: str = tokenizer.eos_token or ""

    @cached_property
    def specials(self) -> tuple[tuple[int, str], ...]:
        return tuple((token, added.content) for token, added in self._tokenizer.added_tokens_decoder.items())

    @cached_property
    def _user_defined(self) -> frozenset[int]:
        return frozenset(t for t, added in self._tokenizer.added_tokens_decoder.items() if not added.special)

    def is_user_defined(self, token: int) -> bool:
        return token in self._user_defined

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """Token ids; texts of special tokens become those tokens only if `special`."""
        readable = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return list(self._tokenizer.encode(readable, add_special_tokens=False, split_special_tokens=not special))

    def text(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def shown(self, tokens: Sequence[int]) -> str:
        """The same with control tokens written out."""
        return str(self._tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _default(template: Any) -> str | None:
    """Of several templates under names, the one for conversations."""
    found = template.get("default") if isinstance(template, dict) else template
    return found if isinstance(found, str) else None
