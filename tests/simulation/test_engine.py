"""The engine: one a run, steered by rows, and nothing lost however it ends."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agents.models.protocol import ChatAnswer, ChatRequest, ModelFailure, OnDelta
from agents.models.scripted import ScriptedConfig, ScriptedModel
from agents.prompts import Prompt
from simulation.engine import Engine, close_engine, open_engine
from simulation.inflight import FIRST_TREES
from tests.support.play import begun, configuration, engine_for, play, trees_of
from trees.errors import Locked, SetupError, StoreFull
from trees.jobs import ask, command, events, lock_of, release, take
from trees.store import Store, TreeRow
from trees.verify import verify
from trees.writes import keep_prompt


class Gated(ScriptedModel):
    """A scripted model whose chat calls wait until they are let through."""

    def __init__(self) -> None:
        super().__init__("scripted", ScriptedConfig(kind="scripted"))
        self.open_door = asyncio.Event()
        self.waiting = 0

    async def chat(self, request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
        self.waiting += 1
        await self.open_door.wait()
        self.waiting -= 1
        return await super().chat(request, on_delta)


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a named condition."""
    try:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110 - the condition may lie in the store, where nobody sets an event
                await asyncio.sleep(0)
    except TimeoutError:
        pytest.fail(f"{what} did not happen")


@asynccontextmanager
async def running(engine: Engine) -> AsyncIterator[asyncio.Task[str]]:
    """An engine at work; stopped and closed at the end."""
    task = asyncio.create_task(engine.run())
    try:
        yield task
    finally:
        engine.stop("the test is over")
        await task
        await close_engine(engine)


async def answered(path: Path, number: int) -> dict[str, Any]:
    def done() -> bool:
        with Store.read(path) as store:
            return command(store, number).state in ("done", "refused")

    await until(done, f"an answer to command {number}")
    with Store.read(path) as store:
        result = command(store, number).result
    assert result is not None
    return result


def tell(path: Path, run: str, verb: str, **args: object) -> int:
    with Store.open(path) as store:
        return ask(store, run, verb, args)


async def test_a_second_engine_is_refused_with_the_pid_of_the_first(store_path: Path) -> None:
    run = await begun(store_path, configuration())
    holder = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import sys; from pathlib import Path; from trees.store import Store; from trees.jobs import take_lock\n"
        "take_lock(Store.open(Path(sys.argv[1])), sys.argv[2], 'run'); print('held', flush=True); sys.stdin.read()",
        str(store_path),
        run.id,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert holder.stdout is not None
    await holder.stdout.readline()
    with pytest.raises(Locked, match=rf"pid {holder.pid} "):
        await open_engine(store_path, run.id)
    holder.kill()
    await holder.wait()
    engine = await open_engine(store_path, run.id)
    assert await engine.run() == "finished"
    await close_engine(engine)


async def test_the_lock_is_given_back_at_the_end(store_path: Path) -> None:
    run = await play(store_path, configuration())
    with Store.read(store_path) as store:
        assert lock_of(store, run) is None
        assert store.run(run).state == "finished"


async def test_hard_pause_starts_no_call_and_resume_goes_on(store_path: Path) -> None:
    model = Gated()
    engine = await engine_for(store_path, configuration(), models={"scripted": model})
    run = engine.run_row.id
    async with running(engine) as task:
        await until(lambda: model.waiting == 2, "both users asked")
        await answered(store_path, tell(store_path, run, "pause", hard=True))
        asked = engine.gate.used.calls
        model.open_door.set()
        await until(lambda: engine.gate.used.calls == asked + 2, "the calls in flight answered")
        with Store.read(store_path) as store:
            assert store.run(run).state == "paused"
        assert not task.done()
        await answered(store_path, tell(store_path, run, "resume"))
        assert await task == "finished"


async def test_soft_pause_finishes_the_level_and_begins_no_other(store_path: Path) -> None:
    model = Gated()
    engine = await engine_for(store_path, configuration(), models={"scripted": model})
    run = engine.run_row.id
    async with running(engine) as task:
        await until(lambda: model.waiting == 2, "both users asked")
        await answered(store_path, tell(store_path, run, "pause"))
        model.open_door.set()

        def all_at_turn_one() -> bool:
            with Store.read(store_path) as store:
                return {row.turns for row in store.trees(run)} == {1}

        await until(all_at_turn_one, "the first level committed")
        assert engine.gate.paused == "soft"
        await answered(store_path, tell(store_path, run, "resume"))
        assert await task == "finished"


