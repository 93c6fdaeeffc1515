"""The benchmark: models under test talk to held-out people, every reply is scored, and the scores become figures.

A case is one held-out profile with one personality. For each model under test there is one run over all cases, with a
single responder, played by the same engine as any other: resumable, its failures kept, its trees to be read. What the
models share (people, turns, user, inducer, judges, seed) is digested into the benchmark's id, so that only what may be
compared is compared. Scores are the judges' rows; tables of them go to `simulation.metrics`.

Method: arXiv 2410.03642, section 4. Invariant: nothing is measured on people that may be trained on, and a reply
without a score is missing from its turn, with its cause, and never filled in.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agents.models.protocol import Model, ModelIdentity
from simulation.benchmark_config import BenchmarkConfig, CasesConfig
from simulation.cast import Cast, load_prompts, make_cast
from simulation.metrics import Array, Table
from simulation.personas import held_out_personalities, held_out_profiles
from simulation.runs import Persona, Planned, begin, plan_run, read_people
from trees.errors import NotFound, SetupError
from trees.ids import digest_of
from trees.judge_bias import family
from trees.personas import Personality, Profile
from trees.store import RunRow, Store
from trees.text import unescape
from trees.writes import in_one, keep_benchmark, keep_benchmark_run, keep_personality, keep_profile

RESPONDER = "responder.tested"


@dataclass(frozen=True)
class Measured:
    """A run that measures one model."""

    benchmark_id: str
    model: str
    how: str
    planned: Planned


@dataclass(frozen=True)
class Result:
    """What one model's run has so far, by one judge."""

    model: str
    how: str
    lineage: str
    run_id: str
    state: str
    unit: str
    table: Table
    repeats: Array
    """(repeats, cases, turns): what the judge said each time it was asked."""
    missing: Mapping[str, int]
    """Replies without a score by cause; those that are not played yet are not among them."""


def cases_of(config: CasesConfig, folder: Path | None) -> list[Persona]:
    """The people of a benchmark: every profile with every personality. Raises SetupError."""
    profiles: Sequence[Profile] = (
        held_out_profiles()
        if config.profiles == "held_out"
        else [p for p in read_people(config.profiles, folder, "profile") if isinstance(p, Profile)]
    )
    personalities: Sequence[Personality] = (
        held_out_personalities()
        if config.personalities == "held_out"
        else [p for p in read_people(config.personalities, folder, "personality") if isinstance(p, Personality)]
    )
    crossed = [(profile, personality) for profile in profiles for personality in personalities]
    return crossed[: config.count] if config.count else crossed


def plan(
    config: BenchmarkConfig, name: str, models: Mapping[str, Model], people: Sequence[Persona], folder: Path | None
) -> Measured:
    """The run that measures a model, with its models open. Raises SetupError."""
    run = config.run_of(name)
    cast = make_cast(run, models, load_prompts(run, folder))
    return Measured(_benchmark_id(cast, people), name, config.tested[name].how, plan_run(cast, people, folder))


def _benchmark_id(cast: Cast, people: Sequence[Persona]) -> str:
    """The digest of everything but the model under test and the prompt it is deployed under."""
    identity = cast.identity()
    shared = {name for role in cast.roles.values() if role.name != RESPONDER for name in role.models}
    play = {key: value for key, value in identity["play"].items() if key != "responders"}
    models = {name: model for name, model in identity["models"].items() if name in shared}
    prompts = {role: prompt for role, prompt in identity["prompts"].items() if role not in (RESPONDER, "deploy")}
    ids = [[profile.id, personality.id] for profile, personality in people]
    return digest_of("benchmark", play, models, prompts, cast.config.seed, ids)


def start(store: Store, measured: Measured) -> RunRow:
    """Write the benchmark's rows unless they are there. Raises SetupError for people that may be trained on."""
    planned = measured.planned
    refuse_seen(store, planned.personas)
    config = planned.cast.config
    people = [
        write
        for profile, personality in planned.personas
        for write in (
            keep_profile(profile, source="benchmark", split="held_out"),
            keep_personality(personality, source="benchmark", split="held_out"),
        )
    ]
    store.apply(in_one(people))
    run = begin(store, planned)
    name = config.name.rpartition(": ")[0]
    lineage = lineage_of(speaker_of(planned.cast).identity)
    store.apply(
        in_one(
            [
                keep_benchmark(measured.benchmark_id, name, config.deciding_judge, config.turns, time.time()),
                keep_benchmark_run(measured.benchmark_id, run.id, measured.model, measured.how, lineage),
            ]
        )
    )
    return run


def refuse_seen(store: Store, people: Sequence[Persona]) -> None:
    """Raise SetupError if a half of any persona belongs to the store's training split."""
    for table, items in (
        ("profiles", {profile.id: profile.text for profile, _ in people}),
        ("personalities", {personality.id: personality.text for _, personality in people}),
    ):
        sql = f"SELECT id FROM {table} WHERE split = 'train' AND id IN (SELECT value FROM json_each(?))"
        seen = [row[0] for row in store.rows(sql, (json.dumps(list(items)),))]
        if seen:
            raise SetupError(
                f"{len(seen)} of the {len(items)} {table} belong to this store's training split, "
                f"the first is {seen[0][:8]}: {items[seen[0]][:60]!r}",
                hint="A model must be measured on people it cannot have met: name others in [cases], "
                "or measure in another store.",
            )


