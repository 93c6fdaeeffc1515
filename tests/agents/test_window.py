"""What is left of a long path: where it is cut, when the cut moves, and that it asks nobody but the counts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.calls import CallFailed
from agents.messages import Line, SpeakRequest
from agents.models.protocol import Capabilities, ModelFailure, Sampling
from agents.retries import RetryPolicy
from agents.roles import Role, Stage
from agents.window import KEPT_AT_START, TEMPLATE_TOKENS, WHOLE, Window, window_of
from tests.support.agents import PERSON, PLACE, PROMPTS, FakeModel, MemoryLog, calls_for, lines, stage_for

COUNTS = st.lists(st.integers(0, 60), min_size=1, max_size=60)
ROOMS = st.integers(0, 900)
FITTING_ROOMS = st.integers(4 * (60 + TEMPLATE_TOKENS), 900)
"""Rooms that take the first exchange and any other one whole."""


def shown(counts: list[int], window: Window) -> list[int]:
    """The places of the messages that are shown."""
    return window.apply(range(len(counts)))


def tokens(counts: list[int], window: Window) -> int:
    return sum(counts[i] + TEMPLATE_TOKENS for i in shown(counts, window))


# ---- the cut


@given(COUNTS, ROOMS)
def test_a_path_that_fits_is_shown_whole(counts: list[int], room: int) -> None:
    if tokens(counts, WHOLE) <= room:
        assert window_of(counts, room) == WHOLE


@given(COUNTS, FITTING_ROOMS)
def test_what_is_shown_fits_where_single_exchanges_do(counts: list[int], room: int) -> None:
    assert tokens(counts, window_of(counts, room)) <= room


@given(COUNTS, ROOMS)
def test_the_first_exchange_and_the_last_message_stay(counts: list[int], room: int) -> None:
    places = shown(counts, window_of(counts, room))
    assert places[:KEPT_AT_START] == list(range(len(counts)))[:KEPT_AT_START]
    assert places[-1] == len(counts) - 1


@given(COUNTS, ROOMS)
def test_messages_leave_in_pairs_so_that_speakers_alternate(counts: list[int], room: int) -> None:
    places = shown(counts, window_of(counts, room))
    assert [place % 2 for place in places] == [i % 2 for i in range(len(places))]


@given(COUNTS, ROOMS)
def test_what_is_shown_of_the_rest_has_no_hole(counts: list[int], room: int) -> None:
    rest = shown(counts, window_of(counts, room))[KEPT_AT_START:]
    assert rest == list(range(len(counts) - len(rest), len(counts)))


# ---- along a path


@given(COUNTS, ROOMS)
def test_within_an_epoch_prompts_are_appended_to(counts: list[int], room: int) -> None:
    for end in range(1, len(counts)):
        before, after = window_of(counts[:end], room), window_of(counts[: end + 1], room)
        if before.epoch == after.epoch:
            assert shown(counts[: end + 1], after)[:-1] == shown(counts[:end], before)


@given(COUNTS, ROOMS)
def test_an_epoch_ends_only_when_the_room_is_full(counts: list[int], room: int) -> None:
    for end in range(1, len(counts)):
        before, after = window_of(counts[:end], room), window_of(counts[: end + 1], room)
        full = end >= KEPT_AT_START and tokens(counts[: end + 1], before) > room
        assert after.epoch == before.epoch + full


def test_a_cut_is_one_large_step() -> None:
    counts = [10 - TEMPLATE_TOKENS] * 40
    windows = [window_of(counts[:end], 100) for end in range(1, 41)]
    assert [w.epoch for w in windows[:11]] == [0] * 10 + [1]
    assert tokens(counts[:11], windows[10]) <= 50
    turns_an_epoch = [sum(w.epoch == epoch for w in windows) for epoch in range(1, windows[-1].epoch)]
    assert min(turns_an_epoch) >= 5


# ---- as the stage asks for it


def stage_with(context: int | None) -> tuple[FakeModel, object]:
    model = FakeModel(capabilities=Capabilities(context=context))
    return model, stage_for(model)


def talk(messages: int, words: int = 60) -> tuple[Line, ...]:
    return lines(*(f"w{i} " * words for i in range(messages)))


async def window(stage: Stage, history: Sequence[Line], head: str = "head") -> Window:
    """What the user is shown beside a head and an answer of 200 tokens."""
    request = SpeakRequest(place=PLACE, prompt_id=PROMPTS["user"].id, person=PERSON, history=tuple(history))
    return await stage.window(Role("user", ("fake",), Sampling(max_tokens=200)), request, head)


async def test_a_model_of_unknown_context_is_shown_everything() -> None:
    stage = stage_for(FakeModel())
    assert await window(stage, talk(400)) == WHOLE


async def test_a_short_path_is_not_counted_at_all() -> None:
    class Uncounting(FakeModel):
        async def count_tokens(self, texts):  # type: ignore[no-untyped-def]
            raise AssertionError("there was no need to count")

    stage = stage_for(Uncounting(capabilities=Capabilities(context=4096)))
    assert await window(stage, lines("hi", "hello", "how are you?")) == WHOLE


async def test_what_a_stage_shows_leaves_room_for_head_answer_and_tail() -> None:
    model = FakeModel(capabilities=Capabilities(context=1000))
    stage, head, history = stage_for(model), "h " * 100, talk(41)
    cut = await window(stage, history, head)
    shown_words = sum(60 + TEMPLATE_TOKENS for _ in cut.apply(history))
    assert cut.epoch > 0
    assert shown_words <= 1000 - 200 - 100 - 250


async def test_the_window_is_the_same_whatever_was_asked_before() -> None:
    capabilities = Capabilities(context=1000)
    history = talk(41)
    asked_often = stage_for(FakeModel(capabilities=capabilities))
    for end in range(1, 42, 2):
        await window(asked_often, history[:end])
    fresh = stage_for(FakeModel(capabilities=capabilities))
    assert await window(asked_often, history) == await window(fresh, history)


async def test_the_window_is_the_same_when_remembered_counts_are_let_go() -> None:
    capabilities = Capabilities(context=1000)
    full = stage_for(FakeModel(capabilities=capabilities))
    history = talk(41)
    await window(full, history[:-1])
    await window(full, lines(*(f"filler {i}" for i in range(50_001))))
    fresh = stage_for(FakeModel(capabilities=capabilities))
    assert await window(full, history) == await window(fresh, history)


@pytest.mark.parametrize("messages", [1, 2, 3])
async def test_a_head_that_fills_the_context_still_leaves_a_quarter_to_the_talk(messages: int) -> None:
    stage = stage_for(FakeModel(capabilities=Capabilities(context=1000)))
    history = talk(messages)
    assert (await window(stage, history, "h " * 5000)).apply(history) == list(history)


async def test_a_model_that_dies_while_it_counts_is_asked_again() -> None:
    class DiesOnce(FakeModel):
        died = False

        async def count_tokens(self, texts: Sequence[str]) -> list[int]:
            if not self.died:
                self.died = True
                raise ModelFailure("died", "ended by signal 9")
            return await super().count_tokens(texts)

    capabilities, history = Capabilities(context=1000), talk(41)
    log, again = MemoryLog(), RetryPolicy(attempts=2, first_wait_s=0)
    stage = Stage(calls_for(DiesOnce(capabilities=capabilities), log=log, retries=again), {})
    assert await window(stage, history) == await window(stage_for(FakeModel(capabilities=capabilities)), history)
    assert not log.failures


async def test_texts_that_cannot_be_counted_in_time_are_a_failure_that_is_kept() -> None:
    class Stuck(FakeModel):
        async def count_tokens(self, texts: Sequence[str]) -> list[int]:
            await asyncio.Event().wait()
            raise AssertionError

    log = MemoryLog()
    stage = Stage(calls_for(Stuck(capabilities=Capabilities(context=1000)), log=log, deadline_s=0.01), {})
    with pytest.raises(CallFailed):
        await window(stage, talk(41))
    assert [(f.role, f.purpose, f.kind) for f in log.failures] == [("user", "count", "timeout")]
