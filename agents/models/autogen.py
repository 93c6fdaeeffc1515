"""Any AutoGen chat client as a model, for servers that only AutoGen knows. It can chat and nothing else.

AutoGen is imported when the model is opened. A client gives one answer a call, so several are asked one by
one, with seeds that follow from the call's. What a client logs or retries is its own: set its retries to 0.

Invariant: a client's error is a ModelFailure; cancelling an await cancels the client's call by its token.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict, Field, JsonValue, field_validator

from agents.models.openai_wire import failure_of
from agents.models.protocol import (
    Capabilities,
    ChatAnswer,
    ChatRequest,
    Completion,
    EmbedAnswer,
    Figures,
    Message,
    ModelFailure,
    ModelIdentity,
    OnDelta,
    Prepared,
    ScoreAnswer,
    ScoreRequest,
    Usage,
    estimated_tokens,
)
from agents.models.reasoning import split_reasoning
from agents.models.settings import ModelSettings
from trees.ids import digest_of

if TYPE_CHECKING:
    from autogen_core.models import ChatCompletionClient, CreateResult, LLMMessage

_SECRET = re.compile(r"api_?key|secret|password|authorization|(^|_)token$", re.IGNORECASE)
SHOWN = 200
"""Characters of a client's error that a failure's message quotes."""


class AutogenConfig(ModelSettings):
    """A model behind an AutoGen chat client."""

    # A refused component may hold a key; pydantic would print it.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    kind: Literal["autogen"] = Field(description="An AutoGen ChatCompletionClient.")
    component: dict[str, JsonValue] = Field(
        description="The client as AutoGen dumps it: `provider`, a dotted class name, and its `config`."
    )
    context: int | None = Field(
        None, ge=256, description="Tokens that prompt and answer may take together; leave out if unknown."
    )

    @field_validator("component")
    @classmethod
    def _without_secrets(cls, component: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if secret := _named_secret(component):
            raise ValueError(f"{secret} would be stored with the run: set the environment variable instead")
        return component


def _named_secret(value: JsonValue) -> str | None:
    """The first key in a component whose value looks like a secret."""
    if isinstance(value, list):
        return next((found for item in value if (found := _named_secret(item))), None)
    if not isinstance(value, dict):
        return None
    for key, item in value.items():
        if isinstance(item, str) and item and _SECRET.search(key):
            return key
        if found := _named_secret(item):
            return found
    return None


class AutogenModel:
    """See the module's docstring."""

    def __init__(self, name: str, config: AutogenConfig) -> None:
        self.name = name
        self._config = config
        self._client: ChatCompletionClient | None = None

    @property
    def identity(self) -> ModelIdentity:
        return ModelIdentity("autogen", digest_of("component", self._config.component))

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(context=self._config.context)

    async def open(self) -> None:
        """Build the client. Whether its server answers shows at the first call."""
        from autogen_core.models import ChatCompletionClient

        try:
            self._client = ChatCompletionClient.load_component(self._config.component)
        # A provider's constructor may raise anything; every such error is one of the entry.
        except Exception as error:
            provider = self._config.component.get("provider")
            raise ModelFailure(
                "setup",
                f"the AutoGen client {provider!r} cannot be built ({_in_words(error)}): mend `component`, "
                "or install its package, such as espalier-lm[autogen]",
            ) from error

    async def prepare(self, messages: Sequence[Message]) -> Prepared:
        """The digest of the messages: the client's tokens cannot be seen."""
        return Prepared(digest_of("messages", [[m.role, m.content] for m in messages]), None)

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """An estimate: a token for every three bytes of UTF-8. Clients' own counts may need a network."""
        return estimated_tokens(texts)

    async def chat(self, request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
        if request.schema is not None:
            raise ModelFailure("unsupported", "an AutoGen chat client is not asked for a schema")
        messages = _as_autogen(request.messages)
        completions, usages = [], []
        for index in range(request.n):
            result = await self._create(messages, _arguments(request, index))
            completions.append(_completion(request, result))
            usages.append(result.usage)
            if on_delta is not None:
                on_delta(index, completions[-1].text)
        usage = Usage(
            prompt_tokens=sum(used.prompt_tokens for used in usages),
            output_tokens=sum(used.completion_tokens for used in usages),
        )
        return ChatAnswer(tuple(completions), usage)

    async def score(self, request: ScoreRequest) -> ScoreAnswer:
        raise ModelFailure("unsupported", "an AutoGen chat client does not score given replies")

    async def embed(self, texts: Sequence[str]) -> EmbedAnswer:
        raise ModelFailure("unsupported", "an AutoGen chat client does not embed")

    async def figures(self) -> Figures | None:
        return None

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def _create(self, messages: Sequence[LLMMessage], arguments: Mapping[str, Any]) -> CreateResult:
        from autogen_core import CancellationToken

        if self._client is None:
            raise RuntimeError(f"model {self.name!r} is not open")
        token = CancellationToken()
        try:
            return await self._client.create(messages, extra_create_args=arguments, cancellation_token=token)
        except asyncio.CancelledError:
            token.cancel()
            raise
        # Which errors a foreign client raises is not known; none of them may end the run.
        except Exception as error:
            raise _failure_of(error) from error


def _as_autogen(messages: Sequence[Message]) -> list[LLMMessage]:
    from autogen_core.models import AssistantMessage, SystemMessage, UserMessage

    turned: list[LLMMessage] = []
    for message in messages:
        match message.role:
            case "system":
                turned.append(SystemMessage(content=message.content))
            case "user":
                turned.append(UserMessage(content=message.content, source="user"))
            case "assistant":
                turned.append(AssistantMessage(content=message.content, source="assistant"))
    return turned


def _arguments(request: ChatRequest, index: int) -> dict[str, Any]:
    """What goes to the server beside the messages, in the names that OpenAI-compatible ones use."""
    arguments: dict[str, Any] = request.sampling.as_dict()
    if request.seed is not None:
        apart = request.n > 1
        arguments["seed"] = int(digest_of("sample", request.seed, index)[:7], 16) if apart else request.seed
    return arguments


def _completion(request: ChatRequest, result: CreateResult) -> Completion:
    if not isinstance(result.content, str):
        raise ModelFailure("bad_answer", "the client answered with function calls")
    if result.finish_reason == "content_filter":
        raise ModelFailure("refused", "the server's content filter withheld the answer")
    text, inline = split_reasoning(result.content)
    says_nothing = not text.strip()
    if says_nothing and (result.finish_reason != "stop" or request.choices or request.schema is not None):
        raise ModelFailure("bad_answer", "the answer holds nothing")
    if request.choices:
        text = _choice(text, request.choices)
    reasoning = "\n".join(part for part in (result.thought, inline) if part) or None
    return Completion(text, "length" if result.finish_reason == "length" else "stop", reasoning)


def _choice(text: str, choices: Sequence[str]) -> str:
    for choice in choices:
        if choice.strip() == text.strip():
            return choice
    raise ModelFailure("bad_answer", f"the answer is none of the choices: {text[:SHOWN]!r}")


def _failure_of(error: Exception) -> ModelFailure:
    """The failure that a client's error stands for. HTTP errors carry their status."""
    if isinstance(error, TimeoutError):
        return ModelFailure("timeout", _in_words(error))
    status = getattr(error, "status_code", None)
    if isinstance(status, int):
        return failure_of(status, {"message": _in_words(error)})
    if isinstance(error, (TypeError, ValueError, LookupError)):
        return ModelFailure("refused", _in_words(error))
    return ModelFailure("unavailable", _in_words(error))


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:SHOWN]
