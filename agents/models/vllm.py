"""Backend `vllm`: a `vllm serve` child that is started, watched and stopped here, or one that somebody started.

A prompt is rendered here from the model's own template and sent as token ids, so calls are known by their tokens and
no text of a message acts as a control token. vLLM itself is never imported: it lives in an environment of its own.

When the server dies, calls in flight fail with "died", which the call path may retry, and the next request starts it
again, within limits. Nothing is retried here.

Invariant: all servers of one `VllmModel` answer as the same identity; an adapter is served under the digest of its
content and no other name.
"""

from __future__ import annotations

import asyncio
import math
import re
import secrets
import shutil
import sys
from array import array
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import aiohttp
from pydantic import Field, JsonValue, field_validator, model_validator

from agents.models.adapters import Adapters, FoldersOnly, check_base
from agents.models.choices import chosen
from agents.models.llama_prompts import tokens_digest
from agents.models.model_folder import AdapterFolder, ModelFolder, read_model
from agents.models.openai import key_from
from agents.models.openai_http import Http, read_bounded
from agents.models.openai_wire import AnswerReader, completion_body, parse_json
from agents.models.prompt_parts import PartsReader
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
    ReplyScore,
    Sampling,
    ScoreAnswer,
    ScoreRequest,
    Usage,
)
from agents.models.restarts import Child, Restarts
from agents.models.settings import ADAPTER_BASE, ModelSettings
from agents.models.vllm_metrics import figures_in
from agents.models.vllm_server import HOST, ServerProcess, free_port, server_environment

