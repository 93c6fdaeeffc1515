"""The inducer: reads what the user's last message revealed, and keeps it as a ledger of facts.

It is asked for what is new only, with what is known already in the tail, so that a ledger grows by what was said and
no answer grows with the conversation. A blind inducer reads the transcript alone and could be deployed; one that sees
the persona is an oracle, as in the paper's code. A fact that shares no content word with anything the person wrote is
dropped and counted: a ledger holds what was revealed, not what a model can imagine.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from agents.messages import InduceRequest, Line, Person, Reply
from agents.models.protocol import ChatRequest, Message
from agents.parsing import Unreadable, read_strings
from agents.prompts import Prompt
from agents.roles import MAX_REASKS, Role, Stage, asking, reasked
from agents.views import observer_view
from agents.window import WHOLE, Window
from agents.words import content_stems
from trees.ids import canonical_json
from trees.values import Ledger

MAX_FACTS = 6
"""Facts taken from one message, at most."""
MAX_FACT_CHARACTERS = 200
SCHEMA = canonical_json(
    {
        "type": "object",
        "properties": {"facts": {"type": "array", "items": {"type": "string"}, "maxItems": MAX_FACTS}},
        "required": ["facts"],
        "additionalProperties": False,
    }
)
_SPACE = re.compile(r"\s+")


class Inducer:
    """The agent that keeps the ledger. Whether it sees the persona is decided by what it is sent."""

    def __init__(self, stage: Stage, role: Role) -> None:
        self._stage = stage
        self._role = role

    async def act(self, request: InduceRequest) -> Reply:
        """What the last message of the history revealed. An unreadable answer gives an empty entry that says so."""
        failure = ""
        for attempt in range(MAX_REASKS + 1):
            call_id, text = await self._ask(request, attempt)
            try:
                named = read_strings(text, "facts")
            except Unreadable as error:
                failure = str(error)
                continue
            return Reply(ledger=_ledger(request, call_id, named))
        sees = request.person is not None
        return Reply(ledger=Ledger(request.place.node_id, (), sees, call_id, failure=f"unreadable answer: {failure}"))

    async def _ask(self, request: InduceRequest, attempt: int) -> tuple[str, str]:
        stage, role, place = self._stage, self._role, request.place
        model = stage.model_for(role, place)
        prompt = stage.prompts[request.prompt_id]
        head = observer_head(prompt, request.person)
        tail = inducer_tail(prompt, request.person, request.known)
        window = await stage.window(role, request, head, [tail])
        messages = inducer_messages(prompt, request.person, request.history, request.known, window)
        schema = SCHEMA if stage.calls.seats[model].model.capabilities.json_schema else None
        seed = stage.seed(role, place, "induce", reroll=attempt)
        call_id, answer = await stage.calls.chat(
            model,
            ChatRequest(messages, role.sampling, seed, schema=schema),
            asking(
                role,
                place,
                reasked("induce", attempt),
                prompt.id,
                {"sees_persona": request.person is not None},
                window,
                repeat=attempt if seed is None else 0,
            ),
        )
        return call_id, answer.completions[0].text


def observer_head(prompt: Prompt, person: Person | None) -> str:
    """The head that the inducer and the judges share; without a person it holds no word about them."""
    if person is None:
        return prompt.render("head")
    return prompt.render("head", profile=person.profile, personality=person.personality)


def inducer_messages(
    prompt: Prompt, person: Person | None, history: Sequence[Line], known: Sequence[str], window: Window = WHOLE
) -> tuple[Message, ...]:
    """The prompt that asks what the last message revealed."""
    return observer_view(observer_head(prompt, person), window.apply(history), inducer_tail(prompt, person, known))


def inducer_tail(prompt: Prompt, person: Person | None, known: Sequence[str]) -> str:
    """The question, with what is known already: it grows with the conversation."""
    seen = {} if person is None else {"profile": person.profile, "personality": person.personality}
    return prompt.render("tail", known=list(known), **seen)


def _ledger(request: InduceRequest, call_id: str, named: Sequence[str]) -> Ledger:
    known = {_folded(fact) for fact in request.known}
    shortened = (_SPACE.sub(" ", fact)[:MAX_FACT_CHARACTERS] for fact in named[:MAX_FACTS])
    new = {_folded(fact): fact for fact in shortened}
    fresh = [fact for key, fact in new.items() if key and key not in known]
    said = _words_of_user(request.history) if fresh else set()
    supported = [fact for fact in fresh if is_supported(fact, said)]
    sees = request.person is not None
    return Ledger(request.place.node_id, tuple(supported), sees, call_id, dropped=len(fresh) - len(supported))


def is_supported(fact: str, said: frozenset[str] | set[str]) -> bool:
    """Whether a fact shares a content word with what the person wrote."""
    return not content_stems(fact).isdisjoint(said)


def _words_of_user(history: Sequence[Line]) -> set[str]:
    return {stem for line in history if line.speaker == "user" for stem in content_stems(line.text)}


def _folded(fact: str) -> str:
    return _SPACE.sub(" ", fact).strip(" .").casefold()
