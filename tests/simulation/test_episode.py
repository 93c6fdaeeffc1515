"""The loop: what a played tree looks like, whatever the models say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from agents.models.protocol import ChatAnswer, ChatRequest, Message, ModelFailure, OnDelta
from agents.models.scripted import ScriptedConfig, ScriptedModel
from agents.rerender import Rerender
from simulation.episode import open_branches
from tests.support.play import configuration, play, trees_of
from trees.store import Store
from trees.verify import verify


class Watching(ScriptedModel):
    """A scripted model that remembers what it was shown and fails where it is told to."""

    def __init__(self, fail_on: Sequence[str] = ()) -> None:
        super().__init__("scripted", ScriptedConfig(kind="scripted", attempts=1))
        self.fail_on = list(fail_on)
        self.shown: list[tuple[Message, ...]] = []

    async def chat(self, request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
        self.shown.append(request.messages)
        text = "\n".join(message.content for message in request.messages)
        if any(mark in text for mark in self.fail_on):
            raise ModelFailure("refused", "told to fail")
        return await super().chat(request, on_delta)


async def test_every_turn_has_a_user_message_and_a_reply_of_each_responder(store_path: Path) -> None:
    run = await play(store_path, configuration())
    for tree in trees_of(store_path, run):
        assert [user.turn for user, _ in tree.turns()] == [1, 2, 3]
        for user, replies in tree.turns():
            assert user.role == "user"
            assert [r.role for r in replies] == ["responder.brief", "responder.plain", "responder.warm"]
            assert [r.hinted for r in replies] == [True, False, True]
            assert {r.parent_id for r in replies} == {user.id}


async def test_a_conversation_goes_on_from_one_reply_a_turn_with_a_reason(store_path: Path) -> None:
    run = await play(store_path, configuration())
    for tree in trees_of(store_path, run):
        for _, replies in tree.turns():
            marked = [tree.continued[r.id] for r in replies if r.id in tree.continued]
            assert len(marked) == 1
            assert marked[0].policy == "random"
            assert marked[0].reason
        path = tree.continued_path()
        assert [node.speaker for node in path] == ["user", "assistant"] * 3


async def test_the_ledger_grows_by_what_was_said_and_is_blind_by_default(store_path: Path) -> None:
    run = await play(store_path, configuration())
    for tree in trees_of(store_path, run):
        for user, _ in tree.turns():
            assert tree.ledgers[user.id].sees_persona is False
        last = tree.continued_path()[-1]
        assert tree.revealed(last.id), "three messages of a scripted user reveal something"


async def test_hints_are_never_in_later_history(store_path: Path) -> None:
    model = Watching()
    await play(store_path, configuration(), models={"scripted": model})
    hint = "has shown about themselves so far"
    hinted = [messages for messages in model.shown if any(hint in m.content for m in messages)]
    assert hinted
    for messages in hinted:
        assert [hint in m.content for m in messages] == [False] * (len(messages) - 1) + [True]


async def test_no_word_of_the_persona_reaches_a_blind_inducer_before_it_is_said(store_path: Path) -> None:
    model = Watching()
    run = await play(store_path, configuration(turns=1), models={"scripted": model})
    asked = [messages for messages in model.shown if "Answer with a JSON object" in messages[-1].content]
    assert len(asked) == 2
    with Store.read(store_path) as store:
        for row in store.trees(run):
            assert row.profile_id is not None
            profile = store.profile(row.profile_id)
            assert not any(profile.text in message.content for messages in asked for message in messages)


async def test_a_responder_that_fails_is_missing_among_the_siblings(store_path: Path) -> None:
    model = Watching(fail_on=["has shown about themselves so far"])
    run = await play(store_path, configuration(turns=2), models={"scripted": model})
    with Store.read(store_path) as store:
        assert [row.state for row in store.trees(run)] == ["done", "done"]
        kinds = store.rows("SELECT DISTINCT kind, role FROM failures ORDER BY role")
        assert kinds == [("refused", "responder.brief"), ("refused", "responder.warm")]
    roles = {len(replies) for tree in trees_of(store_path, run) for _, replies in tree.turns()}
    assert roles == {1} or 1 in roles


async def test_a_tree_whose_user_fails_is_a_row_with_its_cause_and_the_others_finish(store_path: Path) -> None:
    config = configuration(personas={"count": 3})
    with_profile = Watching()
    run = await play(store_path.with_name("whole.db"), config, models={"scripted": with_profile})
    with Store.read(store_path.with_name("whole.db")) as store:
        victim = store.trees(run)[1]
        assert victim.profile_id is not None
        mark = store.profile(victim.profile_id).text[:60]
    model = Watching(fail_on=[f"Your life: {mark}"])
    await play(store_path, config, models={"scripted": model})
    with Store.read(store_path) as store:
        rows = store.trees(run)
        assert [row.state for row in rows] == ["done", "failed", "done"]
        assert rows[1].cause == {"turn": 1, "kind": "refused", "message": "told to fail"}
        assert store.run(run).state == "finished"
        assert store.run(run).reason == "1 trees failed"


async def test_retry_failed_goes_on_where_the_failure_was(store_path: Path) -> None:
    model = Watching(fail_on=["Your next message"])
    run = await play(store_path, configuration(), models={"scripted": model})
    with Store.read(store_path) as store:
        assert {row.state for row in store.trees(run)} == {"failed"}
        assert {row.turns for row in store.trees(run)} == {1}
    model.fail_on.clear()
    await play(store_path, configuration(), models={"scripted": model}, retry_failed=True)
    reference = store_path.with_name("unbroken.db")
    await play(reference, configuration(), models={"scripted": Watching()})
    with Store.read(store_path) as store:
        assert {row.state for row in store.trees(run)} == {"done"}
        assert store.rows("SELECT count(*) FROM failures WHERE resolved_at IS NULL") == [(0,)]
        assert store.rows("SELECT count(*) FROM failures") != [(0,)]
        assert verify(store).findings == ()
    assert texts(trees_of(store_path, run)) == texts(trees_of(reference, run))


async def test_retry_failed_also_asks_for_replies_that_are_missing(store_path: Path) -> None:
    model = Watching(fail_on=["has shown about themselves so far"])
    run = await play(store_path, configuration(turns=2), models={"scripted": model})
    model.fail_on.clear()
    await play(store_path, configuration(turns=2), models={"scripted": model}, retry_failed=True)
    for tree in trees_of(store_path, run):
        for user, replies in tree.turns():
            assert sorted(r.role for r in replies) == ["responder.brief", "responder.plain", "responder.warm"]
            assert set(tree.judgements[user.id][-1].covers) == {r.id for r in replies}


@pytest.mark.parametrize(
    ("branching", "turns_at_each_depth"),
    [
        ({"policy": "winner"}, [1, 1, 1]),
        ({"policy": "weighted"}, [1, 1, 1]),
        ({"policy": "all", "depth": 1}, [1, 3, 3]),
        ({"policy": "beam", "width": 2}, [1, 2, 2]),
    ],
)
async def test_policies_shape_the_tree(
    store_path: Path, branching: dict[str, object], turns_at_each_depth: list[int]
) -> None:
    run = await play(store_path, configuration(branching=branching, personas={"count": 1}))
    (tree,) = trees_of(store_path, run)
    depths = [user.turn for user, _ in tree.turns()]
    assert [depths.count(turn) for turn in (1, 2, 3)] == turns_at_each_depth
    with Store.read(store_path) as store:
        assert verify(store).findings == ()


async def test_samples_of_one_call_are_siblings(store_path: Path) -> None:
    responders = {"plain": {"samples": 3}, "warm": {"hint": True}}
    run = await play(store_path, configuration(turns=1, personas={"count": 1}, responders=responders))
    (tree,) = trees_of(store_path, run)
    ((_, replies),) = tree.turns()
    assert [(r.role, r.replica, r.answer) for r in replies] == [
        ("responder.plain", "0", 0),
        ("responder.plain", "1", 1),
        ("responder.plain", "2", 2),
        ("responder.warm", "0", 0),
    ]
    assert len({r.call_id for r in replies[:3]}) == 1


async def test_several_judges_and_a_panel_write_judgements_of_each_turn(store_path: Path) -> None:
    judges = {
        "likelihood": {"kind": "likelihood"},
        "letters": {"kind": "choice"},
        "each": {"kind": "rating"},
        "words": {"kind": "rules", "rules": {"max_words": 12}},
        "vote": {"kind": "panel", "members": ["likelihood", "letters", "words"]},
    }
    run = await play(store_path, configuration(turns=2, judges=judges, judge="vote"))
    for tree in trees_of(store_path, run):
        for user, _ in tree.turns():
            assert len(tree.judgements[user.id]) == 5
    with Store.read(store_path) as store:
        assert verify(store, rerender=Rerender(store)).findings == ()


async def test_one_of_several_models_is_drawn_by_place_and_recorded(store_path: Path) -> None:
    models = {"one": {"kind": "scripted", "variant": "1"}, "two": {"kind": "scripted", "variant": "2"}}
    config = configuration(
        models=models,
        personas={"count": 6},
        user={"model": "one"},
        inducer={"model": "one"},
        responders={"any": {"models": ["one", "two"]}, "warm": {"model": "one", "hint": True}},
        judges={"likelihood": {"kind": "likelihood", "model": "one"}},
        judge="likelihood",
    )
    run = await play(store_path, config)
    drawn = [
        r.model_id for t in trees_of(store_path, run) for _, rs in t.turns() for r in rs if r.role == "responder.any"
    ]
    assert len(set(drawn)) == 2
    again = store_path.with_name("again.db")
    await play(again, config)
    assert texts(trees_of(again, run)) == texts(trees_of(store_path, run))


async def test_a_finished_tree_has_no_open_branch(store_path: Path) -> None:
    run = await play(store_path, configuration())
    assert all(open_branches(tree, 3) == [] for tree in trees_of(store_path, run))
    assert all(len(open_branches(tree, 4)) == 1 for tree in trees_of(store_path, run))


def texts(trees: object) -> list[list[tuple[str, str]]]:
    """Every node's id and text, tree by tree."""
    return [[(node.id, node.text) for node in tree] for tree in trees]  # type: ignore[attr-defined]
