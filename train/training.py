"""A training as a job: the one process that does it, steered by rows.

It holds the training's lock, renews its heartbeat from a thread, takes commands, writes points and events as they
come, and puts the adapter among the store's when it is done. What is to be trained is a plan (`train.training_plan`).

Invariant: at most one process a training; whatever ends it, the last whole checkpoint stays and the same training can
be gone on with.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train.adapters import keep_adapter_files, keep_model_notes
from train.alarms import Watch
from train.config import Machine, TrainingConfig
from train.memory import MemoryEstimate, is_out_of_memory, what_to_lower
from train.model_card import model_card
from train.points import Alarm, Forecast, Point, Preferences, Silent, Sink, Wish
from train.templates import open_reader
from train.training_plan import Plan, TokenData, operation_of, plan_of, token_data
from trees.errors import EspalierError, SetupError, StoreError, StoreFull
from trees.jobs import HEARTBEAT_S, Command, Lock, answer, commands, events, heartbeat, release, take, take_lock
from trees.store import Store
from trees.trainings import (
    AdapterRow,
    TrainingPoint,
    TrainingState,
    forget_points,
    keep_adapter,
    keep_point,
    points,
    set_training_operation,
    set_training_result,
    set_training_state,
    training,
)
from trees.writes import keep_event

if TYPE_CHECKING:
    from train.base_model import OpenedBase
    from train.trainer import Outcome

POLL_S = 0.25
"""How often the process looks for commands, in seconds."""
SURELY = 2.0
"""An estimate this many times what is free is refused; a smaller one may be wrong."""
MANY = 100_000
"""Events of a training that are looked at."""
INSTALL = "pip install 'espalier-lm[train]'"


@dataclass(frozen=True)
class Ending:
    """How the process left its training."""

    state: TrainingState
    reason: str | None
    adapter: str | None
    """Id of the adapter that it made."""


def training_folder(store: Path, training_id: str) -> Path:
    """Where the checkpoints of a training lie."""
    return store.with_name(f"{store.stem}-trainings") / training_id[:16]


class Job:
    """The one process that does a training. Make it, then `run` it once; `pause` may be called from a signal."""

    def __init__(self, path: Path, training_id: str, told: Sink | None = None, machine: Machine | None = None) -> None:
        self._path = path
        self._machine = machine
        self._told = told
        self._wishes = _Wishes()
        self.store = Store.open(path)
        try:
            self.row = training(self.store, training_id)
            self.lock = take_lock(self.store, training_id, "training")
        except BaseException:
            self.store.close()
            raise

    def pause(self, why: str) -> None:
        """Make a checkpoint after the step under way, and leave."""
        self._wishes.ask("pause", why)

    def run(self) -> Ending:
        """Train until it is done, or told to pause or stop. Raises what it could not get over, after noting it."""
        attending = _Attending(self._path, self.lock, self._wishes)
        attending.start()
        ending = Ending("failed", "it was broken off", None)
        try:
            ending = self._train()
        except EspalierError as error:
            ending = replace(ending, reason=error.message)
            raise
        except BaseException as error:
            ending = replace(ending, reason=f"{type(error).__name__}: {error}")
            raise
        finally:
            attending.end()
            self._leave(ending)
        if ending.state == "finished" and ending.adapter is not None:
            shutil.rmtree(training_folder(self._path, self.row.id), ignore_errors=True)
        if attending.failure is not None:
            raise attending.failure
        return ending

    def _train(self) -> Ending:
        store, row = self.store, self.row
        plan = plan_of(store, row, self._machine)
        try:
            _quiet()
            from train.base_model import open_base
            from train.trainer import fit, last_checkpoint, step_of
        except ImportError as error:
            raise SetupError(f"training needs torch, transformers and PEFT ({error}): {INSTALL}") from error
        data = token_data(plan, open_reader(plan.config.base))
        config = _config_of(plan)
        folder = training_folder(self._path, row.id)
        with _told_in_words(folder, config, data) as known:
            opened = open_base(config)
            known.estimate = _check_memory(opened, config, data)
            done = last_checkpoint(folder)
            step = 0 if done is None else step_of(done)
            store.apply(
                [
                    *forget_points(row.id, step),
                    *set_training_operation(row.id, operation_of(plan.config)),
                    *set_training_state(row.id, "running"),
                    *keep_event(row.id, "engine.started", {"pid": self.lock.pid, "step": step}),
                ]
            )
            recorder, watch = _Recorder(store, row.id, self._told), _watch(store, row.id)
            ask = self._wishes.now
            if plan.flat:
                outcome = _fit_flat()(opened, data.trained, config, folder, recorder, ask, data.measured, watch)
            else:
                references = folder.parent / "references"
                outcome = fit(opened, data.trained, config, folder, recorder, ask, references, data.measured, watch)
            return self._end(plan, opened, outcome, recorder)

    def _end(self, plan: Plan, opened: OpenedBase, outcome: Outcome, recorder: _Recorder) -> Ending:
        if outcome.folder is None:
            if outcome.ended == "failed":
                return Ending("failed", recorder.fatal or "the loss is no number", None)
            return Ending("paused", f"{self._wishes.why}, at step {outcome.steps}", None)
        reason = None
        if outcome.ended == "stopped":
            reason = f"{self._wishes.why}, at step {outcome.steps}"
        elif outcome.ended == "early":
            reason = f"the measured loss did not fall any more, at step {outcome.steps}"
        state: TrainingState = "stopped" if outcome.ended == "stopped" else "finished"
        metrics = {**recorder.metrics(), "steps": outcome.steps, "packed": outcome.separate_because is None}
        if plan.config.lora is None:
            keep_model_notes(outcome.folder, plan.lineage, model_card(plan, metrics))
            self.store.apply(set_training_result(plan.id, os.path.relpath(outcome.folder, self._path.parent)))
            return Ending(state, reason, None)
        made = keep_adapter_files(outcome.folder, self._path, plan.lineage, model_card(plan, metrics))
        adapter = AdapterRow(
            id=made.digest,
            training_id=plan.id,
            base=plan.lineage.base,
            start_adapter=opened.start_digest,
            path=os.path.relpath(made.path, self._path.resolve().parent),
            rank=made.rank,
            lineage=plan.lineage.as_dict(),
            metrics=metrics,
            added_at=time.time(),
        )
        self.store.apply(keep_adapter(adapter))
        return Ending(state, reason, made.digest)

    def _leave(self, ending: Ending) -> None:
        """Say how the training stands and give the lock back."""
        left = {"state": ending.state, "reason": ending.reason, "adapter": ending.adapter}
        try:
            self.store.apply(
                [
                    *set_training_state(self.row.id, ending.state, ending.reason),
                    *keep_event(self.row.id, "engine.left", left),
                    *release(self.lock),
                ]
            )
        finally:
            self.store.close()


def follow(path: Path, training_id: str) -> None:
    """Do this process's part of a training that another one leads: rows, files and wishes are the leader's."""
    with Store.read(path) as store:
        plan = plan_of(store, training(store, training_id))
    _quiet()
    from train.base_model import open_base
    from train.trainer import fit

    data = token_data(plan, open_reader(plan.config.base))
    config = _config_of(plan)
    folder = training_folder(path, training_id)
    with _told_in_words(folder, config, data):
        opened, references = open_base(config), folder.parent / "references"
        fit(opened, data.trained, config, folder, Silent(), references=references, measured=data.measured)


def _config_of(plan: Plan) -> TrainingConfig:
    """With the adapter that it goes on from where it lies now."""
    return plan.config.model_copy(update={"start": None if plan.start is None else str(plan.start.path)})


class _Wishes:
    """What is wanted of the training, from whichever thread."""

    def __init__(self) -> None:
        self._wish: Wish = "go"
        self.why = ""

    def ask(self, wish: Wish, why: str) -> None:
        self._wish, self.why = wish, why

    def now(self) -> Wish:
        return self._wish


class _Attending(threading.Thread):
    """Renews the lock and answers commands while the training computes."""

    def __init__(self, path: Path, lock: Lock, wishes: _Wishes) -> None:
        super().__init__(name=f"attending {lock.job_id[:8]}", daemon=True)
        self._path, self._lock, self._wishes = path, lock, wishes
        self._ended = threading.Event()
        self.failure: StoreError | None = None

    def run(self) -> None:
        try:
            with Store.open(self._path) as store:
                beaten = 0.0
                while not self._ended.wait(POLL_S):
                    if time.monotonic() - beaten >= HEARTBEAT_S:
                        store.apply(heartbeat(self._lock))
                        beaten = time.monotonic()
                    self._answer(store)
                self._answer(store)
        except StoreError as error:
            self.failure = error
            self._wishes.ask("pause", error.message)

    def end(self) -> None:
        """Answer what was asked until now, and leave."""
        self._ended.set()
        self.join()

    def _answer(self, store: Store) -> None:
        for command in commands(store, self._lock.job_id):
            store.apply(take(command.id))
            result, refused = self._obey(command)
            writes = answer(command.id, result, refused=refused)
            event = {"verb": command.verb, "args": command.args, "asked_by": command.asked_by}
            store.apply([*writes, *keep_event(self._lock.job_id, "command", event)])

    def _obey(self, command: Command) -> tuple[dict[str, object], bool]:
        """The answer to a command, and whether it is refused."""
        if command.verb == "resume":
            self._wishes.ask("go", "")
        elif command.verb == "pause":
            self._wishes.ask("pause", f"paused by {command.asked_by}")
        elif command.verb == "stop":
            self._wishes.ask("stop", f"stopped by {command.asked_by}")
        else:
            return {"error": f"a training knows no command {command.verb!r}"}, True
        return {"wish": self._wishes.now()}, False


@dataclass
class _Recorder:
    """Points and alarms as rows, then told on."""

    store: Store
    training: str
    told: Sink | None
    fatal: str | None = None
    last: dict[str, TrainingPoint] = field(default_factory=dict)

    def point(self, point: Point) -> None:
        kept = _row_of(point)
        self.last[point.kind] = kept
        self.store.apply(keep_point(self.training, kept))
        if self.told is not None:
            self.told.point(point)

    def forecast(self, forecast: Forecast) -> None:
        said = {**asdict(forecast), "memory": forecast.memory.as_dict()}
        self.store.apply(keep_event(self.training, "training.forecast", said))
        if self.told is not None:
            self.told.forecast(forecast)

    def alarm(self, alarm: Alarm) -> None:
        self.fatal = alarm.text if alarm.fatal else self.fatal
        self.store.apply(keep_event(self.training, "training.alarm", asdict(alarm)))
        if self.told is not None:
            self.told.alarm(alarm)

    def checkpoint(self, step: int, folder: Path) -> None:
        self.store.apply(keep_event(self.training, "training.checkpoint", {"step": step, "folder": folder.name}))
        if self.told is not None:
            self.told.checkpoint(step, folder)

    def metrics(self) -> dict[str, Any]:
        """The last loss, margin and accuracy, of training and of what was held back."""
        wanted = ("loss", "margin", "accuracy")
        return {kind: {name: getattr(p, name) for name in wanted} for kind, p in sorted(self.last.items())}


def _row_of(point: Point) -> TrainingPoint:
    seen = point.preferences
    return TrainingPoint(
        kind=point.kind,
        step=point.step,
        epoch=point.epoch,
        loss=point.loss,
        margin=None if seen is None else seen.margin,
        accuracy=None if seen is None else seen.accuracy,
        chosen_reward=None if seen is None else seen.chosen_reward,
        rejected_reward=None if seen is None else seen.rejected_reward,
        learning_rate=point.learning_rate,
        gradient=point.grad_norm,
        tokens=point.tokens,
        tokens_per_s=point.tokens_per_s,
        at=time.time(),
    )


def _watch(store: Store, training_id: str) -> Watch:
    """What was told of a training until now, so that nothing is told twice."""
    raised = [event.data["kind"] for event in events(store, training_id, limit=MANY) if event.kind == "training.alarm"]
    told = (_point_of(each, each.loss) for each in points(store, training_id) if each.loss is not None)
    return Watch(told, raised)


def _point_of(kept: TrainingPoint, loss: float) -> Point:
    """A point as the store has it, which does not say how long the replies of its pairs were."""
    seen = (kept.margin, kept.accuracy, kept.chosen_reward, kept.rejected_reward)
    margin, accuracy, chosen, rejected = (0.0 if value is None else value for value in seen)
    return Point(
        step=kept.step,
        epoch=kept.epoch,
        kind=kept.kind,
        loss=loss,
        learning_rate=kept.learning_rate,
        grad_norm=kept.gradient,
        tokens=kept.tokens,
        tokens_per_s=kept.tokens_per_s,
        preferences=None if None in seen else Preferences(margin, accuracy, chosen, rejected, 0, 0, 0, 0),
    )


def _check_memory(opened: OpenedBase, config: TrainingConfig, data: TokenData) -> MemoryEstimate:
    """What a step takes.

    Raises SetupError where that would surely end the process: a system that runs out of memory tells nobody why.
    """
    from train.trial import estimate_memory

    estimate, free = estimate_memory(opened.model, config, _longest_row(config, data)), free_bytes(opened)
    if free is not None and estimate.step > SURELY * free:
        raise SetupError(
            f"a step over {estimate.tokens} tokens takes about {estimate.step / 1e9:.1f} GB beside the weights, and "
            f"{free / 1e9:.1f} GB are free (in all {estimate.words()})",
            hint=what_to_lower(config),
        )
    return estimate


def _longest_row(config: TrainingConfig, data: TokenData) -> int:
    """Tokens that the longest row may have."""
    return min(config.tokens_per_row, sum(tree.token_count for tree in data.trained))


def free_bytes(opened: OpenedBase) -> int | None:
    """Memory that is free where the model lies; None where that cannot be told."""
    device = next(opened.model.parameters()).device
    if device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable")), None)


def _fit_flat() -> Callable[..., Outcome]:
    """Raises SetupError where TRL is missing."""
    try:
        from train.flat_training import fit_flat
    except ImportError as error:
        raise SetupError(f"--flat is done by the package trl ({error}): {INSTALL}") from error
    return fit_flat


def _quiet() -> None:
    """transformers draws bars and warns of what its own code calls; what matters here is told by points and errors."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    warnings.filterwarnings("ignore", message="Could not find a config file")


