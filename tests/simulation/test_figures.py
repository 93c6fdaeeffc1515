"""What models are doing, as rows: from the call path, from the backend, and nothing of it in the trees."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.calls import Calls, Seat
from agents.models.llama import LlamaConfig, LlamaModel
from agents.models.protocol import ChatAnswer, ChatRequest, Completion, Figures, Message, ModelFailure, Sampling, Usage
from agents.permits import AdaptiveLimit, Permits
from agents.retries import RetryPolicy
from simulation.figures import Measuring, figures_of, quantile
from tests.support.agents import ASKING, FakeModel, MemoryLog, OpenGate
from tests.support.builders import BuiltRun, make_run
from tests.support.play import configuration, play
from trees.jobs import events
from trees.statistics import model_activity
from trees.store import Store
from trees.verify import verify
from trees.writer import Writer

COUNTED = Figures(100, 900, 50, 10, 2.0, 3, 4, 500, 1000)


class Counting(FakeModel):
    """Tells of itself what a test says."""

    told: Figures | None = None

    async def figures(self) -> Figures | None:
        return self.told


async def answer(request: ChatRequest) -> ChatAnswer:
    await asyncio.sleep(0)
    if "fail" in request.messages[0].content:
        raise ModelFailure("rate_limited", "too many")
    usage = Usage(prompt_tokens=30, cached_tokens=20, output_tokens=5, first_token_s=0.25)
    return ChatAnswer((Completion("yes"),), usage)


async def untimed(request: ChatRequest) -> ChatAnswer:
    return ChatAnswer((Completion("yes"),), Usage(prompt_tokens=30))


class Measured:
    """A model on the call path, measured into a store."""

    def __init__(self, path: Path, limit: int | AdaptiveLimit = 4) -> None:
        self.store = Store.open(path)
        self.run: BuiltRun = make_run(self.store)
        self.model = Counting(answer)
        policy = RetryPolicy(attempts=2, first_wait_s=0)
        self.seat = Seat(self.model, "m", Permits(limit), 30.0, policy)
        self.calls = Calls({"small": self.seat}, MemoryLog(), OpenGate())
        self.writer = Writer(path)
        self.measuring = Measuring(self.run.id, {"small": self.seat}, self.writer)

    async def ask(self, *texts: str) -> None:
        async def one(number: int, text: str) -> None:
            request = ChatRequest((Message("user", text),), Sampling(temperature=0.5), seed=number)
            await self.calls.chat("small", request, replace(ASKING, run_id=self.run.id))

        await asyncio.gather(*(one(i, text) for i, text in enumerate(texts)), return_exceptions=True)

    def rows(self, columns: str) -> list[Any]:
        return self.store.rows(f"SELECT {columns} FROM model_figures ORDER BY at")

    async def close(self) -> None:
        await self.writer.close()
        self.store.close()


async def test_a_row_holds_what_the_call_path_saw_since_the_row_before(store_path: Path) -> None:
    measured = Measured(store_path)
    await measured.ask("a", "b", "fail")
    await measured.measuring.note()
    await measured.measuring.note()
    await measured.ask("c")
    await measured.measuring.note()
    columns = "answered, failed, retries, prompt_read, prompt_reused, tokens_out, permits, held, queued, steps"
    assert measured.rows(columns) == [(2, 1, 1, 20, 40, 10, 4, 0, 0, None), (1, 0, 0, 10, 20, 5, 4, 0, 0, None)]
    assert measured.rows("first_token_median_s, first_token_p95_s")[0] == (0.25, 0.25)
    await measured.close()


async def test_what_a_backend_tells_of_itself_counts_from_the_engines_beginning(store_path: Path) -> None:
    measured = Measured(store_path)
    measured.model.told = COUNTED
    following = asyncio.create_task(measured.measuring.follow())
    await asyncio.sleep(0)
    measured.model.told = replace(COUNTED, prompt_read=160, prompt_reused=1000, tokens_out=80, steps=30, batch_fill=4.0)
    await measured.ask("a")
    await measured.measuring.note(last=True)
    following.cancel()
    assert measured.rows("prompt_read, prompt_reused, tokens_out, steps, batch_fill") == [(60, 100, 30, 20, 5.0)]
    assert measured.rows("running, waiting, cells_used, cells") == [(3, 4, 500, 1000)]
    await measured.close()


async def test_a_backend_that_times_first_tokens_in_sum_gives_their_mean(store_path: Path) -> None:
    measured = Measured(store_path)
    measured.model.told = replace(COUNTED, first_tokens=6, first_token_s=3.0)
    following = asyncio.create_task(measured.measuring.follow())
    await asyncio.sleep(0)
    measured.model.told = replace(COUNTED, first_tokens=10, first_token_s=5.0)
    measured.model._chat = untimed
    await measured.ask("a")
    await measured.measuring.note(last=True)
    following.cancel()
    assert measured.rows("first_token_median_s, first_token_p95_s") == [(0.5, None)]
    await measured.close()


async def test_changes_of_the_limit_are_told_together_and_with_their_cause(store_path: Path) -> None:
    measured = Measured(store_path, AdaptiveLimit.starting(2, 64))
    await measured.ask(*"abcdef")
    await measured.measuring.note(last=True)
    await measured.ask("fail")
    await measured.measuring.note(last=True)
    await measured.measuring.note(last=True)
    told = [event.data for event in events(measured.store, measured.run.id) if event.kind == "permits.changed"]
    raised = told[0]["limit"] - 2
    assert told[0] == {"model": "small", "was": 2, "limit": 2 + raised, "changes": {"free": raised}}
    assert raised >= 2
    assert told[1]["changes"]["rate_limited"] >= 1
    assert told[1]["was"] == told[0]["limit"] > told[1]["limit"]
    assert len(told) == 2
    await measured.close()


def test_figures_of_a_stretch_are_differences() -> None:
    later = Figures(150, 950, 90, 30, 4.0, 1, 0, 600, 1000)
    assert later.since(COUNTED) == Figures(50, 50, 40, 20, 5.0, 1, 0, 600, 1000)
    assert later.since(None) == later
    assert COUNTED.since(later) == COUNTED, "the backend was started again"
    assert later.since(later).batch_fill is None


@pytest.mark.parametrize(
    ("values", "median", "slow"), [([], None, None), ([3.0], 3.0, 3.0), ([float(n) for n in range(100, 0, -1)], 50, 95)]
)
def test_quantiles_are_values_that_were_seen(values: list[float], median: float | None, slow: float | None) -> None:
    assert (quantile(values, 0.5), quantile(values, 0.95)) == (median, slow)


async def test_a_model_that_cannot_tell_is_no_failure() -> None:
    class Dying(FakeModel):
        async def figures(self) -> Figures | None:
            raise ModelFailure("died", "gone")

    assert await figures_of(Dying()) is None
    assert await figures_of(LlamaModel("closed", LlamaConfig())) is None


async def test_a_run_leaves_figures_and_they_are_no_part_of_its_trees(store_path: Path) -> None:
    run = await play(store_path, configuration())
    with Store.read(store_path) as store:
        (activity,) = model_activity(store, run)
        calls, read, written = store.rows("SELECT count(*), sum(tokens_in), sum(tokens_out) FROM calls")[0]
        assert (activity.model, activity.answered, activity.failed) == ("scripted", calls, 0)
        assert (activity.prompt_read, activity.tokens_out) == (read, written)
        assert (activity.held, activity.queued) == (0, 0)
        assert verify(store).findings == ()
        assert verify(store).checked["figures"] >= 1


@pytest.mark.embedded
async def test_the_embedded_model_tells_of_itself(store_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="the llama extra is not installed")
    brief = {"sampling": {"max_tokens": 6}}
    config = configuration(
        turns=1,
        personas={"count": 2},
        models={"small": {"kind": "llama", "path": "embedded", "context": 2048}},
        user=brief,
        inducer=brief,
        responders={"plain": brief, "warm": {"hint": True, **brief}},
    )
    run = await play(store_path, config)
    with Store.read(store_path) as store:
        (activity,) = model_activity(store, run)
        calls, read, cached = store.rows("SELECT count(*), sum(tokens_in), sum(tokens_cached) FROM calls")[0]
        assert activity.answered == calls
        assert 0 < activity.prompt_read <= read
        assert activity.prompt_reused >= cached > 0
        assert activity.tokens_out > 0
        assert activity.batch_fill is not None
        assert 1 <= activity.batch_fill <= 16
        assert activity.cells is not None
        assert activity.cells >= (activity.cells_used or 0) > 0
        assert activity.first_token_p95_s is not None
        steps = store.rows("SELECT sum(steps) FROM model_figures")[0][0]
        assert steps > 0
        assert verify(store).findings == ()
