"""`espalier bench`: from the sample to curves, comparisons and files, on scripted models."""

from __future__ import annotations

import csv
from pathlib import Path

from tests.support.command_line import Espalier, as_json
from tui.benchview import plot

BENCH = """
name = "trial"
turns = 3
[models.a]
kind = "scripted"
[models.b]
kind = "scripted"
variant = "b"
[user]
model = "b"
[inducer]
model = "b"
[judges.points]
kind = "points"
model = "b"
[tested.base]
model = "a"
[tested.floor]
how = "floor"
[tested.told]
model = "a"
how = "told"
[cases]
count = 6
"""


def test_a_benchmark_from_file_to_figures(espalier: Espalier, folder: Path) -> None:
    (folder / "bench.toml").write_text(BENCH, encoding="utf-8")
    planned = as_json(espalier("bench", "run", "bench.toml", "--dry-run", "--json"))
    assert (planned["cases"], [m["model"] for m in planned["models"]]) == (6, ["base", "floor", "told"])
    assert not (folder / "espalier.db").exists()

    measured = as_json(espalier("bench", "run", "bench.toml", "--json"))
    assert [m["model"] for m in measured["models"]] == ["base", "floor", "told"]
    assert all(m["n"] == [6, 6, 6] and m["equal_n"] for m in measured["models"])
    assert len(measured["comparisons"]) == 3
    assert set(measured["gap_closed"]) == {"base"}

    again = as_json(espalier("bench", "run", "bench.toml", "--json"))
    assert again == measured
    assert as_json(espalier("bench", "show", "--json")) == measured

    shown = espalier("bench", "show").stdout
    assert "A base  B floor  C told" in shown
    assert "mean" in shown

    one = as_json(espalier("bench", "compare", "base", "told", "--json"))
    assert (one["a"], one["b"], one["cells"]) == ("base", "told", 18)
    espalier("bench", "compare", "base", "nobody", exit_code=2)

    espalier("bench", "export", "scores.csv")
    with (folder / "scores.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 6 * 3
    assert all(1 <= float(row["score"]) <= 5 for row in rows)


def test_the_sample_is_written_once(espalier: Espalier, folder: Path) -> None:
    espalier("bench", "init", "mine.toml")
    espalier("bench", "init", "mine.toml", exit_code=3)
    espalier("bench", "run", "mine.toml", "--model", "nobody", "--dry-run", exit_code=3)


def test_a_store_without_a_benchmark_says_how_to_begin(espalier: Espalier, folder: Path) -> None:
    espalier("run", "run.toml")
    assert "bench init" in espalier("bench", "show", exit_code=2).stderr


def test_a_plot_has_every_model_at_its_level() -> None:
    lines = plot([("up", [1.0, 2.0]), ("down", [2.0, None])])
    assert lines[0] == "  2.000 | B  A "
    assert lines[11] == "  1.000 | A    "
    assert lines[-1].strip() == "A up  B down"


def test_generic_replies_know_nothing_that_nobody_said(espalier: Espalier, folder: Path) -> None:
    (folder / "bench.toml").write_text(BENCH, encoding="utf-8")
    espalier("bench", "run", "bench.toml", "--model", "floor", "--json")
    read = as_json(espalier("bench", "leaks", "--json"))
    assert [count for count, _ in read["floor"]["leaks"]] == [0, 0, 0]
    assert "come back" in espalier("bench", "leaks").stdout
