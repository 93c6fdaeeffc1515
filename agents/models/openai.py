"""Any OpenAI-compatible server as a model: vLLM, llama.cpp's server, hosted ones; several endpoints balanced.

What the server can do is asked when the model is opened, with a request for one token, and never assumed.

Invariant: a request's own fields come from the request alone; the key is read from the environment when the
model is opened, and is nowhere else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, JsonValue, field_validator

from agents.models.openai_http import Endpoint, Http, read_bounded
from agents.models.openai_wire import TOP_LOGPROBS, AnswerReader, Dialect, chat_body, parse_json
from agents.models.protocol import (
    Capabilities,
    ChatAnswer,
    ChatRequest,
    EmbedAnswer,
    Figures,
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
        self._http = Http(config.endpoints)
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
        self._http.open(key_from(self._config.api_key_env))
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
        return await self._http.answer("/chat/completions", body, reader)

    async def score(self, request: ScoreRequest) -> ScoreAnswer:
        raise ModelFailure("unsupported", "an OpenAI-compatible server does not score given replies")

    async def embed(self, texts: Sequence[str]) -> EmbedAnswer:
        body = await self._http.ask("/embeddings", {"model": self._config.model, "input": list(texts)})
        return EmbedAnswer(_vectors(body, len(texts)))

    async def figures(self) -> Figures | None:
        return None

    async def close(self) -> None:
        await self._http.close()

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

    # ---- opening

    async def _find_model(self) -> None:
        """Ask the endpoints for their models until one answers; that one must offer ours, if it lists any."""
        failures = []
        for endpoint in self._http.endpoints:
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
        async with self._http.response(endpoint, "GET", "/models", may_lack=True) as response:
            server = response.headers.get("Server", "")
            if response.status == 404:
                return [], server
            body = parse_json(await read_bounded(response))
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
        choices = (await self._http.ask("/chat/completions", body | self._config.extra_body)).get("choices")
        if not isinstance(choices, list) or not choices:
            raise ModelFailure("bad_answer", "the server answers a chat request without choices")
        given = choices[0].get("logprobs") if isinstance(choices[0], dict) else None
        has_logprobs = isinstance(given, dict) and bool(given.get("content"))
        return Abilities(has_logprobs, several=len(choices) == 2, limit_field=limit_field)


def key_from(variable: str | None) -> str:
    """The key in an environment variable; empty if none is named."""
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ModelFailure("setup", f"the environment variable {variable} is not set: it should hold the key")
    if not key.isascii() or not key.isprintable():
        raise ModelFailure("setup", f"the environment variable {variable} holds what cannot be sent as a key")
    return key


def _shifted(on_delta: OnDelta, index: int) -> OnDelta:
    return lambda _, text: on_delta(index, text)


def _sum_if_known(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


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
