"""The engine: the one process that plays a run, steered by rows.

It holds the run's lock, renews its heartbeat, takes commands, plays the trees that are owed, and leaves when nothing
is left to do. Whoever wants something of it needs the store file alone; see `trees.jobs`. The app and the command
line are clients, and a run outlives them.

Invariant: at most one engine a run; whatever ends it, everything committed stays and the run can be gone on with.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from agents.bus import Bus
from agents.calls import Calls, Halted
from agents.judges.judge import JudgeAgent
from agents.judges.verdicts import JudgeSpec
from agents.messages import Person
from agents.models.adapters import Adapters
from agents.models.open import seat_of
from agents.models.protocol import Model
from agents.permits import Permits
from agents.person import person_in
from agents.prompts import Prompt
from agents.roles import SILENT, Silences, Stage
from simulation.cast import (
    Cast,
    asks_a_model,
    close_models,
    differences,
    make_actors,
    make_cast,
    open_models,
    open_named,
)
from simulation.config import DERIVED_JUDGES, LimitsConfig, RunConfig, make_config
from simulation.deltas import DeltaServer, socket_path
from simulation.episode import Scene, TurnFailed, play_tree
from simulation.figures import Measuring
from simulation.gate import Gate, Price, Spent, prices_of, spent_on
from simulation.inflight import FIRST_TREES, Room, TreesInFlight
from simulation.operations import judge_again, mend, operate, record
from simulation.runs import check_identity, config_of, keep_cast, prompts_of
from trees.call_log import StoreCallLog
from trees.errors import EspalierError, SetupError, StoreError
from trees.ids import canonical_json
from trees.jobs import HEARTBEAT_S, Command, Lock, commands, heartbeat, release, settle_old, take, take_lock
from trees.jobs import answer as answer_command
from trees.store import RunRow, Store
from trees.tree import ConversationTree
from trees.values import RunState
from trees.writer import Writer
from trees.writes import (
    keep_event,
    keep_revision,
    merge_words,
    pin_revision,
    reopen_tree,
    set_operation_fields,
    set_run_state,
    settle_failures,
)

POLL_S = 0.25
"""How often the engine looks for commands, and for models with nothing to do, in seconds."""

TreeWork = Callable[[Scene, ConversationTree, Person], Awaitable[int]]
"""Something that is done to a stored tree; returns to how much of it."""


class Engine:
    """Plays one run. Make it with `open_engine`, then `run` it once."""

    def __init__(self, store: Store, run: RunRow, cast: Cast, lock: Lock, adapters: Adapters | None = None) -> None:
        config = cast.config
        self._adapters = adapters
        self.run_row = run
        self.cast = cast
        self._store = store
        self._lock = lock
        self._writer = Writer(store.path)
        prices = prices_of(config.models)
        self.gate = Gate(config.limits, prices, spent_so_far(store, run.id, cast.models, prices))
        self._asked_before = self.gate.used.calls
        seats = {name: seat_of(model, config.models[name]) for name, model in cast.models.items()}
        self._calls = Calls(seats, StoreCallLog(store, self._writer, run.id), self.gate)
        self._revisions = store.revisions(run.id)
        self._stage = Stage(self._calls, _all_prompts(store, self._revisions), silences(store, run.id))
        busy = 2 * sum(seat.permits.most for seat in seats.values())
        self._levels = Permits(busy)
        self._bus = Bus(make_actors(cast, self._stage), limit=busy, on_error=self._stage.keep_error)
        self._judges: dict[str, JudgeSpec] = dict(cast.judges)
        self._in_flight = Permits(1)
        self._trees: TreesInFlight | None = None
        """What lets further trees in; None if their number is fixed."""
        self._set_trees(config.limits)
        self._operating: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """By tree: operations and judging read a tree and then write to it, one at a time."""
        self._taking = asyncio.Lock()
        """Between reading a command and noting that it is taken, nobody else may read it."""
        self._handling: set[asyncio.Task[None]] = set()
        self._measuring = Measuring(run.id, seats, self._writer)
        self._deltas = DeltaServer(socket_path(store.path, run.id), self._listen)

    # From outside

    @property
    def failure(self) -> StoreError | None:
        """What ended the engine before its time; None if nothing did."""
        return self.gate.failure

    def stop(self, reason: str) -> None:
        """Start no further call; what is in flight is finished and kept."""
        self.gate.halt(reason)

    async def run(self, *, play: bool = True, retry_failed: bool = False) -> RunState:
        """Play what is owed and answer commands until there is nothing left; returns how the run stands then."""
        await self._bus.start()
        await self._deltas.start()
        watching = [asyncio.create_task(self._watch()), asyncio.create_task(self._measure())]
        try:
            await self._writer.commit(settle_old(self._lock))
            await self._note("running", "engine.started", {"pid": self._lock.pid, "retry_failed": retry_failed})
            if retry_failed:
                await self._reopen_failed()
            if play:
                await self._play_owed()
            await self._finish_commands()
        except* StoreError as group:
            error = group.exceptions[0]
            self.gate.broke(error if isinstance(error, StoreError) else StoreError(str(error)))
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)
            state = await self._leave()
        return state

    # Playing

    async def _play_owed(self) -> None:
        sql = "SELECT id FROM trees WHERE run_id = ? AND state = 'growing' ORDER BY turns DESC, position"
        owed = [row[0] for row in self._store.rows(sql, (self.run_row.id,))]
        async with asyncio.TaskGroup() as playing:
            for tree in owed:
                await self._in_flight.acquire()
                if self.gate.halted is not None:
                    self._in_flight.release()
                    return
                playing.create_task(self._play(tree))

    def _set_trees(self, limits: LimitsConfig) -> None:
        fixed = limits.trees_in_flight
        if fixed != "auto":
            self._trees = None
            self._in_flight.set_limit(fixed)
            return
        begun = max(self._in_flight.held, FIRST_TREES)
        self._trees = TreesInFlight(len(self.cast.config.responders), begun, answered=self.gate.used.calls)
        self._in_flight.set_limit(begun)

    async def _let_trees_in(self) -> None:
        """Let further trees begin while models have nothing to do."""
        if self._trees is None or not self._in_flight.waiting or self._levels.waiting:
            return
        if self.gate.paused is not None or self.gate.halted is not None:
            return
        permits = [seat.permits for seat in self._calls.seats.values()]
        rooms = [Room(each.limit, each.held, each.waiting) for each in permits]
        before, self._trees = self._trees.trees, self._trees.seen(rooms, self.gate.used.calls)
        if self._trees.trees != before:
            self._in_flight.set_limit(self._trees.trees)
            await self._writer.commit(
                keep_event(self.run_row.id, "trees.let_in", {"was": before, "in_flight": self._trees.trees})
            )

    async def _play(self, tree_id: str) -> None:
        try:
            row = self._store.tree_row(tree_id)
            revision = row.revision
            if row.nodes == 0 and revision < len(self._revisions) - 1:
                revision = len(self._revisions) - 1
                await self._writer.commit(pin_revision(tree_id, revision))
            tree = self._store.tree(tree_id)
            with contextlib.suppress(Halted):
                await play_tree(self._scene(revision), tree, self._person(tree_id))
        finally:
            self._in_flight.release()

    async def _reopen_failed(self) -> None:
        """Let failed trees go on, and ask again for replies and judgements that turns which went on are without."""
        self._stage.silences = silences(self._store, self.run_row.id)
        for row in self._store.trees(self.run_row.id):
            if row.state == "failed":
                await self._writer.commit(reopen_tree(row.id))
        with contextlib.suppress(Halted):
            await self._mend_replies()
            await self._mend_judgements()

    async def _mend_replies(self) -> None:
        sql = (
            "SELECT DISTINCT tree_id FROM failures WHERE run_id = ? AND resolved_at IS NULL AND role LIKE 'responder.%'"
        )
        await self._each(_if_it_can_be(mend), [row[0] for row in self._store.rows(sql, (self.run_row.id,))])

    async def _mend_judgements(self) -> None:
        owed = unjudged(self._store, self.run_row.id)
        await self._let_judges_join_again(set().union(*owed.values()))

        async def judged(scene: Scene, tree: ConversationTree, person: Person) -> int:
            wanted = [name for name in scene.judging() if scene.judges[name].id in owed[tree.id]]
            # Panels come last: they count what their members say now.
            wanted.sort(key=lambda name: scene.judges[name].kind == "panel")
            return sum([await judge_again(scene, tree, person, name) for name in wanted])

        await self._each(_if_it_can_be(judged), list(owed))

    async def _let_judges_join_again(self, owed: Collection[str]) -> None:
        """Take in judges, of these ids, that joined the run by a command when another engine was at work.

        One that cannot be is left out, with the reason as an event: the run goes on without it.
        """
        here = {spec.id for spec in self._judges.values()}
        for name, args in joined_judges(self._store, self.run_row.id, set(owed) - here).items():
            try:
                await self._add_judge(name, args["config"], args.get("models", {}))
            except EspalierError as error:
                why = {"judge": name, "why": str(error)}
                await self._writer.commit(keep_event(self.run_row.id, "judge.left_out", why))

    async def _each(self, work: TreeWork, tree_ids: Sequence[str]) -> int:
        """Do something to stored trees, as many at a time as levels are played; returns what all of it came to.

        What was done is kept whatever happens to others. Raises the first of what went wrong; that calls were halted
        comes after what they may have been halted by.
        """

        async def one(tree_id: str) -> int:
            async with self._levels, self._operating[tree_id]:
                return await work(self._working_scene(tree_id), self._store.tree(tree_id), self._person(tree_id))

        done = await asyncio.gather(*(one(tree_id) for tree_id in tree_ids), return_exceptions=True)
        wrong = sorted((each for each in done if isinstance(each, BaseException)), key=_is_halted)
        if wrong:
            raise wrong[0]
        return sum(each for each in done if isinstance(each, int))

    def _working_scene(self, tree_id: str) -> Scene:
        """What an operation on a stored tree is played with: a pause before the next turn does not hold it up."""
        return replace(self._scene(self._store.tree_row(tree_id).revision), hold=self.gate.enter)

    def _scene(self, revision: int) -> Scene:
        config = self.cast.config
        return Scene(
            run_id=self.run_row.id,
            run_seed=self.run_row.seed,
            turns=config.turns,
            roles=self.cast.roles,
            prompts=self._revisions[revision],
            judges=self._judges,
            deciding_judge=config.deciding_judge,
            branching=config.branching,
            sees_persona=config.inducer.sees_persona,
            bus=self._bus,
            writer=self._writer,
            levels=self._levels,
            hold=self.gate.hold,
        )

    def _person(self, tree_id: str) -> Person:
        person = person_in(self._store, self._store.tree_row(tree_id))
        if person is None:
            raise SetupError(f"tree {tree_id[:8]} has no persona: nobody can speak in it")
        return person

    # Heartbeat and commands

    async def _watch(self) -> None:
        """Renew the lock and take commands, until cancelled."""
        beaten = 0.0
        while True:
            try:
                if time.monotonic() - beaten >= HEARTBEAT_S:
                    await self._writer.commit(heartbeat(self._lock))
                    beaten = time.monotonic()
                await self._take_commands()
                await self._let_trees_in()
            except StoreError as error:
                self.gate.broke(error)
                return
            await asyncio.sleep(POLL_S)

    async def _measure(self) -> None:
        """Write what the models are doing, until cancelled."""
        try:
            await self._measuring.follow()
        except StoreError as error:
            self.gate.broke(error)

    async def _take_commands(self) -> None:
        async with self._taking:
            for command in commands(self._store, self.run_row.id):
                await self._writer.commit(take(command.id))
                handling = asyncio.create_task(self._handle(command))
                self._handling.add(handling)
                handling.add_done_callback(self._handling.discard)

    async def _finish_commands(self) -> None:
        """Answer everything that was asked until now."""
        await self._take_commands()
        while self._handling:
            await asyncio.wait(self._handling)

    async def _handle(self, command: Command) -> None:
        handler = self._handlers().get(command.verb)
        try:
            if handler is None:
                raise SetupError(f"this engine knows no command {command.verb!r}")
            result = await handler(command.args, command.asked_by)
        except (EspalierError, TurnFailed, Halted) as error:
            writes = answer_command(command.id, {"error": str(error)}, refused=True)
        except (KeyError, TypeError, ValueError) as error:
            what = f"{command.verb} cannot be done with {command.args}: {type(error).__name__}: {error}"
            writes = answer_command(command.id, {"error": what}, refused=True)
        except Exception as error:  # noqa: BLE001 - whoever asked waits for an answer, whatever went wrong
            what = f"{command.verb} failed: {type(error).__name__}: {error}"
            writes = answer_command(command.id, {"error": what}, refused=True)
        else:
            writes = answer_command(command.id, result)
        event = {"verb": command.verb, "args": command.args, "asked_by": command.asked_by}
        await self._writer.commit([*writes, *keep_event(self.run_row.id, "command", event)])

    def _handlers(self) -> Mapping[str, Callable[[dict[str, Any], str], Awaitable[dict[str, Any]]]]:
        return {
            "pause": self._pause,
            "resume": self._resume,
            "stop": self._stop,
            "permits": self._permits,
            "limits": self._limits,
            "prompt": self._prompt,
            "branch": self._branch,
            "judge": self._judge,
            "test": self._test,
        }

    async def _pause(self, args: dict[str, Any], asked_by: str) -> dict[str, Any]:
        self.gate.pause(hard=bool(args.get("hard")))
        await self._writer.commit(set_run_state(self.run_row.id, "paused", f"paused by {asked_by}"))
        return {"paused": self.gate.paused}

    async def _resume(self, args: dict[str, Any], asked_by: str) -> dict[str, Any]:
        self.gate.resume()
        await self._writer.commit(set_run_state(self.run_row.id, "running"))
        return {"paused": None}

    async def _stop(self, args: dict[str, Any], asked_by: str) -> dict[str, Any]:
        self.stop(f"stopped by {asked_by}")
        return {"stopping": True}

    async def _permits(self, args: dict[str, Any], asked_by: str) -> dict[str, Any]:
        seat = self._calls.seats.get(str(args["model"]))
        if seat is None:
            raise SetupError(f"no model {args['model']!r}; there are {', '.join(self._calls.seats)}")
        entry = self.cast.config.models[str(args["model"])]
        auto = args["limit"] == "auto"
        seat.permits.set_limit(entry.adaptive_limit() if auto else max(1, int(args["limit"])))
        operation = self._store.run(self.run_row.id).operation
        changed = {**operation["models"][str(args["model"])], "permits": "auto" if auto else max(1, int(args["limit"]))}
        models = {**operation["models"], str(args["model"]): changed}
        await self._writer.commit(set_operation_fields(self.run_row.id, {**operation, "models": models}))
        return {"model": args["model"], "limit": args["limit"] if auto else seat.permits.limit}

    async def _limits(self, args: dict[str, Any], asked_by: str) -> dict[str, Any]:
        limits = LimitsConfig.model_validate({**self.gate.limits.model_dump(), **args})
        self.gate.limits = limits
        if "trees_in_flight" in args:
            self._set_trees(limits)
        operation = {**self._store.run(self.run_row.id).operation, "limits": limits.model_dump()}
        await self._writer.commit(set_operation_fields(self.run_row.id, operation))
        return limits.model_dump()

    async def _prompt(self, args: dict[str, Any], asked_by: str) -> dict[str, Any]:
        """Another version of a role's prompt, for the trees that have not begun yet."""
        role, prompt_id = str(args["role"]), str(args["prompt"])
        prompt = Prompt(*self._store.prompt(prompt_id))
        if role not in self._revisions[-1]:
            raise SetupError(f"no role {role!r} in this run; there are {', '.join(self._revisions[-1])}")
        if prompt.kind != self._stage.prompts[self._revisions[-1][role]].kind:
            raise SetupError(f"{prompt_id[:8]} is a {prompt.kind} prompt and does not fit {role}")
        if role.startswith("judge."):
            raise SetupError("a judge is its prompt: judge the run again under another name instead")
        revision = {**self._revisions[-1], role: prompt_id}
        await self._writer.commit(keep_revision(self.run_row.id, len(self._revisions), revision, asked_by))
        self._stage.prompts[prompt_id] = prompt
        self._revisions.append(revision)
        return {"revision": len(self._revisions) - 1}

    async def _branch(self, args: dict[str, Any], asked_by: str) -> dict[str, Any]:
        self._refuse_while_paused_hard()
        tree_id = self._store.tree_of(str(args["node"]))
        async with self._operating[tree_id]:
            tree = self._store.tree(tree_id)
            node = tree[str(args["node"])]
            scene = self._working_scene(tree_id)
            operation = await record(scene, self._store, node, str(args["kind"]), args, asked_by)
            nodes = await operate(scene, tree, self._person(tree_id), node, operation)
            return {"operation": operation.id, "tree": tree_id, "nodes": nodes}

    async def _judge(self, args: dict[str, Any], asked_by: str) -> dict[str, Any]:
        """Another judge, or one of the run's own again, over the stored trees."""
        name = str(args["name"])
        self._refuse_while_paused_hard()
        if "config" in args:
            await self._add_judge(name, args["config"], args.get("models", {}))
        if name not in self._judges:
            raise SetupError(f"no judge {name!r} in this run; there are {', '.join(self._judges)}")
        judging = partial(judge_again, name=name, repeat_existing=bool(args.get("again")))
        judged = await self._each(judging, [row.id for row in self._store.trees(self.run_row.id)])
        found: dict[str, Any] = {"judge": self._judges[name].id, "turns": judged}
        if self._judges[name].kind == "lookahead":
            found["looked_ahead"] = _comparable_turns(self._store, self.run_row.id, self._judges[name].id)
        return found

    def _refuse_while_paused_hard(self) -> None:
        if self.gate.paused == "hard":
            raise SetupError(
                "the run is paused before its next call, so nothing can be asked",
                hint=f"Go on first: espalier resume {self.run_row.id[:8]}",
            )

    async def _add_judge(self, name: str, config: dict[str, Any], models: dict[str, Any]) -> None:
        """Make a judge that the run was not configured with.

        `models` are entries that come with it: what the run has under the same name must be the same, and what it lacks
        is opened.
        """
        played = self.cast.config.with_models_named()
        where, judges = f"judge {name!r}", {**played["judges"], name: config}
        widened = make_config({**played, "models": {**models, **played["models"]}, "judges": judges}, where)
        file = make_config({**played, "models": {**played["models"], **models}, "judges": judges}, where)
        _same_entries(widened, file, models)
        prompts = dict(self.cast.prompts)
        prompts.update(load_new_prompt(widened, name, self.run_row))
        judge = widened.judges[name]
        asked = set(widened.models_of(judge)) if asks_a_model(judge) else set()
        opened = await open_named(widened, asked - set(self.cast.models), self._adapters)
        try:
            cast = make_cast(widened, {**self.cast.models, **opened}, prompts)
            spec = cast.judges[name]
            if name in self._judges and self._judges[name].id != spec.id:
                raise SetupError(
                    f"the run has another judge {name!r}", hint="Give this one another name: judgements go by it."
                )
            await self._writer.commit(keep_cast(cast))
        except BaseException:
            await close_models(opened)
            raise
        self._seat(widened, opened)
        self._stage.prompts.update({prompt.id: prompt for prompt in prompts.values()})
        self._judges = {**self._judges, name: spec}
        if spec.kind not in DERIVED_JUDGES:
            self._bus.add(f"judge.{name}", JudgeAgent(self._stage, spec))

    def _seat(self, config: RunConfig, opened: Mapping[str, Model]) -> None:
        """Take models in that joined after the beginning: they are asked and closed like all.

        They are no part of the run, so its live figures do not tell of them.
        """
        models = {**self.cast.config.models, **{name: config.models[name] for name in opened}}
        widened = self.cast.config.model_copy(update={"models": models})
        self.cast = replace(self.cast, config=widened, models={**self.cast.models, **opened})
        self._calls.seats.update({name: seat_of(model, config.models[name]) for name, model in opened.items()})

    async def _test(self, args: dict[str, Any], asked_by: str) -> dict[str, Any]:
        from simulation.model_test import try_model

        name = str(args["model"])
        if name not in self.cast.models:
            raise SetupError(f"no model {name!r}; there are {', '.join(self.cast.models)}")
        return await try_model(self.cast.models[name])

    # Beginning and end

    def _listen(self, sink: Any) -> None:
        self._calls.deltas = sink

    async def _note(self, state: RunState, kind: str, data: dict[str, Any], reason: str | None = None) -> None:
        writes = [*set_run_state(self.run_row.id, state, reason), *keep_event(self.run_row.id, kind, data)]
        await self._writer.commit(writes)

    async def _leave(self) -> RunState:
        """Let what is in flight end, say how the run stands, give the lock back and close everything."""
        for handling in self._handling:
            handling.cancel()
        await asyncio.gather(*self._handling, return_exceptions=True)
        await self._bus.close()
        await self._deltas.close()
        try:
            await self._measuring.note(last=True)
        except StoreError as error:
            self.gate.broke(error)
        state, reason = how_it_stands(self._store, self.run_row.id, self.gate.halted)
        try:
            await self._writer.commit(settle_failures(self.run_row.id))
            asked = self.gate.used.calls - self._asked_before
            if state == "finished" and asked:
                await self._writer.commit(merge_words())
            await self._note(state, "engine.left", {"state": state, "reason": reason, "asked": asked}, reason)
            await self._writer.commit(release(self._lock))
        except StoreError as error:
            self.gate.broke(error)
        finally:
            await self._writer.close()
        return state


