"""The card beside exported files: what it says, whose files it leaves alone, and that its text is text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.builders import BuiltRun, small_store
from train.card import CardOf, write_card
from train.export import Exported, export
from trees.store import Store


@pytest.fixture
def built(tmp_path: Path) -> Iterator[tuple[Store, BuiltRun]]:
    store, run = small_store(tmp_path / "store.db")
    yield store, run
    store.close()


def card_of(done: Exported) -> CardOf:
    return CardOf(
        path=done.path,
        kind=done.kind,
        rows=done.rows,
        runs=done.runs,
        judge_id=done.judge_id,
        judge=done.judge,
        min_margin=done.min_margin,
        dropped={str(reason): number for reason, number in done.dropped.items()},
        command=("espalier", "export", done.kind, done.path.name),
    )


def test_a_card_says_what_a_reader_needs(built: tuple[Store, BuiltRun], tmp_path: Path) -> None:
    store, run = built
    done = export(store, "dpo", tmp_path / "pairs.jsonl", min_margin=0.5)
    text = write_card(store, card_of(done)).read_text()
    assert text.startswith("---\nlicense: unknown\n")
    assert '- config_name: "pairs-jsonl"\n  data_files: "pairs.jsonl"\n' in text
    assert "espalier export dpo pairs.jsonl" in text
    assert f"| {run.id[:8]} | by hand | play | 1 |" in text
    assert "| responder.warm | hand | scripted | by hand |" in text
    assert "| profiles | test | train | 1 |" in text
    assert f"| user | {run.prompts['user']} |" in text
    assert "a margin of 0.5 or more" in text
    assert "| 2 | 100 % of 2 | 0 % of 2 | 0 % of 2 | 0 % of 2 | 0 % of 2 | none | 100 % of 2 |" in text
    assert "Apache-2.0" in text


def test_hubs_read_the_head(built: tuple[Store, BuiltRun], tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="the llama extra is not installed")
    store, _ = built
    name = 'a "quoted": name.jsonl'
    card = write_card(store, card_of(export(store, "sft", tmp_path / name)))
    data = hub.DatasetCard.load(card).data
    assert data.license == "unknown"
    assert data.configs == [{"config_name": name.replace(".", "-"), "data_files": name}]


def test_files_of_one_folder_share_a_card(built: tuple[Store, BuiltRun], tmp_path: Path) -> None:
    store, _ = built
    for kind in ("sft", "dpo"):
        card = write_card(store, card_of(export(store, kind, tmp_path / f"{kind}.jsonl")))
    before = card.read_text()
    assert before.count("## ") == 2
    again = export(store, "sft", tmp_path / "sft.jsonl", overwrite=True)
    assert write_card(store, card_of(again)).read_text() == before
    (tmp_path / "dpo.jsonl").unlink()
    write_card(store, card_of(again))
    assert "dpo.jsonl" not in card.read_text(), "a file that is gone is not described"


def test_somebody_s_own_readme_is_not_touched(built: tuple[Store, BuiltRun], tmp_path: Path) -> None:
    store, _ = built
    (tmp_path / "README.md").write_text("my project")
    card = write_card(store, card_of(export(store, "sft", tmp_path / "sft.jsonl")))
    assert card.name == "sft.jsonl.card.md"
    assert (tmp_path / "README.md").read_text() == "my project"


def test_text_of_the_store_is_no_markup(built: tuple[Store, BuiltRun], tmp_path: Path) -> None:
    store, run = built
    evil = "x | <script>alert(1)</script> \x1b[2J\n# [link](javascript:1) -->"
    store.apply([("UPDATE runs SET name = ? WHERE id = ?", (evil, run.id))])
    done = card_of(export(store, "sft", tmp_path / "sft.jsonl"))
    text = write_card(store, replace(done, judge=evil)).read_text()
    assert "\x1b" not in text
    assert "<script>" not in text
    assert "\n# [" not in text
    assert r"x \| \<script\>alert\(1\)\</script\>" in text
