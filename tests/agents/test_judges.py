"""Judges: the rules from what was seen to a verdict, with literal tables, and each judge over models that cheat."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.judges.judge import JudgeAgent, make_judge
from agents.judges.likelihood import gain
from agents.judges.measured import RULES, check_rules, panel_judgement
from agents.judges.pairwise import LABELS, swap_verdict
from agents.judges.verdicts import JudgeSpec, by_picks, by_scores, rotations
from agents.messages import Candidate, JudgeRequest
from agents.models.protocol import (
    Capabilities,
    ChatRequest,
    Completion,
    Message,
    ModelFailure,
    ReplyScore,
    Sampling,
    ScoreRequest,
)
from agents.roles import MAX_REASKS, Role
from tests.support.agents import (
    PERSON,
    PLACE,
    PROMPTS,
    FakeModel,
    MemoryLog,
    candidates,
    decides,
    lines,
    prompt_text,
    says,
    stage_for,
)
from trees.errors import SetupError
from trees.values import Judgement, Presentation, Verdict

HISTORY = lines("I mended two xylophones.", "How nice!", "Not really.")
Row = tuple[str, str, str]


def spec_of(kind: str, *, temperature: float = 0.0, **settings: object) -> JudgeSpec:
    role = Role("judge.main", ("fake",), Sampling(max_tokens=50, temperature=temperature))
    prompt = PROMPTS.get(f"judge.{kind}")
    return JudgeSpec("main", kind, role, "model", prompt.id if prompt else "", settings)


def request_of(shown: Sequence[Candidate], kind: str = "likelihood", **changes: Any) -> JudgeRequest:
    prompt = PROMPTS.get(f"judge.{kind}")
    asked = JudgeRequest(
        place=PLACE, judge="main", prompt_id=prompt.id if prompt else "", person=PERSON, history=HISTORY,
        candidates=tuple(shown), revealed=("They mend xylophones.",),
    )  # fmt: skip
    return asked.model_copy(update=changes)


async def judged(
    spec: JudgeSpec, *texts: str, model: FakeModel | None = None, log: MemoryLog | None = None, **changes: Any
) -> Judgement:
    """What a judge says of these replies to the same message."""
    stage = stage_for(*([model] if model else []), log=log)
    reply = await JudgeAgent(stage, spec).act(request_of(candidates(*texts), spec.kind, **changes))
    assert reply.judgement is not None
    return reply.judgement


def rows(verdicts: Sequence[Verdict]) -> list[Row]:
    return [(v.first_id, v.second_id, v.outcome) for v in verdicts]


# ---- by scores


@pytest.mark.parametrize(
    ("scores", "threshold", "verdict"),
    [
        ((1.0, 0.0), 0.5, ("r0", "r1", "win")),
        ((0.0, 1.0), 0.5, ("r1", "r0", "win")),
        ((0.5, 0.0), 0.5, ("r0", "r1", "tie")),
        ((0.0, 0.5), 0.5, ("r1", "r0", "tie")),
        ((0.0, 0.0), 0.0, ("r0", "r1", "tie")),
        ((-3.0, -1.0), 0.5, ("r1", "r0", "win")),
    ],
)
def test_a_difference_of_scores_above_the_threshold_wins(
    scores: tuple[float, float], threshold: float, verdict: Row
) -> None:
    values = {"r0": scores[0], "r1": scores[1]}
    (said,) = by_scores(candidates("a", "b"), values, threshold, "nats")
    assert rows([said]) == [verdict]
    assert (said.margin, said.unit) == (abs(scores[0] - scores[1]), "nats")


def test_equal_texts_tie_whatever_their_scores() -> None:
    assert rows(by_scores(candidates("same", "same"), {"r0": 9.0, "r1": 0.0}, 0.1, "nats")) == [("r0", "r1", "tie")]


def test_scores_speak_of_every_two_replies() -> None:
    values = {"r0": 0.0, "r1": 2.0, "r2": 0.05}
    assert rows(by_scores(candidates("a", "b", "c"), values, 0.1, "points")) == [
        ("r1", "r0", "win"),
        ("r2", "r0", "tie"),
        ("r1", "r2", "win"),
    ]


# ---- by picks


@pytest.mark.parametrize(
    ("picks", "verdicts"),
    [
        (["a", "a", "a"], [("a", "b", "win"), ("a", "c", "tie")]),
        (["b", "b", "b"], [("b", "a", "tie"), ("b", "c", "tie")]),
        (["a", "b", "a"], [("a", "b", "unstable")]),
        (["c", "a", "c"], [("a", "c", "unstable")]),
        (["a", "b", "c"], [("a", "b", "unstable"), ("a", "c", "unstable"), ("b", "c", "unstable")]),
        (["a", None, "a"], [("a", "b", "abstain"), ("a", "c", "abstain"), ("b", "c", "abstain")]),
        ([None, None, None], [("a", "b", "abstain"), ("a", "c", "abstain"), ("b", "c", "abstain")]),
    ],
)
def test_picks_become_verdicts(picks: list[str | None], verdicts: list[Row]) -> None:
    values = {"a": 0.5, "b": 0.2, "c": 0.45}
    assert rows(by_picks(["a", "b", "c"], picks, values, 0.1)) == verdicts


def test_a_pick_is_silent_among_the_replies_that_were_not_picked() -> None:
    pairs = {frozenset(row[:2]) for row in rows(by_picks(["a", "b", "c"], ["a"], {"a": 1, "b": 0, "c": 0}, 0))}
    assert frozenset(("b", "c")) not in pairs


# ---- the swap

A_WINS, B_WINS = ("a", "b", "win"), ("b", "a", "win")
TIE, BOTH_BAD = ("a", "b", "tie"), ("a", "b", "both_bad")
UNSTABLE, ABSTAIN = ("a", "b", "unstable"), ("a", "b", "abstain")
SWAPS: dict[tuple[str | None, str | None], Row] = {
    ("A", "A"): UNSTABLE, ("A", "B"): A_WINS, ("A", "tie"): UNSTABLE, ("A", "both_bad"): UNSTABLE,
    ("B", "A"): B_WINS, ("B", "B"): UNSTABLE, ("B", "tie"): UNSTABLE, ("B", "both_bad"): UNSTABLE,
    ("tie", "A"): UNSTABLE, ("tie", "B"): UNSTABLE, ("tie", "tie"): TIE, ("tie", "both_bad"): UNSTABLE,
    ("both_bad", "A"): UNSTABLE, ("both_bad", "B"): UNSTABLE, ("both_bad", "tie"): UNSTABLE,
    ("both_bad", "both_bad"): BOTH_BAD,
    (None, "A"): ABSTAIN, (None, "B"): ABSTAIN, (None, "tie"): ABSTAIN, (None, "both_bad"): ABSTAIN,
    ("A", None): ABSTAIN, ("B", None): ABSTAIN, ("tie", None): ABSTAIN, ("both_bad", None): ABSTAIN,
    (None, None): ABSTAIN,
}  # fmt: skip
"""(label with a first, label with b first) to the verdict on a and b."""


def test_the_table_of_swaps_is_whole() -> None:
    assert set(SWAPS) == set(product([*LABELS, None], repeat=2))


@pytest.mark.parametrize("labels", SWAPS, ids=lambda labels: "-".join(str(label) for label in labels))
def test_a_verdict_stands_only_if_it_survives_the_swap(labels: tuple[str | None, str | None]) -> None:
    assert rows([swap_verdict("a", "b", *labels)]) == [SWAPS[labels]]


# ---- rotations


@given(number=st.integers(1, 8), seed=st.integers(0, 99), repeat=st.integers(0, 3))
def test_every_reply_stands_at_every_place_once(number: int, seed: int, repeat: int) -> None:
    orders = rotations(candidates(*"abcdefgh"[:number]), seed, "main", repeat)
    places = [[order[place].node_id for order in orders] for place in range(number)]
    assert len(orders) == number
    assert all(sorted(at) == [f"r{i}" for i in range(number)] for at in places)


def test_the_first_order_follows_from_the_seed() -> None:
    shown = candidates(*"abcdef")

    def first(*what: Any) -> list[str]:
        return [c.node_id for c in rotations(shown, *what)[0]]

    assert first(1, "main", 0) == first(1, "main", 0)
    others = [first(2, "main", 0), first(1, "other", 0), first(1, "main", 1)]
    assert all(other != first(1, "main", 0) for other in others)


def test_the_first_order_does_not_depend_on_the_order_of_asking() -> None:
    shown = candidates(*"abcdef")
    assert rotations(shown, 1, "main", 0) == rotations(shown[::-1], 1, "main", 0)


# ---- likelihood


def knows_the_person(request: ScoreRequest) -> bool:
    return PERSON.profile in prompt_text(request.messages)


def scorer(told: Mapping[str, tuple[float, int]], untold: Mapping[str, tuple[float, int]]) -> FakeModel:
    """A model that scores replies by whether it is shown the persona."""
    return FakeModel(
        score=lambda asked: [(told if knows_the_person(asked) else untold)[reply] for reply in asked.replies]
    )


def test_the_gain_is_what_the_persona_adds_a_token() -> None:
    assert gain(ReplyScore(-10.0, 4), ReplyScore(-12.0, 4)) == 0.5
    assert gain(ReplyScore(-12.0, 4), ReplyScore(-10.0, 4)) == -0.5
    assert gain(ReplyScore(0.0, 0), ReplyScore(0.0, 0)) == 0.0


async def test_likelihood_ranks_by_what_the_persona_explains_not_by_fluency() -> None:
    model = scorer(
        told={"fluent": (-4.0, 4), "fitting": (-30.0, 5)},
        untold={"fluent": (-4.4, 4), "fitting": (-35.0, 5)},
    )
    said = await judged(spec_of("likelihood", threshold=0.5), "fluent", "fitting", model=model)
    assert {s.node_id: (s.unit, round(s.value, 9)) for s in said.scores} == {"r0": ("nats", 0.1), "r1": ("nats", 1.0)}
    assert rows(said.verdicts) == [("r1", "r0", "win")]
    assert said.verdicts[0].margin == pytest.approx(0.9)


async def test_likelihood_asks_once_with_the_persona_and_once_without() -> None:
    log = MemoryLog()
    model = scorer({"a": (-1, 1), "b": (-1, 1)}, {"a": (-1, 1), "b": (-1, 1)})
    said = await judged(spec_of("likelihood"), "a", "b", model=model, log=log)
    assert [knows_the_person(asked) for asked in model.scored] == [True, False]
    assert [p.label for p in said.presentations] == ["with persona", "without persona"]
    assert [p.call_id for p in said.presentations] == [use.call_id for use in log.uses]


async def test_the_two_readings_of_likelihood_differ_in_the_head_alone() -> None:
    model = scorer({"a": (-1, 1), "b": (-1, 1)}, {"a": (-1, 1), "b": (-1, 1)})
    await judged(spec_of("likelihood"), "a", "b", model=model)
    told, untold = (asked.messages for asked in model.scored)
    assert told[1:] == untold[1:]
    assert told[1:] == tuple(Message(line.speaker, line.text) for line in HISTORY)


async def test_the_two_readings_see_the_same_transcript_when_it_is_cut() -> None:
    wordy = PERSON.model_copy(update={"profile": PERSON.profile + " And so on." * 60})
    cut = 0
    for turns in range(9, 25, 2):
        model = FakeModel(score=lambda asked: [(-1.0, 1)] * 2, capabilities=Capabilities(score=True, context=1000))
        history = lines(*("word " * 50 for _ in range(turns)))
        await judged(spec_of("likelihood"), "a", "b", model=model, person=wordy, history=history)
        told, untold = (asked.messages for asked in model.scored)
        assert told[1:] == untold[1:]
        cut += len(told) < turns
    assert cut


async def test_the_length_of_todays_replies_does_not_move_the_cut() -> None:
    history = lines(*("word " * 40 for _ in range(21)))
    shown = set()
    for length in (1, 60, 120, 200):
        model = FakeModel(score=lambda asked: [(-1.0, 1)] * 2, capabilities=Capabilities(score=True, context=1000))
        await judged(spec_of("likelihood"), "a", "b " * length, model=model, history=history)
        shown.add(model.scored[0].messages)
    assert len(shown) == 1


async def test_likelihood_of_what_was_revealed_never_sees_the_persona() -> None:
    model = FakeModel(score=lambda asked: [(-1.0, 1)] * len(asked.replies))
    await judged(spec_of("likelihood", condition="revealed"), "a", "b", model=model)
    assert [knows_the_person(asked) for asked in model.scored] == [False, False]
    assert ["They mend xylophones." in prompt_text(asked.messages) for asked in model.scored] == [True, False]


async def test_the_default_threshold_takes_a_hair_for_a_tie() -> None:
    model = scorer({"a": (-10.0, 10), "b": (-10.1, 10)}, {"a": (-10.0, 10), "b": (-10.0, 10)})
    said = await judged(spec_of("likelihood"), "a", "b", model=model)
    assert rows(said.verdicts) == [("r0", "r1", "tie")]


# ---- choice


def letter_of(request: ChatRequest, text: str) -> str:
    """The letter under which a candidate's text is shown."""
    before = request.messages[-1].content.split(f"    {text}\n")[0]
    return before.rstrip().rstrip(":")[-1]


