"""Trying a model out: what works is told, and what does not is told rather than raised."""

from __future__ import annotations

import asyncio

import pytest

from agents.models.protocol import Capabilities, ChatAnswer, ChatRequest, Completion, OnDelta
from agents.models.scripted import ScriptedConfig, ScriptedModel
from simulation import model_test
from simulation.model_test import try_model

CONFIG = ScriptedConfig.model_validate({"kind": "scripted"})


def scripted(**settings: object) -> ScriptedModel:
    return ScriptedModel("s", ScriptedConfig.model_validate({"kind": "scripted", **settings}))


class Poor(ScriptedModel):
    """Chats, answers closed questions with prose, and can do nothing else."""

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities()

    async def chat(self, request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
        return ChatAnswer((Completion("Who knows?"),))


async def test_everything_works_on_a_model_that_can_do_everything() -> None:
    result = await try_model(scripted())
    assert [result[part]["works"] for part in ("chat", "score", "choices", "schema")] == [True] * 4
    assert result["identity"]["backend"] == "scripted"
    assert result["capabilities"]["score"] is True


async def test_what_a_model_does_not_offer_is_not_tried() -> None:
    result = await try_model(Poor("poor", CONFIG))
    assert result["chat"]["works"] is True
    assert result["choices"] == {
        "works": False,
        "text": "Who knows?",
        "logprobs": None,
        "why": "the answer is not one of the choices",
        "seconds": result["choices"]["seconds"],
    }
    assert (result["score"]["works"], result["schema"]["works"]) == (None, None)


async def test_a_failure_is_part_of_the_answer() -> None:
    result = await try_model(scripted(failures={"every": 1, "kind": "refused"}))
    assert result["chat"]["works"] is False
    assert result["chat"]["why"].startswith("refused: ")


async def test_no_answer_in_time_is_part_of_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(ScriptedModel):
        async def chat(self, request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
            await asyncio.Event().wait()
            raise AssertionError("unreachable")

    monkeypatch.setattr(model_test, "DEADLINE_S", 0.0)
    result = await try_model(Silent("silent", CONFIG))
    assert "no answer within" in result["chat"]["why"]
