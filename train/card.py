"""A data set's card: README.md beside exported files, in the form that data set hubs read.

The card says of each file what a row is, whose verdicts it stands on and how that judge behaved, who spoke with which
prompts, what was left out and why, and the command that makes it again. Files exported into one folder share a card;
exporting one again replaces its part alone.

Invariant: a README.md that a person wrote is never touched; the same store and export give the same bytes; text from
the store stands in it as text, never as markup.
"""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

from train.export import written_whole
from trees.ids import canonical_json
from trees.statistics import JudgeStatistics, Rate, judge_statistics
from trees.store import Store
from trees.text import unescape

CardKind = Literal["sft", "dpo", "paper"]

_MADE_HERE = "<!-- a data set card made by espalier -->"
_PART = re.compile(r"<!-- file (?P<name>.+?) -->\n(?P<text>.*?)<!-- end of file -->\n", re.DOTALL)
_MARKUP = re.compile(r"([\\`*_{}\[\]()#+!|<>~&$-])")
_ROWS: Mapping[str, str] = {
    "sft": "`prompt` and `completion`: the winning reply of a turn, in the conversation really played up to it.",
    "dpo": "`prompt`, `chosen` and `rejected`: one reply that the judge preferred to another under the same message.",
    "paper": "`profile`, `personality` and `conversations`, in the format released with arXiv 2410.03642.",
}


@dataclass(frozen=True, slots=True)
class CardOf:
    """What a card is to say of one file."""

    path: Path
    kind: CardKind
    rows: int
    runs: tuple[str, ...]
    judge_id: str
    judge: str
    min_margin: float | None
    dropped: Mapping[str, int]
    command: tuple[str, ...]
    """What made the file, as words of a command line."""


def write_card(store: Store, about: CardOf) -> Path:
    """Put a file into the card of its folder; returns the card's path. Raises SetupError if it cannot be written.

    Beside a README.md that is somebody's own, the card is named after the file instead.
    """
    card = about.path.with_name("README.md")
    before = _read(card)
    if before is None:
        card = about.path.with_name(f"{about.path.name}.card.md")
        before = _read(card) or ""
    parts = {match["name"]: match["text"] for match in _PART.finditer(before)}
    parts[_name(about.path)] = "\n".join(_part(store, about)) + "\n"
    with written_whole(card) as file:
        file.write("".join(_card(about.path.parent, parts)).encode("utf-8"))
    return card


def _read(card: Path) -> str | None:
    """What a card says so far; None if it is not one of ours."""
    if not card.is_file():
        return ""
    text = card.read_text(encoding="utf-8", errors="replace")
    return text if _MADE_HERE in text else None


def _name(path: Path) -> str:
    """A file's name as it stands in a comment, which it must not end."""
    return path.name.replace("-->", "--")


def _card(folder: Path, parts: Mapping[str, str]) -> Iterator[str]:
    there = [name for name in sorted(parts) if (folder / name).exists()]
    yield "---\nlicense: unknown\npretty_name: Conversations with simulated people\n"
    yield "tags:\n- conversational\n- synthetic\n- personalisation\nconfigs:\n"
    for name in there:
        yield f"- config_name: {json.dumps(name.replace('.', '-'))}\n  data_files: {json.dumps(name)}\n"
    yield f"---\n{_MADE_HERE}\n\n# Conversations with simulated people\n\n"
    yield (
        "Simulated people talked with assistants; every reply of a turn was kept, and judges said which suits the "
        "person better. Nothing that touches a held-out profile or personality is in it. Contexts hold what was said "
        "and nothing else: no hints, no reasoning.\n\n"
        "**Licences.** What models wrote stands under the terms of these models; they are named below. The seed "
        "personas shipped with espalier are Apache-2.0; for other sources ask whoever they come from. Put the licence "
        "that follows from these into the head of this file before it is published.\n\n"
    )
    for name in there:
        yield f"<!-- file {name} -->\n{parts[name]}<!-- end of file -->\n"


def _part(store: Store, about: CardOf) -> Iterator[str]:
    yield f"## {_text(about.path.name)}\n"
    yield f"{about.rows:,} rows. A row has {_ROWS[about.kind]}"
    if about.kind == "dpo":
        yield "The margin is the difference of the judge's scores, in the unit beside it."
    yield f"\nSHA-256 `{_sha256(about.path)}`. Made again from the same store by\n"
    yield f"```\n{shlex.join(about.command)}\n```\n"
    yield from _runs(store, about.runs)
    yield from _people(store, about.runs)
    yield from _models(store, about.runs)
    yield from _prompts(store, about.runs)
    yield from _judge(store, about)
    if about.dropped:
        unit = {"sft": "turns", "dpo": "verdicts", "paper": "turns"}[about.kind]
        yield from _table((f"{unit} left out", "number"), sorted(about.dropped.items()))


