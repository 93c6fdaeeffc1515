"""Text that models may write goes through every screen: nothing falls over, and no control reaches the terminal."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from tests.support.builders import BuiltRun, judged, make_judge, make_run
from tests.support.screens import Driven
from tests.support.trainings import falling, make_training
from tests.tui.app.conftest import Opening
from tests.tui.conftest import CONFIG
from trees.store import Store
from trees.text import escape
from trees.values import Presentation
from tui.app.app import SCREENS
from tui.app.frame import Table
from tui.app.screens.monitor import MonitorScreen
from tui.app.screens.trees import VIEWS

HOSTILE = (
    "[/x] [b [link=file:///etc/passwd] [@click=app.exit]here[/]",
    "\x1b]52;c;aGk=\x07\x1b[2J\x1b[31mred\x9b31m",
    "\u202eright to left\u202c and \u2066isolated\u2069",
    "family \U0001f468\u200d\U0001f469\u200d\U0001f467 and 犬が好き \u0915\u094d\u200d\u0937",
    "x" * 1_000_000,
    "word " * 20_000,
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
        _everywhere(store, run)
    return run


def _everywhere(store: Store, run: BuiltRun) -> None:
    """Names, reasons, causes, notes and events that say hostile things."""
    said = escape(" ".join(text[:80] for text in HOSTILE))
    about = json.dumps({"kind": said, "message": said, "turn": 1, "verb": said, "asked_by": said})
    change = store.connection.execute
    change("UPDATE runs SET name = ?, reason = ?, state = 'failed'", (said, said))
    change("UPDATE trees SET title = ?, cause = ?, state = 'failed'", (said, about))
    change("UPDATE prompts SET note = ?", (said,))
    for kind in ("command", "permits.changed", said):
        change("INSERT INTO events (job_id, kind, data, at) VALUES (?, ?, ?, 1)", (run.id, kind, about))
    change(
        "INSERT INTO failures (run_id, tree_id, node_id, role, purpose, call_id, kind, message, attempts, at) "
        "VALUES (?, ?, ?, ?, 'speak', 'c', ?, ?, '[]', 1)",
        (run.id, run.trees[0], run.trees[0], said, said, said),
    )
    change(
        "INSERT INTO operations (id, tree_id, node_id, kind, number, args, asked_by, at) "
        "SELECT 'o', tree_id, id, 'note', 0, ?, ?, 1 FROM nodes LIMIT 1",
        (json.dumps({"text": said}), said),
    )
    store.connection.commit()


def _clean(driven: Driven) -> None:
    shown = driven.text()
    found = _CONTROL.search(shown)
    assert found is None, repr(shown[max(found.start() - 200, 0) : found.end() + 80])


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


@pytest.mark.parametrize("mode", SCREENS)
async def test_hostile_text_on_every_screen(opening: Opening, hostile_store: BuiltRun, mode: str) -> None:
    async with opening(200, 60, mode=mode) as driven:
        await driven.settle()
        _clean(driven)
        for key in (
            "enter",
            "j",
            "y",
            "ctrl+p",
            "escape",
            "question_mark",
            "question_mark",
            "escape",
            "ctrl+o",
            "escape",
        ):
            await driven.press(key)
            _clean(driven)
        assert not _CONTROL.search(driven.app.clipboard)


async def test_what_an_engine_sends_and_what_commands_say_is_hostile_too(
    opening: Opening, hostile_store: BuiltRun
) -> None:
    async with opening(180, 50, mode="monitor") as driven:
        screen = driven.screen
        assert isinstance(screen, MonitorScreen)
        await driven.until(lambda: screen.watching.judges, "the run is read")
        for number, text in enumerate(HOSTILE):
            delta = {"tree": f"{number}[/]", "role": text[:40], "purpose": "speak", "answer": 0, "text": text}
            screen.lanes.take(json.dumps(delta).encode(), time.monotonic())
            screen.lanes.take(text.encode("utf-8", "replace"), time.monotonic())
            driven.app.tell(text or "-")
        screen._draw_lanes()
        await driven.settle()
        assert "0[" in driven.text()
        _clean(driven)


def write(name: str, text: str) -> None:
    """A file in the current folder."""
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text(text, encoding="utf-8")


async def test_a_configuration_of_hostile_words_in_setup(opening: Opening) -> None:
    words = json.dumps("[b] [/x] \u001b[31m \u202e \u0085")
    config = f"name = {words}\n[models.{words}]\nkind = {words}\n"
    write("quickstart.toml", config + CONFIG.replace('name = "small"', ""))
    async with opening(180, 50, mode="setup") as driven:
        await driven.settle()
        _clean(driven)
        await driven.press("enter")
        _clean(driven)
        await driven.press("escape", "ctrl+s", "ctrl+r", "t")
        _clean(driven)


async def test_a_prompt_of_hostile_words(opening: Opening, run_id: str) -> None:
    write("prompts/responder_[b].md", "[head]\n" + "\n".join(HOSTILE[:3]) + "\n[nope]\n")
    async with opening(180, 50, mode="prompts") as driven:
        screen = driven.screen
        table = screen.query_one("#version-table", Table)
        await driven.until(lambda: table.row_count, "the prompts are listed")
        table.move_cursor(row=table.get_row_index("file:responder_[b]"))
        for key in ("enter", "ctrl+r", "ctrl+d", "ctrl+d", "escape", "u", "escape"):
            await driven.press(key)
            _clean(driven)
