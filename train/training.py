"""A training as a job: what is to be trained, in the store; and the one process that does it, steered by rows.

A plan is a configuration over a selection of the store. Its id names what is trained, so the same plan again is the
same training and goes on with it. The process that trains holds the training's lock, renews its heartbeat from a
thread, takes commands, writes points and events as they come, and puts the adapter among the store's when it is done.

Invariant: at most one process a training; whatever ends it, the last whole checkpoint stays and the same training can
be gone on with; what it goes on with is the data it began with, or nothing.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.models.model_folder import AdapterFolder, read_adapter
from agents.models.protocol import ModelFailure
from train.adapters import Lineage, LineageStep, fresh_lineage, keep_adapter_files, read_lineage
from train.config import Machine, TrainingConfig
from train.data import DataSet, OwnFile, Selection, select
from train.model_card import model_card
from train.points import Alarm, Point, Sink, Wish
from train.templates import TemplateReader, open_reader
from train.token_tree import TokenTree
from train.tokenise import tokenise, within
from trees.errors import EspalierError, SetupError, StoreError, StoreFull
from trees.ids import digest_of
from trees.jobs import HEARTBEAT_S, Command, Lock, answer, commands, heartbeat, release, take, take_lock
from trees.store import Store
from trees.trainings import (
    AdapterRow,
    TrainingPoint,
    TrainingRow,
    TrainingState,
    forget_points,
    keep_adapter,
    keep_point,
    keep_training,
    set_training_operation,
    set_training_result,
    set_training_state,
    training,
    training_id,
)
from trees.writes import keep_event

if TYPE_CHECKING:
    from train.base_model import OpenedBase
    from train.trainer import Outcome

POLL_S = 0.25
"""How often the process looks for commands, in seconds."""
INSTALL = "pip install 'espalier-lm[train]'"
UNITS = {"sft": "targets", "dpo": "pairs"}


@dataclass(frozen=True)
class Plan:
    """A training that could be done."""

    id: str
    name: str
    config: TrainingConfig
    data: DataSet
    """What its objective needs."""
    lineage: Lineage
    """This training included."""
    start: AdapterFolder | None
    flat: bool = False
    """Whether TRL's own trainers do it, on flattened rows."""

    @property
    def configuration(self) -> dict[str, Any]:
        """The frozen half, with base and start by content."""
        start = None if self.start is None else self.start.digest
        return _resolved(self.config, self.lineage.base, start, self.flat)


@dataclass(frozen=True)
class TokenData:
    """What a training reads."""

    trained: tuple[TokenTree, ...]
    measured: tuple[TokenTree, ...]
    left_out: Mapping[str, int]
    """Number of targets or pairs by reason."""


@dataclass(frozen=True)
class Ending:
    """How the process left its training."""

    state: TrainingState
    reason: str | None
    adapter: str | None
    """Id of the adapter that it made."""


def plan_training(
    store: Store, config: TrainingConfig, selection: Selection, files: Sequence[OwnFile] = (), *, flat: bool = False
) -> Plan:
    """What a configuration trains of a store. Blocks. Raises SetupError, NotFound, BadFilter or HeldOut.

    Runs and judge that are left open are settled here, so that what is added to the store later changes nothing.
    """
    everything = selection.runs if selection.runs is not None else _all_runs(store)
    wanted = replace(selection, runs=everything, evaluation=config.evaluation.share, seed=config.seed)
    found = select(store, wanted, files)
    if found.judge_id:
        found = replace(found, selection=replace(wanted, judge=found.judge_id))
    data = found.only(config.objective)
    _check_data(data, config)
    start = _start(config)
    before = fresh_lineage(config.base) if start is None else read_lineage(start, config.base)
    if start is not None and start.base is not None and start.base != (own := fresh_lineage(config.base).base):
        raise SetupError(
            f"the adapter {start.digest} was trained on the base {start.base}, and {config.base!r} is {own}",
            hint="Name its own base with --model, or begin without --adapter.",
        )
    resolved = _resolved(config, before.base, None if start is None else start.digest, flat)
    own_id = training_id(resolved, data.digest)
    step = LineageStep(own_id, config.objective, data.digest, digest_of("training configuration", resolved), everything)
    lineage = before.with_training(step, data.people, known=data.lineage == "store")
    return Plan(own_id, _name(store, config, data), config, data, lineage, start, flat)


