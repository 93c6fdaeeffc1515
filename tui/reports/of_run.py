"""The report on a run: what it is, what it cost, how its judges behaved, whose conversations they are, what failed.

`facts` asks the store, `report` puts the answers into sections; programs get the facts as they are.

Invariant: every figure comes with what it is of, and every rate with its 95 % interval.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from trees.judge_bias import length_bias, model_wins, outcomes_by_turn
from trees.statistics import Rate, agreement
from trees.store import RunRow, Store
from trees.text import unescape
from tui.console import count, duration
from tui.facts import OUTCOMES, agreement_facts, deciding_judge, rate, run_facts
from tui.reports.blocks import (
    Block,
    Code,
    Facts,
    Folded,
    Picture,
    Report,
    Section,
    Table,
    Words,
)
from tui.reports.plots import Intervals, Map, Measured, Stacks
from tui.reports.talks import conversation_of, sample_trees
from tui.sanitise import one_line
from tui.statusview import agreement_in_words, engine_in_words, share_in_words

if TYPE_CHECKING:
    from simulation.embedders import Vectors

MOST_PEOPLE = 1000
"""People on the map; the first of a larger run."""
_PEOPLE = """
SELECT t.id, t.profile_id, p.text, t.personality_id, q.text, t.state,
       (SELECT count(DISTINCT v.turn_id) FROM current_verdicts v JOIN nodes u ON u.id = v.turn_id
        WHERE u.tree_id = t.id AND v.judge_id = ?1 AND v.outcome = 'win'),
       (SELECT count(*) FROM nodes u WHERE u.tree_id = t.id AND u.speaker = 'user')
FROM trees t LEFT JOIN profiles p ON p.id = t.profile_id LEFT JOIN personalities q ON q.id = t.personality_id
WHERE t.run_id = ?2 ORDER BY t.position LIMIT ?3
"""


def card(store: Store, run: RunRow) -> dict[str, Any]:
    """What a run is, what it was played with and what it cost, without what was said in it."""
    return {**run_facts(store, run), "cast": _cast(store, run)}


def facts(store: Store, run: RunRow) -> dict[str, Any]:
    """Everything that is reported of a run."""
    stands = card(store, run)
    judge = deciding_judge(store, run)
    return {
        **stands,
        "configuration": _configuration(run),
        "audit": [_audit(store, run.id, each["id"]) for each in stands["judges"]],
        "agreements": [
            {"a": a["judge"], "b": b["judge"], **agreement_facts(agreement(store, run.id, a["id"], b["id"]))}
            for a, b in combinations(stands["judges"], 2)
        ],
        "people": people_of(store, run.id, judge),
        "samples": sample_trees(store, run.id, judge),
    }


def _cast(store: Store, run: RunRow) -> dict[str, Any]:
    """Who speaks: models by name, prompts by version, judges with what they are asked under."""
    revisions = store.revisions(run.id)
    sql = "SELECT name, kind, spec FROM judges WHERE id IN (SELECT value FROM json_each(?))"
    ids = [row[0] for row in store.rows(_JUDGES, (run.id,))]
    return {
        "models": dict(run.identity.get("models", {})),
        "prompts": revisions[-1] if revisions else {},
        "revisions": len(revisions),
        "judges": [
            {"judge": unescape(name), "kind": kind, "spec": json.loads(spec)}
            for name, kind, spec in store.rows(sql, (json.dumps(ids),))
        ],
    }


_JUDGES = """
SELECT DISTINCT j.judge_id FROM judgements j JOIN nodes n ON n.id = j.node_id JOIN trees t ON t.id = n.tree_id
WHERE t.run_id = ?
"""


def _configuration(run: RunRow) -> str | None:
    """The run's whole configuration as TOML; None for a run that nobody configured (a chat, an import)."""
    if run.kind != "play" or "models" not in run.operation:
        return None
    from simulation.runs import config_of
    from tui.app.form import text_of

    return text_of(config_of(run))


