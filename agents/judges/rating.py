"""The rating judge: each reply on its own, and one question: does it suit this person, yes or no?

score = p(yes), normalised over the two answers. Replies are never shown together, so there is no order that could
decide; what differs is read off one question asked of each. Needs a model that gives probabilities of its choices.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

from agents.inducer import observer_head
from agents.judges.observing import Question, ask
from agents.judges.verdicts import JudgeSpec, by_scores, judgement
from agents.messages import Candidate, JudgeRequest, Line, Person
from agents.models.protocol import Message
from agents.prompts import Prompt
from agents.roles import Stage
from agents.views import observer_view
from agents.window import WHOLE, Window
from trees.values import Judgement, Presentation, Score, Verdict

DEFAULT_THRESHOLD = 0.01
"""Smallest difference of two probabilities that is a win."""
ANSWERS = ("Yes", "No")


class RatingJudge:
    """One call a reply; all of a turn share the prompt up to the reply."""

    def __init__(self, stage: Stage, spec: JudgeSpec) -> None:
        self._stage = stage
        self._spec = spec

    async def judge(self, request: JudgeRequest) -> Judgement:
        """Raises CallFailed if a call does."""
        shown = await asyncio.gather(*(self._present(request, candidate) for candidate in request.candidates))
        rated = {p.order[0]: p.probabilities["Yes"] for p in shown if p.probabilities}
        scores = [Score(node, "probability", value) for node, value in rated.items()]
        return judgement(self._spec, request, shown, scores, self._verdicts(request, rated))

    def _verdicts(self, request: JudgeRequest, rated: dict[str, float]) -> tuple[Verdict, ...]:
        """A reply that could not be rated is an abstention against each other one."""
        candidates = [c for c in request.candidates if c.node_id in rated]
        unrated = [c.node_id for c in request.candidates if c.node_id not in rated]
        threshold = self._spec.number("threshold", DEFAULT_THRESHOLD)
        found = by_scores(candidates, rated, threshold, "probability")
        missing = [Verdict(node, other.node_id, "abstain") for node in unrated for other in candidates]
        among = [Verdict(a, b, "abstain") for i, a in enumerate(unrated) for b in unrated[i + 1 :]]
        return (*found, *missing, *among)

    async def _present(self, request: JudgeRequest, candidate: Candidate) -> Presentation:
        def messages(prompt: Prompt, window: Window) -> tuple[Message, ...]:
            return rating_messages(prompt, request.person, request.history, candidate.text, window)

        node = candidate.node_id
        question = Question(node[:12], (node,), messages, choices=ANSWERS)
        call_id, answer = await ask(self._stage, self._spec, request, request.history, question)
        odds = {a: math.exp(answer.choice_logprobs[a]) for a in ANSWERS} if answer.choice_logprobs else {}
        return Presentation((node,), call_id, answer.text, odds, answer.text.strip() if odds else None)


def rating_messages(
    prompt: Prompt, person: Person | None, history: Sequence[Line], reply: str, window: Window = WHOLE
) -> tuple[Message, ...]:
    """The prompt that asks whether a reply suits the person."""
    return observer_view(observer_head(prompt, person), window.apply(history), prompt.render("tail", reply=reply))
