"""A model without weights: every answer is a pure function of the request, and costs microseconds.

It lets the whole program run and be tested on any machine: a persona user gives away its persona sentence by
sentence, responders take up what was said or hinted, an inducer finds sentences of the person, scores and
choices lean towards replies that share words with the prompt. To do so it reads the shape of the shipped
prompts (`Label: text` lines of the head are facts, `PERSON:` begins what the person said, a last paragraph in
parentheses is an instruction); under prompts of another shape it still answers, only less aptly.

Invariant: the answer depends on the variant and the request alone, never on earlier requests or their order.
What is cached is the reading of texts, which is a function of the text.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import accumulate
from typing import Any, Literal
from zlib import crc32

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from agents.models.protocol import (
    Capabilities,
    ChatAnswer,
    ChatRequest,
    Completion,
    EmbedAnswer,
    FailureKind,
    Figures,
    Message,
    ModelFailure,
    ModelIdentity,
    OnDelta,
    Prepared,
    ReplyScore,
    Sampling,
    ScoreAnswer,
    ScoreRequest,
    Usage,
)
from agents.models.settings import ModelSettings
from trees.ids import digest_of

OPERATIONAL: dict[str, JsonValue] = {"operational": True}
REVISION = "1"
"""Raised when the same request would be answered differently than before."""
EMBED_SIZE = 64
CHARACTERS_PER_TOKEN = 4

_NATS_PER_WORD = -3.0
_NATS_FOR_KNOWN_WORD = 1.5
_DRIFTED = "As an AI language model, I am here to help you. How can I assist you today?"

_WORD = re.compile(r"[^\W_]+")
_TOPIC = re.compile(r"[^\W\d_]{5,}")
_SENTENCE = re.compile(r"[^.!?\n]+[.!?]?")
_LABELLED = re.compile(r"[^\s\-*][^\n:.]{1,60}: (\S.*)")
_MARKER = re.compile(r"\[\[marker:[^\]\s]{1,64}\]\]")
_TEXT_PIECE = re.compile(r"\S+\s*")


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(phrase.strip() for phrase in text.split("|"))


_DULL = frozenset(
    _phrases(
        """about | after | again | always | because | before | being | could | doing | every | going |
        having | might | never | other | really | should | since | something | still | their | there | these |
        thing | things | think | those | though | today | until | where | which | while | would | write"""
    )
)
_WHEN = _phrases(
    """This morning | Last night | On Sunday | After lunch | The other day | Before work | Around noon |
    In the rain"""
)
_DID = _phrases(
    """walked by the river | tried a new recipe | called an old friend | mended the kitchen door |
    watched the trains | read half a novel | planted some mint | lost my umbrella | slept far too long |
    found a small café | cleaned out a drawer | listened to the radio | missed the bus twice |
    painted a chair blue | baked plum cake | wrote two postcards | swam in the lake | repaired a lamp |
    met a stray cat | counted my savings | burnt the toast | sang in the shower | bought new shoelaces |
    sorted old photographs | argued about football | picked wild garlic | dreamt of whales |
    waited for a parcel"""
)
_FELT = _phrases(
    """and it was lovely | and I felt tired | which made me laugh | and time flew | so I am late |
    and nobody minded | as one does | for no reason at all | like years ago | and slept well after |
    though nobody asked"""
)
_OPENERS = _phrases(
    """You know, | Well, | Between us, | To be honest, | By the way, | Funny thing: | I should say: |
    As it happens,"""
)
_PERSON_ECHOES = _phrases(
    """What you say about {} stays with me. | I had not thought of {} like that. | Yes, {} is what I mean. |
    Funny that you bring up {}. | {} again, it follows me around. | I could talk about {} for hours."""
)
_REPLY_ECHOES = _phrases(
    """It sounds like {} means a lot to you. | I like how you talk about {}. | Tell me more about {}. |
    What is it about {} that draws you? | How did {} come into your day? | I can see why {} matters. |
    So {} is on your mind. | There is something warm in the way you mention {}."""
)
_REACTIONS = _phrases(
    """That is good to hear. | I see. | How nice! | Oh, I understand. | Thank you for telling me. |
    Ha, lovely."""
)
_QUESTIONS = _phrases(
    """What happened next? | How do you feel now? | Would you do it again? | Who was with you? |
    What will you do tomorrow? | Does that happen often? | Was it worth it? | What would make it better?"""
)


class ScriptedFailures(BaseModel):
    """What goes wrong, decided by each request's digest, so that a request fails again when asked again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    every: int = Field(default=0, ge=0, description="One request in so many fails; 0: none.")
    kind: FailureKind = Field(default="unavailable", description="How it fails.")
    empty_every: int = Field(default=0, ge=0, description="One request in so many gets an empty text; 0: none.")
    drift_every: int = Field(default=0, ge=0, description="One request in so many is answered out of role; 0: none.")