def _audit(store: Store, run_id: str, judge_id: str) -> dict[str, Any]:
    length = length_bias(store, run_id, judge_id)
    return {
        "id": judge_id,
        "longer": rate(length.longer),
        "longer_by": [[name, rate(share)] for name, share in length.by_ratio],
        "winner_characters": length.winners,
        "loser_characters": length.losers,
        "models": [{"model": w.model, "kin": w.kin, "wins": rate(w.wins)} for w in model_wins(store, run_id, judge_id)],
        "by_turn": {turn: dict(outcomes) for turn, outcomes in outcomes_by_turn(store, run_id, judge_id).items()},
    }


# People


def people_of(store: Store, run_id: str, judge: str | None = None) -> dict[str, Any]:
    """Each persona's place in the plane of greatest spread, and how often its turns had a winner."""
    rows = store.rows(_PEOPLE, (judge, run_id, MOST_PEOPLE))
    told = [row for row in rows if row[2] is not None or row[4] is not None]
    texts = [" ".join(unescape(text) for text in (row[2], row[4]) if text) for row in told]
    embedder, vectors = _vectors(store, [(row[1], row[3]) for row in told], texts)
    from simulation.similarity import plane

    return {
        "embedder": embedder,
        "points": [
            {
                "tree": row[0],
                "x": round(float(x), 4),
                "y": round(float(y), 4),
                "text": text,
                "state": row[5],
                "won": row[6],
                "turns": row[7],
            }
            for row, text, (x, y) in zip(told, texts, plane(vectors) if len(told) else (), strict=True)
        ],
    }


def _vectors(store: Store, ids: Sequence[tuple[str | None, str | None]], texts: Sequence[str]) -> tuple[str, Vectors]:
    """The vectors that the pool kept, where one embedder has all of them; else of the words."""
    import numpy as np

    from simulation.embedders import LexicalEmbedder, lexical
    from simulation.pool import from_bytes

    halves = sorted({half for pair in ids for half in pair if half is not None})
    sql = "SELECT embedder, count(*) FROM vectors WHERE item_id IN (SELECT value FROM json_each(?)) GROUP BY 1"
    whole = [name for name, kept in store.rows(sql, (json.dumps(halves),)) if kept == len(halves) and kept]
    if whole and all(a is not None and b is not None for a, b in ids):
        from trees.pool import vectors

        kept = {item: from_bytes(raw) for item, raw in vectors(store, whole[0], halves).items()}
        return whole[0], np.stack([np.concatenate([kept[a or ""], kept[b or ""]]) for a, b in ids])
    return LexicalEmbedder.name, lexical(texts)


# Sections


def report(found: Mapping[str, Any]) -> Report:
    """The facts in sections."""
    run = found["run"]
    sections = (
        Section("What it is", (*what_it_is(found), *_again(found))),
        Section("Progress and costs", tuple(costs(found))),
        Section("Judges", tuple(_judges(found))),
        Section("People", tuple(people_map(found["people"]))),
        Section("Conversations", tuple(_samples(found["samples"]))),
        Section("Failures", tuple(_failures(found))),
    )
    trees = found["trees"]
    failed = f", {trees['failed']} failed" if trees["failed"] else ""
    about = (
        f"{run['state']}: {trees['done']} of {trees['planned']} trees done{failed}; {found['turns']['stored']} turns, "
        f"{found['nodes']} messages, {sum(found['pairs'].values())} pairs"
    )
    return Report(f"Run {run['id'][:8]} {run['name']!r}", about, sections)