def odds(request: ChatRequest, likely: str, probability: float) -> Completion:
    """An answer of this letter with this probability; the others share the rest."""
    rest = (1 - probability) / (len(request.choices) - 1)
    logprobs = {letter: math.log(probability if letter == likely else rest) for letter in request.choices}
    return Completion(likely, choice_logprobs=logprobs)


async def test_choice_finds_the_reply_wherever_it_stands() -> None:
    model = FakeModel(decides(lambda asked: odds(asked, letter_of(asked, "kind"), 0.8)))
    said = await judged(spec_of("choice"), "cold", "kind", "odd", model=model)
    assert sorted(rows(said.verdicts)) == [("r1", "r0", "win"), ("r1", "r2", "win")]
    assert {s.node_id: round(s.value, 9) for s in said.scores} == {"r0": 0.1, "r1": 0.8, "r2": 0.1}
    assert {p.order.index("r1") for p in said.presentations} == {0, 1, 2}


@pytest.mark.parametrize("probabilities", [True, False], ids=["with probabilities", "letters only"])
@pytest.mark.parametrize("texts", [("cold", "kind"), ("cold", "kind", "odd")], ids=["two", "three"])
@pytest.mark.parametrize("letter", ["A", "B"])
async def test_a_model_that_follows_the_letter_never_gives_a_win(
    probabilities: bool, texts: Sequence[str], letter: str
) -> None:
    model = FakeModel(decides(lambda asked: odds(asked, letter, 0.9) if probabilities else letter))
    said = await judged(spec_of("choice"), *texts, model=model)
    assert {v.outcome for v in said.verdicts} == {"unstable"}
    assert len(said.verdicts) == len(texts) * (len(texts) - 1) / 2