async def test_stop_keeps_what_is_done_and_says_who(store_path: Path) -> None:
    model = Gated()
    engine = await engine_for(store_path, configuration(), models={"scripted": model})
    run = engine.run_row.id
    async with running(engine) as task:
        await until(lambda: model.waiting == 2, "both users asked")
        await answered(store_path, tell(store_path, run, "stop"))
        model.open_door.set()
        assert await task == "stopped"
    with Store.read(store_path) as store:
        assert (store.run(run).reason or "").startswith("stopped by pid")
        assert store.rows("SELECT count(*) FROM calls") == [(2,)]
        assert store.rows("SELECT count(*) FROM failures") == [(0,)]
    await play(store_path, configuration(), models={"scripted": model})
    reference = store_path.with_name("unbroken.db")
    await play(reference, configuration())
    assert documents(store_path, run) == documents(reference, run)


async def test_stop_does_not_wait_for_a_server_that_asked_to_be_left_alone(store_path: Path) -> None:
    class Limited(Gated):
        async def chat(self, request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
            self.waiting += 1
            raise ModelFailure("rate_limited", "slow down", retry_after_s=250.0)

    model = Limited()
    engine = await engine_for(store_path, configuration(), models={"scripted": model})
    run = engine.run_row.id
    async with running(engine) as task:
        await until(lambda: model.waiting == 2, "both users asked")
        await answered(store_path, tell(store_path, run, "stop"))
        async with asyncio.timeout(60):
            assert await task == "stopped"
    with Store.read(store_path) as store:
        assert {row.state for row in store.trees(run)} == {"growing"}
        assert store.rows("SELECT count(*) FROM failures") == [(0,)]


async def test_permits_and_limits_change_while_it_runs(store_path: Path) -> None:
    model = Gated()
    engine = await engine_for(store_path, configuration(), models={"scripted": model})
    run = engine.run_row.id
    async with running(engine):
        assert await answered(store_path, tell(store_path, run, "permits", model="scripted", limit=1)) == {
            "model": "scripted",
            "limit": 1,
        }
        assert engine._calls.seats["scripted"].permits.adaptive is None
        again = await answered(store_path, tell(store_path, run, "permits", model="scripted", limit="auto"))
        assert again == {"model": "scripted", "limit": "auto"}
        assert engine._calls.seats["scripted"].permits.adaptive is not None
        trees = await answered(store_path, tell(store_path, run, "limits", trees_in_flight=16))
        assert (trees["trees_in_flight"], engine._in_flight.limit) == (16, 16)
        trees = await answered(store_path, tell(store_path, run, "limits", trees_in_flight="auto"))
        assert (trees["trees_in_flight"], engine._in_flight.limit) == ("auto", FIRST_TREES)
        refused = await answered(store_path, tell(store_path, run, "permits", model="nobody", limit=1))
        assert "no model 'nobody'" in refused["error"]
        limits = await answered(store_path, tell(store_path, run, "limits", calls=12))
        assert limits["calls"] == 12
        unknown = await answered(store_path, tell(store_path, run, "dance"))
        assert "knows no command 'dance'" in unknown["error"]
        model.open_door.set()
    with Store.read(store_path) as store:
        assert store.run(run).operation["limits"]["calls"] == 12
        verbs = [json.loads(row[0])["verb"] for row in store.rows("SELECT data FROM events WHERE kind = 'command'")]
        assert verbs == ["permits", "permits", "limits", "limits", "permits", "limits", "dance"]


async def test_what_was_set_on_the_way_holds_after_a_resume_and_every_change_is_an_event(store_path: Path) -> None:
    engine = await engine_for(store_path, configuration(limits={"calls": 4}))
    run = engine.run_row.id
    number = tell(store_path, run, "permits", model="scripted", limit=3)
    assert await engine.run() == "stopped"
    await close_engine(engine)
    engine = await open_engine(store_path, run)
    assert engine._calls.seats["scripted"].permits.limit == 3
    await close_engine(engine)
    with Store.open(store_path) as store:
        assert command(store, number).state == "done"
        lock = lock_of(store, run)
        assert lock is not None  # opened and not run: it is this process's still
        store.apply(release(lock))
    changed = configuration(limits={"calls": 0}, personas={"count": 7})
    engine = await open_engine(store_path, run, config=changed)
    assert await engine.run() == "finished"
    await close_engine(engine)
    with Store.read(store_path) as store:
        (told,) = [event.data["keys"] for event in events(store, run) if event.kind == "operation.changed"]
        assert "limits.calls" in told
        assert store.run(run).operation["personas"]["count"] == 2


async def test_what_a_dead_engine_left_undone_is_refused_and_steering_meant_for_it_does_not_hit_the_next(
    store_path: Path,
) -> None:
    run = (await begun(store_path, configuration())).id
    cut_off, late = tell(store_path, run, "judge", name="likelihood"), tell(store_path, run, "stop")
    with Store.open(store_path) as store:
        store.apply(take(cut_off))
    assert await play(store_path, configuration()) == run
    with Store.read(store_path) as store:
        assert store.run(run).state == "finished"
        told = [command(store, number) for number in (cut_off, late)]
    assert [each.state for each in told] == ["refused", "refused"]
    assert "ask again" in (told[0].result or {})["error"]


class Counting(ScriptedModel):
    """A scripted model that says how many calls were with it at once."""

    def __init__(self) -> None:
        super().__init__("scripted", ScriptedConfig(kind="scripted", latency_s=0.01))
        self.at_once = self.most = 0

    async def chat(self, request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            return await super().chat(request, on_delta)
        finally:
            self.at_once -= 1


async def test_a_paused_run_can_be_branched_and_one_that_is_paused_hard_says_why_not(store_path: Path) -> None:
    model = Counting()
    engine = await engine_for(store_path, configuration(turns=200), models={"scripted": model})
    run = engine.run_row.id
    async with running(engine):
        await until(lambda: engine.gate.used.calls > 0, "it plays")
        await answered(store_path, tell(store_path, run, "pause"))
        await until(lambda: any(row.turns for row in rows_of(store_path, run)), "a turn is stored")
        with Store.read(store_path) as store:
            tree = store.tree(next(row.id for row in store.trees(run) if row.turns))
        reply = next(node for node in tree if node.speaker == "assistant")
        grown = await answered(store_path, tell(store_path, run, "branch", node=reply.id, kind="reroll", count=1))
        assert len(grown["nodes"]) == 1
        await answered(store_path, tell(store_path, run, "pause", hard=True))
        refused = await answered(store_path, tell(store_path, run, "branch", node=reply.id, kind="reroll", count=1))
        assert "paused before its next call" in refused["error"]
        assert (await answered(store_path, tell(store_path, run, "resume"))) == {"paused": None}


def rows_of(path: Path, run: str) -> Sequence[TreeRow]:
    with Store.read(path) as store:
        return store.trees(run)


async def test_another_judge_judges_trees_side_by_side(store_path: Path) -> None:
    config = configuration(turns=1, personas={"count": 6})
    run = await play(store_path, config)
    model = Counting()
    engine = await open_engine(store_path, run, models={"scripted": model})
    judge = {"kind": "choice", "model": "scripted"}
    number = tell(store_path, run, "judge", name="second", config=judge)
    await engine.run(play=False)
    await close_engine(engine)
    with Store.read(store_path) as store:
        assert (command(store, number).result or {})["turns"] == 6
        assert verify(store).findings == ()
    assert model.most > 3  # more than the three replies of one turn


async def test_a_judge_brings_its_own_model_and_one_of_the_same_name_must_be_the_same(store_path: Path) -> None:
    run = await play(store_path, configuration(turns=1))
    engine = await open_engine(store_path, run)
    larger = {"kind": "scripted", "variant": "a larger one"}
    asked = {"kind": "rating", "model": "large"}
    good = tell(store_path, run, "judge", name="strict", config=asked, models={"large": larger})
    mixed = tell(
        store_path, run, "judge", name="mixed", config={**asked, "model": "scripted"}, models={"scripted": larger}
    )
    wrong = tell(store_path, run, "judge", name="odd", config={"kind": "rating", "modle": "large"})
    await engine.run(play=False)
    await close_engine(engine)
    with Store.read(store_path) as store:
        done = command(store, good)
        assert done.state == "done", done.result
        (spec,) = [json.loads(row[0]) for row in store.rows("SELECT spec FROM judges WHERE name = 'strict'")]
        identity = store.rows("SELECT identity FROM models WHERE id = ?", (spec["model"],))[0][0]
        assert "a larger one" in identity
        assert "another one than the run's 'scripted'" in (command(store, mixed).result or {})["error"]
        assert "modle" in (command(store, wrong).result or {})["error"]
        assert "pydantic.dev" not in (command(store, wrong).result or {})["error"]
        assert verify(store).findings == ()


async def test_a_used_up_budget_stops_and_a_larger_one_goes_on(store_path: Path) -> None:
    small = configuration(limits={"calls": 9, "trees_in_flight": 1})
    run = await play(store_path, small)
    with Store.read(store_path) as store:
        assert store.run(run).state == "stopped"
        assert store.run(run).reason == "the budget of 9 calls is used up"
        assert store.rows("SELECT count(*) FROM calls")[0][0] >= 9
    engine = await open_engine(store_path, run, config=configuration(limits={"calls": 0}))
    assert await engine.run() == "finished"
    await close_engine(engine)


async def test_resuming_under_another_identity_is_refused_naming_the_keys(store_path: Path) -> None:
    run = await begun(store_path, configuration())
    with pytest.raises(SetupError, match=r"would change play.turns, play.user.rerolls"):
        await open_engine(store_path, run.id, config=configuration(turns=5, user={"rerolls": 0}))
    other = configuration(models={"scripted": {"kind": "scripted", "variant": "another"}})
    with pytest.raises(SetupError, match=r"would change models.scripted"):
        await open_engine(store_path, run.id, config=other)
    with Store.read(store_path) as store:
        assert lock_of(store, run.id) is None


async def test_a_prompt_changed_for_a_live_run_is_a_revision_for_the_trees_not_begun(store_path: Path) -> None:
    model = Gated()
    config = configuration(limits={"trees_in_flight": 1}, personas={"count": 3})
    engine = await engine_for(store_path, config, models={"scripted": model})
    run = engine.run_row.id
    prompt = Prompt("responder", "[head]\nAnswer in capitals.\n")
    with Store.open(store_path) as store:
        store.apply(keep_prompt(prompt.id, prompt.kind, prompt.text))
    async with running(engine) as task:
        await until(lambda: model.waiting == 1, "the first user asked")
        args = {"role": "responder.plain", "prompt": prompt.id}
        assert await answered(store_path, tell(store_path, run, "prompt", **args)) == {"revision": 1}
        wrong = await answered(store_path, tell(store_path, run, "prompt", role="user", prompt=prompt.id))
        assert "does not fit user" in wrong["error"]
        model.open_door.set()
        assert await task == "finished"
    with Store.read(store_path) as store:
        assert [row.revision for row in store.trees(run)] == [0, 1, 1]
        used = "SELECT DISTINCT t.position FROM uses u JOIN trees t ON t.id = u.tree_id WHERE u.prompt_id = ?"
        assert store.rows(used + " ORDER BY 1", (prompt.id,)) == [(1,), (2,)]
        assert verify(store).findings == ()


async def test_a_full_disk_stops_the_engine_and_keeps_everything(store_path: Path) -> None:
    config = configuration(personas={"count": 8}, limits={"trees_in_flight": 2})
    engine = await engine_for(store_path, config)
    pages = engine._writer._store.connection.execute("PRAGMA page_count").fetchone()[0]
    engine._writer._store.connection.execute(f"PRAGMA max_page_count = {pages + 40}")
    await engine.run()
    assert isinstance(engine.failure, StoreFull)
    assert "espalier resume" in str(engine.failure)
    await close_engine(engine)
    with Store.read(store_path) as store:
        kept = store.rows("SELECT count(*) FROM calls")[0][0]
        assert kept > 0
        assert verify(store).findings == ()
    run = await play(store_path, config)
    reference = store_path.with_name("unbroken.db")
    await play(reference, config)
    assert documents(store_path, run) == documents(reference, run)


async def test_two_runs_share_calls_that_carry_no_seed(store_path: Path) -> None:
    greedy = {"sampling": {"temperature": 0}}
    await play(store_path, configuration(turns=1, user=greedy))
    await play(store_path, configuration(turns=2, user=greedy))
    with Store.read(store_path) as store:
        shared = store.rows(
            "SELECT count(*) FROM (SELECT call_id FROM uses GROUP BY call_id HAVING count(DISTINCT run_id) > 1)"
        )
        assert shared[0][0] > 0
        assert verify(store).findings == ()


def test_readers_need_nothing_but_sqlite(store_path: Path) -> None:
    asyncio.run(play(store_path, configuration()))
    connection = sqlite3.connect(store_path)
    assert connection.execute("SELECT count(*) FROM tree_messages WHERE continued").fetchone()[0] == 6
    assert connection.execute("SELECT count(*) FROM paths").fetchone()[0] > 0
    assert connection.execute("SELECT chosen, rejected, margin FROM pairs").fetchone() is not None
    connection.close()


def documents(path: Path, run: str) -> list[Any]:
    """What a run's trees hold, as values."""
    return [
        (list(t), t.continued, t.ledgers, {k: sorted(v, key=lambda j: j.id) for k, v in t.judgements.items()})
        for t in trees_of(path, run)
    ]
