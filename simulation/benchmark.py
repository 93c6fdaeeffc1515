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
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from agents.models.protocol import Model
from simulation.benchmark_config import BenchmarkConfig, CasesConfig
from simulation.cast import Cast, load_prompts, make_cast
from simulation.lineage import Seen, refuse_alike, refuse_known, seen_by
from simulation.metrics import (
    ALPHA,
    Array,
    Gap,
    Table,
    cases_needed,
    gap_closed,
    least_p,
    mean_level,
    noise_floor,
)
from simulation.personas import held_out_personalities, held_out_profiles
from simulation.runs import Persona, Planned, begin, judges_of, plan_run, read_people
from trees.errors import NotFound, SetupError
from trees.ids import digest_of
from trees.judge_bias import families, known_as
from trees.personas import Kind, Personality, Profile
from trees.pool import pool
from trees.situations import Situation, situation_from
from trees.store import RunRow, Store
from trees.text import unescape
from trees.writes import (
    Write,
    in_one,
    keep_benchmark,
    keep_benchmark_run,
    keep_event,
    keep_personality,
    keep_profile,
)

RESPONDER = "responder.tested"

_A = TypeVar("_A")
_B = TypeVar("_B")


@dataclass(frozen=True)
class Measured:
    """A run that measures one model."""

    benchmark_id: str
    model: str
    how: str
    planned: Planned
    configuration: Mapping[str, Any]
    """What the benchmark's file says, with what was laid over it: to make it again."""


@dataclass(frozen=True)
class Started:
    """A measurement whose rows are there."""

    run: RunRow
    seen: Seen
    paraphrases: bool
    """Whether people were compared with those trained on by what they say, and not by words alone."""


@dataclass(frozen=True)
class Result:
    """What one model's run has so far, by one judge."""

    model: str
    """No other result of the benchmark has this name."""
    how: str
    lineage: str
    run_id: str
    state: str
    identity: Mapping[str, str]
    """Of the model under test."""
    unit: str
    table: Table
    repeats: Array
    """(repeats, cases, turns): what the judge said each time it was asked."""
    missing: Mapping[str, int]
    """Replies without a score by cause; those that are not played yet are not among them."""
    situations: tuple[Situation | None, ...]
    """What brought the person of each case to talk."""

    def by_situation(self) -> dict[str, Result]:
        """The same for the cases of each situation alone; empty if there are none."""
        names = dict.fromkeys(situation.name for situation in self.situations if situation is not None)
        return {name: self._of(name) for name in names}

    def _of(self, name: str) -> Result:
        rows = [i for i, situation in enumerate(self.situations) if situation is not None and situation.name == name]
        chosen = tuple(self.situations[i] for i in rows)
        return replace(self, table=self.table.take(rows), repeats=self.repeats[:, rows], situations=chosen)

    @property
    def change(self) -> int | None:
        """The turn at which something changes for all of these cases; None if it does not, or not at one turn."""
        turns = {situation.change if situation is not None else None for situation in self.situations}
        return turns.pop() if len(turns) == 1 else None


def cases_of(config: CasesConfig, folder: Path | None, store: Store | None = None) -> list[Persona]:
    """The people of a benchmark: every profile with every personality, or as many of those as it counts.

    Raises SetupError if there are none.
    """
    profiles = [p for p in _people(config.profiles, "profile", folder, store) if isinstance(p, Profile)]
    personalities = [
        p for p in _people(config.personalities, "personality", folder, store) if isinstance(p, Personality)
    ]
    return crossed(profiles, personalities, config.count or len(profiles) * len(personalities))