def what_it_is(found: Mapping[str, Any]) -> Iterator[Block]:
    """Of a `card`: id, seed and state, models, judges with what they are asked under, prompts by version."""
    run, cast = found["run"], found["cast"]
    yield Facts(
        (
            ("run", run["id"]),
            ("kind, seed", f"{run['kind']}, {run['seed']}"),
            ("state", run["state"] + (f": {run['reason']}" if run["reason"] else "")),
            ("begun, last changed", f"{_when(run['created_at'])}, {_when(run['updated_at'])}"),
            ("people", str(found["trees"]["planned"])),
        )
    )
    if cast["models"]:
        keys = ("backend", "model", "revision", "quantisation", "adapter")
        rows = [(name, *(_short(identity.get(key)) for key in keys)) for name, identity in cast["models"].items()]
        yield Table(("model", "backend", "weights", "revision", "quantisation", "adapter"), tuple(rows))
    if cast["judges"]:
        rows = [(j["judge"], j["kind"], _settings(j["spec"].get("settings", {}))) for j in cast["judges"]]
        yield Table(("judge", "kind", "settings"), tuple(rows))
    if cast["prompts"]:
        rows = [(role, prompt) for role, prompt in sorted(cast["prompts"].items())]
        revised = "" if cast["revisions"] < 2 else f", revised {cast['revisions'] - 1} times while it was played"
        yield Folded(
            f"Prompts by version{revised}",
            (Table(("role", "version"), tuple(rows)), Code("espalier prompts show VERSION")),
        )


def _again(found: Mapping[str, Any]) -> Iterator[Block]:
    if found["configuration"] is None:
        return
    yield Words("To make it again, save its configuration as run.toml, with the same people in the store:")
    yield Code(f"espalier run run.toml\nespalier resume {found['run']['id'][:8]}   # goes on with this one")
    yield Folded("run.toml", (Code(found["configuration"]),))


def _short(value: object) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= 48 else f"{text[:16]} ..."


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(settings.items()))


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at))


def costs(found: Mapping[str, Any]) -> Iterator[Block]:
    """Of a `card`: trees, calls, tokens and time, in all and by role."""
    trees, turns, calls = found["trees"], found["turns"], found["calls"]
    planned = f" of {turns['planned']}" if turns["planned"] else ""
    spent = (calls["last_at"] or 0) - (calls["first_at"] or 0)
    tokens_told = (
        f"{calls['tokens_in']:,} read ({calls['tokens_cached']:,} from a cache), {calls['tokens_out']:,} written"
    )
    stand = f"{trees['done']} of {trees['planned']} done, {trees['growing']} growing, {trees['failed']} failed"
    yield Facts(
        (
            ("trees", stand),
            ("turns", f"{turns['stored']}{planned}"),
            ("calls", f"{calls['answered']} answered, {calls['failed']} failed"),
            ("tokens", tokens_told),
            ("time", f"{duration(spent)} from first to last answer, {duration(calls['seconds'])} of model time"),
            ("engine", engine_in_words(found["engine"])),
        )
    )
    yield Picture(
        Stacks(
            "trees",
            "Trees",
            "trees",
            ("done", "growing", "failed", "waiting"),
            (("planned", (trees["done"], trees["growing"], trees["failed"], _waiting(trees))),),
        )
    )
    if not (roles := found["roles"]):
        return
    names = [f"{row['role']} ({row['model']})" for row in roles]
    tokens = [(r["tokens_in"] - r["tokens_cached"], r["tokens_cached"], r["tokens_out"]) for r in roles]
    yield Picture(
        Stacks(
            "tokens",
            "Tokens by role and model",
            "tokens",
            ("read", "from a cache", "written"),
            tuple(zip(names, tokens, strict=True)),
        ),
        "What stands in a cache is not read again.",
    )
    seconds = [(round(row["seconds"], 1),) for row in roles]
    told = "Calls that ran at the same time count each."
    yield Picture(
        Stacks(
            "time", "Model time by role and model", "seconds", ("seconds",), tuple(zip(names, seconds, strict=True))
        ),
        told,
    )
    heads = ("role", "model", "calls", "read", "cached", "written", "time", "a call", "first token", "retries")
    yield Table(heads, tuple(_role(row) for row in roles), heads[2:])


