"""What a model is to the rest of the program: requests and answers as values, and one small protocol.

A request says everything that shapes its answer (messages, sampling, seed, closed choices, schema), so that a
call's id can be derived from it; how long to wait, where to retry and whom to tell about deltas is not part of it.
A backend answers a request or raises `ModelFailure`; it never retries and never waits without being cancellable.

Invariant: the same request to a model with the same `ModelIdentity` asks for the same thing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from trees.ids import digest_of

Speaker = Literal["system", "user", "assistant"]

FailureKind = Literal[
    "timeout",  # the deadline passed
    "unavailable",  # nobody answered: connection refused, 5xx, stream cut
    "rate_limited",  # 429
    "died",  # the process that holds the model ended under the call
    "bad_answer",  # an answer came and is not one: broken JSON, outside the choices, cut before a word, too large
    "too_long",  # the prompt does not fit the model's context
    "refused",  # the server says the request itself is wrong (other 4xx)
    "unsupported",  # the backend cannot do this
    "setup",  # the model cannot be loaded: missing file, corrupt file, missing package
]

RETRYABLE: frozenset[FailureKind] = frozenset({"timeout", "unavailable", "rate_limited", "died", "bad_answer"})


class ModelFailure(Exception):
    """A call that got no answer, as a value: what kind, in words, and when to come back."""

    def __init__(
        self, kind: FailureKind, message: str, *, retry_after_s: float | None = None, status: int | None = None
    ) -> None:
        """`status`: of the HTTP response that says so, if one does."""
        super().__init__(message)
        self.kind: FailureKind = kind
        self.message = message
        self.retry_after_s = retry_after_s
        self.status = status

    @property
    def retryable(self) -> bool:
        return self.kind in RETRYABLE


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a prompt. Content is any text; a backend must not let it act as template or control tokens."""

    role: Speaker
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an answer is drawn. Fields left at None are the backend's own default and are not sent."""

    max_tokens: int = 200
    """Longest answer, in tokens."""
    temperature: float = 0.8
    """0 is greedy: no seed, the same answer each time."""
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    """llama.cpp's multiplicative penalty over the last 64 tokens (1 = off)."""
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop: tuple[str, ...] = ()
    """Texts that end the answer; they are not part of it."""

    def as_dict(self) -> dict[str, object]:
        """The fields that are set, for a call's id and its row."""
        names = self.__slots__
        values = {name: getattr(self, name) for name in names}
        return {name: list(v) if name == "stop" else v for name, v in values.items() if v is not None and v != ()}


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """Ask for `n` continuations of a conversation."""

    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    seed: int | None = None
    """31 bits; None at temperature 0."""
    n: int = 1
    """How many answers, all drawn under one seed, returned in index order."""
    choices: tuple[str, ...] = ()
    """If given, the answer is exactly one of these texts and comes with the log-probability of each."""
    schema: str | None = None
    """If given, a JSON schema (canonical JSON text) that the answer satisfies."""
    lane: str = field(default="", compare=False)
    """Who asks, such as a tree: a backend that lets requests wait is fair between lanes. Shapes no answer."""


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Ask for the log-probability of each given reply as the assistant's next message."""

    messages: tuple[Message, ...]
    replies: tuple[str, ...]
    lane: str = field(default="", compare=False)
    """As in `ChatRequest`."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer. `text` never contains reasoning: what stood in <think> or a reasoning field is in `reasoning`."""

    text: str
    finish: Literal["stop", "length"] = "stop"
    reasoning: str | None = None
    choice_logprobs: Mapping[str, float] | None = None
    """Natural-log probability of each choice, normalised over the choices; None where the backend cannot tell."""


@dataclass(frozen=True, slots=True)
class ReplyScore:
    """log p(reply | messages): the sum over the reply's tokens (end token excluded), in nats, and their number."""

    logprob: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What a call cost. Tokens as the backend counts them; None where it does not say."""

    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    """Of the prompt's tokens, how many were not read again."""
    output_tokens: int | None = None
    first_token_s: float | None = None
    """Seconds from the request to the first token."""


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    completions: tuple[Completion, ...]
    usage: Usage = Usage()


@dataclass(frozen=True, slots=True)
class ScoreAnswer:
    scores: tuple[ReplyScore, ...]
    usage: Usage = Usage()


