"""What is said, judged and kept, as values. The store writes and reads them; nothing here knows SQL.

A tree is one persona's branching conversation. A node is one message; its parent is the message before it. A turn is
a user node and the replies under it, which are siblings. A judgement is one judge over one turn; verdicts are derived
from it for two siblings at a time.

Invariant: values are frozen, and an id says where a thing stands, never what it says (that is `digest`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from trees.ids import text_digest

Speaker = Literal["user", "assistant"]
Origin = Literal["model", "human", "import"]
Outcome = Literal["win", "tie", "both_bad", "unstable", "abstain"]
Unit = Literal["probability", "nats", "points", "reward"]
RunKind = Literal["play", "human", "import"]
RunState = Literal["new", "running", "paused", "stopped", "finished", "failed"]
TreeState = Literal["growing", "done", "failed"]
Split = Literal["train", "held_out"]


@dataclass(frozen=True, slots=True)
class Node:
    """One message of a tree."""

    id: str
    tree_id: str
    parent_id: str | None
    """The message before; None for a root."""
    turn: int
    """From 1; a user node and the replies under it share it."""
    speaker: Speaker
    role: str
    """The configured role that spoke: `user`, `responder.NAME`, or `human`."""
    replica: str
    """Place among its siblings of the same role: a sample index, or an operation and its index."""
    text: str
    origin: Origin = "model"
    reasoning: str | None = None
    """What a reasoning model thought before it spoke. Never shown to judge, transcript or trainer."""
    call_id: str | None = None
    answer: int = 0
    """Index of this text among the call's answers."""
    model_id: str | None = None
    hinted: bool = False
    """Whether the responder was told what the user had revealed."""
    drift: str | None = None
    """What the drift detector still found after the last re-roll; None if nothing."""
    rerolls: int = 0
    """How often the message was asked again because it drifted."""
    operation_id: str | None = None

    @property
    def digest(self) -> str:
        return text_digest(self.text)


BY_HAND = "operation"
"""The policy of a mark that says a person went on from a reply: the run's own branching did not."""


@dataclass(frozen=True, slots=True)
class Continued:
    """That the branching policy, or a person, went on from a node, and why."""

    node_id: str
    policy: str
    reason: str


@dataclass(frozen=True, slots=True)
class Ledger:
    """What the user revealed with one message, as the inducer read it. The whole ledger is the sum along a path."""

    node_id: str
    facts: tuple[str, ...]
    """Facts new at this message."""
    sees_persona: bool
    """True: the inducer was shown the persona (an oracle). False: it read the transcript alone (blind)."""
    call_id: str | None = None
    dropped: int = 0
    """Facts that the inducer named and the user's words do not support."""
    failure: str | None = None
    """Why the inducer gave nothing readable; None if it did."""


@dataclass(frozen=True, slots=True)
class Presentation:
    """One showing of a turn's candidates to a judge."""

    order: tuple[str, ...]
    """Node ids in the order shown."""
    call_id: str | None
    raw: str
    """What the judge answered, word for word."""
    probabilities: Mapping[str, float] = field(default_factory=dict)
    """Per label or node id, where the backend gives them."""
    label: str | None = None
    """The label read from the answer; None if it could not be read."""


@dataclass(frozen=True, slots=True)
class Score:
    """A judge's number for one node."""

    node_id: str
    unit: Unit
    value: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judgement says of two siblings. For a win, `first_id` is the winner."""

    first_id: str
    second_id: str
    outcome: Outcome
    margin: float | None = None
    """Difference of their scores in `unit`, not negative; None where the judge has no scores."""
    unit: Unit | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """One judge over one turn."""

    id: str
    node_id: str
    """The turn's user node."""
    judge_id: str
    repeat: int
    """0 for the first judgement of this judge on this turn; later ones count for the flip rate."""
    covers: tuple[str, ...]
    """The replies that were compared."""
    presentations: tuple[Presentation, ...] = ()
    scores: tuple[Score, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    complete: bool = True
    """False if a call failed: its verdicts are abstentions and it counts for no pair."""
    cause: str | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One request to one model, with its answer. The prompt itself is not kept: see `Use`."""

    id: str
    kind: Literal["chat", "score", "embed"]
    model_id: str
    request: Mapping[str, object]
    """Sampling, seed, n, choices, digest of the schema, digests of scored replies."""
    messages_digest: str
    """Over the rendered messages: what `verify` derives again."""
    prompt_digest: str
    """Over the prompt's tokens where the backend can see them."""
    answer: Mapping[str, object]
    tokens_in: int | None = None
    tokens_cached: int | None = None
    tokens_out: int | None = None
    first_token_s: float | None = None
    seconds: float = 0.0
    attempts: tuple[Mapping[str, object], ...] = ()
    """The attempts that failed before the answer came."""


@dataclass(frozen=True, slots=True)
class Use:
    """Where and why a call was asked: enough to render its prompt again. A call shared by runs has a use in each."""

    run_id: str
    call_id: str
    tree_id: str
    node_id: str
    """The node the prompt's path ends at, or the tree for an opening."""
    role: str
    purpose: str
    """What for, with its sample, re-roll or presentation: `speak`, `speak.reroll1`, `judge.0`."""
    prompt_id: str
    tail: Mapping[str, object] = field(default_factory=dict)
    """What the prompt's last part was given; texts of nodes by their ids."""
    epoch: int = 0
    """How often the middle of the path had been cut to fit the context window."""


@dataclass(frozen=True, slots=True)
class CallFailure:
    """A call that got no answer, kept as data."""

    run_id: str
    tree_id: str
    node_id: str
    role: str
    purpose: str
    call_id: str
    kind: str
    message: str
    attempts: tuple[Mapping[str, object], ...] = ()


@dataclass(frozen=True, slots=True)
class ModelFigures:
    """What one model did in one stretch of a run. Gauges are those of its end."""

    model: str
    """Its name in the configuration."""
    at: float
    """End of the stretch, in Unix seconds."""
    interval_s: float
    answered: int
    failed: int
    retries: int
    permits: int
    held: int
    """Calls with the model."""
    queued: int
    """Calls that wait for a permit."""
    first_token_median_s: float | None
    """Over the calls answered that say; the mean of all requests where the backend alone tells, in sum."""
    first_token_p95_s: float | None
    prompt_read: int
    prompt_reused: int
    tokens_out: int
    steps: int | None = None
    """This and what follows: as the backend tells, None where it does not."""
    batch_fill: float | None = None
    """Sequences in a step, on average."""
    running: int | None = None
    waiting: int | None = None
    cells_used: int | None = None
    cells: int | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn, complete: what is committed together."""

    user: Node
    ledger: Ledger | None
    replies: tuple[Node, ...]
    judgements: tuple[Judgement, ...] = ()
    continued: tuple[Continued, ...] = ()
    new_user: bool = True
    """False when the turn adds replies under a user node that is stored already."""


def winner(judgement: Judgement) -> str | None:
    """The reply that a judgement prefers to all others, or None.

    It has at least one win and no loss. Where several do (ties between them), the higher score decides; without
    scores, or with equal ones, there is no winner.
    """
    wins = [v for v in judgement.verdicts if v.outcome == "win"]
    undefeated = {v.first_id for v in wins} - {v.second_id for v in wins}
    if len(undefeated) <= 1:
        return next(iter(undefeated), None)
    values = {s.node_id: s.value for s in judgement.scores}
    ranked = sorted(undefeated, key=lambda n: values.get(n, float("-inf")), reverse=True)
    best, second = (values.get(n, float("-inf")) for n in ranked[:2])
    return ranked[0] if best > second else None