def lineage_of(identity: ModelIdentity) -> str:
    """What is known of the data behind a model. Weights from outside say nothing of what they were trained on."""
    return "none" if identity.backend == "scripted" else "unknown"


def speaker_of(cast: Cast) -> Model:
    return cast.models[cast.roles[RESPONDER].models[0]]


def kinship(cast: Cast) -> list[str]:
    """Warnings: a judge or a simulated person that is the model under test, or of its family."""
    tested = cast.roles[RESPONDER].models[0]
    mine = cast.models[tested].identity
    if mine.backend == "scripted":
        return []
    found = []
    for place, role in cast.roles.items():
        if place in (RESPONDER, "inducer"):
            continue
        for name in role.models if place in cast.prompts else ():
            theirs = cast.models[name].identity
            if theirs.model == mine.model:
                found.append(f"{place} asks the same weights as the model under test ({name}): it may prefer its own")
            elif _family(theirs) == _family(mine):
                found.append(f"{place} ({name}) and the model under test look like kin ({_family(mine)})")
    return found


def _family(identity: ModelIdentity) -> str:
    return family(identity.model)


# ---- reading


def find_benchmark(store: Store, prefix: str | None) -> tuple[str, str, str, int]:
    """(id, name, judge, turns) of the benchmark named, or of the latest one. Raises NotFound."""
    sql = "SELECT id, name, judge, turns FROM benchmarks"
    if prefix:
        rows = store.rows(f"{sql} WHERE id LIKE ? || '%' OR name = ? ORDER BY at DESC", (prefix, prefix))
    else:
        rows = store.rows(f"{sql} ORDER BY at DESC LIMIT 1")
    if not rows:
        what = f"no benchmark {prefix!r}" if prefix else "no benchmark"
        raise NotFound(f"{what} in {store.path}", hint="Measure: espalier bench init bench.toml, then bench run.")
    found: tuple[str, str, str, int] = tuple(rows[0])
    return found


def results(store: Store, benchmark_id: str, judge: str, turns: int) -> list[Result]:
    """Every model's scores by one judge, in the order measured. Raises NotFound for a judge that scored nothing."""
    sql = """
    SELECT b.model, b.how, b.lineage, b.run_id, r.state FROM benchmark_runs b JOIN runs r ON r.id = b.run_id
    WHERE b.benchmark_id = ? ORDER BY r.created_at, r.id
    """
    return [_result(store, *row, judge=judge, turns=turns) for row in store.rows(sql, (benchmark_id,))]


_SCORES = """
SELECT t.position, n.turn, j.repeat, s.value, s.unit
FROM trees t JOIN nodes n ON n.tree_id = t.id JOIN scores s ON s.node_id = n.id
JOIN judgements j ON j.id = s.judgement_id JOIN judges g ON g.id = j.judge_id
WHERE t.run_id = ? AND g.name = ? AND j.complete AND n.role = ? AND n.operation_id IS NULL
"""
_MISSING = """
SELECT coalesce(j.cause, 'the answer could not be read'), count(*)
FROM trees t JOIN nodes n ON n.tree_id = t.id JOIN judgements j ON j.node_id = n.parent_id
JOIN judges g ON g.id = j.judge_id
WHERE t.run_id = ? AND g.name = ? AND n.role = ? AND n.operation_id IS NULL AND NOT EXISTS (
    SELECT 1 FROM scores s JOIN judgements k ON k.id = s.judgement_id
    WHERE s.node_id = n.id AND k.judge_id = j.judge_id AND k.complete)
GROUP BY 1
"""


def _result(
    store: Store, model: str, how: str, lineage: str, run_id: str, state: str, *, judge: str, turns: int
) -> Result:
    sql = "SELECT profile_id, personality_id, state, turns, cause FROM trees WHERE run_id = ? ORDER BY position"
    cases = store.rows(sql, (run_id,))
    rows = store.rows(_SCORES, (run_id, judge, RESPONDER))
    repeats = np.full((1 + max((row[2] for row in rows), default=0), len(cases), turns), np.nan)
    for position, turn, repeat, value, _ in rows:
        repeats[repeat, position, turn - 1] = value
    missing = Counter({unescape(cause): count for cause, count in store.rows(_MISSING, (run_id, judge, RESPONDER))})
    for _, _, how_it_stands, played, cause in cases:
        if how_it_stands == "failed":
            missing[f"no reply: {json.loads(cause)['kind']}"] += turns - played
    table = Table(latest(repeats), tuple(row[0] for row in cases), tuple(row[1] for row in cases))
    unit = rows[0][4] if rows else ""
    return Result(unescape(model), how, lineage, run_id, state, unit, table, repeats, dict(missing))


def latest(repeats: Array) -> Array:
    """Of each reply the last score that was given: (cases, turns)."""
    scores: Array = repeats[0].copy()
    for later in repeats[1:]:
        scores = np.where(np.isfinite(later), later, scores)
    return scores


def rows_of(result: Result) -> list[dict[str, Any]]:
    """One row a reply that was due: for export. `score` is None where there is none."""
    table = result.table
    return [
        {
            "model": result.model,
            "how": result.how,
            "run": result.run_id,
            "profile": profile,
            "personality": personality,
            "turn": turn,
            "score": float(value) if np.isfinite(value) else None,
            "unit": result.unit,
        }
        for profile, personality, scores in zip(table.profiles, table.personalities, table.scores, strict=True)
        for turn, value in enumerate(scores, 1)
    ]
