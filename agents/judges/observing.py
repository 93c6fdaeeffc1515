"""How a judge that observes a conversation asks its model one question about it.

All such judges share the head (instructions and persona) and the transcript; a question is the tail, the closed set of
answers, and what is recorded so that the prompt can be rendered again.

Invariant: one question under one attempt is one call, so a question that was answered is never asked twice; a greedy
answer carries no seed, and only its repeat index tells a deliberate repetition from the first asking.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from agents.inducer import observer_head
from agents.judges.verdicts import JudgeSpec
from agents.messages import JudgeRequest, Line
from agents.models.protocol import ChatRequest, Completion, Message
from agents.prompts import Prompt
from agents.roles import MAX_REASKS, Stage, asking, reasked
from agents.window import Window


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about some candidates."""

    about: str
    """What tells it from the judge's other questions of this turn."""
    shown: tuple[str, ...]
    """Candidates by id, in the order of showing."""
    messages: Callable[[Prompt, Window], tuple[Message, ...]]
    choices: tuple[str, ...] = ()
    schema: str | None = None
    noted: Mapping[str, object] = field(default_factory=dict)
    """What else it takes to render the prompt again."""
    attempt: int = 0
    """Counts the times it was asked because the answer could not be read."""


async def ask(
    stage: Stage, spec: JudgeSpec, request: JudgeRequest, history: Sequence[Line], question: Question
) -> tuple[str, Completion]:
    """The call's id and its answer. Raises CallFailed."""
    role, place = spec.role, request.place
    model, prompt = stage.model_for(role, place), stage.prompts[request.prompt_id]
    window = await stage.window(role, request, observer_head(prompt, request.person), history=history)
    purpose = f"judge.{request.repeat}.{question.about}"
    seed = stage.seed(role, place, purpose, reroll=question.attempt)
    schema = question.schema if stage.calls.seats[model].model.capabilities.json_schema else None
    tail = {"shown": list(question.shown), "persona": request.person is not None, **question.noted}
    repeat = request.repeat * (MAX_REASKS + 1) + question.attempt if seed is None else 0
    call_id, answer = await stage.calls.chat(
        model,
        ChatRequest(question.messages(prompt, window), role.sampling, seed, choices=question.choices, schema=schema),
        asking(role, place, reasked(purpose, question.attempt), prompt.id, tail, window, repeat=repeat),
    )
    return call_id, answer.completions[0]
