"""Captures for the documentation, from a small scripted run and benchmark: the app's screens as docs/captures/*.svg,
and a report as docs/captures/report.png, where a Chromium is installed.

python docs/make_captures.py [NAME ...]
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from simulation.benchmark import find_benchmark, results  # noqa: E402
from tests.simulation.test_benchmark import config_of, measure  # noqa: E402
from tests.support.chromium import browsing, installed  # noqa: E402
from tests.support.play import configuration, play  # noqa: E402
from tests.support.screens import Driven  # noqa: E402
from tests.support.trainings import falling, make_training  # noqa: E402
from trees.store import Store  # noqa: E402
from tui.app.app import EspalierApp, Start  # noqa: E402
from tui.app.frame import TABS  # noqa: E402
from tui.app.screens.evaluation import EvaluationScreen  # noqa: E402
from tui.app.screens.monitor import MonitorScreen  # noqa: E402
from tui.app.screens.train import TrainScreen  # noqa: E402
from tui.app.watching_trainings import drawn_together  # noqa: E402
from tui.reports.of_bench import facts, report  # noqa: E402
from tui.reports.page import page as written  # noqa: E402

FOLDER = ROOT / "docs" / "captures"
SIZE = (170, 42)
PRESSED = {"trees": ("enter", "j"), "prompts": ("enter",)}
"""What is pressed on a screen before it is captured."""
TESTED = {
    "base": {"model": "model"},
    "tuned": {"model": "other"},
    "floor": {"how": "floor"},
    "told": {"model": "model", "how": "told"},
}
TRAINED_STEPS = (240, 180)
"""Of the trainings that Train shows, drawn together."""


def train(store: Path, run: str) -> None:
    """Trainings as they are kept, with points that no model made: these pictures are of the screen."""
    with Store.open(store) as opened:
        for seed, steps in enumerate(TRAINED_STEPS, 1):
            name = "embedded on small"
            make_training(opened, [run], falling(steps, measured_every=30), name=name, seed=seed, checkpoints=[steps])


async def capture(store: Path, wanted: list[str]) -> None:
    """The screens and the report; those of the names wanted, or all."""
    for name in TESTED:
        await measure(store, config_of(name="trial", tested=TESTED, turns=6, cases={"count": 25}), name)
    # Played last, it is the run that the screens are about.
    train(store, await play(store, configuration(turns=4, personas={"count": 8})))
    await capture_screens(store, wanted)
    if (not wanted or "report" in wanted) and installed() is not None:
        await capture_report(store)


async def capture_report(path: Path) -> None:
    with Store.read(path) as store:
        benchmark = find_benchmark(store, None)
        found = facts(store, benchmark, "points", results(store, benchmark[0], "points", benchmark[3]))
    file = path.with_name("report.html")
    file.write_text(written(report(found)), encoding="utf-8")
    async with browsing(1100, 1500) as page:
        await page.open(file.as_uri())
        await page.until("document.readyState === 'complete'", "the page is there")
        await page.capture(FOLDER / "report.png")


async def capture_screens(store: Path, wanted: list[str]) -> None:
    app = EspalierApp(Start(store, fresh=True))
    async with app.run_test(size=SIZE) as pilot:
        driven = Driven(app, pilot)
        await driven.until(lambda: app.looked, "the store was looked at")
        for mode, name in TABS:
            await app.switch_mode(mode)
            await driven.settle()
            if mode == "monitor":
                screen = app.screen
                assert isinstance(screen, MonitorScreen)
                await driven.until(lambda screen=screen: screen.watching.judges, "the judges are read")
            if mode == "evaluation":
                screen = app.screen
                assert isinstance(screen, EvaluationScreen)
                await driven.until(lambda screen=screen: screen.evaluation, "the benchmark is read")
            await driven.press(*PRESSED.get(mode, ()))
            if mode == "train":
                await overlaid(driven)
            keep(app, mode, name, wanted)
            if mode == "trees":
                await driven.press("b", "B")
                keep(app, "blind", "Trees, judging blind", wanted)
                await driven.press("b")
            await driven.press("escape")


async def overlaid(driven: Driven) -> None:
    """One training drawn over another."""
    screen = driven.screen
    assert isinstance(screen, TrainScreen)
    await driven.until(lambda: screen.data, "what it learns from is read")
    await driven.press("o", "full_stop")
    await driven.until(lambda: drawn_together(screen.watched), "both are drawn")


def keep(app: EspalierApp, name: str, title: str, wanted: list[str]) -> None:
    if wanted and name not in wanted:
        return
    (FOLDER / f"{name}.svg").write_text(app.export_screenshot(title=f"espalier: {title}"), encoding="utf-8")


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_RUNTIME_DIR"] = os.environ["XDG_CONFIG_HOME"] = folder
        os.chdir(folder)
        asyncio.run(capture(Path(folder) / "espalier.db", sys.argv[1:]))


if __name__ == "__main__":
    main()
