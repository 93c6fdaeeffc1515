"""The pairwise judge: two replies at a time, the reason first, then one of A, B, tie, both_bad; in both orders.

A verdict stands only if it survives the swap; otherwise it is unstable. For models that can argue (7B and up).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import combinations

from agents.inducer import observer_head
from agents.judges.observing import Question, ask
from agents.judges.verdicts import JudgeSpec, equal_texts_tie, judgement
from agents.messages import Candidate, JudgeRequest, Line, Person
from agents.models.protocol import Message
from agents.parsing import Unreadable, read_label
from agents.prompts import Prompt
from agents.roles import MAX_REASKS, Stage
from agents.views import observer_view
from agents.window import WHOLE, Window
from trees.ids import canonical_json
from trees.values import Judgement, Presentation, Verdict

LABELS = ("A", "B", "tie", "both_bad")
SCHEMA = canonical_json(
    {
        "type": "object",
        "properties": {
            "reason": {"type": "string", "maxLength": 400},
            "verdict": {"type": "string", "enum": list(LABELS)},
        },
        "required": ["reason", "verdict"],
        "additionalProperties": False,
    }
)


class PairwiseJudge:
    """Two calls a pair."""

    def __init__(self, stage: Stage, spec: JudgeSpec) -> None:
        self._stage = stage
        self._spec = spec

    async def judge(self, request: JudgeRequest) -> Judgement:
        """Raises CallFailed if a call does."""
        pairs = list(combinations(request.candidates, 2))
        orders = [order for a, b in pairs for order in ((a, b), (b, a))]
        shown = await asyncio.gather(*(self._present(request, i, *order) for i, order in enumerate(orders)))
        verdicts = [
            swap_verdict(a.node_id, b.node_id, shown[2 * i].label, shown[2 * i + 1].label)
            for i, (a, b) in enumerate(pairs)
        ]
        return judgement(self._spec, request, shown, (), equal_texts_tie(request.candidates, verdicts))

    async def _present(self, request: JudgeRequest, number: int, first: Candidate, second: Candidate) -> Presentation:
        ids = (first.node_id, second.node_id)
        presentation = Presentation(ids, None, "")
        for attempt in range(MAX_REASKS + 1):
            call_id, text = await self._ask(request, number, first, second, attempt)
            try:
                return Presentation(ids, call_id, text, {}, read_label(text, "verdict", LABELS))
            except Unreadable:
                presentation = Presentation(ids, call_id, text)
        return presentation

    async def _ask(
        self, request: JudgeRequest, number: int, first: Candidate, second: Candidate, attempt: int
    ) -> tuple[str, str]:
        texts = (first.text, second.text)

        def messages(prompt: Prompt, window: Window) -> tuple[Message, ...]:
            return pairwise_messages(prompt, request.person, request.history, texts, request.revealed, window)

        ids = (first.node_id, second.node_id)
        question = Question(str(number), ids, messages, schema=SCHEMA, attempt=attempt)
        call_id, answer = await ask(self._stage, self._spec, request, request.history, question)
        return call_id, answer.text


def pairwise_messages(
    prompt: Prompt,
    person: Person | None,
    history: Sequence[Line],
    replies: tuple[str, str],
    revealed: Sequence[str],
    window: Window = WHOLE,
) -> tuple[Message, ...]:
    """The prompt that asks for a reason and a verdict on two replies."""
    tail = prompt.render("tail", first=replies[0], second=replies[1], revealed=list(revealed))
    return observer_view(observer_head(prompt, person), window.apply(history), tail)


def swap_verdict(a: str, b: str, forward: str | None, backward: str | None) -> Verdict:
    """The verdict on a and b from the label given with a first, and the one given with b first."""
    if forward is None or backward is None:
        return Verdict(a, b, "abstain")
    seen = {"A": "B", "B": "A"}.get(backward, backward)
    if forward != seen:
        return Verdict(a, b, "unstable")
    if forward == "A":
        return Verdict(a, b, "win")
    if forward == "B":
        return Verdict(b, a, "win")
    return Verdict(a, b, "tie" if forward == "tie" else "both_bad")