async def test_choice_without_probabilities_scores_by_the_share_of_picks() -> None:
    model = FakeModel(decides(lambda asked: letter_of(asked, "kind")))
    said = await judged(spec_of("choice"), "cold", "kind", model=model)
    assert {s.node_id: s.value for s in said.scores} == {"r0": 0.0, "r1": 1.0}
    assert rows(said.verdicts) == [("r1", "r0", "win")]


async def test_choice_that_cannot_be_read_abstains_and_keeps_what_was_said() -> None:
    model = FakeModel(says("I like them both, they are lovely."))
    said = await judged(spec_of("choice", temperature=0.7), "a", "b", model=model)
    assert rows(said.verdicts) == [("r0", "r1", "abstain")]
    assert {(p.raw, p.label) for p in said.presentations} == {("I like them both, they are lovely.", None)}
    assert len(model.asked) == 2 * (MAX_REASKS + 1)
    assert said.complete


async def test_choice_asks_again_under_another_seed_until_it_can_read() -> None:
    model = FakeModel(decides(lambda asked: "A" if len(model.asked) >= 3 else "hm"))
    said = await judged(spec_of("choice", temperature=0.7, hinted_first=True), "a", "b", model=model)
    assert [p.label for p in said.presentations] == ["A"]
    assert len({asked.seed for asked in model.asked}) == 3


