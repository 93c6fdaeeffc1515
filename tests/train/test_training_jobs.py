"""Trainings as jobs: killed, paused, stopped and gone on with; named by what they are; refused when that changed."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the training extra is not installed")
pytest.importorskip("peft", reason="the training extra is not installed")

import torch
from safetensors.torch import load_file

from agents.models.model_folder import read_adapter
from tests.support.builders import judged, make_judge, make_run
from tests.support.judged_store import PEOPLE, judged_store
from tests.support.tiny_base import tiny_base
from train.adapters import (
    StoredAdapters,
    base_digest,
    export_adapter,
    lineage_of_base,
    read_lineage,
    stored_adapter,
)
from train.base_model import open_base
from train.config import LoraSettings, TrainingConfig, read_training_config
from train.data import Selection
from train.points import Alarm, Forecast, Point
from train.training import Job, training_folder
from train.training_plan import begin, plan_of, plan_training
from trees.errors import SetupError, StoreFull
from trees.jobs import ask, command, events, live_engine
from trees.store import Store
from trees.trainings import adapters, find_adapter, find_training, points, training
from trees.verify import verify
from trees.writes import keep_benchmark, keep_benchmark_run

ROOT = Path(__file__).parents[2]
STEPS = 8


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    """A store with a run to train on."""
    path = tmp_path / "espalier.db"
    judged_store(path)
    return path


def config(base: Path, objective: str = "dpo", **changes: Any) -> TrainingConfig:
    given: dict[str, Any] = {
        "objective": objective,
        "base": str(base),
        "lora": {"rank": 4},
        "tokens_per_row": 300,
        "schedule": {"steps": STEPS, "epochs": 99, "rows_per_step": 1, "learning_rate": 1e-2},
        "evaluation": {"share": 0.25, "every": 4},
        "machine": {"device": "cpu", "threads": 1, "save_every": 2},
    }
    return read_training_config(given | changes)


def begun(path: Path, wanted: TrainingConfig, selection: Selection | None = None) -> str:
    with Store.open(path) as store:
        return begin(store, plan_training(store, wanted, selection or Selection())).id


@dataclass
class Told:
    """A sink that does something at a step."""

    step: int = 0
    act: Callable[[], None] = lambda: None
    steps: list[int] = field(default_factory=list)

    def point(self, point: Point) -> None:
        if point.kind == "training":
            self.steps.append(point.step)
        if point.kind == "training" and point.step == self.step:
            self.act()

    def forecast(self, forecast: Forecast) -> None: ...

    def alarm(self, alarm: Alarm) -> None: ...

    def checkpoint(self, step: int, folder: Path) -> None: ...


def asked(path: Path, training_id: str, verb: str) -> Callable[[], None]:
    """Asks for something by a row and waits until it is answered."""

    def act() -> None:
        with Store.open(path) as store:
            number = ask(store, training_id, verb, {})
            until = time.monotonic() + 30
            while command(store, number).state not in ("done", "refused"):
                assert time.monotonic() < until, "nobody answers"
                time.sleep(0.01)

    return act


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.train.test_training_jobs import Told
from train.training import Job
import torch
torch.set_num_threads(1)
Job(Path({path!r}), {training!r}, Told({step}, lambda: os.kill(os.getpid(), signal.SIGKILL))).run()
"""


def test_killed_and_gone_on_with_makes_the_adapter_of_an_unbroken_training(
    base: Path, store_path: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "whole" / "espalier.db"
    whole.parent.mkdir()
    shutil.copyfile(store_path, whole)
    elsewhere = shutil.copytree(base, tmp_path / "elsewhere")
    identity = begun(whole, config(elsewhere))
    unbroken = Job(whole, identity).run()
    assert (unbroken.state, begun(store_path, config(base))) == ("finished", identity)

    code = KILLED.format(root=str(ROOT), path=str(store_path), training=identity, step=5)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, env=os.environ, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2_000:]
    with Store.read(store_path) as store:
        assert training(store, identity).state == "running"
        assert live_engine(store, identity) is None
        assert points(store, identity)[-1].step == 5

    told = Told()
    assert Job(store_path, identity, told).run() == unbroken
    assert told.steps == [5, 6, 7, 8]
    with Store.read(store_path) as store, Store.read(whole) as other:
        ours, theirs = (
            [replace(point, at=0.0, tokens_per_s=0.0) for point in points(each, identity)] for each in (store, other)
        )
        assert ours == theirs
        assert [p.step for p in ours if p.kind == "evaluation"] == [4, 8]
        report = verify(store)
        assert report.clean, report.findings
        assert stored_adapter(store, find_adapter(store, identity[:8])).digest == unbroken.adapter
    assert not training_folder(store_path, identity).exists()


