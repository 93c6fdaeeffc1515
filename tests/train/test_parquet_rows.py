"""Parquet beside JSON lines: the same rows, in columns that do not depend on what is in them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.builders import judged, make_judge, make_run, small_store
from train.export import export
from trees.store import Store

parquet = pytest.importorskip("pyarrow.parquet", reason="the training extra is not installed")


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_rows_are_those_of_the_json_lines(tmp_path: Path, kind: str) -> None:
    store, _ = small_store(tmp_path / "store.db", deploy="[head]\nBe kind.\n")
    with store:
        export(store, kind, tmp_path / "rows.jsonl")  # type: ignore[arg-type]
        done = export(store, kind, tmp_path / "rows.parquet")  # type: ignore[arg-type]
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert done.rows == 2
    assert parquet.read_table(tmp_path / "rows.parquet").to_pylist() == lines


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_columns_are_the_same_without_a_row(tmp_path: Path, kind: str) -> None:
    store, _ = small_store(tmp_path / "store.db")
    with store:
        export(store, kind, tmp_path / "some.parquet")  # type: ignore[arg-type]
        export(store, kind, tmp_path / "none.parquet", min_margin=9.0)  # type: ignore[arg-type]
    none = parquet.read_table(tmp_path / "none.parquet")
    assert none.num_rows == 0
    assert none.schema == parquet.read_table(tmp_path / "some.parquet").schema


def test_what_utf_8_cannot_hold_is_replaced(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store.db") as store:
        run, judge = make_run(store), make_judge(store)
        said = run.user(run.trees[0], "\ud800 \x00 世界")
        a, b = run.replies(said, "a", "b")
        run.turn(said, [a, b], [judged(said, judge, [(a, b, "win")])])
        export(store, "sft", tmp_path / "rows.parquet")
    (row,) = parquet.read_table(tmp_path / "rows.parquet").to_pylist()
    assert row["prompt"] == [{"role": "user", "content": "\ufffd \x00 世界"}]
