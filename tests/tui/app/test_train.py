"""The Train screen: curves, overlays, numbers, states in words, what a training learns from, and its steering."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.support.screens import Driven
from tests.support.trainings import BEGAN, falling, make_training
from tests.tui.app.conftest import Opening
from trees.jobs import Lock, answer, commands, process_started, take_lock
from trees.store import Store
from trees.trainings import TrainingPoint
from tui.app.curves import Figure
from tui.app.dialogs import Question
from tui.app.plot import CurvePlot
from tui.app.screens.train import TrainScreen
from tui.app.train_form import METHOD, TrainForm, told, words_of
from tui.app.watching_trainings import (
    Choose,
    LayOver,
    Watched,
    curves_of,
    drawn_together,
    figure,
    next_step,
    read_trainings,
    reduce,
    time_left,
    word_of,
)
from tui.main import main


def train(driven: Driven) -> TrainScreen:
    assert isinstance(driven.screen, TrainScreen)
    return driven.screen


async def shown(driven: Driven) -> TrainScreen:
    screen = train(driven)
    await driven.until(lambda: screen.watched.looked_at and screen.data, "a training is read")
    return screen


def figures(screen: TrainScreen) -> list[Figure]:
    return [plot.figure for plot in screen.query(CurvePlot) if plot.display]


@pytest.fixture
def trained(store_path: Path, run_id: str) -> str:
    """A finished DPO training of a played run; its id."""
    with Store.open(store_path) as store:
        return make_training(store, [run_id], falling(240, measured_every=40), alarms=["the model learns length"])


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (200, 60)])
async def test_train_at_each_size(opening: Opening, snapshot: Callable[[str], None], width: int, height: int) -> None:
    async with opening(width, height, mode="train") as driven:
        await shown(driven)
        await driven.until(
            lambda: width < 200 or "embedded on small" in driven.text(), "columns are as wide as they get"
        )
        lines = driven.text().splitlines()
        snapshot("\n".join(line for line in lines if " d  " not in line and " min  " not in line) + "\n")


@pytest.mark.usefixtures("trained")
async def test_curves_are_paged_read_off_logged_and_told_in_numbers(opening: Opening) -> None:
    async with opening(120, 40, mode="train") as driven:
        screen = await shown(driven)
        assert [each.title for each in figures(screen)] == ["loss", "margin of rewards"]
        await driven.press("right_square_bracket")
        assert [each.title for each in figures(screen)] == ["margin of rewards", "pairs that are right"]
        await driven.press("left_square_bracket", "less_than_sign", "less_than_sign")
        assert [each.at for each in figures(screen)] == [236.0, 236.0]
        assert "read off at step 236" in driven.text()
        await driven.press("escape", "L")
        assert all(each.log and each.at is None for each in figures(screen))
        await driven.press("L", "t")
        assert "held back" in driven.text()
        assert " 240 " in driven.text()
        screen.query_one("#plot-0").focus()
        await driven.press("y")
        assert driven.app.clipboard.splitlines()[0] == "loss"
        assert len(driven.app.clipboard.splitlines()) == 242


async def test_several_trainings_are_drawn_together(opening: Opening, store_path: Path, run_id: str) -> None:
    with Store.open(store_path) as store:
        ids = {make_training(store, [run_id], falling(steps), seed=steps) for steps in (100, 200, 300)}
    async with opening(160, 40, mode="train") as driven:
        screen = await shown(driven)
        first = screen.watched.chosen
        await driven.press("o", "full_stop")
        await driven.until(lambda: screen.watched.looked_at.row.id != first, "another is looked at")
        assert [each.label for each in figures(screen)[0].series] == ["1", "2"]
        assert set(drawn_together(screen.watched)) <= ids
        assert "of 2 trainings" in driven.text()
        await driven.press("escape")
        await driven.until(lambda: not drawn_together(screen.watched), "it is drawn alone")


async def test_no_training_and_no_store_say_what_to_do(opening: Opening, store_path: Path) -> None:
    async with opening(mode="train") as driven:
        await driven.until(lambda: "n sets one up" in driven.text(), "a missing store is told")
        Store.open(store_path).close()
        await driven.press("r")
        assert "There is no training in this store yet" in driven.text()


async def test_what_it_keeps_and_drops_is_told(opening: Opening, trained: str) -> None:
    async with opening(200, 60, mode="train") as driven:
        screen = await shown(driven)
        assert screen.data is not None
        assert screen.data.training == trained
        assert any("pairs in" in line and "trained on" in line for line in screen.data.lines)
        assert screen.data.changed, "the rows made by hand name no data that the store holds"
        assert "! the model learns length" in driven.text()


async def test_a_live_training_is_paused_and_stopped_by_rows(opening: Opening, store_path: Path, run_id: str) -> None:
    with Store.open(store_path) as store:
        training = make_training(store, [run_id], falling(50), state="running", checkpoints=[40])
        take_lock(store, training, "training")
        async with opening(120, 40, mode="train", live=True) as driven:
            screen = await shown(driven)
            await driven.until(lambda: screen.watched.looked_at.line.word == "running", "it runs")
            await driven.press("space")
            await driven.until(lambda: commands(store, training), "the command is there")
            await driven.press("S")
            assert isinstance(driven.app.screen, Question)
            await driven.press("escape", "S", "left", "enter")
            await driven.until(lambda: len(commands(store, training)) == 2, "both are asked")
            assert [each.verb for each in commands(store, training)] == ["pause", "stop"]
            for each in commands(store, training):
                store.apply(answer(each.id, {"wish": each.verb}))
            await driven.until(lambda: not driven.app.workers or screen.is_current, "they are answered")


async def test_a_failed_training_shows_its_last_lines_and_what_to_do(
    opening: Opening, store_path: Path, run_id: str
) -> None:
    with Store.open(store_path) as store:
        training = make_training(
            store, [run_id], falling(30), state="failed", reason="there is too little memory", checkpoints=[20]
        )
    log = store_path.with_name(f"{store_path.stem}-{training[:8]}.log")
    log.write_text("\n".join(f"line {number} \x1b[2J" for number in range(60)), encoding="utf-8")
    async with opening(120, 40, mode="train") as driven:
        await shown(driven)
        text = driven.text()
        assert "✗ failed" in text
        assert "there is too little memory" in text
        assert "R tries again from the checkpoint at step 20" in text
        assert "line 59 <ESC>" in text or "line 59" in str(driven.screen.query_one("#log-told").content)


async def test_the_form_stands_for_a_command_and_tells_what_is_wrong(opening: Opening, run_id: str) -> None:
    async with opening(120, 40, mode="train") as driven:
        await driven.press("n")
        form = driven.app.screen
        assert isinstance(form, TrainForm)
        await driven.until(lambda: form.offered.runs, "the runs are offered")
        assert "espalier train sft --model embedded" in driven.text()
        await driven.press("enter", "down", "enter")
        assert form.values["method"] == "dpo"
        await driven.press("down", "down", "enter", "down", "enter")
        assert form.values["run"] == run_id
        await driven.press(*["down"] * 3, "enter", *"many", "enter")
        assert words_of(form.values)[-2:] == ("--set", "schedule.epochs=many")
        await driven.press("ctrl+t")
        await driven.until(lambda: "schedule.epochs" in form.checked, "the check says what is wrong")
        await driven.press("escape")
        assert isinstance(driven.app.screen, TrainScreen)


# Without a screen


def test_what_stands_for_a_form() -> None:
    words = words_of({"method": "dpo", "model": "base", "run": "1a2b", "rate": " 1e-5 ", "beta": ""})
    assert words == ("train", "dpo", "--model", "base", "--run", "1a2b", "--set", "schedule.learning_rate=1e-5")
    facts = {
        "configuration": {"objective": "dpo"},
        "state": "paused",
        "data": {"pairs": 3, "trees": 2, "people": 1, "measured_trees": 1, "notes": [],
                 "dropped": {"pairs": {"tie": 4}}},
        "left_out": {"too long": 1},
        "steps": 5, "tokens": 12_000, "rows": 2,
    }  # fmt: skip
    said = "\n".join(line for line, _ in told(facts))
    assert "3 pairs in 2 trees of 1 people  It is in the store already: paused." in said
    assert "dropped: 4 tie\ndropped: 1 too long" in said
    assert METHOD.name == "method"


def test_the_command_line_draws_the_same_curves(store_path: Path) -> None:
    with Store.open(store_path) as store:
        first, second = (make_training(store, [], falling(50, kind="sft"), kind="sft", seed=s) for s in (1, 2))
    words = ["train", "show", first[:8], "--curves", "--over", second[:8], "--store", str(store_path)]
    drawn = CliRunner().invoke(main, words)
    assert drawn.exit_code == 0, drawn.output
    assert f"1 sft {first[:8]}  2 sft {second[:8]}" in drawn.output
    assert "learning rate" in drawn.output


def test_each_word_for_a_training_and_what_may_be_done(store_path: Path) -> None:
    host, pid = socket.gethostname(), os.getpid()
    alive = Lock("x", "training", host, pid, process_started(pid) or 0.0, 0.0, 1000.0, None)
    dead = Lock("x", "training", host, 2**22, 1.0, 0.0, 1000.0, None)
    assert word_of("running", alive, 1005.0) == "running"
    assert word_of("paused", alive, 1005.0) == "warming"
    assert word_of("running", alive, 1011.0) == "late"
    assert word_of("running", dead, 1005.0) == "crashed"
    assert word_of("running", None, 1005.0) == "crashed"
    ends = ("new", "paused", "stopped", "finished", "failed")
    assert [word_of(state, None, 0.0) for state in ends] == ["new", "paused", "stopped", "done", "failed"]
    with Store.open(store_path) as store:
        for number, state in enumerate(("running", *ends)):
            training = make_training(store, [], falling(5), seed=number, state=state, checkpoints=[4])
            read = read_trainings(store, training, (), BEGAN).looked_at
            assert read is not None
            assert next_step(read, BEGAN)


def test_a_reading_of_another_training_is_passed_over(store_path: Path) -> None:
    with Store.open(store_path) as store:
        first, second = (make_training(store, [], falling(9, kind="sft"), kind="sft", seed=s) for s in (1, 2))
        old = read_trainings(store, first, (), BEGAN)
        watched = reduce(reduce(Watched(), old), Choose(second))
        assert reduce(watched, old) == watched
        watched = reduce(watched, LayOver(first))
        watched = reduce(watched, read_trainings(store, second, watched.over, BEGAN))
        assert drawn_together(watched) == [second, first]
        assert reduce(watched, LayOver(first)).over == ()
        read = watched.looked_at
        assert read is not None
        assert curves_of(read) == ["loss", "gradient", "rate", "speed"], "an SFT training has no pairs"
        assert [each.name for each in figure(watched, "loss", log=False, at=None, plain=False).series] == [
            f"sft {second[:8]}",
            f"sft {first[:8]}",
        ]


def test_the_time_left_is_that_of_the_process_at_work(store_path: Path) -> None:
    with Store.open(store_path) as store:
        training = make_training(store, [], falling(100), state="running")
        take_lock(store, training, "training")
        read = read_trainings(store, training, (), BEGAN + 100).looked_at
    assert read is not None
    left = time_left(read)
    assert left is not None
    assert left[0] <= 300 <= left[1], "a hundred of four hundred steps took a hundred seconds"


def test_points_that_are_no_number_break_the_curve_and_are_told(store_path: Path) -> None:
    points = [TrainingPoint("training", step, step / 9, None if step == 5 else 1.0) for step in range(1, 9)]
    with Store.open(store_path) as store:
        training = make_training(store, [], points, kind="sft", state="failed", reason="the loss is nan at step 5")
        watched = reduce(Watched(), read_trainings(store, training, (), BEGAN))
        drawn = figure(watched, "loss", log=False, at=None, plain=True)
    assert (5, None) in drawn.series[0].points
    assert json.dumps([series.sign for series in drawn.series]) == '["", ""]'
