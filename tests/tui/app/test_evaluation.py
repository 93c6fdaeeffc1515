"""Evaluation: curves and comparisons as `bench show` has them, conversations side by side, and every state there is."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from simulation.benchmark import cases_of, find_benchmark, plan, results, start
from simulation.cast import open_models
from simulation.engine import Engine, close_engine, open_engine
from tests.simulation.test_benchmark import config_of, measure
from tests.support.screens import Driven
from tests.tui.app.conftest import Opening
from trees.rounds import begin_step, end_step, find_rounds, keep_rounds, rounds_id
from trees.store import Store
from tui.app.evaluating import chosen, in_words, read_evaluation, read_lines, talk
from tui.app.screens.evaluation import EvaluationScreen
from tui.app.screens.trees import TreesScreen
from tui.benchview import document
from tui.reports.of_rounds import facts, report

TESTED = {
    "base": {"model": "model"},
    "tuned": {"model": "other"},
    "floor": {"how": "floor"},
    "told": {"model": "model", "how": "told"},
}


@pytest.fixture(scope="module")
def measured_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a benchmark of four models over six cases, measured once for all tests."""
    path = tmp_path_factory.mktemp("measured") / "espalier.db"

    async def all_of_them() -> None:
        for name in TESTED:
            await measure(path, config_of(tested=TESTED, cases={"count": 6}), name)

    asyncio.run(all_of_them())
    return path


@pytest.fixture
def measured(measured_store: Path, store_path: Path) -> Path:
    shutil.copy(measured_store, store_path)
    return store_path


def evaluation(driven: Driven) -> EvaluationScreen:
    assert isinstance(driven.screen, EvaluationScreen)
    return driven.screen


@asynccontextmanager
async def read(opening: Opening, width: int = 120, height: int = 40, **options: bool) -> AsyncIterator[Driven]:
    """The screen with its benchmark read."""
    async with opening(width, height, mode="evaluation", **options) as driven:
        await driven.until(lambda: evaluation(driven).evaluation, "the benchmark is read")
        yield driven


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (200, 60)])
async def test_evaluation_at_each_size(
    opening: Opening, snapshot: Callable[[str], None], width: int, height: int
) -> None:
    async with read(opening, width, height) as driven:
        await driven.press("greater_than_sign", "enter")
        await driven.until(lambda: evaluation(driven).case, "a conversation is read")
        drilled = driven.text()
        await driven.press("escape")
        snapshot(driven.text() + drilled)


async def test_the_screen_has_the_figures_of_bench_show(opening: Opening, measured: Path) -> None:
    with Store.read(measured) as store:
        benchmark = find_benchmark(store, None)
        shown = document(store, benchmark, "points", results(store, benchmark[0], "points", benchmark[3]))
    async with read(opening) as driven:
        screen = evaluation(driven)
        assert screen.evaluation is not None
        assert screen.evaluation.shown == shown
        assert screen.evaluation.line.word == "done"
        base, tried = screen.compared()
        assert (base.model, tried.model) == ("base", "tuned")
        text = driven.text()
        one = shown["comparisons"][0]
        assert one["words"][0] in text
        assert "with 6 cases the smallest p there can be is" in text
        assert f"p {one['held_mean']:.4f} (Holm)" in text
        await driven.press("y")
        assert "turn" in driven.app.clipboard
        assert f"{shown['models'][0]['levels'][0]['value']:.4g}" in driven.app.clipboard


@pytest.mark.usefixtures("measured")
async def test_what_is_compared_and_shown_is_chosen_by_keys(opening: Opening) -> None:
    async with read(opening) as driven:
        screen = evaluation(driven)
        plot = screen.query_one("#level-plot")
        await driven.press("down", "equals_sign", "down")
        base, tried = screen.compared()
        assert (base.model, tried.model) == ("floor", "told")
        assert "floor less told over" in driven.text()
        await driven.press("t")
        assert re.search(r"turn +A base +B tuned +C floor +D told", driven.text())
        await driven.press("t", "g")
        assert "gap" in str(plot.figure.title).lower()
        await driven.press("g", "less_than_sign")
        assert (screen.turn, plot.figure.at) == (3, 3.0)
        await driven.press("greater_than_sign")
        assert screen.turn == 3, "there is no turn after the last"
        await driven.press("escape")
        assert screen.turn is None


