"""Trees handed out as files: JSON lines of whole trees for programs, or Markdown to read.

Invariant: a file is written beside its name and takes it when it is whole; one that is there is never overwritten.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from trees.errors import SetupError
from trees.store import Store
from tui.app.filters import Filter
from tui.app.opened import open_tree
from tui.app.telling import transcript
from tui.canonical import full_tree


def trees_of(store: Store, wanted: Filter) -> list[str]:
    """The ids of all trees that a filter lets through."""
    return [row[0] for row in store.rows(f"SELECT t.id FROM trees t WHERE {wanted.where} ORDER BY t.id", wanted.values)]


def hand_out(store: Store, trees: Sequence[str], out: Path) -> int:
    """Write trees to a file ending in .jsonl or .md; returns how many. Raises SetupError."""
    if out.suffix not in (".jsonl", ".md"):
        raise SetupError(f"{str(out)!r} says no form", hint="End it in .jsonl (whole trees) or .md (to read).")
    if out.exists():
        raise SetupError(f"{out} exists already", hint="Name another file.")
    part = out.with_name(out.name + ".part")
    try:
        with part.open("w", encoding="utf-8", errors="surrogatepass") as file:
            for tree in trees:
                file.write(_written(store, tree, out.suffix))
        part.replace(out)
    except OSError as error:
        raise SetupError(f"cannot write {out}: {error.strerror}") from error
    return len(trees)


def _written(store: Store, tree: str, suffix: str) -> str:
    opened = open_tree(store, tree)
    if suffix == ".md":
        return transcript(opened)
    return json.dumps(full_tree(store, opened.row, opened.tree), sort_keys=True, default=str) + "\n"
