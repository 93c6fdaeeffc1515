"""What a resumed run goes on with: all that it owes, and nothing twice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agents.calls import Halted
from agents.models.protocol import (
    ChatAnswer,
    ChatRequest,
    Completion,
    Model,
    ModelFailure,
    OnDelta,
    ScoreAnswer,
    ScoreRequest,
)
from agents.models.scripted import ScriptedConfig, ScriptedModel
from agents.rerender import Rerender
from simulation.config import RunConfig
from simulation.engine import Engine, close_engine, open_engine, silences
from tests.support.play import configuration, engine_for, play, trees_of
from trees.errors import SetupError, StoreError
from trees.jobs import ask, command, events
from trees.store import Store
from trees.verify import verify
from tui.canonical import canonical_run


class Scoring(ScriptedModel):
    """A scripted model that cannot score while it is down, and counts the scoring calls."""

    def __init__(self) -> None:
        super().__init__("scripted", ScriptedConfig(kind="scripted", attempts=1))
        self.down = True
        self.scored = 0

    async def score(self, request: ScoreRequest) -> ScoreAnswer:
        self.scored += 1
        if self.down:
            raise ModelFailure("refused", "told to fail")
        return await super().score(request)


async def done_by_hand(
    path: Path, run: str, config: RunConfig, verb: str, opened: Mapping[str, Model] | None = None, /, **args: object
) -> dict[str, Any]:
    """Have an engine that plays nothing carry a command out; returns its answer."""
    with Store.open(path) as store:
        number = ask(store, run, verb, args)
    engine = await open_engine(path, run, config=config, models=opened)
    await engine.run(play=False)
    await close_engine(engine)
    with Store.read(path) as store:
        asked = command(store, number)
    assert asked.state == "done", asked.result
    assert asked.result is not None
    return asked.result


def canonical(path: Path, run: str) -> dict[str, Any]:
    with Store.read(path) as store:
        return canonical_run(store, store.run(run))


async def test_a_run_goes_on_from_a_reply_that_a_person_has_extended_meanwhile(store_path: Path) -> None:
    whole = configuration(turns=4, personas={"count": 1})
    stopped = configuration(turns=4, personas={"count": 1}, limits={"calls": 28})
    run = await play(store_path, stopped)
    (tree,) = trees_of(store_path, run)
    end = tree.continued_path()[-1]
    assert 1 <= end.turn < 4, "the budget is to end within the conversation"

    branch = await done_by_hand(store_path, run, whole, "branch", node=end.id, kind="extend", turns=1)
    await play(store_path, whole)

    reference = store_path.with_name("unbroken.db")
    await play(reference, whole)
    await done_by_hand(reference, run, whole, "branch", node=end.id, kind="extend", turns=1)
    assert canonical(store_path, run) == canonical(reference, run)
    (tree,) = trees_of(store_path, run)
    own = [child for child in tree.children(end.id) if child.operation_id is None]
    assert len(own) == 1
    assert [child.id for child in tree.children(end.id) if child.operation_id is not None] == branch["nodes"]
    with Store.read(store_path) as store:
        assert verify(store).findings == ()


async def test_what_a_person_extended_is_not_gone_on_with(store_path: Path) -> None:
    stopped = configuration(turns=4, personas={"count": 1}, limits={"calls": 28})
    whole = configuration(turns=4, personas={"count": 1})
    run = await play(store_path, stopped)
    (tree,) = trees_of(store_path, run)
    passed_over = next(reply for _, replies in tree.turns() for reply in replies if reply.id not in tree.continued)
    await done_by_hand(store_path, run, whole, "branch", node=passed_over.id, kind="extend", turns=1)
    await play(store_path, whole)
    (tree,) = trees_of(store_path, run)
    assert max(node.turn for node in tree.subtree(passed_over.id)) == passed_over.turn + 1
    assert [user.turn for user, _ in tree.turns() if user.operation_id is None] == [1, 2, 3, 4]


async def test_retry_failed_asks_judges_again_that_could_not_be_asked(store_path: Path) -> None:
    config = configuration(judges={"likelihood": {"kind": "likelihood"}}, judge="likelihood")
    model = Scoring()
    run = await play(store_path, config, models={"scripted": model})
    with Store.read(store_path) as store:
        assert store.run(run).state == "finished"
        assert store.rows("SELECT count(*) FROM judgements WHERE complete") == [(0,)]
        assert store.rows("SELECT count(*) FROM pairs") == [(0,)]
    model.down = False
    await play(store_path, config, models={"scripted": model}, retry_failed=True)
    with Store.read(store_path) as store:
        assert store.rows("SELECT count(*) FROM pairs")[0][0] > 0
        assert store.rows("SELECT count(*) FROM failures WHERE resolved_at IS NULL") == [(0,)]
        assert verify(store).findings == ()
    for tree in trees_of(store_path, run):
        for user, replies in tree.turns():
            last = tree.judgements[user.id][-1]
            assert (last.complete, set(last.covers)) == (True, {reply.id for reply in replies})
    asked = model.scored
    await play(store_path, config, models={"scripted": model}, retry_failed=True)
    assert model.scored == asked, "nothing is left to ask again"


async def test_retry_failed_asks_judges_again_that_joined_the_run_later(store_path: Path) -> None:
    config, model = configuration(judges={"short": {"kind": "rules", "rules": {"max_words": 9}}}), Scoring()
    opened = {"scripted": model}
    run = await play(store_path, config, models=opened)
    joining = {"name": "likelihood", "config": {"kind": "likelihood"}}
    await done_by_hand(store_path, run, config, "judge", opened, **joining)
    complete = "SELECT min(j.complete), max(j.complete) FROM judgements j JOIN judges g ON g.id = j.judge_id "
    last = f"{complete} WHERE g.name = 'likelihood' AND j.repeat = (SELECT max(repeat) FROM judgements)"
    with Store.read(store_path) as store:
        assert store.rows(last) == [(0, 0)]
    model.down = False
    await play(store_path, config, models=opened, retry_failed=True)
    with Store.read(store_path) as store:
        assert store.rows(last) == [(1, 1)]
        assert verify(store).findings == ()
    asked = model.scored
    await play(store_path, config, models=opened, retry_failed=True)
    assert model.scored == asked, "nothing is left to ask again"


async def test_a_joined_judge_that_cannot_be_had_any_more_is_left_out_with_a_word(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(*_: object) -> None:
        raise SetupError("its model is gone")

    config, model = configuration(judges={"short": {"kind": "rules", "rules": {"max_words": 9}}}), Scoring()
    opened = {"scripted": model}
    run = await play(store_path, config, models=opened)
    await done_by_hand(store_path, run, config, "judge", opened, name="likelihood", config={"kind": "likelihood"})
    monkeypatch.setattr(Engine, "_add_judge", gone)
    await play(store_path, config, models=opened, retry_failed=True)
    with Store.read(store_path) as store:
        (left,) = [each for each in events(store, run) if each.kind == "judge.left_out"]
        assert left.data == {"judge": "likelihood", "why": "its model is gone"}
        assert store.run(run).state == "finished"


async def test_a_panel_counts_a_member_that_could_be_asked_after_all_and_asks_no_other_again(store_path: Path) -> None:
    judges = {
        "likelihood": {"kind": "likelihood"},
        "letters": {"kind": "choice"},
        "words": {"kind": "rules", "rules": {"max_words": 12}},
        "vote": {"kind": "panel", "members": ["likelihood", "letters", "words"]},
    }
    config = configuration(turns=2, judges=judges, judge="vote")
    model = Scoring()
    run = await play(store_path, config, models={"scripted": model})
    model.down = False
    await play(store_path, config, models={"scripted": model}, retry_failed=True)
    with Store.read(store_path) as store:
        sql = "SELECT g.name, count(*), sum(j.complete) FROM judgements j JOIN judges g ON g.id = j.judge_id GROUP BY 1"
        assert store.rows(sql) == [("letters", 4, 4), ("likelihood", 8, 4), ("vote", 8, 4), ("words", 4, 4)]
        assert verify(store).findings == ()
        assert store.run(run).state == "finished"


async def test_a_budget_of_money_does_not_begin_anew(store_path: Path) -> None:
    models = {
        "dear": {"kind": "scripted", "variant": "dear", "input_price": 2e6, "output_price": 5e6},
        "free": {"kind": "scripted", "variant": "free"},
    }
    config = configuration(
        models=models,
        limits={"money": 3000, "trees_in_flight": 1},
        user={"model": "dear"},
        inducer={"model": "free"},
        responders={"plain": {"model": "dear"}, "warm": {"model": "free", "hint": True}},
        judges={"likelihood": {"kind": "likelihood", "model": "free"}},
        judge="likelihood",
    )
    first = await engine_for(store_path, config)
    await first.run()
    await close_engine(first)
    run, spent = first.run_row.id, first.gate.used
    assert spent.money >= 3000
    again = await open_engine(store_path, run)
    assert again.gate.used == spent
    await again.run()
    await close_engine(again)
    assert again.gate.used == spent, "nothing more is asked"
    with Store.read(store_path) as store:
        assert store.run(run).reason == "the budget of 3000 (money) is used up"


class Silent(ScriptedModel):
    """A scripted model that says nothing where a prompt holds a mark, until it is told to speak."""

    def __init__(self, mark: str) -> None:
        super().__init__("scripted", ScriptedConfig(kind="scripted"))
        self.mark: str | None = mark
        self.unanswered: list[int | None] = []
        """Seeds of what it said nothing to."""

    async def chat(self, request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
        if self.mark is not None and self.mark in "\n".join(message.content for message in request.messages):
            self.unanswered.append(request.seed)
            return ChatAnswer((Completion(" "),))
        return await super().chat(request, on_delta)


HINTED = "has shown about themselves so far"


async def test_a_responder_that_says_nothing_is_a_failure_that_is_kept_and_asked_again_anew(store_path: Path) -> None:
    model, config = Silent(HINTED), configuration(turns=2, personas={"count": 1})
    run = await play(store_path, config, models={"scripted": model})
    with Store.read(store_path) as store:
        assert store.run(run).state == "finished"
        (example, *_) = store.rows("SELECT role, kind, message FROM failures ORDER BY role")
        assert example == ("responder.brief", "bad_answer", "responder.brief said nothing, 3 times in a row")
    first = list(model.unanswered)
    await play(store_path, config, models={"scripted": model}, retry_failed=True)
    again = model.unanswered[len(first) :]
    assert len(again) == len(first)
    assert len({*first, *again}) == 2 * len(first), "every try has a seed of its own"
    model.mark = None
    await play(store_path, config, models={"scripted": model}, retry_failed=True)
    for tree in trees_of(store_path, run):
        for _, replies in tree.turns():
            assert sorted(reply.role for reply in replies) == ["responder.brief", "responder.plain", "responder.warm"]
    with Store.read(store_path) as store:
        assert store.rows("SELECT count(*) FROM failures WHERE resolved_at IS NULL") == [(0,)]
        assert verify(store, rerender=Rerender(store)).findings == ()


async def test_a_user_that_said_nothing_is_asked_again_anew(store_path: Path) -> None:
    model, config = Silent("Your next message"), configuration(turns=2, personas={"count": 1})
    run = await play(store_path, config, models={"scripted": model})
    first = list(model.unanswered)
    await play(store_path, config, models={"scripted": model}, retry_failed=True)
    assert len({*first, *model.unanswered}) == 2 * len(first)
    with Store.read(store_path) as store:
        assert [row.state for row in store.trees(run)] == ["failed"]
        assert store.rows("SELECT DISTINCT role, kind FROM failures") == [("user", "bad_answer")]
    model.mark = None
    await play(store_path, config, models={"scripted": model}, retry_failed=True)
    with Store.read(store_path) as store:
        assert [row.state for row in store.trees(run)] == ["done"]
        assert store.rows("SELECT count(*) FROM failures WHERE resolved_at IS NULL") == [(0,)]
        assert verify(store, rerender=Rerender(store)).findings == ()


async def test_what_was_silent_since_the_last_asking_again_is_not_asked_anew_by_going_on(store_path: Path) -> None:
    """As after a crash between a failure and the turn that it belongs to: only what was begun is done."""
    model, config = Silent(HINTED), configuration(turns=2, personas={"count": 1})
    run = await play(store_path, config, models={"scripted": model})
    with Store.open(store_path) as store:
        assert silences(store, run) == {}
    await play(store_path, config, models={"scripted": model}, retry_failed=True)
    with Store.open(store_path) as store:
        counts = set(silences(store, run).values())
        assert counts == {1}


async def test_a_silence_that_is_kept_again_by_going_on_is_one_silence(store_path: Path) -> None:
    """A turn is cut short after a responder was silent: going on keeps that silence once more and asks nothing."""

    class Stopping(Silent):
        engine: Engine | None = None

        async def chat(self, request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
            answer = await super().chat(request, on_delta)
            if self.engine is not None and len(self.unanswered) == 3:
                self.engine.stop("the test says so")
            return answer

    responders = {"plain": {}, "other": {}, "warm": {"hint": True}}
    config = configuration(turns=1, personas={"count": 1}, responders=responders)
    cut, whole = Stopping(HINTED), Silent(HINTED)
    cut.engine = await engine_for(store_path, config, models={"scripted": cut})
    await cut.engine.run()
    await close_engine(cut.engine)
    cut.engine, run = None, cut.engine.run_row.id
    with Store.read(store_path) as store:
        assert [(row.state, row.turns) for row in store.trees(run)] == [("growing", 0)]
    await play(store_path, config, models={"scripted": cut})
    with Store.read(store_path) as store:
        kept = store.rows("SELECT role, count(*), count(DISTINCT call_id) FROM failures GROUP BY role")
    assert (kept, len(cut.unanswered)) == ([("responder.warm", 2, 1)], 3)

    reference = store_path.with_name("unbroken.db")
    await play(reference, config, models={"scripted": whole})
    for path, model in ((store_path, cut), (reference, whole)):
        for _ in range(2):
            await play(path, config, models={"scripted": model}, retry_failed=True)
    assert len(whole.unanswered) == 9
    assert cut.unanswered == whole.unanswered


async def test_what_cannot_be_mended_is_left_and_the_rest_of_the_run_is_played(store_path: Path) -> None:
    """A judge that makes a mistake over a reply that came after all: it did not judge, and its tree stays as it was."""

    class Mistaken(Silent):
        mistaken = False

        async def score(self, request: ScoreRequest) -> ScoreAnswer:
            if self.mistaken:
                raise ZeroDivisionError("a mistake")
            return await super().score(request)

    model = Mistaken(HINTED)
    judges = {"likelihood": {"kind": "likelihood"}}
    config = configuration(turns=2, judges=judges, judge="likelihood")
    run = await play(store_path, config, models={"scripted": model})
    owed = "UPDATE trees SET state = 'growing' WHERE position = 1"
    with Store.open(store_path) as store:
        assert [row.state for row in store.trees(run)] == ["done", "done"]
        store.apply([(owed, ())])
    model.mark, model.mistaken = None, True
    await play(store_path, config, models={"scripted": model}, retry_failed=True)
    with Store.read(store_path) as store:
        assert [row.state for row in store.trees(run)] == ["done", "done"], "what is owed was played"
        assert ("judge.likelihood", "error") in store.rows("SELECT role, kind FROM failures WHERE resolved_at IS NULL")
    model.mistaken = False
    await play(store_path, config, models={"scripted": model}, retry_failed=True)
    for tree in trees_of(store_path, run):
        for _, replies in tree.turns():
            assert sorted(reply.role for reply in replies) == ["responder.brief", "responder.plain", "responder.warm"]
    with Store.read(store_path) as store:
        assert store.rows("SELECT DISTINCT role, kind FROM failures WHERE resolved_at IS NULL") == []
        assert verify(store).findings == ()


async def test_a_store_that_cannot_be_written_is_told_before_the_calls_that_it_halted(store_path: Path) -> None:
    wrong = iter([Halted("the store is full"), StoreError("the store is full"), Halted("the store is full")])

    async def broken(*_: object) -> int:
        raise next(wrong)

    engine = await engine_for(store_path, configuration(personas={"count": 3}))
    with Store.read(store_path) as store:
        trees = [row.id for row in store.trees(engine.run_row.id)]
    with pytest.raises(StoreError):
        await engine._each(broken, trees)
    await engine.run(play=False)
    await close_engine(engine)


class Refusing(ScriptedModel):
    """A scripted model that fails where a prompt holds a mark."""

    def __init__(self, mark: str) -> None:
        super().__init__("scripted", ScriptedConfig(kind="scripted"))
        self.mark = mark

    async def chat(self, request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
        if self.mark in "\n".join(message.content for message in request.messages):
            raise ModelFailure("refused", "told to fail")
        return await super().chat(request, on_delta)


async def test_what_a_person_extended_does_not_stand_in_for_what_the_run_owes(store_path: Path) -> None:
    """The tree fails where the user is asked a second time; a person has it answered from there."""
    config, leaving = configuration(turns=2, personas={"count": 1}), Refusing("Your next message")
    run = await play(store_path, config, models={"scripted": leaving})
    (tree,) = trees_of(store_path, run)
    end = tree.continued_path()[-1]
    unresolved = "SELECT role, purpose, node_id FROM failures WHERE resolved_at IS NULL"
    with Store.read(store_path) as store:
        assert store.rows(unresolved) == [("user", "speak.0", end.id)]
    await done_by_hand(store_path, run, config, "branch", node=end.id, kind="extend", turns=1)
    with Store.read(store_path) as store:
        assert store.rows(unresolved) == [("user", "speak.0", end.id)]
    await play(store_path, config, retry_failed=True)
    with Store.read(store_path) as store:
        assert [row.state for row in store.trees(run)] == ["done"]
        assert store.rows(unresolved) == []


async def test_a_failed_operation_is_settled_by_one_that_came_after(store_path: Path) -> None:
    config = configuration(turns=1, personas={"count": 1})
    run = await play(store_path, config)
    (tree,) = trees_of(store_path, run)
    ((user, (reply, *_)),) = tree.turns()
    for node, kind in ((reply, "extend"), (user, "reroll"), (reply, "reroll")):
        with Store.open(store_path) as store:
            ask(store, run, "branch", {"node": node.id, "kind": kind})
        engine = await open_engine(store_path, run, models={"scripted": Refusing("")})
        await engine.run(play=False)
        await close_engine(engine)
        with Store.read(store_path) as store:
            assert len(store.rows("SELECT 1 FROM failures WHERE resolved_at IS NULL")) == 1
        await done_by_hand(store_path, run, config, "branch", node=node.id, kind=kind)
        with Store.read(store_path) as store:
            assert store.rows("SELECT purpose FROM failures WHERE resolved_at IS NULL") == []


async def test_a_mistake_in_a_role_is_a_failure_that_is_kept(store_path: Path) -> None:
    class Mistaken(ScriptedModel):
        async def chat(self, request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
            if HINTED in request.messages[-1].content:
                raise ZeroDivisionError("a mistake")
            return await super().chat(request, on_delta)

    model = Mistaken("scripted", ScriptedConfig(kind="scripted"))
    run = await play(store_path, configuration(turns=1), models={"scripted": model})
    with Store.read(store_path) as store:
        assert store.run(run).state == "finished"
        kept = store.rows("SELECT DISTINCT role, purpose, kind, message FROM failures ORDER BY role")
    mistake = ("respond", "error", "ZeroDivisionError: a mistake")
    assert kept == [("responder.brief", *mistake), ("responder.warm", *mistake)]
