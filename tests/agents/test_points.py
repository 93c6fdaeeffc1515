"""The points judge: the expected value of its figures, a strict reading without them, and what it is shown."""

from __future__ import annotations

import math

import pytest

from agents.judges.judge import JudgeAgent
from agents.judges.verdicts import JudgeSpec
from agents.messages import JudgeRequest
from agents.models.protocol import ChatRequest, Completion, Sampling
from agents.roles import MAX_REASKS, Role
from tests.support.agents import (
    PERSON,
    PLACE,
    PROMPTS,
    FakeModel,
    candidates,
    decides,
    lines,
    prompt_text,
    says,
    stage_for,
)
from trees.values import Judgement

HISTORY = lines("I mended two xylophones.", "How nice!", "Not really.")


async def judged(model: FakeModel, *texts: str, **settings: object) -> Judgement:
    spec = JudgeSpec(
        "points",
        "points",
        Role("judge.points", ("fake",), Sampling(temperature=0.0)),
        "model",
        PROMPTS["judge.points"].id,
        settings,
    )
    request = JudgeRequest(
        place=PLACE,
        judge="points",
        prompt_id=spec.prompt_id,
        person=PERSON,
        history=HISTORY,
        candidates=candidates(*texts),
        revealed=(),
    )
    reply = await JudgeAgent(stage_for(model), spec).act(request)
    assert reply.judgement is not None
    return reply.judgement


def wavering(request: ChatRequest) -> Completion:
    odds = {"1": 0.0, "2": 0.0, "3": 0.25, "4": 0.75, "5": 0.0}
    return Completion("4", choice_logprobs={f: math.log(p) if p else -math.inf for f, p in odds.items()})


async def test_a_lone_reply_is_scored_by_the_expected_value_if_the_judge_is_told_to() -> None:
    said = await judged(FakeModel(decides(wavering)), "hello", scores_lone=True)
    assert [(s.node_id, s.unit, s.value) for s in said.scores] == [("r0", "points", pytest.approx(3.75))]
    assert said.complete


async def test_a_lone_reply_is_not_asked_about_in_an_ordinary_run() -> None:
    model = FakeModel(decides(wavering))
    assert (await judged(model, "hello")).scores == ()
    assert model.asked == []


@pytest.mark.parametrize("answer", ["0", "6", "4.", "4/5", "Score: 4", "four", "", "45"])
async def test_an_answer_that_is_not_one_figure_in_range_is_no_score(answer: str) -> None:
    model = FakeModel(says(answer))
    said = await judged(model, "hello", scores_lone=True)
    assert said.scores == ()
    assert [(p.raw, p.label) for p in said.presentations] == [(answer, None)]
    assert len(model.asked) == MAX_REASKS + 1


async def test_one_figure_without_probabilities_is_the_score() -> None:
    said = await judged(FakeModel(says(" 4\n")), "hello", scores_lone=True)
    assert [s.value for s in said.scores] == [4.0]


@pytest.mark.parametrize("dialogue", [True, False])
async def test_the_dialogue_is_shown_or_not(dialogue: bool) -> None:
    model = FakeModel(says("3"))
    await judged(model, "hello", scores_lone=True, sees_dialogue=dialogue)
    text = prompt_text(model.asked[0].messages)
    assert ("xylophones in Ljubljana" in text, "Not really." in text) == (True, True)
    assert ("mended two xylophones" in text) == dialogue
