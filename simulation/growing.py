"""Growing the pool: the job that asks for new profiles and personalities until there are enough, or no more come.

A generation is a few calls over the pool as it stands; its answers are weighed in the order of the calls and committed
whole, with every candidate and its reason. Answers of an interrupted generation are in the call log, so that going on
asks none of them again and ends the same. The method is the self-generation with similarity filtering of
arXiv 2410.03642 (section 3.1); what its examples are drawn from, how items are read and what is compared differs, and
docs/personas.md says how.

Invariant: one engine a growing; what it adds to the pool depends on its identity, its seed and the answers alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agents.calls import Asking, CallFailed, Calls, Halted
from agents.generator import (
    PROMPT_OF,
    Proposed,
    check_messages,
    generator_messages,
    read_items,
    schema_of,
)
from agents.models.open import seat_of
from agents.models.protocol import ChatRequest, Model
from simulation.config import SamplingConfig
from simulation.embedders import Vectors
from simulation.gate import Gate, Price, Spent, prices_of, spent_on
from simulation.generation import NO_VERDICT, UNCHECKED, Answer, Rejection, Weighed, draw_examples, weigh
from simulation.growing_plan import Growing, GrowingConfig
from simulation.persona_composer import composable, compose_nearest
from simulation.persona_plan import Lack, Plan, count
from simulation.pool import Pool, as_bytes, load_pool, vectors_of
from trees.errors import StoreError
from trees.ids import derive_seed
from trees.jobs import HEARTBEAT_S, Lock, heartbeat, release, take_lock
from trees.personas import Kind, Personality, Profile, personality_of, profile_of, sentences
from trees.pool import (
    KINDS,
    Candidate,
    Generation,
    GrowingRow,
    GrowingState,
    GrowingUse,
    PoolItem,
    candidates,
    generations,
    keep_generation,
    keep_growing_call,
    keep_growing_use,
    keep_item,
    keep_vector,
    set_growing_state,
)
from trees.store import Store
from trees.values import Call, CallFailure, Use
from trees.writer import Writer
from trees.writes import Write, in_one, keep_event, resolve_failures

MOST_LACKS = 8
"""What a generation's row names of what was lacking."""
COMPOSER = "plan"
"""What candidates made from the axis tables are said to come from."""