INSTALL = "install vllm into an environment of its own and name its interpreter: python = /path/to/venv/bin/python"
KEPT_TEXTS = 4096
"""Texts whose tokens are remembered; a prompt is tokenised when it is prepared and sent soon after."""
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks of adapters that vLLM makes room for."""
_OURS = ("--api-key", "--host", "--port", "--model", "--served-model-name")
_NO_VLLM = re.compile(r"No module named '?vllm\b|while finding module specification for 'vllm")
_NOT_FOUND = 404
_OPERATIONAL: dict[str, JsonValue] = {"operational": True}

Told = TypeVar("Told")


class VllmConfig(ModelSettings):
    """A model served by vLLM on this machine."""

    kind: Literal["vllm"] = Field(description="A vLLM server, started here or by hand.")
    model: str = Field(min_length=1, description="Folder of the model, or its name on the hub: owner/repo.")
    adapter: str | None = Field(
        None, description="A LoRA: digest or training of one in the store, or a folder as PEFT saves it."
    )
    adapter_base: str | None = Field(None, min_length=8, description=ADAPTER_BASE)
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="Number format of the weights."
    )
    context: int | None = Field(
        None, ge=64, description="Tokens that one request may take, its answer included; leave out for the model's own."
    )
    extra_args: tuple[str, ...] = Field((), description="Further arguments of `vllm serve`, each a word of its own.")
    python: str = Field(
        sys.executable,
        json_schema_extra=_OPERATIONAL,
        description="Interpreter of the environment that vLLM is installed in.",
    )
    endpoint: str | None = Field(
        None,
        json_schema_extra=_OPERATIONAL,
        description="URL of a vLLM server that is there already; then none is started or stopped.",
    )
    api_key_env: str | None = Field(
        None,
        json_schema_extra=_OPERATIONAL,
        description="Name of the environment variable that holds the key of `endpoint`; none if it needs none.",
    )
    prefix_caching: bool = Field(
        True, json_schema_extra=_OPERATIONAL, description="Whether what prompts have in common is read once."
    )
    tensor_parallel: int = Field(1, ge=1, json_schema_extra=_OPERATIONAL, description="GPUs that share the model.")
    memory_share: float | None = Field(
        None,
        gt=0,
        le=1,
        json_schema_extra=_OPERATIONAL,
        description="Share of the GPU's memory that vLLM takes; leave out for vLLM's own.",
    )
    environment: dict[str, str] = Field(
        default_factory=dict,
        json_schema_extra=_OPERATIONAL,
        description="Further environment variables of the server, such as VLLM_CPU_KVCACHE_SPACE; no secrets.",
    )
    start_timeout_s: float = Field(
        600.0, gt=0, json_schema_extra=_OPERATIONAL, description="Longest wait for the server to be ready, in seconds."
    )
    max_restarts: int = Field(
        5,
        ge=0,
        json_schema_extra=_OPERATIONAL,
        description="How many times within 10 minutes a dead server is started again.",
    )

    @field_validator("extra_args")
    @classmethod
    def _not_ours(cls, extra: tuple[str, ...]) -> tuple[str, ...]:
        if taken := sorted({word.partition("=")[0] for word in extra}.intersection(_OURS)):
            raise ValueError(f"extra_args may not set {', '.join(taken)}: that is decided when the server is started")
        return extra

    @field_validator("endpoint")
    @classmethod
    def _plain_url(cls, endpoint: str | None) -> str | None:
        if endpoint is None:
            return None
        url = urlsplit(endpoint)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError("an endpoint is a URL such as http://127.0.0.1:8000")
        if url.username or url.password or url.query or url.fragment:
            raise ValueError("an endpoint holds no user, password or query: name the key in api_key_env")
        return endpoint.rstrip("/").removesuffix("/v1")

    @model_validator(mode="after")
    def _a_key_needs_an_endpoint(self) -> VllmConfig:
        if self.api_key_env is not None and self.endpoint is None:
            raise ValueError("api_key_env is the key of `endpoint`: a server that is started here gets a fresh one")
        return self


@dataclass(frozen=True, slots=True)
class Serving:
    """A server that answers for this model."""

    http: Http
    process: ServerProcess | None
    """None for a server that was started by hand."""
    name: str
    """What requests call the model: the base, or the adapter by its digest."""
    context: int
    adapted: bool = False
    """Whether the name is that of an adapter."""
    loaded: bool = False
    """Whether it was loaded into somebody else's server, to be unloaded again."""

    @property
    def alive(self) -> bool:
        return self.process is None or self.process.alive

    async def end(self) -> None:
        if self.process is None and self.loaded:
            with suppress(ModelFailure):
                await _post(self.http, "/v1/unload_lora_adapter", {"lora_name": self.name})
        if self.process is not None:
            await self.http.close()
            await self.process.stop()


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """A prompt as the model reads it."""

    tokens: array[int]
    reasons: bool
    """The template already opened a <think> block, so the answer begins inside it."""


