"""Preference pairs and SFT targets: queries over the verdicts of one judge, never copies.

A pair is a win: chosen and rejected under one user node. A target is the winning reply of a turn, once, in
the history that was really played; a turn without a winner has none. What is not used is named with the
reason, so that every verdict and every turn is accounted for.

Invariant: nothing comes from a tree that touches a held-out profile or personality, or one that says the
same; only the latest complete judgement that covers the replies counts; the order is that of run, place of
the tree in it, and the order in which nodes were stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from trees.errors import EspalierError, NotFound
from trees.ids import canonical_json
from trees.store import Store
from trees.values import Judgement, Split, Unit, winner

Reason = Literal[
    "tie",
    "both_bad",
    "unstable",
    "abstain",
    "equal_text",  # chosen and rejected say the same
    "held_out",  # both halves of the persona are, or the only one it has
    "unused",  # one half is held out and the other is not
    "blocked",  # a half says the same as a held-out one
    "unchecked",  # a half was never compared with the held-out ones
    "below_margin",
    "no_winner",  # the judgement prefers no reply to the others
    "not_judged",  # no complete judgement of this judge covers all replies of the turn
]
REASONS: tuple[Reason, ...] = get_args(Reason)


class BadFilter(EspalierError):
    """What was asked for cannot be asked of this judge."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Place:
    """The turn that a pair or target belongs to, and who speaks there."""

    run_id: str
    tree_id: str
    turn: int
    user_id: str
    """The turn's user node."""
    profile_id: str | None
    personality_id: str | None


@dataclass(frozen=True, slots=True)
class Pair:
    """A win of one sibling over another."""

    place: Place
    chosen_id: str
    rejected_id: str
    margin: float | None
    """Difference of their scores in `unit`; None where the judge has no scores."""
    unit: Unit | None
    judge_id: str
    judge: str
    split: Split


@dataclass(frozen=True, slots=True)
class Target:
    """The winning reply of a turn."""

    place: Place
    node_id: str
    margin: float | None
    """The smallest margin among its wins."""
    unit: Unit | None
    judge_id: str
    judge: str
    split: Split


@dataclass(frozen=True, slots=True)
class Dropped:
    """A verdict that gives no pair, or a turn that gives no target, and why."""

    place: Place
    reason: Reason


@dataclass(frozen=True, slots=True)
class Filter:
    """Which verdicts count: those of one judge, in some runs, from a margin on."""

    judge_id: str
    judge: str
    runs: tuple[str, ...]
    unit: Unit | None
    min_margin: float | None


def pairs(
    store: Store,
    runs: Sequence[str] | None = None,
    judge: str | None = None,
    min_margin: float | None = None,
    unit: Unit | None = None,
) -> Iterator[Pair]:
    """All pairs of one judge. Raises NotFound if it is not clear which, BadFilter for another unit."""
    wanted = make_filter(store, runs, judge, min_margin, unit)
    return (found for found in weigh_verdicts(store, wanted) if isinstance(found, Pair))


def targets(
    store: Store,
    runs: Sequence[str] | None = None,
    judge: str | None = None,
    min_margin: float | None = None,
    unit: Unit | None = None,
) -> Iterator[Target]:
    """All targets of one judge. Raises NotFound if it is not clear which, BadFilter for another unit."""
    wanted = make_filter(store, runs, judge, min_margin, unit)
    return (found for found in weigh_turns(store, wanted) if isinstance(found, Target))


def make_filter(
    store: Store,
    runs: Sequence[str] | None = None,
    judge: str | None = None,
    min_margin: float | None = None,
    unit: Unit | None = None,
) -> Filter:
    """Settle which judge, runs and unit are meant: all runs but measurements. Raises NotFound or BadFilter."""
    chosen = runs_to_learn_from(store) if runs is None else tuple(sorted(set(runs)))
    judge_id, name = find_judge(store, chosen, judge)
    own = _unit_of(store, judge_id)
    if unit is not None and unit != own:
        raise BadFilter(f"judge {name!r} does not measure in {unit}", hint=f"Its unit is {own or 'none'}.")
    if min_margin is not None and own is None:
        raise BadFilter(
            f"judge {name!r} gives no margins, so nothing is {min_margin:g} or more",
            hint="Leave the margin out, or take a judge that scores.",
        )
    return Filter(judge_id, name, chosen, own, min_margin)


