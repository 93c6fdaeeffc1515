"""Trying a prompt out: what a model says under a draft at places of stored trees, beside what it says under a saved
version, and which of the two a judge of the run prefers.

A place is a use of a prompt of the same kind: same persona, same path, same sampling and seed; only the prompt differs.
What is said is told as it is written, shown, and not kept.

Invariant: nothing is written to the store.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agents.calls import Asking, CallFailed, Calls
from agents.judges.judge import JudgeAgent
from agents.judges.verdicts import JudgeSpec
from agents.messages import Candidate, JudgeRequest, Place
from agents.models.open import seat_of
from agents.models.protocol import ChatRequest, Message, Model
from agents.person import person_in
from agents.prompts import Prompt
from agents.rerender import Rerender
from agents.roles import Role, Stage
from simulation.cast import asks_a_model, close_models, judge_specs, open_named, roles_of
from simulation.config import DERIVED_JUDGES, LimitsConfig, RunConfig
from simulation.episode import lines_of
from simulation.gate import Gate, Spent
from simulation.runs import config_of, prompts_of
from train.adapters import StoredAdapters
from trees.errors import NotFound, SetupError
from trees.store import Store
from trees.values import Call, CallFailure, Judgement, Use
from trees.verify import USE_COLUMNS, use_from_row

TRIED = ("user", "responder")
"""Kinds of prompt whose answers are plain text, so that they can be tried on their own."""
SET = 5
"""Places of a set, if not said otherwise."""

Side = Literal["saved", "draft"]
SIDES: tuple[Side, Side] = ("saved", "draft")
Event = dict[str, Any]
"""`place` (its number in the set, from 1) with `title`, with `side` and `text` (what came next) or `failed`, or with
`outcome`: the side that the judge prefers, or tie, both_bad, unstable, abstain."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A draft against what is saved."""

    draft: Prompt
    saved: Prompt | None = None
    """None for the prompt that was used at each place."""
    judge: str | None = None
    """The judge of the run that compares the two replies; None for none."""


def places(store: Store, tree_id: str, kind: str) -> list[Use]:
    """Where a kind of prompt was used in a tree, turn by turn; of one place the first use."""
    sql = (
        f"SELECT {USE_COLUMNS} FROM uses u JOIN prompts p ON p.id = u.prompt_id LEFT JOIN nodes n ON n.id = u.node_id "
        "WHERE u.tree_id = ? AND p.role = ? ORDER BY coalesce(n.rowid, 0), u.role, u.purpose"
    )
    found = [use_from_row(row) for row in store.rows(sql, (tree_id, kind))]
    return list({(use.node_id, use.role): use for use in reversed(found)}.values())[::-1]


def place_of(store: Store, tree_id: str, kind: str, number: int) -> Use:
    """One of them, counted from 1. Raises NotFound."""
    found = places(store, tree_id, kind)
    if not 1 <= number <= len(found):
        raise NotFound(
            f"tree {tree_id[:8]} has {len(found)} places where a {kind} prompt was used, not {number}",
            hint="Name another --place, or another tree.",
        )
    return found[number - 1]


def pinned_places(store: Store, run_id: str, kind: str, most: int = SET) -> list[Use]:
    """The set that a draft is tried on: places at bookmarked messages, or, where none is, one each of several people.

    A place is at a bookmarked message if the prompt was answered with it or to it. Raises NotFound for an empty set.
    """
    marked = set(_bookmarked(store, run_id))
    trees = [row[0] for row in store.rows("SELECT id FROM trees WHERE run_id = ? ORDER BY position, id", (run_id,))]
    found = [use for tree in trees for use in places(store, tree, kind) if _at(store, use) & marked] if marked else []
    if not found:
        by_tree = (places(store, tree, kind) for tree in trees)
        # A turn further with each person, so that the set is not all openings.
        found = [uses[number % len(uses)] for number, uses in enumerate(filter(None, by_tree))][:most]
    if not found:
        raise NotFound(f"no {kind} prompt was used in run {run_id[:8]}", hint="Name another --run.")
    return found[:most]