class Grower:
    """The engine of one growing. Make it, `run` it once."""

    def __init__(
        self, store: Store, row: GrowingRow, planned: Growing, told: Callable[[Generation], None] | None = None
    ) -> None:
        self.row = row
        self._store = store
        self._planned = planned
        self._told = told or (lambda _: None)
        self._lock: Lock = take_lock(store, row.id, "growing")
        self._writer = Writer(store.path)
        prices = prices_of(planned.entries)
        self.gate = Gate(planned.limits, prices, _spent(store, row.id, planned.models, prices))
        seats = {name: seat_of(model, planned.entries[name]) for name, model in planned.models.items()}
        self._calls = Calls(seats, _GrowingLog(store, self._writer, row.id), self.gate)

    async def run(self) -> GrowingState:
        """Grow both pools to their sizes; returns how it ended. Raises StoreError."""
        beating = asyncio.create_task(self._beat())
        state: GrowingState = "stopped"
        reason: str | None = "interrupted"
        try:
            await self._writer.commit(set_growing_state(self.row.id, "running"))
            state, reason = await self._grow_all()
        except Halted as halted:
            state, reason = "stopped", str(halted)
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
            with contextlib.suppress(StoreError):
                await self._writer.commit(
                    [*set_growing_state(self.row.id, state, reason), *release(self._lock)],
                )
            await self._writer.close()
        if self.gate.failure is not None:
            raise self.gate.failure
        return state

    async def _beat(self) -> None:
        while True:
            await self._writer.commit(heartbeat(self._lock))
            await asyncio.sleep(HEARTBEAT_S)

    async def _grow_all(self) -> tuple[GrowingState, str | None]:
        reasons = []
        failed = False
        for kind in KINDS:
            wanted = getattr(self._planned.sizes, kind)
            if wanted:
                failed, reason = await self._grow(kind, wanted)
                reasons.append(reason)
        return ("failed" if failed else "finished"), "; ".join(reasons)

    async def _grow(self, kind: Kind, wanted: int) -> tuple[bool, str]:
        """One kind, generation after generation; whether calls failed throughout, and why it ended."""
        grown = _Grown.of(self._store, self.row.id, kind)
        there = await load_pool(self._store, self._planned.embedder, kind)
        while True:
            if (size := len(there.ids())) >= wanted:
                return False, f"{size} {kind_word(kind)} are there"
            if grown.saturated(self._planned.config):
                share = f"{grown.accept_rate():.0%} of the last {len(grown.verdicts)} candidates"
                return False, f"saturated at {size} {kind_word(kind)}: {share} were kept"
            done, mute = await self._generation(kind, there, grown, wanted - size)
            if mute:
                return True, f"no call for {kind_word(kind)} got an answer: {done.cause}"

    async def _generation(self, kind: Kind, there: Pool, grown: _Grown, room: int) -> tuple[Generation, bool]:
        """Ask, weigh, commit: one generation, and whether those asked, or the checker, answered nothing at all."""
        await self.gate.hold()
        planned, number = self._planned, grown.generations
        lacking = self._lacking(kind, there)
        answers = await self._answers(kind, number, there, lacking)
        weighed = await weigh(
            there,
            number,
            answers,
            threshold=planned.thresholds[kind].threshold,
            guard=planned.thresholds[kind].guarding,
            known=grown.known,
            embed=self._embed,
            approve=None if planned.checker is None else self._approve,
            room=room,
        )
        failed = [answer.cause for answer in answers if answer.cause is not None]
        unchecked = [c.detail for c in weighed.candidates if c.reason == UNCHECKED]
        done = Generation(
            kind,
            number,
            len(answers) + weighed.checked,
            len(failed) + len(unchecked),
            len(weighed.candidates),
            len(weighed.kept),
            tuple(f"{lack.axis}: {lack.value}" for lack in lacking[:MOST_LACKS]),
            next(iter([*failed, *unchecked]), None),
        )
        await self._writer.commit(self._as_writes(done, weighed))
        _let_join(there, weighed, _source(self.row))
        grown.add(done, weighed.candidates)
        self._told(done)
        return done, len(failed) == len(answers) or 0 < weighed.checked == len(unchecked)

    def _as_writes(self, done: Generation, weighed: Weighed) -> list[Write]:
        name = self._planned.embedder.name
        return [
            *keep_generation(self.row.id, done, weighed.candidates),
            *in_one(keep_item(item_of(c.kind, c.text), source=_source(self.row)) for c in weighed.kept),
            *(keep_vector(name, item, as_bytes(vector)) for item, vector in weighed.vectors.items()),
        ]

    async def _embed(self, texts: Mapping[str, str]) -> Mapping[str, Vectors]:
        return await vectors_of(self._store, self._planned.embedder, texts)

    # Asking

    def _lacking(self, kind: Kind, there: Pool) -> list[Lack]:
        """What the pool lacks of the plan, the most first; nothing without a plan."""
        return self._lacks(kind, self._filled(kind, there)) if self._planned.steered else []

    def _filled(self, kind: Kind, there: Pool) -> dict[str, dict[str, int]]:
        return count([there.items[i].text for i in there.ids()], kind, self._planned.axes)

    def _lacks(self, kind: Kind, filled: Mapping[str, Mapping[str, int]]) -> list[Lack]:
        """What is lacking, without what the composer has no words for where it is asked."""
        axes = self._planned.axes
        lacks = Plan(kind, axes).lacks(filled, getattr(self._planned.sizes, kind))
        if self._planned.config.generator == "model":
            return lacks
        return [lack for lack in lacks if composable(kind, axes, lack.axis, lack.value)]

    async def _answers(self, kind: Kind, generation: int, there: Pool, lacking: Sequence[Lack]) -> list[Answer]:
        numbers = range(self._planned.config.calls)
        if self._planned.config.generator == "plan":
            return self._composed(kind, generation, there)
        async with asyncio.TaskGroup() as asking:
            tasks = [asking.create_task(self._ask(kind, generation, n, there, lacking)) for n in numbers]
        answers = [task.result() for task in tasks]
        halted = next((answer for answer in answers if isinstance(answer, Halted)), None)
        if halted is not None:
            raise halted
        return [answer for answer in answers if isinstance(answer, Answer)]

    async def _ask(
        self, kind: Kind, generation: int, number: int, there: Pool, lacking: Sequence[Lack]
    ) -> Answer | Halted:
        """One call. A halt is a value here, so that the other calls of the generation are finished and kept."""
        planned, place = self._planned, f"{kind}.{generation}.{number}"
        names = planned.generators
        model = names[(generation * planned.config.calls + number) % len(names)]
        shown = draw_examples(there, planned.config.examples, self._seed(place, "examples"))
        wanted = _rotated(lacking, number)
        told = Plan(kind, planned.axes).ask(wanted)
        prompt = planned.prompts[PROMPT_OF[kind]]
        examples = [sentences(there.items[i].text) for i in shown]
        count = planned.config.per_call
        sampling = planned.config.sampling.value()
        json_schema = planned.models[model].capabilities.json_schema
        request = ChatRequest(
            generator_messages(prompt, kind, examples, count, told),
            sampling,
            None if sampling.temperature == 0 else self._seed(place, "grow"),
            schema=schema_of(kind, count) if json_schema else None,
        )
        tail = {"shown": shown, "count": count, "lacking": told}
        asking = Asking(self.row.id, place, place, "generator", "grow", prompt.id, tail)
        try:
            call_id, answer = await self._calls.chat(model, request, asking)
        except CallFailed as failed:
            return Answer(number, model, None, (), f"{failed.kind}: {failed.message}")
        except Halted as halted:
            return halted
        return Answer(number, model, call_id, read_items(answer.completions[0].text, kind))

    def _composed(self, kind: Kind, generation: int, there: Pool) -> list[Answer]:
        """As many items from the axis tables as the calls of a generation are asked for, each for what still lacks."""
        planned = self._planned
        filled = self._filled(kind, there) if planned.steered else count([], kind, planned.axes)
        plan, size = Plan(kind, planned.axes), getattr(planned.sizes, kind)
        answers = []
        for number in range(planned.config.calls):
            proposed = []
            for index in range(planned.config.per_call):
                wanted = plan.wanted(self._lacks(kind, filled)) if planned.steered else {}
                seed = self._seed(f"{kind}.{generation}.{number}.{index}", "compose")
                made = compose_nearest(kind, seed, plan.drawn_by(filled, size), wanted)
                for axis, value in made.values.items():
                    filled[axis][value] += 1
                proposed.append(Proposed(tuple(sentences(made.text))))
            answers.append(Answer(number, COMPOSER, None, proposed))
        return answers

    async def _approve(self, asked: Sequence[Candidate]) -> Sequence[Rejection | None]:
        """The second look of a model: why each may not join; one without an answer is nobody's verdict."""
        looks = await asyncio.gather(*(self._look(c) for c in asked), return_exceptions=True)
        for look in looks:
            if isinstance(look, BaseException):
                raise look
        return [look for look in looks if not isinstance(look, BaseException)]

    async def _look(self, candidate: Candidate) -> Rejection | None:
        name = self._planned.checker
        assert name is not None
        prompt = self._planned.prompts["persona.check"]
        place = f"{candidate.kind}.{candidate.generation}.{candidate.number}.{candidate.place}"
        greedy = SamplingConfig(max_tokens=8, temperature=0).value()
        request = ChatRequest(
            check_messages(prompt, candidate.kind, candidate.text), greedy, None, choices=("Yes", "No")
        )
        tail = {"kind": candidate.kind, "text": candidate.text}
        asking = Asking(self.row.id, place, place, "checker", "check", prompt.id, tail)
        try:
            _, answer = await self._calls.chat(name, request, asking)
        except CallFailed as failed:
            return Rejection(UNCHECKED, f"the check got no answer: {failed.kind}: {failed.message}")
        said = answer.completions[0].text.strip().rstrip(".").lower()
        return None if said == "yes" else Rejection("model_check", f"{name} says {said[:20]!r}")

    def _seed(self, place: str, purpose: str) -> int:
        return derive_seed(self.row.seed, self.row.id, place, purpose)