@dataclass(frozen=True, slots=True)
class EmbedAnswer:
    vectors: tuple[tuple[float, ...], ...]
    usage: Usage = Usage()


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a loaded backend can do. Asked of it, never assumed from its kind."""

    chat: bool = True
    score: bool = False
    reward: bool = False
    """`score` gives a classifier's score of the reply in place of a log-probability."""
    choice_logprobs: bool = False
    """Choices are constrained and come with log-probabilities; without it the answer is only parsed."""
    json_schema: bool = False
    embed: bool = False
    seed: bool = True
    """The seed is honoured; without it a re-run draws anew (the call log is still the truth)."""
    deterministic: bool = False
    """The same request gives the same bytes, whatever else runs beside it."""
    context: int | None = None
    """Tokens that prompt and answer may take together; None if unknown."""


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which weights answer, by content where it can be known. Two equal identities are one model."""

    backend: str
    model: str
    """Content digest of the weights, or the name the server gives."""
    revision: str = "unknown"
    quantisation: str = "unknown"
    template: str = "unknown"
    """Digest of the chat template that turns messages into tokens."""
    adapter: str | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    """Backend settings that change answers (exact mode, KV cache type, context length)."""

    def as_dict(self) -> dict[str, object]:
        return {
            "backend": self.backend,
            "model": self.model,
            "revision": self.revision,
            "quantisation": self.quantisation,
            "template": self.template,
            "adapter": self.adapter,
            "settings": dict(sorted(self.settings.items())),
        }

    @property
    def id(self) -> str:
        return digest_of("model", self.as_dict())


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prompt as the model will read it: the digest of its tokens and how many they are.

    `digest` is over token ids where the backend can see them, else over the messages; `tokens` is None if unknown.
    """

    digest: str
    tokens: int | None


def estimated_tokens(texts: Sequence[str]) -> list[int]:
    """Tokens of each text where the backend cannot count: one for every three bytes of UTF-8, begun ones included."""
    return [-(-len(text.encode("utf-8", "surrogatepass")) // 3) for text in texts]


@dataclass(frozen=True, slots=True)
class Figures:
    """What a backend counts of itself: counters since its start, and gauges of now."""

    prompt_read: int
    """Tokens of prompts that were read."""
    prompt_reused: int
    """Tokens of prompts that were known already."""
    tokens_out: int
    steps: int
    """Batches that were decoded."""
    batch_fill: float | None
    """Sequences in a step, on average over the steps counted; None where unknown or without steps."""
    running: int
    """Sequences at work now."""
    waiting: int
    """Sequences in the backend's own queue now."""
    cells_used: int | None
    """Tokens in the cache now."""
    cells: int | None
    """Tokens that the cache holds."""
    first_tokens: int = 0
    """First tokens of answers that were timed; 0 where each answer tells its own time."""
    first_token_s: float = 0.0
    """Seconds that they took, together."""

    def since(self, before: Figures | None) -> Figures:
        """The same for the time since `before` alone, unless the backend was started again after it."""
        if before is None or before.steps > self.steps or before.tokens_out > self.tokens_out:
            return self
        steps = self.steps - before.steps
        rides = (self.batch_fill or 0.0) * self.steps - (before.batch_fill or 0.0) * before.steps
        return replace(
            self,
            prompt_read=self.prompt_read - before.prompt_read,
            prompt_reused=self.prompt_reused - before.prompt_reused,
            tokens_out=self.tokens_out - before.tokens_out,
            steps=steps,
            batch_fill=rides / steps if steps and self.batch_fill is not None else None,
            first_tokens=self.first_tokens - before.first_tokens,
            first_token_s=self.first_token_s - before.first_token_s,
        )


OnDelta = Callable[[int, str], None]
"""Called with (index of the answer, new text) as an answer is written. Must not block; may be dropped."""


class Model(Protocol):
    """One loaded model. All methods may be called concurrently; cancelling an await abandons that request alone."""

    name: str
    """The name the configuration gives it."""

    @property
    def identity(self) -> ModelIdentity:
        """Known after `open`."""

    @property
    def capabilities(self) -> Capabilities:
        """Known after `open`."""

    async def open(self) -> None:
        """Load or connect. Raises ModelFailure("setup", ...) that says what to do."""

    async def prepare(self, messages: Sequence[Message]) -> Prepared:
        """Render and tokenise, without asking for anything. Cheap; also right after a restart of the backend."""

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text on its own; an estimate where the backend cannot tell."""

    async def chat(self, request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer: ...

    async def score(self, request: ScoreRequest) -> ScoreAnswer: ...

    async def embed(self, texts: Sequence[str]) -> EmbedAnswer: ...

    async def figures(self) -> Figures | None:
        """What the backend counts of itself; None where it cannot tell. Starts nothing. May raise ModelFailure."""

    async def close(self) -> None:
        """Free everything, leave no process behind. Safe to call twice."""
