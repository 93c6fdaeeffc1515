"""What stands around a drawn tree: whose it is, how it is drawn here, and the persona on top."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trees.errors import NotFound
from tui.console import console
from tui.draw import Line, Look, Span, wrapped
from tui.facts import deciding_judge, model_labels
from tui.sanitise import visible

if TYPE_CHECKING:
    from trees.store import Store, TreeRow


def look_for(store: Store, run_id: str, *, judge: str | None, plain: bool, ids: bool, everything: bool) -> Look:
    """How trees of a run are drawn on this terminal. Raises NotFound for a judge that judged nothing in the
    run.
    """
    chosen = deciding_judge(store, store.run(run_id), judge)
    if judge is not None and chosen is None:
        raise NotFound(
            f"no judge {judge!r} has judged run {run_id[:8]}",
            hint="See `espalier status` for those that have.",
        )
    width = min(console().width, 120)
    return Look(width, plain, ids, everything, judge=chosen, labels=model_labels(store))


def header(store: Store, row: TreeRow, look: Look) -> list[Line]:
    """The tree, how it stands, and who the person is."""
    run = store.run(row.run_id)
    state = row.state if row.cause is None else f"failed in turn {row.cause['turn']}: {row.cause['message']}"
    lines: list[Line] = [
        (Span(f"tree {row.id}", "bold"), Span(f"  {visible(state)}")),
        (Span(f"run {run.id[:8]} {visible(run.name)!r}, {row.turns} turns, {row.nodes} messages", "dim"),),
    ]
    named = halves(store, row)
    for name, text in named:
        first, *rest = wrapped(text, max(look.width - 14, 20))
        lines.append((Span(f"{name:<13} ", "bold"), Span(first)))
        lines += [(Span(" " * 14), Span(line)) for line in rest]
    return [*lines, ()]


def halves(store: Store, row: TreeRow) -> list[tuple[str, str]]:
    """The persona as the prompts have it: the personality's pronouns fit the profile. And what brings them to talk.

    Empty for a person's own tree.
    """
    from agents.person import person_of

    if row.profile_id is None or row.personality_id is None:
        return []
    person = person_of(store.profile(row.profile_id), store.personality(row.personality_id))
    situation = row.situation
    if situation is None:
        return [("profile", person.profile), ("personality", person.personality)]
    told = " / ".join(f"turn {step.turn}: {step.direction}" for step in situation.steps if step.direction)
    return [
        ("profile", person.profile),
        ("personality", person.personality),
        ("situation", f"{situation.name}. {told}"),
    ]
