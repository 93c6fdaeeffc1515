"""A person's own JSONL rows, in TRL's conversational forms, as rows that can be mixed into a data set.

A line is an object with `prompt` and `completion` or with `messages` (SFT), or with `prompt`, `chosen` and `rejected`
(DPO; the prompt may stand inside both sides instead). Every assistant message of `messages` is a target. Rows that
`espalier export` wrote carry ids, and are believed only where the store holds the same words under them.

Invariant: a row that names a held-out half, or one that says the same, is refused, and so is one that holds a message
and its answer as they stand in a stored held-out conversation; reasoning in an assistant's message is taken out; a
broken line is an error that quotes it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from agents.models.reasoning import split_reasoning
from trees.errors import SetupError
from trees.ids import digest_of, text_digest
from trees.store import Store
from trees.values import Speaker

Line = tuple[Speaker, str]
Conversation = tuple[list[tuple[int, Speaker, str]], list[int], list[tuple[int, int]]]
"""Messages as (parent, speaker, text), parents first; indices of targets; indices of pairs as (chosen, rejected)."""
Owner = tuple[str, str | None, str | None]
"""System message, profile id, personality id."""

_QUOTED = 60
_ROLES = {"user", "assistant"}


@dataclass(frozen=True, slots=True)
class OwnRow:
    """One row of a file."""

    line: int
    """From 1."""
    fit: Literal["sft", "dpo"]
    system: str
    path: tuple[Line, ...]
    """The conversation; of a pair, with the chosen reply at its end."""
    targets: tuple[int, ...]
    """Of SFT: places in the path of the replies that are trained."""
    rejected: str | None
    """Of a pair."""
    node_id: str | None
    """The stored reply that the row says it is."""
    profile_id: str | None
    personality_id: str | None
    stored: bool = False
    """The store holds these very words under the row's ids."""

    @property
    def digest(self) -> str:
        return digest_of("row", self.fit, self.system, [*self.path], list(self.targets), self.rejected)


@dataclass(frozen=True, slots=True)
class ReadRows:
    """What a file holds."""

    rows: tuple[OwnRow, ...]
    dropped: Mapping[str, int]
    """By reason: `held_out`, `duplicate`, `equal_text`, `empty_reply`."""
    digest: str
    """Of the file's bytes."""


def read_rows(store: Store, path: Path) -> ReadRows:
    """Read a file against a store. Raises SetupError that names the line."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SetupError(f"cannot read {path}: {error.strerror}", hint="Name a JSONL file.") from error
    guard = _HeldOutWords(store)
    kept: dict[str, OwnRow] = {}
    dropped: Counter[str] = Counter()
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not raw.strip():
            continue
        row = _row(raw, number, path)
        reason = guard.refuses(row) or _flaw(row) or ("duplicate" if row.digest in kept else None)
        if reason is None:
            kept[row.digest] = replace(row, stored=_is_stored(store, row))
        else:
            dropped[reason] += 1
    return ReadRows(tuple(kept.values()), dict(dropped), digest_of("file", data.hex()))


def rows_by_conversation(rows: Iterable[OwnRow]) -> Iterator[tuple[Owner, list[Conversation]]]:
    """Rows that begin alike as one conversation that branches, so that nothing is read or trained twice."""
    owners: dict[Owner, dict[Line, list[OwnRow]]] = {}
    for row in rows:
        owner = (row.system, row.profile_id, row.personality_id)
        owners.setdefault(owner, {}).setdefault(row.path[0], []).append(row)
    for owner, openings in owners.items():
        yield owner, [_merged(begun_alike) for begun_alike in openings.values()]


def _merged(rows: Sequence[OwnRow]) -> Conversation:
    places: dict[tuple[int, Speaker, str], int] = {}
    targets: dict[int, None] = {}
    pairs: dict[tuple[int, int], None] = {}

    def place(parent: int, line: Line) -> int:
        return places.setdefault((parent, *line), len(places))

    for row in rows:
        at, before, found = -1, -1, []
        for line in row.path:
            before, at = at, place(at, line)
            found.append(at)
        targets.update(dict.fromkeys(found[target] for target in row.targets))
        if row.rejected is not None:
            pairs[at, place(before, ("assistant", row.rejected))] = None
    return list(places), list(targets), list(pairs)


def _flaw(row: OwnRow) -> str | None:
    if row.rejected is not None and row.rejected == row.path[-1][1]:
        return "equal_text"
    replies = [row.path[i][1] for i in row.targets] if row.fit == "sft" else [row.path[-1][1], row.rejected or ""]
    return None if replies and all(reply.strip() for reply in replies) else "empty_reply"


def _is_stored(store: Store, row: OwnRow) -> bool:
    """Whether the store holds the row's whole conversation under the ids that it names, for the person it names."""
    if row.node_id is None or len(row.targets) > 1:
        return False
    sql = "SELECT t.profile_id, t.personality_id FROM nodes n JOIN trees t ON t.id = n.tree_id WHERE n.id = ?"
    if store.rows(sql, (row.node_id,)) != [(row.profile_id, row.personality_id)]:
        return False
    node: str | None = row.node_id
    for depth, (_, text) in enumerate(reversed(row.path)):
        found = store.rows("SELECT parent_id FROM nodes WHERE id = ? AND digest = ?", (node, text_digest(text)))
        if not found:
            return False
        node = found[0][0]
        if depth == 0 and not _has_sibling(store, node, row.rejected):
            return False
    return node is None


