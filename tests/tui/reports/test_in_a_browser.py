"""Reports in a real browser: nothing is run, nothing is asked for, and hostile text is shown as text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from simulation.benchmark import find_benchmark, results
from tests.support.chromium import browsing
from tests.support.command_line import Espalier, as_json
from tests.tui.test_report import HOSTILE, hostile_rounds, hostile_store
from trees.rounds import find_rounds
from trees.store import Store
from tui.app.form import toml_of
from tui.reports import of_bench, of_rounds
from tui.reports.blocks import Report
from tui.reports.of_run import facts, report
from tui.reports.page import page as written


def page_of(report: Report, file: Path) -> Path:
    file.write_text(written(report), encoding="utf-8")
    return file


def size_of(file: Path) -> int:
    return file.stat().st_size


async def shows_and_does_nothing_else(file: Path, *shown: str) -> None:
    """What must hold of every report's page, on a wide window and on a narrow one; and that it shows these texts."""
    async with browsing(1200, 900) as page:
        await page.at_every_start("window.alert = () => { throw new Error('something was run') }")
        await page.open(file.as_uri())
        await page.until("document.readyState === 'complete'", "the page is there")
        assert page.requests == [file.as_uri()]
        assert page.errors == []
        text = await page.evaluate("document.body.textContent")
        for each in shown:
            assert each in text
        assert (
            await page.evaluate("document.querySelectorAll('script, img, iframe, link, [onload], [onerror]').length")
            == 0
        )
        # What is folded has no width until somebody opens it.
        await page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
        assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "nothing sticks out"
        assert await page.evaluate(
            "[...document.querySelectorAll('svg')].every(s => s.getBoundingClientRect().width > 200)"
        )
        await page.size(420, 900)
        assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), (
            "on a narrow window too"
        )
        picture = file.with_suffix(".png")
        await page.capture(picture)
        assert size_of(picture) > 10_000
        assert page.requests == [file.as_uri()]


async def test_a_hostile_report_does_nothing_but_show(tmp_path: Path) -> None:
    run = hostile_store(tmp_path / "espalier.db")
    with Store.read(tmp_path / "espalier.db") as store:
        found = facts(store, store.run(run))
    await shows_and_does_nothing_else(page_of(report(found), tmp_path / "run.html"), *HOSTILE[:4])


@pytest.fixture
def measured(espalier: Espalier, folder: Path) -> str:
    """A benchmark in which whatever can be hostile is: names, people, situations, messages and replies. Its id."""
    first, second, third, fourth = HOSTILE[:4]
    change = {"when": second, "after": third, "before": fourth, "wants": first, "wants_before": second}
    situation = {"name": first, "openings": [third], "then": fourth, "changes": [change]}
    config = {
        "name": first,
        "turns": 2,
        "situations": [situation],
        "models": {"bad": {"kind": "scripted", "says": HOSTILE[:4]}, "plain": {"kind": "scripted"}},
        "user": {"model": "bad"},
        "inducer": {"model": "plain"},
        "judges": {"points": {"kind": "points", "model": "plain"}},
        "tested": {"base": {"model": "plain"}, second: {"model": "bad"}},
        "cases": {"profiles": "profiles.jsonl", "personalities": "personalities.jsonl"},
    }
    (folder / "bench.toml").write_text(toml_of(config), encoding="utf-8")
    for kind, name, key in (("profile", "profiles", "facts"), ("personality", "personalities", "traits")):
        people = [{"kind": kind, "pronouns": "she", key: [f"She said: {text}"]} for text in HOSTILE[:3]]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, people)), encoding="utf-8")
    benchmark: str = as_json(espalier("bench", "run", "bench.toml", "--json"))["benchmark"]
    return benchmark


async def test_a_hostile_benchmark_is_reported_and_does_nothing(measured: str, folder: Path) -> None:
    with Store.read(folder / "espalier.db") as store:
        benchmark = find_benchmark(store, measured)
        found = of_bench.facts(store, benchmark, "points", results(store, measured, "points", benchmark[3]))
    talk = found["conversations"]["best"][0]
    assert {said["reply"] for pair in talk["turns"] for said in pair} & set(HOSTILE[:4]), "replies are hostile"
    shown = (*HOSTILE[:4], "She said: <script>", "To make it again", *found["notes"])
    await shows_and_does_nothing_else(page_of(of_bench.report(found), folder / "bench.html"), *shown)


async def test_hostile_rounds_are_reported_and_do_nothing(measured: str, folder: Path) -> None:
    hostile_rounds(folder / "espalier.db", measured)
    with Store.read(folder / "espalier.db") as store:
        found = of_rounds.facts(store, find_rounds(store, None))
    assert [each["benchmark"] for each in found["benchmarks"]] == [measured]
    await shows_and_does_nothing_else(page_of(of_rounds.report(found), folder / "rounds.html"), HOSTILE[0], HOSTILE[3])
