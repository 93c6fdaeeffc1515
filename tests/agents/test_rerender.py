"""Prompts rendered again from a store are those that were sent, for every role, under every kind of tree."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from agents.calls import messages_digest
from agents.models.protocol import ChatAnswer, ChatRequest, Message, OnDelta
from agents.models.scripted import ScriptedConfig, ScriptedModel
from agents.rerender import Rerender, use_of_node
from tests.support.builders import make_run
from tests.support.play import begun, configuration, play
from trees.errors import NotFound
from trees.jobs import ask
from trees.store import Store
from trees.verify import USE_COLUMNS, use_from_row, verify

JUDGES = {
    "likelihood": {"kind": "likelihood"},
    "revealed": {"kind": "likelihood", "condition": "revealed"},
    "choice": {"kind": "choice"},
    "pairwise": {"kind": "pairwise"},
    "rating": {"kind": "rating"},
}
RUNS: dict[str, dict[str, Any]] = {
    "blind": {"judges": JUDGES},
    "oracle": {"inducer": {"sees_persona": True}, "turns": 2},
    "beam": {"judges": JUDGES, "branching": {"policy": "all", "depth": 2}},
}


@pytest.mark.parametrize("changes", RUNS.values(), ids=RUNS)
async def test_every_prompt_of_a_run_is_rendered_as_it_was_sent(store_path: Path, changes: dict[str, Any]) -> None:
    await play(store_path, configuration(**changes))
    with Store.read(store_path) as store:
        report = verify(store, rerender=Rerender(store))
        roles = Counter(role for (role,) in store.rows("SELECT role FROM uses"))
    assert report.findings == ()
    assert report.not_rendered == 0
    assert report.checked["rendered prompts"] == roles.total()
    judges = {f"judge.{name}" for name in changes.get("judges", ())}
    assert {"user", "inducer", "responder.warm"} | judges <= set(roles)


async def test_prompts_of_operations_and_later_judgements_render_too(store_path: Path) -> None:
    config = configuration(judges=JUDGES, turns=2)
    run = await play(store_path, config)
    with Store.open(store_path) as store:
        tree = store.tree(store.trees(run)[0].id)
        user, reply = tree.path(tree.leaves()[0].id)[:2]
        for node, kind, args in (
            (reply, "reroll", {"count": 2}),
            (user, "reroll", {}),
            (user, "edit", {"text": "Something else."}),
            (reply, "extend", {"turns": 1}),
        ):
            ask(store, run, "branch", {"node": node.id, "kind": kind, **args})
        ask(store, run, "judge", {"name": "choice", "again": True})
        before = len(store.rows("SELECT 1 FROM uses"))
    await play(store_path, config)
    with Store.read(store_path) as store:
        assert [row[0] for row in store.rows("SELECT DISTINCT state FROM commands")] == ["done"]
        assert len(store.rows("SELECT 1 FROM uses")) > before
        report = verify(store, rerender=Rerender(store))
        assert (report.findings, report.not_rendered) == ((), 0)


async def test_prompts_with_the_middle_left_out_render_too(store_path: Path) -> None:
    small = {"scripted": {"kind": "scripted", "context": 1200}}
    await play(store_path, configuration(turns=12, personas={"count": 1}, models=small))
    with Store.read(store_path) as store:
        assert store.rows("SELECT max(epoch) FROM uses")[0][0] > 0
        assert verify(store, rerender=Rerender(store)).findings == ()


class Remembering(ScriptedModel):
    """A scripted model that remembers what it was shown."""

    shown: set[tuple[Message, ...]] = set()

    async def chat(self, request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
        self.shown.add(request.messages)
        return await super().chat(request, on_delta)


async def test_a_node_s_prompt_is_shown_word_for_word(store_path: Path) -> None:
    model = Remembering("scripted", ScriptedConfig(kind="scripted"))
    run = await play(store_path, configuration(), models={"scripted": model})
    with Store.read(store_path) as store:
        rerender = Rerender(store)
        for node in store.tree(store.trees(run)[0].id):
            use = use_of_node(store, node.id)
            assert use is not None
            assert (use.role, use.call_id) == (node.role, node.call_id)
            messages = rerender.messages(use)
            assert messages in model.shown
            assert messages is not None
            assert rerender(use) == messages_digest(messages)
        with pytest.raises(NotFound):
            use_of_node(store, "gone")


async def test_a_changed_ledger_changes_the_prompts_after_it(store_path: Path) -> None:
    await play(store_path, configuration(personas={"count": 1}))
    with Store.open(store_path) as store:
        store.apply([("UPDATE ledgers SET facts = '[\"It was never said.\"]'", ())])
        report = verify(store, rerender=Rerender(store))
    found = Counter(finding.what.split(",")[0] for finding in report.findings)
    assert {"inducer", "responder.warm", "responder.brief"} == set(found)


async def test_what_has_no_path_is_not_rendered(store_path: Path) -> None:
    run = await begun(store_path, configuration())
    with Store.open(store_path) as store:
        by_hand = make_run(store)
        tree = store.trees(run.id)[0].id
        call = by_hand.call(tree, "a user node that a crash took", "inducer", ["{}"])
        store.apply([("UPDATE uses SET prompt_id = ?", (store.revisions(run.id)[0]["inducer"],))])
        (row,) = store.rows(f"SELECT {USE_COLUMNS} FROM uses u WHERE call_id = ?", (call,))
        assert Rerender(store)(use_from_row(row)) is None
        assert verify(store, rerender=Rerender(store)).not_rendered == 1
