"""The OpenAI-compatible client against a real server on loopback, well-behaved and not."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from agents.models.openai import OpenAIConfig, OpenAIModel
from agents.models.openai_http import Endpoint, least_busy, retry_after
from agents.models.openai_wire import (
    AnswerReader,
    EventParser,
    chat_body,
    choice_logprobs,
    failure_of,
    read_choice,
)
from agents.models.protocol import (
    ChatRequest,
    FailureKind,
    Message,
    ModelFailure,
    Sampling,
    ScoreRequest,
)
from tests.support.openai_server import THOUGHT, OpenAIServer, Reply, last_message, serve

KEY = "sk-a-very-secret-key-0123456789"


def config(*urls: str, **fields: Any) -> OpenAIConfig:
    entry = {"kind": "openai", "model": "test-model", "endpoints": urls, **fields}
    return OpenAIConfig.model_validate(entry)


def asked(text: str, **fields: Any) -> ChatRequest:
    return ChatRequest((Message("user", text),), **fields)


@asynccontextmanager
async def opened(server: OpenAIServer, **fields: Any) -> AsyncIterator[OpenAIModel]:
    model = OpenAIModel("test", config(server.base_url, **fields))
    await model.open()
    try:
        yield model
    finally:
        await model.close()


async def failure(model: OpenAIModel, request: ChatRequest) -> ModelFailure:
    with pytest.raises(ModelFailure) as caught:
        await model.chat(request)
    return caught.value


both_ways = pytest.mark.parametrize("stream", [True, False])


# ---- answers


@both_ways
async def test_an_answer_with_its_usage(stream: bool) -> None:
    async with OpenAIServer() as server, opened(server, stream=stream) as model:
        answer = await model.chat(asked("Good morning to you"))
        assert [c.text for c in answer.completions] == ["Good morning to you"]
        assert answer.completions[0].finish == "stop"
        usage = answer.usage
        assert (usage.prompt_tokens, usage.cached_tokens, usage.output_tokens) == (11, 7, 4)
        assert (usage.first_token_s is not None) == stream


@both_ways
async def test_several_answers_come_in_index_order(stream: bool) -> None:
    async with OpenAIServer() as server, opened(server, stream=stream) as model:
        deltas: dict[int, str] = {}

        def on_delta(index: int, text: str) -> None:
            deltas[index] = deltas.get(index, "") + text

        answer = await model.chat(asked("Hello", n=3), on_delta)
        assert [c.text for c in answer.completions] == ["Hello [0]", "Hello [1]", "Hello [2]"]
        assert len(server.chats) == 1
        assert [deltas[i] for i in range(3)] == [c.text for c in answer.completions]


async def test_a_server_that_gives_one_answer_is_asked_once_for_each() -> None:
    async with OpenAIServer(most_answers=1) as server, opened(server) as model:
        answer = await model.chat(asked("Hello", n=3, seed=7))
        assert len(answer.completions) == 3
        assert len({chat["seed"] for chat in server.chats}) == 3
        assert answer.usage.output_tokens == 3


async def test_the_request_says_all_that_is_set_and_nothing_else() -> None:
    sampling = Sampling(max_tokens=9, temperature=0.5, top_k=4, repeat_penalty=1.1, stop=("END",))
    async with OpenAIServer() as server, opened(server, extra_body={"priority": 3}, dialect="vllm") as model:
        await model.chat(asked("Hello", sampling=sampling, seed=5))
        assert server.chats[-1] == {
            "model": "test-model",
            "messages": [{"role": "user", "content": "Hello"}],
            "max_tokens": 9,
            "temperature": 0.5,
            "top_k": 4,
            "repetition_penalty": 1.1,
            "stop": ["END"],
            "seed": 5,
            "priority": 3,
            "stream": True,
            "stream_options": {"include_usage": True},
        }


@both_ways
@pytest.mark.parametrize("kind", ["think", "reasoning", "reasoning_content"])
async def test_reasoning_is_apart_from_the_text(kind: str, stream: bool) -> None:
    async with OpenAIServer() as server, opened(server, stream=stream) as model:
        shown: list[str] = []
        answer = await model.chat(asked(f"misbehave:{kind}"), lambda _, text: shown.append(text))
        assert answer.completions[0].text == "".join(shown) == f"misbehave:{kind}"
        assert answer.completions[0].reasoning == THOUGHT


async def test_an_answer_cut_by_its_length_says_so() -> None:
    async def long(body: dict[str, Any], index: int) -> Reply:
        return Reply("and so on", finish="length")

    async with OpenAIServer(long) as server, opened(server) as model:
        assert (await model.chat(asked("Hello"))).completions[0].finish == "length"


async def test_sixty_four_at_once_keep_their_own_answers() -> None:
    async with OpenAIServer() as server, opened(server) as model:

        async def one(number: int) -> None:
            marker = f"[[marker:{number}]]"
            assert (await model.chat(asked(marker))).completions[0].text == marker

        async with asyncio.TaskGroup() as tasks:
            for number in range(64):
                tasks.create_task(one(number))


async def test_connections_are_used_again() -> None:
    async with OpenAIServer() as server, opened(server) as model:
        for _ in range(20):
            await model.chat(asked("Hello"))
        assert len(server.connections) == 1


async def test_embeddings_come_in_the_order_of_the_texts() -> None:
    async with OpenAIServer() as server, opened(server) as model:
        assert (await model.embed(["a", "bbb"])).vectors == ((1.0, 1.0), (3.0, 1.0))


async def test_scoring_is_unsupported() -> None:
    with pytest.raises(ModelFailure) as caught:
        await OpenAIModel("test", config("http://localhost:1/v1")).score(ScoreRequest((), ("Hi",)))
    assert caught.value.kind == "unsupported"


# ---- misbehaviour


@both_ways
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("429", "rate_limited"),
        ("500", "unavailable"),
        ("cut", "unavailable"),
        ("reset", "unavailable"),
        ("bad-json", "bad_answer"),
        ("no-choices", "bad_answer"),
        ("huge", "bad_answer"),
        ("context", "too_long"),
        ("bad-request", "refused"),
        ("unauthorised", "refused"),
    ],
)
async def test_every_misbehaviour_is_a_failure_of_its_kind(kind: str, expected: FailureKind, stream: bool) -> None:
    async with OpenAIServer() as server, opened(server, stream=stream) as model:
        caught = await failure(model, asked(f"misbehave:{kind}"))
        assert caught.kind == expected
        assert server.base_url in caught.message
        assert caught.retry_after_s == (2.0 if kind == "429" else None)
        assert (await model.chat(asked("Hello"))).completions[0].text == "Hello"


@both_ways
async def test_an_answer_that_says_nothing_is_one_where_any_text_is(stream: bool) -> None:
    async with OpenAIServer() as server, opened(server, stream=stream) as model:
        completions = (await model.chat(asked("misbehave:empty", n=2))).completions
        assert [(each.text, each.finish) for each in completions] == [("", "stop")] * 2
        for closed in (asked("misbehave:empty", choices=("A", "B")), asked("misbehave:empty", schema="{}")):
            assert (await failure(model, closed)).kind == "bad_answer"


def test_one_of_several_answers_may_say_nothing() -> None:
    reader = AnswerReader(asked("Hello", n=3))
    choices = [{"index": i, "text": text, "finish_reason": "stop"} for i, text in enumerate(["fine", "", "good"])]
    reader.take_whole(json.dumps({"choices": choices}).encode())
    assert [each.text for each in reader.answer(streamed=False).completions] == ["fine", "", "good"]


def test_an_answer_cut_before_a_word_is_none() -> None:
    reader = AnswerReader(asked("Hello"))
    reader.take_whole(b'{"choices": [{"message": {"reasoning": "Hm."}, "finish_reason": "length"}]}')
    with pytest.raises(ModelFailure, match=r"nothing but reasoning \(finish: length\)"):
        reader.answer(streamed=False)


async def test_a_slow_stream_with_keep_alive_comments_is_read_to_its_end() -> None:
    async with OpenAIServer() as server, opened(server) as model:
        assert (await model.chat(asked("misbehave:slow é€"))).completions[0].text == "misbehave:slow é€"


async def test_the_servers_words_are_in_the_message() -> None:
    async with OpenAIServer() as server, opened(server) as model:
        assert "temperature must be a number" in (await failure(model, asked("misbehave:bad-request"))).message


async def test_nobody_listening_is_unavailable() -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(OpenAIServer())
        model = await stack.enter_async_context(opened(server))
        await server.__aexit__()
        assert (await failure(model, asked("Hello"))).kind == "unavailable"


async def test_cancelling_closes_the_connection() -> None:
    async with OpenAIServer() as server, opened(server) as model:
        task = asyncio.create_task(model.chat(asked("misbehave:hang")))
        await asyncio.wait_for(server.arrived.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(server.aborted.wait(), 10)


async def test_a_failed_endpoint_is_left_for_another() -> None:
    async with OpenAIServer() as bad, OpenAIServer() as good:
        model = OpenAIModel("test", config(bad.base_url, good.base_url))
        await model.open()
        bad.misbehave.append("500")
        assert (await failure(model, asked("Hello"))).kind == "unavailable"
        for _ in range(3):
            await model.chat(asked("Hello"))
        assert (len(bad.chats), len(good.chats)) == (1, 3)
        await model.close()


def test_the_least_busy_endpoint_is_asked_and_one_that_failed_only_if_all_did() -> None:
    busy, idle, failed = Endpoint("busy", 2), Endpoint("idle", 1), Endpoint("failed", 0, avoided_until=10.0)
    assert least_busy([busy, idle, failed], 5.0) is idle
    assert least_busy([busy, idle, failed], 11.0) is failed
    sooner = Endpoint("sooner", 5, avoided_until=7.0)
    assert least_busy([failed, sooner], 5.0) is sooner


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("3", 3.0),
        ("0.5", 0.5),
        ("Mon, 02 Jun 2025 12:00:30 GMT", 30.0),
        ("Mon, 02 Jun 2025 11:00:00 GMT", 0.0),
        ("soon", None),
        ("", None),
        ("-1", None),
        ("1e999", None),
    ],
)
def test_retry_after(header: str, seconds: float | None) -> None:
    assert retry_after(header, datetime(2025, 6, 2, 12, 0, 0, tzinfo=UTC)) == seconds


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, {"error": {"message": "This model's maximum context length is 8"}}, "too_long"),
        (400, {"error": {"message": "exceeds", "type": "exceed_context_size_error"}}, "too_long"),
        (413, "too big", "too_long"),
        (404, {"detail": "no such model"}, "refused"),
        (422, {"detail": [{"loc": ["body"]}]}, "refused"),
        (302, "", "refused"),
        (408, {}, "unavailable"),
        (503, {"message": "loading"}, "unavailable"),
        (501, None, "refused"),
    ],
)
def test_failures_by_status_and_message(status: int, body: object, kind: FailureKind) -> None:
    assert failure_of(status, body).kind == kind


# ---- streams


def stream_of(request: ChatRequest, *replies: Reply) -> bytes:
    body = chat_body(request, "m", "openai", stream=True) | {"logprobs": True}
    return OpenAIServer().stream_bytes(body, replies)


def read_in_pieces(request: ChatRequest, pieces: list[bytes]) -> Any:
    reader, parser = AnswerReader(request), EventParser()
    events = [event for piece in pieces for event in parser.feed(piece)] + parser.finish()
    assert events[-1] == b"[DONE]"
    for event in events[:-1]:
        reader.take_event(event)
    return reader.answer(streamed=False)


def test_a_stream_split_at_any_byte_gives_the_same_answer() -> None:
    request = asked("Hello", n=2)
    data = stream_of(request, Reply("Grüße €", reasoning="hm"), Reply("<think>wait</think>second"))
    whole = read_in_pieces(request, [data])
    assert [(c.text, c.reasoning) for c in whole.completions] == [("Grüße €", "hm"), ("second", "wait")]
    for place in range(len(data)):
        assert read_in_pieces(request, [data[:place], data[place:]]) == whole
    assert read_in_pieces(request, [data[i : i + 1] for i in range(len(data))]) == whole
    assert read_in_pieces(request, [data.replace(b"\n", b"\r\n")]) == whole


@settings(max_examples=50)
@given(st.text(min_size=1).filter(str.strip), st.lists(st.integers(1, 40), min_size=1))
def test_any_text_streams_through_any_cuts(text: str, sizes: list[int]) -> None:
    request = asked("Hello")
    data = stream_of(request, Reply(text))
    pieces: list[bytes] = []
    place = 0
    while place < len(data):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(data[place : place + size])
        place += size
    assert read_in_pieces(request, pieces) == read_in_pieces(request, [data])


def test_an_event_without_end_is_a_bad_answer() -> None:
    parser = EventParser()
    for _ in range(8):
        parser.feed(b"x" * 1_000_000)
    with pytest.raises(ModelFailure, match="longer than"):
        parser.feed(b"x" * 1_000_000)


@pytest.mark.parametrize(
    "event",
    [
        b"[]",
        b"nonsense",
        b"[" * 100_000,
        b'{"choices": {"0": {}}}',
        b'{"choices": [1]}',
        b'{"choices": [{"index": 7}]}',
        b'{"choices": [{"index": "0"}]}',
        b'{"choices": [{"delta": [1]}]}',
        b'{"choices": [], "usage": 3}',
        b'{"choices": [{"logprobs": [1]}]}',
    ],
)
def test_chunks_of_another_shape_are_bad_answers(event: bytes) -> None:
    with pytest.raises(ModelFailure) as caught:
        AnswerReader(asked("Hello")).take_event(event)
    assert caught.value.kind == "bad_answer"


def test_an_error_inside_a_stream_is_the_failure_it_names() -> None:
    for code, kind in [(400, "refused"), (503, "unavailable"), ("odd", "unavailable")]:
        event = json.dumps({"error": {"message": "no", "code": code}}).encode()
        with pytest.raises(ModelFailure) as caught:
            AnswerReader(asked("Hello")).take_event(event)
        assert caught.value.kind == kind


# ---- closed answers

LETTERS = ("A", "B", "C")


def says(reply: Reply) -> Callable[[dict[str, Any], int], Any]:
    async def answer(body: dict[str, Any], index: int) -> Reply:
        return reply

    return answer


@both_ways
async def test_a_choice_comes_with_the_probability_of_each(stream: bool) -> None:
    top = ((" B", math.log(0.5)), ("A", math.log(0.2)), ("B", math.log(0.1)), ("the", math.log(0.1)))
    server = OpenAIServer(says(Reply(" B", top_logprobs=top)))
    async with server, opened(server, stream=stream) as model:
        assert model.capabilities.choice_logprobs
        completion = (await model.chat(asked("Which?", choices=LETTERS))).completions[0]
        assert completion.text == "B"
        assert completion.choice_logprobs is not None
        chances = {choice: math.exp(p) for choice, p in completion.choice_logprobs.items()}
        assert sum(chances.values()) == pytest.approx(1.0)
        assert chances["B"] / chances["A"] == pytest.approx(3.0)
        assert 0 < chances["C"] <= chances["A"]


async def test_a_server_without_logprobs_is_found_out_and_not_asked() -> None:
    async with OpenAIServer(says(Reply("A")), logprobs=False) as server, opened(server) as model:
        assert not model.capabilities.choice_logprobs
        completion = (await model.chat(asked("Which?", choices=LETTERS))).completions[0]
        assert (completion.text, completion.choice_logprobs) == ("A", None)
        assert "logprobs" not in server.chats[-1]


@both_ways
async def test_an_answer_outside_the_choices_is_bad_and_quoted(stream: bool) -> None:
    async with OpenAIServer() as server, opened(server, stream=stream) as model:
        caught = await failure(model, asked("misbehave:wrong-choice", choices=LETTERS))
        assert caught.kind == "bad_answer"
        assert "none of those" in caught.message


async def test_a_schema_is_sent_and_what_is_not_json_is_bad() -> None:
    schema = '{"type":"object"}'
    async with OpenAIServer(says(Reply('{"a": 1}'))) as server, opened(server, dialect="vllm") as model:
        assert (await model.chat(asked("Go", schema=schema))).completions[0].text == '{"a": 1}'
        assert server.chats[-1]["response_format"]["json_schema"]["schema"] == {"type": "object"}
    async with OpenAIServer(says(Reply('{"a": '))) as server, opened(server, dialect="vllm") as model:
        assert (await failure(model, asked("Go", schema=schema))).kind == "bad_answer"


async def test_json_that_was_cut_is_an_answer_that_says_so() -> None:
    server = OpenAIServer(says(Reply('{"a": "b', finish="length")))
    async with server, opened(server, dialect="vllm") as model:
        (completion,) = (await model.chat(asked("Go", schema='{"type":"object"}'))).completions
    assert (completion.text, completion.finish) == ('{"a": "b', "length")


def test_each_dialect_has_its_way_to_close_the_answers() -> None:
    request = asked("Which?", choices=("A", 'say "no"\n'))
    vllm = chat_body(request, "m", "vllm", stream=False)
    assert vllm["structured_outputs"] == {"choice": ["A", 'say "no"\n']}
    llama = chat_body(request, "m", "llama.cpp", stream=False)
    assert llama["grammar"] == 'root ::= "A" | "say \\"no\\"\\n"'
    openai: Any = chat_body(request, "m", "openai", stream=False)
    schema = openai["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["choice"]["enum"] == ["A", 'say "no"\n']


@pytest.mark.parametrize(
    ("content", "at"),
    [("B", 0), ("  B\n", 2), ('{"choice": "B"}', 12), ('{"choice":"B"}', 11), ('"B"', 1)],
)
def test_a_choice_is_read_plain_or_as_json(content: str, at: int) -> None:
    assert read_choice(content, LETTERS) == ("B", at)


@pytest.mark.parametrize("content", ["b", "B.", '{"choice": "D"}', '{"other": "B"}', '{"choice": "B"', "", "null"])
def test_what_is_not_exactly_a_choice_is_not_guessed(content: str) -> None:
    with pytest.raises(ModelFailure, match="none of"):
        read_choice(content, LETTERS)


def tokens(*texts: str, at: int = 0, top: list[tuple[str, float]]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"token": text, "logprob": 0.0} for text in texts]
    rows[at]["top_logprobs"] = [{"token": text, "logprob": p} for text, p in top]
    return rows


def test_log_probabilities_are_taken_where_the_choice_begins() -> None:
    top = [("B", -0.5), ("A", -1.5)]
    for rows, content, at in [
        (tokens('{"', "choice", '":"', "B", '"}', at=3, top=top), '{"choice":"B"}', 11),
        (tokens("hm", "</think>", "B", "<|end|>", at=2, top=top), "B", 0),
        (tokens('"B', '"', top=[('"B', -0.5), ('"A', -1.5), ("x", -3.0)]), '"B"', 1),
    ]:
        found = choice_logprobs(rows, content, at, ("A", "B"))
        assert found is not None
        assert found["B"] - found["A"] == pytest.approx(1.0)


def test_a_choice_that_is_not_listed_is_never_as_likely_as_one_that_is() -> None:
    found = choice_logprobs(tokens("A", top=[("A", 0.0)]), "A", 0, ("A", "B"))
    assert found is not None
    assert found["B"] < -20


def test_alternatives_that_could_begin_two_choices_tell_nothing() -> None:
    rows = tokens("1", "0", top=[("1", -0.1), ("2", -3.0)])
    assert choice_logprobs(rows, "10", 0, ("1", "2", "10")) is None
    assert choice_logprobs(rows, "10", 0, ("2", "10")) is not None


def test_exact_bytes_go_before_replaced_token_texts() -> None:
    row = {"token": "�", "bytes": list("é".encode()), "logprob": 0.0}
    row["top_logprobs"] = [{"token": "�", "bytes": list("é".encode()), "logprob": -0.1}]
    assert choice_logprobs([row], "é", 0, ("é", "è")) is not None


def test_tokens_that_do_not_make_up_the_answer_tell_nothing() -> None:
    assert choice_logprobs(tokens("x", top=[("A", 0.0)]), "A", 0, LETTERS) is None
    assert choice_logprobs([], "A", 0, LETTERS) is None
    assert choice_logprobs([{"token": "A", "top_logprobs": [3]}], "A", 0, LETTERS) is None


# ---- opening


@pytest.mark.parametrize(
    ("owned_by", "dialect", "known"),
    [("vllm", "vllm", True), ("llamacpp", "llama.cpp", True), ("somebody", "openai", False)],
)
async def test_the_dialect_is_recognised(owned_by: str, dialect: str, known: bool) -> None:
    async with OpenAIServer(owned_by=owned_by) as server, opened(server) as model:
        assert model.identity.settings["dialect"] == dialect
        assert model.capabilities.json_schema == known


async def test_a_model_that_is_not_offered_is_a_setup_failure_that_names_both() -> None:
    async with OpenAIServer() as server:
        with pytest.raises(ModelFailure) as caught:
            await OpenAIModel("test", config(server.base_url, model="other")).open()
        assert caught.value.kind == "setup"
        for word in (server.base_url, "'other'", "'test-model'"):
            assert word in caught.value.message


async def test_a_server_without_a_list_of_models_is_taken_as_it_is() -> None:
    async with OpenAIServer(lists_models=False) as server, opened(server, model="any") as model:
        assert (await model.chat(asked("Hello"))).completions[0].text == "Hello"


async def test_one_endpoint_that_answers_is_enough() -> None:
    async with OpenAIServer() as dead:
        gone = dead.base_url
    async with OpenAIServer() as server:
        model = OpenAIModel("test", config(gone, server.base_url))
        await model.open()
        assert (await model.chat(asked("Hello"))).completions
        await model.close()


async def test_no_server_at_all_is_a_setup_failure_that_names_it() -> None:
    async with OpenAIServer() as dead:
        gone = dead.base_url
    with pytest.raises(ModelFailure) as caught:
        await OpenAIModel("test", config(gone)).open()
    assert caught.value.kind == "setup"
    assert gone in caught.value.message


async def test_fields_that_a_server_refuses_are_left_out() -> None:
    server = OpenAIServer(refused_fields=frozenset({"max_tokens"}))
    async with server, opened(server) as model:
        await model.chat(asked("Hello", sampling=Sampling(max_tokens=9)))
        assert server.chats[-1]["max_completion_tokens"] == 9
    async with OpenAIServer(refused_fields=frozenset({"logprobs"})) as server, opened(server) as model:
        assert not model.capabilities.choice_logprobs


async def test_counts_are_estimates_and_the_prompt_is_known_by_its_messages() -> None:
    model = OpenAIModel("test", config("http://localhost:1/v1"))
    assert await model.count_tokens(["", "abc", "abcd", "€"]) == [0, 1, 2, 1]
    first = await model.prepare((Message("user", "Hi"),))
    assert first == await model.prepare((Message("user", "Hi"),))
    assert first != await model.prepare((Message("assistant", "Hi"),))
    assert first.tokens is None


def test_operational_fields_leave_the_identity_alone() -> None:
    one = OpenAIModel("a", config("http://one/v1", dialect="vllm", stream=True))
    same = OpenAIModel("b", config("http://two/v1", dialect="vllm", stream=False, api_key_env="KEY"))
    other = OpenAIModel("a", config("http://one/v1", dialect="vllm", extra_body={"top_a": 0.1}))
    assert one.identity.id == same.identity.id != other.identity.id
    schema = OpenAIConfig.model_json_schema()["properties"]
    assert {name for name, field in schema.items() if field.get("operational")} >= {
        "endpoints",
        "api_key_env",
        "stream",
    }
    assert all("description" in field for field in schema.values())


# ---- secrets


async def test_the_key_is_sent_and_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)
    async with OpenAIServer(key=KEY) as server, opened(server, api_key_env="TEST_KEY") as model:
        assert (await model.chat(asked("Hello"))).completions[0].text == "Hello"
        caught = await failure(model, asked("misbehave:unauthorised"))
        shown = f"{caught!r} {caught} {model!r} {model.identity} {model._config!r}"
        assert KEY[:10] not in shown


async def test_no_beginning_of_a_key_survives_where_a_message_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)

    async def leaks(body: dict[str, Any], index: int) -> str:
        return last_message(body) + KEY

    async with OpenAIServer(leaks) as server, opened(server, api_key_env="TEST_KEY") as model:
        for length in range(150, 210):
            caught = await failure(model, asked("x" * length, choices=LETTERS))
            assert KEY[:8] not in caught.message


@pytest.mark.parametrize("value", [None, "", "two\nlines"])
async def test_a_key_that_cannot_be_used_is_a_setup_failure(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("TEST_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("TEST_KEY", value)
    with pytest.raises(ModelFailure, match="TEST_KEY") as caught:
        await OpenAIModel("test", config("http://localhost:1/v1", api_key_env="TEST_KEY")).open()
    assert caught.value.kind == "setup"
    assert "two" not in caught.value.message


@pytest.mark.parametrize("url", ["http://me:hunter2@host/v1", "http://host/v1?key=hunter2", "host/hunter2"])
def test_endpoints_with_secrets_in_them_are_refused_without_repeating_them(url: str) -> None:
    with pytest.raises(ValidationError) as caught:
        config(url)
    assert "hunter2" not in str(caught.value)


def test_extra_fields_may_not_set_what_the_request_decides() -> None:
    with pytest.raises(ValidationError, match="temperature"):
        config("http://host/v1", extra_body={"temperature": 0.1})


# ---- the server itself


async def test_a_misbehaviour_may_be_ordered_for_the_first_times_only() -> None:
    with serve() as base_url:
        model = OpenAIModel("test", config(base_url))
        await model.open()
        request = asked("misbehave:500*2")
        assert (await failure(model, request)).kind == "unavailable"
        assert (await failure(model, request)).kind == "unavailable"
        assert (await model.chat(request)).completions[0].text == "misbehave:500*2"
        await model.close()