def _runs(store: Store, runs: Sequence[str]) -> Iterator[str]:
    rows = []
    for run in map(store.run, runs):
        trees = store.rows("SELECT count(*), coalesce(sum(nodes), 0) FROM trees WHERE run_id = ?", (run.id,))[0]
        rows.append((run.id[:8], run.name, run.kind, run.seed, run.state, *trees))
    yield from _table(("run", "name", "kind", "seed", "state", "trees", "messages"), rows)


def _people(store: Store, runs: Sequence[str]) -> Iterator[str]:
    rows = []
    for table, half in (("profiles", "profile_id"), ("personalities", "personality_id")):
        sql = (
            f"SELECT source, split, count(*) FROM {table} WHERE id IN (SELECT {half} FROM trees WHERE run_id IN "
            "(SELECT value FROM json_each(?))) GROUP BY source, split ORDER BY source, split"
        )
        rows += [(table, unescape(s), split, n) for s, split, n in store.rows(sql, (canonical_json(list(runs)),))]
    if rows:
        yield from _table(("people", "come from", "split", "number"), rows)


def _models(store: Store, runs: Sequence[str]) -> Iterator[str]:
    """Who said what is in the trees."""
    sql = (
        "SELECT n.role, m.label, m.backend, m.identity, m.id, count(*) FROM nodes n JOIN models m ON m.id = n.model_id "
        "JOIN trees t ON t.id = n.tree_id WHERE t.run_id IN (SELECT value FROM json_each(?)) "
        "GROUP BY n.role, m.id ORDER BY n.role, m.label, m.id"
    )
    rows = []
    for role, label, backend, identity, model, number in store.rows(sql, (canonical_json(list(runs)),)):
        weights = str(json.loads(identity).get("model", "unknown"))
        rows.append((role, label, backend, weights[:40], model[:8], number))
    if rows:
        yield from _table(("role", "model", "backend", "weights", "id", "messages"), rows)
    others = Counter(
        dict(
            store.rows(
                "SELECT n.origin, count(*) FROM nodes n JOIN trees t ON t.id = n.tree_id WHERE n.model_id IS NULL "
                "AND t.run_id IN (SELECT value FROM json_each(?)) GROUP BY n.origin",
                (canonical_json(list(runs)),),
            )
        )
    )
    for origin, number in sorted(others.items()):
        yield f"{number:,} messages are of {origin} origin, by no model that is known.\n"


def _prompts(store: Store, runs: Sequence[str]) -> Iterator[str]:
    found: dict[tuple[str, str], None] = {}
    for run in runs:
        for revision in store.revisions(run):
            found.update(dict.fromkeys(sorted(revision.items())))
    if found:
        yield from _table(("role", "prompt version"), [(role, prompt) for role, prompt in sorted(found)])
        yield "Each is printed by `espalier prompts show VERSION`.\n"


def _judge(store: Store, about: CardOf) -> Iterator[str]:
    kind, spec = store.rows("SELECT kind, spec FROM judges WHERE id = ?", (about.judge_id,))[0]
    least = "no least margin" if about.min_margin is None else f"a margin of {about.min_margin:g} or more"
    yield f"Judge {_text(about.judge)} (`{about.judge_id}`), of kind {_text(kind)}, with {least}:\n"
    yield f"```json\n{canonical_json(json.loads(spec)).replace('`', chr(92) + 'u0060')}\n```\n"
    rows = [row for run in about.runs for row in _behaviour(run, judge_statistics(store, run), about.judge_id)]
    yield from _table(("run", "turns", "win", "tie", "both bad", "unstable", "abstain", "flips", "hinted wins"), rows)


def _behaviour(run: str, judges: Sequence[JudgeStatistics], judge_id: str) -> Iterator[tuple[object, ...]]:
    for each in judges:
        if each.id == judge_id:
            total = sum(each.outcomes.values())
            rates = [_rate(Rate(each.outcomes.get(outcome, 0), total)) for outcome in _OUTCOMES]
            yield (run[:8], each.turns, *rates, _rate(each.flips), _rate(each.hinted))


_OUTCOMES: tuple[Literal["win", "tie", "both_bad", "unstable", "abstain"], ...] = (
    "win",
    "tie",
    "both_bad",
    "unstable",
    "abstain",
)


def _rate(rate: Rate) -> str:
    return "none" if rate.value is None else f"{100 * rate.value:.0f} % of {rate.of}"


def _table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    yield f"| {' | '.join(headings)} |\n|{' --- |' * len(headings)}"
    for row in rows:
        yield f"| {' | '.join(_text(str(cell)) for cell in row)} |"
    yield ""


def _text(text: str) -> str:
    """Text that is shown as it is: one line, no markup, no control characters."""
    flat = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return _MARKUP.sub(r"\\\1", flat)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        digest = sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