def runs_to_learn_from(store: Store) -> tuple[str, ...]:
    """Whole ids of all runs but measurements: what is meant where no run is named."""
    sql = "SELECT id FROM runs WHERE id NOT IN (SELECT run_id FROM benchmark_runs) ORDER BY id"
    return tuple(row[0] for row in store.rows(sql))


def find_judge(store: Store, runs: Sequence[str], judge: str | None = None) -> tuple[str, str]:
    """Id and name of the judge meant, by name or the beginning of its id, among those that judged these runs.

    Without a name it is the only one, people aside: their votes check the others, and count where they are named or
    there is nothing else. Raises NotFound that names the choices.
    """
    sql = (
        "SELECT DISTINCT g.id, g.name, g.kind FROM judgements j JOIN judges g ON g.id = j.judge_id "
        f"JOIN nodes n ON n.id = j.node_id JOIN trees t ON t.id = n.tree_id WHERE {_IN_RUNS} ORDER BY 2, 1"
    )
    rows: list[tuple[str, str, str]] = store.rows(sql, (_as_list(runs),))
    known = [(judge_id, name) for judge_id, name, _ in rows]
    models = [(judge_id, name) for judge_id, name, kind in rows if kind != "human"]
    found = models or known if judge is None else _matching(known, judge)
    if len(found) == 1:
        return found[0]
    hint = f"Judges of these runs: {', '.join(f'{name} ({judge_id[:12]})' for judge_id, name in known)}."
    if not known:
        raise NotFound("no judge has judged a turn of these runs", hint="Judge them: espalier judge RUN --judge NAME.")
    if judge is None:
        raise NotFound("several judges judged these runs, and none is named", hint=hint)
    if found:
        ids = ", ".join(judge_id[:12] for judge_id, _ in found)
        raise NotFound(f"several judges are called {judge!r}: {ids}", hint="Name one by its id.")
    raise NotFound(f"no judge {judge!r} judged these runs", hint=hint)


def weigh_verdicts(store: Store, wanted: Filter) -> Iterator[Pair | Dropped]:
    """Every current verdict of a judge, as a pair or as what it is instead."""
    for row in store.connection.execute(_VERDICTS, (wanted.judge_id, _as_list(wanted.runs))):
        place, (chosen, rejected, outcome, margin, unit, equal) = Place(*row[2:8]), row[8:]
        reason: Reason | None = _held_out(row[0], row[1])
        if reason is None and outcome != "win":
            reason = outcome
        if reason is None and equal:
            reason = "equal_text"
        if reason is None and _is_below(margin, wanted):
            reason = "below_margin"
        if reason is None:
            yield Pair(place, chosen, rejected, margin, unit, wanted.judge_id, wanted.judge, "train")
        else:
            yield Dropped(place, reason)


def weigh_turns(store: Store, wanted: Filter) -> Iterator[Target | Dropped]:
    """Every turn with replies, as its target or as why it has none."""
    trees = store.rows(_TREES, (_as_list(wanted.runs),))
    for of_profile, of_personality, run_id, tree_id, profile_id, personality_id in trees:
        held_out = _held_out(of_profile, of_personality)
        tree = store.tree(tree_id)
        for user in [node for node in tree if node.speaker == "user"]:
            replies = [reply.id for reply in tree.children(user.id)]
            if not replies:
                continue
            place = Place(run_id, tree_id, user.turn, user.id, profile_id, personality_id)
            judgement = tree.judgement_of(user.id, wanted.judge_id, *replies)
            yield Dropped(place, held_out) if held_out is not None else _weigh_turn(place, judgement, wanted)