def begin(store: Store, plan: Plan) -> TrainingRow:
    """Write a training's row unless it is there already."""
    if not store.rows("SELECT 1 FROM trainings WHERE id = ?", (plan.id,)):
        operation = _operation(plan.config)
        store.apply(
            [
                *keep_training(
                    plan.id,
                    plan.name,
                    plan.configuration,
                    plan.data.digest,
                    _selection_json(plan.data),
                    plan.lineage.as_dict(),
                    operation,
                ),
                *keep_event(plan.id, "training.planned", {UNITS[plan.config.objective]: _amount(plan.data)}),
            ]
        )
    return training(store, plan.id)


def plan_of(store: Store, row: TrainingRow, machine: Machine | None = None) -> Plan:
    """The plan of a stored training. Blocks. Raises SetupError if store or base are no longer what it began with."""
    config = config_of(row, machine)
    selection, files = _selection(row)
    plan = plan_training(store, config, selection, files, flat="flat" in row.configuration)
    if plan.id != row.id:
        changed = "its data" if plan.data.digest != row.data_digest else "its base or the adapter it starts from"
        raise SetupError(
            f"training {row.id[:8]} cannot go on: {changed} changed since it began (data {row.data_digest[:8]}, now "
            f"{plan.data.digest[:8]}; base {row.base[:8]}, now {plan.lineage.base[:8]})",
            hint="Begin another one with `espalier train`: what this one learnt so far is in its last checkpoint.",
        )
    return plan


def config_of(row: TrainingRow, machine: Machine | None = None) -> TrainingConfig:
    """A training's configuration as the store has it."""
    where = {"base": row.operation["base"], "start": row.operation["start"]}
    frozen = {key: value for key, value in row.configuration.items() if key != "flat"}
    kept = TrainingConfig.model_validate({**frozen, **where, "machine": row.operation["machine"]})
    return kept if machine is None else kept.model_copy(update={"machine": machine})


def token_data(plan: Plan, reader: TemplateReader) -> TokenData:
    """The plan's data in tokens. Raises SetupError if nothing of it can be read within the limit."""
    tokenised = tokenise(plan.data.trees, reader)
    kind = plan.config.objective
    refused = sum(each.targets + each.pairs for each in tokenised.refused)
    sides = {tree.id: tree.side for tree in plan.data.trees}
    found: dict[str, list[TokenTree]] = {"train": [], "evaluation": []}
    for tree in tokenised.trees:
        if (kept := within(tree, plan.config.tokens_per_row)) is not None:
            found[sides[tree.id]].append(kept)
    held = sum(len(getattr(tree, UNITS[kind])) for trees in found.values() for tree in trees)
    left_out = {"refused by the chat template": refused, "too long": _amount(plan.data) - refused - held}
    if not found["train"]:
        why = tokenised.refused[0].reason if refused else f"all are longer than {plan.config.tokens_per_row} tokens"
        raise SetupError(
            f"none of {_amount(plan.data)} {UNITS[kind]} can be trained on: {why}",
            hint="Raise tokens_per_row, or see each with `espalier data lint --samples 3`.",
        )
    return TokenData(
        tuple(found["train"]),
        tuple(found["evaluation"]),
        {reason: number for reason, number in left_out.items() if number},
    )


def training_folder(store: Path, training_id: str) -> Path:
    """Where the checkpoints of a training lie."""
    return store.with_name(f"{store.stem}-trainings") / training_id[:16]


# Doing it


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
            from train.trainer import fit, last_checkpoint
        except ImportError as error:
            raise SetupError(f"training needs torch, transformers and PEFT ({error}): {INSTALL}") from error
        data = token_data(plan, open_reader(plan.config.base))
        config = plan.config.model_copy(update={"start": None if plan.start is None else str(plan.start.path)})
        folder = training_folder(self._path, row.id)
        with _told_in_words(folder):
            opened = open_base(config)
            done = last_checkpoint(folder)
            step = 0 if done is None else int(done.name.rpartition("-")[2])
            store.apply(
                [
                    *forget_points(row.id, step),
                    *set_training_operation(row.id, _operation(plan.config)),
                    *set_training_state(row.id, "running"),
                    *keep_event(row.id, "engine.started", {"pid": self.lock.pid, "step": step}),
                ]
            )
            recorder = _Recorder(store, row.id, self._told)
            ask = self._wishes.now
            if plan.flat:
                outcome = _fit_flat()(opened, data.trained, config, folder, recorder, ask)
            else:
                references = folder.parent / "references"
                outcome = fit(opened, data.trained, config, folder, recorder, ask, references, measured=data.measured)
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
        if plan.config.lora is None:
            self.store.apply(set_training_result(plan.id, os.path.relpath(outcome.folder, self._path.parent)))
            return Ending(state, reason, None)
        metrics = {**recorder.metrics(), "steps": outcome.steps, "packed": outcome.separate_because is None}
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


