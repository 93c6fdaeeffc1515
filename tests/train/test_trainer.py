"""Trainings: equal to TRL's, the same after a kill, paused, stopped, measured, refused under another identity."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the training extra is not installed")
pytest.importorskip("trl", reason="the training extra is not installed")
pytest.importorskip("peft", reason="the training extra is not installed")

import torch
from peft import get_peft_model

from tests.support.token_trees import VOCABULARY, random_tree, tiny_model
from train.base_model import OpenedBase, adapter_config
from train.config import LoraSettings, TrainingConfig, read_training_config
from train.flat import dpo_trainer, sft_trainer
from train.flat_training import fit_flat
from train.packing import pack
from train.points import Alarm, Forecast, Point, Wish
from train.trainer import fit, last_checkpoint
from trees.errors import SetupError

TREES = [replace(random_tree(seed, segments=8), persona=f"persona-{seed % 4}") for seed in range(8)]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass
class Seen:
    """A sink that remembers."""

    points: list[Point] = field(default_factory=list)
    forecasts: list[Forecast] = field(default_factory=list)
    alarms: list[Alarm] = field(default_factory=list)
    checkpoints: list[int] = field(default_factory=list)

    def point(self, point: Point) -> None:
        self.points.append(point)

    def forecast(self, forecast: Forecast) -> None:
        self.forecasts.append(forecast)

    def alarm(self, alarm: Alarm) -> None:
        self.alarms.append(alarm)

    def checkpoint(self, step: int, folder: Path) -> None:
        assert folder == last_checkpoint(folder.parent)
        self.checkpoints.append(step)


def tokenizer() -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = {str(token): token for token in range(VOCABULARY)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="0")), pad_token="0", eos_token="1"
    )


def opened(lora: LoraSettings | None = None, family: str = "llama", **changes: Any) -> OpenedBase:
    model = tiny_model(family, **changes)
    torch.manual_seed(0)
    return OpenedBase(get_peft_model(model, adapter_config(lora)) if lora else model, tokenizer(), "tiny", None)


def settings(**changes: Any) -> TrainingConfig:
    given: dict[str, Any] = {
        "objective": "dpo",
        "tokens_per_row": 120,
        "lora": {"rank": 4},
        "schedule": {"epochs": 3, "learning_rate": 1e-2, "rows_per_step": 2},
        "evaluation": {"share": 0},
        "machine": {"device": "cpu", "save_every": 2},
    }
    return read_training_config(given | changes)


def weights(model: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for n, p in model.named_parameters() if p.requires_grad])


def after(count: int, wish: Wish) -> Callable[[], Wish]:
    """A person who wants something after so many steps."""
    asked = iter(["go"] * (count - 1) + [wish])
    return lambda: next(asked, "go")  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("objective", "tokens_per_row", "rows"), [("sft", 10_000, 1), ("sft", 60, 3), ("dpo", 10_000, 1), ("dpo", 90, 3)]
)
def test_twenty_steps_stay_with_trls_whatever_a_step_is_packed_in(
    objective: Any, tokens_per_row: int, rows: int, tmp_path: Path
) -> None:
    """Loss and gradient of a step are the mean over all of its pairs or tokens, not over its rows."""
    config = settings(
        objective=objective,
        tokens_per_row=tokens_per_row,
        schedule={"steps": 20, "epochs": 99, "learning_rate": 3e-3, "rows_per_step": rows, "warmup": 0},
    )
    trees, seen = TREES[:3], Seen()
    assert len(pack(trees, objective, tokens_per_row)) == rows
    fit(opened(config.lora), trees, config, tmp_path / "ours", seen)
    count = sum(len(tree.pairs if objective == "dpo" else tree.targets) for tree in trees)
    make = dpo_trainer if objective == "dpo" else sft_trainer
    theirs = make(
        opened(config.lora).model,
        tokenizer(),
        trees,
        tmp_path / "theirs",
        per_device_train_batch_size=count,
        max_steps=20,
        learning_rate=3e-3,
        lr_scheduler_type="cosine",
        seed=config.seed,
        use_cpu=True,
    )
    theirs.train()
    expected = [line for line in theirs.state.log_history if "loss" in line]
    assert len(seen.points) == len(expected) == 20
    assert [point.loss for point in seen.points] == pytest.approx([line["loss"] for line in expected], rel=1e-3)
    assert seen.points[0].grad_norm == pytest.approx(expected[0]["grad_norm"], rel=1e-3)
    learnt = 0.5 if objective == "dpo" else 0.9
    assert seen.points[-1].loss < learnt * seen.points[0].loss, "it learns"
    if objective == "dpo":
        margins = [line["rewards/margins"] for line in expected]
        found = [p.preferences.margin for p in seen.points if p.preferences]
        assert found == pytest.approx(margins, rel=2e-2, abs=1e-3)


@pytest.mark.parametrize("lora", [{"rank": 4}, None], ids=["adapter", "all weights"])
@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_paused_and_taken_up_again_gives_the_same_weights(objective: str, lora: Any, tmp_path: Path) -> None:
    schedule = {"steps": 8, "epochs": 99, "learning_rate": 1e-2, "rows_per_step": 2}
    config = settings(objective=objective, lora=lora, schedule=schedule)
    whole = opened(config.lora)
    unbroken = fit(whole, TREES, config, tmp_path / "whole", Seen())
    assert (unbroken.ended, unbroken.held_back) == ("done", ())
    out = tmp_path / "broken"
    first = fit(opened(config.lora), TREES, config, out, Seen(), ask=after(3, "pause"))
    assert (first.ended, first.steps, first.folder) == ("paused", 3, None)
    resumed, seen = opened(config.lora), Seen()
    second = fit(resumed, TREES, config, out, seen)
    assert (second.ended, second.steps) == ("done", unbroken.steps)
    assert seen.points[0].step == 4
    assert torch.equal(weights(resumed.model), weights(whole.model))


@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_what_a_training_takes_is_tried_first_and_changes_nothing(
    objective: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(objective=objective, lora={"rank": 4, "dropout": 0.3})
    tried, seen = opened(config.lora), Seen()
    outcome = fit(tried, TREES, config, tmp_path / "tried", seen)
    (told,) = seen.forecasts
    longest = max(len(row) for row in pack(TREES, config.objective, config.tokens_per_row))
    assert (told.tokens, told.memory.tokens, told.steps) == (longest, longest, outcome.steps)
    assert told.left_s > told.seconds > 0
    monkeypatch.setattr("train.trainer.forecast", lambda *_: told)
    untried = opened(config.lora)
    fit(untried, TREES, config, tmp_path / "untried", Seen())
    assert torch.equal(weights(tried.model), weights(untried.model))


def test_what_is_left_is_told_when_a_training_is_gone_on_with(tmp_path: Path) -> None:
    config, again = settings(schedule={"steps": 8, "epochs": 99, "rows_per_step": 2}), Seen()
    fit(opened(config.lora), TREES, config, tmp_path, Seen(), ask=after(3, "pause"))
    fit(opened(config.lora), TREES, config, tmp_path, again)
    assert again.forecasts[0].steps == 5


KILLED = """
import json, os, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.train.test_trainer import Seen, TREES, opened, settings, fit
import torch
torch.set_num_threads(1)
class Deadly(Seen):
    def point(self, point):
        if (point.kind, point.step) == ("training", {step}):
            os.kill(os.getpid(), signal.SIGKILL)
