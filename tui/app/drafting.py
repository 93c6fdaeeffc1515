"""Prompts that are being written: versions and files to begin from, and what a draft is like while it is typed.

Invariant: a stored version never changes: saving a draft makes another one, or finds that it is one already.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agents.models.protocol import Message
from agents.prompts import SHIPPED_NAMES, VARIABLES, Prompt, prompt_of, shipped_prompts
from agents.rerender import Rerender
from simulation.config import DERIVED_JUDGES
from simulation.runs import config_of
from trees.errors import SetupError
from trees.store import Store
from trees.text import unescape
from trees.values import Use
from trees.writes import keep_prompt
from tui.draw import Line, Span
from tui.sanitise import visible
from tui.trying import places

FOLDER = Path("prompts")
"""Where a person's own prompt files lie, as for `espalier prompts`."""


@dataclass(frozen=True, slots=True)
class Source:
    """A prompt that a draft can begin from."""

    key: str
    """Tells it from all others: a version's id, or `file:NAME`, `shipped:NAME`."""
    kind: str
    name: str
    text: str
    note: str
    runs: int = 0
    """How many runs use it."""


def sources(store: Store | None) -> list[Source]:
    """Everything a draft can begin from, by kind: stored versions (the latest first), own files, shipped ones."""
    found = [*(_versions(store) if store is not None else ()), *_files()]
    order = {kind: place for place, kind in enumerate(VARIABLES)}
    return sorted(found, key=lambda source: order.get(source.kind, len(order)))


def _versions(store: Store) -> Iterator[Source]:
    used = dict(
        store.rows("SELECT p.value, count(DISTINCT r.run_id) FROM revisions r, json_each(r.prompts) p GROUP BY p.value")
    )
    for key, kind, text, note in store.rows("SELECT id, role, text, note FROM prompts ORDER BY added_at DESC, id"):
        yield Source(key, kind, key[:8], unescape(text), unescape(note or ""), used.get(key, 0))


def _files() -> Iterator[Source]:
    kinds = {name: kind for kind, name in SHIPPED_NAMES.items()}
    for path in sorted(FOLDER.glob("*.md")):
        kind = kinds.get(path.stem) or next((k for n, k in kinds.items() if path.stem.startswith(n)), "responder")
        yield Source(f"file:{path.stem}", kind, f"{path.stem}.md", path.read_text(encoding="utf-8"), str(path))
    for name, text in sorted(shipped_prompts().items()):
        if name in kinds:
            yield Source(f"shipped:{name}", kinds[name], f"{name}.md", text, "shipped")


def own_file(kind: str) -> Path:
    """The file that runs take a kind of prompt from where their configuration names no other."""
    return FOLDER / f"{SHIPPED_NAMES[kind]}.md"


def roles_under(store: Store, run_id: str, kind: str) -> list[str]:
    """The roles of a run whose prompt is of a kind and can change while it is played: a judge is its prompt."""
    latest = store.revisions(run_id)[-1]
    spoken = {role: prompt for role, prompt in sorted(latest.items()) if not role.startswith("judge.")}
    return [role for role, prompt in spoken.items() if store.prompt(prompt)[0] == kind]


def deciding_judge(store: Store, within: str) -> str | None:
    """The judge that branching follows in a run, or in the run of a tree; None where there is none that asks."""
    rows = store.rows("SELECT run_id FROM trees WHERE id = ?", (within,))
    config = config_of(store.run(rows[0][0] if rows else within))
    name = config.deciding_judge
    return name if name in config.judges and config.judges[name].kind not in DERIVED_JUDGES else None


@dataclass(frozen=True, slots=True)
class Checked:
    """A draft as a prompt, or what is wrong with it."""

    prompt: Prompt | None
    problem: str = ""


def check(kind: str, text: str) -> Checked:
    """What a draft is."""
    try:
        return Checked(prompt_of(kind, text, FOLDER))
    except SetupError as error:
        return Checked(None, str(error))


def variables(kind: str) -> str:
    """The sections of a kind of prompt with the variables that each may use, a line each."""
    return "\n".join(f"[{section}] {', '.join(sorted(names)) or '-'}" for section, names in VARIABLES[kind].items())


@dataclass(frozen=True, slots=True)
class Preview:
    """A prompt rendered at a place of a stored tree."""

    use: Use
    number: int
    of: int
    messages: tuple[Message, ...] | None


def preview(store: Store, tree_id: str, prompt: Prompt, number: int) -> Preview | None:
    """The draft at the `number`th place of its kind in a tree; None if the tree has no such place."""
    found = places(store, tree_id, prompt.kind)
    if not found:
        return None
    at = min(max(number, 1), len(found))
    use = found[at - 1]
    return Preview(use, at, len(found), Rerender(store).messages(use, prompt))


def preview_lines(shown: Preview) -> list[Line]:
    """A preview as lines: each message under its role, with about how many tokens it takes."""
    if shown.messages is None:
        return [(Span("the turn of this place is not stored whole"),)]
    lines: list[Line] = []
    for message in shown.messages:
        tokens = round(len(message.content) / 4)
        lines.append((Span(f"[{message.role}]", "bold cyan"), Span(f" about {tokens} tokens", "dim")))
        lines += [(Span(line),) for line in visible(message.content, longest=None).splitlines()]
        lines.append(())
    return lines


def difference(before: str, after: str) -> list[Line]:
    """Two texts as a unified diff."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), "saved", "draft", lineterm="")
    styles = {"+": "green", "-": "red", "@": "cyan"}
    return [(Span(visible(line), styles.get(line[:1], "")),) for line in lines] or [
        (Span("nothing was changed", "dim"),)
    ]


def save(store: Store, prompt: Prompt, note: str) -> bool:
    """Keep a version; False if it was stored already."""
    known = bool(store.rows("SELECT 1 FROM prompts WHERE id = ?", (prompt.id,)))
    store.apply(keep_prompt(prompt.id, prompt.kind, prompt.text, note or None))
    return not known
