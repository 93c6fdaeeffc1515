"""The choice judge: candidates under letters, one letter as the answer, every candidate at every letter once.

With log-probabilities a reply's score is its letter's probability, averaged over the rotations; without them it is
the share of rotations that picked it. What the rotation changes is unstable. A small model mostly follows the letter
and not the reply: see benchmarks/judges.py before trusting one.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from string import ascii_uppercase

from agents.inducer import observer_head
from agents.judges.observing import Question, ask
from agents.judges.verdicts import JudgeSpec, by_picks, equal_texts_tie, judgement, rotations
from agents.messages import Candidate, JudgeRequest, Line, Person
from agents.models.protocol import Completion, Message
from agents.prompts import Prompt
from agents.roles import MAX_REASKS, Stage
from agents.views import observer_view
from agents.window import WHOLE, Window
from trees.values import Judgement, Presentation, Score

DEFAULT_THRESHOLD = 0.05
"""Smallest difference of averaged probabilities that is a win."""


class ChoiceJudge:
    """One call a rotation; all rotations of a turn share the prompt up to the candidates."""

    def __init__(self, stage: Stage, spec: JudgeSpec) -> None:
        self._stage = stage
        self._spec = spec

    async def judge(self, request: JudgeRequest) -> Judgement:
        """Raises CallFailed if a call does."""
        place = request.place
        if self._spec.settings.get("hinted_first"):
            orders = [sorted(request.candidates, key=lambda c: not c.hinted)]
        else:
            orders = rotations(request.candidates, place.run_seed, self._spec.name, request.repeat)
        shown = await asyncio.gather(*(self._present(request, i, order) for i, order in enumerate(orders)))
        ids = [c.node_id for c in request.candidates]
        values = {node: sum(p.probabilities.get(node, 0.0) for p in shown) / len(shown) for node in ids}
        picks = [_pick(p) for p in shown]
        threshold = self._spec.number("threshold", DEFAULT_THRESHOLD)
        verdicts = equal_texts_tie(request.candidates, by_picks(ids, picks, values, threshold))
        # Shares of rotations that were not all read would compare what was shown unequally often.
        readable = None not in picks
        scores = [Score(node, "probability", value) for node, value in values.items()] if readable else []
        return judgement(self._spec, request, shown, scores, verdicts)

    async def _present(self, request: JudgeRequest, number: int, order: Sequence[Candidate]) -> Presentation:
        ids = tuple(c.node_id for c in order)
        letters = tuple(ascii_uppercase[: len(order)])
        presentation = Presentation(ids, None, "")
        for attempt in range(MAX_REASKS + 1):
            call_id, answer = await self._ask(request, number, order, letters, attempt)
            presentation = _read(ids, letters, call_id, answer)
            if presentation.label is not None:
                break
        return presentation

    async def _ask(
        self, request: JudgeRequest, number: int, order: Sequence[Candidate], letters: tuple[str, ...], attempt: int
    ) -> tuple[str, Completion]:
        texts = [c.text for c in order]

        def messages(prompt: Prompt, window: Window) -> tuple[Message, ...]:
            return choice_messages(prompt, request.person, request.history, texts, request.revealed, window)

        ids = tuple(c.node_id for c in order)
        question = Question(str(number), ids, messages, choices=letters, attempt=attempt)
        return await ask(self._stage, self._spec, request, request.history, question)


def choice_messages(
    prompt: Prompt,
    person: Person | None,
    history: Sequence[Line],
    replies: Sequence[str],
    revealed: Sequence[str],
    window: Window = WHOLE,
) -> tuple[Message, ...]:
    """The prompt that asks for the letter of the best reply."""
    letters = ascii_uppercase[: len(replies)]
    candidates = [{"letter": letter, "text": text} for letter, text in zip(letters, replies, strict=True)]
    tail = prompt.render("tail", candidates=candidates, letters=list(letters), revealed=list(revealed))
    return observer_view(observer_head(prompt, person), window.apply(history), tail)


def _read(ids: tuple[str, ...], letters: tuple[str, ...], call_id: str, answer: Completion) -> Presentation:
    letter = answer.text.strip()
    label = letter if letter in letters else None
    if answer.choice_logprobs is not None:
        odds = {node: math.exp(answer.choice_logprobs[at]) for node, at in zip(ids, letters, strict=True)}
    else:
        odds = {node: float(at == label) for node, at in zip(ids, letters, strict=True)}
    return Presentation(ids, call_id, answer.text, odds, label)


def _pick(presentation: Presentation) -> str | None:
    """The node that a presentation prefers: the likeliest, else the one named."""
    if presentation.label is None:
        return None
    return max(presentation.order, key=lambda node: presentation.probabilities[node])