def _weigh_turn(place: Place, judgement: Judgement | None, wanted: Filter) -> Target | Dropped:
    if judgement is None:
        return Dropped(place, "not_judged")
    best = winner(judgement)
    if best is None:
        return Dropped(place, "no_winner")
    margin = _smallest_margin(judgement, best)
    if _is_below(margin, wanted):
        return Dropped(place, "below_margin")
    return Target(place, best, margin, wanted.unit, wanted.judge_id, wanted.judge, "train")


_IN_RUNS = "t.run_id IN (SELECT value FROM json_each(?))"
_PERSONAS = "LEFT JOIN profiles p ON p.id = t.profile_id LEFT JOIN personalities q ON q.id = t.personality_id"
_SPLITS = ", ".join(
    f"""
    CASE WHEN {half}.split <> 'train' THEN {half}.split
         WHEN EXISTS (SELECT 1 FROM blocks b WHERE b.item_id = {half}.id) THEN 'blocked'
         WHEN EXISTS (SELECT 1 FROM {table} WHERE split = 'held_out') AND EXISTS (
             SELECT 1 FROM thresholds h WHERE h.kind = '{kind}' AND NOT EXISTS (
                 SELECT 1 FROM vectors w WHERE w.embedder = h.embedder AND w.item_id = {half}.id)) THEN 'unchecked'
         ELSE {half}.split END"""
    for half, table, kind in (("p", "profiles", "profile"), ("q", "personalities", "personality"))
)
_VERDICTS = f"""
SELECT {_SPLITS}, t.run_id, t.id, u.turn, u.id, t.profile_id, t.personality_id,
       v.first_id, v.second_id, v.outcome, v.margin, v.unit, a.digest = b.digest
FROM current_verdicts v JOIN nodes u ON u.id = v.turn_id JOIN trees t ON t.id = u.tree_id
JOIN nodes a ON a.id = v.first_id JOIN nodes b ON b.id = v.second_id {_PERSONAS}
WHERE v.judge_id = ? AND {_IN_RUNS} ORDER BY t.run_id, t.position, u.rowid, a.rowid, b.rowid
"""
_TREES = f"""
SELECT {_SPLITS}, t.run_id, t.id, t.profile_id, t.personality_id
FROM trees t {_PERSONAS} WHERE {_IN_RUNS} ORDER BY t.run_id, t.position
"""


def _as_list(runs: Sequence[str]) -> str:
    """Runs as one bound value, since the number of bound values is limited."""
    return canonical_json(list(runs))


def _held_out(*splits: str | None) -> Reason | None:
    """Why a persona may not be trained on. Who has none (a person who chatted) is nobody's held-out half."""
    halves = {split for split in splits if split is not None}
    if "held_out" not in halves:
        return "blocked" if "blocked" in halves else "unchecked" if "unchecked" in halves else None
    return "held_out" if halves == {"held_out"} else "unused"


def _is_below(margin: float | None, wanted: Filter) -> bool:
    return wanted.min_margin is not None and (margin is None or margin < wanted.min_margin)


def _smallest_margin(judgement: Judgement, best: str) -> float | None:
    margins = [v.margin for v in judgement.verdicts if v.outcome == "win" and v.first_id == best]
    known = [margin for margin in margins if margin is not None]
    return min(known) if len(known) == len(margins) else None


def _matching(known: Sequence[tuple[str, str]], judge: str) -> list[tuple[str, str]]:
    named = [one for one in known if one[1] == judge]
    wanted = judge.strip().lower()
    return named or [one for one in known if wanted and one[0].startswith(wanted)]


def _unit_of(store: Store, judge_id: str) -> Unit | None:
    """The unit of a judge's margins: a judge has one, or none."""
    sql = (
        "SELECT v.unit FROM judgements j JOIN verdicts v ON v.judgement_id = j.id "
        "WHERE j.judge_id = ? AND v.unit IS NOT NULL LIMIT 1"
    )
    rows = store.rows(sql, (judge_id,))
    return rows[0][0] if rows else None
