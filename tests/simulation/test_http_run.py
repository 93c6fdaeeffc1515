"""A run whose responder sits behind a server that misbehaves in every way there is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agents import retries
from agents.models.open import open_model
from agents.rerender import Rerender
from simulation.config import RunConfig
from tests.support.openai_server import KINDS, Misbehaviour, OpenAIServer
from tests.support.play import configuration, play, trees_of
from trees.store import Store
from trees.verify import verify

TURNS = 4
PEOPLE = 4


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between attempts are decided as ever, and not waited for."""

    async def at_once(seconds: float) -> None:
        del seconds

    monkeypatch.setitem(retries.with_retries.__kwdefaults__, "sleep", at_once)


def behind(server: OpenAIServer, **changes: Any) -> RunConfig:
    """A configuration whose responder `remote` is behind the server."""
    remote = {
        "kind": "openai",
        "model": "test-model",
        "endpoints": [server.base_url],
        "permits": 8,
        "deadline_s": 0.4,
        "attempts": 2,
        "dialect": "openai",
    }
    roles: dict[str, Any] = {
        "models": {"scripted": {"kind": "scripted"}, "remote": remote},
        "turns": TURNS,
        "personas": {"count": PEOPLE},
        "user": {"model": "scripted"},
        "inducer": {"model": "scripted"},
        "responders": {"remote": {"model": "remote"}, "near": {"model": "scripted", "hint": True}},
        "judges": {"likelihood": {"kind": "likelihood", "model": "scripted"}},
    }
    return configuration(**{**roles, **changes})


async def misbehaving(server: OpenAIServer, config: RunConfig, kinds: Sequence[Misbehaviour]) -> None:
    """Let the server misbehave from the first request that is not a probe: a played run opens its models twice."""
    model = open_model("remote", config.models["remote"])
    await model.open()
    await model.close()
    server.misbehave = [*[None] * (2 * len(server.requests)), *kinds]


async def test_whatever_the_server_does_the_run_goes_on_and_nothing_is_stored_twice(store_path: Path) -> None:
    async with OpenAIServer() as server:
        config = behind(server)
        await misbehaving(server, config, [kind for kind in KINDS for _ in range(2)])
        run = await play(store_path, config)
    with Store.read(store_path) as store:
        assert store.run(run).state == "finished"
        assert [row.state for row in store.trees(run)] == ["done"] * PEOPLE
        failed = store.rows("SELECT DISTINCT kind FROM failures")
        assert failed, "two misbehaviours in a row are a failure of the call"
        remote = store.rows("SELECT count(*) FROM nodes WHERE role = 'responder.remote'")[0][0]
        missing = store.rows("SELECT count(*) FROM failures WHERE role = 'responder.remote'")[0][0]
        assert remote + missing == TURNS * PEOPLE, "every call ends in an answer or in a recorded failure"
        assert store.rows("SELECT count(*) FROM nodes WHERE text LIKE '%<think>%'") == [(0,)]
        assert verify(store, rerender=Rerender(store)).findings == ()


@pytest.mark.parametrize("kind", ["429", "500", "hang", "cut", "reset", "bad-json", "no-choices"])
async def test_one_misbehaviour_is_an_attempt_of_a_call_that_is_answered(store_path: Path, kind: Misbehaviour) -> None:
    async with OpenAIServer() as server:
        config = behind(server, turns=1)
        await misbehaving(server, config, [kind])
        await play(store_path, config)
    with Store.read(store_path) as store:
        assert store.rows("SELECT count(*) FROM failures") == [(0,)]
        assert store.rows("SELECT count(*) FROM calls WHERE attempts LIKE '%kind%'") == [(1,)]


async def test_reasoning_is_kept_apart(store_path: Path) -> None:
    async with OpenAIServer() as server:
        config = behind(server, turns=1)
        await misbehaving(server, config, ["think"] * 20)
        run = await play(store_path, config)
    replies = [r for t in trees_of(store_path, run) for _, rs in t.turns() for r in rs if r.role == "responder.remote"]
    thought = [r for r in replies if r.reasoning]
    assert thought
    assert not any(r.reasoning in r.text for r in thought if r.reasoning)


async def test_a_judge_that_answers_outside_its_choices_abstains(store_path: Path) -> None:
    judges = {"letters": {"kind": "choice", "model": "remote"}}
    responders = {"far": {"model": "scripted"}, "near": {"model": "scripted", "hint": True}}
    async with OpenAIServer() as server:
        config = behind(server, turns=1, judges=judges, judge="letters", responders=responders)
        await misbehaving(server, config, ["wrong-choice"] * 200)
        run = await play(store_path, config)
    for tree in trees_of(store_path, run):
        for made in tree.judgements.values():
            assert [v.outcome for v in made[0].verdicts] == ["abstain"]
    with Store.read(store_path) as store:
        assert store.run(run).state == "finished"
        assert store.rows("SELECT count(*) FROM pairs") == [(0,)]


async def test_a_server_that_goes_away_fails_calls_and_retry_failed_heals_the_run(store_path: Path) -> None:
    only = {"remote": {"model": "remote"}}
    async with OpenAIServer() as server:
        config = behind(server, turns=2, responders=only)
        await misbehaving(server, config, ["500"] * 400)
        run = await play(store_path, config)
        with Store.read(store_path) as store:
            assert {row.state for row in store.trees(run)} == {"failed"}
            assert store.run(run).state == "failed"
        server.misbehave = []
        await play(store_path, config, retry_failed=True)
    with Store.read(store_path) as store:
        assert {row.state for row in store.trees(run)} == {"done"}
        assert store.rows("SELECT count(*) FROM failures WHERE resolved_at IS NULL") == [(0,)]


def test_the_suite_waits_for_no_retry() -> None:
    assert retries.with_retries.__kwdefaults__["sleep"] is not asyncio.sleep
