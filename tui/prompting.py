"""The prompts of one message, rendered again: what was asked for it, word for word."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from trees.errors import NotFound
from tui.console import say, say_json

if TYPE_CHECKING:
    from agents.models.protocol import Message
    from trees.store import Store, TreeRow
    from trees.values import Use

_WHERE = """
u.tree_id = ? AND (u.node_id = ? AND u.role NOT LIKE 'responder.%' AND u.role <> 'user'
                   OR u.call_id = ? AND u.role = ? AND u.node_id = ?)
"""
"""Of a user's message: who read and judged it. Of any: the call that it came of."""


def show_prompts(store: Store, row: TreeRow, node_id: str, *, as_json: bool) -> None:
    """Print the prompt that a message came of; for a user's also those of who read and judged it."""
    found = list(rendered(store, row, node_id))
    if not found:
        raise NotFound(
            f"no model was asked for message {node_id[:8]}: a person wrote it",
            hint="Name one that a model wrote.",
        )
    if as_json:
        say_json([_as_dict(use, messages, tokens) for use, messages, tokens in found])
        return
    for use, messages, tokens in found:
        say(f"== {use.role}, {use.purpose}, prompt version {use.prompt_id[:8]}, call {use.call_id[:8]}, {tokens}")
        for message in messages:
            say(f"[{message.role}]\n{message.content}\n")


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a call took; None where the backend does not tell."""

    read: int | None
    reused: int | None
    """Of those read, what the backend had in its cache."""
    written: int | None

    def __str__(self) -> str:
        if self.read is None:
            return "tokens unknown"
        reused = f" ({self.reused} of them reused)" if self.reused else ""
        return f"{self.read} tokens read{reused}, {self.written or 0} written"


Rendered = tuple["Use", "tuple[Message, ...]", Tokens]
"""What a prompt was for, its messages, and what the call took."""


def rendered(store: Store, row: TreeRow, node_id: str) -> list[Rendered]:
    """The prompts of a message with what they were for, as they were sent, and what they took. Raises NotFound."""
    from agents.rerender import Rerender

    render = Rerender(store)
    pairs = [(use, render.messages(use)) for use in _uses(store, row, node_id)]
    return [(use, messages, _tokens(store, use.call_id)) for use, messages in pairs if messages is not None]


def _tokens(store: Store, call_id: str) -> Tokens:
    rows = store.rows("SELECT tokens_in, tokens_cached, tokens_out FROM calls WHERE id = ?", (call_id,))
    return Tokens(*rows[0]) if rows else Tokens(None, None, None)


def _uses(store: Store, row: TreeRow, node_id: str) -> list[Use]:
    from trees.verify import USE_COLUMNS, use_from_row

    sql = "SELECT call_id, role, coalesce(parent_id, tree_id) FROM nodes WHERE id = ? AND tree_id = ?"
    place = store.rows(sql, (node_id, row.id))
    if not place:
        raise NotFound(f"message {node_id[:8]} is not in tree {row.id[:8]}", hint="See the ids with --ids.")
    uses = f"SELECT {USE_COLUMNS} FROM uses u WHERE {_WHERE} ORDER BY u.role, u.purpose"
    return [use_from_row(found) for found in store.rows(uses, (row.id, node_id, *place[0]))]


def _as_dict(use: Use, messages: tuple[Message, ...], tokens: Tokens) -> dict[str, Any]:
    return {
        "call": use.call_id,
        "role": use.role,
        "purpose": use.purpose,
        "prompt": use.prompt_id,
        "epoch": use.epoch,
        "tokens": asdict(tokens),
        "messages": [{"role": message.role, "content": message.content} for message in messages],
    }