class VllmModel:
    """A model behind a vLLM server; see `agents.models.protocol.Model` for what each method promises."""

    def __init__(self, name: str, config: VllmConfig, adapters: Adapters | None = None) -> None:
        self.name = name
        self.config = config
        self._adapters = adapters or FoldersOnly()
        self._identity: ModelIdentity | None = None
        self._folder: ModelFolder | None = None
        self._adapter: AdapterFolder | None = None
        self._parts: PartsReader | None = None
        restarts = Restarts(f"the vLLM server of model {name!r}", config.max_restarts)
        # A server that was started by hand is not ours to count the ends of.
        self._serving: Child[Serving] = Child(name, restarts if config.endpoint is None else None)
        self._by_hand: Http | None = None
        """The way to a server that was started by hand."""
        self._ending = asyncio.Lock()
        """Held while a server ends: two at once do not fit a GPU."""
        self._known: OrderedDict[str, array[int]] = OrderedDict()
        self._open = False

    @property
    def identity(self) -> ModelIdentity:
        if self._identity is None:
            raise RuntimeError(f"the identity of model {self.name!r} is known after open()")
        return self._identity

    @property
    def capabilities(self) -> Capabilities:
        running = self._serving.running
        context = running.context if running else self.config.context
        return Capabilities(score=True, choice_logprobs=True, json_schema=True, context=context)

    @property
    def pid(self) -> int | None:
        """The server's process id while one that was started here is alive."""
        running = self._serving.running
        return running.process.pid if running and running.process else None

    async def open(self) -> None:
        config = self.config
        self._folder = await asyncio.to_thread(read_model, config.model)
        self._adapter = await asyncio.to_thread(self._adapters.find, config.adapter) if config.adapter else None
        if self._adapter is not None:
            check_base(self._adapter, self._folder.digest, config.adapter_base)
        self._parts = PartsReader(self._folder.template, self._folder.specials)
        if not self._serving.wanted:
            self._identity = None
        self._open = True
        try:
            await self._check()
        except ModelFailure as failure:
            await self.close()
            if failure.kind == "setup":
                raise
            raise ModelFailure("setup", f"model {self.name!r} ({config.model}): {failure.message}") from failure
        except BaseException:
            await self.close()
            raise

    async def prepare(self, messages: Sequence[Message]) -> Prepared:
        """One request to the server's tokenizer, unless the same prompt was prepared a moment ago."""
        prompt = await self._prompt(messages)
        return Prepared(tokens_digest(prompt.tokens), len(prompt.tokens))

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(tokens) for tokens in await asyncio.gather(*(self._on_their_own(text) for text in texts))]

    async def chat(self, request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
        prompt = await self._prompt(request.messages)
        if request.choices:
            return await self._choose(request, prompt)
        # Nobody listens: one answer costs both ends less than a stream of it.
        stream = on_delta is not None

        async def ask(serving: Serving) -> ChatAnswer:
            body = completion_body(request, serving.name, prompt.tokens, stream=stream)
            reader = AnswerReader(request, on_delta, reasons=prompt.reasons)
            return await serving.http.answer("/v1/completions", body, reader)

        return await self._served(ask)

    async def score(self, request: ScoreRequest) -> ScoreAnswer:
        """vLLM reads the prompt anew for every reply: it takes nothing from its cache where it scores a prompt."""
        prompt = await self._prompt(request.messages)
        replies = await asyncio.gather(*(self._on_their_own(reply) for reply in request.replies))
        asked = [reply for reply in replies if reply]
        fields = {"max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
        choices, usage = await self._complete([prompt.tokens + reply for reply in asked], fields)
        rows = iter(choices)
        scores = [
            ReplyScore(_sum_of(next(rows), len(prompt.tokens), reply) if reply else 0.0, len(reply))
            for reply in replies
        ]
        return ScoreAnswer(tuple(scores), usage)

    async def embed(self, texts: Sequence[str]) -> EmbedAnswer:
        raise ModelFailure("unsupported", "a vLLM server that answers chats does not embed")

    async def figures(self) -> Figures | None:
        """What the server shows at /metrics; None while there is none, or where it shows nothing."""
        serving = self._serving.running
        if serving is None:
            return None
        endpoint = serving.http.endpoints[0]
        async with serving.http.response(endpoint, "GET", "/metrics", may_lack=True) as response:
            text = (await read_bounded(response)).decode("utf-8", "replace")
        return figures_in(text) if response.status == 200 else None

    async def close(self) -> None:
        self._open = False
        await self._end()
        if self._by_hand is not None:
            await self._by_hand.close()
            self._by_hand = None

    # Asking

    async def _choose(self, request: ChatRequest, prompt: TokenPrompt) -> ChatAnswer:
        """The joint log-probability of each choice, from one token after each beginning that choices have.

        All of it comes from the cache but what the last block lacks, and one request is enough.
        """
        choices = await asyncio.gather(*(self._on_their_own(choice) for choice in request.choices))
        begun = sorted({tuple(choice[:length]) for choice in choices for length in range(len(choice))})
        wanted = sorted({token for choice in choices for token in choice})
        fields = {
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": 1,
            "logprob_token_ids": wanted,
            "return_tokens_as_token_ids": True,
        }
        told, usage = await self._complete([prompt.tokens + array("i", beginning) for beginning in begun], fields)
        after = dict(zip(begun, (_next_logprobs(choice) for choice in told), strict=True))
        joint = [
            math.fsum(_logprob_of(after[tuple(choice[:place])], token) for place, token in enumerate(choice))
            for choice in choices
        ]
        return ChatAnswer(chosen(request, joint), usage)

    async def _complete(
        self, prompts: Sequence[array[int]], fields: Mapping[str, object]
    ) -> tuple[list[Mapping[str, Any]], Usage]:
        """One completion a prompt, in their order, as one request."""
        if not prompts:
            return [], Usage()

        async def ask(serving: Serving) -> Mapping[str, Any]:
            body = {"model": serving.name, "prompt": [list(prompt) for prompt in prompts], **fields}
            return await serving.http.ask("/v1/completions", body)

        told = await self._served(ask)
        choices = told.get("choices")
        if not isinstance(choices, list) or len(choices) != len(prompts):
            raise ModelFailure("bad_answer", f"asked for {len(prompts)} completions, got something else")
        usage = told.get("usage") or {}
        details = usage.get("prompt_tokens_details") or {}
        counted = Usage(usage.get("prompt_tokens"), details.get("cached_tokens"), usage.get("completion_tokens"))
        return sorted(choices, key=lambda choice: int(choice["index"])), counted

    async def _prompt(self, messages: Sequence[Message]) -> TokenPrompt:
        if self._parts is None:
            raise ModelFailure("setup", f"the model {self.name!r} is not open")
        parts = self._parts.read(messages)
        tokens = await self._joined(parts.texts)
        if not tokens:
            raise ModelFailure("refused", "the prompt is empty: give at least one message")
        return TokenPrompt(tokens, parts.reasons)

    async def _on_their_own(self, text: str) -> array[int]:
        """The tokens of a text that is no prompt: none of them controls anything."""
        if self._parts is None:
            raise ModelFailure("setup", f"the model {self.name!r} is not open")
        return await self._joined(self._parts.cut(text))

    async def _joined(self, texts: Sequence[str]) -> array[int]:
        tokens = array("i")
        for part in await asyncio.gather(*(self._tokens(text) for text in texts)):
            tokens += part
        return tokens

    async def _tokens(self, text: str) -> array[int]:
        if not text:
            return array("i")
        if text in self._known:
            self._known.move_to_end(text)
            return self._known[text]
        # JSON has no form for half a character that the server would take.
        sendable = text.encode("utf-8", "replace").decode("utf-8")
        body = {"prompt": sendable, "add_special_tokens": False}
        told = await self._served(lambda serving: serving.http.ask("/tokenize", body))
        tokens = told.get("tokens")
        if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
            raise ModelFailure("bad_answer", "the server's tokenizer gave something other than token ids")
        self._known[text] = array("i", tokens)
        if len(self._known) > KEPT_TEXTS:
            self._known.popitem(last=False)
        return self._known[text]

    async def _served(self, ask: Callable[[Serving], Awaitable[Told]]) -> Told:
        """What the server answers. A connection that broke because the server died is told as its death.

        A server of somebody else may have been started again, or an adapter unloaded by another who used it: then what
        was found there is forgotten, and whoever asks again loads it again.
        """
        serving = await self._ready()
        try:
            return await ask(serving)
        except ModelFailure as failure:
            if serving.process is not None and _broke(failure) and await serving.process.ended_soon():
                raise serving.process.obituary() from failure
            if serving.process is None and _broke(failure):
                self._serving.forget(serving)
            if serving.process is None and serving.adapted and failure.status == _NOT_FOUND:
                self._serving.forget(serving)
                raise ModelFailure("unavailable", f"the adapter is not served any more: {failure.message}") from failure
            raise
        except RuntimeError as error:
            if serving.alive:
                raise
            # Its session was closed before the request had begun.
            raise ModelFailure("died", "the model was closed") from error

    async def _check(self) -> None:
        """Ask for the odds of two words: what every judge needs, and what an old vLLM cannot say."""
        hello = (Message("user", "Hi"),)
        await self.chat(ChatRequest(hello, Sampling(max_tokens=1, temperature=0), choices=("Yes", "No")))

    # Starting and starting again

    async def _ready(self) -> Serving:
        if not self._open:
            raise ModelFailure("setup", f"the model {self.name!r} is not open")
        return await self._serving.ready(self._begin)

    async def _begin(self, ended: Serving | None) -> Serving:
        if ended is not None and ended.process is not None:
            await ended.end()
        async with self._ending:
            pass
        return await (self._start() if self.config.endpoint is None else self._connect(self.config.endpoint))

    async def _end(self) -> None:
        serving = await self._serving.take()
        if serving is not None:
            async with self._ending:
                await serving.end()

    async def _start(self) -> Serving:
        python = shutil.which(self.config.python)
        if python is None:
            raise ModelFailure("setup", f"there is no interpreter {self.config.python!r}: {INSTALL}")
        port, key = free_port(), secrets.token_urlsafe(24)
        http = Http([f"http://{HOST}:{port}"])
        process = await ServerProcess.spawn(
            self._command(python, port), server_environment(python, self.config.environment, key)
        )
        http.open(key)
        try:
            await process.healthy(http, self.config.start_timeout_s)
            return await self._introduced(http, process)
        except ModelFailure as failure:
            await http.close()
            await process.stop()
            raise self._setup_failure(failure, process) from failure
        except BaseException:
            await http.close()
            await process.stop()
            raise

    def _command(self, python: str, port: int) -> list[str]:
        config, folder = self.config, self._model_folder
        words = [
            *(python, "-P", "-m", "vllm.entrypoints.cli.main", "serve", str(folder.path)),
            *("--host", HOST, "--port", str(port), "--served-model-name", folder.digest),
            *("--dtype", config.dtype, "--tensor-parallel-size", str(config.tensor_parallel)),
            "--enable-prefix-caching" if config.prefix_caching else "--no-enable-prefix-caching",
            # A request's sampling is all of it: what the model's authors recommend is not mixed in unseen.
            *("--generation-config", "vllm"),
            *("--enable-prompt-tokens-details", "--uvicorn-log-level", "warning"),
        ]
        if config.context is not None:
            words += ["--max-model-len", str(config.context)]
        if config.memory_share is not None:
            words += ["--gpu-memory-utilization", str(config.memory_share)]
        if self._adapter is not None:
            words += ["--enable-lora", "--max-lora-rank", str(_room_for(self._adapter))]
            # Room for the output layer's adapter, which vLLM makes unasked, ends its engine where prompts are scored.
            words += ["--lora-target-modules", *self._adapter.modules]
        return [*words, *config.extra_args]

    @property
    def _model_folder(self) -> ModelFolder:
        if self._folder is None:
            raise RuntimeError(f"model {self.name!r} is not open")
        return self._folder

    async def _connect(self, endpoint: str) -> Serving:
        if self._by_hand is None:
            self._by_hand = Http([endpoint])
            self._by_hand.open(key_from(self.config.api_key_env))
        return await self._introduced(self._by_hand, None)

    async def _introduced(self, http: Http, process: ServerProcess | None) -> Serving:
        """The server with its model found and the adapter loaded."""
        listed = await _listed(http)
        base = self._base_among(listed, http)
        context = base.get("max_model_len")
        if not isinstance(context, int):
            raise ModelFailure("setup", f"{http.endpoints[0].url} is no vLLM server: it does not tell max_model_len")
        self._settle(context)
        if self._adapter is None:
            return Serving(http, process, str(base["id"]), context)
        name = self._adapter.digest
        missing = name not in [model.get("id") for model in listed]
        if missing:
            await _post(http, "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(self._adapter.path)})
        return Serving(http, process, name, context, adapted=True, loaded=missing)

    def _base_among(self, listed: Sequence[Mapping[str, Any]], http: Http) -> Mapping[str, Any]:
        """The model that is served from our folder. Raises ModelFailure("setup") if there is none."""
        folder = self._model_folder
        names = {self.config.model, str(folder.path)}
        for model in listed:
            if model.get("parent") is None and (model.get("id") == folder.digest or model.get("root") in names):
                return model
        offered = ", ".join(repr(model.get("root", model.get("id"))) for model in listed)
        raise ModelFailure(
            "setup",
            f"{http.endpoints[0].url} does not serve {self.config.model!r}; it serves {offered or 'nothing'}: "
            "give `model` as the server was given it",
        )

    def _settle(self, context: int) -> None:
        config, folder, adapter = self.config, self._model_folder, self._adapter
        identity = ModelIdentity(
            backend="vllm",
            model=folder.digest,
            quantisation=folder.quantisation,
            template=folder.template.digest,
            adapter=adapter.digest if adapter else None,
            settings={"dtype": config.dtype, "context": context, "extra_args": list(config.extra_args)},
        )
        if self._identity is not None and self._identity != identity:
            raise ModelFailure(
                "setup", f"the server of model {self.name!r} came back as another: it serves {context} tokens"
            )
        self._identity = identity

    def _setup_failure(self, failure: ModelFailure, process: ServerProcess) -> ModelFailure:
        """A server that fails while it starts fails the set-up, whatever the kind; its last words say why."""
        words = failure.message
        if _NO_VLLM.search(process.last_words):
            words = f"{self.config.python} has no vllm: {INSTALL}"
        elif process.last_words:
            words = f"{words}\n{process.last_words}"
        return ModelFailure("setup", f"model {self.name!r} ({self.config.model}) cannot be served: {words}")


async def _listed(http: Http) -> list[Mapping[str, Any]]:
    async with http.response(http.endpoints[0], "GET", "/v1/models") as response:
        data = parse_json(await read_bounded(response)).get("data")
    return [model for model in data if isinstance(model, dict)] if isinstance(data, list) else []


async def _post(http: Http, path: str, body: Mapping[str, object]) -> None:
    """Ask for something whose answer says nothing."""
    async with http.posted(path, body) as response:
        await read_bounded(response)


def _broke(failure: ModelFailure) -> bool:
    """Whether the connection itself failed, and not what the server said on it."""
    return isinstance(failure.__cause__, (aiohttp.ClientError, OSError))


def _room_for(adapter: AdapterFolder) -> int:
    if "lm_head" in adapter.modules:
        raise ModelFailure(
            "setup", "vLLM scores nothing with an adapter of the output layer: train one without lm_head"
        )
    room = next((rank for rank in _RANKS if rank >= adapter.rank), None)
    if room is None:
        raise ModelFailure("setup", f"vLLM serves adapters of rank {_RANKS[-1]} at most, this one has {adapter.rank}")
    return room


def _sum_of(choice: Mapping[str, Any], begin: int, reply: Sequence[int]) -> float:
    """The log-probabilities of a reply's tokens, from those of the prompt that they ended."""
    rows = choice.get("prompt_logprobs")
    if not isinstance(rows, list) or len(rows) != begin + len(reply):
        raise ModelFailure("bad_answer", f"asked for the log-probabilities of {begin + len(reply)} tokens, got others")
    try:
        return math.fsum(float(row[str(token)]["logprob"]) for row, token in zip(rows[begin:], reply, strict=True))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFailure("bad_answer", f"the log-probabilities of a prompt cannot be read: {error!r}") from error


def _next_logprobs(choice: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        first = choice["logprobs"]["top_logprobs"][0]
    except (KeyError, TypeError, IndexError) as error:
        raise ModelFailure("bad_answer", f"the log-probabilities of choices cannot be read: {error!r}") from error
    return first if isinstance(first, dict) else {}


def _logprob_of(after: Mapping[str, Any], token: int) -> float:
    value = after.get(f"token_id:{token}")
    if not isinstance(value, (int, float)):
        raise ModelFailure(
            "unsupported", "the server does not tell the log-probabilities of given tokens: vLLM 0.32 does"
        )
    return float(value)
