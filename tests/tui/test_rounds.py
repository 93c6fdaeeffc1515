"""Rounds: two of them from files to a timeline, broken off at every step, killed, and what they cannot do."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("torch", reason="the training extra is not installed")
pytest.importorskip("peft", reason="the training extra is not installed")

import torch
from click.testing import CliRunner

from agents.rerender import Rerender
from simulation.benchmark import too_few
from simulation.rounds import Over, next_step, standing
from simulation.rounds_config import load_rounds, samples
from tests.support.command_line import Espalier, as_json, spawn
from tests.support.fake_vllm import asked_of, fake_config, model_folder
from tests.support.rounds_folder import rounds_folder
from tests.support.tiny_base import tiny_base
from trees.jobs import ask
from trees.rounds import StepRow, all_rounds, steps
from trees.store import Store
from trees.verify import verify
from tui.main import main
from tui.rounds import Processes, Said, Watch
from tui.roundsview import timeline

STEPS = [(0, "benchmark"), *((r, kind) for r in (1, 2) for kind in ("simulate", "lint", "sft", "dpo", "benchmark"))]


class Killed(BaseException):
    """Stands for what ends a process."""


def facts_here(words: Sequence[str], store: Path) -> Any:
    return json.loads(CliRunner().invoke(main, [*words, "--store", str(store)], catch_exceptions=False).stdout)


class InProcess:
    """Steps done by the real command line, in this process; `break_off` may end it before or after a step's work."""

    break_off: Callable[[int, str, str], bool] | None = None
    asked: list[tuple[str, ...]]

    def __init__(self, log: Path, store: Path, *, quiet: bool) -> None:
        self._store = store

    def __call__(self, words: Sequence[str], watch: Watch) -> Said:
        assert watch.step is not None
        self._maybe_end(watch, "before")
        watch.begun(os.getpid())
        result = CliRunner().invoke(main, [*words, "--store", str(self._store)], catch_exceptions=False)
        self._maybe_end(watch, "after")
        return Said(result.exit_code, result.stdout, tuple(result.stderr.splitlines()[-12:]))

    def _maybe_end(self, watch: Watch, when: str) -> None:
        assert watch.step is not None
        if InProcess.break_off is not None and InProcess.break_off(watch.step.round, watch.step.kind, when):
            # A step that was never ended, with nobody alive at it: what kill -9 leaves.
            watch.begun(2**22 - 1)
            raise Killed


@pytest.fixture(autouse=True)
def _in_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr("tui.rounds.Processes", InProcess)
    monkeypatch.setattr("tui.rounds.facts_of", facts_here)
    monkeypatch.setattr(InProcess, "break_off", None)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def made_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(scope="module")