async def test_a_greedy_choice_that_cannot_be_read_is_a_call_of_its_own_each_time() -> None:
    log = MemoryLog()
    await judged(spec_of("choice", hinted_first=True), "a", "b", model=FakeModel(says("hm")), log=log)
    assert len(log.calls) == MAX_REASKS + 1


async def test_hinted_first_shows_the_hinted_reply_first_and_once() -> None:
    model = FakeModel(says("A"))
    spec = spec_of("choice", hinted_first=True)
    shown = candidates("plain", "warm", "bare", hinted=[1])
    reply = await JudgeAgent(stage_for(model), spec).act(request_of(shown, "choice"))
    assert reply.judgement is not None
    assert [p.order for p in reply.judgement.presentations] == [("r1", "r0", "r2")]


async def test_a_repeated_judgement_is_another_one_of_the_same_judge() -> None:
    log, model = MemoryLog(), FakeModel(says("A"))
    first = await judged(spec_of("choice"), "a", "b", model=model, log=log)
    again = await judged(spec_of("choice"), "a", "b", model=model, log=log, repeat=1)
    assert first.judge_id == again.judge_id
    assert first.id != again.id
    assert len(log.calls) == 4


# ---- pairwise


def verdict_json(label: str) -> str:
    return f'{{"reason": "because", "verdict": "{label}"}}'