async def test_a_case_is_read_side_by_side_and_opened_in_trees(opening: Opening, measured: Path) -> None:
    async with read(opening, 160, 50) as driven:
        screen = evaluation(driven)
        await driven.press("greater_than_sign", "enter")
        await driven.until(lambda: "turn 1" in str(screen.pane("cases").border_title), "the cases are read")
        assert screen.focused is not None
        assert screen.focused.id == "case-table"
        first = screen.cases[0]
        assert [case.value for case in screen.cases] == sorted((c.value for c in screen.cases), reverse=True)
        assert first.base is not None
        assert first.tried is not None
        assert first.value == pytest.approx(first.tried - first.base)
        assert screen.case is not None
        assert screen.case["case"] == first.case
        assert f"base {first.base:.2f} points" in driven.text().replace("  ", " ")
        assert f"tuned {first.tried:.2f} points" in driven.text().replace("  ", " ")
        await driven.press("down")
        await driven.until(lambda: screen.case and screen.case["case"] == screen.cases[1].case, "the next one is read")
        await driven.press("enter")
        trees = driven.screen
        assert isinstance(trees, TreesScreen)
        await driven.until(lambda: trees.opened is not None, "the tree is opened")
        assert trees.opened is not None
        assert trees.opened.tree.id == screen.cases[1].tree


async def test_the_report_is_written_from_the_screen(opening: Opening, measured: Path) -> None:
    async with read(opening) as driven:
        await driven.press("x")
        await driven.until(lambda: list(measured.parent.glob("benchmark-*.html")), "the page is written")
        await driven.until(lambda: not driven.app.at_work, "the command has ended")


async def test_a_store_without_a_benchmark_says_how_to_begin(opening: Opening, run_id: str) -> None:
    async with opening(100, 30, mode="evaluation") as driven:
        await driven.until(lambda: "bench init" in driven.text(), "it says how")
        await driven.press("enter", "t", "g", "x", "R", "equals_sign", "greater_than_sign", "y", "Z")


async def test_no_store_at_all_says_how_to_begin(opening: Opening) -> None:
    async with opening(100, 30, mode="evaluation") as driven:
        await driven.until(lambda: "bench init" in driven.text(), "it says how")


async def test_a_failed_tree_is_counted_where_its_replies_are_missing(opening: Opening, measured: Path) -> None:
    with Store.open(measured) as store:
        run = find_run(store, "tuned")
        tree = store.trees(run)[0].id
        cause = '{"turn": 2, "kind": "timeout", "message": "by hand"}'
        store.apply(
            [
                ("DELETE FROM scores WHERE node_id IN (SELECT id FROM nodes WHERE tree_id = ? AND turn > 1)", (tree,)),
                ("UPDATE trees SET state = 'failed', turns = 1, cause = ? WHERE id = ?", (cause, tree)),
                ("UPDATE runs SET state = 'failed' WHERE id = ?", (run,)),
            ]
        )
    async with read(opening) as driven:
        screen = evaluation(driven)
        assert "partial: 70 of 72 replies are scored; failed: R goes on" in " ".join(
            screen.pane("levels").noticed.split()
        )
        text = driven.text()
        assert "unequal n by turn: 6 5 5" in text
        assert "no reply: timeout" in text
        assert "failed" in text


def find_run(store: Store, model: str) -> str:
    return str(store.rows("SELECT run_id FROM benchmark_runs WHERE model = ?", (model,))[0][0])


@asynccontextmanager
async def being_measured(path: Path) -> AsyncIterator[Engine]:
    """A model that is measured slowly."""
    slow = {name: {"kind": "scripted", "latency_s": 0.02} for name in ("model", "other")}
    config = config_of(models=slow, turns=30, cases={"count": 2})
    models = await open_models(config.run_of("base"))
    measured = plan(config, "base", models, cases_of(config.cases, None), None)
    with Store.open(path) as store:
        run = (await start(store, measured)).run
    engine = await open_engine(path, run.id, config=config.run_of("base"), models=models)
    task = asyncio.create_task(engine.run())
    try:
        yield engine
    finally:
        engine.stop("the test is over")
        await task
        await close_engine(engine)


