"""What a judge leans to besides what it was asked: longer replies, replies of its own kin, other answers late in a
conversation. Each figure is a query over the verdicts that count now.

None of them proves a bias: the longer reply may be the better one. They say where to look.

Invariant: a rate keeps its two counts; only decided comparisons (wins) of siblings are counted.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from trees.ids import canonical_json, digest_of
from trees.statistics import Rate
from trees.store import RunRow, Store
from trees.text import unescape
from trees.values import Outcome

_OF_RUN = "turn_id IN (SELECT n.id FROM nodes n JOIN trees t ON t.id = n.tree_id WHERE t.run_id = ?)"
LONGER_BY = (1.1, 1.5, 2.0)
"""Where the classes of length part: the longer reply's characters over the shorter one's."""


@dataclass(frozen=True, slots=True)
class LengthBias:
    """How often the longer of two replies won."""

    longer: Rate
    """Of all comparisons of replies of unlike length."""
    by_ratio: tuple[tuple[str, Rate], ...]
    """The same by how much longer it was; classes without a comparison are left out."""
    winners: float | None
    """Characters of the winning reply in the middle (median)."""
    losers: float | None


@dataclass(frozen=True, slots=True)
class ModelWins:
    """How often replies of one model won over those of other models."""

    model: str
    wins: Rate
    kin: bool
    """Whether the judge asks the same weights, or a model whose name tells of the same family."""


def length_bias(store: Store, run_id: str, judge_id: str) -> LengthBias:
    """How often the longer reply won, in characters."""
    sql = f"""
    SELECT length(a.text), length(b.text) FROM current_verdicts v
    JOIN nodes a ON a.id = v.first_id JOIN nodes b ON b.id = v.second_id
    WHERE v.judge_id = ? AND v.outcome = 'win' AND {_OF_RUN}
    """
    lengths = store.rows(sql, (judge_id, run_id))
    return length_bias_of([(int(won), int(lost)) for won, lost in lengths])


def length_bias_of(lengths: Iterable[tuple[int, int]]) -> LengthBias:
    """The same from the lengths of winners and losers."""
    seen = list(lengths)
    won: Counter[str] = Counter()
    all_: Counter[str] = Counter()
    for winner, loser in seen:
        if winner != loser:
            name = _class_of(max(winner, loser) / max(min(winner, loser), 1))
            all_[name] += 1
            won[name] += winner > loser
    by_ratio = tuple((name, Rate(won[name], all_[name])) for name in _classes() if all_[name])
    return LengthBias(
        Rate(won.total(), all_.total()),
        by_ratio,
        median(winner for winner, _ in seen) if seen else None,
        median(loser for _, loser in seen) if seen else None,
    )


def _classes() -> list[str]:
    low, middle, high = LONGER_BY
    return [
        f"longer by up to {low - 1:.0%}",
        f"by {low - 1:.0%} to {middle - 1:.0%}",
        f"by {middle - 1:.0%} to {high - 1:.0%}",
        "twice as long or more",
    ]


def _class_of(ratio: float) -> str:
    return _classes()[sum(ratio >= edge for edge in LONGER_BY)]


def model_wins(store: Store, run_id: str, judge_id: str) -> list[ModelWins]:
    """Wins by model, where replies of several models were compared; the most successful first."""
    sql = f"""
    SELECT a.model_id, b.model_id, count(*) FROM current_verdicts v
    JOIN nodes a ON a.id = v.first_id JOIN nodes b ON b.id = v.second_id
    WHERE v.judge_id = ? AND v.outcome = 'win' AND a.model_id <> b.model_id AND {_OF_RUN} GROUP BY 1, 2
    """
    won: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    for winner, loser, number in store.rows(sql, (judge_id, run_id)):
        won[winner] += number
        lost[loser] += number
    asked = _model_of(store, judge_id)
    known = _models(store, [*won, *lost, *([asked] if asked else [])], _names(store.run(run_id)))
    found = [
        ModelWins(known[model][0], Rate(won[model], won[model] + lost[model]), _kin(known, model, asked))
        for model in {*won, *lost}
    ]
    return sorted(found, key=lambda each: (-(each.wins.value or 0.0), each.model))


def _model_of(store: Store, judge_id: str) -> str | None:
    rows = store.rows("SELECT spec ->> 'model' FROM judges WHERE id = ?", (judge_id,))
    return rows[0][0] if rows else None


def _names(run: RunRow) -> dict[str, str]:
    """What the weights of a run's models are called, by the id of the model."""
    identities, configured = run.identity.get("models", {}), run.operation.get("models", {})
    return {digest_of("model", each): known_as(configured.get(name, {})) for name, each in identities.items()}


def _models(store: Store, ids: Iterable[str], names: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Label and the name of the weights, by id."""
    sql = "SELECT id, label, identity FROM models WHERE id IN (SELECT value FROM json_each(?))"
    rows = store.rows(sql, (canonical_json(list(ids)),))
    return {
        model: (unescape(label), names.get(model) or str(json.loads(identity).get("model", "")))
        for model, label, identity in rows
    }


def _kin(known: Mapping[str, tuple[str, str]], model: str, asked: str | None) -> bool:
    return asked is not None and asked in known and bool(families(known[model][1]) & families(known[asked][1]))


def known_as(configured: Mapping[str, Any]) -> str:
    """What the weights of a configured model are called: its path or the name it is asked by; "" if it has neither."""
    name = str(configured.get("path") or configured.get("model") or "")
    return "smollm2" if name == "embedded" else name


def families(name: str) -> frozenset[str]:
    """The families that a model's name tells of, such as `deepseek` and `qwen` of a distilled one.

    What the last part of a path says goes before the folders above it. Of a name that tells of none of those that are
    known here it is the first word, and of a digest the digest.
    """
    parts = [part for part in re.split(r"[/:\\]", name.casefold()) if part]
    for part in parts[:-4:-1]:
        if found := frozenset(family for family, pattern in FAMILIES.items() if re.search(pattern, part)):
            return found
    last = parts[-1] if parts else ""
    word = re.match(r"[a-z]{3,}", last)
    return frozenset({word.group() if word and not re.fullmatch(r"[0-9a-f]{16,}", last) else last} - {""})


FAMILIES: Mapping[str, str] = {
    "llama": "llama",
    "qwen": "qwen|qwq",
    "mistral": "mistral|mixtral|ministral|codestral|magistral|devstral",
    "gpt": r"gpt|(?<![a-z0-9])o[134](?![a-z0-9])",
    "gemma": "gemma|gemini",
    "claude": "claude",
    "smollm": "smollm",
    "olmo": "olmo",
    "phi": r"(?<![a-z])phi(?![a-z])",
    "deepseek": "deepseek",
}
"""Who is kin to whom, by what stands anywhere in a name."""


def outcomes_by_turn(store: Store, run_id: str, judge_id: str) -> dict[int, dict[Outcome, int]]:
    """How verdicts came out at each turn."""
    sql = f"""
    SELECT u.turn, v.outcome, count(*) FROM current_verdicts v JOIN nodes u ON u.id = v.turn_id
    WHERE v.judge_id = ? AND {_OF_RUN} GROUP BY 1, 2 ORDER BY 1
    """
    found: dict[int, dict[Outcome, int]] = {}
    for turn, outcome, number in store.rows(sql, (judge_id, run_id)):
        found.setdefault(turn, {})[outcome] = number
    return found
