"""A report in a real browser: nothing is run, nothing is asked for, and hostile text is shown as text."""

from __future__ import annotations

from pathlib import Path

from tests.support.chromium import browsing
from tests.tui.test_report import HOSTILE, hostile_store
from trees.store import Store
from tui.reports.of_run import facts, report
from tui.reports.page import page as written


async def test_a_hostile_report_does_nothing_but_show(tmp_path: Path) -> None:
    run = hostile_store(tmp_path / "espalier.db")
    with Store.read(tmp_path / "espalier.db") as store:
        found = facts(store, store.run(run))
    file = tmp_path / "run.html"
    file.write_text(written(report(found)), encoding="utf-8")
    async with browsing(1200, 900) as page:
        await page.at_every_start("window.alert = () => { throw new Error('something was run') }")
        await page.open(file.as_uri())
        await page.until("document.readyState === 'complete'", "the page is there")
        assert page.requests == [file.as_uri()]
        assert page.errors == []
        shown = await page.evaluate("document.body.textContent")
        for text in HOSTILE[:4]:
            assert text in shown
        assert (
            await page.evaluate("document.querySelectorAll('script, img, iframe, link, [onload], [onerror]').length")
            == 0
        )
        assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "nothing sticks out"
        assert await page.evaluate(
            "[...document.querySelectorAll('svg')].every(s => s.getBoundingClientRect().width > 200)"
        )
        await page.size(420, 900)
        assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), (
            "on a narrow window too"
        )
        await page.capture(tmp_path / "report.png")
        assert (tmp_path / "report.png").stat().st_size > 10_000
