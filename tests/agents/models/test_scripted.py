"""The scripted model: the same answer to the same request, and answers that make a play."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import pytest

from agents.messages import Line
from agents.models.protocol import ChatRequest, Message, ModelFailure, Sampling, ScoreRequest
from agents.models.scripted import EMBED_SIZE, ScriptedConfig, ScriptedModel
from agents.prompts import load_prompt
from agents.views import observer_view, responder_view, user_view

LIFE = "I am a nurse in Leeds. I keep three beehives. My brother lives in Lisbon."
FACTS = ("nurse in Leeds", "three beehives", "lives in Lisbon")


def scripted(**fields: Any) -> ScriptedModel:
    return ScriptedModel("test", ScriptedConfig.model_validate({"kind": "scripted", **fields}))


def asked(text: str, **fields: Any) -> ChatRequest:
    return ChatRequest((Message("user", text),), **fields)


async def text_of(model: ScriptedModel, request: ChatRequest) -> str:
    return (await model.chat(request)).completions[0].text


async def test_the_same_request_has_the_same_answer_in_any_order() -> None:
    requests = [asked(f"Hello {i % 3}", seed=i) for i in range(50)]
    forward, backward = scripted(), scripted()
    first = [await text_of(forward, request) for request in requests]
    again = [await text_of(backward, request) for request in reversed(requests)]
    assert first == again[::-1]


async def test_everything_that_is_asked_shapes_the_answer() -> None:
    requests = [
        asked("I like trains", seed=1),
        asked("I like trains", seed=2),
        asked("I like trains", seed=1, sampling=Sampling(temperature=0.1)),
        asked("I like train s", seed=1),
        ChatRequest((Message("assistant", "I like trains"),), seed=1),
    ]
    answers = {await text_of(scripted(), request) for request in requests}
    answers.add(await text_of(scripted(variant="b"), requests[0]))
    assert len(answers) == 6


async def test_answers_of_one_call_differ() -> None:
    answer = await scripted().chat(asked("I like the trains of Portugal", n=8, seed=1))
    assert len({c.text for c in answer.completions}) == 8


async def test_a_person_gives_away_one_fact_a_message_until_all_are_told() -> None:
    prompt = load_prompt("user")
    head = prompt.render("head", profile=LIFE, personality="")
    history: list[Line] = []
    for turn in range(1, 5):
        messages = user_view(head, "Hi!", history, prompt.render("tail", turn=turn))
        said = await text_of(scripted(), ChatRequest(messages, seed=turn))
        told = [fact for fact in FACTS if fact in said]
        assert told == ([FACTS[turn - 1]] if turn <= 3 else [])
        history += [Line(speaker="user", text=said), Line(speaker="assistant", text="I see.")]


async def test_an_inducer_finds_sentences_of_the_last_message() -> None:
    prompt = load_prompt("inducer")
    history = [
        Line(speaker="user", text="I bake bread."),
        Line(speaker="assistant", text="I sell shoes."),
        Line(speaker="user", text="I keep three beehives. Do you like honey?"),
    ]
    messages = observer_view(prompt.render("head"), history, prompt.render("tail", known=["I bake bread."]))
    schema = '{"type":"object","properties":{"facts":{"type":"array","items":{"type":"string"}}}}'
    answer = await text_of(scripted(), ChatRequest(messages, seed=1, schema=schema))
    assert json.loads(answer) == {"facts": ["I keep three beehives."]}


async def test_a_responder_takes_up_the_hint_if_there_is_one() -> None:
    prompt = load_prompt("responder")
    history = [Line(speaker="user", text="I bought a sweater.")]
    head, tail = prompt.render("head"), prompt.render("tail", hint=["Plays the oboe"])
    plain = [await text_of(scripted(), ChatRequest(responder_view(head, history, ""), seed=s)) for s in range(9)]
    hinted = [await text_of(scripted(), ChatRequest(responder_view(head, history, tail), seed=s)) for s in range(9)]
    assert all("bought" in text or "sweater" in text for text in plain)
    assert all("Plays" in text for text in hinted)


async def test_a_marker_comes_back() -> None:
    assert "[[marker:X-1]]" in await text_of(scripted(), asked("Hello [[marker:X-1]] there"))


async def test_stop_texts_and_the_longest_answer_end_it() -> None:
    cut = (await scripted().chat(asked("Hello", sampling=Sampling(max_tokens=3)))).completions[0]
    assert (len(cut.text.split()), cut.finish) == (3, "length")
    stopped = await text_of(scripted(), asked("Hello", sampling=Sampling(stop=(" ",))))
    assert " " not in stopped


async def test_deltas_make_up_the_answers() -> None:
    deltas = ["", ""]

    def on_delta(index: int, text: str) -> None:
        deltas[index] += text

    answer = await scripted().chat(asked("Hello", n=2), on_delta)
    assert deltas == [c.text for c in answer.completions]


# ---- closed answers


async def test_a_choice_is_one_of_the_set_with_normalised_log_probabilities() -> None:
    drawn = set()
    for seed in range(50):
        completion = (await scripted().chat(asked("Which?", choices=("A", "B", "C"), seed=seed))).completions[0]
        assert completion.choice_logprobs is not None
        assert sum(math.exp(p) for p in completion.choice_logprobs.values()) == pytest.approx(1.0)
        drawn.add(completion.text)
    assert drawn == {"A", "B", "C"}


async def test_at_temperature_zero_the_likeliest_choice_is_taken() -> None:
    for number in range(20):
        request = asked(f"Which? {number}", choices=("A", "B"), sampling=Sampling(temperature=0))
        completion = (await scripted().chat(request)).completions[0]
        assert completion.choice_logprobs is not None
        assert completion.choice_logprobs[completion.text] == max(completion.choice_logprobs.values())


async def test_choices_lean_towards_a_candidate_with_words_of_the_head() -> None:
    prompt = load_prompt("judge.choice")
    fits, other = "Are the beehives in Leeds well?", "Shall we discuss quarterly budgets?"
    head = prompt.render("head", profile=LIFE, personality="")
    wins = 0
    for number in range(40):
        order = (fits, other) if number % 2 else (other, fits)
        candidates = [{"letter": letter, "text": text} for letter, text in zip("AB", order, strict=True)]
        tail = prompt.render("tail", candidates=candidates, letters=["A", "B"])
        messages = observer_view(head, [Line(speaker="user", text=f"Hello {number}")], tail)
        answer = (await scripted().chat(ChatRequest(messages, choices=("A", "B")))).completions[0]
        assert answer.choice_logprobs is not None
        wins += order["AB".index(max(answer.choice_logprobs, key=answer.choice_logprobs.__getitem__))] == fits
    assert 24 < wins <= 40


async def test_simple_schemas_are_filled() -> None:
    schema = {
        "type": "object",
        "properties": {
            "verdict": {"enum": ["A", "B"]},
            "reason": {"type": "string"},
            "score": {"type": "integer", "minimum": 1, "maximum": 5},
            "sure": {"type": "boolean"},
            "facts": {"type": "array", "items": {"type": "string"}, "minItems": 3, "maxItems": 3},
        },
    }
    request = asked("I like tea. I hate rain.", schema=json.dumps(schema))
    value = json.loads(await text_of(scripted(), request))
    assert value["verdict"] in ("A", "B")
    assert 1 <= value["score"] <= 5
    assert isinstance(value["sure"], bool)
    assert value["reason"] in ("I like tea.", "I hate rain.")
    assert value["facts"][:2] == ["I like tea.", "I hate rain."]
    assert len(value["facts"]) == 3


async def test_a_schema_beyond_it_is_unsupported() -> None:
    with pytest.raises(ModelFailure) as caught:
        await scripted().chat(asked("Hello", schema='{"anyOf": []}'))
    assert caught.value.kind == "unsupported"


# ---- numbers


async def test_a_persona_in_the_head_raises_a_reply_that_fits_and_no_other() -> None:
    history = (Message("user", "Hello there"),)
    replies = ("How are the beehives in Leeds?", "Shall we discuss quarterly budgets?")
    with_persona = await scripted().score(ScoreRequest((Message("system", LIFE), *history), replies))
    without = await scripted().score(ScoreRequest((Message("system", "Be kind."), *history), replies))
    fits, other = (a.logprob - b.logprob for a, b in zip(with_persona.scores, without.scores, strict=True))
    assert fits == pytest.approx(3.0)
    assert other == 0
    assert [score.tokens for score in without.scores] == [6, 5]
    assert all(-3.5 < score.logprob / score.tokens < -2.5 for score in without.scores)


async def test_texts_that_share_words_are_near() -> None:
    vectors = (await scripted().embed(["red apples and pears", "pears and red apples", "a slow train", ""])).vectors
    near, far = (sum(x * y for x, y in zip(vectors[0], v, strict=True)) for v in vectors[1:3])
    assert near == pytest.approx(1.0)
    assert far < 0.5
    assert all(len(v) == EMBED_SIZE and sum(x * x for x in v) == pytest.approx(1.0) for v in vectors)


# ---- failures, identity


async def fates(model: ScriptedModel) -> list[str]:
    found = []
    for number in range(200):
        try:
            found.append(await text_of(model, asked(f"Hello {number}")))
        except ModelFailure as failure:
            found.append(failure.kind)
    return found


async def test_one_request_in_so_many_fails_and_fails_again() -> None:
    found = await fates(scripted(failures={"every": 5, "kind": "died"}))
    assert 20 <= found.count("died") <= 60
    assert found == await fates(scripted(failures={"every": 5, "kind": "died"}))


async def test_empty_and_drifting_answers_can_be_had() -> None:
    found = await fates(scripted(failures={"empty_every": 4, "drift_every": 3}))
    assert 30 <= found.count("") <= 75
    assert 30 <= sum("AI language model" in text for text in found) <= 100


async def test_a_prompt_beyond_the_context_is_too_long() -> None:
    model = scripted(context=256)
    assert await model.count_tokens(["x" * 1024, "x", ""]) == [256, 1, 0]
    for asking in (
        model.chat(asked("x" * 1024)),
        model.score(ScoreRequest(asked("x" * 1024).messages, ("Hi",))),
    ):
        with pytest.raises(ModelFailure) as caught:
            await asking
        assert caught.value.kind == "too_long"


def test_latency_and_permits_leave_the_identity_alone() -> None:
    operational: list[dict[str, Any]] = [{}, {"latency_s": 1.0, "permits": 2}]
    ids = [scripted(**fields).identity.id for fields in operational]
    assert ids[0] == ids[1]
    others: list[dict[str, Any]] = [{"variant": "b"}, {"failures": {"every": 2}}, {"context": 512}]
    assert len({ids[0], *(scripted(**fields).identity.id for fields in others)}) == 4


async def test_a_slow_answer_can_be_cancelled() -> None:
    task = asyncio.create_task(scripted(latency_s=3600.0).chat(asked("Hello")))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_any_text_is_answered() -> None:
    for text in ("", "\ud800", "\x00", "{braces} {0}", "(", "PERSON:\n", "\n\n(", "é" * 500):
        assert await text_of(scripted(), asked(text))
        schema = '{"type":"array","items":{"type":"string"}}'
        assert isinstance(json.loads(await text_of(scripted(), asked(text, schema=schema))), list)
        assert (await scripted().score(ScoreRequest(asked(text).messages, (text,)))).scores[0].tokens >= 1
