"""What a role is made of: which models speak it, with which prompt and sampling; the frame every agent works in.

Roles are plain async classes with one method, `async def act(request) -> reply`, and no state but their settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agents.calls import Asking, Calls
from agents.messages import Line, Place
from agents.models.protocol import Sampling
from agents.prompts import Prompt
from agents.window import WHOLE, Window, window_of
from trees.ids import derive_seed

MAX_REASKS = 2
"""How often an answer that cannot be read is asked for again, with another seed."""


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


class Stage:
    """What all agents share: the way to the models, and the prompts by version."""

    def __init__(self, calls: Calls, prompts: Mapping[str, Prompt]) -> None:
        self.calls = calls
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

    async def window(
        self, model: str, history: Sequence[Line], head: str, max_tokens: int, replies: Sequence[str] = ()
    ) -> Window:
        """Which lines of the transcript this model can be shown beside a head and an answer of this length.

        A quarter of the context is left to the tail whatever it holds today, so that the cut does not move with it.
        Replies to be scored, one at a time, stand there too, as do ledgers; only what outgrows it takes from the
        transcript, in steps, so that a ledger that grows a little each turn does not move the cut each turn.
        """
        context = self.calls.seats[model].model.capabilities.context
        if context is None:
            return WHOLE
        kept_free = context // 4
        if any(len(reply.encode("utf-8", "surrogatepass")) > kept_free for reply in replies):
            longest, step = max(await self._count(model, replies)), max(context // 8, 1)
            kept_free = max(kept_free, -(-longest // step) * step)
        room = context - max_tokens - kept_free
        # A byte-level token is at least one byte, so what fits by bytes need not be counted.
        texts = [head, *(line.text for line in history)]
        if sum(len(text.encode("utf-8", "surrogatepass")) + 32 for text in texts) <= room:
            return WHOLE
        around, *lines = await self._count(model, texts)
        return window_of(lines, max(room - around, context // 4))

    async def _count(self, model: str, texts: Sequence[str]) -> list[int]:
        known = {text: self._counts.get((model, text)) for text in texts}
        unknown = [text for text, count in known.items() if count is None]
        if unknown:
            counted = dict(zip(unknown, await self.calls.seats[model].model.count_tokens(unknown), strict=True))
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


def reasked(purpose: str, attempt: int, word: str = "reask") -> str:
    """The purpose of the attempt-th try at the same thing."""
    return purpose if attempt == 0 else f"{purpose}.{word}{attempt}"
