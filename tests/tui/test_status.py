"""How a run stands, on paper and live."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import Espalier, as_json
from trees.store import Store
from tui.console import console, count, duration
from tui.facts import progress_facts
from tui.lanes import SILENT_S, Lanes
from tui.progress import Rate, in_a_line, shown
from tui.statusview import MODEL_HEADINGS, model_row
from tui.watch import _picture


def test_status_tells_everything_from_the_store(espalier: Espalier, played: str) -> None:
    output = espalier("status").stdout
    for part in (played, "2 of 2 done", "responder.plain", "likelihood", "none at work"):
        assert part in output
    facts = as_json(espalier("status", played[:8], "--json"))
    assert {role["role"] for role in facts["roles"]} >= {"user", "inducer", "judge.likelihood"}
    assert facts["engine"] is None
    (model,) = facts["models"]
    assert (model["model"], model["answered"], model["held"]) == ("s", facts["calls"]["answered"], 0)
    assert (model["prompt_read"], model["tokens_out"]) == (facts["calls"]["tokens_in"], facts["calls"]["tokens_out"])
    assert "permits" in output


def test_models_figures_in_a_row() -> None:
    told: dict[str, Any] = {"model": "big", "permits": 24, "held": 20, "queued": 3, "running": 16, "waiting": 4}
    told |= {"prompt_read": 12_340, "prompt_reused": 4_100_000, "tokens_out": 950, "tokens_out_per_s": 118.4}
    told |= {"batch_fill": 9.72, "first_token_median_s": 0.441, "first_token_p95_s": None}
    shown = ("big", 24, 20, "3 + 4", "12.3k", "4.1M", "950", "118", "9.7", "0.44 s", None)
    assert model_row(told) == shown
    assert model_row({**told, "waiting": None})[3] == 3
    assert len(MODEL_HEADINGS) == len(shown)
    with (out := console()).capture() as drawn:
        out.print(_picture("run", "in a line", [{**told, "model": "big\x1b[2J"}], [("who", "says")]))
    assert "big<ESC>[2J" in drawn.get()
    assert "118" in drawn.get()


def test_status_lists_all_runs(espalier: Espalier, played: str) -> None:
    espalier("run", "run.toml", "--seed", "8")
    assert len(as_json(espalier("status", "--all", "--json"))) == 2
    assert played[:8] in espalier("status", "--all").stdout


def test_watching_a_finished_run_shows_it_once(espalier: Espalier, played: str) -> None:
    assert "no engine is at work" in espalier("status", "--watch").stderr
    lines = espalier("status", "--watch", "--json").stdout.splitlines()
    assert json.loads(lines[-1])["run"]["id"] == played


async def test_progress_tells_a_line_now_and_then(
    espalier: Espalier, played: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path("espalier.db")
    with Store.read(path) as store:
        run = store.run(played)
        assert "trees 2/2 done" in in_a_line(progress_facts(store, run), 0.0)
    told = ""
    async with shown(path, run, every_s=0.001):
        async with asyncio.timeout(20):
            while "trees 2/2 done" not in told:
                await asyncio.sleep(0)
                told += capsys.readouterr().err


def test_a_rate_is_that_of_the_last_while() -> None:
    rate = Rate(over_s=10)
    assert rate.add(0.0, 100) == 0.0
    assert rate.add(5.0, 200) == 20.0
    assert rate.add(100.0, 200) == pytest.approx(0.0, abs=2)
    assert rate.add(101.0, 200) == 0.0


def delta(text: str, role: str = "responder.warm") -> bytes:
    return json.dumps(
        {"tree": "t" * 32, "node": "n", "role": role, "purpose": "respond", "answer": 0, "text": text}
    ).encode()


def test_a_lane_shows_the_end_of_what_is_being_written() -> None:
    lanes = Lanes()
    lanes.take(delta("Hello "), 0.0)
    lanes.take(delta("there \x1b[2J"), 0.1)
    lanes.take(b"not json", 0.1)
    assert lanes.shown(0.2, 60) == [("tttttttt responder.warm", "Hello there <ESC>[2J")]
    lanes.take(delta("x" * 500), 0.3)
    ((_, text),) = lanes.shown(0.4, 30)
    assert text == "... " + "x" * 26
    assert lanes.shown(0.3 + SILENT_S + 0.1, 60) == []


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.44, "0.4 s"), (12.2, "12 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(("number", "words"), [(950, "950"), (12_340, "12.3k"), (4_100_000, "4.1M")])
def test_counts_in_few_characters(number: int, words: str) -> None:
    assert count(number) == words
