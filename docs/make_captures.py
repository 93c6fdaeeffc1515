"""Captures of the app's screens for the documentation: docs/captures/*.svg, from a small scripted run.

python docs/make_captures.py
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.play import configuration, play  # noqa: E402
from tests.support.screens import Driven  # noqa: E402
from tests.support.trainings import falling, make_training  # noqa: E402
from trees.store import Store  # noqa: E402
from tui.app.app import EspalierApp, Start  # noqa: E402
from tui.app.frame import TABS  # noqa: E402
from tui.app.screens.monitor import MonitorScreen  # noqa: E402
from tui.app.screens.train import TrainScreen  # noqa: E402
from tui.app.watching_trainings import drawn_together  # noqa: E402

FOLDER = ROOT / "docs" / "captures"
SIZE = (150, 40)
PRESSED = {"trees": ("enter", "j"), "prompts": ("enter",)}
"""What is pressed on a screen before it is captured."""
TRAINED_STEPS = (240, 180)
"""Of the trainings that Train shows, drawn together."""


def train(store: Path, run: str) -> None:
    """Trainings as they are kept, with points that no model made: these pictures are of the screen."""
    with Store.open(store) as opened:
        for seed, steps in enumerate(TRAINED_STEPS, 1):
            name = "embedded on small"
            make_training(opened, [run], falling(steps, measured_every=30), name=name, seed=seed, checkpoints=[steps])


async def capture(store: Path) -> None:
    train(store, await play(store, configuration(turns=4, personas={"count": 8})))
    app = EspalierApp(Start(store, fresh=True))
    async with app.run_test(size=SIZE) as pilot:
        driven = Driven(app, pilot)
        await driven.until(lambda: app.looked, "the store was looked at")
        for number, (mode, name) in enumerate(TABS, 1):
            await driven.press(str(number))
            if mode == "monitor":
                screen = app.screen
                assert isinstance(screen, MonitorScreen)
                await driven.until(lambda screen=screen: screen.watching.judges, "the judges are read")
            await driven.press(*PRESSED.get(mode, ()))
            if mode == "train":
                await overlaid(driven)
            keep(app, mode, name)
            if mode == "trees":
                await driven.press("b", "B")
                keep(app, "blind", "Trees, judging blind")
                await driven.press("b")
            await driven.press("escape")


async def overlaid(driven: Driven) -> None:
    """One training drawn over another."""
    screen = driven.screen
    assert isinstance(screen, TrainScreen)
    await driven.until(lambda: screen.data, "what it learns from is read")
    await driven.press("o", "full_stop")
    await driven.until(lambda: drawn_together(screen.watched), "both are drawn")


def keep(app: EspalierApp, name: str, title: str) -> None:
    (FOLDER / f"{name}.svg").write_text(app.export_screenshot(title=f"espalier: {title}"), encoding="utf-8")


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_RUNTIME_DIR"] = os.environ["XDG_CONFIG_HOME"] = folder
        os.chdir(folder)
        asyncio.run(capture(Path(folder) / "espalier.db"))


if __name__ == "__main__":
    main()