def _waiting(trees: Mapping[str, int]) -> int:
    return max(trees["planned"] - trees["done"] - trees["growing"] - trees["failed"], 0)


def _role(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        row["role"],
        row["model"],
        str(row["calls"]),
        *(count(row[key]) for key in ("tokens_in", "tokens_cached", "tokens_out")),
        duration(row["seconds"]),
        duration(row["seconds"] / max(row["calls"], 1)),
        "" if row["first_token_s"] is None else f"{row['first_token_s']:.2f} s",
        str(row["failed_attempts"]),
    )


# Judges


def _judges(found: Mapping[str, Any]) -> Iterator[Block]:
    judges = found["judges"]
    if not judges:
        yield Words("No turn has been judged.", "quiet")
        return
    outcomes = tuple(outcome.replace("_", " ") for outcome in OUTCOMES)
    rows = tuple((row["judge"], tuple(float(row[o]) for o in OUTCOMES)) for row in judges)
    yield Picture(
        Stacks("outcomes", "Outcomes of comparisons", "share of comparisons", outcomes, rows, whole=True),
        "Unstable: the order of showing changed it. Abstain: the answer could not be read. Neither makes a pair.",
    )
    for row, audit in zip(judges, found["audit"], strict=True):
        yield from _judge(row, audit)
    if found["agreements"]:
        yield Table(
            ("judge", "and", "agree"), tuple((a["a"], a["b"], agreement_in_words(a)) for a in found["agreements"])
        )


def _judge(row: Mapping[str, Any], audit: Mapping[str, Any]) -> Iterator[Block]:
    name = one_line(row["judge"], 30)
    stem = f"judge-{row['id'][:8]}"
    total = sum(row[outcome] for outcome in OUTCOMES)
    yield Words(f"Judge {name}: {row['kind']}, {row['turns']} turns, {total} comparisons, {row['pairs']} pairs")
    if row["incomplete"]:
        yield Words(f"{row['incomplete']} judgements are incomplete: a call failed.", "warn")
    if row["win_rates"]:
        yield Picture(
            Intervals(
                f"{stem}-wins",
                f"{name}: wins by responder",
                "share of decided comparisons with other responders",
                _known(_measured(responder, share) for responder, share in row["win_rates"].items()),
                level=0.5,
            ),
            "With 95 % intervals. A responder near one half is not told from the others.",
        )
    leanings = _known(_leanings(row, audit, total))
    if leanings:
        yield Picture(
            Intervals(f"{stem}-leanings", f"{name}: what else decides", "share", leanings), _position_told(row)
        )
    if len(audit["by_turn"]) > 1:
        outcomes = tuple(outcome.replace("_", " ") for outcome in OUTCOMES)
        turns = tuple(
            (f"turn {turn}", tuple(float(said.get(o, 0)) for o in OUTCOMES)) for turn, said in audit["by_turn"].items()
        )
        yield Picture(Stacks(f"{stem}-turns", f"{name}: outcomes by turn", "share", outcomes, turns, whole=True))
    if audit["winner_characters"] is not None:
        middle = f"{audit['winner_characters']:.0f} characters, losing ones {audit['loser_characters']:.0f}"
        yield Words(f"Winning replies have {middle} in the middle.", "quiet")
    if audit["models"]:
        rows = [
            (m["model"], "kin of the judge" if m["kin"] else "", share_in_words(m["wins"])) for m in audit["models"]
        ]
        yield Table(("replies of model", "", "won against other models"), tuple(rows))


