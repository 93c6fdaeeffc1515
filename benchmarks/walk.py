"""A walk through the app by keys alone, in tmux: from an empty folder to a second run under a prompt of one's own.

`espalier`, one key for the quickstart, Monitor until it is done, its trees looked through, a prompt changed, tried,
saved and taken into use, and a shorter run set up and played with it. Each stage waits for words on the screen; what
stood there is kept as text.

    python benchmarks/walk.py [--quick] [--scripted] [--size 80x24] [--captures FOLDER]

--scripted plays a model without weights in place of the embedded one; --quick does so at 80x24 alone.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT)]

from common import Bar, finish, say

from tests.support.tmux import Screen, tmux
from trees.store import Store
from trees.verify import verify

SIZES = ((80, 24), (120, 40), (200, 60))
LIST_HAS_FOCUS = "n Next place"
"""What stands at the bottom of Prompts while the list of versions has the focus."""
PLAYED_S = 900.0
"""Longest wait for a run to be played."""
SCRIPTED = """\
name = "quickstart"
turns = 3

[models.small]
kind = "scripted"
latency_s = 0.02

[personas]
count = 6

[responders.plain]
hint = false

[responders.warm]
hint = true
"""


@dataclass
class Walk:
    """One walk: the screen, and what it showed stage by stage."""

    screen: Screen
    captures: Path
    seconds: dict[str, float] = field(default_factory=dict)
    _began: float = field(default_factory=time.monotonic)

    def see(self, stage: str, *words: str, timeout_s: float = 15.0) -> str:
        """Wait until the screen shows these words, and keep it."""
        text = self.screen.until(*words, timeout_s=timeout_s)
        assert "Traceback" not in text, text
        self._keep(stage, text)
        return text

    def press(self, *keys: str) -> None:
        self.screen.press(*keys)

    def _keep(self, stage: str, text: str) -> None:
        self.seconds[stage] = round(time.monotonic() - self._began, 2)
        (self.captures / f"{len(self.seconds):02}-{stage.replace(' ', '-')}.txt").write_text(text, encoding="utf-8")


def first_run(walk: Walk) -> None:
    """From nothing to a run that was played."""
    walk.see("nothing yet", "Nothing has been played into this store yet", "plays the quickstart")
    walk.press("q")
    walk.see("monitor", "roles", "turns ", timeout_s=120)
    walk.see("playing", "responder.plain", timeout_s=180)
    walk.press("?")
    walk.see("help", "What each role asked of each model")
    walk.press("Escape")
    walk.see("played", "✓ done", "enter reads its trees", "trees 6/6", timeout_s=PLAYED_S)


def trees(walk: Walk) -> None:
    """The trees looked through."""
    walk.press("Enter")
    walk.see("trees", "trees 6 by place", "/ Filter")
    walk.press("Enter")
    walk.see("messages", "warm", "R Re-roll")
    walk.press("j")
    walk.press("Enter")
    walk.see("message", "t text", "went on from")
    for key, words in (("d", "+ "), ("g", "showing 1"), ("p", "revealed"), ("w", "[system]"), ("J", '"node"')):
        walk.press(key)
        walk.see(f"view {key}", words)
    walk.press("t")
    walk.press("}")
    walk.press(".")
    walk.see("next tree", "t text")
    walk.press("Escape")
    walk.see("back", "R Re-roll")
    walk.press("Escape")
    walk.see("back at the list", "trees 6 by place", "/ Filter")
    walk.press("/")
    walk.screen.when(lambda text: "o Order" not in text, "the filter having the focus")
    walk.screen.type("turns>2")
    walk.see("filtered", "turns>2", "trees 6 by place")
    walk.press("Escape")
    walk.see("unfiltered", "filter: words")


def prompt(walk: Walk, width: int) -> None:
    """A prompt changed, tried, saved and taken into use."""
    walk.press("5")
    text = walk.see("prompts", "responder", "inducer")
    row = _row_of(text, "responder")
    walk.press(*["Down"] * row)
    walk.press("Enter")
    walk.see("editor", "responder from", "[head]")
    walk.screen.when(lambda text: LIST_HAS_FOCUS not in text, "the editor having the focus")
    lines = walk.screen.text().splitlines()
    # With its number: the preview beside the editor says the same.
    wanted = next(at for at, line in enumerate(lines) if re.search(r"\d +You are a friendly", line))
    while (line := walk.screen.line()) < wanted:
        walk.press("Down")
        walk.screen.when(lambda _, line=line: walk.screen.line() > line, "the cursor going down")
    walk.press("End")
    walk.screen.type(" Be brief.")
    walk.see("changed", "brief.", "no problem")
    if width < 160:
        walk.press("C-t")
        walk.see("preview", "preview on", "brief.")
    walk.press("C-r")
    walk.see("tried", "the draft against what is saved", "saved", timeout_s=180)
    walk.screen.when(lambda text: "trying" not in text, "the answer", 180)
    walk.see("answered", "turn 1", "draft")
    walk.press("C-s")
    walk.see("a word on it", "A word on what is new in it")
    walk.screen.type("shorter")
    walk.press("Enter")
    walk.see("saved", "kept as version")
    walk.press("Escape")
    # A narrow screen shows the list alone, with notes; a wider one the editor again, and has no room for notes.
    walk.see("versions", LIST_HAS_FOCUS, "shorter" if width < 120 else "[head]")
    walk.press("u")
    walk.see("in use", "prompts/responder.md")


def _row_of(text: str, kind: str) -> int:
    """Which row of the list of versions is the first stored one of a kind."""
    lines = text.splitlines()
    heading = next(at for at, line in enumerate(lines) if "role" in line and "version" in line)
    return next(at - heading - 1 for at, line in enumerate(lines) if at > heading and kind in line.split()[:2])


def second_run(walk: Walk) -> None:
    """A shorter run, set up in the form, under the prompt that was saved."""
    walk.press("2")
    text = walk.see("setup", "turns", "ctrl+r")
    lines = text.splitlines()
    heading = next(at for at, line in enumerate(lines) if "field" in line and "value" in line)
    turns = next(at for at, line in enumerate(lines) if at > heading and "turns" in line.split()[:2])
    walk.press(*["Down"] * (turns - heading - 1))
    walk.press("Enter")
    walk.see("a field", "turns:")
    walk.press("BSpace", "1", "Enter")
    walk.press("C-s")
    walk.see("configured", "saved quickstart.toml")
    walk.press("C-r")
    walk.see("second run", "roles", "turns ", "/6 ", timeout_s=120)
    walk.see("second played", "✓ done", "enter reads its trees", timeout_s=PLAYED_S)
    walk.press("1")
    walk.see("home", "runs 2", "quickstart")
    walk.screen.when(lambda text: text.count("✓ done") >= 3, "both runs and the pill saying that they are done")
    walk.press("C-q")
    walk.see("left", "it ended with 0")


def walk_through(folder: Path, captures: Path, width: int, height: int, *, scripted: bool) -> dict[str, float]:
    """One walk in an empty folder; seconds until each stage. Raises AssertionError with the screen that was seen."""
    captures.mkdir(parents=True, exist_ok=True)
    if scripted:
        (folder / "quickstart.toml").write_text(SCRIPTED, encoding="utf-8")
    program = [sys.executable, "-P", "-m", "tui.main"]
    own = {"PYTHONPATH": str(ROOT), "XDG_CONFIG_HOME": str(folder / ".config"), "TEXTUAL_ANIMATIONS": "none"}
    with tmux(program, folder, width, height, **own) as screen:
        walk = Walk(screen, captures)
        first_run(walk)
        trees(walk)
        prompt(walk, width)
        second_run(walk)
    check(folder / "espalier.db")
    return walk.seconds


def check(path: Path) -> None:
    """The store is sound, and the second run was played under the prompt that was saved."""
    with Store.read(path) as store:
        assert verify(store).clean
        runs = sorted(store.runs(), key=lambda run: run.created_at)
        assert [run.state for run in runs] == ["finished", "finished"]
        used = [{prompt for revision in store.revisions(run.id) for prompt in revision.values()} for run in runs]
        saved = {row[0] for row in store.rows("SELECT id FROM prompts WHERE note = 'shorter'")}
        assert saved
        assert saved <= used[1]
        assert not saved & used[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a model without weights, at 80x24 alone")
    parser.add_argument("--scripted", action="store_true", help="a model without weights")
    parser.add_argument("--size", action="append", help="WIDTHxHEIGHT; may be given again. Default: 3 sizes")
    parser.add_argument("--captures", type=Path, help="keep what was seen in this folder")
    given = parser.parse_args()
    sizes = [tuple(map(int, size.split("x"))) for size in given.size or ()] or list(SIZES[: 1 if given.quick else 3])
    walks = {}
    for width, height in sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "empty"
            folder.mkdir()
            captures = (given.captures or Path(name)) / f"{width}x{height}"
            walks[f"{width}x{height}"] = walk_through(
                folder, captures, width, height, scripted=given.scripted or given.quick
            )
        say(f"{width}x{height}: walked in {walks[f'{width}x{height}']['left']:.0f} s")
    bars = [Bar("sizes walked to the end", len(walks), at_least=len(sizes))]
    return finish("walk", {"seconds": walks}, bars)


if __name__ == "__main__":
    sys.exit(main())