def _has_sibling(store: Store, parent: str | None, rejected: str | None) -> bool:
    if rejected is None:
        return True
    sql = "SELECT 1 FROM nodes WHERE parent_id = ? AND digest = ?"
    return bool(store.rows(sql, (parent, text_digest(rejected))))


class _HeldOutWords:
    """What no row may hold, of one store."""

    def __init__(self, store: Store) -> None:
        self._halves = {half for (half,) in store.rows("SELECT id FROM pool WHERE split <> 'train'")}
        self._exchanges: set[tuple[str, str]] = set(
            store.rows(
                "SELECT above.digest, n.digest FROM nodes n JOIN nodes above ON above.id = n.parent_id "
                "JOIN trees t ON t.id = n.tree_id LEFT JOIN profiles p ON p.id = t.profile_id "
                "LEFT JOIN personalities q ON q.id = t.personality_id "
                "WHERE p.split = 'held_out' OR q.split = 'held_out'"
            )
        )

    def refuses(self, row: OwnRow) -> str | None:
        if self._halves & {row.profile_id, row.personality_id}:
            return "held_out"
        digests = [text_digest(text) for _, text in row.path]
        exchanges = set(pairwise(digests))
        if row.rejected is not None and len(digests) > 1:
            exchanges.add((digests[-2], text_digest(row.rejected)))
        return "held_out" if exchanges & self._exchanges else None


# From a line to a row


class _Broken(ValueError):
    """A line that is not a row."""


def _row(raw: bytes, number: int, path: Path) -> OwnRow:
    try:
        record = json.loads(raw.decode("utf-8"))
        if not isinstance(record, dict):
            raise _Broken(f"a JSON {type(record).__name__}, not an object")
        return _row_of(record, number)
    except (UnicodeDecodeError, ValueError) as error:
        shown = raw.decode("utf-8", "replace").strip()[:_QUOTED]
        raise SetupError(
            f"{path}, line {number}: {error}: {shown!r}",
            hint='Rows are {"prompt", "completion"}, {"messages"}, or {"prompt", "chosen", "rejected"}, as messages.',
        ) from error


def _row_of(record: Mapping[str, Any], number: int) -> OwnRow:
    if "chosen" in record or "rejected" in record:
        return _pair(record, number)
    if "messages" in record:
        system, path = _conversation(record["messages"], "messages")
        targets = tuple(i for i, (speaker, _) in enumerate(path) if speaker == "assistant")
        return _made(record, number, "sft", system, path, targets, None)
    if "prompt" not in record or "completion" not in record:
        raise _Broken(f"it has {', '.join(sorted(record)) or 'nothing'}")
    before = _messages(record["prompt"], "prompt")
    system, path = _conversation([*before, *_messages(record["completion"], "completion")], "prompt and completion")
    first = len(before) - (1 if before and before[0]["role"] == "system" else 0)
    targets = tuple(i for i, (speaker, _) in enumerate(path) if i >= first and speaker == "assistant")
    return _made(record, number, "sft", system, path, targets, None)


def _pair(record: Mapping[str, Any], number: int) -> OwnRow:
    chosen, rejected = (_messages(record.get(side), side) for side in ("chosen", "rejected"))
    before = _messages(record["prompt"], "prompt") if "prompt" in record else chosen[:-1]
    if "prompt" not in record:
        if rejected[:-1] != before:
            raise _Broken("chosen and rejected differ before their last message")
        chosen, rejected = chosen[-1:], rejected[-1:]
    for side, said in (("chosen", chosen), ("rejected", rejected)):
        if len(said) != 1 or said[0]["role"] != "assistant":
            raise _Broken(f"{side} is not one message of the assistant")
    system, path = _conversation([*before, *chosen], "prompt and chosen")
    _, other = _conversation([*before, *rejected], "prompt and rejected")
    return _made(record, number, "dpo", system, path, (), other[-1][1])


def _made(
    record: Mapping[str, Any],
    number: int,
    fit: Literal["sft", "dpo"],
    system: str,
    path: Sequence[Line],
    targets: tuple[int, ...],
    rejected: str | None,
) -> OwnRow:
    node = record.get("target_id", record.get("chosen_id"))
    half, other = record.get("profile"), record.get("personality")
    return OwnRow(
        number,
        fit,
        system,
        tuple(path),
        targets,
        rejected,
        node if isinstance(node, str) else None,
        half if isinstance(half, str) else None,
        other if isinstance(other, str) else None,
    )


def _conversation(value: Any, name: str) -> tuple[str, list[Line]]:
    """The system message, and what user and assistant said. Raises _Broken."""
    messages = _messages(value, name)
    system = ""
    if messages and messages[0]["role"] == "system":
        system, messages = messages[0]["content"], messages[1:]
    if not messages:
        raise _Broken(f"{name} holds no message of user or assistant")
    for message in messages:
        if message["role"] not in _ROLES:
            raise _Broken(f"{name} has a message of {message['role']!r} after the first")
    return system, [(m["role"], _spoken(m["role"], m["content"])) for m in messages]


def _spoken(role: Speaker, text: str) -> str:
    return split_reasoning(text)[0] if role == "assistant" else text


def _messages(value: Any, name: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value:
        raise _Broken(f"{name} is not a list of messages")
    for message in value:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise _Broken(f"{name} holds something that is not a message")
        if not isinstance(message.get("content"), str):
            raise _Broken(f"a message of {name} has no text as its content")
    return value
