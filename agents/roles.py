"""What a role is made of: which models speak it, with which prompt and sampling; the frame every agent works in.

Roles are plain async classes with one method, `async def act(request) -> reply`, and no state but their settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agents.calls import Asking, CallFailed, Calls
from agents.messages import InduceRequest, JudgeRequest, Line, Place, Request, RespondRequest, SpeakRequest
from agents.models.protocol import Sampling
from agents.prompts import Prompt
from agents.window import WHOLE, Window, window_of
from trees.ids import derive_seed, digest_of

MAX_REASKS = 2
"""How often an answer that cannot be read is asked for again, with another seed."""
SILENT = "bad_answer"
"""The kind of failure of a role that said nothing however often it was asked; no attempt of a call failed then."""


@dataclass(frozen=True, slots=True)
class Role:
    """One configured role."""

    name: str
    """`user`, `inducer`, `responder.NAME` or `judge.NAME`: what nodes, uses and seeds are filed under."""
    models: tuple[str, ...]
    """Names of the models that may speak it; with several, one is drawn per turn."""
    sampling: Sampling = field(default_factory=Sampling)
    samples: int = 1
    """Answers per turn."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """What is particular to the kind of role."""


Silences = Mapping[tuple[str, str, str], int]
"""How often a role was silent to the end, by node, role and purpose."""


class Stage:
    """What all agents share: the way to the models, and the prompts by version."""

    def __init__(self, calls: Calls, prompts: Mapping[str, Prompt], silences: Silences | None = None) -> None:
        self.calls = calls
        self.silences = silences or {}
        """Those whose places are asked again: there the tries that were used up are not made again."""
        self.prompts = dict(prompts)
        """By id. A revision of a live run's prompt is added here."""
        self._counts: dict[tuple[str, str], int] = {}

    def model_for(self, role: Role, place: Place) -> str:
        """The model that speaks a role here: the only one, or a draw that depends on the place alone."""
        if len(role.models) == 1:
            return role.models[0]
        return role.models[derive_seed(place.run_seed, place.node_id, role.name, "model") % len(role.models)]

    def model_id(self, model: str) -> str:
        return self.calls.seats[model].model_id

    def seed(self, role: Role, place: Place, purpose: str, sample: int = 0, reroll: int = 0) -> int | None:
        """The seed of a sampled answer; None where sampling is greedy, so that such calls are shared."""
        if role.sampling.temperature == 0:
            return None
        return derive_seed(place.run_seed, place.node_id, role.name, purpose, sample, reroll)

    def first_try(self, role: Role, request: Request, tries: int) -> int:
        """The number of a role's first try here, where it has so many each time it is asked."""
        return tries * self.silences.get((request.place.node_id, role.name, purpose_of(request)), 0)

    async def silent(self, role: Role, request: Request, call_id: str, tries: int) -> CallFailed:
        """What to raise for a role that said nothing in all its tries; the failure is kept."""
        who = "the user" if role.name == "user" else role.name
        place = asking(role, request.place, purpose_of(request), request.prompt_id, {})
        return await self.calls.give_up(place, call_id, SILENT, f"{who} said nothing, {tries} times in a row")

    async def keep_error(self, role: str, request: Request, message: str) -> None:
        """Keep what went wrong in a role itself, where no call failed. Raises Halted if it cannot be kept."""
        place, purpose = request.place, purpose_of(request)
        unasked = digest_of("unasked", place.run_id, place.node_id, role, purpose)
        asked = Asking(place.run_id, place.tree_id, place.node_id, role, purpose, request.prompt_id)
        await self.calls.give_up(asked, unasked, "error", message)

    async def window(
        self,
        role: Role,
        request: Request,
        head: str,
        replies: Sequence[str] = (),
        history: Sequence[Line] | None = None,
    ) -> Window:
        """Which lines of the transcript a role's model can be shown beside a head and an answer of the role's length.

        `history`: the lines, where they are not all of the request's. Raises CallFailed if they cannot be counted.

        A quarter of the context is left to the tail whatever it holds today, so that the cut does not move with it.
        Replies to be scored, one at a time, stand there too, as do ledgers; only what outgrows it takes from the
        transcript, in steps, so that a ledger that grows a little each turn does not move the cut each turn.
        """
        model = self.model_for(role, request.place)
        history = request.history if history is None else history
        context = self.calls.seats[model].model.capabilities.context
        if context is None:
            return WHOLE
        counting = asking(role, request.place, "count", request.prompt_id, {})
        kept_free = context // 4
        if any(len(reply.encode("utf-8", "surrogatepass")) > kept_free for reply in replies):
            longest, step = max(await self._count(model, replies, counting)), max(context // 8, 1)
            kept_free = max(kept_free, -(-longest // step) * step)
        room = context - role.sampling.max_tokens - kept_free
        # A byte-level token is at least one byte, so what fits by bytes need not be counted.
        texts = [head, *(line.text for line in history)]
        if sum(len(text.encode("utf-8", "surrogatepass")) + 32 for text in texts) <= room:
            return WHOLE
        around, *lines = await self._count(model, texts, counting)
        return window_of(lines, max(room - around, context // 4))

    async def _count(self, model: str, texts: Sequence[str], counting: Asking) -> list[int]:
        known = {text: self._counts.get((model, text)) for text in texts}
        unknown = [text for text, count in known.items() if count is None]
        if unknown:
            counted = dict(zip(unknown, await self.calls.count_tokens(model, unknown, counting), strict=True))
            if len(self._counts) > 50_000:
                self._counts.clear()
            self._counts.update({(model, text): count for text, count in counted.items()})
            known.update(counted)
        return [known[text] or 0 for text in texts]


def asking(
    role: Role,
    place: Place,
    purpose: str,
    prompt_id: str,
    tail: Mapping[str, object],
    window: Window = WHOLE,
    repeat: int = 0,
) -> Asking:
    """The record of why a call is made at this place, with what it takes to render its prompt again."""
    shown = tail if window.epoch == 0 else {**tail, "resume": window.resume}
    place_ids = (place.run_id, place.tree_id, place.node_id)
    return Asking(*place_ids, role.name, purpose, prompt_id, shown, window.epoch, repeat)


def purpose_of(request: Request) -> str:
    """What a role is asked for at its place: what its first try is filed under."""
    match request:
        case SpeakRequest():
            return f"speak.{request.replica}"
        case InduceRequest():
            return "induce"
        case RespondRequest():
            return f"respond.{request.replica}" if request.replica else "respond"
        case JudgeRequest():
            return f"judge.{request.repeat}"


def reasked(purpose: str, attempt: int, word: str = "reask") -> str:
    """The purpose of the attempt-th try at the same thing."""
    return purpose if attempt == 0 else f"{purpose}.{word}{attempt}"
