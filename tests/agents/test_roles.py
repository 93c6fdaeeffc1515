"""The user, the inducer and the responder: what they keep of an answer, when they ask again, and what they show."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from agents.calls import CallFailed
from agents.inducer import MAX_FACT_CHARACTERS, MAX_FACTS, Inducer
from agents.messages import InduceRequest, Line, Reply, RespondRequest, SpeakRequest
from agents.models.protocol import Capabilities, ChatAnswer, ChatRequest, Completion, ModelFailure, Sampling
from agents.models.scripted import ScriptedConfig, ScriptedModel
from agents.responder import Responder
from agents.roles import MAX_REASKS, Role
from agents.user import User
from agents.words import content_stems
from tests.support.agents import PERSON, PLACE, PROMPTS, FakeModel, MemoryLog, lines, prompt_text, says, stage_for
from trees.values import Ledger

WARM = Sampling(max_tokens=60, temperature=0.8)
GREEDY = Sampling(max_tokens=60, temperature=0)
IN_ROLE = "My left knee hurts since the stairs this morning."
FLIPPED = "As an AI language model, I am here to help you. How can I assist you today?"
TALK = lines("I fixed a xylophone today.", "How did that go?", "The tortoises watched me.")


def role(
    name: str, sampling: Sampling = WARM, *, models: Sequence[str] = ("fake",), samples: int = 1, **settings: Any
) -> Role:
    return Role(name, tuple(models), sampling, samples, settings)


# ---- the user


def speak_request(history: Sequence[Line] = (), **changes: Any) -> SpeakRequest:
    asked = SpeakRequest(place=PLACE, prompt_id=PROMPTS["user"].id, person=PERSON, history=tuple(history))
    return asked.model_copy(update=changes)


async def speak(model: Any, *, sampling: Sampling = WARM, log: MemoryLog | None = None, **settings: Any) -> Reply:
    user = User(stage_for(model, log=log), role("user", sampling, models=(model.name,), **settings))
    return await user.act(speak_request(TALK[:2]))


async def test_a_user_says_what_the_model_wrote() -> None:
    log = MemoryLog()
    (said,) = (await speak(FakeModel(says(IN_ROLE)), log=log)).said
    assert (said.text, said.drift, said.rerolls) == (IN_ROLE, None, 0)
    assert list(log.calls) == [said.call_id]


async def test_a_message_out_of_role_is_asked_again_under_another_seed() -> None:
    model = FakeModel(says(FLIPPED, IN_ROLE))
    (said,) = (await speak(model)).said
    assert (said.text, said.drift, said.rerolls) == (IN_ROLE, None, 1)
    assert len({asked.seed for asked in model.asked}) == 2


@pytest.mark.parametrize("rerolls", [0, 1, 3])
async def test_re_rolls_are_bounded_and_the_last_is_kept_with_its_drift(rerolls: int) -> None:
    model = FakeModel(says(*(f"{FLIPPED} Number {i}." for i in range(9))))
    (said,) = (await speak(model, rerolls=rerolls)).said
    assert (said.drift, said.rerolls) == ("role_flip", rerolls)
    assert said.text.endswith(f"Number {rerolls}.")
    assert len(model.asked) == rerolls + 1


async def test_every_re_roll_is_filed_under_its_own_purpose() -> None:
    log = MemoryLog()
    await speak(FakeModel(says(FLIPPED)), log=log, rerolls=2)
    assert [use.purpose for use in log.uses] == ["speak.0", "speak.0.reroll1", "speak.0.reroll2"]


async def test_a_greedy_user_is_asked_again_as_a_repeat() -> None:
    log, model = MemoryLog(), FakeModel(says(FLIPPED, IN_ROLE))
    (said,) = (await speak(model, sampling=GREEDY, log=log)).said
    assert said.text == IN_ROLE
    assert len(log.calls) == 2
    assert {asked.seed for asked in model.asked} == {None}


@pytest.mark.parametrize("nothing", ["", "  \n", "*smiles softly*", "..."])
async def test_a_user_who_says_nothing_is_a_failure(nothing: str) -> None:
    log = MemoryLog()
    with pytest.raises(CallFailed, match="said nothing, 3 times") as failed:
        await speak(FakeModel(says(nothing)), rerolls=2, log=log)
    assert failed.value.kind == "bad_answer"
    (kept,) = log.failures
    assert (kept.role, kept.purpose, kept.kind, kept.message) == ("user", "speak.0", "bad_answer", str(failed.value))
    assert kept.call_id in log.calls


async def test_a_user_who_says_nothing_once_is_asked_again() -> None:
    (said,) = (await speak(FakeModel(says("", IN_ROLE)))).said
    assert (said.text, said.rerolls) == (IN_ROLE, 1)


@pytest.mark.parametrize("text", [f"*sighs* {IN_ROLE}", f"{IN_ROLE} *leans back*", f'"{IN_ROLE}"', f"User: {IN_ROLE}"])
async def test_stage_directions_labels_and_quotes_are_gone(text: str) -> None:
    assert (await speak(FakeModel(says(text)))).said[0].text == IN_ROLE


async def test_what_a_user_thought_is_kept_apart() -> None:
    (said,) = (await speak(FakeModel(says(Completion(IN_ROLE, reasoning="I am tired."))))).said
    assert (said.text, said.reasoning) == (IN_ROLE, "I am tired.")


async def test_a_user_hears_the_persona_in_the_head_and_the_turn_in_the_tail() -> None:
    model = FakeModel(says(IN_ROLE))
    await speak(model)
    messages = model.asked[0].messages
    assert PERSON.profile in messages[0].content
    assert PERSON.personality in messages[0].content
    assert not any(PERSON.profile in message.content for message in messages[1:])
    assert "next message" in messages[-1].content


async def test_replicas_of_a_user_are_different_calls() -> None:
    log = MemoryLog()
    user = User(stage_for(FakeModel(says(IN_ROLE)), log=log), role("user"))
    for replica in ("0", "1", "reroll:0"):
        await user.act(speak_request(replica=replica))
    assert len(log.calls) == 3


async def test_a_scripted_user_speaks_in_role_all_along() -> None:
    model = ScriptedModel("scripted", ScriptedConfig(kind="scripted"))
    user = User(stage_for(model), role("user", models=("scripted",)))
    history: list[Line] = []
    for turn in range(1, 5):
        place = PLACE.model_copy(update={"turn": turn, "node_id": f"node{turn}"})
        (said,) = (await user.act(speak_request(history, place=place))).said
        assert said.drift is None
        history += lines(said.text, "I see.")


# ---- the inducer


def induce_request(known: Sequence[str] = (), *, sees: bool = False, history: Sequence[Line] = TALK) -> InduceRequest:
    return InduceRequest(
        place=PLACE, prompt_id=PROMPTS["inducer"].id, person=PERSON if sees else None,
        history=tuple(history), known=tuple(known),
    )  # fmt: skip


async def induce(model: FakeModel, *known: str, sampling: Sampling = WARM, **how: Any) -> Ledger:
    reply = await Inducer(stage_for(model), role("inducer", sampling)).act(induce_request(known, **how))
    assert reply.ledger is not None
    return reply.ledger


def names(*facts: str) -> FakeModel:
    return FakeModel(says(json.dumps({"facts": facts})))


async def test_facts_that_the_persons_words_support_are_kept() -> None:
    ledger = await induce(names("They fixed a xylophone.", "They keep tortoises."))
    assert ledger.facts == ("They fixed a xylophone.", "They keep tortoises.")
    assert (ledger.node_id, ledger.dropped, ledger.failure) == (PLACE.node_id, 0, None)


async def test_facts_that_the_person_never_said_are_dropped_and_counted() -> None:
    ledger = await induce(names("They live in Ljubljana.", "They keep tortoises.", "They abhor flattery."))
    assert (ledger.facts, ledger.dropped) == (("They keep tortoises.",), 2)


async def test_the_assistants_words_support_nothing() -> None:
    history = lines("Hello there.", "Do you like gardening?", "Not much.")
    assert (await induce(names("They like gardening."), history=history)).facts == ()


async def test_what_is_known_already_is_not_noted_again() -> None:
    ledger = await induce(names("they keep   tortoises", "They fixed a xylophone."), "They keep tortoises.")
    assert (ledger.facts, ledger.dropped) == (("They fixed a xylophone.",), 0)


async def test_a_fact_named_twice_is_noted_once() -> None:
    assert (await induce(names("They keep tortoises.", "They keep TORTOISES"))).facts == ("They keep TORTOISES",)


async def test_no_more_facts_are_taken_than_a_message_can_hold() -> None:
    ledger = await induce(names(*(f"Tortoises, number {i}." for i in range(20))))
    assert len(ledger.facts) == MAX_FACTS


async def test_a_long_fact_is_cut_and_known_by_what_was_kept() -> None:
    long = "The tortoises watched. " * 40
    (kept,) = (await induce(names(long))).facts
    assert len(kept) <= MAX_FACT_CHARACTERS
    assert (await induce(names(long), kept)).facts == ()


@pytest.mark.parametrize(
    "answer",
    ["They keep tortoises.", '{"facts": "none"}', '["a"]', '{"facts": ["cut o', "```json\n{}\n```", "[" * 100_000],
)
async def test_an_unreadable_answer_gives_an_empty_ledger_that_says_why(answer: str) -> None:
    model = FakeModel(says(answer))
    ledger = await induce(model)
    assert ledger.facts == ()
    assert ledger.failure is not None
    assert ledger.failure.startswith("unreadable answer: ")
    assert len({asked.seed for asked in model.asked}) == MAX_REASKS + 1


async def test_an_inducer_asks_again_until_it_can_read() -> None:
    ledger = await induce(FakeModel(says("hm", json.dumps({"facts": ["They keep tortoises."]}))))
    assert (ledger.facts, ledger.failure) == (("They keep tortoises.",), None)


async def test_a_greedy_inducer_asks_again_as_a_repeat() -> None:
    model = FakeModel(says("hm", '{"facts": []}'))
    assert (await induce(model, sampling=GREEDY)).failure is None
    assert len(model.asked) == 2


@pytest.mark.parametrize("capable", [True, False])
async def test_an_inducer_asks_for_a_schema_only_where_it_is_kept(capable: bool) -> None:
    model = FakeModel(says('{"facts": []}'), capabilities=Capabilities(json_schema=capable))
    await induce(model)
    assert (model.asked[0].schema is not None) == capable


@pytest.mark.parametrize("sees", [True, False])
async def test_the_ledger_says_whether_its_inducer_saw_the_persona(sees: bool) -> None:
    model = names()
    ledger = await induce(model, sees=sees)
    assert ledger.sees_persona == sees
    assert (PERSON.profile in prompt_text(model.asked[0].messages)) == sees


async def test_what_is_known_stands_in_the_last_part_alone() -> None:
    model = names()
    await induce(model, "They whistle.")
    content = model.asked[0].messages[-1].content
    assert content.index("They whistle.") > content.index(TALK[-1].text)
    assert not any("They whistle." in message.content for message in model.asked[0].messages[:-1])


async def test_a_failed_call_of_an_inducer_is_its_failure() -> None:
    with pytest.raises(CallFailed):
        await induce(FakeModel(says(ModelFailure("refused", "no"))))


async def test_a_scripted_inducer_notes_only_what_was_said() -> None:
    model = ScriptedModel("scripted", ScriptedConfig(kind="scripted"))
    reply = await Inducer(stage_for(model), role("inducer", models=("scripted",))).act(induce_request())
    assert reply.ledger is not None
    said = content_stems(" ".join(line.text for line in TALK if line.speaker == "user"))
    assert reply.ledger.facts
    assert all(content_stems(fact) & said for fact in reply.ledger.facts)


# ---- a responder


def respond_request(
    hint: Sequence[str] | None = None, history: Sequence[Line] = TALK, name: str = "responder.warm", replica: str = ""
) -> RespondRequest:
    return RespondRequest(
        place=PLACE, role=name, prompt_id=PROMPTS["responder"].id, history=tuple(history),
        hint=None if hint is None else tuple(hint), replica=replica,
    )  # fmt: skip


async def respond(
    model: FakeModel,
    request: RespondRequest,
    *,
    samples: int = 1,
    sampling: Sampling = WARM,
    log: MemoryLog | None = None,
) -> Reply:
    return await Responder(stage_for(model, log=log), role(request.role, sampling, samples=samples)).act(request)


async def test_the_hint_is_shown_in_the_last_message_alone() -> None:
    model = FakeModel(says("Slowly, I hope."))
    await respond(model, respond_request(["They keep tortoises."]))
    shown = [("They keep tortoises." in message.content) for message in model.asked[0].messages]
    assert shown == [False] * (len(shown) - 1) + [True]


@pytest.mark.parametrize("hint", [None, ()])
async def test_without_a_hint_a_responder_reads_what_was_said_and_no_more(hint: Sequence[str] | None) -> None:
    model = FakeModel(says("Slowly, I hope."))
    await respond(model, respond_request(hint))
    assert [m.content for m in model.asked[0].messages[1:]] == [line.text for line in TALK]


async def test_a_responder_never_reads_the_persona() -> None:
    model = FakeModel(says("Slowly, I hope."))
    await respond(model, respond_request(["They keep tortoises."]))
    unsaid = content_stems(PERSON.profile) - content_stems(" ".join(line.text for line in TALK))
    assert content_stems(prompt_text(model.asked[0].messages)).isdisjoint(unsaid - content_stems("keep"))


async def test_the_samples_of_a_turn_are_asked_in_one_call() -> None:
    log, model = MemoryLog(), FakeModel(says(["one", "two", "three"]))
    reply = await respond(model, respond_request(), samples=3, log=log)
    assert [(said.text, said.answer) for said in reply.said] == [("one", 0), ("two", 1), ("three", 2)]
    assert [asked.n for asked in model.asked] == [3]
    assert {said.call_id for said in reply.said} == set(log.calls)


async def test_empty_samples_are_left_out_and_the_others_keep_their_places() -> None:
    reply = await respond(FakeModel(says(["", "two", " \n", " four "])), respond_request(), samples=4)
    assert [(said.text, said.answer) for said in reply.said] == [("two", 1), ("four", 3)]


async def test_a_responder_that_said_nothing_is_asked_again_under_another_seed() -> None:
    model = FakeModel(says(["", ""], ["", "at last"]))
    reply = await respond(model, respond_request(), samples=2)
    assert [said.text for said in reply.said] == ["at last"]
    assert len({asked.seed for asked in model.asked}) == 2


@pytest.mark.parametrize("sampling", [WARM, GREEDY])
async def test_a_responder_that_keeps_saying_nothing_is_a_failure(sampling: Sampling) -> None:
    log, model = MemoryLog(), FakeModel(says(["", " "]))
    with pytest.raises(CallFailed, match=r"responder\.warm said nothing, 3 times") as failed:
        await respond(model, respond_request(), samples=2, sampling=sampling, log=log)
    assert failed.value.kind == "bad_answer"
    assert [(f.role, f.purpose, f.message) for f in log.failures] == [("responder.warm", "respond", str(failed.value))]
    assert len(model.asked) == MAX_REASKS + 1


async def test_siblings_of_different_responders_and_operations_are_different_calls() -> None:
    log, model = MemoryLog(), FakeModel(says("Slowly."))
    for name in ("responder.warm", "responder.plain"):
        for replica in ("", "reroll:0", "reroll:1"):
            await respond(model, respond_request(name=name, replica=replica), log=log)
    assert len(log.calls) == 6


async def test_a_hint_makes_a_different_call() -> None:
    log, model = MemoryLog(), FakeModel(says("Slowly."))
    for hint in (None, ["They keep tortoises."], ["They whistle."]):
        await respond(model, respond_request(hint), log=log)
    assert len(log.calls) == 3


# ---- what roles share


async def test_a_use_says_what_its_prompt_was_given() -> None:
    log, model = MemoryLog(), FakeModel(says('{"facts": []}'))
    stage = stage_for(model, log=log)
    await User(stage, role("user")).act(speak_request(TALK[:2]))
    await Inducer(stage, role("inducer")).act(induce_request(sees=True))
    await Responder(stage, role("responder.warm")).act(respond_request(["They keep tortoises."]))
    assert [dict(use.tail) for use in log.uses] == [{"turn": PLACE.turn}, {"sees_persona": True}, {"hint": True}]
    assert [use.prompt_id for use in log.uses] == [PROMPTS[kind].id for kind in ("user", "inducer", "responder")]


async def test_a_use_says_where_its_path_was_cut() -> None:
    log, model = MemoryLog(), FakeModel(says("Slowly."), capabilities=Capabilities(context=1000))
    history = lines(*("word " * 60 for _ in range(31)))
    await respond(model, respond_request(history=history), log=log)
    (use,) = log.uses
    shown = model.asked[0].messages[1:]
    assert use.epoch > 0
    assert [m.content for m in shown[2:]] == [line.text for line in history[int(str(use.tail["resume"])) :]]


async def test_one_of_several_models_is_drawn_by_the_place_alone() -> None:
    stage = stage_for(FakeModel(name="one"), FakeModel(name="two"))
    drawn = role("user", models=("one", "two"))
    places = [PLACE.model_copy(update={"node_id": f"node{i}"}) for i in range(40)]
    first = [stage.model_for(drawn, place) for place in places]
    assert first == [stage.model_for(drawn, place) for place in places]
    assert set(first) == {"one", "two"}


async def test_the_model_drawn_is_the_one_that_is_recorded() -> None:
    async def by(request: ChatRequest) -> ChatAnswer:
        return ChatAnswer((Completion(IN_ROLE),))

    models = [FakeModel(by, name=name) for name in ("one", "two")]
    stage = stage_for(*models)
    reply = await User(stage, role("user", models=("one", "two"))).act(speak_request())
    (asked,) = [model for model in models if model.asked]
    assert reply.said[0].model_id == asked.identity.id


def test_greedy_answers_carry_no_seed_and_others_one_of_their_place() -> None:
    stage = stage_for()
    assert stage.seed(role("user", GREEDY), PLACE, "speak.0") is None
    seeds = {
        stage.seed(role(name), PLACE.model_copy(update={"node_id": node, "run_seed": run}), purpose, reroll=reroll)
        for name in ("user", "inducer")
        for node in ("a", "b")
        for run in (1, 2)
        for purpose in ("speak.0", "speak.1")
        for reroll in (0, 1)
    }
    assert len(seeds) == 32
    assert all(isinstance(seed, int) and 0 <= seed < 2**31 for seed in seeds)
