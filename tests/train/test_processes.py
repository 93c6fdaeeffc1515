"""Several processes that train together: real ones over gloo, against one process that reads the same rows a step."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the training extra is not installed")
pytest.importorskip("peft", reason="the training extra is not installed")

import torch
from safetensors.torch import load_file

from tests.support.judged_store import judged_store
from tests.support.tiny_base import tiny_base
from tests.tui.test_train import TOML
from train.processes import share_of_step
from train.trainer import DealtRows
from trees.errors import SetupError
from trees.jobs import events, live_engine
from trees.store import Store
from trees.trainings import points, trainings

ROOT = Path(__file__).parents[2]
CPU = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "1", "HF_HUB_OFFLINE": "1"}

FITS = """
import json, sys
from dataclasses import asdict, replace
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.support.token_trees import random_tree
from tests.train.test_trainer import Seen, after, fit, opened, settings
from train.packing import pack
trees = [replace(random_tree(seed, segments=8), persona=f"persona-{seed}") for seed in range(22)]
facts = []
for given in json.loads(sys.argv[1]):
    seen, config = Seen(), settings(**given["settings"])
    ask = after(given["pause"], "pause") if given.get("pause") else lambda: "go"
    base, out = opened(config.lora), Path(given["out"])
    done = fit(base, trees[2:], config, out, seen, ask, Path(given["references"]), measured=trees[:2])
    facts.append({"ended": done.ended, "steps": done.steps, "rows": done.rows, "checkpoints": seen.checkpoints,
                  "points": [asdict(point) for point in seen.points], "forecasts": len(seen.forecasts)})
print(json.dumps(facts))
"""


def started(code: list[str], count: int, **more: str) -> list[subprocess.Popen[str]]:
    """So many processes that find each other on loopback, as a launcher starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    found = []
    for place in range(count):
        told = {"RANK": str(place), "LOCAL_RANK": str(place), "WORLD_SIZE": str(count), "MASTER_PORT": port}
        told |= {"MASTER_ADDR": "127.0.0.1", "LOCAL_WORLD_SIZE": str(count)}
        environment = {**os.environ, **CPU, **(told if count > 1 else {}), **more}
        pipe = subprocess.PIPE
        found.append(
            subprocess.Popen([sys.executable, *code], cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)
        )
    return found


def ended(processes: list[subprocess.Popen[str]], timeout: float = 240) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of each; none of them outlives the test."""
    try:
        said = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *each) for process, each in zip(processes, said, strict=True)]


def fits(count: int, wanted: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the leader saw of each training; the others see nothing, and end alike."""
    found = ended(started(["-c", FITS, json.dumps(wanted)], count))
    for code, _, said in found:
        assert code == 0, said[-3_000:]
    leader, *others = (json.loads(output.splitlines()[-1]) for _, output, _ in found)
    for other in others:
        assert [(each["points"], each["checkpoints"], each["forecasts"]) for each in other] == [([], [], 0)] * len(
            other
        )
        assert [(each["ended"], each["steps"]) for each in other] == [(e["ended"], e["steps"]) for e in leader]
    return list(leader)


def wanted(folder: Path, objective: str, name: str, **more: Any) -> dict[str, Any]:
    """A training of seven rows, four a step: the second step of each pass has an odd number of them."""
    schedule = {"epochs": 3, "learning_rate": 1e-2, "rows_per_step": 4}
    given = {"objective": objective, "tokens_per_row": LIMITS[objective], "schedule": schedule}
    given |= {"evaluation": {"share": 0.2, "every": 2}, "machine": {"device": "cpu", "save_every": 3}}
    return {"settings": given, "out": str(folder / name), "references": str(folder / "references"), **more}


LIMITS = {"sft": 100, "dpo": 130}
OBJECTIVES = ("sft", "dpo")


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    """Folder and facts of the same trainings by one process and by two, and of one that was paused and gone on with."""
    folder = tmp_path_factory.mktemp("fits")
    one = fits(1, [wanted(folder / "1", each, each) for each in OBJECTIVES])
    again = [wanted(folder / "2", "dpo", "broken", pause=4), wanted(folder / "2", "dpo", "broken")]
    two = fits(2, [*(wanted(folder / "2", each, each) for each in OBJECTIVES), *again])
    names = ("1/sft", "1/dpo", "2/sft", "2/dpo", "2/paused", "2/broken")
    return folder, dict(zip(names, [*one, *two], strict=True))