def favours(text: str) -> FakeModel:
    """A model that finds one reply better wherever it stands."""

    def choose(asked: ChatRequest) -> str:
        shown = asked.messages[-1].content.partition("\nB:\n")
        return verdict_json("A" if f"    {text}\n" in shown[0] else "B" if f"    {text}\n" in shown[2] else "tie")

    return FakeModel(decides(choose))


async def test_pairwise_shows_every_two_replies_in_both_orders() -> None:
    said = await judged(spec_of("pairwise"), "cold", "kind", "odd", model=favours("kind"))
    assert [p.order for p in said.presentations] == [
        ("r0", "r1"), ("r1", "r0"), ("r0", "r2"), ("r2", "r0"), ("r1", "r2"), ("r2", "r1"),
    ]  # fmt: skip
    assert rows(said.verdicts) == [("r1", "r0", "win"), ("r0", "r2", "tie"), ("r1", "r2", "win")]


@pytest.mark.parametrize("label", ["A", "B"])
async def test_a_model_that_follows_the_order_is_unstable(label: str) -> None:
    said = await judged(spec_of("pairwise"), "a", "b", model=FakeModel(says(verdict_json(label))))
    assert rows(said.verdicts) == [("r0", "r1", "unstable")]


@pytest.mark.parametrize("label", ["tie", "both_bad"])
async def test_what_no_order_changes_stands(label: str) -> None:
    said = await judged(spec_of("pairwise"), "a", "b", model=FakeModel(says(verdict_json(label))))
    assert rows(said.verdicts) == [("r0", "r1", label)]


