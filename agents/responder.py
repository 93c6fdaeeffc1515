"""A responder: an assistant that answers the person, with the hint (the ledger) or without.

The hint stands in the tail of the prompt, inside the last user message, and never in later history: whoever speaks
next hears only what was said. Several samples of a turn are asked in one call and become siblings.
"""

from __future__ import annotations

from collections.abc import Sequence

from agents.messages import Line, Person, Reply, RespondRequest, Said
from agents.models.protocol import ChatRequest, Message
from agents.prompts import Prompt
from agents.roles import MAX_REASKS, Role, Stage, asking, purpose_of, reasked
from agents.views import responder_view
from agents.window import WHOLE, Window


class Responder:
    """The agent that answers as one configured responder."""

    def __init__(self, stage: Stage, role: Role) -> None:
        self._stage = stage
        self._role = role

    async def act(self, request: RespondRequest) -> Reply:
        """The samples of this turn, those that say anything. Raises CallFailed if none does."""
        tries, call_id = MAX_REASKS + 1, ""
        first = self._stage.first_try(self._role, request, tries)
        for attempt in range(first, first + tries):
            call_id, said = await self._ask(request, attempt)
            if said:
                return Reply(said=said)
        raise await self._stage.silent(self._role, request, call_id, tries)

    async def _ask(self, request: RespondRequest, attempt: int) -> tuple[str, tuple[Said, ...]]:
        stage, role, place = self._stage, self._role, request.place
        model = stage.model_for(role, place)
        prompt = stage.prompts[request.prompt_id]
        head, tail = responder_head(prompt, request.person), responder_tail(prompt, request.hint)
        window = await stage.window(role, request, head, [tail])
        messages = responder_messages(prompt, request.history, request.hint, window, request.person)
        purpose = purpose_of(request)
        seed = stage.seed(role, place, purpose, reroll=attempt)
        call_id, answer = await stage.calls.chat(
            model,
            ChatRequest(messages, role.sampling, seed, n=request.samples or role.samples),
            asking(
                role,
                place,
                reasked(purpose, attempt),
                prompt.id,
                {"hint": request.hint is not None} | ({"persona": True} if request.person is not None else {}),
                window,
                repeat=attempt if seed is None else 0,
            ),
        )
        model_id = stage.model_id(model)
        said = tuple(
            Said(text=c.text.strip(), reasoning=c.reasoning, call_id=call_id, answer=index, model_id=model_id)
            for index, c in enumerate(answer.completions)
            if c.text.strip()
        )
        return call_id, said


def responder_messages(
    prompt: Prompt,
    history: Sequence[Line],
    hint: Sequence[str] | None,
    window: Window = WHOLE,
    person: Person | None = None,
) -> tuple[Message, ...]:
    """The prompt for a reply. `hint` is None for a responder that gets none; an empty ledger gives no tail either."""
    return responder_view(responder_head(prompt, person), window.apply(history), responder_tail(prompt, hint))


def responder_tail(prompt: Prompt, hint: Sequence[str] | None) -> str:
    """What is hinted: it grows with the conversation."""
    return prompt.render("tail", hint=list(hint)) if hint else ""


def responder_head(prompt: Prompt, person: Person | None) -> str:
    """The beginning of a responder's prompt; only one that is told the persona has it there."""
    if person is None:
        return prompt.render("head")
    return prompt.render("head", profile=person.profile, personality=person.personality)