@dataclass
class _Grown:
    """What a growing has come to with one kind, as far as stopping and repetitions depend on it."""

    generations: int = 0
    verdicts: list[bool] = field(default_factory=list)
    """Kept or not, of all candidates in order."""
    known: dict[str, str] = field(default_factory=dict)
    """Ids of rejected candidates, with the reason."""
    window: int = 0

    @classmethod
    def of(cls, store: Store, growing_id: str, kind: Kind) -> _Grown:
        grown = cls(sum(g.kind == kind for g in generations(store, growing_id)))
        grown._count(candidates(store, growing_id, kind))
        return grown

    def add(self, done: Generation, weighed: Sequence[Candidate]) -> None:
        self.generations = done.generation + 1
        self._count(weighed)

    def _count(self, weighed: Sequence[Candidate]) -> None:
        counted = [c for c in weighed if c.reason not in NO_VERDICT]
        self.verdicts += [c.reason is None for c in counted]
        self.known.update({c.item_id: f"rejected as {c.reason} before" for c in counted if c.reason is not None})

    def saturated(self, config: GrowingConfig) -> bool:
        self.verdicts = self.verdicts[-config.window :]
        return len(self.verdicts) >= config.window and self.accept_rate() < config.saturation

    def accept_rate(self) -> float:
        return sum(self.verdicts) / len(self.verdicts) if self.verdicts else 0.0


