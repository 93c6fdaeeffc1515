"""What travels between the play and the agents: requests, and one kind of reply.

Every request is a frozen pydantic model that says everything the agent needs (agents keep no state), so that the same
agents work in this process and, over AutoGen's gRPC runtime, in another. A reply is always a `Reply`: errors are
values in it, and an agent never answers with nothing.

Invariant: the id of whatever comes out of a request is known before it is sent; see `trees.ids`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from trees.situations import Situation
from trees.values import Judgement, Ledger


class Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Line(Wire):
    """One message of the transcript, as everybody hears it."""

    speaker: Literal["user", "assistant"]
    text: str


class Person(Wire):
    """The persona, ready to be read: the personality's pronouns already fit the profile."""

    profile: str
    personality: str
    facts: tuple[str, ...]
    """Facts and traits one by one."""
    situation: Situation | None = None
    """What brings them to talk. What it says stands in tails alone, since it may change with the turn."""


class Place(Wire):
    """Where in a run something is asked."""

    run_id: str
    run_seed: int
    tree_id: str
    node_id: str
    """Where the transcript ends; the tree for an opening."""
    turn: int


class Candidate(Wire):
    """A reply to be judged."""

    node_id: str
    text: str
    hinted: bool


class SpeakRequest(Wire):
    """Ask the persona user for the next message."""

    place: Place
    prompt_id: str
    person: Person
    history: tuple[Line, ...]
    replica: str = "0"


class InduceRequest(Wire):
    """Ask the inducer what the last message revealed. `person` is None for a blind inducer."""

    place: Place
    prompt_id: str
    person: Person | None
    history: tuple[Line, ...]
    known: tuple[str, ...]


class RespondRequest(Wire):
    """Ask a responder for candidates. `hint` is the ledger, or None for a responder that gets none."""

    place: Place
    role: str
    prompt_id: str
    history: tuple[Line, ...]
    hint: tuple[str, ...] | None
    person: Person | None = None
    """The persona, for a responder that is told it whole."""
    replica: str = ""
    """Prefix of the replicas' names: empty, or an operation and its index."""
    samples: int | None = None
    """How many answers; None for as many as the role gives each turn."""


class JudgeRequest(Wire):
    """Ask a judge about a turn's candidates."""

    place: Place
    judge: str
    prompt_id: str
    person: Person | None
    history: tuple[Line, ...]
    candidates: tuple[Candidate, ...]
    revealed: tuple[str, ...]
    repeat: int = 0


class Said(Wire):
    """One message that an agent wrote."""

    text: str
    reasoning: str | None = None
    call_id: str
    answer: int = 0
    model_id: str
    drift: str | None = None
    rerolls: int = 0


class Failed(Wire):
    """Why there is no result: the kind of failure, and in words."""

    kind: str
    message: str


class Reply(Wire):
    """The one reply type. Exactly one of the fields is set (`said` may be empty only with `failed`)."""

    said: tuple[Said, ...] = ()
    ledger: Ledger | None = None
    judgement: Judgement | None = None
    failed: Failed | None = None


Request = SpeakRequest | InduceRequest | RespondRequest | JudgeRequest