async def open_engine(
    path: Path,
    run_id: str,
    *,
    config: RunConfig | None = None,
    models: Mapping[str, Model] | None = None,
    adapters: Adapters | None = None,
) -> Engine:
    """Become a run's engine: take its lock, load its models, check that they are the ones it is frozen with.

    `config` brings other operational fields; `models` are ones that are open already; `adapters` finds those that
    models are configured with. Raises Locked or SetupError.
    """
    store = Store.open(path)
    try:
        run = store.run(run_id)
        lock = take_lock(store, run_id, "run", str(socket_path(path, run_id)))
        try:
            chosen = config or config_of(run)
            opened = dict(models) if models is not None else await open_models(chosen, adapters)
            try:
                cast = make_cast(chosen, opened, prompts_of(store, run, 0))
                check_identity(run, cast)
                if config is not None:
                    _change_operation(store, run, cast)
                return Engine(store, store.run(run_id), cast, lock, adapters)
            except BaseException:
                await close_models(opened)
                raise
        except BaseException:
            store.apply(release(lock))
            raise
    except BaseException:
        store.close()
        raise


def _change_operation(store: Store, run: RunRow, cast: Cast) -> None:
    """Take over the operational fields of another configuration; what changed is an event.

    Where the people came from stays as it is: they were drawn when the run began.
    """
    kept = {"personas": run.operation["personas"]} if "personas" in run.operation else {}
    operation = {**cast.operation(_folder(run)), **kept}
    if changed := differences(run.operation, operation):
        event = keep_event(run.id, "operation.changed", {"keys": changed})
        store.apply([*set_operation_fields(run.id, operation), *event])


