"""`espalier bench`: from the sample to curves, comparisons and files, on scripted models."""

from __future__ import annotations

import csv
import json
import math
import sqlite3
import subprocess
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import fmean, variance

import pytest

from simulation.benchmark import find_benchmark
from tests.support.command_line import Espalier, as_json, spawn
from trees.store import Store
from trees.verify import verify
from tui.benchview import curves_so_far, plot
from tui.canonical import canonical_run

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
    (note,) = planned["notes"]
    assert "with 6 cases the smallest p there can be is 0.188, corrected for 6 tests" in note

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
    assert measured["notes"] == [note]
    assert note in " ".join(shown.split())
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


def test_situations_are_shown_apart_with_what_a_change_did(espalier: Espalier, folder: Path) -> None:
    text = BENCH.replace("turns = 3", 'turns = 4\nsituations = ["advice", "taste"]')
    (folder / "bench.toml").write_text(text, encoding="utf-8")
    assert (
        "situations, dealt to the cases in turn: advice, taste"
        in espalier("bench", "run", "bench.toml", "--dry-run").stdout
    )
    measured = as_json(espalier("bench", "run", "bench.toml", "--model", "base", "--json"))
    advice, taste = sorted(measured["models"][0]["situations"], key=lambda part: str(part["situation"]))
    assert (advice["situation"], advice["cases"], advice["recovery"]) == ("advice", 3, None)
    assert (taste["situation"], taste["recovery"]["change"]) == ("taste", 3)
    shown = espalier("bench", "show").stdout
    assert "By situation:" in shown
    assert "After a change, turns until AL is back" in shown
    espalier("bench", "export", "scores.csv")
    with (folder / "scores.csv").open(encoding="utf-8") as file:
        assert {row["situation"] for row in csv.DictReader(file)} == {"advice", "taste"}
    drawn = espalier("show").stdout
    assert "situation" in drawn
    assert "turn 1:" in drawn


def test_killed_in_the_middle_it_goes_on_to_what_an_unbroken_one_gives(espalier: Espalier, folder: Path) -> None:
    slow = BENCH.replace('kind = "scripted"', 'kind = "scripted"\nlatency_s = 0.004').replace("count = 6", "count = 4")
    (folder / "bench.toml").write_text(slow, encoding="utf-8")
    espalier("bench", "run", "bench.toml", "--store", "unbroken.db", "--json")
    process = spawn("bench", "run", "bench.toml", "--store", "killed.db")
    try:
        until(lambda: len(calls("killed.db")) > 40, process)
    finally:
        process.kill()
        process.communicate()
    kept = calls("killed.db")
    assert 40 < len(kept) < len(calls("unbroken.db"))
    measured = as_json(espalier("bench", "run", "bench.toml", "--store", "killed.db", "--json"))
    assert measured == as_json(espalier("bench", "show", "--store", "unbroken.db", "--json"))
    after = calls("killed.db")
    assert after == calls("unbroken.db")
    assert {call: after[call] for call in kept} == kept
    assert asked("killed.db") == len(after) - len(kept), "a committed call was asked again"
    assert trees("killed.db") == trees("unbroken.db")


def calls(store: str) -> dict[str, str]:
    """The stored answers by call id; none while there is no store yet."""
    if not Path(store).exists():
        return {}
    connection = sqlite3.connect(store)
    try:
        return dict(connection.execute("SELECT id, answer FROM calls"))
    except sqlite3.OperationalError:
        return {}
    finally:
        connection.close()


def asked(store: str) -> int:
    """How many calls the engines that left in good order had asked."""
    with Store.read(Path(store)) as opened:
        rows = opened.rows("SELECT data FROM events WHERE kind = 'engine.left'")
    return sum(json.loads(row[0])["asked"] for row in rows)


def trees(store: str) -> list[object]:
    with Store.read(Path(store)) as opened:
        return sorted((canonical_run(opened, run) for run in opened.runs()), key=lambda run: str(run["run"]))


def until(happened: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 60) -> None:
    """Wait for a condition while a process lives."""
    last = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < last, "it did not get that far"
        time.sleep(0.005)


def test_the_curve_is_drawn_while_models_are_measured(espalier: Espalier, folder: Path) -> None:
    (folder / "bench.toml").write_text(BENCH, encoding="utf-8")
    espalier("bench", "run", "bench.toml", "--model", "base", "--json")
    with Store.read(folder / "espalier.db") as store:
        benchmark = find_benchmark(store, None)
        line, *drawn = curves_so_far(store, benchmark[0], "points", 3, "base")
        assert line.startswith("base, AL by turn: ")
        assert drawn[-1].strip() == "A base"
        assert curves_so_far(store, benchmark[0], "nobody", 3, "base") == ["AL: no reply is scored yet"]


