"""A change of taste that is planted: `bench show` tells the fall at its turn, and how long each model takes to be back.

People like long replies until half-way and short ones from then on, and say so in passing once. The models under test
give what was liked first, and change over so many turns after they were told. What is read is the program's own output.
"""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import pytest

from agents.models.protocol import ChatAnswer, ChatRequest, Completion, OnDelta
from agents.models.scripted import ScriptedConfig, ScriptedModel
from tests.simulation.test_benchmark import config_of, measure
from tests.support.command_line import Espalier, as_json
from trees.ids import derive_seed

LAGS = {"at once": 0, "quick": 1, "slow": 3, "never": 99}
"""Turns between being told and giving what is liked now."""
TURNS, CHANGE = 8, 5
GOOD, BAD, NOISE = 4.0, 2.5, 0.4
SAID = "By the way, keep it brief from now on."
TASTE = {
    "name": "planted",
    "openings": ["Begin with your day."],
    "at": 0.5,
    "changes": [{"when": "Say: brief.", "after": "Go on.", "wants_before": "Long replies.", "wants": "Short replies."}],
}


class Changing(ScriptedModel):
    """A person who says once that their taste has changed: when they are told so."""

    async def chat(self, request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
        answer = await super().chat(request, on_delta)
        told = "Say: brief." in request.messages[-1].content
        return ChatAnswer((Completion(SAID),), answer.usage) if told else answer


class Following(ScriptedModel):
    """Gives long replies, and short ones from so many turns after it was told on."""

    async def chat(self, request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
        answer = await super().chat(request, on_delta)
        heard = [message.content for message in request.messages if message.role == "user"]
        told = next((turn for turn, text in enumerate(heard) if SAID in text), None)
        short = told is not None and len(heard) - 1 - told >= LAGS[self._variant]
        return ChatAnswer((Completion("Short." if short else "Long, and longer."),), answer.usage)


class Tasting(ScriptedModel):
    """Gives points for what suits now, and wavers."""

    async def chat(self, request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
        answer = await super().chat(request, on_delta)
        asked = request.messages[-1].content.rpartition("The assistant's reply")[2]
        suits = ("Short." in asked) == ("Short replies." in asked)
        draw = derive_seed(0, "\n".join(message.content for message in request.messages), "taste", "") / 2**31
        points = (GOOD if suits else BAD) + NOISE * (2 * draw - 1)
        lower = math.floor(points)
        odds = {lower: 1 - (points - lower), lower + 1: points - lower}
        logs = {figure: math.log(max(odds.get(int(figure), 0.0), 1e-12)) for figure in request.choices or ()}
        return ChatAnswer((Completion(max(logs, key=logs.__getitem__), choice_logprobs=logs),), answer.usage)


async def measure_all(store_path: Path) -> None:
    script = ScriptedConfig(kind="scripted")
    config = config_of(
        turns=TURNS,
        situations=[TASTE],
        models={name: {"kind": "scripted", "variant": name} for name in (*LAGS, "person", "taster")},
        user={"model": "person", "rerolls": 0},
        inducer={"model": "person"},
        judges={"points": {"kind": "points", "model": "taster"}},
        tested={name: {"model": name} for name in LAGS},
        cases={"count": 10},
    )
    for name in LAGS:
        variant = script.model_copy(update={"variant": name})
        planted = {"person": Changing("person", script), "taster": Tasting("taster", script)}
        await measure(store_path, config, name, {**planted, name: Following(name, variant)})


def test_the_fall_is_told_at_its_turn_with_the_turns_each_model_takes_to_be_back(
    espalier: Espalier, folder: Path
) -> None:
    asyncio.run(measure_all(folder / "espalier.db"))
    shown = as_json(espalier("bench", "show", "--json"))
    found = {model["model"]: model["situations"][0] for model in shown["models"]}
    for name, lag in LAGS.items():
        levels = [level["value"] for level in found[name]["levels"]]
        truth = [BAD if CHANGE <= turn < CHANGE + lag else GOOD for turn in range(1, TURNS + 1)]
        assert levels == pytest.approx(truth, abs=NOISE / 2), name
        came = found[name]["recovery"]
        assert came["change"] == CHANGE
        assert came["before"]["value"] == pytest.approx(GOOD, abs=NOISE / 4)
        assert came["fell"] == (lag > 0)
        assert came["turns"] == (lag if CHANGE + lag <= TURNS else None)
        if lag:
            assert came["fall"]["low"] < BAD - GOOD < came["fall"]["high"]
    said = [" ".join(line.split()) for line in espalier("bench", "show").stdout.splitlines()]
    ends = {line.partition(" ")[0]: line for line in said if f" planted {CHANGE} " in line}
    assert ends["at"].endswith("no fall")
    assert ends["quick"].endswith(" 1")
    assert ends["slow"].endswith(" 3")
    assert ends["never"].endswith("not back")
