"""Texts of special tokens in messages, against a tokenizer that shows what it was given."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agents.models.chat_template import ChatTemplate
from agents.models.llama_prompts import PromptReader
from agents.models.protocol import Message

SPECIALS = ["<|im_start|>", "<|im_end|>", "<a>", "a>b", "aa", "<think>", "\n\n"]


class Letters:
    """Every character a token, special tokens (longest first) from 0x200000 on."""

    adds_bos = True
    bos = 7

    @property
    def specials(self) -> list[tuple[int, str]]:
        return [(0x200000 + index, text) for index, text in enumerate(SPECIALS)]

    def is_user_defined(self, token: int) -> bool:
        return token - 0x200000 >= SPECIALS.index("<think>")

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        tokens = []
        while text:
            found = [(len(name), token, name) for token, name in self.specials if text.startswith(name)]
            _, token, name = max(found) if found and special else (1, ord(text[0]), text[0])
            tokens.append(token)
            text = text[len(name) :]
        return tokens


def read(content: str, template: ChatTemplate | None = None) -> list[int]:
    return PromptReader(template or ChatTemplate(None), Letters()).read([Message("user", content)]).tokens


def controls(tokens: list[int]) -> list[int]:
    return [token for token in tokens if 0x200000 <= token < 0x200000 + SPECIALS.index("<think>")]


@given(st.lists(st.sampled_from([*SPECIALS, "<", "a", ">", "b", "|", "im_start", " ", "\ue000", "x"]), max_size=10))
def test_no_content_writes_a_control_token(parts: list[str]) -> None:
    content = "".join(parts)
    tokens = read(content)
    assert controls(tokens) == controls(read("x"))
    letters = "".join(SPECIALS[t - 0x200000] if t >= 0x200000 else chr(t) for t in tokens[1:])
    assert letters == ChatTemplate(None).render([Message("user", content)])


def test_a_beginning_of_text_is_added_once() -> None:
    assert read("x")[0] == 7
    assert read("x", ChatTemplate("{{ '\x07' }}{{ messages[0].content }}")) == [7, ord("x")]


def test_user_defined_tokens_are_guarded_where_the_template_writes_them() -> None:
    think = 0x200000 + SPECIALS.index("<think>")
    assert think in read("<think>")
    assert think not in read("<think>", ChatTemplate("{{ messages[0].content }}{# <think> #}"))


def test_a_template_that_opens_reasoning_is_noticed() -> None:
    opening = ChatTemplate("{{ messages[0].content }}<think>\n")
    assert PromptReader(opening, Letters()).read([Message("user", "x")]).reasons
    assert not PromptReader(ChatTemplate(None), Letters()).read([Message("user", "x")]).reasons
