"""Figures over a run, each a query: how far it is, what it cost, what failed, and how its judges behaved.

A rate keeps its two counts, so that whoever prints it can print the interval too. Nothing is kept between two
questions: the figures are those of what is committed.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from string import ascii_uppercase
from typing import Any

from trees.store import Store
from trees.text import unescape
from trees.values import Outcome


@dataclass(frozen=True, slots=True)
class Rate:
    """How often something happened, of how many times it could have."""

    count: int
    of: int

    @property
    def value(self) -> float | None:
        """The share; None of nothing."""
        return self.count / self.of if self.of else None

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval of the share."""
        return wilson(self.count, self.of)


def wilson(count: int, of: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval for a share (JASA 22, 1927, p. 209); of nothing, it is (0, 1)."""
    return wilson_of_share(count / of, of, z) if of else (0.0, 1.0)


def wilson_of_share(share: float, of: float, z: float = 1.959964) -> tuple[float, float]:
    """The same for a share of so many independent things, where what was counted hangs together."""
    weight = z * z / of
    middle = (share + weight / 2) / (1 + weight)
    half = z * math.sqrt(share * (1 - share) / of + weight / (4 * of)) / (1 + weight)
    # At 0 and 1 the bound is exact; floating point would miss it by a hair.
    return 0.0 if share == 0 else middle - half, 1.0 if share == 1 else middle + half


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is."""

    trees: Mapping[str, int]
    """Number by state."""
    nodes: int
    turns: int
    """Users' messages that are stored."""
    pairs: Mapping[str, int]
    """Number by judge id, before what is held out is left out."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What one role asked of one model. Calls that several places share count once."""

    role: str
    model: str
    calls: int
    tokens_in: int
    tokens_cached: int
    """Of `tokens_in`, not read again."""
    tokens_out: int
    seconds: float
    first_token_s: float | None
    """Mean seconds to the first token, over the calls that say."""
    failed_attempts: int
    """Before the answers came."""


@dataclass(frozen=True, slots=True)
class Failures:
    """Calls of one role that got no answer, for one cause."""

    kind: str
    role: str
    calls: int
    unresolved: int
    """Of them, those that were not answered later either."""
    example: str


@dataclass(frozen=True, slots=True)
class JudgeStatistics:
    """How one judge behaved in one run. Outcomes are those of the verdicts that count now."""

    id: str
    name: str
    kind: str
    turns: int
    incomplete: int
    """Judgements in which a call failed."""
    outcomes: Mapping[Outcome, int]
    win_rates: Mapping[str, Rate]
    """By responder: wins over replies of other responders, of all decided comparisons with them."""
    first_shown: Rate
    """How often the reply shown first was picked, in judgements that showed the replies in several orders."""
    first_expected: float | None
    """What `first_shown` would be if position did not matter; None where order never varied."""
    flips: Rate
    """Verdicts that the next judgement of the same turn changed."""
    hinted: Rate
    """Wins of the reply that was given the hint, of all decided comparisons with one that was not."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two judges say the same of the same siblings."""

    pairs: int
    """Two siblings of which both judges said something; an abstention says nothing."""
    turns: int
    agreed: int
    """Of the pairs."""
    kappa: float | None
    """Cohen's kappa: agreement beyond what each judge's own habits would give; None where it is not defined."""
    interval: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class DriftStatistics:
    """How often the persona user left its part."""

    messages: int
    rerolled: int
    """Messages that were asked for more than once."""
    rerolls: int
    drifting: Mapping[str, int]
    """Messages that still drifted after the last re-roll, by the kind of drift."""


@dataclass(frozen=True, slots=True)
class ModelActivity:
    """What one model did in a run, as its engine measured it, and how it stood when that was last done."""

    model: str
    answered: int
    """This and what follows: of the whole run, but for rows that were pruned."""
    failed: int
    retries: int
    prompt_read: int
    prompt_reused: int
    tokens_out: int
    at: float
    """When it was last measured, in Unix seconds."""
    permits: int
    held: int
    queued: int
    running: int | None
    waiting: int | None
    cells_used: int | None
    cells: int | None
    tokens_out_per_s: float
    """Over the last `LATELY_S` seconds before that; the same for what follows."""
    batch_fill: float | None
    """Sequences in a batch, on average."""
    first_token_median_s: float | None
    """Of the latest row that has one."""
    first_token_p95_s: float | None


LATELY_S = 10.0
"""Long enough for several rows of a model's figures, short enough to be now."""


def progress(store: Store, run_id: str) -> Progress:
    """How far a run is."""
    states = dict(store.rows("SELECT state, count(*) FROM trees WHERE run_id = ? GROUP BY state", (run_id,)))
    nodes, turns = store.rows(
        "SELECT count(*), coalesce(sum(n.speaker = 'user'), 0) FROM trees t JOIN nodes n ON n.tree_id = t.id "
        "WHERE t.run_id = ?",
        (run_id,),
    )[0]
    sql = f"SELECT judge_id, count(*) FROM pairs WHERE turn_id {_OF_RUN} GROUP BY judge_id"
    return Progress(states, nodes, turns, dict(store.rows(sql, (run_id,))))


def usage(store: Store, run_id: str) -> list[Usage]:
    """What a run asked of models, by role and model."""
    sql = """
    SELECT role, label, count(*), coalesce(sum(tokens_in), 0), coalesce(sum(tokens_cached), 0),
           coalesce(sum(tokens_out), 0), total(seconds), avg(first_token_s), sum(failed)
    FROM (SELECT DISTINCT u.role, m.id AS model, m.label, c.id, c.tokens_in, c.tokens_cached, c.tokens_out,
                 c.seconds, c.first_token_s, coalesce(json_array_length(c.attempts), 0) AS failed
          FROM uses u JOIN calls c ON c.id = u.call_id JOIN models m ON m.id = c.model_id WHERE u.run_id = ?)
    GROUP BY role, model ORDER BY role, label, model
    """
    return [Usage(*row) for row in store.rows(sql, (run_id,))]


def model_activity(store: Store, run_id: str) -> list[ModelActivity]:
    """What each model of a run did, by name."""
    sums = """
    SELECT model, sum(answered), sum(failed), sum(retries), sum(prompt_read), sum(prompt_reused), sum(tokens_out),
           max(at)
    FROM model_figures WHERE run_id = ? GROUP BY model ORDER BY model
    """
    return [_activity(store, run_id, *row) for row in store.rows(sums, (run_id,))]


def _activity(store: Store, run_id: str, model: str, *sums: Any) -> ModelActivity:
    gauges = "SELECT permits, held, queued, running, waiting, cells_used, cells"
    lately = """
    SELECT total(tokens_out) / total(interval_s), total(batch_fill * steps) / nullif(total(steps), 0)
    FROM model_figures WHERE run_id = ? AND model = ? AND at > ?
    """
    first_token = """
    SELECT first_token_median_s, first_token_p95_s FROM model_figures
    WHERE run_id = ? AND model = ? AND first_token_median_s IS NOT NULL ORDER BY at DESC LIMIT 1
    """
    at = sums[-1]
    of_last = f"{gauges} FROM model_figures WHERE run_id = ? AND model = ? AND at = ?"
    last = store.rows(of_last, (run_id, model, at))[0]
    rates = store.rows(lately, (run_id, model, at - LATELY_S))[0]
    waits = store.rows(first_token, (run_id, model)) or [(None, None)]
    return ModelActivity(unescape(model), *sums, *last, *rates, *waits[0])


def failures_by_cause(store: Store, run_id: str) -> list[Failures]:
    """A run's failed calls, the most frequent cause first."""
    sql = """
    SELECT kind, role, count(*), sum(resolved_at IS NULL), max(message) FROM failures WHERE run_id = ?
    GROUP BY kind, role ORDER BY count(*) DESC, kind, role
    """
    rows = store.rows(sql, (run_id,))
    return [Failures(kind, role, calls, open_, unescape(said)) for kind, role, calls, open_, said in rows]


def judge_statistics(store: Store, run_id: str) -> list[JudgeStatistics]:
    """How each judge of a run behaved, by name."""
    sql = f"""
    SELECT g.id, g.name, g.kind, count(DISTINCT j.node_id), coalesce(sum(NOT j.complete), 0)
    FROM judgements j JOIN judges g ON g.id = j.judge_id
    WHERE j.node_id {_OF_RUN} GROUP BY g.id ORDER BY g.name, g.id
    """
    return [_judge(store, run_id, *row) for row in store.rows(sql, (run_id,))]


def drift_statistics(store: Store, run_id: str) -> DriftStatistics:
    """How often the persona user left its part in a run."""
    messages = (
        "FROM trees t JOIN nodes n ON n.tree_id = t.id WHERE t.run_id = ? AND n.speaker = 'user' AND n.origin = 'model'"
    )
    counts = store.rows(
        f"SELECT count(*), coalesce(sum(rerolls > 0), 0), coalesce(sum(rerolls), 0) {messages}", (run_id,)
    )[0]
    kinds = store.rows(f"SELECT drift, count(*) {messages} AND drift IS NOT NULL GROUP BY drift", (run_id,))
    return DriftStatistics(counts[0], counts[1], counts[2], dict(kinds))


_OF_RUN = "IN (SELECT n.id FROM nodes n JOIN trees t ON t.id = n.tree_id WHERE t.run_id = ?)"


@dataclass(frozen=True, slots=True)
class _Win:
    """A decided comparison: who won over whom."""

    winner: str
    loser: str
    winner_hinted: bool
    loser_hinted: bool


def _judge(
    store: Store, run_id: str, judge_id: str, name: str, kind: str, turns: int, incomplete: int
) -> JudgeStatistics:
    sql = f"SELECT outcome, count(*) FROM current_verdicts WHERE judge_id = ? AND turn_id {_OF_RUN} GROUP BY 1"
    outcomes = dict(store.rows(sql, (judge_id, run_id)))
    wins = _wins(store, run_id, judge_id)
    first_shown, expected = _first_shown(_pick_positions(store, run_id, judge_id))
    return JudgeStatistics(
        judge_id,
        name,
        kind,
        turns,
        incomplete,
        outcomes,
        win_rates(wins),
        first_shown,
        expected,
        _flips(store, run_id, judge_id),
        hinted_rate(wins),
    )


def _wins(store: Store, run_id: str, judge_id: str) -> list[_Win]:
    sql = f"""
    SELECT a.role, b.role, a.hinted, b.hinted
    FROM current_verdicts v JOIN nodes a ON a.id = v.first_id JOIN nodes b ON b.id = v.second_id
    WHERE v.judge_id = ? AND v.outcome = 'win' AND v.turn_id {_OF_RUN}
    """
    return [_Win(a, b, bool(c), bool(d)) for a, b, c, d in store.rows(sql, (judge_id, run_id))]


def win_rates(wins: Iterable[_Win]) -> dict[str, Rate]:
    """By responder: wins over other responders, of all decided comparisons with them."""
    won: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    for win in wins:
        if win.winner != win.loser:
            won[win.winner] += 1
            lost[win.loser] += 1
    return {role: Rate(won[role], won[role] + lost[role]) for role in sorted({*won, *lost})}


def hinted_rate(wins: Iterable[_Win]) -> Rate:
    """Wins of hinted replies over unhinted ones, of all decided comparisons between the two."""
    unlike = [win for win in wins if win.winner_hinted != win.loser_hinted]
    return Rate(sum(win.winner_hinted for win in unlike), len(unlike))


def _pick_positions(store: Store, run_id: str, judge_id: str) -> Iterator[tuple[int, int]]:
    """Of each readable presentation of judgements that varied the order: place of the pick, replies shown."""
    sql = f"""
    SELECT p.shown, p.probabilities, p.label
    FROM judgements j JOIN presentations p ON p.judgement_id = j.id
    WHERE j.judge_id = ? AND j.node_id {_OF_RUN} AND json_array_length(p.shown) > 1
      AND (SELECT count(DISTINCT shown) FROM presentations q WHERE q.judgement_id = j.id) > 1
    """
    for shown, odds, label in store.rows(sql, (judge_id, run_id)):
        order = json.loads(shown)
        position = pick_position(order, json.loads(odds), label)
        if position is not None:
            yield position, len(order)


def pick_position(order: Sequence[str], odds: Mapping[str, float], label: str | None) -> int | None:
    """Where the pick of a presentation stood, from 0: the likeliest reply, else the letter named."""
    if odds and label is not None:
        return max(range(len(order)), key=lambda place: odds.get(order[place], 0.0))
    letters = ascii_uppercase[: len(order)]
    return letters.index(label) if label and label in letters else None


def _first_shown(positions: Iterable[tuple[int, int]]) -> tuple[Rate, float | None]:
    seen = list(positions)
    rate = Rate(sum(position == 0 for position, _ in seen), len(seen))
    return rate, sum(1 / shown for _, shown in seen) / len(seen) if seen else None


def agreement(store: Store, run_id: str, judge_id: str, other_id: str) -> Agreement:
    """How far two judges agree over the siblings of a run that both compared, by the verdicts that count now."""
    sql = f"""
    SELECT judge_id, turn_id, first_id, second_id, outcome FROM current_verdicts
    WHERE judge_id IN (?, ?) AND outcome <> 'abstain' AND turn_id {_OF_RUN}
    """
    said: dict[str, dict[tuple[str, ...], str]] = {judge_id: {}, other_id: {}}
    for judge, turn, first, second, outcome in store.rows(sql, (judge_id, other_id, run_id)):
        place = (turn, *sorted((first, second)))
        # Siblings stand in the order of their ids, which are digests: no side is the better one by its place.
        side = "first" if first == place[1] else "second"
        said[judge][place] = side if outcome == "win" else "neither"
    both = sorted(said[judge_id].keys() & said[other_id].keys())
    pairs = [(said[judge_id][place], said[other_id][place]) for place in both]
    return cohens_kappa(pairs, len({turn for turn, *_ in both}))


def cohens_kappa(said: Sequence[tuple[str, str]], turns: int) -> Agreement:
    """Agreement of two judges that each put the same things into one of some classes, with a 95 % interval.

    kappa = (p_o - p_e) / (1 - p_e), where p_o is the share they agree on and p_e what their own frequencies of the
    classes would give by chance (Cohen 1960, Educational and Psychological Measurement 20, p. 40). The interval takes
    p_e as given, as his standard error does, and Wilson's interval for p_o, which holds for few turns and for full
    agreement too. What is said within a turn hangs together, so p_o counts as a share of `turns`, not of pairs.
    """
    agreed = sum(a == b for a, b in said)
    if not said:
        return Agreement(0, 0, 0, None, None)
    number = len(said)
    by_first, by_second = Counter(a for a, _ in said), Counter(b for _, b in said)
    chance = sum(by_first[each] * by_second[each] for each in by_first) / number**2
    if chance == 1:
        return Agreement(number, turns, agreed, None, None)
    low, high = ((share - chance) / (1 - chance) for share in wilson_of_share(agreed / number, turns))
    return Agreement(number, turns, agreed, (agreed / number - chance) / (1 - chance), (max(low, -1.0), high))


def _flips(store: Store, run_id: str, judge_id: str) -> Rate:
    sql = f"""
    SELECT j.node_id, v.first_id, v.second_id, v.outcome, j.repeat
    FROM judgements j JOIN verdicts v ON v.judgement_id = j.id
    WHERE j.judge_id = ? AND j.complete AND j.node_id {_OF_RUN} ORDER BY j.repeat
    """
    said: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for turn, first, second, outcome, _ in store.rows(sql, (judge_id, run_id)):
        verdict = (outcome, first if outcome == "win" else "")
        said.setdefault((turn, *sorted((first, second))), []).append(verdict)
    return flip_rate(said.values())


def flip_rate(said: Iterable[Sequence[tuple[str, str]]]) -> Rate:
    """How often a verdict differs from the one before, given each pair's verdicts in order."""
    steps = [(before, after) for verdicts in said for before, after in pairwise(verdicts)]
    return Rate(sum(before != after for before, after in steps), len(steps))