def _bookmarked(store: Store, run_id: str) -> list[str]:
    """Messages of a run whose latest bookmark is on."""
    sql = (
        "SELECT node_id, args FROM operations WHERE kind = 'bookmark' AND tree_id IN "
        "(SELECT id FROM trees WHERE run_id = ?) ORDER BY node_id, number"
    )
    latest = {node: json.loads(args) for node, args in store.rows(sql, (run_id,))}
    return [node for node, args in latest.items() if args.get("on")]


def _at(store: Store, use: Use) -> set[str]:
    answered = store.rows("SELECT id FROM nodes WHERE tree_id = ? AND call_id = ?", (use.tree_id, use.call_id))
    return {use.node_id, *(row[0] for row in answered)}


def said_at(store: Store, use: Use) -> str:
    """What was answered there."""
    answer = store.answer(use.call_id) or {}
    completions = answer.get("completions", [])
    return str(completions[0].get("text", "")) if completions else json.dumps(answer)


def try_prompt(store: Store, uses: Sequence[Use], trial: Trial, tell: Callable[[Event], None]) -> dict[str, Any]:
    """Ask the models of one run's places under both prompts. Raises SetupError for what cannot be asked or judged.

    Where the saved prompt is the one that was used, its stored answer is what it says, and it is not asked again.
    """
    if trial.draft.kind not in TRIED:
        raise SetupError(
            f"a {trial.draft.kind} prompt cannot be tried on its own", hint=f"Those that can: {', '.join(TRIED)}."
        )
    if trial.judge is not None and trial.draft.kind != "responder":
        kind = trial.draft.kind
        raise SetupError(f"judges compare replies, and a {kind} prompt makes none", hint="Leave out --judge.")
    run = store.run(uses[0].run_id)
    config = _narrowed(config_of(run), trial.judge)
    asked = [config.roles()[use.role.replace("responder.", "responders.")] for use in uses]
    asked += [judge for judge in config.judges.values() if asks_a_model(judge)]
    wanted = {name for role in asked for name in config.models_of(role)}
    return asyncio.run(_with_models(_Trying(store, config, trial, tell), uses, wanted))


def _narrowed(config: RunConfig, judge: str | None) -> RunConfig:
    """A configuration with no other judge than this one. Raises SetupError."""
    if judge is None:
        return config.model_copy(update={"judges": {}})
    if judge not in config.judges:
        raise SetupError(f"the run has no judge {judge!r}", hint=f"Its judges: {', '.join(config.judges)}.")
    kind = config.judges[judge].kind
    if kind in DERIVED_JUDGES:
        raise SetupError(
            f"judge {judge!r} is of the kind {kind!r} and cannot judge what is not stored",
            hint="Name one that asks a model or measures.",
        )
    return config.model_copy(update={"judges": {judge: config.judges[judge]}, "judge": judge})


async def _with_models(trying: _Trying, uses: Sequence[Use], wanted: Collection[str]) -> dict[str, Any]:
    models = await open_named(trying.config, wanted, StoredAdapters(trying.store.path))
    try:
        return await trying.all(uses, models)
    finally:
        await close_models(models)


class _Unkept:
    """A call log that remembers nothing."""

    def answer(self, call_id: str, *, shareable: bool) -> dict[str, Any] | None:
        return None

    async def keep(self, call: Call, use: Use) -> dict[str, Any]:
        return dict(call.answer)

    async def keep_use(self, use: Use) -> None:
        pass

    async def keep_failure(self, failure: CallFailure) -> None:
        pass