class ScriptedConfig(ModelSettings):
    """A model without weights."""

    kind: Literal["scripted"] = Field(description="Deterministic sentences, for trials and tests.")
    variant: str = Field("", description="Any text; scripted models with different ones answer differently.")
    latency_s: float = Field(
        0.0, ge=0, json_schema_extra=OPERATIONAL, description="Time that each answer takes, in seconds."
    )
    failures: ScriptedFailures = Field(ScriptedFailures(), description="What goes wrong on purpose.")
    says: tuple[str, ...] = Field((), description="Say one of these in place of sentences of its own: a generic reply.")
    context: int = Field(8192, ge=256, description="Tokens (of four characters) that prompt and answer may take.")


class ScriptedModel:
    """See the module's docstring."""

    def __init__(self, name: str, config: ScriptedConfig) -> None:
        self.name = name
        self._config = config
        self._variant = config.variant

    @property
    def identity(self) -> ModelIdentity:
        settings: dict[str, object] = {"variant": self._variant, "context": self._config.context}
        if self._config.failures != ScriptedFailures():
            settings["failures"] = self._config.failures.model_dump()
        if self._config.says:
            settings["says"] = list(self._config.says)
        return ModelIdentity("scripted", "scripted", REVISION, "none", "none", settings=settings)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            score=True,
            choice_logprobs=True,
            json_schema=True,
            embed=True,
            deterministic=True,
            context=self._config.context,
        )

    async def open(self) -> None:
        """Nothing to load."""

    async def prepare(self, messages: Sequence[Message]) -> Prepared:
        return Prepared(digest_of("messages", [[m.role, m.content] for m in messages]), None)

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [-(-len(text) // CHARACTERS_PER_TOKEN) for text in texts]

    async def chat(self, request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
        await self._take_time()
        prompt_tokens = self._prompt_tokens(request.messages)
        digest = _digest(self._variant, request)
        failures = self._config.failures
        if _falls_on(digest, failures.every):
            raise ModelFailure(failures.kind, "the script has this request fail")
        completions = tuple(self._complete(request, digest, index) for index in range(request.n))
        if on_delta is not None:
            for index, completion in enumerate(completions):
                for piece in _TEXT_PIECE.findall(completion.text):
                    on_delta(index, piece)
        written = sum(completion.text.count(" ") + 1 for completion in completions)
        return ChatAnswer(completions, Usage(prompt_tokens=prompt_tokens, output_tokens=written))

    async def score(self, request: ScoreRequest) -> ScoreAnswer:
        """About three nats a word, half of it back for a word that stands in the prompt."""
        await self._take_time()
        prompt_tokens = self._prompt_tokens(request.messages)
        known = [_words(message.content) for message in request.messages]
        scores = tuple(_score(self._variant, reply, known) for reply in request.replies)
        return ScoreAnswer(scores, Usage(prompt_tokens=prompt_tokens, output_tokens=0))

    async def embed(self, texts: Sequence[str]) -> EmbedAnswer:
        """Hashed bags of words, of length 1."""
        await self._take_time()
        return EmbedAnswer(tuple(_embedding(text) for text in texts))

    async def figures(self) -> Figures | None:
        return None

    async def close(self) -> None:
        """Nothing to free."""

    async def _take_time(self) -> None:
        if self._config.latency_s:
            await asyncio.sleep(self._config.latency_s)

    def _prompt_tokens(self, messages: Sequence[Message]) -> int:
        tokens = sum(len(message.content) for message in messages) // CHARACTERS_PER_TOKEN
        if tokens >= self._config.context:
            raise ModelFailure("too_long", f"{tokens} tokens of prompt in a context of {self._config.context}")
        return tokens

    def _complete(self, request: ChatRequest, digest: bytes, index: int) -> Completion:
        failures = self._config.failures
        draws = _Draws(digest, index)
        if request.choices:
            return _choose(request, draws)
        if request.schema is not None:
            value = _fill(_parsed(request.schema), request.messages[-1].content, draws)
            return Completion(json.dumps(value, ensure_ascii=False))
        if _falls_on(digest, failures.empty_every):
            return Completion("")
        if self._config.says:
            return _ended(draws.of(self._config.says), request.sampling)
        text = _DRIFTED if _falls_on(digest, failures.drift_every) else _speak(request.messages, draws, self._variant)
        return _ended(text + _markers(request.messages[-1].content), request.sampling)


# ---- chance


class _Draws:
    """Numbers that one answer's digest decides, one after the other."""

    __slots__ = ("_left",)

    def __init__(self, digest: bytes, index: int) -> None:
        own = blake2b(digest, digest_size=24, salt=index.to_bytes(8, "little")).digest()
        self._left = int.from_bytes(own, "little")

    def below(self, bound: int) -> int:
        self._left, drawn = divmod(self._left, bound)
        return drawn

    def of(self, items: Sequence[str]) -> str:
        return items[self.below(len(items))]


def _digest(variant: str, request: ChatRequest) -> bytes:
    """Over everything that shapes the answer; lengths keep neighbouring texts apart."""
    asked = (
        variant,
        _sampling_key(request.sampling),
        request.seed,
        request.n,
        request.choices,
        request.schema,
    )
    hashed = blake2b(repr(asked).encode("utf-8", "surrogatepass"), digest_size=16)
    for message in request.messages:
        content = message.content.encode("utf-8", "surrogatepass")
        hashed.update(b"%b %d " % (message.role.encode(), len(content)))
        hashed.update(content)
    return hashed.digest()


@lru_cache(maxsize=256)
def _sampling_key(sampling: Sampling) -> str:
    return repr(sampling.as_dict())


def _falls_on(digest: bytes, every: int) -> bool:
    return every > 0 and int.from_bytes(digest[:8], "little") % every == 0


# ---- speech


def _speak(messages: Sequence[Message], draws: _Draws, variant: str) -> str:
    """One to three sentences: as the person, if the head gives a life, else as somebody who answers."""
    head = messages[0].content if messages[0].role == "system" else ""
    facts = _facts(head)
    topics = _topics(messages[-1].content)
    topic = draws.of(topics) if topics else "it"
    if not facts:
        return f"{draws.of(_REACTIONS)} {draws.of(_REPLY_ECHOES).format(topic)} {draws.of(_QUESTIONS)}"
    told = sum(message.role == "assistant" for message in messages)
    parts = []
    if topics and told:
        parts.append(_capital(draws.of(_PERSON_ECHOES).format(topic)))
    if told < len(facts):
        fact = facts[(told + crc32(variant.encode("utf-8", "surrogatepass"))) % len(facts)]
        parts.append(f"{draws.of(_OPENERS)} {fact}")
    parts.append(f"{draws.of(_WHEN)} I {draws.of(_DID)}, {draws.of(_FELT)}.")
    return " ".join(parts)


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


@lru_cache(maxsize=1024)
def _facts(head: str) -> tuple[str, ...]:
    """What a head says of somebody, by sentences: its `Label: text` lines and those that go on from them."""
    facts: list[str] = []
    within = False
    for line in head.splitlines():
        labelled = _LABELLED.fullmatch(line)
        within = labelled is not None or (within and bool(line.strip()) and line[0] not in "-*")
        if within:
            facts += _sentences(labelled.group(1) if labelled else line)
    return tuple(facts)


@lru_cache(maxsize=1024)
def _topics(last: str) -> tuple[str, ...]:
    """Words worth taking up: of the hint, if the message ends in one, else of what was said."""
    said, _, instruction = last.rpartition("\n\n(")
    hints = [line for line in instruction.splitlines() if line.startswith("- ")]
    words = _TOPIC.findall(" ".join(hints) or said or last)
    return tuple(dict.fromkeys(word for word in words if word.casefold() not in _DULL))


def _sentences(text: str) -> list[str]:
    """The sentences of a text that say something: no questions, nothing shorter than three words."""
    found = (match.strip() for match in _SENTENCE.findall(text))
    return [sentence for sentence in found if sentence.count(" ") >= 2 and not sentence.endswith("?")]


def _markers(last: str) -> str:
    """The markers of the last message, so that a test can tell whose answer it is."""
    return "".join(f" {marker}" for marker in _MARKER.findall(last)) if "[[marker:" in last else ""


def _ended(text: str, sampling: Sampling) -> Completion:
    """The text up to a stop text or the longest answer, a word being a token."""
    for stop in sampling.stop:
        text = text.partition(stop)[0]
    if text.count(" ") < sampling.max_tokens:
        return Completion(text)
    return Completion(" ".join(text.split(" ")[: sampling.max_tokens]), "length")


# ---- closed answers


def _choose(request: ChatRequest, draws: _Draws) -> Completion:
    """A choice drawn by probabilities that lean towards candidates with words of the head in them."""
    head = _words(request.messages[0].content)
    candidates = _candidates(request.messages[-1].content, request.choices)
    weights = {}
    for choice, candidate in zip(request.choices, candidates, strict=True):
        words = _words(candidate)
        overlap = len(words & head) / len(words) if words else 0.0
        weights[choice] = math.exp(draws.below(1024) / 1024 + 2.0 * overlap)
    total = sum(weights.values())
    logprobs = {choice: math.log(weight / total) for choice, weight in weights.items()}
    if request.sampling.temperature == 0:
        return Completion(max(weights, key=weights.__getitem__), choice_logprobs=logprobs)
    drawn = draws.below(1 << 20) / (1 << 20) * total
    place = bisect_right(list(accumulate(weights.values())), drawn)
    # Rounding may leave the last bound a hair below the total.
    return Completion(request.choices[min(place, len(weights) - 1)], choice_logprobs=logprobs)


def _candidates(question: str, labels: Sequence[str]) -> list[str]:
    """What stands under each label (`A:` on a line of its own) in a question; empty where it has no line."""
    begins = [question.find(f"\n{label}:\n") for label in labels]
    ends = sorted(begin for begin in begins if begin >= 0)
    texts = []
    for label, begin in zip(labels, begins, strict=True):
        end = next((other for other in ends if other > begin), len(question))
        texts.append(question[begin + len(label) + 3 : end] if begin >= 0 else "")
    return texts


@lru_cache(maxsize=64)
def _parsed(schema: str) -> Mapping[str, Any]:
    parsed: Mapping[str, Any] = json.loads(schema)
    return parsed


def _fill(schema: Mapping[str, Any], last: str, draws: _Draws) -> JsonValue:
    """A value that satisfies a simple schema. Lists of texts are sentences of what was said last."""
    if "enum" in schema:
        chosen: JsonValue = schema["enum"][draws.below(len(schema["enum"]))]
        return chosen
    match schema.get("type"):
        case "object":
            return {name: _fill(part, last, draws) for name, part in schema.get("properties", {}).items()}
        case "array":
            return _fill_list(schema, last, draws)
        case "string":
            sentences = _sentences(_last_said(last))
            return draws.of(sentences) if sentences else draws.of(_REACTIONS)
        case "integer" | "number":
            low = int(schema.get("minimum", 0))
            return low + draws.below(max(1, int(schema.get("maximum", low + 9)) - low + 1))
        case "boolean":
            return bool(draws.below(2))
    raise ModelFailure("unsupported", f"the script cannot fill the schema {json.dumps(schema)[:200]}")


def _fill_list(schema: Mapping[str, Any], last: str, draws: _Draws) -> list[JsonValue]:
    items = schema.get("items", {})
    least = int(schema.get("minItems", 0))
    most = int(schema.get("maxItems", max(least, 2)))
    if items.get("type") != "string" or "enum" in items:
        return [_fill(items, last, draws) for _ in range(max(least, min(most, 1)))]
    sentences = _sentences(_last_said(last))[: min(most, 2)]
    missing = range(least - len(sentences))
    return [*sentences, *(draws.of(_REACTIONS) for _ in missing)]


def _last_said(last: str) -> str:
    """What the person said last, out of a transcript or a message."""
    _, transcript, after = last.rpartition("PERSON:\n")
    if transcript:
        return after.partition("\n\n")[0]
    said, _, _ = last.rpartition("\n\n(")
    return said or last


# ---- numbers


@lru_cache(maxsize=1024)
def _words(text: str) -> frozenset[str]:
    """The longer words of a text, folded: short ones are shared by all texts."""
    return frozenset(word for word in _WORD.findall(text.casefold()) if len(word) > 3)


def _score(variant: str, reply: str, known: Sequence[frozenset[str]]) -> ReplyScore:
    words, alone = _alone(variant, reply)
    shared = sum(any(word in text for text in known) for word in words)
    return ReplyScore(alone + _NATS_FOR_KNOWN_WORD * shared, len(words))


@lru_cache(maxsize=1024)
def _alone(variant: str, reply: str) -> tuple[tuple[str, ...], float]:
    """The words of a reply, and its log-probability under a prompt that shares none of them."""
    words = tuple(_WORD.findall(reply.casefold())) or ("",)
    # Not the same for every word, so that two replies seldom tie.
    own = (crc32(f"{variant} {word}".encode("utf-8", "surrogatepass")) % 256 / 1024 for word in words)
    return words, sum(_NATS_PER_WORD - extra for extra in own)


def _embedding(text: str) -> tuple[float, ...]:
    vector = [0.0] * EMBED_SIZE
    for word in _WORD.findall(text.casefold()) or [""]:
        hashed = crc32(word.encode("utf-8", "surrogatepass"))
        vector[hashed % EMBED_SIZE] += 1.0 if hashed & 0x8000_0000 else -1.0
    length = math.sqrt(sum(x * x for x in vector))
    # Words of opposite sign may cancel out; any fixed direction will do then.
    return tuple(x / length for x in vector) if length else (1.0, *vector[1:])