config = settings(**json.loads({changes!r}))
fit(opened(config.lora), TREES[{held}:], config, Path({out!r}), Deadly(), measured=TREES[:{held}])
"""


def killed(out: Path, step: int, held: int = 0, **changes: Any) -> None:
    """Train in a process that is killed at a step; the first so many trees are held back."""
    root = str(Path(__file__).parents[2])
    code = KILLED.format(root=root, step=step, out=str(out), held=held, changes=json.dumps(changes))
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, env=os.environ, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2_000:]


def test_killed_and_called_again_gives_the_same_weights(tmp_path: Path) -> None:
    whole, out = opened(settings().lora), tmp_path / "killed"
    fit(whole, TREES, settings(), tmp_path / "whole", Seen())
    killed(out, step=5)
    assert last_checkpoint(out) == out / "checkpoint-4"
    half = out / "checkpoint-6"
    half.mkdir()
    (half / "trainer_state.json").write_text("{", encoding="utf-8")
    resumed, seen = opened(settings().lora), Seen()
    fit(resumed, TREES, settings(), out, seen)
    assert seen.points[0].step == 5
    assert torch.equal(weights(resumed.model), weights(whole.model))


def test_killed_while_the_loss_does_not_fall_it_ends_where_an_unbroken_one_does(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "schedule": {"epochs": 40, "learning_rate": 5e-2, "rows_per_step": 2},
        "evaluation": {"share": 0.3, "every": 2, "patience": 3},
    }
    config = settings(**changes)
    whole, out = opened(config.lora), tmp_path / "killed"
    unbroken = fit(whole, TREES[2:], config, tmp_path / "whole", Seen(), measured=TREES[:2])
    killed(out, step=unbroken.steps - 1, held=2, **changes)
    resumed = opened(config.lora)
    outcome = fit(resumed, TREES[2:], config, out, Seen(), measured=TREES[:2])
    assert (outcome.ended, outcome.steps) == (unbroken.ended, unbroken.steps) == ("early", unbroken.steps)
    assert torch.equal(weights(resumed.model), weights(whole.model))


def test_stopped_keeps_what_there_is(tmp_path: Path) -> None:
    outcome = fit(opened(settings().lora), TREES, settings(), tmp_path, Seen(), ask=after(2, "stop"))
    assert (outcome.ended, outcome.steps) == ("stopped", 2)
    assert outcome.folder is not None
    assert (outcome.folder / "adapter_model.safetensors").exists()


def test_another_training_in_the_same_folder_is_refused_by_the_names_of_what_differs(tmp_path: Path) -> None:
    fit(opened(settings().lora), TREES, settings(), tmp_path, Seen(), ask=after(1, "stop"))
    with pytest.raises(SetupError, match="differs in data, seed"):
        fit(opened(settings().lora), TREES[:-1], settings(seed=2), tmp_path, Seen())
    machine = settings(machine={"device": "cpu", "save_every": 3})
    assert fit(opened(settings().lora), TREES, machine, tmp_path, Seen()).ended == "done"


def test_who_is_held_back_is_measured_and_not_trained_on(tmp_path: Path) -> None:
    config = settings(evaluation={"share": 0.3, "every": 2})
    seen = Seen()
    outcome = fit(opened(config.lora), TREES[2:], config, tmp_path, seen, measured=TREES[:2])
    assert outcome.held_back == ("persona-0", "persona-1")
    assert outcome.tokens == sum(len(row) for row in pack(TREES[2:], "dpo", config.tokens_per_row))
    assert [p.step for p in seen.points if p.kind == "evaluation"] == [2, 3]


def test_no_better_loss_for_long_enough_ends_it_with_the_best_weights(tmp_path: Path) -> None:
    config = settings(
        schedule={"epochs": 40, "learning_rate": 5e-2, "rows_per_step": 2},
        evaluation={"share": 0.3, "every": 2, "patience": 2},
    )
    base, seen = opened(config.lora), Seen()
    outcome = fit(base, TREES[2:], config, tmp_path, seen, measured=TREES[:2])
    assert outcome.ended == "early"
    measured = {p.step: p.loss for p in seen.points if p.kind == "evaluation"}
    best = min(measured, key=lambda step: measured[step])
    assert best < outcome.steps
    resumed = opened(config.lora)
    from train.trainer import _load_weights

    _load_weights(resumed.model, tmp_path / f"checkpoint-{best}")
    assert torch.equal(weights(resumed.model), weights(base.model))


def test_a_model_that_cannot_be_packed_is_trained_row_by_row_and_says_why(tmp_path: Path) -> None:
    config = settings(schedule={"steps": 4, "rows_per_step": 3})
    window = opened(config.lora, "mistral", sliding_window=8)
    seen = Seen()
    outcome = fit(window, TREES, config, tmp_path, seen)
    assert outcome.separate_because is not None
    assert "sliding_attention see 8 tokens" in outcome.separate_because
    assert outcome.rows == sum(len(tree.pairs) for tree in TREES)
    assert len(seen.points) == 4


@pytest.mark.parametrize("train", [fit, fit_flat])
def test_a_loss_that_is_no_number_fails_and_keeps_no_checkpoint_of_it(train: Any, tmp_path: Path) -> None:
    base, seen = opened(settings().lora), Seen()
    config = settings(schedule={"epochs": 3, "learning_rate": 1e38, "max_grad_norm": 1e12}, machine={"device": "cpu"})
    outcome = train(base, TREES, config, tmp_path, seen)
    assert (outcome.ended, outcome.folder) == ("failed", None)
    assert [alarm.kind for alarm in seen.alarms if alarm.fatal] == ["not_a_number"]
    assert not math.isfinite(seen.points[-1].loss) or not math.isfinite(seen.points[-1].grad_norm or 0)


@pytest.mark.parametrize("train", [fit, fit_flat])
def test_weights_that_are_no_numbers_fail_where_no_point_was_due(train: Any, tmp_path: Path) -> None:
    config = settings(
        schedule={"steps": 5, "epochs": 9, "learning_rate": 1e38, "max_grad_norm": 1e12, "warmup": 0},
        machine={"device": "cpu", "point_every": 1_000},
    )
    outcome = train(opened(config.lora), TREES, config, tmp_path, Seen())
    assert (outcome.ended, outcome.folder) == ("failed", None)


def test_speed_is_that_of_training_without_the_time_that_measuring_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 1.0
        return now

    class Slow(Seen):
        def point(self, point: Point) -> None:
            nonlocal now
            super().point(point)
            if point.kind == "evaluation":
                now += 1_000_000.0

    monkeypatch.setattr("train.trainer.time.perf_counter", clock)
    config = settings(evaluation={"share": 0.3, "every": 1})
    seen = Slow()
    fit(opened(config.lora), TREES[2:], config, tmp_path, seen, measured=TREES[:2])
    trained = [point for point in seen.points if point.kind == "training"]
    assert len(trained) == 3
    assert all(point.tokens / point.tokens_per_s < 100_000 for point in trained)


def test_reference_values_are_found_again(tmp_path: Path) -> None:
    config = settings(schedule={"steps": 1})
    first, second = Seen(), Seen()
    fit(opened(config.lora), TREES, config, tmp_path / "a", first, references=tmp_path / "references")
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "references").iterdir()}
    assert len(files) == len(TREES)
    fit(opened(config.lora), TREES, config, tmp_path / "b", second, references=tmp_path / "references")
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "references").iterdir()} == files
    assert first.points[0].loss == second.points[0].loss


def test_nothing_to_train_on_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="none of 1 trees"):
        fit(opened(settings().lora), [replace(TREES[0], pairs=())], settings(), tmp_path, Seen())


def test_identity_is_everything_but_the_machine() -> None:
    config = settings()
    assert config.digest() == settings(machine={"device": "auto", "threads": 7}).digest()
    assert config.digest() != settings(loss={"beta": 0.2}).digest()
    with pytest.raises(SetupError, match=r"schedule\.learning_rate"):
        read_training_config(json.loads('{"objective": "sft", "schedule": {"learning_rate": -1}}'))
    with pytest.raises(SetupError, match="quantised"):
        read_training_config({"objective": "sft", "quantised": "nf4", "lora": None})