def _same_entries(run: RunConfig, file: RunConfig, models: Mapping[str, Any]) -> None:
    """Check that a model means the same in a run and in the file of a judge that joins it. Raises SetupError."""
    for name in models:
        if name in run.models and run.models[name].loaded() != file.models[name].loaded():
            raise SetupError(
                f"the judge's model {name!r} is another one than the run's {name!r}",
                hint="Give it a name of its own in the file, in [models.NAME] and in the judge.",
            )


async def close_engine(engine: Engine) -> None:
    """Close the models and the store behind an engine that has run."""
    await close_models(engine.cast.models)
    engine._store.close()


def load_new_prompt(config: RunConfig, judge: str, run: RunRow) -> dict[str, Prompt]:
    """The prompt of a judge that joins a run later."""
    from simulation.cast import load_prompts

    loaded = load_prompts(config, _folder(run))
    return {role: prompt for role, prompt in loaded.items() if role == f"judge.{judge}"}


def how_it_stands(store: Store, run_id: str, halted: str | None) -> tuple[RunState, str | None]:
    """A run's state and the reason, from its trees."""
    counts = dict(store.rows("SELECT state, count(*) FROM trees WHERE run_id = ? GROUP BY state", (run_id,)))
    growing, failed = counts.get("growing", 0), counts.get("failed", 0)
    if growing:
        return "stopped", halted or f"{growing} trees are not finished"
    if failed and not counts.get("done"):
        return "failed", f"all {failed} trees failed"
    return "finished", f"{failed} trees failed" if failed else None


