"""The app in tests: on a store of a scripted run, without a terminal, with the clock held still."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from tests.support.play import configuration, play
from tests.support.screens import Driven
from trees.store import Store
from tui.app.app import EspalierApp, Start

Opening = Callable[..., AbstractAsyncContextManager[Driven]]

SNAPSHOTS = Path(__file__).parent / "snapshots"


@pytest.fixture(autouse=True)
def _own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the developer's configuration nor their terminal decides what is tested."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("TEXTUAL_ANIMATIONS", "none")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def played_store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A store with a finished run of two trees, played once for all tests; and the run's id."""
    path = tmp_path_factory.mktemp("played") / "espalier.db"
    return path, asyncio.run(play(path, configuration()))


@pytest.fixture
def run_id(played_store: tuple[Path, str], store_path: Path) -> str:
    """A store with a finished run of two trees of the test's own; the run's id."""
    path, run = played_store
    shutil.copy(path, store_path)
    return run


@pytest.fixture
def opening(store_path: Path) -> Opening:
    """The app on the test's store, ten minutes after it was last written to, or now if it is `live`."""

    @asynccontextmanager
    async def opened(
        width: int = 120,
        height: int = 40,
        *,
        mode: str = "home",
        ascii: bool = False,
        theme: str | None = None,
        live: bool = False,
    ) -> AsyncIterator[Driven]:
        now = 0.0 if live else _last_change(store_path) + 600
        app = EspalierApp(Start(store_path, ascii, theme, mode, fresh=True, clock=time.time if live else lambda: now))
        async with app.run_test(size=(width, height)) as pilot:
            driven = Driven(app, pilot)
            await driven.until(lambda: app.looked, "the store was looked at")
            yield driven

    return opened


def _last_change(path: Path) -> float:
    if not path.is_file():
        return 0.0
    with Store.read(path) as store:
        return max((run.updated_at for run in store.runs()), default=0.0)


@pytest.fixture
def snapshot(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Compare a screen's text with the one kept for this test; ESPALIER_SNAPSHOTS=1 keeps it anew."""

    def compare(shown: str) -> None:
        name = request.node.name.removeprefix("test_").replace("[", "-").replace("]", "")
        kept = SNAPSHOTS / f"{name}.txt"
        if os.environ.get("ESPALIER_SNAPSHOTS"):
            kept.write_text(shown, encoding="utf-8")
        assert shown == kept.read_text(encoding="utf-8"), f"ESPALIER_SNAPSHOTS=1 writes {kept.name} anew"

    return compare
