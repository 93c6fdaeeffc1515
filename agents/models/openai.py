"""Any OpenAI-compatible server as a model: vLLM, llama.cpp's server, hosted ones; several endpoints balanced.

One HTTP session with kept-alive connections, no SDK: a call costs a fraction of a millisecond of CPU. What
the server can do is asked when the model is opened, with a request for one token, and never assumed.

Invariant: nothing is asked twice here (an endpoint that failed is avoided for a while, so the retry goes to
another), nothing is read without a bound, cancelling closes the connection, and the key is in no message,
value or log.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal
from urllib.parse import urlsplit

import aiohttp
from pydantic import ConfigDict, Field, JsonValue, field_validator

from agents.models.openai_wire import (
    MAX_BYTES,
    TOP_LOGPROBS,
    AnswerReader,
    Dialect,
    EventParser,
    chat_body,
    failure_of,
    parse_json,
)
from agents.models.protocol import (
    Capabilities,
    ChatAnswer,
    ChatRequest,
    EmbedAnswer,
    Message,
    ModelFailure,
    ModelIdentity,
    OnDelta,
    Prepared,
    Sampling,
    ScoreAnswer,
    ScoreRequest,
    Usage,
    estimated_tokens,
)
from agents.models.settings import ModelSettings
from trees.ids import digest_of

OPERATIONAL: dict[str, JsonValue] = {"operational": True}
AVOID_S = 5.0
"""Seconds for which an endpoint that failed is asked only if all others failed too."""
CONNECT_S = 10.0
DRAIN_S = 1.0
"""Seconds for which the end of a stream is awaited after its last event, to keep the connection."""
MAX_ERROR_BYTES = 64 * 1024
_OURS = frozenset({"model", "messages", "n", "seed", "stream", "stream_options", *Sampling.__slots__})
"""Request fields that the request itself decides."""


class OpenAIConfig(ModelSettings):
    """A model behind an OpenAI-compatible server."""

    # A refused endpoint may hold a password; pydantic would print it.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    kind: Literal["openai"] = Field(description="An OpenAI-compatible server.")
    model: str = Field(min_length=1, description="Name of the model as the server lists it.")
    endpoints: tuple[str, ...] = Field(
        min_length=1,
        json_schema_extra=OPERATIONAL,
        description="Base URLs, such as http://127.0.0.1:8000/v1; the one with the fewest calls is asked.",
    )
    api_key_env: str | None = Field(
        None,
        json_schema_extra=OPERATIONAL,
        description="Name of the environment variable that holds the key; none if no key is needed.",
    )
    revision: str = Field("unknown", description="Revision of the weights, which the server cannot tell.")
    context: int | None = Field(
        None, ge=256, description="Tokens that prompt and answer may take together; leave out if unknown."
    )
    dialect: Literal["auto", "openai", "vllm", "llama.cpp"] = Field(
        "auto", description="How a closed set of answers is asked for; auto recognises vLLM and llama.cpp."
    )
    extra_body: dict[str, JsonValue] = Field(
        default_factory=dict, description="Further fields of every chat request, where a server needs them."
    )
    stream: bool = Field(
        True,
        json_schema_extra=OPERATIONAL,
        description="Whether answers are read while they are written, which shows them live.",
    )

    @field_validator("endpoints")
    @classmethod
    def _plain_urls(cls, endpoints: tuple[str, ...]) -> tuple[str, ...]:
        for endpoint in endpoints:
            url = urlsplit(endpoint)
            if url.scheme not in ("http", "https") or not url.hostname:
                raise ValueError("an endpoint is a URL such as http://127.0.0.1:8000/v1")
            if url.username or url.password or url.query or url.fragment:
                raise ValueError("an endpoint holds no user, password or query: name the key in api_key_env")
        return tuple(endpoint.rstrip("/") for endpoint in endpoints)

    @field_validator("extra_body")
    @classmethod
    def _not_ours(cls, extra: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if taken := sorted(_OURS.intersection(extra)):
            raise ValueError(f"extra_body may not set {', '.join(taken)}: the request decides that")
        return extra


@dataclass(slots=True)
class Endpoint:
    """One base URL, with how busy and how well it is."""

    url: str
    in_flight: int = 0
    avoided_until: float = 0.0
    """On the monotonic clock."""


def least_busy(endpoints: Sequence[Endpoint], now: float) -> Endpoint:
    """The endpoint to ask next: one that is not avoided, with the fewest calls in flight."""
    return min(endpoints, key=lambda e: (e.avoided_until if e.avoided_until > now else 0.0, e.in_flight))


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a request for one token found out about the server."""

    logprobs: bool = False
    several: bool = False
    """One request may ask for several answers."""
    limit_field: str = "max_tokens"
    """What the server calls the longest answer."""


