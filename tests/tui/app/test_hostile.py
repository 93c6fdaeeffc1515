"""Text that models may write goes through every screen: nothing falls over, and no control reaches the terminal."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.builders import BuiltRun, judged, make_judge, make_run
from tests.support.screens import Driven
from tests.support.trainings import falling, make_training
from tests.tui.app.conftest import Opening
from trees.store import Store
from trees.values import Presentation
from tui.app.screens.trees import VIEWS

HOSTILE = (
    "[/x] [b [link=file:///etc/passwd] [@click=app.exit]here[/]",
    "\x1b]52;c;aGk=\x07\x1b[2J\x1b[31mred\x9b31m",
    "\u202eright to left\u202c and \u2066isolated\u2069",
    "family \U0001f468\u200d\U0001f469\u200d\U0001f467 and 犬が好き \u0915\u094d\u200d\u0937",
    "x" * 30_000,
    "\x00 NUL and \x1a and \ud800 alone",
    "",
    "${jndi} {{ profile }} {% for %} $text-muted $error",
)
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.fixture
def hostile_store(store_path: Path) -> BuiltRun:
    """A run whose every word is hostile: replies, facts, raw answers, persona, names."""
    with Store.open(store_path) as store:
        run = make_run(store, [("[bold]Ada\x1b[5m", "\u202ecalm [/]")])
        judge = make_judge(store, "judge [/]\x1b[1m")
        parent = None
        for text in HOSTILE:
            user = run.user(run.trees[0], text, parent, replica=str(len(text)))
            good, bad = run.replies(user, text, f"other {text}")
            shown = Presentation((good.id, bad.id), None, text, {good.id: 0.5}, text or None)
            said = judged(user, judge, [(good, bad, "win")], presentations=[shown], scores={good.id: 1.0})
            run.turn(user, [good, bad], [said], continued=good, facts=[text])
            parent = good
    return run


def _clean(driven: Driven) -> None:
    shown = driven.text()
    assert not _CONTROL.search(shown), repr(_CONTROL.search(shown))


async def test_hostile_text_in_trees(opening: Opening, hostile_store: BuiltRun) -> None:
    async with opening(180, 50, mode="trees") as driven:
        await driven.until(lambda: driven.screen.opened is not None, "the tree is opened")
        await driven.press("enter")
        for _ in range(len(HOSTILE)):
            await driven.press("right_curly_bracket")
            for key in ("d", "g", "t"):
                await driven.press(key)
                _clean(driven)
        for key in VIEWS:
            await driven.press(key)
            _clean(driven)
        await driven.press("t", "y")
        assert not _CONTROL.search(driven.app.clipboard)


async def test_hostile_text_while_judging_blind(opening: Opening, hostile_store: BuiltRun) -> None:
    async with opening(180, 50, mode="trees") as driven:
        await driven.until(lambda: driven.screen.opened is not None, "the tree is opened")
        await driven.press("enter", "b")
        for key in ("A", "equals_sign", "0", "B", "p", "t"):
            await driven.press(key)
            _clean(driven)


async def test_hostile_text_of_trainings(opening: Opening, hostile_store: BuiltRun) -> None:
    with Store.open(hostile_store.store.path) as store:
        training = make_training(
            store, [hostile_store.id], falling(30), name=HOSTILE[0] + HOSTILE[1], state="failed",
            reason=HOSTILE[2], alarms=HOSTILE,
        )  # fmt: skip
        path = store.path
    path.with_name(f"{path.stem}-{training[:8]}.log").write_bytes("\n".join(HOSTILE).encode("utf-8", "replace"))
    async with opening(200, 60, mode="train") as driven:
        await driven.until(lambda: driven.screen.watched.looked_at is not None, "the training is read")
        for key in ("t", "L", "t", "less_than_sign", "o", "Z", "n", "enter", "escape", "down", "down", "enter"):
            await driven.press(key)
            _clean(driven)


@pytest.mark.parametrize("mode", ["home", "setup", "monitor", "prompts", "train"])
async def test_hostile_text_elsewhere(opening: Opening, hostile_store: BuiltRun, mode: str) -> None:
    async with opening(180, 50, mode=mode) as driven:
        await driven.press("ctrl+p")
        await driven.press("escape", "question_mark", "question_mark", "escape")
        _clean(driven)