async def test_pairwise_that_cannot_be_read_abstains_and_keeps_what_was_said() -> None:
    model = FakeModel(says("A is better."))
    said = await judged(spec_of("pairwise", temperature=0.7), "a", "b", model=model)
    assert rows(said.verdicts) == [("r0", "r1", "abstain")]
    assert [(p.raw, p.label, p.call_id is None) for p in said.presentations] == [("A is better.", None, False)] * 2
    assert len(model.asked) == 2 * (MAX_REASKS + 1)


@pytest.mark.parametrize("capable", [True, False])
async def test_pairwise_asks_for_a_schema_only_where_it_is_kept(capable: bool) -> None:
    model = FakeModel(says(verdict_json("tie")), capabilities=Capabilities(json_schema=capable))
    await judged(spec_of("pairwise"), "a", "b", model=model)
    assert {asked.schema is not None for asked in model.asked} == {capable}


# ---- rating


def yes(probability: float) -> Completion:
    logprobs = {"Yes": math.log(probability), "No": math.log(1 - probability)}
    return Completion("Yes" if probability > 0.5 else "No", choice_logprobs=logprobs)


async def test_rating_scores_each_reply_on_its_own_by_the_probability_of_yes() -> None:
    model = FakeModel(decides(lambda asked: yes(0.75 if "    kind\n" in asked.messages[-1].content else 0.25)))
    said = await judged(spec_of("rating"), "cold", "kind", "odd", model=model)
    assert {s.node_id: (s.unit, round(s.value, 9)) for s in said.scores} == {
        "r0": ("probability", 0.25),
        "r1": ("probability", 0.75),
        "r2": ("probability", 0.25),
    }
    assert rows(said.verdicts) == [("r1", "r0", "win"), ("r0", "r2", "tie"), ("r1", "r2", "win")]
    assert [p.order for p in said.presentations] == [("r0",), ("r1",), ("r2",)]


async def test_rating_never_shows_two_replies_together() -> None:
    model = FakeModel(says(yes(0.5)))
    await judged(spec_of("rating"), "coldish", "kindish", model=model)
    shown = [[text in prompt_text(asked.messages) for text in ("coldish", "kindish")] for asked in model.asked]
    assert sorted(shown) == [[False, True], [True, False]]


async def test_a_model_that_always_says_yes_ties() -> None:
    said = await judged(spec_of("rating"), "a", "b", model=FakeModel(says(yes(0.9))))
    assert rows(said.verdicts) == [("r0", "r1", "tie")]


async def test_a_reply_that_could_not_be_rated_abstains_against_each_other_one() -> None:
    unsure = Completion("Well.")
    model = FakeModel(decides(lambda asked: unsure if "    odd\n" in asked.messages[-1].content else yes(0.5)))
    said = await judged(spec_of("rating"), "a", "b", "odd", model=model)
    assert rows(said.verdicts) == [("r0", "r1", "tie"), ("r2", "r0", "abstain"), ("r2", "r1", "abstain")]
    assert said.presentations[2].raw == "Well."


# ---- rules

SAMPLES: dict[str, tuple[float, str, str]] = {
    "max_words": (3, "just three words", "these are four words"),
    "min_words": (3, "just three words", "two words"),
    "question": (1, "Really?", "Really."),
    "ends_with_question": (1, 'Tea is nice. "Or not?"\n', "Or not? Tea is nice."),
    "emoji": (1, "Nice \U0001f642", "Nice :)"),
    "exclamation": (1, "Nice!", "Nice."),
    "list": (1, "Two things:\n- tea\n- rest", "Tea - and rest"),
    "addresses": (1, "How are you?", "I like tea."),
}
"""Rule to its argument, a text that keeps it and one that does not."""


