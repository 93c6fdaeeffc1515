"""Opening the store as commands need it: one that must be there already, or one that may be missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from trees.errors import StoreMissing
from tui.console import say

if TYPE_CHECKING:
    from trees.store import RunRow, Store


def existing(path: Path) -> Store:
    """A store for writing; unlike `Store.open` it makes none. Raises StoreMissing."""
    from trees.store import Store

    if not path.is_file():
        raise StoreMissing(f"there is no store at {path}", hint="Start a run first, or name one with --store.")
    return Store.open(path)


@contextmanager
def optional(path: Path) -> Iterator[Store | None]:
    """A store for reading, or None where there is none yet."""
    from trees.store import Store

    if not path.is_file():
        yield None
        return
    with Store.read(path) as store:
        yield store


def run_or_latest(store: Store, prefix: str | None) -> RunRow:
    """The run that a person named, or the one worked on last. Raises NotFound."""
    from simulation.runs import latest_run

    return store.run(store.find("runs", prefix)) if prefix else latest_run(store)


async def guard(path: Path) -> None:
    """Compare what is new in a store with what is held out, before anything of it is read for training."""
    from simulation.guarding import guard_training
    from simulation.splits import has_held_out
    from trees.pool import thresholds
    from trees.store import Store

    with Store.read(path) as store:
        if not has_held_out(store):
            return
    with Store.open(path) as store:
        first = not thresholds(store)
        await guard_training(store)
        for measured in list(thresholds(store).values())[:1] if first else ():
            say(f"the pool was measured for its held-out items, by {measured.embedder}", stderr=True)
