"""The likelihood judge: how much likelier a reply becomes once the model knows whom it talks to.

score = [log p(reply | head with persona, transcript) - log p(reply | same head without it, transcript)] / tokens

in nats a token. Subtracting the persona-free term removes fluency and, with the mean, length; what is left is what
the persona explains. With `condition = "revealed"` the first term is given only what the person has revealed (in the
tail), so that parroting facts nobody has mentioned gains nothing. Needs a model that scores; small ones do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from agents.judges.verdicts import JudgeSpec, by_scores, judgement
from agents.messages import JudgeRequest, Line, Person
from agents.models.protocol import Message, ReplyScore, ScoreRequest
from agents.prompts import Prompt
from agents.roles import Stage, asking
from agents.views import responder_view
from agents.window import WHOLE, Window
from trees.ids import canonical_json
from trees.values import Judgement, Presentation, Score

DEFAULT_THRESHOLD = 0.02
"""Smallest difference of two scores that is a win, in nats a token."""


class LikelihoodJudge:
    """Two scoring calls a turn, one with the persona and one without, each over all candidates."""

    def __init__(self, stage: Stage, spec: JudgeSpec) -> None:
        self._stage = stage
        self._spec = spec

    async def judge(self, request: JudgeRequest) -> Judgement:
        """Raises CallFailed if a scoring call does."""
        window = await self._window(request)
        (knowing, told), (blind, untold) = await asyncio.gather(
            self._score(request, window, knows=True), self._score(request, window, knows=False)
        )
        ids = [c.node_id for c in request.candidates]
        gains = {node: gain(w, b) for node, w, b in zip(ids, told, untold, strict=True)}
        return judgement(
            self._spec,
            request,
            [_shown(ids, knowing, told, "with persona"), _shown(ids, blind, untold, "without persona")],
            [Score(node, "nats", value) for node, value in gains.items()],
            by_scores(request.candidates, gains, self._spec.number("threshold", DEFAULT_THRESHOLD), "nats"),
        )

    async def _window(self, request: JudgeRequest) -> Window:
        """One window for both readings, by the longer head: the persona must be all that they differ in."""
        stage, role = self._stage, self._spec.role
        prompt = stage.prompts[request.prompt_id]
        heads = [likelihood_head(prompt, person) for person in (self._told(request)[0], None)]
        texts = [c.text for c in request.candidates]
        return await stage.window(role, request, max(heads, key=len), texts)

    async def _score(self, request: JudgeRequest, window: Window, *, knows: bool) -> tuple[str, Sequence[ReplyScore]]:
        stage, role, place = self._stage, self._spec.role, request.place
        model = stage.model_for(role, place)
        prompt = stage.prompts[request.prompt_id]
        person, revealed = self._told(request) if knows else (None, ())
        messages = likelihood_messages(prompt, person, request.history, revealed, window)
        call_id, answer = await stage.calls.score(
            model,
            ScoreRequest(messages, tuple(c.text for c in request.candidates)),
            asking(
                role,
                place,
                f"judge.{'with' if knows else 'without'}",
                prompt.id,
                {"persona": person is not None, "revealed": bool(revealed)},
                window,
                repeat=request.repeat,
            ),
        )
        return call_id, answer.scores

    def _told(self, request: JudgeRequest) -> tuple[Person | None, Sequence[str]]:
        if self._spec.settings.get("condition") == "revealed":
            return None, request.revealed
        return request.person, ()


def gain(told: ReplyScore, untold: ReplyScore) -> float:
    """What knowing the person adds to a reply's log-probability, in nats a token."""
    return (told.logprob - untold.logprob) / max(told.tokens, 1)


def likelihood_head(prompt: Prompt, person: Person | None) -> str:
    if person is None:
        return prompt.render("head")
    return prompt.render("head", profile=person.profile, personality=person.personality)


def likelihood_messages(
    prompt: Prompt, person: Person | None, history: Sequence[Line], revealed: Sequence[str], window: Window = WHOLE
) -> tuple[Message, ...]:
    """What replies are scored under."""
    tail = prompt.render("tail", revealed=list(revealed)) if revealed else ""
    return responder_view(likelihood_head(prompt, person), window.apply(history), tail)


def _shown(ids: Sequence[str], call_id: str, scores: Sequence[ReplyScore], label: str) -> Presentation:
    raw = canonical_json([{"logprob": s.logprob, "tokens": s.tokens} for s in scores])
    return Presentation(tuple(ids), call_id, raw, {}, label)