class _Trying:
    """One trial, from the opened models to the table."""

    def __init__(self, store: Store, config: RunConfig, trial: Trial, tell: Callable[[Event], None]) -> None:
        self.config = config
        self.store = store
        self._trial = trial
        self._tell = tell
        self._rerender = Rerender(store)

    async def all(self, uses: Sequence[Use], models: Mapping[str, Model]) -> dict[str, Any]:
        run = self.store.run(uses[0].run_id)
        seats = {name: seat_of(model, self.config.models[name]) for name, model in models.items()}
        calls = Calls(seats, _Unkept(), Gate(LimitsConfig(), {}, Spent()), self._heard)
        prompts = prompts_of(self.store, run)
        stage, roles = Stage(calls, {prompt.id: prompt for prompt in prompts.values()}), roles_of(self.config)
        spec = None
        if self._trial.judge is not None:
            ids = {name: model.identity.id for name, model in models.items()}
            versions = {role: prompt.id for role, prompt in prompts.items()}
            spec = judge_specs(self.config, roles, ids, versions)[self._trial.judge]
        tried = await asyncio.gather(
            *(self._one(number, use, stage, roles[use.role], spec, run.seed) for number, use in enumerate(uses, 1))
        )
        counts = Counter(each["outcome"] for each in tried if each["outcome"])
        return {"kind": self._trial.draft.kind, "judge": self._trial.judge, "places": tried, "outcomes": dict(counts)}

    def _heard(self, asking: Asking, answer: int, text: str) -> None:
        number, _, side = asking.purpose.partition(".")
        if side in SIDES and answer == 0:
            self._tell({"place": int(number), "side": side, "text": text})

    async def _one(
        self, number: int, use: Use, stage: Stage, role: Role, spec: JudgeSpec | None, seed: int
    ) -> dict[str, Any]:
        opening = use.node_id == use.tree_id
        turn = 0 if opening else self.store.tree(use.tree_id)[use.node_id].turn
        place = Place(run_id=use.run_id, run_seed=seed, tree_id=use.tree_id, node_id=use.node_id, turn=turn)
        model = stage.model_for(role, place)
        spoken = turn + 1 if self._trial.draft.kind == "user" else turn
        title = f"{use.tree_id[:8]}  turn {spoken}  {use.role}  {model}"
        self._tell({"place": number, "title": title})
        found: dict[str, Any] = {"tree": use.tree_id, "node": use.node_id, "role": use.role, "turn": spoken}
        found |= {"model": model, "title": title, "failed": {}, "outcome": None}
        answers = await asyncio.gather(*(self._say(number, use, stage, role, model, side) for side in SIDES))
        for side, said in zip(SIDES, answers, strict=True):
            if isinstance(said, CallFailed):
                found["failed"][side] = said.message
                self._tell({"place": number, "side": side, "failed": said.message})
            else:
                found[side] = said
        if spec is not None and not found["failed"]:
            judgement = await self._judged(use, stage, spec, place, found)
            found["outcome"] = outcome_of(judgement)
            self._tell({"place": number, "outcome": found["outcome"]})
        return found

    async def _say(self, number: int, use: Use, stage: Stage, role: Role, model: str, side: Side) -> str | CallFailed:
        prompt = self._trial.draft if side == "draft" else self._trial.saved
        if side == "saved" and (prompt is None or prompt.id == use.prompt_id):
            said = said_at(self.store, use)
            self._tell({"place": number, "side": side, "text": said})
            return said
        messages = self._messages(use, prompt)
        rows = self.store.rows("SELECT request FROM calls WHERE id = ?", (use.call_id,))
        request = ChatRequest(messages, role.sampling, json.loads(rows[0][0]).get("seed"))
        asking = Asking(use.run_id, use.tree_id, use.node_id, use.role, f"{number}.{side}", use.prompt_id)
        try:
            _, answer = await stage.calls.chat(model, request, asking)
        except CallFailed as failed:
            return failed
        return answer.completions[0].text

    def _messages(self, use: Use, prompt: Prompt | None) -> tuple[Message, ...]:
        messages = self._rerender.messages(use, prompt)
        if messages is None:
            raise NotFound(f"the turn of call {use.call_id[:8]} is not stored", hint="Name another --place.")
        return messages

    async def _judged(
        self, use: Use, stage: Stage, spec: JudgeSpec, place: Place, said: Mapping[str, Any]
    ) -> Judgement | None:
        tree = self.store.tree(use.tree_id)
        hinted = bool(use.tail.get("hint"))
        request = JudgeRequest(
            place=place,
            judge=spec.name,
            prompt_id=spec.prompt_id,
            person=person_in(self.store, self.store.tree_row(use.tree_id)),
            history=lines_of(tree.path(use.node_id)),
            candidates=tuple(Candidate(node_id=side, text=said[side], hinted=hinted) for side in SIDES),
            revealed=tuple(tree.revealed(use.node_id)),
        )
        return (await JudgeAgent(stage, spec).act(request)).judgement


def outcome_of(judgement: Judgement | None) -> str:
    """The side that won, or why neither did."""
    if judgement is None or not judgement.complete or not judgement.verdicts:
        return "abstain"
    verdict = judgement.verdicts[0]
    return verdict.first_id if verdict.outcome == "win" else verdict.outcome
