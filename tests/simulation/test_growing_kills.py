"""kill -9 in the middle of growing: the same command goes on, asks nothing twice, and ends as an unbroken growing."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

from simulation.persona_axes import load_axes
from simulation.persona_composer import compose_profile
from tests.support.command_line import spawn
from tests.support.openai_server import OpenAIServer, serve
from trees.personas import sentences
from trees.pool import candidates, growings
from trees.store import Store
from trees.verify import verify

CONFIG = """
[models.remote]
kind = "openai"
model = "test-model"
endpoints = ["{url}"]
permits = 4
dialect = "openai"
"""
KILL_AFTER = 7
"""Chats: in the middle of the second generation of four calls."""


def _texts() -> list[str]:
    axes = load_axes()
    return [compose_profile(seed, axes).text for seed in range(80)]


class _People:
    """Answers by the request's seed alone, and counts."""

    def __init__(self) -> None:
        self.texts = _texts()
        self.seeds: list[int] = []
        self.many = threading.Event()

    async def __call__(self, body: dict[str, Any], index: int) -> str:
        if "Invent" not in str(body["messages"][-1]["content"]):
            return "ok"
        seed = int(body["seed"])
        self.seeds.append(seed)
        if len(self.seeds) >= KILL_AFTER:
            self.many.set()
        await asyncio.sleep(0)
        chosen = [self.texts[(seed + step) % len(self.texts)] for step in range(4)]
        return json.dumps({"profiles": [{"facts": list(sentences(text))} for text in chosen]})


def _grow(folder: Path, store: str) -> Any:
    arguments = ("personas", "grow", "--profiles", "50", "--config", str(folder / "run.toml"), "--embedder", "lexical")
    return spawn(*arguments, "--store", str(folder / store))


def _told(path: Path) -> Any:
    with Store.read(path) as store:
        assert verify(store).clean
        (row,) = growings(store)
        found = [(c.generation, c.number, c.place, c.item_id, c.reason) for c in candidates(store, row.id)]
        return row.id, row.state, found


def test_a_killed_growing_goes_on_where_it_stood(tmp_path: Path) -> None:
    people = _People()
    with serve(OpenAIServer(answer=people)) as url:
        (tmp_path / "run.toml").write_text(CONFIG.format(url=url), "utf-8")
        broken = _grow(tmp_path, "broken.db")
        assert people.many.wait(60)
        broken.kill()
        broken.communicate()
        with Store.read(tmp_path / "broken.db") as store:
            rows = store.rows("SELECT c.request FROM calls c JOIN growing_uses u ON u.call_id = c.id")
            committed = {json.loads(row[0])["seed"] for row in rows}
        before = len(people.seeds)
        later = _grow(tmp_path, "broken.db")
        _, errors = later.communicate(timeout=60)
        assert later.returncode == 0, errors
        assert not committed & set(people.seeds[before:])
        unbroken = _grow(tmp_path, "unbroken.db")
        unbroken.communicate(timeout=60)
    assert _told(tmp_path / "broken.db") == _told(tmp_path / "unbroken.db")
    assert _told(tmp_path / "broken.db")[1] == "finished"