def crossed(profiles: Sequence[_A], personalities: Sequence[_B], count: int) -> list[tuple[_A, _B]]:
    """So many cases, of as many profiles and personalities as they can be, profile by profile.

    They are chosen along the diagonals, so that a sample of few is of many people: along one diagonal both go round
    together, for the least common multiple of their numbers; each further one begins a personality later. Their order
    is that of all cases, since a benchmark is known by whom it measures on, in order.
    """
    p, q = len(profiles), len(personalities)
    around = math.lcm(p, q)
    chosen = sorted((i % p, (i + i // around) % q) for i in range(min(count, p * q)))
    return [(profiles[i], personalities[j]) for i, j in chosen]


def _people(source: str, kind: Kind, folder: Path | None, store: Store | None) -> Sequence[Profile | Personality]:
    if source == "held_out":
        return held_out_profiles() if kind == "profile" else held_out_personalities()
    if source != "store":
        found = read_people(source, folder, kind)
        if not found:
            raise SetupError(f"cases: {(folder or Path()) / source} holds nobody to measure on: it is empty")
        return found
    held = [] if store is None else [item.id for item in pool(store, kind, "held_out")]
    if store is None or not held:
        word = "profile" if kind == "profile" else "personality"
        raise SetupError(
            f"cases: the store holds out no {word}, so there is nobody to measure on",
            hint="Hold some out before anything is trained: espalier personas split. Or take the shipped people: "
            '"held_out".',
        )
    return [store.profile(i) if kind == "profile" else store.personality(i) for i in held]


def plan(
    config: BenchmarkConfig, name: str, models: Mapping[str, Model], people: Sequence[Persona], folder: Path | None
) -> Measured:
    """The run that measures a model, with its models open. Raises SetupError."""
    run = config.run_of(name)
    cast = make_cast(run, models, load_prompts(run, folder))
    written = config.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    return Measured(_benchmark_id(cast, people), name, config.tested[name].how, plan_run(cast, people, folder), written)


def _benchmark_id(cast: Cast, people: Sequence[Persona]) -> str:
    """The digest of everything but the model under test and the prompt it is deployed under."""
    identity = cast.identity()
    shared = {name for role in cast.roles.values() if role.name != RESPONDER for name in role.models}
    play = {key: value for key, value in identity["play"].items() if key != "responders"}
    models = {name: model for name, model in identity["models"].items() if name in shared}
    prompts = {role: prompt for role, prompt in identity["prompts"].items() if role not in (RESPONDER, "deploy")}
    ids = [[profile.id, personality.id] for profile, personality in people]
    return digest_of("benchmark", play, models, prompts, cast.config.seed, ids)


async def start(store: Store, measured: Measured) -> Started:
    """Write the benchmark's rows unless they are there.

    Raises SetupError for people that the model saw, that may be trained on, or that say the same as one of those.
    """
    planned = measured.planned
    config = planned.cast.config
    seen = lineage_of(store, planned.cast)
    refuse_known(store, planned.personas, seen, measured.model)
    paraphrases = await refuse_alike(store, planned.personas, seen, measured.model, config.models)
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
    store.apply(
        in_one(
            [
                keep_benchmark(measured.benchmark_id, name, config.deciding_judge, config.turns, time.time()),
                keep_benchmark_run(measured.benchmark_id, run.id, measured.model, measured.how, seen.words),
                *_noted(store, run.id, measured.configuration),
            ]
        )
    )
    return Started(run, seen, paraphrases)


_CONFIGURED = "SELECT data FROM events WHERE job_id = ? AND kind = 'benchmark.configured' ORDER BY seq DESC LIMIT 1"


def _noted(store: Store, run_id: str, configuration: Mapping[str, Any]) -> list[list[Write]]:
    """The configuration under which a model is measured, if it was not noted so already."""
    known = configuration_of(store, run_id)
    return [] if known == configuration else [keep_event(run_id, "benchmark.configured", configuration)]


def configuration_of(store: Store, run_id: str) -> dict[str, Any] | None:
    """What the file of a benchmark said when this run of it was last begun; None if that was not noted."""
    rows = store.rows(_CONFIGURED, (run_id,))
    return dict(json.loads(rows[0][0])) if rows else None


def lineage_of(store: Store | None, cast: Cast) -> Seen:
    """What the model under test comes of. Raises SetupError for a lineage file that cannot be read."""
    name = cast.roles[RESPONDER].models[0]
    return seen_by(store, cast.models[name].identity, cast.config.models[name])


def kinship(identity: Mapping[str, Any], configured: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Warnings: a judge or a simulated person that is the model under test, or of its family.

    Of a run's identity, and of its models as they are configured: weights are known by content, families by name.
    """
    play, models, prompts = identity["play"], identity["models"], identity["prompts"]
    mine, kind = models[_tested(identity)], _families(_tested(identity), models, configured)
    if mine["backend"] == "scripted":
        return []
    places = {"user": play["user"], **{f"judge.{name}": judge for name, judge in play["judges"].items()}}
    found = []
    for place, role in places.items():
        names = (*role["models"], *([role["model"]] if role["model"] else [])) if place in prompts else ()
        for name in names:
            theirs = models[name]
            if theirs["model"] == mine["model"]:
                found.append(f"{place} asks the same weights as the model under test ({name}): it may prefer its own")
            elif kin := kind & _families(name, models, configured):
                found.append(f"{place} ({name}) and the model under test look like kin ({', '.join(sorted(kin))})")
    return found


def _families(
    name: str, models: Mapping[str, Mapping[str, Any]], configured: Mapping[str, Mapping[str, Any]]
) -> frozenset[str]:
    return families(known_as(configured.get(name, {})) or models[name]["model"])


def _tested(identity: Mapping[str, Any]) -> str:
    """Name of the model under test, of a run's identity."""
    name: str = identity["play"]["responders"][RESPONDER.removeprefix("responder.")]["model"]
    return name


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


def runs_measured(store: Store, benchmark_id: str) -> list[str]:
    """The runs of a benchmark, in the order measured."""
    sql = "SELECT b.run_id FROM benchmark_runs b JOIN runs r ON r.id = b.run_id WHERE b.benchmark_id = ?"
    return [row[0] for row in store.rows(f"{sql} ORDER BY r.created_at, r.id", (benchmark_id,))]


def results(store: Store, benchmark_id: str, judge: str, turns: int) -> list[Result]:
    """Every model's scores by one judge, in the order measured; no two of them have one name.

    The judge is the one that the runs were configured with; another that joined later is meant by its name if no other
    bears it, or by its id. Raises NotFound where several do.
    """
    sql = """
    SELECT b.model, b.how, b.lineage, b.run_id FROM benchmark_runs b JOIN runs r ON r.id = b.run_id
    WHERE b.benchmark_id = ? ORDER BY r.created_at, r.id
    """
    rows = store.rows(sql, (benchmark_id,))
    names = _told_apart([(unescape(model), run_id) for model, _, _, run_id in rows])
    return [
        _result(store, name, how, lineage, store.run(run_id), judge, turns)
        for name, (_, how, lineage, run_id) in zip(names, rows, strict=True)
    ]


def _told_apart(measured: Sequence[tuple[str, str]]) -> list[str]:
    """Names by (name, run): of several measurements under one name the latest keeps it, the others add their run."""
    latest_of = dict(measured)
    return [name if latest_of[name] == run else f"{name} ({run[:8]})" for name, run in measured]


def _judge_id(store: Store, run: RunRow, judge: str) -> str | None:
    """The judge of this name, or of this beginning of an id; None if it judged nothing here. Raises NotFound."""
    configured = judges_of(run)
    if judge in configured:
        return configured[judge]
    sql = """
    SELECT DISTINCT g.id, g.name FROM trees t JOIN nodes n ON n.tree_id = t.id JOIN judgements j ON j.node_id = n.id
    JOIN judges g ON g.id = j.judge_id WHERE t.run_id = ? ORDER BY g.id
    """
    judged = store.rows(sql, (run.id,))
    named = [judge_id for judge_id, name in judged if name == judge]
    found = named or [judge_id for judge_id, _ in judged if judge and judge_id.startswith(judge.lower())]
    if len(found) > 1:
        raise NotFound(
            f"several judges of run {run.id[:8]} are called {judge!r}: {', '.join(each[:12] for each in found)}",
            hint="Name one by its id: --judge ID.",
        )
    return found[0] if found else None


_SCORES = """
SELECT t.position, n.turn, j.repeat, s.value, s.unit
FROM trees t JOIN nodes n ON n.tree_id = t.id JOIN scores s ON s.node_id = n.id
JOIN judgements j ON j.id = s.judgement_id
WHERE t.run_id = ? AND j.judge_id = ? AND j.complete AND n.role = ? AND n.operation_id IS NULL
"""
_MISSING = """
SELECT coalesce(j.cause, 'the answer could not be read'), count(*)
FROM trees t JOIN nodes n ON n.tree_id = t.id JOIN judgements j ON j.node_id = n.parent_id
WHERE t.run_id = ? AND j.judge_id = ? AND n.role = ? AND n.operation_id IS NULL AND NOT EXISTS (
    SELECT 1 FROM scores s JOIN judgements k ON k.id = s.judgement_id
    WHERE s.node_id = n.id AND k.judge_id = j.judge_id AND k.complete)
GROUP BY 1
"""


def _result(store: Store, model: str, how: str, lineage: str, run: RunRow, judge: str, turns: int) -> Result:
    judge_id = _judge_id(store, run, judge)
    columns = "profile_id, personality_id, state, turns, cause, situation"
    sql = f"SELECT {columns} FROM trees WHERE run_id = ? ORDER BY position"
    cases = store.rows(sql, (run.id,))
    rows = store.rows(_SCORES, (run.id, judge_id, RESPONDER))
    repeats = np.full((1 + max((row[2] for row in rows), default=0), len(cases), turns), np.nan)
    for position, turn, repeat, value, _ in rows:
        repeats[repeat, position, turn - 1] = value
    missing = Counter({unescape(cause): count for cause, count in store.rows(_MISSING, (run.id, judge_id, RESPONDER))})
    for _, _, how_it_stands, played, cause, _ in cases:
        if how_it_stands == "failed":
            missing[f"no reply: {json.loads(cause)['kind']}"] += turns - played
    table = Table(latest(repeats), tuple(row[0] for row in cases), tuple(row[1] for row in cases))
    unit = rows[0][4] if rows else ""
    situations = tuple(situation_from(row[5]) if row[5] else None for row in cases)
    identity = run.identity["models"][_tested(run.identity)]
    return Result(model, how, lineage, run.id, run.state, identity, unit, table, repeats, dict(missing), situations)


@dataclass(frozen=True)
class Repetition:
    """The same model measured more than once: what its figures move by when conversations are played again."""

    models: tuple[str, ...]
    """The names under which it stands there."""
    cases: int
    """Cases that were played more than once."""
    sd: float
    """Of a case's mean score, from one draw of its conversation to the next; the judge's own noise is in it."""
    of_difference: float
    """Of the difference of two models' means over as many cases: what there is where nothing differs."""


def repetitions(store: Store, found: Sequence[Result]) -> list[Repetition]:
    """Models that stand there twice or more: equal weights, sampling and prompt, another draw."""
    alike: dict[str, list[Result]] = {}
    for result in found:
        alike.setdefault(_speaker(store.run(result.run_id).identity), []).append(result)
    return [made for draws in alike.values() if len(draws) > 1 and (made := _repetition(draws)) is not None]


def _speaker(identity: Mapping[str, Any]) -> str:
    """Digest of what speaks as the model under test, whatever it is called and however often it was drawn."""
    responder = identity["play"]["responders"][RESPONDER.removeprefix("responder.")]
    how = {key: value for key, value in responder.items() if key not in ("model", "models", "repeat")}
    prompts = identity["prompts"]
    return digest_of("speaker", how, identity["models"][_tested(identity)], prompts[RESPONDER], prompts["deploy"])


def _repetition(draws: Sequence[Result]) -> Repetition | None:
    """None while no case has scores in two draws. Only cells that every draw has count."""
    scores = np.stack([result.table.scores for result in draws])
    everywhere = np.isfinite(scores).all(axis=0)
    means = mean_level(np.where(everywhere, scores, np.nan))
    sd, cases = noise_floor(means[:, :, None]), int(np.isfinite(means).all(axis=0).sum())
    if sd is None:
        return None
    return Repetition(tuple(result.model for result in draws), cases, sd, sd * math.sqrt(2 / cases))


def notes_of(store: Store, found: Sequence[Result]) -> list[str]:
    """What a reader of the figures should know of what was measured."""
    runs = {result.model: store.run(result.run_id) for result in found}
    identities = {model: run.identity for model, run in runs.items()}
    tests = tests_among(len(found), found[0].table.scores.shape[1]) if found else 0
    few = too_few(_cases_compared(found), tests) if tests else None
    return [
        *(["a single case: no figure has an interval, and no difference can be called one"] if _single(found) else []),
        *([few] if few is not None and not _single(found) else []),
        *_renamed(found),
        *_ceilings(found),
        *(f"{model}: {told}" for model, run in runs.items() for told in kinship(run.identity, run.operation["models"])),
        *_templates({model: identity["models"][_tested(identity)] for model, identity in identities.items()}),
    ]


def tests_among(models: int, turns: int) -> int:
    """How many tests are made together: of each two models the means, and the slopes where there are any."""
    return models * (models - 1) // 2 * min(turns, 2)


def too_few(cases: int, tests: int) -> str | None:
    """That so few cases can tell no difference in so many tests, and how many could; None if they can."""
    least = least_p(cases, tests)
    if least <= ALPHA:
        return None
    needed = cases_needed(tests)
    corrected = f", corrected for {tests} tests" if tests > 1 else ""
    could = "" if needed is None else f"; from {needed} cases on one could be"
    return f"with {cases} cases the smallest p there can be is {least:.3g}{corrected}: no difference can be told{could}"


def _single(found: Sequence[Result]) -> bool:
    return any(len(result.table.scores) == 1 for result in found)


def _cases_compared(found: Sequence[Result]) -> int:
    """Of the two models that have most in common; while one is still measured, all cases."""
    if any(result.state != "finished" for result in found):
        return max(len(result.table.scores) for result in found)
    return max(int(np.isfinite(a.table.scores - b.table.scores).any(axis=1).sum()) for a, b in combinations(found, 2))


def _renamed(found: Sequence[Result]) -> list[str]:
    names = {result.model for result in found}
    named = [(result.model, result.model.removesuffix(f" ({result.run_id[:8]})")) for result in found]
    return [
        f"{model} was measured under the name {name} before {name} was: it is another run"
        for model, name in named
        if name != model and name in names
    ]


def _templates(identities: Mapping[str, Mapping[str, str]]) -> list[str]:
    return [
        f"{a} and {b} are the same weights under other chat templates ({mine['template'][:8]} and "
        f"{theirs['template'][:8]}): what differs may be the template"
        for (a, mine), (b, theirs) in combinations(identities.items(), 2)
        if not mine["backend"] == theirs["backend"] == "scripted"
        and mine["model"] == theirs["model"]
        and mine["template"] != theirs["template"]
    ]


@dataclass(frozen=True)
class Closed:
    """How much of the gap from a floor to a ceiling a model closes."""

    model: str
    floor: str
    ceiling: str
    own: bool
    """Whether the ceiling is this model told, and not another one."""
    gap: Gap


def gaps_of(found: Sequence[Result]) -> list[Closed]:
    """Of each model but floors and ceilings; none without both."""
    made = []
    for own, floor, ceiling in _between(found):
        gap = gap_closed(own.table, floor.table, ceiling.table)
        made.append(Closed(own.model, floor.model, ceiling.model, _likeness(ceiling, own)[0], gap))
    return made


def _between(found: Sequence[Result]) -> list[tuple[Result, Result, Result]]:
    """Each model with its floor and its ceiling: the same weights told, under the same adapter if that was measured."""
    floors = [result for result in found if result.how == "floor"]
    told = [result for result in found if result.how == "told"]
    if not floors or not told:
        return []
    between = [result for result in found if result.how not in ("floor", "told")]
    return [(own, floors[-1], max(reversed(told), key=lambda each: _likeness(each, own))) for own in between]


def _likeness(a: Result, b: Result) -> tuple[bool, bool]:
    """Whether two are of the same weights, and under the same adapter; scripts are told apart by their settings."""
    mine, theirs = a.identity, b.identity
    scripted = mine["backend"] == theirs["backend"] == "scripted"
    return (mine == theirs if scripted else mine["model"] == theirs["model"]), mine["adapter"] == theirs["adapter"]


def _ceilings(found: Sequence[Result]) -> list[str]:
    return [
        f"the ceiling of {own.model} is {ceiling.model}, another model: {own.model} itself was not measured told"
        for own, _, ceiling in _between(found)
        if not _likeness(ceiling, own)[0]
    ]


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
            "situation": situation.name if situation is not None else None,
            "turn": turn,
            "score": float(value) if np.isfinite(value) else None,
            "unit": result.unit,
        }
        for profile, personality, scores, situation in zip(
            table.profiles, table.personalities, table.scores, result.situations, strict=True
        )
        for turn, value in enumerate(scores, 1)
    ]