async def test_what_is_being_measured_is_followed(
    opening: Opening, store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tui.app.screens.evaluation.READ_S", 0.05)
    monkeypatch.setattr(EvaluationScreen, "EVERY_S", 0.05)
    async with being_measured(store_path), read(opening, live=True) as driven:
        screen = evaluation(driven)
        seen = screen.evaluation
        assert seen is not None
        await driven.until(
            lambda: screen.evaluation and screen.evaluation.scored > max(seen.scored, 2), "more replies are scored"
        )
        assert screen.evaluation is not None
        assert screen.evaluation.line.word == "running"
        assert "it is being played" in " ".join(screen.pane("levels").noticed.split())


async def test_hostile_names_and_words_are_shown_as_text(opening: Opening, measured: Path) -> None:
    bad = "[/x] \x1b]52;c;aGk=\x07\u202e [@click=app.exit]here[/]"
    with Store.open(measured) as store:
        store.apply(
            [
                ("UPDATE nodes SET text = ?", (bad,)),
                ("UPDATE benchmarks SET name = ?", (bad,)),
                ("UPDATE benchmark_runs SET model = model || ?", (bad,)),
                ("UPDATE trees SET title = ?", (bad,)),
                ("UPDATE profiles SET text = text || ?", (bad,)),
            ]
        )
    async with read(opening, 200, 60) as driven:
        await driven.press("enter")
        await driven.until(lambda: evaluation(driven).case, "a conversation is read")
        for keys in ((), ("t",), ("g",), ("escape",), ("Z",)):
            await driven.press(*keys)
            assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", driven.text())
            assert "<ESC>" in driven.text()


async def test_rounds_are_a_timeline_whose_steps_lead_to_what_they_made(opening: Opening, measured: Path) -> None:
    configuration = {"steps": ["simulate", "lint", "sft", "benchmark"]}
    rounds, mean = rounds_id(configuration), {"value": 3.0, "low": 2.8, "high": 3.2}
    with Store.open(measured) as store:
        benchmark = find_benchmark(store, None)[0]
        store.apply(keep_rounds(rounds, "spiral", configuration, {"rounds": 1, "file": "rounds.toml"}, 1.0))
        store.apply(begin_step(rounds, 0, 0, "benchmark", ("bench", "run")))
        store.apply(end_step(rounds, 0, 0, "done", took_s=5.0, made=benchmark, figures={"mean": mean}))
        store.apply(begin_step(rounds, 1, 0, "simulate", ("run",)))
        figures = {"trees": 6, "messages": 9, "failed": 0}
        store.apply(end_step(rounds, 1, 0, "done", took_s=5.0, made=find_run(store, "tuned"), figures=figures))
    with Store.read(measured) as store:
        made = report(facts(store, find_rounds(store, "spiral")))
    assert [plot.name for plot in made.plots()] == ["rounds", f"alignment-{benchmark[:8]}"]
    async with read(opening, 200, 60) as driven:
        screen = evaluation(driven)
        text = driven.text()
        assert "rounds spiral" in text
        assert "mean 3.000 [2.800, 3.200]" in text
        assert "6 trees, 9 messages" in text
        table = screen.query_one("#round-table")
        table.focus()
        await driven.press("enter")
        assert screen.focused is not None
        assert screen.focused.id == "model-table"
        table.focus()
        await driven.press("down", "enter")
        assert isinstance(driven.screen, TreesScreen)


def test_without_another_model_there_is_nothing_to_compare_with(measured: Path) -> None:
    with Store.read(measured) as store:
        (line,) = read_lines(store, 0.0)
        whole = read_evaluation(store, line)
    alone = replace(whole, found=whole.found[:1], shown={**whole.shown, "comparisons": []})
    assert chosen(alone, None, None) == (None, whole.found[0])
    assert "nothing to compare with" in in_words(alone, None, "base")[0][0].text


def test_a_conversation_has_lines_of_the_width_it_was_given() -> None:
    side = {"turn": 1, "user": "hello " * 30, "model": "base", "reply": "犬が好き" * 20, "score": None}
    case = {"persona": {"profile": "x" * 300}, "turns": [[side, {**side, "reply": None, "score": 4.0}]]}
    from rich.cells import cell_len

    for width in (20, 40, 81, 200):
        for line in talk(case, 1, "points", width, plain=False):
            assert cell_len("".join(span.text for span in line)) <= width