def _leanings(row: Mapping[str, Any], audit: Mapping[str, Any], total: int) -> Iterator[Measured | None]:
    for outcome in ("unstable", "tie", "abstain"):
        yield _measured(outcome, rate(Rate(row[outcome], total)))
    yield _measured("shown first was picked", row["first_shown"])
    yield _measured("the longer reply won", audit["longer"])
    for name, share in audit["longer_by"]:
        yield _measured(f"  {name}", share)
    yield _measured("the hinted reply won", row["hinted"])
    yield _measured("judged again it changed", row["flips"])
    for model in audit["models"] if any(not model["kin"] for model in audit["models"]) else ():
        if model["kin"]:
            yield _measured(f"kin ({model['model']}) won", model["wins"])


def _known(measured: Iterable[Measured | None]) -> tuple[Measured, ...]:
    return tuple(each for each in measured if each is not None)


def _measured(name: str, share: Mapping[str, Any]) -> Measured | None:
    if share["value"] is None:
        return None
    low, high = share["interval"]
    return Measured(name, share["value"], low, high, f"{share['count']} of {share['of']} ({share['value']:.0%})")


def _position_told(row: Mapping[str, Any]) -> str:
    expected = row["first_expected"]
    if expected is None:
        return "With 95 % intervals. Every reply was shown in one order only, so position was not measured."
    return (
        f"With 95 % intervals. If position did not matter, what is shown first would be picked {expected:.0%} of times."
    )


# People, samples, failures


def people_map(people: Mapping[str, Any], *, judged: bool = True) -> Iterator[Block]:
    """Of `people_of`: who is near whom. `judged`: replies were compared, so that a turn may have a winner."""
    points = people["points"]
    if len(points) < 3:
        yield Words("A map needs three people or more.", "quiet")
        return
    title = "People, by how many of their turns have a winner" if judged else "People, by how their conversation stands"
    placed = tuple((p["x"], p["y"], _decided(p) if judged else p["state"], p["text"]) for p in points)
    words = people["embedder"].startswith("lexical")
    near = "Near each other: the same words" if words else f"Near each other: alike to {people['embedder']}"
    yield Picture(
        Map("people", title, placed),
        f"{near} in profile and personality. On the page, pointing at one shows whose it is.",
    )
    rows = [(p["tree"][:8], p["state"], f"{p['won']} of {p['turns']}", one_line(p["text"], 160)) for p in points]
    heads = ("tree", "state", "turns with a winner", "person")
    shown = [0, 1, 2, 3] if judged else [0, 1, 3]
    table = Table(tuple(heads[i] for i in shown), tuple(tuple(row[i] for i in shown) for row in rows))
    yield Folded(f"All {len(points)} people", (table,))


def _decided(point: Mapping[str, Any]) -> str:
    if point["state"] == "failed":
        return "failed"
    if not point["turns"]:
        return "not begun"
    share = point["won"] / point["turns"]
    return "every turn" if share >= 1 else "half or more" if share >= 0.5 else "fewer than half" if share else "no turn"


def _samples(samples: Sequence[Mapping[str, Any]]) -> Iterator[Block]:
    if not samples:
        yield Words("Nothing has been said yet.", "quiet")
        return
    yield Words(
        "Chosen by how clear the wins of the judge are that branching follows; winner at the left, loser at the right.",
        "quiet",
    )
    for tree in samples:
        yield conversation_of(tree)


def _failures(found: Mapping[str, Any]) -> Iterator[Block]:
    if not found["failures"] and not found["failed_trees"]:
        yield Words("No call and no tree has failed.", "quiet")
        return
    if failures := found["failures"]:
        heads = ("cause", "role", "calls", "unresolved", "example")
        rows = [(f["kind"], f["role"], str(f["calls"]), str(f["unresolved"]), f["example"]) for f in failures]
        yield Table(heads, tuple(rows), ("calls", "unresolved"))
    if failed := found["failed_trees"]:
        causes = [(f["kind"], str(f["trees"]), f["message"]) for f in failed]
        yield Table(("failed trees", "number", "cause"), tuple(causes), ("number",))
    yield Code(f"espalier resume {found['run']['id'][:8]} --retry-failed")
