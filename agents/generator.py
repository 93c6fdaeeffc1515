"""The generator: asked for new profiles or personalities, shown a few of those there are; its answer read item by item.

What is asked for is one JSON object with a list; each item of the list is read on its own, so that one that is broken
costs itself alone, and an answer that was cut at its length keeps the items before the cut.

Invariant: what is read is a function of the answer's text; nothing in it is repaired or guessed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agents.models.protocol import Message
from agents.prompts import Prompt
from trees.ids import canonical_json
from trees.personas import Kind

LIST_OF: Mapping[Kind, str] = {"profile": "profiles", "personality": "personalities"}
PARTS_OF: Mapping[Kind, str] = {"profile": "facts", "personality": "traits"}
PROMPT_OF: Mapping[Kind, str] = {"profile": "persona.profile", "personality": "persona.personality"}
MOST_PARTS = 12
"""Sentences of an item, at most."""
_SHOWN = 200
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Proposed:
    """One item of an answer: its sentences, or what is wrong with it."""

    parts: tuple[str, ...]
    broken: str | None = None
    """Why it is none; `text` then is what could be made out."""
    raw: str = ""

    @property
    def text(self) -> str:
        return " ".join(self.parts) if self.parts else self.raw


def schema_of(kind: Kind, count: int) -> str:
    """The JSON schema of an answer with this many items."""
    parts = {"type": "array", "items": {"type": "string"}, "minItems": 3, "maxItems": MOST_PARTS}
    item = {
        "type": "object",
        "properties": {PARTS_OF[kind]: parts},
        "required": [PARTS_OF[kind]],
        "additionalProperties": False,
    }
    several = {"type": "array", "items": item, "minItems": count, "maxItems": count}
    whole = {
        "type": "object",
        "properties": {LIST_OF[kind]: several},
        "required": [LIST_OF[kind]],
        "additionalProperties": False,
    }
    return canonical_json(whole)


def generator_messages(
    prompt: Prompt, kind: Kind, examples: Sequence[Sequence[str]], count: int, lacking: str
) -> tuple[Message, ...]:
    """Ask for `count` new items beside these examples (sentences each); `lacking` says what the pool wants."""
    shown = [json.dumps({PARTS_OF[kind]: list(parts)}, ensure_ascii=False) for parts in examples]
    tail = prompt.render("tail", examples=shown, count=count, lacking=lacking)
    return (Message("system", prompt.render("head")), Message("user", tail))


def check_messages(prompt: Prompt, kind: Kind, text: str) -> tuple[Message, ...]:
    """Ask whether an item is what it should be; the answer is yes or no."""
    return (Message("system", prompt.render("head")), Message("user", prompt.render("tail", kind=kind, text=text)))


def read_items(answer: str, kind: Kind) -> list[Proposed]:
    """The items of an answer, in order; an answer without any list, or with none in it, is one broken item.

    So every answer counts as a candidate, and who answers nothing for ever is seen to be saturated.
    """
    begin = _list_start(answer, LIST_OF[kind])
    if begin is None:
        return [Proposed((), "no_json", answer.strip()[:_SHOWN])]
    return list(_items(answer, begin, kind)) or [Proposed((), "empty", answer.strip()[:_SHOWN])]


def _list_start(answer: str, name: str) -> int | None:
    """Where the list's items begin: after `"profiles": [`, or at the first bracket of a bare list."""
    found = re.search(rf'"{name}"\s*:\s*\[', answer) or re.match(r"\s*(?:```(?:json)?\s*)?\[", answer)
    return None if found is None else found.end()


def _items(answer: str, at: int, kind: Kind) -> Iterator[Proposed]:
    decoder = json.JSONDecoder()
    while at < len(answer):
        at += len(answer[at:]) - len(answer[at:].lstrip(" \t\r\n,"))
        if at >= len(answer) or answer[at] == "]":
            return
        try:
            value, end = decoder.raw_decode(answer, at)
        except (ValueError, RecursionError):
            yield Proposed((), "cut" if "]" not in answer[at:] else "no_json", answer[at : at + _SHOWN])
            at = _next_item(answer, at)
            continue
        yield _item(value, kind, answer[at : min(end, at + _SHOWN)])
        at = end


def _next_item(answer: str, at: int) -> int:
    """Where the next object begins after a broken one."""
    following = re.compile(r"\}\s*,\s*(?=\{)").search(answer, at)
    return len(answer) if following is None else following.end()


def _item(value: Any, kind: Kind, raw: str) -> Proposed:
    if not isinstance(value, dict) or set(value) != {PARTS_OF[kind]}:
        return Proposed((), "wrong_shape", raw)
    parts = value[PARTS_OF[kind]]
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        return Proposed((), "wrong_shape", raw)
    kept = tuple(said for part in parts if (said := _SPACE.sub(" ", part).strip()))
    if not kept or len(kept) > MOST_PARTS:
        return Proposed((), "wrong_shape", raw)
    return Proposed(kept, None, raw)