class _GrowingLog:
    """The call log as a growing keeps it: a use of its own in place of a run's."""

    def __init__(self, reader: Store, writer: Writer, growing_id: str) -> None:
        self._reader = reader
        self._writer = writer
        self._growing = growing_id
        rows = reader.rows("SELECT call_id FROM growing_uses WHERE growing_id = ?", (growing_id,))
        self._known = {row[0] for row in rows}

    def answer(self, call_id: str, *, shareable: bool) -> dict[str, Any] | None:
        return self._reader.answer(call_id) if shareable or call_id in self._known else None

    async def keep(self, call: Call, use: Use) -> dict[str, Any]:
        writes = [*keep_growing_call(call, self._use(use)), *resolve_failures(call.id)]
        ((stands,),) = await self._writer.commit(writes)
        answer: dict[str, Any] = json.loads(stands)
        return answer

    async def keep_use(self, use: Use) -> None:
        await self._writer.commit(keep_growing_use(use.call_id, self._use(use)))

    async def keep_failure(self, failure: CallFailure) -> None:
        data = {"place": failure.node_id, "kind": failure.kind, "message": failure.message, "call": failure.call_id}
        await self._writer.commit(keep_event(self._growing, "call.failed", data))

    def _use(self, use: Use) -> GrowingUse:
        return GrowingUse(self._growing, use.node_id, use.purpose, use.prompt_id, use.tail)


def item_of(kind: Kind, text: str) -> Profile | Personality:
    """The item that a candidate's text is."""
    parts = sentences(text)
    made = profile_of(parts) if kind == "profile" else personality_of(parts)
    # Splitting into sentences and joining them again may change white space, and the text decides the id.
    return Profile(parts, made.pronouns, text) if kind == "profile" else Personality(parts, made.pronouns, text)


def kind_word(kind: Kind) -> str:
    return "profiles" if kind == "profile" else "personalities"


def _let_join(there: Pool, weighed: Weighed, source: str) -> None:
    for c in weighed.kept:
        item = item_of(c.kind, c.text)
        there.items[item.id] = PoolItem(item.id, c.kind, c.text, item.pronouns, "train", source)
        there.open.add([item.id], weighed.vectors[item.id][None, :])


def _rotated(lacking: Sequence[Lack], by: int) -> list[Lack]:
    """The list begun elsewhere, so that calls of one generation ask for different things."""
    at = by % len(lacking) if lacking else 0
    return [*lacking[at:], *lacking[:at]]


def _source(row: GrowingRow) -> str:
    return f"growing {row.id[:8]}"


def _spent(store: Store, growing_id: str, models: Mapping[str, Model], prices: Mapping[str, Price]) -> Spent:
    sql = (
        "SELECT model_id, count(*), total(tokens_in), total(tokens_out) FROM calls "
        "WHERE id IN (SELECT call_id FROM growing_uses WHERE growing_id = ?) GROUP BY model_id"
    )
    return spent_on(store.rows(sql, (growing_id,)), models, prices)