def spent_so_far(store: Store, run_id: str, models: Mapping[str, Model], prices: Mapping[str, Price]) -> Spent:
    """What a run's calls have used up, from the call log."""
    sql = (
        "SELECT model_id, count(*), total(tokens_in), total(tokens_out) FROM calls "
        "WHERE id IN (SELECT call_id FROM uses WHERE run_id = ?) GROUP BY model_id"
    )
    return spent_on(store.rows(sql, (run_id,)), models, prices)


def silences(store: Store, run_id: str) -> Silences:
    """Who was silent to the end, where, and how often, up to when failures were last asked again.

    What was silent since counts with the next asking: an engine that goes on after a crash does what was begun. An
    asking is told by its last call: where a turn that was cut short is played again, the same silence is kept again.
    """
    sql = """
    SELECT node_id, role, purpose, count(DISTINCT call_id) FROM failures
    WHERE run_id = ? AND kind = ? AND attempts = '[]' AND at <= (
        SELECT max(at) FROM events WHERE job_id = ? AND kind = 'engine.started' AND data ->> 'retry_failed'
    ) GROUP BY node_id, role, purpose
    """
    return {(node, role, purpose): n for node, role, purpose, n in store.rows(sql, (run_id, SILENT, run_id))}


def _if_it_can_be(work: TreeWork) -> TreeWork:
    """The same, but for a tree where it fails, which is left as it is: the failure is kept, and the run goes on."""

    async def tried(scene: Scene, tree: ConversationTree, person: Person) -> int:
        try:
            return await work(scene, tree, person)
        except TurnFailed:
            return 0

    return tried