@contextmanager
def _told_in_words(folder: Path) -> Iterator[None]:
    """Memory and disk that run out, as errors that tell what to do."""
    try:
        yield
    except (OSError, RuntimeError, MemoryError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        if any(sign in said for sign in _DISK) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            hint = "Free some space, then go on: the last whole checkpoint is kept."
            raise StoreFull(f"no room for a checkpoint in {folder}: {said}", hint=hint) from error
        if isinstance(error, MemoryError) or any(sign in said.lower() for sign in _MEMORY):
            raise SetupError(
                f"there is too little memory for this: {said}",
                hint="Lower tokens_per_row, set machine.gradient_checkpointing = true, or take a smaller base.",
            ) from error
        raise
    except Exception as error:
        # safetensors has an exception of its own for a disk that is full.
        if any(sign in str(error) for sign in _DISK):
            hint = "Free some space, then go on: the last whole checkpoint is kept."
            raise StoreFull(f"no room for a checkpoint in {folder}: {error}", hint=hint) from error
        raise


_DISK = ("No space left", "os error 28", "PytorchStreamWriter failed", "Disk quota exceeded")
_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")


# What a plan is made of


def _check_data(data: DataSet, config: TrainingConfig) -> None:
    """Raise SetupError for data that teach nothing, or leave nobody to measure on."""
    unit = UNITS[config.objective]
    if not data.side("train"):
        dropped = data.dropped.get(unit, {})
        reasons = ", ".join(f"{number} {reason}" for reason, number in dropped.items()) or "nothing was judged"
        raise SetupError(
            f"there are no {unit} to train on: {reasons}",
            hint="See what is left out with `espalier data lint`; judge the runs again, or lower the margin.",
        )
    if config.evaluation.share > 0 and not data.side("evaluation"):
        people = sorted({tree.profile_id or tree.source for tree in data.trees})
        raise SetupError(
            f"all {_amount(data)} {unit} are of one person ({people[0][:8]}): nobody is left to measure on",
            hint="Play more personas, or train without measuring: --set evaluation.share=0.",
        )


def _start(config: TrainingConfig) -> AdapterFolder | None:
    if config.start is None:
        return None
    try:
        return read_adapter(config.start)
    except ModelFailure as failure:
        raise SetupError(failure.message, hint="Name an adapter: espalier train list.") from failure


def _resolved(config: TrainingConfig, base: str, start: str | None, flat: bool) -> dict[str, Any]:
    found = {**config.identity(), "base": base, "start": start}
    return {**found, "flat": True} if flat else found


def _operation(config: TrainingConfig) -> dict[str, Any]:
    return {"base": config.base, "start": config.start, "machine": config.machine.model_dump(mode="json")}


def _all_runs(store: Store) -> tuple[str, ...]:
    return tuple(sorted(row[0] for row in store.rows("SELECT id FROM runs")))


def _amount(data: DataSet) -> int:
    return data.targets + data.pairs


def _name(store: Store, config: TrainingConfig, data: DataSet) -> str:
    """What is trained on what, for lists."""
    sources = sorted({tree.source for tree in data.trees})
    runs = [store.run(source).name for source in sources if store.rows("SELECT 1 FROM runs WHERE id = ?", (source,))]
    named = list(dict.fromkeys(runs)) + [file.path.name for file in data.files]
    shown = ", ".join(named[:3]) + (f" and {len(named) - 3} more" if len(named) > 3 else "")
    return f"{Path(config.base).name} on {shown}"


def _selection_json(data: DataSet) -> dict[str, Any]:
    """What of the store is trained on; who is held back to measure stands in the configuration."""
    chosen = asdict(data.selection)
    kept = {key: value for key, value in chosen.items() if key not in ("evaluation", "seed")}
    return {**kept, "files": [[str(file.path.resolve()), file.share] for file in data.files]}


def _selection(row: TrainingRow) -> tuple[Selection, tuple[OwnFile, ...]]:
    kept = dict(row.selection)
    files = tuple(OwnFile(Path(path), share) for path, share in kept.pop("files"))
    listed = {key: tuple(value) for key, value in kept.items() if isinstance(value, list)}
    return Selection(**{**kept, **listed}), files
