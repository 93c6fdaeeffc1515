"""From a configuration to a finished run: `init`, `run`, `resume`, and how they end."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from simulation.config import load_config, presets
from tests.support.command_line import Espalier, as_json, spawn
from trees.errors import StoreError
from trees.jobs import lock_of, process_started, take_lock
from trees.store import Store
from tui.launch import log_path


@pytest.mark.parametrize("preset", presets())
def test_init_writes_a_configuration_that_is_valid_as_it_stands(espalier: Espalier, preset: str) -> None:
    espalier("init", "new.toml", "--preset", preset)
    config = load_config(Path("new.toml"))
    assert config.preset == preset
    assert config.personas.count == 6
    assert {m.kind for m in config.models.values()} == {"llama"}


def test_the_quickstart_plays_three_responders_under_the_default_judge(espalier: Espalier) -> None:
    espalier("init", "new.toml")
    config = load_config(Path("new.toml"))
    assert {name: role.hint for name, role in config.responders.items()} == {
        "plain": False,
        "warm": True,
        "brief": True,
    }
    assert config.judges["rating"].kind == "rating"
    assert (config.turns, config.seed) == (3, 1)


def test_init_writes_over_nothing_unless_told(espalier: Espalier) -> None:
    result = espalier("init", "run.toml", exit_code=3)
    assert "run.toml exists already" in result.stderr
    assert "--force" in result.stderr
    espalier("init", "run.toml", "--force")


def test_a_dry_run_tells_what_it_would_take_and_leaves_no_store(espalier: Espalier, folder: Path) -> None:
    output = espalier("run", "run.toml", "--dry-run").stdout
    assert "not in the store yet" in output
    assert "json_schema" in output
    assert "judge.likelihood" in output
    assert not (folder / "espalier.db").exists()


def test_a_dry_run_knows_a_run_that_is_there(espalier: Espalier, played: str) -> None:
    plan = as_json(espalier("run", "run.toml", "--dry-run", "--json"))
    assert plan["run"] == played
    assert plan["stored"]["state"] == "finished"


def test_the_same_command_shows_a_finished_run_and_names_the_seed(espalier: Espalier, played: str) -> None:
    output = espalier("run", "run.toml").stdout
    assert played in output
    assert "--seed" in output
    with Store.read(Path("espalier.db")) as store:
        assert len(store.runs()) == 1


def test_another_seed_is_another_run(espalier: Espalier, played: str) -> None:
    other = as_json(espalier("run", "run.toml", "--seed", "8", "--json"))
    assert other["run"]["id"] != played
    assert other["run"]["seed"] == 8


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("turns = 2", "there is no file"),
        ("trns = 2", "did you mean 'turns'?"),
        ('judge = "strict"', "there is no 'strict'"),
    ],
)
def test_a_mistake_is_told_without_a_traceback(espalier: Espalier, line: str, said: str) -> None:
    path = Path("run.toml")
    text = path.read_text(encoding="utf-8").replace("turns = 2", line)
    name = "run.toml" if line != "turns = 2" else "missing.toml"
    path.write_text(text, encoding="utf-8")
    result = espalier("run", name, exit_code=3)
    assert said in result.stderr
    assert result.stderr.startswith("error: ")


def test_a_run_that_somebody_plays_is_left_to_them(espalier: Espalier, folder: Path) -> None:
    run = as_json(espalier("run", "run.toml", "--dry-run", "--json"))["run"]
    espalier("run", "run.toml", "--seed", "8")
    with Store.open(folder / "espalier.db") as store:
        lock = take_lock(store, run, "run")
        sql = "UPDATE locks SET pid = 1, process_started = ? WHERE job_id = ?"
        store.apply([(sql, (process_started(1), lock.job_id))])
    assert "has an engine already: pid 1" in espalier("run", "run.toml", exit_code=4).stderr


def test_failed_trees_end_in_1_and_can_be_asked_again(espalier: Espalier, folder: Path) -> None:
    text = (folder / "run.toml").read_text(encoding="utf-8")
    broken = text.replace('kind = "scripted"', 'kind = "scripted"\nattempts = 1\nfailures = { every = 1 }')
    (folder / "run.toml").write_text(broken, encoding="utf-8")
    result = espalier("run", "run.toml", exit_code=1)
    assert "--retry-failed" in result.stdout
    assert "unavailable" in result.stdout
    espalier("resume", "--retry-failed", exit_code=1)


def test_a_budget_stops_a_run_and_resume_goes_on(espalier: Espalier, folder: Path) -> None:
    text = (folder / "run.toml").read_text(encoding="utf-8")
    (folder / "small.toml").write_text(text + "\n[limits]\ncalls = 4\n", encoding="utf-8")
    result = espalier("run", "small.toml", "--json", exit_code=1)
    assert "espalier resume" in result.stderr
    facts = as_json(result)
    assert facts["run"]["state"] == "stopped"
    assert "budget of 4 calls" in facts["run"]["reason"]
    done = as_json(espalier("resume", "--config", "run.toml", "--json"))
    assert done["run"]["state"] == "finished"
    assert done["run"]["id"] == facts["run"]["id"]


def test_resume_refuses_another_identity_and_names_the_key(espalier: Espalier, folder: Path) -> None:
    text = (folder / "run.toml").read_text(encoding="utf-8")
    (folder / "small.toml").write_text(text + "\n[limits]\ncalls = 4\n", encoding="utf-8")
    espalier("run", "small.toml", exit_code=1)
    (folder / "other.toml").write_text(text.replace("turns = 2", "turns = 3"), encoding="utf-8")
    assert "play.turns" in espalier("resume", "--config", "other.toml", exit_code=3).stderr


def test_there_is_nothing_to_resume(espalier: Espalier, played: str) -> None:
    assert "no unfinished run" in espalier("resume", exit_code=2).stderr
    assert "this run is finished" in espalier("resume", played[:8]).stdout


def slow(folder: Path) -> None:
    """A configuration that takes long enough to be interrupted."""
    text = (folder / "run.toml").read_text(encoding="utf-8")
    text = text.replace('kind = "scripted"', 'kind = "scripted"\nlatency_s = 0.02').replace("turns = 2", "turns = 12")
    (folder / "run.toml").write_text(text, encoding="utf-8")


def test_an_interrupted_run_resumes_to_the_same_bytes(espalier: Espalier, folder: Path) -> None:
    slow(folder)
    child = spawn("run", "run.toml")
    assert child.stderr is not None
    assert child.stderr.readline().startswith("run ")
    wait_for_a_turn(folder / "espalier.db", child)
    child.send_signal(signal.SIGINT)
    _, told = child.communicate(timeout=60)
    assert child.returncode == 130, told
    assert "espalier resume" in told
    espalier("resume", "--json")
    resumed = espalier("trees", "--json", "--canonical").stdout
    espalier("run", "run.toml", "--store", "unbroken.db")
    assert espalier("trees", "--json", "--canonical", "--store", "unbroken.db").stdout == resumed
    assert espalier("verify").exit_code == 0


def test_a_detached_run_is_steered_by_rows(espalier: Espalier, folder: Path) -> None:
    slow(folder)
    started = as_json(espalier("run", "run.toml", "--detach", "--json"))
    run = started["run"]
    assert espalier("pause", run[:8]).stdout.startswith(f"run {run[:8]} is paused")
    assert as_json(espalier("status", run[:8], "--json"))["engine"]["pid"] == started["pid"]
    assert "limit 3" in espalier("set", run[:8], "permits", "s", "3").stdout
    assert "limit auto" in espalier("set", run[:8], "permits", "s", "auto").stdout
    assert "no model 'x'" in espalier("set", run[:8], "permits", "x", "3", exit_code=1).stderr
    assert "goes on in the engine" in espalier("resume", run[:8]).stdout
    espalier("stop", run[:8])
    espalier("status", run[:8], "--watch")
    with Store.read(folder / "espalier.db") as store:
        assert lock_of(store, run) is None
        assert store.run(run).state == "stopped"
    assert log_path(folder / "espalier.db", run).is_file()


def test_an_engine_that_cannot_begin_is_told_with_its_log(espalier: Espalier, folder: Path) -> None:
    slow(folder)
    text = (folder / "run.toml").read_text(encoding="utf-8")
    (folder / "run.toml").write_text(text + "\n[limits]\ncalls = 4\n", encoding="utf-8")
    espalier("run", "run.toml", exit_code=1)
    (folder / "run.toml").write_text(text.replace("turns = 12", "turns = 13"), encoding="utf-8")
    result = espalier("resume", "--detach", "--config", "run.toml", exit_code=3)
    assert "play.turns" in result.stderr
    assert ".log" in result.stderr


def wait_for_a_turn(path: Path, child: subprocess.Popen[str]) -> None:
    """Until the store that a child writes holds a turn."""
    while child.poll() is None and not stored_turns(path):
        time.sleep(0.01)


def stored_turns(path: Path) -> int:
    try:
        with Store.read(path) as store:
            turns: int = store.rows("SELECT coalesce(sum(turns), 0) FROM trees")[0][0]
    except StoreError:
        return 0
    return turns


def test_json_of_a_run_is_one_document(espalier: Espalier) -> None:
    facts = json.loads(espalier("run", "run.toml", "--json").stdout)
    assert facts["trees"] == {"planned": 2, "begun": 2, "growing": 0, "done": 2, "failed": 0}
    assert facts["turns"] == {"stored": 4, "planned": 4}
    assert facts["judges"][0]["judge"] == "likelihood"
