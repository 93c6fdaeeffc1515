"""A training: packed trees through transformers' Trainer, with points, alarms, checkpoints and wishes. Imports torch.

A row is a packed sequence, an optimiser step takes `rows_per_step` of them, and what is divided by are the counts of
the whole step. `fit` is the same call for beginning and for going on: it continues from the last whole checkpoint in
its folder. A checkpoint counts as whole once its marker is there, which is written last.

Invariant: on a CPU in float32, a training that was killed and called again ends with the weights of an unbroken one.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from math import ceil
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from train import processes
from train.alarms import Watch
from train.base_model import OpenedBase, device_of
from train.config import Evaluation, TrainingConfig
from train.losses import Counts, PairOutcome, counts_of, dpo_loss, sft_loss
from train.packing import PackedSequence
from train.points import Point, Preferences, Silent, Sink, Wish
from train.reference import reference_sums
from train.token_tree import TokenTree
from train.tree_model import TreeModel, longest_path
from train.trial import forecast
from trees.errors import SetupError
from trees.ids import digest_of

T = TypeVar("T")
_NOTHING: Any = object()
MARKER = "whole"
IDENTITY = "training.json"
Ended = Literal["done", "early", "paused", "stopped", "failed"]


@dataclass(frozen=True, eq=False)
class Item:
    """A row and what its replies are worth under the reference; None for SFT."""

    sequence: PackedSequence
    reference: torch.Tensor | None
    counted: bool = True
    """False for a row that only keeps a process busy while the others read the last ones of a pass."""


@dataclass(frozen=True)
class Outcome:
    """How a training ended."""

    ended: Ended
    steps: int
    folder: Path | None
    """Where the trained adapter or model is; None while it is not done."""
    separate_because: str | None
    """Why trees were not packed."""
    rows: int
    tokens: int
    """Of one pass over the data."""
    held_back: tuple[str, ...]
    """Personas whose trees were only measured on."""


def fit(
    opened: OpenedBase,
    trees: Sequence[TokenTree],
    config: TrainingConfig,
    out: Path,
    sink: Sink,
    ask: Callable[[], Wish] = lambda: "go",
    references: Path | None = None,
    measured: Sequence[TokenTree] = (),
    watch: Watch | None = None,
) -> Outcome:
    """Train on these trees, or go on with it; returns when it is done, paused, stopped or failed.

    `references` is a folder where the reference's log-probabilities are kept for other trainings. `measured` are
    trees of people who are held back, and are only measured on; `watch` has seen what was told before. Of several
    processes (`train.processes`) each calls this with the same values; `sink`, `ask` and `watch` are the leader's.
    Raises SetupError if there is nothing to train on, or if `out` holds another training.
    """
    everything = [*trees, *measured]
    identity = _identity(opened, everything, config)
    if processes.leads():
        _check_identity(out, identity)
    else:
        sink = Silent()
    _check_agreement(identity)
    lean = not config.machine.gradient_checkpointing
    model = TreeModel(opened.model, longest_path(everything), lean=lean, mixed=config.mixed)
    _save_memory(opened.model, config)
    rows, held = (model.sequences(each, config.objective, config.tokens_per_row) for each in (trees, measured))
    if not rows:
        raise SetupError(
            f"none of {len(trees)} trees holds anything to train on with objective {config.objective!r}",
            hint="sft needs targets, dpo needs pairs: judge the run, or lower the margin.",
        )
    last = processes.from_leader(last_checkpoint(out))
    sink.forecast(forecast(model, rows, held, config, 0 if last is None else step_of(last)))
    numbers = "bfloat16 over float32" if config.mixed else config.dtype
    weights = digest_of("weights", opened.base_digest, opened.start_digest, numbers, config.quantised)
    train_items, held_items = (_items(each, model, config, weights, references) for each in (rows, held))
    trainer = TreeTrainer(
        model, config, train_items, held_items, out, sink, ask, processes.from_leader(watch or Watch())
    )
    trainer.train(resume_from_checkpoint=str(last) if last is not None else None)
    ended = trainer.ended()
    folder = None if ended in ("paused", "failed") else out / "trained"
    if folder is not None and processes.leads():
        opened.model.save_pretrained(folder)
        opened.tokenizer.save_pretrained(folder)
    processes.gathered(None)
    return Outcome(
        ended=ended,
        steps=trainer.state.global_step,
        folder=folder,
        separate_because=model.separate_because,
        rows=len(rows),
        tokens=sum(len(row) for row in rows),
        held_back=tuple(sorted({tree.persona for tree in measured})),
    )


def is_finite(model: Any) -> bool:
    """Whether all weights that are trained are numbers: a loss between two points is told by nothing else."""
    return all(bool(torch.isfinite(each).all()) for each in model.parameters() if each.requires_grad)


def last_checkpoint(out: Path) -> Path | None:
    """The newest checkpoint that is whole."""
    found = [folder for folder in out.glob("checkpoint-*") if (folder / MARKER).exists()]
    return max(found, key=step_of, default=None)


def step_of(checkpoint: Path) -> int:
    """The optimiser step that a checkpoint was made after."""
    return int(checkpoint.name.rpartition("-")[2])


class TreeTrainer(Trainer):  # type: ignore[misc]
    """transformers' Trainer over packed rows: loss, counts, evaluation, checkpoints and points are its own."""

    loss_is_scaled_for_ga = True
    """From transformers 5.21 on; before, `model_accepts_loss_kwargs` says so."""

    def __init__(
        self,
        model: TreeModel,
        config: TrainingConfig,
        items: Sequence[Item],
        held: Sequence[Item],
        out: Path,
        sink: Sink,
        ask: Callable[[], Wish],
        watch: Watch,
    ) -> None:
        self.config, self.held, self.sink, self.watch = config, list(held), sink, watch
        self.wish: Wish = "go"
        self.control: Any = None
        self._tally = _Tally()
        super().__init__(
            model=model,
            args=_arguments(config, out, measures=bool(held)),
            train_dataset=_Rows(items),
            eval_dataset=[{"item": item} for item in held] or None,
            data_collator=_only,
        )
        self.model_accepts_loss_kwargs = True
        if self.args.n_gpu > 1:
            raise SetupError(
                f"{self.args.n_gpu} GPUs are visible to one process",
                hint="Start with `accelerate launch`, or show one with CUDA_VISIBLE_DEVICES=0.",
            )
        self.remove_callback(PrinterCallback)
        self.add_callback(_Wishes(self, ask))
        if held and config.evaluation.patience:
            self.add_callback(_Patience(config.evaluation))

    def ended(self) -> Ended:
        """How `train` ended."""
        if self.watch.fatal is not None or not is_finite(self.model):
            return "failed"
        if self.wish != "go":
            return "paused" if self.wish == "pause" else "stopped"
        return "done" if self.state.global_step >= self.state.max_steps else "early"

    def compute_loss(
        self, model: Any, inputs: dict[str, Item], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """A row's share of the step's mean loss; several processes average their gradients, hence the factor."""
        item = inputs["item"]
        logps = model(item.sequence)
        counts = counts_of(item.sequence) if num_items_in_batch is None else Counts(*num_items_in_batch.tolist())
        loss, outcome = _loss(logps, item, counts, self.config)
        if not item.counted:
            # Every process takes part in averaging the gradients, with nothing if it has no row left.
            return loss * 0.0
        self._tally.add(item.sequence, outcome)
        return loss * self.accelerator.num_processes

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Item]], device: torch.device) -> Any:
        """The counts of an accumulated batch, over all processes."""
        if not batch_samples:
            return None
        parts = [counts_of(batch["item"].sequence) for batch in batch_samples if batch["item"].counted]
        total = torch.tensor([sum(getattr(part, name) for part in parts) for name in _COUNTED], device=device)
        return self.accelerator.gather(total[None]).sum(0)

    def get_train_dataloader(self) -> Any:
        """Rows in the seed's order; of several processes each reads its own, in the same steps as one would."""
        if processes.count() == 1:
            return super().get_train_dataloader()
        dealt = DealtRows(len(self.train_dataset), self.config.seed, processes.count(), processes.place())
        return torch.utils.data.DataLoader(self.train_dataset, batch_sampler=dealt, collate_fn=_only)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The loss over all that is held back, as one batch."""
        counts = sum((counts_of(item.sequence) for item in self.held[1:]), counts_of(self.held[0].sequence))
        tally, losses, began = _Tally(), [], time.perf_counter()
        self.model.eval()
        with torch.no_grad():
            for item in self.held[processes.place() :: processes.count()]:
                loss, outcome = _loss(self.model(item.sequence), item, counts, self.config)
                tally.add(item.sequence, outcome)
                losses.append(float(loss))
        self.model.train()
        total = sum(_undealt(processes.gathered(losses)))
        point = tally.together().point(self.state.global_step, float(self.state.epoch or 0.0), "evaluation", total)
        self._tell(point)
        self._tally.leave_out(time.perf_counter() - began)
        metrics = {"eval_loss": total}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """A point, where the Trainer would have printed a line."""
        if "loss" not in logs:
            return
        tally, epoch = self._tally.together(), float(self.state.epoch or 0.0)
        point = tally.point(self.state.global_step, epoch, "training", logs["loss"])
        self._tally = _Tally()
        self._tell(replace(point, learning_rate=logs.get("learning_rate"), grad_norm=logs.get("grad_norm")))

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: the estimate knows nothing of packed rows."""
        return 0

    def _tell(self, point: Point) -> None:
        """Every process sees the same points, so that all of them stop where an alarm stops one; the leader tells."""
        self.sink.point(point)
        for alarm in self.watch.see(point):
            self.sink.alarm(alarm)
            if alarm.fatal:
                self.control.should_training_stop = True
                self.control.should_save = False

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if self.args.should_save:
            self.model.model.save_pretrained(output_dir or self.args.output_dir)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        processes.gathered(None)
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if processes.leads():
            _mark(folder)
            self.sink.checkpoint(self.state.global_step, folder)
        processes.gathered(None)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        _load_weights(self.model.model, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        _load_weights(self.model.model, Path(self.state.best_model_checkpoint))


class _Wishes(TrainerCallback):  # type: ignore[misc]
    """Asks after each step whether to go on, and has a checkpoint made before it stops.

    Of several processes the leader is asked, and all of them stop after the same step.
    """

    def __init__(self, trainer: TreeTrainer, ask: Callable[[], Wish]) -> None:
        self._trainer, self._ask = trainer, ask

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        wish = processes.from_leader(self._ask())
        if wish != "go" and state.global_step < state.max_steps:
            self._trainer.wish = wish
            control.should_save = control.should_training_stop = True
        return control


class _Patience(TrainerCallback):  # type: ignore[misc]
    """Ends a training whose measured loss has not fallen for long enough.

    It remembers nothing: when the loss was lowest stands in the trainer's state, which every checkpoint has.
    """

    def __init__(self, evaluation: Evaluation) -> None:
        self._evaluation = evaluation

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> Any:
        if state.best_metric is None or metrics["eval_loss"] < state.best_metric:
            return control
        since = (state.global_step - (state.best_global_step or 0)) // self._evaluation.every
        if since >= self._evaluation.patience:
            control.should_training_stop = True
        return control


class _Rows(torch.utils.data.Dataset):  # type: ignore[misc]
    """Items by index; below 0, counted from -1, the same ones as rows that are not counted."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = list(items)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> dict[str, Item]:
        return {"item": self._items[index] if index >= 0 else replace(self._items[-1 - index], counted=False)}


class DealtRows:
    """Which row one of several processes reads next, as a batch sampler: the seed's order, dealt in turn.

    So many rows as there are processes are read at a time, one each: a step reads the rows that it would read in one
    process. Where a pass ends amid a deal, who has none left reads the pass's first row, which is not counted.
    """

    def __init__(self, rows: int, seed: int, processes: int, place: int) -> None:
        self._rows, self._seed, self._processes, self._place, self._epoch = rows, seed, processes, place, 0

    @property
    def batch_sampler(self) -> DealtRows:
        """Where transformers looks for what is told of epochs."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return ceil(self._rows / self._processes)

    def __iter__(self) -> Iterator[list[int]]:
        # As accelerate's sampler for one process draws them.
        order = torch.randperm(self._rows, generator=torch.Generator().manual_seed(self._seed + self._epoch)).tolist()
        for start in range(0, self._rows, self._processes):
            at = start + self._place
            yield [order[at] if at < self._rows else -1 - order[0]]


_COUNTED = ("target_tokens", "pair_weight", "chosen_tokens")


class _Tally:
    """Sums over the rows since the last point."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._tokens = 0
        self._chosen: list[float] = []
        self._rejected: list[float] = []
        self._longer: list[int] = []

    def leave_out(self, seconds: float) -> None:
        """Time in which something else was done."""
        self._began += seconds

    def add(self, sequence: PackedSequence, outcome: PairOutcome | None) -> None:
        self._tokens += len(sequence)
        if outcome is None:
            return
        lengths = sequence.reply_lengths[sequence.pairs]
        self._longer += [int(each) for each in lengths[:, 0] - lengths[:, 1]]
        self._chosen += outcome.chosen_rewards.tolist()
        self._rejected += outcome.rejected_rewards.tolist()

    def together(self) -> _Tally:
        """The tallies of all processes as one."""
        found = _Tally()
        found._began = self._began
        for tokens, chosen, rejected, longer in processes.gathered(
            (self._tokens, self._chosen, self._rejected, self._longer)
        ):
            found._tokens += tokens
            found._chosen += chosen
            found._rejected += rejected
            found._longer += longer
        return found

    def point(self, step: int, epoch: float, kind: Literal["training", "evaluation"], loss: float) -> Point:
        seconds = time.perf_counter() - self._began
        return Point(step, epoch, kind, loss, None, None, self._tokens, self._tokens / seconds, self._preferences())

    def _preferences(self) -> Preferences | None:
        if not self._chosen:
            return None
        count = len(self._chosen)
        right = [c > r for c, r in zip(self._chosen, self._rejected, strict=True)]
        longer = [is_right for is_right, by in zip(right, self._longer, strict=True) if by > 0]
        shorter = [is_right for is_right, by in zip(right, self._longer, strict=True) if by < 0]
        chosen, rejected = sum(self._chosen) / count, sum(self._rejected) / count
        return Preferences(
            chosen - rejected,
            sum(right) / count,
            chosen,
            rejected,
            len(longer),
            sum(longer),
            len(shorter),
            sum(shorter),
        )


def _loss(
    logps: torch.Tensor, item: Item, counts: Counts, config: TrainingConfig
) -> tuple[torch.Tensor, PairOutcome | None]:
    if item.reference is None:
        return sft_loss(logps, item.sequence, counts), None
    reference = item.reference.to(logps.device)
    return dpo_loss(logps, reference, item.sequence, counts, config.loss.value())


def _items(
    rows: Sequence[PackedSequence], model: TreeModel, config: TrainingConfig, weights: str, folder: Path | None
) -> list[Item]:
    if config.objective == "sft":
        return [Item(row, None) for row in rows]
    training = model.training
    model.eval()
    own = reference_sums(rows[processes.place() :: processes.count()], model, weights, folder)
    sums = _undealt(processes.gathered(own))
    model.train(training)
    return [Item(row, reference) for row, reference in zip(rows, sums, strict=True)]


def _undealt(parts: Sequence[Sequence[T]]) -> list[T]:
    """What was dealt in turn to several processes, in its order again."""
    return [each for deal in zip_longest(*parts, fillvalue=_NOTHING) for each in deal if each is not _NOTHING]


def _only(batch: list[dict[str, Item]]) -> dict[str, Item]:
    """A batch is one packed row."""
    return batch[0]


def _arguments(config: TrainingConfig, out: Path, *, measures: bool) -> TrainingArguments:
    schedule, machine, evaluation = config.schedule, config.machine, config.evaluation
    best = measures and evaluation.patience > 0
    return TrainingArguments(
        output_dir=str(out),
        seed=config.seed,
        data_seed=config.seed,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=processes.share_of_step(schedule.rows_per_step),
        num_train_epochs=schedule.epochs,
        max_steps=schedule.steps or -1,
        learning_rate=schedule.learning_rate,
        lr_scheduler_type=schedule.shape,
        warmup_steps=schedule.warmup,
        weight_decay=schedule.weight_decay,
        max_grad_norm=schedule.max_grad_norm,
        logging_steps=machine.point_every,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        # The best checkpoint can only be gone back to if each evaluation has one.
        save_steps=evaluation.every if best else machine.save_every,
        save_total_limit=machine.keep,
        eval_strategy="steps" if measures else "no",
        eval_steps=evaluation.every,
        load_best_model_at_end=best,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        use_cpu=device_of(machine.device).type == "cpu",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        report_to="none",
    )


def _save_memory(model: Any, config: TrainingConfig) -> None:
    model.train()
    if not config.machine.gradient_checkpointing:
        return
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    # Its older name goes with the next major version of transformers.
    enable = getattr(causal, "activation_checkpointing_enable", causal.gradient_checkpointing_enable)
    enable({"use_reentrant": False})


def _load_weights(model: Any, folder: Path) -> None:
    """What `save_pretrained` wrote, into the model as it is."""
    from safetensors.torch import load_file

    if hasattr(model, "peft_config"):
        from peft import load_peft_weights, set_peft_model_state_dict

        set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"))
        return
    for file in sorted(folder.glob("model*.safetensors")):
        model.load_state_dict(load_file(file), strict=False)


def _mark(folder: Path) -> None:
    """Say that a checkpoint is whole, when everything in it is on disk."""
    for file in folder.rglob("*"):
        if file.is_file():
            _sync(file)
    (folder / MARKER).touch()
    _sync(folder)


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _identity(opened: OpenedBase, trees: Sequence[TokenTree], config: TrainingConfig) -> dict[str, Any]:
    data = [[t.digest, t.persona, list(t.targets), [[p.chosen, p.rejected, p.weight] for p in t.pairs]] for t in trees]
    return {
        **config.identity(),
        "base": opened.base_digest,
        "start": opened.start_digest,
        "data": digest_of("token trees", data),
    }


def _check_agreement(identity: dict[str, Any]) -> None:
    """Raise SetupError if another process trains something else: an average of both would be nothing."""
    leaders = processes.from_leader(identity)
    different = sorted(key for key in identity if identity[key] != leaders.get(key))
    if different:
        raise SetupError(
            f"process {processes.place()} was given another training than the leading one: {', '.join(different)}",
            hint="Start all processes with the same command, on the same files.",
        )


def _check_identity(out: Path, identity: dict[str, Any]) -> None:
    """A folder holds one training. Raises SetupError if it is another one."""
    file = out / IDENTITY
    if not file.exists():
        out.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(identity, indent=1), encoding="utf-8")
        draft.replace(file)
        return
    there = json.loads(file.read_text(encoding="utf-8"))
    different = sorted(key for key in {*there, *identity} if there.get(key) != identity.get(key))
    if different:
        raise SetupError(
            f"{out} holds another training, which differs in {', '.join(different)}",
            hint="Name another folder, or take its configuration and data.",
        )