def test_every_rule_has_a_sample() -> None:
    assert set(SAMPLES) == set(RULES)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_rule_holds_of_one_text_and_not_of_another(name: str) -> None:
    argument, keeps, breaks = SAMPLES[name]
    assert RULES[name](keeps, argument)
    assert not RULES[name](breaks, argument)


@pytest.mark.parametrize("name", sorted(set(SAMPLES) - {"max_words", "min_words"}))
def test_a_rule_can_be_turned_round(name: str) -> None:
    _, keeps, breaks = SAMPLES[name]
    assert not RULES[name](keeps, 0)
    assert RULES[name](breaks, 0)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("question", "本当ですか？"),
        ("ends_with_question", "本当ですか？」"),
        ("list", "1. tea\n2. rest"),
        ("list", "• tea"),
        ("emoji", "☀"),
        ("addresses", "It suits YOURSELF"),
    ],
)
def test_rules_know_other_ways_of_writing_the_same(name: str, text: str) -> None:
    assert RULES[name](text, 1)


async def test_rules_score_by_the_share_that_holds() -> None:
    spec = spec_of("rules", rules={"max_words": 5, "question": 1})
    said = await judged(spec, "Shall we?", "We shall.", "We shall go there and then see what happens.")
    assert {s.node_id: (s.unit, s.value) for s in said.scores} == {
        "r0": ("points", 5.0), "r1": ("points", 3.0), "r2": ("points", 1.0),
    }  # fmt: skip
    assert rows(said.verdicts) == [("r0", "r1", "win"), ("r0", "r2", "win"), ("r1", "r2", "win")]


@pytest.mark.parametrize("rules", [None, {}, [], {"loud": 1}])
def test_rules_that_do_not_exist_are_refused_and_those_that_do_are_named(rules: object) -> None:
    with pytest.raises(SetupError) as refused:
        check_rules(rules)
    assert refused.value.hint is not None
    assert "max_words" in refused.value.hint


# ---- treatment


async def test_hinted_beats_unhinted_and_nothing_is_said_among_those_treated_alike() -> None:
    spec = spec_of("treatment")
    shown = candidates("warm", "plain", "brief", "bare", hinted=[0, 2])
    reply = await JudgeAgent(stage_for(), spec).act(request_of(shown, "treatment"))
    assert reply.judgement is not None
    wins = [("r0", "r1", "win"), ("r0", "r3", "win"), ("r2", "r1", "win"), ("r2", "r3", "win")]
    assert sorted(rows(reply.judgement.verdicts)) == wins
    assert not reply.judgement.scores


async def test_a_hint_that_changed_nothing_ties() -> None:
    reply = await JudgeAgent(stage_for(), spec_of("treatment")).act(
        request_of(candidates("same", "same", hinted=[1]), "treatment")
    )
    assert reply.judgement is not None
    assert rows(reply.judgement.verdicts) == [("r1", "r0", "tie")]


# ---- panel

WIN_0, WIN_1 = Verdict("r0", "r1", "win"), Verdict("r1", "r0", "win")


def member(*verdicts: Verdict, complete: bool = True) -> Judgement:
    return Judgement("j", "node", "judge", 0, ("r0", "r1"), verdicts=verdicts, complete=complete)


def outcome(*members: Judgement) -> list[Row]:
    return rows(panel_judgement("panel", "node", 0, {f"m{i}": m for i, m in enumerate(members)}).verdicts)


