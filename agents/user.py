"""The persona user: speaks in character, a little at a time, and is asked again when it drifts out of it.

Method of arXiv 2410.03642, section 2: the user opens, topics come from the profile, style from the personality. A
message that drifts (takes the assistant's part, echoes, recites the persona, starts over, says nothing) is re-rolled
a bounded number of times; what is left then is kept with the name of the drift, except nothing, which is a failure.
"""

from __future__ import annotations

from collections.abc import Sequence

from agents.cleaning import clean_message
from agents.drift import find_drift
from agents.messages import Line, Person, Reply, Said, SpeakRequest
from agents.models.protocol import ChatRequest, Message
from agents.prompts import Prompt
from agents.roles import Role, Stage, asking, purpose_of, reasked
from agents.views import user_view
from agents.window import WHOLE, Window

DEFAULT_REROLLS = 2
"""How often a drifting message is asked again."""


class User:
    """The agent that plays the persona. `role.settings["rerolls"]` bounds the re-rolls."""

    def __init__(self, stage: Stage, role: Role) -> None:
        self._stage = stage
        self._role = role

    async def act(self, request: SpeakRequest) -> Reply:
        """The person's next message."""
        rerolls = int(str(self._role.settings.get("rerolls", DEFAULT_REROLLS)))
        first = self._stage.first_try(self._role, request, rerolls + 1)
        said = await self._speak(request, first)
        while said.drift is not None and said.rerolls < first + rerolls:
            said = await self._speak(request, said.rerolls + 1)
        if said.drift == "empty":
            raise await self._stage.silent(self._role, request, said.call_id, rerolls + 1)
        return Reply(said=(said,))

    async def _speak(self, request: SpeakRequest, reroll: int) -> Said:
        stage, role, place = self._stage, self._role, request.place
        model = stage.model_for(role, place)
        prompt = stage.prompts[request.prompt_id]
        head = user_head(prompt, request.person)
        window = await stage.window(role, request, head)
        messages = user_messages(prompt, request.person, request.history, place.turn, window, head)
        purpose = purpose_of(request)
        seed = stage.seed(role, place, purpose, reroll=reroll)
        call_id, answer = await stage.calls.chat(
            model,
            ChatRequest(messages, role.sampling, seed),
            asking(
                role,
                place,
                reasked(purpose, reroll, "reroll"),
                prompt.id,
                {"turn": place.turn},
                window,
                repeat=reroll if seed is None else 0,
            ),
        )
        first = answer.completions[0]
        text = clean_message(first.text)
        lines = [(line.speaker, line.text) for line in request.history]
        return Said(
            text=text,
            reasoning=first.reasoning,
            call_id=call_id,
            model_id=stage.model_id(model),
            drift=find_drift(text, lines, request.person.facts),
            rerolls=reroll,
        )


def user_head(prompt: Prompt, person: Person) -> str:
    return prompt.render("head", profile=person.profile, personality=person.personality)


def user_messages(
    prompt: Prompt,
    person: Person,
    history: Sequence[Line],
    turn: int,
    window: Window = WHOLE,
    head: str | None = None,
) -> tuple[Message, ...]:
    """The prompt for a person's next message; `head` saves rendering it where it is at hand."""
    opening = prompt.render("opening", profile=person.profile, personality=person.personality)
    told = person.situation.at(turn).direction if person.situation is not None else None
    tail = prompt.render("tail", turn=turn, situation=told)
    return user_view(head if head is not None else user_head(prompt, person), opening, window.apply(history), tail)