def trained(out: Path) -> torch.Tensor:
    weights = load_file(next((out / "trained").glob("*.safetensors")))
    return torch.cat([weights[name].flatten() for name in sorted(weights)])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_two_processes_learn_what_one_does_from_the_same_rows_a_step(
    objective: str, fitted: tuple[Path, dict[str, dict[str, Any]]]
) -> None:
    folder, facts = fitted
    one, two = facts[f"1/{objective}"], facts[f"2/{objective}"]
    assert one["rows"] == two["rows"] == 7
    assert (one["ended"], two["ended"], one["steps"], two["steps"]) == ("done", "done", 6, 6)
    assert one["checkpoints"] == two["checkpoints"] == [3, 6]
    for ours, theirs in zip(two["points"], one["points"], strict=True):
        assert (ours["kind"], ours["step"], ours["tokens"]) == (theirs["kind"], theirs["step"], theirs["tokens"])
        for figure in ("loss", "grad_norm", "learning_rate") if ours["kind"] == "training" else ("loss",):
            assert ours[figure] == pytest.approx(theirs[figure], rel=1e-4)
        if objective == "dpo":
            assert ours["preferences"]["margin"] == pytest.approx(theirs["preferences"]["margin"], rel=1e-3, abs=1e-5)
            assert ours["preferences"]["longer"] == theirs["preferences"]["longer"]
    ours, theirs = (trained(folder / count / objective) for count in "21")
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-4


def test_all_processes_stop_after_the_step_that_the_leader_is_asked_to_and_go_on_from_there(
    fitted: tuple[Path, dict[str, dict[str, Any]]],
) -> None:
    folder, facts = fitted
    paused, broken = facts["2/paused"], facts["2/broken"]
    assert (paused["ended"], paused["steps"], paused["checkpoints"]) == ("paused", 4, [3, 4])
    assert (broken["ended"], broken["points"][0]["step"]) == ("done", 5)
    assert torch.equal(trained(folder / "2" / "broken"), trained(folder / "2" / "dpo"))


def test_rows_are_dealt_so_that_each_is_read_once_a_pass_and_steps_are_those_of_one_process() -> None:
    for rows in (1, 6, 7):
        dealt = [DealtRows(rows, 5, 3, place) for place in range(3)]
        (whole,) = (list(DealtRows(rows, 5, 1, 0)),)
        deals = list(zip(*dealt, strict=True))
        read = [index for deal in deals for (index,) in deal]
        assert [[index] for index in read if index >= 0] == whole
        assert len(deals) == len(dealt[0]) == -(-rows // 3)
        assert all(-1 - index == whole[0][0] for index in read if index < 0)


def test_a_step_that_cannot_be_dealt_evenly_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert share_of_step(3) == 3
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert share_of_step(4) == 2
    with pytest.raises(SetupError, match="rows_per_step = 3 cannot be dealt evenly to 2 processes"):
        share_of_step(3)


def made_ready(folder: Path) -> Path:
    tiny_base(folder / "base")
    (folder / "training.toml").write_text(TOML.replace("rows_per_step = 1", "rows_per_step = 2"), encoding="utf-8")
    judged_store(folder / "espalier.db")
    return folder / "espalier.db"


def test_the_command_line_under_accelerate_has_one_engine_and_one_voice(tmp_path: Path) -> None:
    store_path = made_ready(tmp_path)
    launch = ["-m", "accelerate.commands.accelerate_cli", "launch", "--cpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    words = ["-m", "tui.main", "train", "all", str(tmp_path / "training.toml"), "--seed", "1", "--json"]
    words += ["--model", str(tmp_path / "base"), "--store", str(store_path)]
    ((code, output, said),) = ended(started([*launch, *words], 1))
    assert code == 0, said[-3_000:]
    first, second = json.loads(output)
    assert (first["state"], second["state"], second["start"]) == ("finished", "finished", first["adapter"])
    with Store.read(store_path) as store:
        for row in trainings(store):
            kinds = [event.kind for event in events(store, row.id)]
            assert kinds.count("engine.started") == kinds.count("engine.left") == kinds.count("training.forecast") == 1
            assert [point.step for point in points(store, row.id) if point.kind == "training"] == [1, 2, 3, 4]
            assert live_engine(store, row.id) is None


def test_what_the_leader_cannot_begin_ends_all_of_them(tmp_path: Path) -> None:
    store_path = made_ready(tmp_path)
    words = ["-m", "tui.main", "train", "dpo", str(tmp_path / "training.toml"), "--min-margin", "9"]
    words += ["--model", str(tmp_path / "base"), "--store", str(store_path)]
    leader, other = ended(started(words, 2))
    assert leader[0] == 3
    assert "no pairs to train on" in leader[2]
    assert (other[0], other[1]) == (0, "")
    assert "no pairs" not in other[2], "one of them tells"