def test_a_person_gives_points_blind_and_they_are_scores_as_any_judges(espalier: Espalier, folder: Path) -> None:
    (folder / "bench.toml").write_text(BENCH.replace("count = 6", "count = 2"), encoding="utf-8")
    espalier("bench", "run", "bench.toml", "--json")
    due = 3 * 2 * 3
    first = espalier("judge", "trial", "--judge", "human", stdin="5\n3\n9\n1\nq\n")
    assert f"{due} replies wait for points of 'human'" in first.stdout
    assert "'9' is no number of points" in first.stdout
    assert f"3 points kept, 0 skipped, {due - 3} replies left" in first.stdout
    for word in ("tested", "base", "floor", "told", "scripted", "points judge"):
        assert word not in first.stdout.partition("points kept")[0], "it is blind"
    with Store.read(folder / "espalier.db") as store:
        sql = """
        SELECT value, unit FROM scores s JOIN judgements j ON j.id = s.judgement_id JOIN judges g ON g.id = j.judge_id
        WHERE g.name = 'human' ORDER BY value
        """
        assert store.rows(sql) == [(1.0, "points"), (3.0, "points"), (5.0, "points")]
    second = as_json(espalier("judge", "trial", "--judge", "human", "--json", stdin="s\n" + "4\n" * (due - 4)))
    assert (second["voted"], second["skipped"], second["left"]) == (due - 4, 1, 1)
    espalier("judge", "trial", "--judge", "human", stdin="2\n")
    shown = as_json(espalier("bench", "show", "--judge", "human", "--json"))
    assert [(model["n"], model["missing"]) for model in shown["models"]] == [([2, 2, 2], {})] * 3
    assert (shown["judge"], shown["unit"]) == ("human", "points")
    levels = [level["value"] for model in shown["models"] for level in model["levels"]]
    assert sum(levels) * 2 == 5 + 3 + 1 + 2 + 4 * (due - 4)

    # Another person judges one run alone; their second opinion tells their noise.
    run = shown["models"][0]["run"]
    espalier("judge", run[:8], "--judge", "human.ada", stdin="3\n" * 6)
    ada = as_json(espalier("bench", "show", "--judge", "human.ada", "--json"))
    assert [model["n"] for model in ada["models"]] == [[2, 2, 2], [0, 0, 0], [0, 0, 0]]
    assert ada["models"][0]["noise_floor"] is None
    espalier("judge", run[:8], "--judge", "human.ada", "--again", stdin="3\n" * 5 + "5\n")
    ada = as_json(espalier("bench", "show", "--judge", "human.ada", "--json"))
    assert ada["models"][0]["noise_floor"] > 0
    with Store.read(folder / "espalier.db") as store:
        assert verify(store).clean
    assert "no run begins with 'nothing'" in espalier("judge", "nothing", "--judge", "human", exit_code=2).stderr


def test_whose_points_are_asked_tells_no_model(espalier: Espalier, folder: Path) -> None:
    (folder / "bench.toml").write_text(BENCH.replace("count = 6", "count = 5"), encoding="utf-8")
    espalier("bench", "run", "bench.toml", "--json")
    stated = espalier("judge", "trial", "--judge", "human", stdin="3\n" * 45).stdout
    with Store.read(folder / "espalier.db") as store:
        of = {row.id: run.id for run in store.runs() for row in store.trees(run.id)}
        kept = store.rows("SELECT node_id FROM operations WHERE kind = 'vote' ORDER BY at, id")
        models = [of[store.tree_of(row[0])] for row in kept[::3]]
    assert len(set(models)) == 3
    changes = sum(a != b for a, b in pairwise(models))
    assert changes > 3, "the models' conversations are shuffled"
    assert not any(tree[:8] in stated for tree in of), "an id could be looked up"


def test_a_model_played_again_tells_what_figures_move_by(espalier: Espalier, folder: Path) -> None:
    (folder / "bench.toml").write_text(BENCH.replace("count = 6", "count = 5"), encoding="utf-8")
    assert as_json(espalier("bench", "run", "bench.toml", "--model", "base", "--json"))["repetitions"] == []
    again = ("bench", "run", "bench.toml", "--model", "base", "--repeat", "2", "--json")
    shown = as_json(espalier(*again))
    assert [model["model"] for model in shown["models"]] == ["base", "base again", "base again 2"]
    espalier("bench", "run", "bench.toml", "--model", "told", "--json")
    shown = as_json(espalier("bench", "show", "--json"))
    (one,) = shown["repetitions"]
    assert (one["models"], one["cases"]) == (["base", "base again", "base again 2"], 5)
    espalier("bench", "export", "scores.csv")
    means: dict[str, dict[str, list[float]]] = {}
    with (folder / "scores.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            case = means.setdefault(row["profile"] + row["personality"], {})
            case.setdefault(row["model"], []).append(float(row["score"]))
    draws = [[fmean(case[name]) for name in one["models"]] for case in means.values()]
    within = math.sqrt(fmean(variance(case) for case in draws))
    assert one["sd"] == pytest.approx(within)
    assert one["of_difference"] == pytest.approx(within * math.sqrt(2 / 5))
    told = " ".join(espalier("bench", "show").stdout.split())
    assert f"are the same model: played again, a case's mean moves by {one['sd']:.3f} (sd)" in told
    assert "are the same model" in " ".join(espalier("report", "trial").output.split())
