"""Any AutoGen chat client as a model: messages out, answers and errors back, cancelling through."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest
from autogen_core import CancellationToken, Component
from autogen_core.models import ChatCompletionClient, CreateResult, LLMMessage, ModelInfo, RequestUsage
from pydantic import BaseModel, ValidationError

from agents.models.autogen import AutogenConfig, AutogenModel
from agents.models.protocol import ChatRequest, FailureKind, Message, ModelFailure, Sampling


class HttpError(Exception):
    def __init__(self, status_code: int, message: str) -> None:
        super().__init__(message)
        self.status_code = status_code


class FakeConfig(BaseModel):
    mood: str = "kind"


class FakeClient(ChatCompletionClient, Component[FakeConfig]):
    """Answers from a class-wide script, since AutoGen builds the instance itself."""

    component_type = "model"
    component_config_schema = FakeConfig

    results: ClassVar[list[CreateResult | Exception]] = []
    asked: ClassVar[list[tuple[list[LLMMessage], dict[str, Any]]]] = []
    waiting: ClassVar[asyncio.Event]
    tokens: ClassVar[list[CancellationToken]] = []

    @classmethod
    def _from_config(cls, config: FakeConfig) -> FakeClient:
        if config.mood == "broken":
            raise RuntimeError("no such mood")
        return cls()

    async def create(
        self,
        messages: Sequence[LLMMessage],
        *,
        extra_create_args: Mapping[str, Any] = {},
        cancellation_token: CancellationToken | None = None,
        **_: Any,
    ) -> CreateResult:
        assert cancellation_token is not None
        self.asked.append((list(messages), dict(extra_create_args)))
        self.tokens.append(cancellation_token)
        if not self.results:
            self.waiting.set()
            await asyncio.Event().wait()
        result = self.results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    def create_stream(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    async def close(self) -> None: ...

    def actual_usage(self) -> RequestUsage:
        return RequestUsage(0, 0)

    total_usage = actual_usage

    def count_tokens(self, *args: Any, **kwargs: Any) -> int:
        raise NotImplementedError

    remaining_tokens = count_tokens

    @property
    def capabilities(self) -> Any:
        return self.model_info

    @property
    def model_info(self) -> ModelInfo:
        return ModelInfo(
            vision=False, function_calling=False, json_output=False, family="unknown", structured_output=False
        )


def config(**client: Any) -> AutogenConfig:
    component = {"provider": f"{__name__}.FakeClient", "component_type": "model", "config": client}
    return AutogenConfig.model_validate({"kind": "autogen", "component": component, "context": 4096})


@asynccontextmanager
async def opened(*results: CreateResult | Exception) -> AsyncIterator[AutogenModel]:
    FakeClient.results = list(results)
    FakeClient.asked, FakeClient.tokens, FakeClient.waiting = [], [], asyncio.Event()
    model = AutogenModel("test", config())
    await model.open()
    try:
        yield model
    finally:
        await model.close()


def result(content: Any, thought: str | None = None, finish: Any = "stop") -> CreateResult:
    usage = RequestUsage(prompt_tokens=5, completion_tokens=2)
    return CreateResult(finish_reason=finish, content=content, usage=usage, cached=False, thought=thought)


def asked(**fields: Any) -> ChatRequest:
    messages = (Message("system", "Be kind."), Message("user", "Hi"), Message("assistant", "Hello"))
    return ChatRequest((*messages, Message("user", "How are you?")), **fields)


async def test_messages_and_sampling_reach_the_client() -> None:
    async with opened(result("Fine.")) as model:
        request = asked(sampling=Sampling(max_tokens=9, temperature=0.5, stop=("END",)), seed=3)
        answer = await model.chat(request)
        assert [c.text for c in answer.completions] == ["Fine."]
        assert (answer.usage.prompt_tokens, answer.usage.output_tokens) == (5, 2)
        messages, arguments = FakeClient.asked[0]
        assert [(m.type, m.content) for m in messages] == [
            ("SystemMessage", "Be kind."),
            ("UserMessage", "Hi"),
            ("AssistantMessage", "Hello"),
            ("UserMessage", "How are you?"),
        ]
        assert arguments == {"max_tokens": 9, "temperature": 0.5, "stop": ["END"], "seed": 3}


async def test_several_answers_are_several_calls_with_seeds_apart() -> None:
    async with opened(result("one"), result("two", finish="length")) as model:
        answer = await model.chat(asked(n=2, seed=3))
        assert [(c.text, c.finish) for c in answer.completions] == [("one", "stop"), ("two", "length")]
        assert answer.usage.prompt_tokens == 10
        assert len({arguments["seed"] for _, arguments in FakeClient.asked}) == 2


async def test_reasoning_is_apart() -> None:
    async with opened(result("<think>so</think>Fine.", thought="hm")) as model:
        completion = (await model.chat(asked())).completions[0]
        assert (completion.text, completion.reasoning) == ("Fine.", "hm\nso")


async def test_choices_are_parsed() -> None:
    async with opened(result(" A\n"), result("perhaps A")) as model:
        assert (await model.chat(asked(choices=("A", "B")))).completions[0].text == "A"
        with pytest.raises(ModelFailure, match="perhaps A") as caught:
            await model.chat(asked(choices=("A", "B")))
        assert caught.value.kind == "bad_answer"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (HttpError(429, "slow down"), "rate_limited"),
        (HttpError(503, "loading"), "unavailable"),
        (HttpError(400, "maximum context length is 8"), "too_long"),
        (HttpError(401, "who?"), "refused"),
        (TimeoutError("late"), "timeout"),
        (ConnectionResetError("gone"), "unavailable"),
        (ValueError("extra_create_args"), "refused"),
        (result("", finish="length"), "bad_answer"),
        (result("no", finish="content_filter"), "refused"),
        (result([]), "bad_answer"),
    ],
)
async def test_errors_are_failures(error: CreateResult | Exception, kind: FailureKind) -> None:
    async with opened(error) as model:
        with pytest.raises(ModelFailure) as caught:
            await model.chat(asked())
        assert caught.value.kind == kind


async def test_an_answer_that_says_nothing_is_one_where_any_text_is() -> None:
    async with opened(result(""), result("")) as model:
        assert (await model.chat(asked())).completions[0].text == ""
        with pytest.raises(ModelFailure, match="holds nothing"):
            await model.chat(asked(choices=("A", "B")))


async def test_cancelling_cancels_the_clients_token() -> None:
    async with opened() as model:
        task = asyncio.create_task(model.chat(asked()))
        await asyncio.wait_for(FakeClient.waiting.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert FakeClient.tokens[0].is_cancelled()


async def test_what_it_cannot_do_is_said() -> None:
    async with opened() as model:
        assert not model.capabilities.score
        assert not model.capabilities.json_schema
        assert model.capabilities.context == 4096
        for asking in (model.embed(["Hi"]), model.chat(asked(schema="{}"))):
            with pytest.raises(ModelFailure) as caught:
                await asking
            assert caught.value.kind == "unsupported"


@pytest.mark.parametrize("provider", ["no.such.Client", "", None])
async def test_a_client_that_cannot_be_built_is_a_setup_failure(provider: object) -> None:
    entry = {"kind": "autogen", "component": {"provider": provider, "config": {}}}
    with pytest.raises(ModelFailure, match="component") as caught:
        await AutogenModel("test", AutogenConfig.model_validate(entry)).open()
    assert caught.value.kind == "setup"


async def test_a_client_that_refuses_its_configuration_is_a_setup_failure() -> None:
    with pytest.raises(ModelFailure, match="no such mood") as caught:
        await AutogenModel("test", config(mood="broken")).open()
    assert caught.value.kind == "setup"


def test_the_component_is_the_identity() -> None:
    same = [AutogenModel(name, config(mood="kind")).identity.id for name in ("a", "b")]
    assert same[0] == same[1] != AutogenModel("a", config(mood="grim")).identity.id


@pytest.mark.parametrize("fields", [{"api_key": "sk-hunter2"}, {"deep": [{"client_secret": "sk-hunter2"}]}])
def test_a_key_in_the_component_is_refused_and_not_repeated(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        config(**fields)
    assert "hunter2" not in str(caught.value)
