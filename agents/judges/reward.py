"""The reward judge: a classifier that was trained to score replies scores each one in its conversation.

score = the classifier's one output for the transcript with the reply at its end, in whatever unit it was trained in.
Needs a model entry of kind "transformers" with `task = "reward"`.
"""

from __future__ import annotations

from collections.abc import Sequence

from agents.judges.verdicts import JudgeSpec, by_scores, judgement
from agents.messages import JudgeRequest, Line
from agents.models.protocol import Message, ScoreRequest
from agents.prompts import Prompt
from agents.roles import Stage, asking
from agents.views import responder_view
from agents.window import WHOLE, Window
from trees.ids import canonical_json
from trees.values import Judgement, Presentation, Score

DEFAULT_THRESHOLD = 0.0
"""Smallest difference of two scores that is a win: what it means differs by classifier, so any counts."""


class RewardJudge:
    """One call a turn over all candidates."""

    def __init__(self, stage: Stage, spec: JudgeSpec) -> None:
        self._stage = stage
        self._spec = spec

    async def judge(self, request: JudgeRequest) -> Judgement:
        """Raises CallFailed if the call does."""
        stage, role, place = self._stage, self._spec.role, request.place
        model = stage.model_for(role, place)
        prompt = stage.prompts[request.prompt_id]
        texts = tuple(c.text for c in request.candidates)
        window = await stage.window(role, request, prompt.render("head"), texts)
        messages = reward_messages(prompt, request.history, window)
        told = asking(role, place, "judge.reward", prompt.id, {}, window, repeat=request.repeat)
        call_id, answer = await stage.calls.score(model, ScoreRequest(messages, texts), told)
        ids = tuple(c.node_id for c in request.candidates)
        rewards = {node: score.logprob for node, score in zip(ids, answer.scores, strict=True)}
        return judgement(
            self._spec,
            request,
            [Presentation(ids, call_id, canonical_json([rewards[node] for node in ids]), {}, "classifier")],
            [Score(node, "reward", value) for node, value in rewards.items()],
            by_scores(request.candidates, rewards, self._spec.number("threshold", DEFAULT_THRESHOLD), "reward"),
        )


def reward_messages(prompt: Prompt, history: Sequence[Line], window: Window = WHOLE) -> tuple[Message, ...]:
    """The conversation that a reply is put at the end of."""
    return responder_view(prompt.render("head"), window.apply(history), "")