@dataclass
class _Known:
    """What is known of the memory that a step takes."""

    estimate: MemoryEstimate | None = None


@contextmanager
def _told_in_words(folder: Path, config: TrainingConfig, data: TokenData) -> Iterator[_Known]:
    """Memory and disk that run out, as errors that tell what to do."""
    known = _Known()
    try:
        yield known
    except (OSError, RuntimeError, MemoryError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        if any(sign in said for sign in _DISK) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            hint = "Free some space, then go on: the last whole checkpoint is kept."
            raise StoreFull(f"no room for a checkpoint in {folder}: {said}", hint=hint) from error
        if is_out_of_memory(error):
            raise SetupError(
                f"there is too little memory for this: {said}{_estimated(known, config, data)}",
                hint=what_to_lower(config),
            ) from error
        raise
    except Exception as error:
        # safetensors has an exception of its own for a disk that is full.
        if any(sign in str(error) for sign in _DISK):
            hint = "Free some space, then go on: the last whole checkpoint is kept."
            raise StoreFull(f"no room for a checkpoint in {folder}: {error}", hint=hint) from error
        raise


def _estimated(known: _Known, config: TrainingConfig, data: TokenData) -> str:
    """What was estimated, as the end of a sentence; of a base that did not get into memory, by its configuration."""
    from train.trial import memory_on_paper

    try:
        estimate = known.estimate or memory_on_paper(config, _longest_row(config, data))
    except (EspalierError, RuntimeError, MemoryError):
        return ""
    return f"\nA step was estimated at {estimate.words()}."


_DISK = ("No space left", "os error 28", "PytorchStreamWriter failed", "Disk quota exceeded")