def test_paused_by_a_row_it_leaves_with_a_checkpoint_and_goes_on(base: Path, store_path: Path) -> None:
    identity = begun(store_path, config(base))
    paused = Job(store_path, identity, Told(3, asked(store_path, identity, "pause"))).run()
    assert (paused.state, paused.adapter) == ("paused", None)
    with Store.read(store_path) as store:
        row = find_training(store, None)
        assert row.reason is not None
        assert row.reason.startswith("paused by pid")
        assert [e.kind for e in events(store, identity)][-3:] == ["command", "training.checkpoint", "engine.left"]
    told = Told()
    assert Job(store_path, identity, told).run().state == "finished"
    assert told.steps[0] == 5, "what is asked while a step is told is done at the end of the next"


def test_alarms_look_at_what_was_told_before_a_pause_and_are_not_raised_again(
    base: Path, store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ten_points(seen: Sequence[Point]) -> Alarm | None:
        trained = [point for point in seen if point.kind == "training"]
        return Alarm("length", trained[9].step, "ten points") if len(trained) >= 10 else None

    monkeypatch.setattr("train.alarms.CHECKS", (ten_points,))
    schedule = {"steps": 16, "epochs": 99, "rows_per_step": 1, "learning_rate": 1e-2}
    identity = begun(store_path, config(base, schedule=schedule))
    for step in (6, 12):
        assert Job(store_path, identity, Told(step, asked(store_path, identity, "pause"))).run().state == "paused"
    assert Job(store_path, identity).run().state == "finished"
    with Store.read(store_path) as store:
        raised = [event.data for event in events(store, identity) if event.kind == "training.alarm"]
    assert [alarm["step"] for alarm in raised] == [10]


def test_stopped_by_a_row_it_keeps_what_it_learnt_and_may_still_go_on(base: Path, store_path: Path) -> None:
    identity = begun(store_path, config(base))
    stopped = Job(store_path, identity, Told(3, asked(store_path, identity, "stop"))).run()
    assert stopped.state == "stopped"
    finished = Job(store_path, identity).run()
    assert finished.state == "finished"
    with Store.read(store_path) as store:
        assert {row.id for row in adapters(store, identity)} == {stopped.adapter, finished.adapter}
        assert find_adapter(store, identity).id == finished.adapter
        assert verify(store).clean


def test_a_training_is_what_is_trained_on_what_and_how(base: Path, store_path: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(base, tmp_path / "moved")
    machine = {"device": "cpu", "threads": 1, "save_every": 5}
    first = begun(store_path, config(base))
    assert begun(store_path, config(moved, machine=machine)) == first
    assert begun(store_path, config(base, seed=2)) != first
    assert begun(store_path, config(base, objective="sft")) != first
    assert begun(store_path, config(base), Selection(turns=(1, 1))) != first
    assert begun(store_path, config(tiny_base(tmp_path / "other", seed=1))) != first


def test_runs_that_come_later_change_nothing_and_people_who_leave_end_it(base: Path, store_path: Path) -> None:
    identity = begun(store_path, config(base))
    judged_store(store_path, (("Eve", "bold"),), seed=2)
    with Store.open(store_path) as store:
        assert plan_of(store, training(store, identity)).id == identity
        store.connection.execute("UPDATE profiles SET split = 'held_out' WHERE text LIKE 'Ada%'")
    with pytest.raises(SetupError, match="its data changed since it began"):
        Job(store_path, identity).run()
    with Store.read(store_path) as store:
        assert training(store, identity).state == "failed"
        assert live_engine(store, identity) is None


def test_what_is_trained_on_an_adapter_goes_on_from_it_and_keeps_its_lineage(base: Path, store_path: Path) -> None:
    first = Job(store_path, begun(store_path, config(base, "sft"))).run()
    assert first.adapter is not None
    start = StoredAdapters(store_path).find(first.adapter)
    second = Job(store_path, begun(store_path, config(base, start=str(start.path)))).run()
    assert second.adapter is not None
    made = StoredAdapters(store_path).find(second.adapter[:10])
    lineage = read_lineage(made, str(base))
    assert [step.kind for step in lineage.trainings] == ["sft", "dpo"]
    assert len(lineage.people) == len(PEOPLE)
    assert lineage.known
    with Store.read(store_path) as store:
        assert find_adapter(store, second.adapter).start_adapter == first.adapter
        seen = points(store, find_adapter(store, second.adapter).training_id)
        assert seen[0].loss == pytest.approx(0.6931, abs=1e-3), "the reference is the SFT adapter"
        assert verify(store).clean


def test_an_adapter_is_trained_on_as_it_was_made_and_nothing_else_is_said_of_it(base: Path, store_path: Path) -> None:
    lora = {"rank": 2, "alpha": 8, "targets": ["q_proj", "up_proj"]}
    made = Job(store_path, begun(store_path, config(base, "sft", lora=lora))).run()
    assert made.adapter is not None
    start = str(StoredAdapters(store_path).find(made.adapter).path)
    given = config(base, start=start).model_dump(exclude={"lora"})
    with Store.open(store_path) as store:
        left_open = plan_training(store, read_training_config(given), Selection())
        again = plan_training(store, read_training_config({**given, "lora": lora}), Selection())
        assert left_open.id == again.id
        found = left_open.configuration["lora"]
        assert found == {"rank": 2, "alpha": 8.0, "dropout": 0.0, "targets": ["q_proj", "up_proj"]}
        identity = begin(store, left_open).id
        assert plan_of(store, training(store, identity)).id == identity
        for field, value in (("rank", 64), ("alpha", 4.0), ("dropout", 0.5), ("targets", ["q_proj"])):
            other = read_training_config({**given, "lora": {field: value}})
            with pytest.raises(SetupError, match=rf"lora\.{field} is .*, and the adapter {made.adapter} was made with"):
                plan_training(store, other, Selection())
    assert Job(store_path, identity).run().state == "finished"


def test_a_training_on_an_adapter_that_was_stored_with_other_settings_goes_on(
    base: Path, store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they were stored while a configuration kept its own settings: those asked for, or the defaults."""
    made = Job(store_path, begun(store_path, config(base, "sft"))).run()
    assert made.adapter is not None
    start = str(StoredAdapters(store_path).find(made.adapter).path)
    asked_for = {"rank": 64, "dropout": 0.5, "targets": "all-linear"}
    with monkeypatch.context() as earlier:
        earlier.setattr("train.training_plan._lora_from", lambda start, config: config.lora)
        identity = begun(store_path, config(base, start=start, lora=asked_for))
    with Store.open(store_path) as store:
        again = plan_of(store, training(store, identity))
    assert (again.id, again.config.lora) == (identity, LoraSettings.model_validate(asked_for))
    assert Job(store_path, identity).run().state == "finished"
    with Store.read(store_path) as store:
        assert verify(store).clean


def test_an_adapter_that_was_merged_into_its_base_goes_on_with_its_lineage(
    base: Path, store_path: Path, tmp_path: Path
) -> None:
    first = Job(store_path, begun(store_path, config(base, "sft"))).run()
    assert first.adapter is not None
    made = StoredAdapters(store_path).find(first.adapter)
    seen = read_lineage(made, str(base))
    merged = export_adapter(made, "merged", str(base), tmp_path / "merged")
    second = Job(store_path, begun(store_path, config(merged))).run()
    assert second.adapter is not None
    adapter = StoredAdapters(store_path).find(second.adapter)
    lineage = read_lineage(adapter, str(merged))
    assert [step.kind for step in lineage.trainings] == ["sft", "dpo"]
    assert (lineage.origin, lineage.base) == (seen.base, base_digest(str(merged)))
    assert set(seen.people) <= set(lineage.people)
    outside = shutil.copytree(made.path, tmp_path / "outside")
    (outside / "lineage.json").unlink()
    nobody_knows = export_adapter(read_adapter(str(outside)), "merged", str(base), tmp_path / "unknown")
    assert not lineage_of_base(str(nobody_knows)).known
    with Store.read(store_path) as store:
        assert verify(store).clean


def test_weights_that_are_trained_in_bfloat16_take_steps_that_it_cannot_tell_apart(
    base: Path, store_path: Path
) -> None:
    schedule = {"steps": 4, "epochs": 99, "rows_per_step": 1, "learning_rate": 1e-6, "warmup": 0}
    wanted = config(base, lora=None, dtype="bfloat16", schedule=schedule)
    opened, before = open_base(wanted), load_file(base / "model.safetensors")
    assert {each.dtype for each in opened.model.parameters()} == {torch.float32}
    identity = begun(store_path, wanted)
    assert Job(store_path, identity).run().state == "finished"
    with Store.read(store_path) as store:
        result = training(store, identity).result
        assert points(store, identity)[0].loss == pytest.approx(0.6931, abs=1e-4), "the reference is read likewise"
    assert result is not None
    after = load_file(store_path.parent / result / "model.safetensors")
    moved = sum(int((after[name] != weights).sum()) for name, weights in before.items() if "layers" in name)
    total = sum(weights.numel() for name, weights in before.items() if "layers" in name)
    assert moved > 0.9 * total


def test_runs_that_measure_a_model_are_not_trained_on_unless_they_are_named(base: Path, store_path: Path) -> None:
    with Store.open(store_path) as store:
        wanted = begin(store, plan_training(store, config(base), Selection())).id
        measuring = make_run(store, (("Eve", "bold"),), seed=5)
        grader = make_judge(store, "grader", threshold=0.5)
        user = measuring.user(measuring.trees[0], "Eve asks")
        good, bad = measuring.replies(user, "Yes, Eve.", "No.")
        measuring.turn(user, [good, bad], [judged(user, grader, [(good, bad, "win")])], continued=good)
        store.apply(keep_benchmark("benchmark", "measured", "grader", 1, 0.0))
        store.apply(keep_benchmark_run("benchmark", measuring.id, "a model", "", "known"))
        plan = plan_training(store, config(base), Selection())
        assert plan.id == wanted
        assert measuring.id not in plan.lineage.trainings[-1].runs


@pytest.mark.parametrize(
    ("people", "selection", "said"),
    [
        (PEOPLE, Selection(min_margin=5.0), r"no pairs to train on: 8 below_margin"),
        (PEOPLE[:1], Selection(), r"all 2 pairs are of one person"),
    ],
)
def test_data_that_teach_nothing_are_refused_with_the_reason(
    people: Any, selection: Selection, said: str, base: Path, tmp_path: Path
) -> None:
    judged_store(tmp_path / "few.db", people)
    with pytest.raises(SetupError, match=said):
        begun(tmp_path / "few.db", config(base), selection)


def test_pairs_weighed_by_margin_are_a_training_of_their_own(base: Path, tmp_path: Path) -> None:
    path, weighed = tmp_path / "margins.db", Selection(weights="margin")
    judged_store(path, margins=(0.5, 1.0, 3.0))
    plain, heavy = begun(path, config(base)), begun(path, config(base), weighed)
    assert heavy != plain
    with Store.open(path) as store:
        assert plan_of(store, training(store, heavy)).data.weighted
        with pytest.raises(SetupError, match="nothing that TRL's trainers know"):
            plan_training(store, config(base), weighed, flat=True)
    losses = []
    for identity in (plain, heavy):
        assert Job(path, identity).run().state == "finished"
        with Store.read(path) as store:
            losses.append([point.loss for point in points(store, identity)])
    assert losses[0][-1] != losses[1][-1]


def test_an_adapter_of_another_base_is_refused_with_both_digests(base: Path, store_path: Path, tmp_path: Path) -> None:
    made = Job(store_path, begun(store_path, config(base, "sft"))).run()
    assert made.adapter is not None
    start = StoredAdapters(store_path).find(made.adapter)
    other = tiny_base(tmp_path / "other", seed=1)
    with pytest.raises(SetupError, match=rf"base {start.base}, and '{other}' is [0-9a-f]{{32}}"):
        begun(store_path, config(other, start=str(start.path)))


@pytest.mark.parametrize(
    ("error", "expected", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), StoreFull, "the last whole checkpoint is kept"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ..."), SetupError, "Lower tokens_per_row"),
    ],
)
def test_disk_and_memory_that_run_out_are_told_and_the_training_can_go_on(
    error: Exception, expected: Any, said: str, base: Path, store_path: Path
) -> None:
    def fails() -> None:
        raise error

    identity = begun(store_path, config(base))
    with pytest.raises(expected, match=said):
        Job(store_path, identity, Told(3, fails)).run()
    with Store.open(store_path) as store:
        assert training(store, identity).state == "failed"
    assert Job(store_path, identity).run().state == "finished"


def test_memory_that_runs_out_is_told_with_the_estimate_and_what_to_lower(
    base: Path, store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    identity = begun(store_path, config(base))
    with pytest.raises(SetupError) as caught:
        Job(store_path, identity, Told(3, full)).run()
    words = r"A step was estimated at about \d+ MB: weights .* MB, .* activations of 295 tokens .* MB, logits"
    assert re.search(words, caught.value.message)
    assert caught.value.hint is not None
    assert "Lower tokens_per_row (now 300) or lora.rank (now 4)" in caught.value.hint
    assert "gradient_checkpointing" in caught.value.hint
    with Store.read(store_path) as store:
        assert re.search(words, training(store, identity).reason or ""), "it is kept, too"

    monkeypatch.setattr("train.base_model.AutoModelForCausalLM.from_pretrained", full)
    with pytest.raises(SetupError, match=words):
        Job(store_path, identity).run()


def test_what_a_training_takes_is_an_event_before_its_first_step(base: Path, store_path: Path) -> None:
    identity = begun(store_path, config(base))
    Job(store_path, identity).run()
    with Store.read(store_path) as store:
        kinds = [event.kind for event in events(store, identity)]
        told = next(event.data for event in events(store, identity) if event.kind == "training.forecast")
    assert kinds.index("engine.started") < kinds.index("training.forecast") < kinds.index("training.checkpoint")
    assert told["steps"] == STEPS
    assert told["seconds"] > 0
    assert told["memory"]["total"] > told["memory"]["weights"] > 0


def test_what_surely_does_not_fit_is_refused_before_a_step(
    base: Path, store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.training.free_bytes", lambda _: 1_000_000)
    with pytest.raises(SetupError, match=r"takes about 0\.\d GB beside the weights, and 0\.0 GB are free"):
        Job(store_path, begun(store_path, config(base))).run()


def test_files_that_were_changed_are_not_played(base: Path, store_path: Path) -> None:
    made = Job(store_path, begun(store_path, config(base, "sft"))).run()
    assert made.adapter is not None
    with Store.read(store_path) as store:
        row = find_adapter(store, made.adapter)
        (store_path.parent / row.path / "adapter_config.json").write_text('{"r": 4}')
        with pytest.raises(SetupError, match="its files were changed"):
            stored_adapter(store, row)


def test_rows_that_are_not_what_they_say_are_found(base: Path, store_path: Path) -> None:
    made = Job(store_path, begun(store_path, config(base, "sft"))).run()
    damage = {
        "training id": "UPDATE trainings SET data_digest = 'other'",
        "lineage": "UPDATE adapters SET lineage = json_set(lineage, '$.base', 'other')",
        "adapter": "UPDATE adapters SET base = 'other'",
        "point": "UPDATE training_points SET accuracy = 2",
    }
    for kind, sql in damage.items():
        with Store.open(store_path) as store:
            store.connection.execute("BEGIN")
            store.connection.execute(sql)
            store.connection.commit()
            assert kind in {finding.kind for finding in verify(store).findings}, made