def unbroken(made_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which two rounds were done without a break."""
    folder, before = tmp_path_factory.mktemp("unbroken"), Path.cwd()
    rounds_folder(folder, made_base)
    os.chdir(folder)
    patched = pytest.MonkeyPatch()
    patched.setattr("tui.rounds.Processes", InProcess)
    try:
        result = CliRunner().invoke(main, ["rounds", "rounds.toml", "--json"], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        yield folder
    finally:
        patched.undo()
        os.chdir(before)


def everything(folder: Path) -> dict[str, Any]:
    """All that rounds came to, without times."""
    with Store.read(folder / "espalier.db") as store:
        (row,) = all_rounds(store)
        done = [(s.round, s.kind, s.words, s.state, s.made, s.figures) for s in steps(store, row.id)]
        return {
            "rounds": (row.id, row.state, row.reason),
            "steps": done,
            "calls": store.rows("SELECT id, answer FROM calls ORDER BY id"),
            "nodes": store.rows("SELECT id, digest FROM nodes ORDER BY id"),
            "judgements": store.rows("SELECT id, covers FROM judgements ORDER BY id"),
            "scores": store.rows("SELECT judgement_id, node_id, value FROM scores ORDER BY 1, 2"),
            "adapters": store.rows("SELECT id, training_id FROM adapters ORDER BY id"),
        }


SERVED = """
name = "served"
turns = 1
[models.s]
kind = "scripted"
[models.big]
kind = "vllm"
model = "model"
environment = {environment}
[personas]
count = 1
[user]
model = "s"
[inducer]
model = "s"
[responders.plain]
model = "big"
[responders.warm]
model = "s"
hint = true
[judges.likelihood]
kind = "likelihood"
model = "s"
"""


class AnyWatch(Watch):
    """Of a step that belongs to no rounds."""

    def __init__(self) -> None:
        self.asked_to_stop, self.step = 0, None

    def begun(self, pid: int) -> None: ...

    def look(self, pid: int | None = None) -> None: ...


def test_a_server_is_gone_when_its_step_is_and_there_again_for_the_next(tmp_path: Path) -> None:
    """So a training between two steps that play has the GPU for itself."""
    folder = model_folder(tmp_path / "model")
    told = fake_config(folder).environment
    table = "{ " + ", ".join(f"{key} = {json.dumps(value)}" for key, value in told.items()) + " }"
    (tmp_path / "run.toml").write_text(
        SERVED.replace("{environment}", table).replace('"model"\n', f'"{folder}"\n', 1), encoding="utf-8"
    )
    doing = Processes(tmp_path / "log", tmp_path / "espalier.db", quiet=True)
    for seed in ("1", "2"):
        said = doing(["run", str(tmp_path / "run.toml"), "--set", f"seed={seed}", "--json"], AnyWatch())
        assert said.code == 0, said.last
        servers = [entry["pid"] for entry in asked_of(folder) if "pid" in entry]
        assert len(servers) == int(seed)
        assert not any(psutil.pid_exists(pid) for pid in servers)


def test_two_rounds_from_files_to_a_timeline(unbroken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(unbroken)
    facts = json.loads(CliRunner().invoke(main, ["rounds", "show", "--json"]).stdout)
    assert [(line["round"], line["step"]) for line in facts["timeline"]] == STEPS
    assert {line["standing"] for line in facts["timeline"]} == {"done"}
    assert facts["state"] == "finished"
    said = "all 2 rounds are done; with 3 cases the smallest p there can be is 0.25: no difference can be told"
    assert facts["reason"].startswith(said)
    by_step = {(step["round"], step["kind"]): step for step in facts["steps"]}
    with Store.read(unbroken / "espalier.db") as store:
        roles = "SELECT DISTINCT role FROM nodes n JOIN trees t ON t.id = n.tree_id WHERE t.run_id = ? ORDER BY 1"
        first, second = ([r[0] for r in store.rows(roles, (by_step[i, "simulate"]["made"],))] for i in (1, 2))
        assert first == ["responder.plain", "responder.warm", "user"]
        assert second == ["responder.learnt", "responder.plain", "responder.warm", "user"]
        spoke = "SELECT m.identity FROM nodes n JOIN models m ON m.id = n.model_id WHERE n.role = 'responder.learnt'"
        learnt = by_step[1, "dpo"]["figures"]["adapter"]
        assert {json.loads(row[0])["adapter"] for row in store.rows(spoke)} == {learnt}
        lineage = store.rows("SELECT lineage FROM adapters WHERE id = ?", (by_step[2, "dpo"]["figures"]["adapter"],))
        assert [step["kind"] for step in json.loads(lineage[0][0])["trainings"]] == ["sft", "dpo", "sft", "dpo"]
        kept = json.loads(
            store.rows("SELECT selection FROM trainings WHERE id = ?", (by_step[2, "dpo"]["made"],))[0][0]
        )
        assert kept["earlier"] == [by_step[1, "simulate"]["made"]]
        assert verify(store, rerender=Rerender(store)).findings == ()
    assert by_step[2, "benchmark"]["figures"]["outcome"] in ("gain", "same", "loss")
    assert by_step[0, "benchmark"]["made"] == by_step[2, "benchmark"]["made"]


def test_what_rounds_learnt_is_measured_by_naming_the_adapter(
    unbroken: Path, tmp_path: Path, espalier: Espalier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shutil.copytree(unbroken, tmp_path / "copy", symlinks=True))
    steps_done = as_json(espalier("rounds", "show", "--json"))["steps"]
    learnt = [step["figures"]["adapter"] for step in steps_done if step["kind"] == "dpo"]
    words = ("bench", "run", "bench.toml", "--adapter", learnt[0][:6], "--adapter", learnt[1])
    names = ["base", *(f"base+{adapter[:8]}" for adapter in learnt)]
    planned = as_json(espalier(*words, "--dry-run", "--json"))
    assert [model["model"] for model in planned["models"]] == names
    assert " > sft " in planned["models"][1]["lineage"]
    measured = {model["model"]: model for model in as_json(espalier(*words, "--json"))["models"]}
    assert {measured[name]["lineage"] for name in names[1:]} == {model["lineage"] for model in planned["models"][1:]}
    again = as_json(espalier(*words, "--json"))["models"]
    assert {model["model"] for model in again} == set(measured), "the same command again measures nothing anew"

    bench = Path("bench.toml")
    bench.write_text(bench.read_text() + '[tested.told]\nmodel = "tiny"\nhow = "told"\n', encoding="utf-8")
    told = espalier("bench", "run", "bench.toml", "--model", "told", "--adapter", learnt[1], "--dry-run", "--json")
    assert [model["how"] for model in as_json(told)["models"]] == ["told", "told"]
    bench.write_text(bench.read_text() + '[tested.longer]\nmodel = "tiny"\n', encoding="utf-8")
    unclear = espalier(*words, "--dry-run", exit_code=3).stderr
    assert "an adapter may be put on: base, longer" in unclear
    assert "--model base" in unclear
    espalier(*words, "--model", "longer", "--dry-run")
    unknown = espalier("bench", "run", "bench.toml", "--adapter", "nothing", "--model", "base", exit_code=3).stderr
    assert "there is no adapter 'nothing'" in unknown


def test_the_same_command_again_shows_them_and_asks_nothing(unbroken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(unbroken)
    before = everything(unbroken)
    monkeypatch.setattr(InProcess, "break_off", lambda *_: True)
    shown = CliRunner().invoke(main, ["rounds", "rounds.toml"], catch_exceptions=False)
    assert shown.exit_code == 0
    assert "all 2 rounds are done" in shown.stdout
    assert "espalier bench show --bench" in shown.stdout
    assert everything(unbroken) == before
    assert "finished" in CliRunner().invoke(main, ["rounds", "list"]).stdout


def test_broken_off_at_every_step_it_goes_on_there_with_an_equal_result(
    made_base: Path, unbroken: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds_folder(folder, made_base)
    ends = {(round_, kind, "after") for round_, kind in STEPS if round_ < 2} | {(2, "simulate", "before")}

    def once(round_: int, kind: str, when: str) -> bool:
        if (round_, kind, when) not in ends:
            return False
        ends.remove((round_, kind, when))
        return True

    monkeypatch.setattr(InProcess, "break_off", once)
    while ends:
        left = len(ends)
        with pytest.raises(Killed):
            CliRunner().invoke(main, ["rounds", "rounds.toml", "--json"], catch_exceptions=False)
        assert len(ends) == left - 1
    CliRunner().invoke(main, ["rounds", "rounds.toml", "--json"], catch_exceptions=False)
    assert everything(folder) == everything(unbroken)


def test_killed_while_it_plays_it_goes_on_exactly_there(
    made_base: Path, unbroken: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds_folder(folder, made_base, latency_s=0.05)
    monkeypatch.setattr(InProcess, "break_off", lambda round_, *_: round_ == 1)
    with pytest.raises(Killed):
        CliRunner().invoke(main, ["rounds", "rounds.toml", "--json"], catch_exceptions=False)
    process = spawn("rounds", "rounds.toml", "--store", str(folder / "espalier.db"))
    step = until(lambda: playing(folder), "a few calls of round 1")
    os.kill(process.pid, signal.SIGKILL)
    os.kill(step.pid or 0, signal.SIGKILL)
    process.communicate(timeout=60)
    kept = everything(folder)["calls"]
    monkeypatch.setattr(InProcess, "break_off", lambda round_, kind, when: kind == "lint")
    with pytest.raises(Killed):
        CliRunner().invoke(main, ["rounds", "rounds.toml", "--json"], catch_exceptions=False)
    after = everything(folder)
    assert set(kept) <= set(after["calls"])
    assert after["steps"][1] == everything(unbroken)["steps"][1]
    with Store.read(folder / "espalier.db") as store:
        asked = store.rows(
            "SELECT data ->> 'asked' FROM events WHERE kind = 'engine.left' AND job_id = ?", (step.made,)
        )
        before = store.rows("SELECT count(*) FROM calls WHERE id IN (SELECT call_id FROM uses WHERE run_id = ?)",
                            (step.made,))  # fmt: skip
        assert asked[-1][0] < before[0][0], "no committed call is asked again"


def playing(folder: Path) -> StepRow | None:
    """The step of round 1 that is at work, once its run is known and has a few answers."""
    with Store.read(folder / "espalier.db") as store:
        (row,) = all_rounds(store)
        at_work = [s for s in steps(store, row.id) if s.round == 1 and s.at_work and s.made]
        if not at_work:
            return None
        sql = "SELECT count(*) FROM uses WHERE run_id = ?"
        return at_work[0] if store.rows(sql, (at_work[0].made,))[0][0] > 3 else None


def until(condition: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + 60
    while (found := condition()) is None:
        assert time.monotonic() < end, f"{what} did not happen"
        time.sleep(0.02)
    return found


def test_a_step_that_fails_keeps_its_last_lines_and_is_tried_again(
    made_base: Path, espalier: Espalier, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = rounds_folder(folder, made_base, objectives='["dpo"]')
    training = folder / "training.toml"
    training.write_text(training.read_text() + "[data]\nmin_margin = 99\n", encoding="utf-8")
    failed = espalier("rounds", "rounds.toml", exit_code=1)
    assert "round 1, lint failed:\nthere are no pairs to train on:" in failed.stdout
    assert "below_margin" in failed.stdout
    assert f"go on: espalier rounds {file}" in failed.stdout
    facts = as_json(espalier("rounds", "show", "--json"))
    assert facts["state"] == "failed"
    assert [s["state"] for s in facts["steps"]] == ["done", "done", "failed"]
    training.write_text(training.read_text().replace("99", "0"), encoding="utf-8")
    monkeypatch.setattr(InProcess, "break_off", lambda round_, kind, when: kind == "dpo")
    with pytest.raises(Killed):
        CliRunner().invoke(main, ["rounds", "rounds.toml", "--json"], catch_exceptions=False)
    assert len(as_json(espalier("rounds", "list", "--json"))) == 2, "another margin is other rounds"
    assert as_json(espalier("rounds", "show", "--json"))["steps"][1]["made"] == facts["steps"][1]["made"]


@pytest.mark.parametrize("how", ["Ctrl-C", "a row of another process"])
def test_stopped_in_a_step_it_says_how_to_go_on(
    how: str, made_base: Path, espalier: Espalier, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds_folder(folder, made_base)

    def stopped(self: InProcess, words: Sequence[str], watch: Watch) -> Said:
        if how == "Ctrl-C":
            os.kill(os.getpid(), signal.SIGINT)
        else:
            with Store.open(folder / "espalier.db") as store:
                ask(store, all_rounds(store)[0].id, "stop", {})
        watch.look()
        assert watch.asked_to_stop == 1
        return Said(130, "", ("interrupted",))

    monkeypatch.setattr(InProcess, "__call__", stopped)
    told = espalier("rounds", "rounds.toml", exit_code=130)
    assert "stopped in round 0, benchmark; what it had done is kept" in told.stdout
    assert "go on: espalier rounds" in told.stdout
    facts = as_json(espalier("rounds", "show", "two", "--json"))
    assert [line["standing"] for line in facts["timeline"][:2]] == ["stopped", "to come"]
    assert "nobody can stop it" in espalier("rounds", "stop", exit_code=3).output


def test_a_dry_run_asks_no_model_and_keeps_nothing(made_base: Path, espalier: Espalier, folder: Path) -> None:
    rounds_folder(folder, made_base)
    said = espalier("rounds", "rounds.toml", "--dry-run").stdout
    assert "'tiny' learns" in said
    assert "3 trees, 3 replies a turn" in said
    assert "No model was asked for text" in said
    assert "from 6 cases on one could be, so no round can be above another" in " ".join(said.split())
    assert not (folder / "espalier.db").exists()


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("rounds.toml", 'learner = "tiny"', 'learner = "nobody"', "has no model 'nobody'"),
        ("rounds.toml", 'learner = "tiny"', "", "Name the one that learns: s, tiny"),
        ("rounds.toml", 'learner = "tiny"', 'learner = "s"', "takes no adapter"),
        ("rounds.toml", "patience", "patiance", "patiance: unknown key"),
        ("run.toml", "[responders.plain]", "[responders.learnt]", "has a 'learnt' already"),
        ("bench.toml", 'model = "tiny"\nsampling', 'how = "told"\nmodel = "tiny"\nsampling', "tests no model as it is"),
        ("bench.toml", "turns = 1", "turns = 0", "bench.toml is not a valid benchmark"),
    ],
)
def test_what_cannot_be_done_quotes_the_value_and_says_what_to_do(
    file: str, old: str, new: str, words: str, made_base: Path, espalier: Espalier, folder: Path
) -> None:
    rounds_folder(folder, made_base)
    text = (folder / file).read_text(encoding="utf-8")
    assert old in text
    (folder / file).write_text(text.replace(old, new, 1), encoding="utf-8")
    assert words in espalier("rounds", "rounds.toml", exit_code=3).output


def test_the_sample_is_valid_and_is_written_once_beside_what_is_there(espalier: Espalier, folder: Path) -> None:
    (folder / "run.toml").unlink()
    (folder / "training.toml").write_text("# mine\n", encoding="utf-8")
    espalier("rounds", "init", "mine.toml")
    assert (folder / "training.toml").read_text(encoding="utf-8") == "# mine\n"
    assert (folder / "bench.toml").read_text(encoding="utf-8") == samples()["bench.toml"]
    plan = load_rounds(folder / "mine.toml")
    assert (plan.learner, plan.baseline, plan.run.personas.count) == ("small", "base", 4)
    assert too_few(plan.bench.cases.count, 1) is None, "a round can be a gain"
    espalier("rounds", "init", "mine.toml", exit_code=3)


def test_what_may_change_keeps_the_rounds_and_what_is_frozen_does_not(made_base: Path, folder: Path) -> None:
    file = rounds_folder(folder, made_base)
    first = load_rounds(file).id
    for name, text in {
        "rounds.toml": "rounds = 5\npatience = 2\n",
        "run.toml": "[limits]\ncalls = 9\n",
    }.items():
        path = folder / name
        path.write_text(text + path.read_text() if name == "rounds.toml" else path.read_text() + text)
        path.write_text(path.read_text().replace("rounds = 2\npatience = 0\n", ""))
    assert load_rounds(file).id == first
    run = folder / "run.toml"
    run.write_text(run.read_text().replace("count = 3", "count = 4"))
    assert load_rounds(file).id != first


def test_by_a_judge_that_looks_ahead_there_is_a_step_more(
    made_base: Path, espalier: Espalier, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds_folder(folder, made_base, objectives='["dpo"]')
    training, run = folder / "training.toml", folder / "run.toml"
    training.write_text(training.read_text() + '[data]\njudge = "lookahead"\n', encoding="utf-8")
    assert "branching policy" in espalier("rounds", "rounds.toml", exit_code=1).stdout
    run.write_text(run.read_text() + '[branching]\npolicy = "all"\n', encoding="utf-8")
    monkeypatch.setattr(InProcess, "break_off", lambda round_, kind, when: kind == "dpo")
    with pytest.raises(Killed):
        CliRunner().invoke(main, ["rounds", "rounds.toml", "--json"], catch_exceptions=False)
    begun = as_json(espalier("rounds", "show", "--json"))["steps"]
    assert [step["kind"] for step in begun] == ["benchmark", "simulate", "judge", "lint", "dpo"]
    assert begun[2]["figures"]["compared"] == 3
    assert 0 < begun[3]["figures"]["pairs"] <= 3, "of the first turns: nothing grew under the second ones"


def done(round_: int, kind: Any, **figures: Any) -> StepRow:
    place = {"simulate": 0, "lint": 1, "sft": 2, "dpo": 3, "benchmark": 4 if round_ else 0}[kind]
    figures = {"adapter": f"adapter{round_}", **figures} if kind != "simulate" else figures
    return StepRow(
        round_, place, kind, (), "done", None, f"{kind}{round_}", figures, None, None, None, 1, 1.0, 0.0, 1.0
    )


def a_round(number: int, outcome: str) -> list[StepRow]:
    kinds = ("simulate", "lint", "sft", "dpo")
    return [*(done(number, kind) for kind in kinds), done(number, "benchmark", model=f"m{number}", outcome=outcome)]


def test_it_stops_when_rounds_are_no_longer_above_the_best(made_base: Path, folder: Path) -> None:
    file = rounds_folder(folder, made_base)
    file.write_text(file.read_text().replace("rounds = 2\npatience = 0", "rounds = 9\npatience = 2"))
    plan = load_rounds(file)
    rows = [done(0, "benchmark", model="base")]
    for number, outcome in enumerate(("gain", "same", "gain", "loss"), 1):
        rows += a_round(number, outcome)
    known = standing(plan, rows)
    assert (known.best, known.carried, known.without_gain) == ("m3", "adapter3", 1)
    following = next_step(plan, rows)
    assert not isinstance(following, Over)
    assert (following.round, following.kind) == (5, "simulate")
    assert "adapter3" in " ".join(following.words)
    over = next_step(plan, [*rows, *a_round(5, "same")])
    assert over == Over("2 rounds in a row were not above m3, after round 5")


def test_a_timeline_tells_a_crash_from_work(made_base: Path, folder: Path) -> None:
    plan = load_rounds(rounds_folder(folder, made_base))
    with Store.open(folder / "espalier.db") as store:
        from simulation.rounds import planned
        from trees.rounds import begin_step, set_rounds_state

        store.apply([*planned(plan, 1.0), *set_rounds_state(plan.id, "running")])
        store.apply(begin_step(plan.id, 0, 0, "benchmark", ("bench", "run")))
        (row,), begun = all_rounds(store), steps(store, plan.id)
    now = begun[0].began_at + 5
    for alive, standing_ in ((True, "running"), (False, "crashed")):
        lines = timeline(row, begun, alive=alive, now=now)
        assert (lines[0].standing, lines[0].took_s) == (standing_, 5)
        assert [(line.round, line.step) for line in lines] == STEPS
        assert {line.standing for line in lines[1:]} == {"to come"}
