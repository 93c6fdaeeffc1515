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
from tui.app.app import EspalierApp, Start  # noqa: E402
from tui.app.frame import TABS  # noqa: E402
from tui.app.screens.monitor import MonitorScreen  # noqa: E402

FOLDER = ROOT / "docs" / "captures"
SIZE = (150, 40)
PRESSED = {"trees": ("enter", "j"), "prompts": ("enter",)}
"""What is pressed on a screen before it is captured."""


async def capture(store: Path) -> None:
    await play(store, configuration(turns=4, personas={"count": 8}))
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
            (FOLDER / f"{mode}.svg").write_text(app.export_screenshot(title=f"espalier: {name}"), encoding="utf-8")
            await driven.press("escape")


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_RUNTIME_DIR"] = os.environ["XDG_CONFIG_HOME"] = folder
        os.chdir(folder)
        asyncio.run(capture(Path(folder) / "espalier.db"))


if __name__ == "__main__":
    main()
