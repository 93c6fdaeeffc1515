"""A store to train on: a run of several people, each with judged turns that went on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from tests.support.builders import judged, make_judge, make_run
from trees.store import Store

PEOPLE = (("Ada", "calm"), ("Ben", "loud"), ("Cleo", "shy"), ("Dan", "kind"))


def judged_store(
    path: Path,
    people: tuple[tuple[str, str], ...] = PEOPLE,
    *,
    turns: int = 2,
    seed: int = 1,
    margins: Sequence[float] = (1.0,),
) -> str:
    """Write the run; returns its id. The first of two replies is better in every turn and gone on from.

    `margins` are dealt to the turns in order, again and again.
    """
    dealt = cycle(margins)
    with Store.open(path) as store:
        run = make_run(store, people, seed=seed)
        judge = make_judge(store)
        for tree, (name, _) in zip(run.trees, people, strict=True):
            parent = None
            for turn in range(turns):
                user = run.user(tree, f"{name} asks {turn}", parent)
                good, bad = run.replies(user, f"Yes, {name}, {turn}.", f"No {turn}.")
                run.turn(user, [good, bad], [judged(user, judge, [(good, bad, "win", next(dealt))])], continued=good)
                parent = good
        return run.id