class OpenAIModel:
    """See the module's docstring."""

    def __init__(self, name: str, config: OpenAIConfig) -> None:
        self.name = name
        self._config = config
        self._endpoints = [Endpoint(url) for url in config.endpoints]
        self._session: aiohttp.ClientSession | None = None
        self._key = ""
        self._dialect: Dialect | None = None if config.dialect == "auto" else config.dialect
        self._dialect_known = config.dialect != "auto"
        self._abilities = Abilities()

    @property
    def identity(self) -> ModelIdentity:
        settings = {"extra_body": self._config.extra_body, "dialect": self._resolved}
        return ModelIdentity("openai", self._config.model, self._config.revision, settings=settings)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            choice_logprobs=self._abilities.logprobs,
            json_schema=self._dialect_known,
            context=self._config.context,
        )

    async def open(self) -> None:
        """Connect, find the model, ask what the server can do."""
        self._key = _key_from(self._config.api_key_env)
        headers = {"Accept-Encoding": "identity", "Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        self._session = aiohttp.ClientSession(
            headers=headers,
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
        )
        try:
            await self._find_model()
            self._abilities = await self._probe()
        except ModelFailure as failure:
            await self.close()
            if failure.kind == "setup":
                raise
            raise ModelFailure("setup", f"model {self._config.model!r}: {failure.message}") from failure

    async def prepare(self, messages: Sequence[Message]) -> Prepared:
        """The digest of the messages: the server's tokens cannot be seen."""
        return Prepared(digest_of("messages", [[m.role, m.content] for m in messages]), None)

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """An estimate: a token for every three bytes of UTF-8, begun ones included."""
        return estimated_tokens(texts)

    async def chat(self, request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
        if request.n > 1 and not self._abilities.several:
            return await self._chat_one_by_one(request, on_delta)
        reader = AnswerReader(request, on_delta)
        body = self._body(request, stream=self._config.stream)
        async with self._posted("/chat/completions", body) as response:
            streamed = response.content_type == "text/event-stream"
            if streamed:
                await _read_stream(response, reader)
            else:
                reader.take_whole(await _read_bounded(response))
            return reader.answer(streamed=streamed)

    async def score(self, request: ScoreRequest) -> ScoreAnswer:
        raise ModelFailure("unsupported", "an OpenAI-compatible server does not score given replies")

    async def embed(self, texts: Sequence[str]) -> EmbedAnswer:
        async with self._posted("/embeddings", {"model": self._config.model, "input": list(texts)}) as response:
            body = parse_json(await _read_bounded(response))
        return EmbedAnswer(_vectors(body, len(texts)))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    # ---- asking

    @property
    def _resolved(self) -> Dialect:
        if self._dialect is None:
            raise RuntimeError(f"model {self.name!r} is not open")
        return self._dialect

    def _body(self, request: ChatRequest, *, stream: bool) -> dict[str, object]:
        limit_field = self._abilities.limit_field
        body = chat_body(request, self._config.model, self._resolved, stream=stream, limit_field=limit_field)
        if request.choices and self._abilities.logprobs:
            body |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        return body | self._config.extra_body

    async def _chat_one_by_one(self, request: ChatRequest, on_delta: OnDelta | None) -> ChatAnswer:
        """Several answers from a server that gives one a request: their seeds follow from the call's."""
        answers = []
        for index in range(request.n):
            seed = None if request.seed is None else int(digest_of("sample", request.seed, index)[:7], 16)
            shifted = None if on_delta is None else _shifted(on_delta, index)
            answers.append(await self.chat(replace(request, n=1, seed=seed), shifted))
        return ChatAnswer(
            tuple(completion for answer in answers for completion in answer.completions),
            Usage(
                prompt_tokens=_sum_if_known([answer.usage.prompt_tokens for answer in answers]),
                cached_tokens=_sum_if_known([answer.usage.cached_tokens for answer in answers]),
                output_tokens=_sum_if_known([answer.usage.output_tokens for answer in answers]),
                first_token_s=answers[0].usage.first_token_s,
            ),
        )

    @asynccontextmanager
    async def _posted(self, path: str, body: Mapping[str, object]) -> AsyncIterator[aiohttp.ClientResponse]:
        endpoint = least_busy(self._endpoints, time.monotonic())
        async with self._response(endpoint, "POST", path, json.dumps(body).encode("ascii")) as response:
            yield response

    @asynccontextmanager
    async def _response(
        self,
        endpoint: Endpoint,
        method: str,
        path: str,
        data: bytes | None = None,
        *,
        may_lack: bool = False,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response with status 2xx, or 404 where the path may be lacking. What goes wrong here or in the
        body is a ModelFailure without the key.
        """
        if self._session is None:
            raise RuntimeError(f"model {self.name!r} is not open")
        endpoint.in_flight += 1
        try:
            async with self._session.request(method, endpoint.url + path, data=data, allow_redirects=False) as response:
                if not (200 <= response.status < 300 or (may_lack and response.status == 404)):
                    raise await _failure_response(response)
                yield response
        except (aiohttp.ClientError, OSError) as error:
            # asyncio's own TimeoutError is an OSError too: the socket's, since no other timeout runs in here.
            what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise self._blamed(endpoint, ModelFailure("unavailable", what)) from error
        except ModelFailure as failure:
            raise self._blamed(endpoint, failure) from failure.__cause__
        finally:
            endpoint.in_flight -= 1

    def _blamed(self, endpoint: Endpoint, failure: ModelFailure) -> ModelFailure:
        """The failure with its endpoint named and the key struck out; the endpoint is avoided if it is to
        blame.
        """
        if failure.kind in ("unavailable", "rate_limited"):
            endpoint.avoided_until = time.monotonic() + max(AVOID_S, failure.retry_after_s or 0.0)
        message = f"{endpoint.url}: {failure.message}"
        if self._key:
            message = _struck_out(message, self._key)
        return ModelFailure(failure.kind, message, retry_after_s=failure.retry_after_s)

    # ---- opening

    async def _find_model(self) -> None:
        """Ask the endpoints for their models until one answers; that one must offer ours, if it lists any."""
        failures = []
        for endpoint in self._endpoints:
            try:
                offered, server = await self._offered(endpoint)
            except ModelFailure as failure:
                failures.append(failure.message)
                continue
            names = [name for model in offered if isinstance(name := model.get("id"), str)]
            if names and self._config.model not in names:
                listed = ", ".join(repr(name) for name in names[:20])
                raise ModelFailure(
                    "setup",
                    f"{endpoint.url} does not offer the model {self._config.model!r}; it offers {listed}",
                )
            self._recognise(server, offered)
            return
        asked = f"no server answers for the model {self._config.model!r}"
        raise ModelFailure("setup", f"{asked}: start it, or mend `endpoints` or `api_key_env` ({'; '.join(failures)})")

    async def _offered(self, endpoint: Endpoint) -> tuple[list[Mapping[str, Any]], str]:
        """The models that an endpoint lists, none if it has no list, and its server header."""
        async with self._response(endpoint, "GET", "/models", may_lack=True) as response:
            server = response.headers.get("Server", "")
            if response.status == 404:
                return [], server
            body = parse_json(await _read_bounded(response))
        data = body.get("data")
        return [model for model in data if isinstance(model, dict)] if isinstance(data, list) else [], server

    def _recognise(self, server: str, offered: Sequence[Mapping[str, Any]]) -> None:
        if self._dialect is not None:
            return
        signs = " ".join([server, *(str(model.get("owned_by")) for model in offered)]).lower()
        known: dict[str, Dialect] = {"vllm": "vllm", "llamacpp": "llama.cpp", "llama.cpp": "llama.cpp"}
        found = next((dialect for sign, dialect in known.items() if sign in signs), None)
        self._dialect, self._dialect_known = found or "openai", found is not None

    async def _probe(self) -> Abilities:
        """Ask for one token, with as much beside it as the server takes."""
        try:
            return await self._probe_with("max_tokens")
        except ModelFailure as failure:
            if "max_completion_tokens" not in failure.message:
                raise
        return await self._probe_with("max_completion_tokens")

    async def _probe_with(self, limit_field: str) -> Abilities:
        for n, logprobs in ((2, True), (1, True), (2, False)):
            try:
                return await self._probe_once(n, logprobs, limit_field)
            except ModelFailure as failure:
                if failure.kind != "refused":
                    raise
        return await self._probe_once(1, False, limit_field)

    async def _probe_once(self, n: int, logprobs: bool, limit_field: str) -> Abilities:
        request = ChatRequest((Message("user", "Hi"),), Sampling(max_tokens=1, temperature=1.0), n=n)
        body = chat_body(request, self._config.model, self._resolved, stream=False, limit_field=limit_field)
        if logprobs:
            body |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        async with self._posted("/chat/completions", body | self._config.extra_body) as response:
            choices = parse_json(await _read_bounded(response)).get("choices")
        if not isinstance(choices, list) or not choices:
            raise ModelFailure("bad_answer", "the server answers a chat request without choices")
        given = choices[0].get("logprobs") if isinstance(choices[0], dict) else None
        has_logprobs = isinstance(given, dict) and bool(given.get("content"))
        return Abilities(has_logprobs, several=len(choices) == 2, limit_field=limit_field)


def _key_from(variable: str | None) -> str:
    """The key in an environment variable; empty if none is named."""
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ModelFailure("setup", f"the environment variable {variable} is not set: it should hold the key")
    if not key.isascii() or not key.isprintable():
        raise ModelFailure("setup", f"the environment variable {variable} holds what cannot be sent as a key")
    return key


def _struck_out(message: str, key: str) -> str:
    """The message without the key, and without a beginning of it that was left when the message was cut."""
    for length in range(len(key), min(len(key), 8) - 1, -1):
        message = message.replace(key[:length], "[key]")
    return message


def _shifted(on_delta: OnDelta, index: int) -> OnDelta:
    return lambda _, text: on_delta(index, text)


def _sum_if_known(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


async def _read_bounded(response: aiohttp.ClientResponse, limit: int = MAX_BYTES) -> bytes:
    """The body, or a failure as soon as it is longer than the limit."""
    pieces = []
    size = 0
    async for piece in response.content.iter_any():
        size += len(piece)
        if size > limit:
            raise ModelFailure("bad_answer", f"the server's answer is longer than {limit} bytes")
        pieces.append(piece)
    return b"".join(pieces)


async def _read_stream(response: aiohttp.ClientResponse, reader: AnswerReader) -> None:
    parser = EventParser()
    async for piece in response.content.iter_any():
        for event in parser.feed(piece):
            if event == b"[DONE]":
                return await _drain(response)
            reader.take_event(event)
    for event in parser.finish():
        if event == b"[DONE]":
            return None
        reader.take_event(event)
    if not reader.finished:
        raise ModelFailure("unavailable", "the stream was cut before the answer ended")
    return None


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Read to the end, so that the connection can be used again; the answer is complete whatever happens
    here.
    """
    with suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(DRAIN_S):
            async for _ in response.content.iter_any():
                pass


async def _failure_response(response: aiohttp.ClientResponse) -> ModelFailure:
    """The failure that a response other than 2xx stands for, whatever its body looks like."""
    retry_after_s = retry_after(response.headers.get("Retry-After", ""), datetime.now(UTC))
    try:
        body: object = parse_json(await _read_bounded(response, MAX_ERROR_BYTES))
    except ModelFailure as failure:
        body = failure.message
    return failure_of(response.status, body, retry_after_s)


def retry_after(header: str, now: datetime) -> float | None:
    """Seconds to wait by a Retry-After header (seconds or an HTTP date); None if it says nothing readable."""
    if re.fullmatch(r"\d{1,9}(\.\d+)?", header.strip()):
        return float(header)
    try:
        at = parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - now).total_seconds())


def _vectors(body: Mapping[str, Any], expected: int) -> tuple[tuple[float, ...], ...]:
    """The embeddings in the order of what was sent."""
    try:
        rows = sorted(body["data"], key=lambda row: int(row["index"]))
        vectors = tuple(tuple(float(x) for x in row["embedding"]) for row in rows)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFailure("bad_answer", f"the server's embeddings cannot be read: {error!r}") from error
    if len(vectors) != expected:
        raise ModelFailure("bad_answer", f"asked for {expected} embeddings, got {len(vectors)}")
    return vectors
