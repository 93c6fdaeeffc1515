"""The app in a real browser: it is shown, takes keys, asks nothing of other machines, and lets nobody else in."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import psutil
import pytest

from tests.support.chromium import browsing
from tests.support.served import FIND_TERMINAL, answered, serving, shows


async def up(url: str) -> None:
    async with asyncio.timeout(60):
        while not await asyncio.to_thread(answered, url):  # noqa: ASYNC110 - another process opens the port
            await asyncio.sleep(0.02)


@pytest.mark.usefixtures("run_id")
async def test_a_tree_is_opened_by_keys_and_nothing_is_asked_of_other_machines(
    store_path: Path, tmp_path: Path
) -> None:
    async with browsing() as page:
        with serving(store_path) as url:
            await up(url)
            await page.at_every_start(FIND_TERMINAL)
            await page.open(url)
            await shows(page, "enter reads its trees")
            await page.press("4")
            await shows(page, "trees 2 by place")
            await page.press("Enter", "j")
            shown = await shows(page, "went on from")
            assert "★" in shown
            await page.capture(tmp_path / "browser.png")
            assert (tmp_path / "browser.png").read_bytes().startswith(b"\x89PNG")
            await page.press("v")
            await shows(page, "needs a terminal of this")
            assert page.asked_beyond() == []
            assert page.errors == []
            await page.command(
                "Input.dispatchKeyEvent", type="rawKeyDown", modifiers=2, windowsVirtualKeyCode=81, key="q"
            )
            await page.until("document.body.classList.contains('-closed')", "the page says that the app was left")


async def test_pages_from_elsewhere_do_not_reach_the_terminal(store_path: Path) -> None:
    with serving(store_path) as url:
        await up(url)
        async with aiohttp.ClientSession() as session:
            for origin in ("http://elsewhere.example", "http://localhost:1", "null"):
                with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                    await session.ws_connect(f"{url}ws", origin=origin)
                assert refused.value.status == 403
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await session.ws_connect(f"{url}ws")


@pytest.mark.usefixtures("run_id")
@pytest.mark.parametrize("ends", ["the tab", "the server"])
async def test_neither_a_closed_tab_nor_a_killed_server_leaves_an_app_behind(store_path: Path, ends: str) -> None:
    with serving(store_path) as url:
        await up(url)
        async with browsing() as page:
            await page.at_every_start(FIND_TERMINAL)
            await page.open(url)
            await shows(page, "espalier")
            apps = _processes("app", store_path)
            assert apps
            if ends == "the server":
                for server in _processes("serve", store_path):
                    server.kill()
                await gone(apps)
        await gone(apps)


async def gone(processes: list[psutil.Process]) -> None:
    async with asyncio.timeout(60):
        while any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in processes):  # noqa: ASYNC110 - another process ends
            await asyncio.sleep(0.05)


def _processes(command: str, store: Path) -> list[psutil.Process]:
    """The processes of a command of the program that are about this store."""
    found = []
    for each in psutil.process_iter(["cmdline"]):
        words = each.info["cmdline"] or []
        if str(store) in words and command in words:
            found.append(each)
    return found