@pytest.mark.parametrize(
    ("votes", "verdict"),
    [
        ([WIN_0, WIN_0, WIN_1], ("r0", "r1", "win")),
        ([WIN_1, WIN_0, WIN_1], ("r1", "r0", "win")),
        ([WIN_0, WIN_1], ("r0", "r1", "tie")),
        ([WIN_0, WIN_0, WIN_1, WIN_1], ("r0", "r1", "tie")),
        ([WIN_0, WIN_1, Verdict("r0", "r1", "tie")], ("r0", "r1", "tie")),
        ([WIN_0, Verdict("r1", "r0", "both_bad"), Verdict("r0", "r1", "both_bad")], ("r0", "r1", "both_bad")),
        ([WIN_0, Verdict("r1", "r0", "unstable"), Verdict("r0", "r1", "unstable")], ("r0", "r1", "unstable")),
        ([WIN_0], ("r0", "r1", "win")),
    ],
)
def test_a_panel_goes_with_more_than_half_of_its_members(votes: list[Verdict], verdict: Row) -> None:
    assert outcome(*(member(vote) for vote in votes)) == [verdict]


def test_a_member_that_is_silent_on_two_replies_abstains_on_them() -> None:
    assert outcome(member(WIN_0), member(), member()) == [("r0", "r1", "abstain")]


def test_a_panel_shows_how_its_members_were_split() -> None:
    said = panel_judgement("panel", "node", 0, {"likelihood": member(WIN_0), "choice": member(WIN_1)})
    assert said.presentations == (
        Presentation(
            ("r0", "r1"), None, '{"choice":[["r1","r0","win"]],"likelihood":[["r0","r1","win"]]}', {}, "panel"
        ),
    )


def test_a_panel_with_a_member_that_was_not_asked_is_incomplete_and_names_it() -> None:
    members = {"likelihood": member(WIN_0), "choice": member(Verdict("r0", "r1", "abstain"), complete=False)}
    said = panel_judgement("panel", "node", 0, members)
    assert not said.complete
    assert said.cause is not None
    assert "choice" in said.cause
    assert "likelihood" not in said.cause


# ---- all judges


@pytest.mark.parametrize("kind", ["likelihood", "choice", "pairwise", "rating", "rules", "treatment"])
@pytest.mark.parametrize("texts", [(), ("alone",)])
async def test_one_reply_needs_no_call(kind: str, texts: tuple[str, ...]) -> None:
    model = FakeModel()
    said = await judged(spec_of(kind, rules={"question": 1}), *texts, model=model)
    assert said.complete
    assert not said.verdicts
    assert not model.asked
    assert not model.scored


@pytest.mark.parametrize("kind", ["choice", "pairwise", "rating"])
async def test_a_failed_call_makes_an_incomplete_judgement_that_abstains(kind: str) -> None:
    log = MemoryLog()
    model = FakeModel(says(ModelFailure("refused", "I may not")))
    said = await judged(spec_of(kind), "a", "b", "c", model=model, log=log)
    assert not said.complete
    assert said.cause == "refused: I may not"
    assert rows(said.verdicts) == [("r0", "r1", "abstain"), ("r0", "r2", "abstain"), ("r1", "r2", "abstain")]
    assert {f.kind for f in log.failures} == {"refused"}


async def test_a_failed_score_makes_an_incomplete_judgement_that_abstains() -> None:
    def fail(asked: ScoreRequest) -> Sequence[tuple[float, int]]:
        raise ModelFailure("unsupported", "cannot score")

    said = await judged(spec_of("likelihood"), "a", "b", model=FakeModel(score=fail))
    assert (said.complete, rows(said.verdicts)) == (False, [("r0", "r1", "abstain")])


def test_a_judge_of_no_known_kind_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="oracle"):
        make_judge(stage_for(), spec_of("oracle"))


def test_a_judges_id_changes_with_whatever_can_change_a_verdict_and_not_with_its_name() -> None:
    spec = spec_of("choice", threshold=0.1)
    others = [
        replace(spec, kind="pairwise"),
        replace(spec, model_id="another"),
        replace(spec, prompt_id="another"),
        replace(spec, settings={"threshold": 0.2}),
        replace(spec, role=replace(spec.role, sampling=Sampling(temperature=1.0))),
    ]
    assert len({spec.id, *(other.id for other in others)}) == len(others) + 1
    assert replace(spec, name="renamed").id == spec.id
