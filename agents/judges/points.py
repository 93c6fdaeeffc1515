"""The points judge: each reply on its own, and how well it is tailored to the person, from 1 to 5.

Where the backend gives log-probabilities of choices, score = sum over the figures of figure x probability, so that a
judge that wavers between 3 and 4 says so. Where it does not, the answer must be one figure in range and nothing else;
one that cannot be read is asked for again a bounded number of times, and is then no score: never a guess. With
`sees_dialogue = false` it is shown the last message alone, as the code released with arXiv 2410.03642 does.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

from agents.inducer import observer_head
from agents.judges.observing import Question, ask
from agents.judges.verdicts import JudgeSpec, by_scores, judgement
from agents.messages import Candidate, JudgeRequest, Line, Person
from agents.models.protocol import Completion, Message
from agents.prompts import Prompt
from agents.roles import MAX_REASKS, Stage
from agents.views import observer_view
from agents.window import WHOLE, Window
from trees.values import Judgement, Presentation, Score, Verdict

DEFAULT_THRESHOLD = 0.1
"""Smallest difference of two scores that is a win, in points."""
FIGURES = ("1", "2", "3", "4", "5")


class PointsJudge:
    """One call a reply; all of a turn share the prompt up to the reply."""

    def __init__(self, stage: Stage, spec: JudgeSpec) -> None:
        self._stage = stage
        self._spec = spec

    async def judge(self, request: JudgeRequest) -> Judgement:
        """Raises CallFailed if a call does."""
        shown = await asyncio.gather(*(self._present(request, candidate) for candidate in request.candidates))
        points = {p.order[0]: points_of(p) for p in shown}
        given = {node: value for node, value in points.items() if value is not None}
        scores = [Score(node, "points", value) for node, value in given.items()]
        return judgement(self._spec, request, shown, scores, self._verdicts(request, given))

    def _verdicts(self, request: JudgeRequest, points: dict[str, float]) -> tuple[Verdict, ...]:
        """A reply without a score is an abstention against each other one."""
        rated = [c for c in request.candidates if c.node_id in points]
        unrated = [c.node_id for c in request.candidates if c.node_id not in points]
        found = by_scores(rated, points, self._spec.number("threshold", DEFAULT_THRESHOLD), "points")
        missing = [Verdict(node, other.node_id, "abstain") for node in unrated for other in rated]
        among = [Verdict(a, b, "abstain") for i, a in enumerate(unrated) for b in unrated[i + 1 :]]
        return (*found, *missing, *among)

    async def _present(self, request: JudgeRequest, candidate: Candidate) -> Presentation:
        presentation = Presentation((candidate.node_id,), None, "")
        for attempt in range(MAX_REASKS + 1):
            call_id, answer = await self._ask(request, candidate, attempt)
            presentation = _read(candidate.node_id, call_id, answer)
            if presentation.label is not None:
                break
        return presentation

    async def _ask(self, request: JudgeRequest, candidate: Candidate, attempt: int) -> tuple[str, Completion]:
        dialogue = self._spec.settings.get("sees_dialogue") is not False
        history = seen(request.history, dialogue=dialogue)

        def messages(prompt: Prompt, window: Window) -> tuple[Message, ...]:
            return points_messages(prompt, request.person, history, candidate.text, window, request.place.turn)

        node, noted = candidate.node_id, {"dialogue": dialogue}
        question = Question(node[:12], (node,), messages, choices=FIGURES, noted=noted, attempt=attempt)
        return await ask(self._stage, self._spec, request, history, question)


def points_messages(
    prompt: Prompt,
    person: Person | None,
    history: Sequence[Line],
    reply: str,
    window: Window = WHOLE,
    turn: int = 1,
) -> tuple[Message, ...]:
    """The prompt that asks for the points of a reply; `history` is what `seen` leaves of the transcript.

    What suits the person at this turn, beyond their personality, stands in the tail, since it may change.
    """
    wants = person.situation.at(turn).wants if person is not None and person.situation is not None else ""
    tail = prompt.render("tail", reply=reply, wants=wants)
    return observer_view(observer_head(prompt, person), window.apply(history), tail)


def seen(history: Sequence[Line], *, dialogue: bool) -> Sequence[Line]:
    """The transcript as this judge is shown it: whole, or the message that was answered alone."""
    return history if dialogue else history[-1:]


def points_of(presentation: Presentation) -> float | None:
    """The expected value over the figures, else the figure named; None if neither was given."""
    total = sum(presentation.probabilities.values())
    if total > 0:
        return sum(int(figure) * p for figure, p in presentation.probabilities.items()) / total
    return float(presentation.label) if presentation.label is not None else None


def _read(node_id: str, call_id: str, answer: Completion) -> Presentation:
    figure = answer.text.strip()
    label = figure if figure in FIGURES else None
    odds = {f: math.exp(answer.choice_logprobs[f]) for f in FIGURES} if answer.choice_logprobs else {}
    return Presentation((node_id,), call_id, answer.text, odds, label)
