"""A training by TRL's own trainers on flattened rows: what packed trees are compared with. Imports torch and TRL.

The same data, adapter, schedule and wishes as `train.trainer.fit`, and the same values back; what differs is that
nothing is shared, that a step takes `rows_per_step` pairs or targets instead of packed rows, that the loss on who is
held back is the mean over batches of as many, the last perhaps smaller, and that no patience ends it.

Invariant: the losses are those of `train.losses` on the same rows, as TRL computes them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from train.alarms import Watch
from train.base_model import OpenedBase
from train.config import TrainingConfig
from train.flat import dpo_trainer, sft_trainer
from train.points import Point, Preferences, Sink, Wish
from train.token_tree import TokenTree
from train.trainer import MARKER, Ended, Outcome, is_finite, last_checkpoint


def fit_flat(
    opened: OpenedBase,
    trees: Sequence[TokenTree],
    config: TrainingConfig,
    out: Path,
    sink: Sink,
    ask: Callable[[], Wish] = lambda: "go",
    measured: Sequence[TokenTree] = (),
    watch: Watch | None = None,
) -> Outcome:
    """Train with TRL, or go on with it; see `train.trainer.fit`. Raises SetupError for weighted pairs."""
    settings = _settings(config, measures=bool(measured))
    make = sft_trainer
    if config.objective == "dpo":
        make = dpo_trainer
        settings |= _loss(config)
    trainer = make(opened.model, opened.tokenizer, trees, out, measured, **settings)
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    watching = _Watching(sink, ask, out, watch or Watch())
    trainer.add_callback(watching)
    last = last_checkpoint(out)
    trainer.train(resume_from_checkpoint=str(last) if last is not None else None)
    ended = _ENDED[watching.wish] if watching.watch.fatal is None and is_finite(opened.model) else "failed"
    folder = None if ended in ("paused", "failed") else out / "trained"
    if folder is not None:
        opened.model.save_pretrained(folder)
        opened.tokenizer.save_pretrained(folder)
    return Outcome(
        ended=ended,
        steps=trainer.state.global_step,
        folder=folder,
        separate_because="it was asked for",
        rows=len(trainer.train_dataset),
        tokens=sum(tree.flattened_count for tree in trees),
        held_back=tuple(sorted({tree.persona for tree in measured})),
    )


_ENDED: Mapping[Wish, Ended] = {"go": "done", "pause": "paused", "stop": "stopped"}


class _Watching(TrainerCallback):  # type: ignore[misc]
    """Tells the sink of what TRL logs, raises alarms, and obeys."""

    def __init__(self, sink: Sink, ask: Callable[[], Wish], out: Path, watch: Watch) -> None:
        self.wish: Wish = "go"
        self.watch = watch
        self._sink, self._ask, self._out = sink, ask, out
        self._since, self._tokens = time.perf_counter(), 0.0

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **_: Any) -> Any:
        if not logs or not {"loss", "eval_loss"} & logs.keys():
            return control
        point = self._measured(state, logs) if "eval_loss" in logs else self._trained(state, logs)
        self._sink.point(point)
        for alarm in self.watch.see(point):
            self._sink.alarm(alarm)
            if alarm.fatal:
                control.should_training_stop, control.should_save = True, False
        return control

    def _trained(self, state: Any, logs: Mapping[str, float]) -> Point:
        now, tokens = time.perf_counter(), float(logs.get("num_tokens", 0.0))
        new, seconds = int(tokens - self._tokens), max(now - self._since, 1e-9)
        self._since, self._tokens = now, tokens
        return Point(
            step=state.global_step,
            epoch=float(state.epoch or 0.0),
            kind="training",
            loss=logs["loss"],
            learning_rate=logs.get("learning_rate"),
            grad_norm=logs.get("grad_norm"),
            tokens=new,
            tokens_per_s=new / seconds,
            preferences=_preferences(logs),
        )

    def _measured(self, state: Any, logs: Mapping[str, float]) -> Point:
        """The loss on who is held back; TRL counts no tokens of it."""
        seen = {key.removeprefix("eval_"): value for key, value in logs.items()}
        self._since = time.perf_counter()
        epoch = float(state.epoch or 0.0)
        return Point(state.global_step, epoch, "evaluation", seen["loss"], preferences=_preferences(seen))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        wish = self._ask()
        if wish != "go" and state.global_step < state.max_steps:
            self.wish = wish
            control.should_save = control.should_training_stop = True
        return control

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        folder = self._out / f"checkpoint-{state.global_step}"
        (folder / MARKER).touch()
        self._sink.checkpoint(state.global_step, folder)


def _preferences(logs: Mapping[str, float]) -> Preferences | None:
    """What TRL says of the pairs; it does not tell which side is the longer one."""
    if "rewards/margins" not in logs:
        return None
    return Preferences(
        margin=logs["rewards/margins"],
        accuracy=logs["rewards/accuracies"],
        chosen_reward=logs["rewards/chosen"],
        rejected_reward=logs["rewards/rejected"],
        longer=0,
        longer_right=0,
        shorter=0,
        shorter_right=0,
    )


def _settings(config: TrainingConfig, *, measures: bool) -> dict[str, Any]:
    schedule, machine, evaluation = config.schedule, config.machine, config.evaluation
    return {
        "seed": config.seed,
        "data_seed": config.seed,
        "per_device_train_batch_size": schedule.rows_per_step,
        "per_device_eval_batch_size": schedule.rows_per_step,
        "num_train_epochs": schedule.epochs,
        "max_steps": schedule.steps or -1,
        "learning_rate": schedule.learning_rate,
        "lr_scheduler_type": schedule.shape,
        "warmup_steps": schedule.warmup,
        "weight_decay": schedule.weight_decay,
        "max_grad_norm": schedule.max_grad_norm,
        "bf16": config.mixed,
        "gradient_checkpointing": machine.gradient_checkpointing,
        "logging_steps": machine.point_every,
        # Else a loss that is no number is told as the mean of those before it.
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_steps": machine.save_every,
        "save_total_limit": machine.keep,
        "eval_strategy": "steps" if measures else "no",
        "eval_steps": evaluation.every,
        "use_cpu": machine.device == "cpu",
        "dataloader_pin_memory": False,
    }


def _loss(config: TrainingConfig) -> dict[str, Any]:
    loss = config.loss
    kinds = {"loss_type": loss.kind}
    if loss.sft_weight:
        kinds = {"loss_type": [loss.kind, "sft"], "loss_weights": [1.0, loss.sft_weight]}  # type: ignore[dict-item]
    return {"beta": loss.beta, "label_smoothing": loss.label_smoothing, **kinds}