def _is_halted(error: BaseException) -> bool:
    return isinstance(error, Halted)


def unjudged(store: Store, run_id: str) -> dict[str, set[str]]:
    """Judges, by id, that a failed call kept from judging a turn and that have not judged it since; by tree."""
    sql = """
    SELECT DISTINCT n.tree_id, j.judge_id FROM judgements j JOIN nodes n ON n.id = j.node_id
    JOIN trees t ON t.id = n.tree_id
    WHERE t.run_id = ? AND NOT j.complete AND j.cause IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM judgements later
        WHERE later.node_id = j.node_id AND later.judge_id = j.judge_id AND later.complete AND later.repeat > j.repeat
    )
    """
    found: dict[str, set[str]] = {}
    for tree_id, judge_id in store.rows(sql, (run_id,)):
        found.setdefault(tree_id, set()).add(judge_id)
    return found


def joined_judges(store: Store, run_id: str, ids: Collection[str]) -> dict[str, dict[str, Any]]:
    """Judges of these ids that joined a run by a command, by name: the words of the last such command."""
    sql = "SELECT name FROM judges WHERE id IN (SELECT value FROM json_each(?))"
    names = {row[0] for row in store.rows(sql, (canonical_json(sorted(ids)),))}
    asked = [each.args for each in commands(store, run_id, state="done") if each.verb == "judge"]
    return {args["name"]: args for args in asked if args["name"] in names and "config" in args}


def _comparable_turns(store: Store, run_id: str, judge_id: str) -> int:
    """Turns of a run that a judge could say something of."""
    sql = """
    SELECT count(DISTINCT j.node_id) FROM judgements j JOIN nodes n ON n.id = j.node_id JOIN trees t ON t.id = n.tree_id
    WHERE t.run_id = ? AND j.judge_id = ? AND j.complete
    """
    return int(store.rows(sql, (run_id, judge_id))[0][0])


def _folder(run: RunRow) -> Path | None:
    folder = run.operation.get("folder")
    return Path(folder) if folder else None


def _all_prompts(store: Store, revisions: list[dict[str, str]]) -> dict[str, Prompt]:
    ids = {prompt_id for revision in revisions for prompt_id in revision.values()}
    return {prompt_id: Prompt(*store.prompt(prompt_id)) for prompt_id in ids}
