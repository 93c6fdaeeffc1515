"""Trainings that are watched: how each stands, the points of those looked at as figures, and the time left.

A reading is an event; the state is what the latest reading says beside what a person has chosen: which training,
which others lie over it. A training that was gone on with writes points anew, so its points are read whole each time.

Invariant: pure but for `read_trainings` and `read_data`, which ask a store; nothing here knows a widget.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from trees.jobs import Event, Lock, lock_of
from trees.store import Store
from trees.trainings import TrainingPoint, TrainingRow, adapters, points, trainings
from tui.app.curves import STYLES, Figure, Point, Series, smooth
from tui.app.standing import LATE_S, Word
from tui.console import count, duration
from tui.launch import log_path
from tui.training import share_done

LOG_LINES = 20
"""Last lines of a training's log that are shown."""
_LOG_BYTES = 16_384
EVENTS = 200
ENOUGH_POINTS = 5
"""Before so many points of this process were seen, no time left is guessed."""


@dataclass(frozen=True, slots=True)
class TrainingLine:
    """A training as the list has it."""

    id: str
    kind: str
    name: str
    word: Word
    reason: str | None
    share: float
    step: int
    loss: float | None
    start: str | None
    """The adapter it started from; None for the base."""
    adapter: str | None
    """The one it made last."""
    pid: int | None
    heard_at: float | None
    """When its process was last heard of; both None if nobody is at work on it."""

    @property
    def live(self) -> bool:
        return self.pid is not None


@dataclass(frozen=True, slots=True)
class Read:
    """One training, as the store has it."""

    line: TrainingLine
    row: TrainingRow
    points: tuple[TrainingPoint, ...]
    events: tuple[Event, ...]
    log: tuple[str, ...]
    """The last lines of its log, where it was done in the background."""

    def told(self, kind: str) -> list[Mapping[str, Any]]:
        """What events of a kind say, oldest first."""
        return [event.data for event in self.events if event.kind == kind]

    @property
    def alarms(self) -> list[Mapping[str, Any]]:
        return self.told("training.alarm")

    @property
    def checkpoint(self) -> int | None:
        """The step of the last whole checkpoint."""
        return max((int(data["step"]) for data in self.told("training.checkpoint")), default=None)


@dataclass(frozen=True, slots=True)
class Trainings:
    """What one reading found."""

    at: float
    lines: tuple[TrainingLine, ...]
    looked_at: Read | None
    over: Mapping[str, tuple[TrainingPoint, ...]] = field(default_factory=dict)
    """Points of others that lie over it, by id."""


@dataclass(frozen=True, slots=True)
class Choose:
    """Another training is looked at."""

    training: str


@dataclass(frozen=True, slots=True)
class LayOver:
    """A training is laid over the one looked at, or taken away again."""

    training: str


@dataclass(frozen=True, slots=True)
class Watched:
    """Everything that Train shows of trainings."""

    chosen: str | None = None
    """The training looked at; None for the one worked on last."""
    over: tuple[str, ...] = ()
    """Those that lie over it, in the order in which they were laid."""
    read: Trainings | None = None

    @property
    def looked_at(self) -> Read | None:
        return self.read.looked_at if self.read is not None else None


def reduce(watched: Watched, event: Trainings | Choose | LayOver) -> Watched:
    """The state after an event. A reading of a training that is no longer looked at is passed over."""
    match event:
        case Choose(training):
            return watched if training == watched.chosen else replace(watched, chosen=training)
        case LayOver(training):
            rest = tuple(each for each in watched.over if each != training)
            return replace(watched, over=rest if training in watched.over else (*rest, training))
        case Trainings():
            found = event.looked_at.row.id if event.looked_at is not None else None
            if watched.chosen is not None and found is not None and found != watched.chosen:
                return watched
            return replace(watched, read=event, chosen=found)


# Reading


def read_trainings(store: Store, chosen: str | None, over: Sequence[str], now: float) -> Trainings:
    """All trainings, the points of one and of those that lie over it. One that is gone is as if none were chosen."""
    rows = trainings(store)
    lines = {row.id: training_line(store, row, now) for row in rows}
    ordered = sorted(rows, key=lambda row: (not lines[row.id].live, -row.updated_at, row.id))
    row = next((row for row in rows if row.id == chosen), next(iter(ordered), None))
    if row is None:
        return Trainings(now, (), None)
    laid = {each: tuple(points(store, each)) for each in over if each != row.id and each in lines}
    return Trainings(now, tuple(lines[each.id] for each in ordered), _read(store, row, lines[row.id]), laid)


def training_line(store: Store, row: TrainingRow, now: float) -> TrainingLine:
    """One training as it stands."""
    lock = lock_of(store, row.id)
    sql = (
        "SELECT step, epoch, loss FROM training_points WHERE training_id = ? AND kind = 'training' "
        "ORDER BY step DESC LIMIT 1"
    )
    step, epoch, loss = next(iter(store.rows(sql, (row.id,))), (0, 0.0, None))
    made = adapters(store, row.id)
    alive = lock is not None and lock.alive
    return TrainingLine(
        id=row.id,
        kind=row.kind,
        name=row.name,
        word=word_of(row.state, lock, now),
        reason=row.reason,
        share=1.0 if row.state == "finished" else share_done(row, step, epoch),
        step=step,
        loss=loss,
        start=row.start_adapter,
        adapter=made[0].id if made else None,
        pid=lock.pid if lock is not None and alive else None,
        heard_at=lock.heartbeat_at if lock is not None and alive else None,
    )


def word_of(state: str, lock: Lock | None, now: float) -> Word:
    """The one word for a training. A pause is a checkpoint: nobody is at work on one that is paused."""
    if lock is not None and lock.alive:
        if now - lock.heartbeat_at > LATE_S:
            return "late"
        return "running" if state == "running" else "warming"
    if state == "running" or lock is not None:
        return "crashed"
    words: dict[str, Word] = {"finished": "done", "failed": "failed", "new": "new", "paused": "paused"}
    return words.get(state, "stopped")


def _read(store: Store, row: TrainingRow, line: TrainingLine) -> Read:
    import json

    sql = "SELECT seq, job_id, kind, data, at FROM events WHERE job_id = ? ORDER BY seq DESC LIMIT ?"
    found = reversed(store.rows(sql, (row.id, EVENTS)))
    events = tuple(Event(seq, job, kind, json.loads(data), at) for seq, job, kind, data, at in found)
    return Read(line, row, tuple(points(store, row.id)), events, _log(store, row.id))


def _log(store: Store, training: str) -> tuple[str, ...]:
    path = log_path(store.path, training)
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - _LOG_BYTES, 0))
            said = file.read().decode("utf-8", "replace")
    except OSError:
        return ()
    return tuple(said.splitlines()[-LOG_LINES:])


# Figures

Reading = Callable[[TrainingPoint], float | None]

CURVES: Mapping[str, tuple[str, Reading]] = {
    "loss": ("loss", lambda p: p.loss),
    "margin": ("margin of rewards", lambda p: p.margin),
    "accuracy": ("pairs that are right", lambda p: p.accuracy),
    "rewards": ("rewards", lambda p: p.chosen_reward),
    "gradient": ("gradient norm", lambda p: p.gradient),
    "rate": ("learning rate", lambda p: p.learning_rate),
    "speed": ("tokens a second", lambda p: p.tokens_per_s or None),
}
"""What may be drawn, with its title and what it reads of a point."""


def curves_of(read: Read) -> list[str]:
    """The curves for which something was recorded; loss even before anything was."""
    return [
        name
        for name, (_, value) in CURVES.items()
        if name == "loss" or any(value(point) is not None for point in read.points)
    ]


def drawn_together(watched: Watched) -> list[str]:
    """The trainings that are drawn in one figure, the one looked at first; empty where it is drawn alone."""
    read, found = watched.looked_at, watched.read
    return [read.row.id, *found.over] if read is not None and found is not None and found.over else []


def figure(watched: Watched, name: str, *, log: bool, at: float | None, plain: bool) -> Figure:
    """One curve of the training looked at, with the same of those that lie over it."""
    read = watched.looked_at
    title, value = CURVES[name]
    if read is None or watched.read is None:
        return Figure(title, ())
    lines = {line.id: line for line in watched.read.lines}
    together = drawn_together(watched)
    if together:
        several = {each: watched.read.over.get(each, read.points) for each in together}
        series = [
            Series(f"{lines[each].kind} {each[:8]}", _smoothed(seen, value), STYLES[i % len(STYLES)], label=str(i + 1))
            for i, (each, seen) in enumerate(several.items())
        ]
    elif name == "rewards":
        series = [
            *_with_raw(read.points, lambda p: p.chosen_reward, "chosen", "green", plain),
            *_with_raw(read.points, lambda p: p.rejected_reward, "rejected", "red", plain),
        ]
    else:
        series = _with_raw(read.points, value, "smoothed", "cyan", plain)
    return Figure(title, tuple(series), log=log, at=at, nothing=_nothing(read.line))


def _with_raw(seen: Sequence[TrainingPoint], value: Reading, name: str, style: str, plain: bool) -> list[Series]:
    """As it was, in the background; smoothed; and what was measured on people who are held back, as signs."""
    raw = _series(seen, value, "training")
    measured = _series(seen, value, "evaluation")
    label = name[0] if name != "smoothed" else ""
    held_back = "held back" if name == "smoothed" else f"{name}, held back"
    found = [
        Series("each step" if name == "smoothed" else "", raw, "dim"),
        Series(name, smooth(raw), style, label=label),
        Series(held_back, measured, "yellow" if name == "smoothed" else style, sign="o" if plain else "◆"),
    ]
    return [each for each in found if any(y is not None for _, y in each.points)]


def _smoothed(seen: Sequence[TrainingPoint], value: Reading) -> list[Point]:
    return smooth(_series(seen, value, "training"))


def _series(seen: Sequence[TrainingPoint], value: Reading, kind: str) -> list[Point]:
    return [(point.step, value(point)) for point in seen if point.kind == kind]


def _nothing(line: TrainingLine) -> str:
    if line.word == "warming":
        return "the base is being loaded; the first point comes after the first step"
    return "the first point comes after the first step" if line.live else "no step was done"


# In words


def time_left(read: Read) -> tuple[float, float] | None:
    """Seconds until the training is done, as a range; None while too little was seen of the process at work on it.

    The two ends are the pace of this process and that of the last third of its points, ten percent wider.
    """
    began = max((event.at for event in read.events if event.kind == "engine.started"), default=0.0)
    seen = [point for point in read.points if point.kind == "training" and point.at >= began]
    if not read.line.live or len(seen) < ENOUGH_POINTS:
        return None
    shares = [share_done(read.row, point.step, point.epoch) for point in seen]
    paces = [_pace(seen, shares, 0), _pace(seen, shares, len(seen) * 2 // 3)]
    known = [pace for pace in paces if pace > 0]
    owed = 1 - shares[-1]
    return (owed / max(known) * 0.9, owed / min(known) * 1.1) if known else None


def _pace(seen: Sequence[TrainingPoint], shares: Sequence[float], first: int) -> float:
    seconds = seen[-1].at - seen[first].at
    return (shares[-1] - shares[first]) / seconds if seconds > 0 else 0.0


def figures_in_words(read: Read) -> str:
    """The last figures of a training in a line, with how the loss moved over the last hundred steps."""
    trained = [point for point in read.points if point.kind == "training"]
    if not trained:
        return _nothing(read.line)
    last = trained[-1]
    parts = [f"loss {_number(last.loss)}{_moved(trained)}"]
    if last.margin is not None:
        parts += [f"margin {_number(last.margin)}", f"accuracy {_number(last.accuracy)}"]
    if last.learning_rate is not None:
        parts.append(f"rate {last.learning_rate:.2g}")
    measured = [point for point in read.points if point.kind == "evaluation"]
    if measured:
        parts.append(f"held back {_number(measured[-1].loss)}")
    return "  ".join([*parts, f"{count(last.tokens_per_s)} tokens/s"])


def _moved(trained: Sequence[TrainingPoint]) -> str:
    last = trained[-1]
    before = next((p for p in reversed(trained) if p.step <= last.step - 100), None)
    if before is None or before.loss is None or last.loss is None:
        return ""
    return f" ({last.loss - before.loss:+.3f} in 100 steps)"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def next_step(read: Read, now: float) -> str:
    """How a training stands and what a person may want to do now."""
    line = read.line
    short, kept = line.id[:8], read.checkpoint
    onward = f"from the checkpoint at step {kept}" if kept is not None else "from the beginning: no checkpoint was made"
    match line.word:
        case "new":
            return "R begins it"
        case "warming":
            return "the base is being loaded and the trees packed"
        case "running":
            return "space pauses with a checkpoint, S stops and keeps what was learnt"
        case "late":
            silent = now - (line.heard_at or now)
            return f"its process, pid {line.pid}, has said nothing for {silent:.0f} s; it may be short of memory"
        case "paused":
            return f"space goes on {onward}"
        case "crashed":
            return f"its process is gone; R goes on {onward}"
        case "stopped":
            return "what was learnt is its adapter; R would go on" if line.adapter else f"R goes on {onward}"
        case "failed":
            return f"R tries again {onward}; n sets up another"
        case "done":
            made = line.adapter
            return f"talk with it: espalier chat {read.row.operation['base']} --adapter {(made or short)[:8]}"


def event_in_words(event: Event) -> str:
    """What happened, in a line."""
    data = event.data
    match event.kind:
        case "training.planned":
            return f"planned: {', '.join(f'{number} {unit}' for unit, number in data.items())}"
        case "training.checkpoint":
            return f"checkpoint at step {data.get('step')}"
        case "training.forecast":
            return f"about {duration(data['left_s'])} for {data['steps']} steps, by a row that was tried"
        case "engine.started":
            return f"a process began at step {data.get('step', 0)}, pid {data.get('pid')}"
        case "engine.left":
            return f"the process left: {data.get('state')} {data.get('reason') or ''}".rstrip()
        case "command":
            return f"{data.get('verb')} by {data.get('asked_by')}"
    return f"{event.kind} {data}"


def settings_in_words(row: TrainingRow) -> list[str]:
    """What is trained, and how: the parts of a configuration that a person compares."""
    schedule, lora = row.configuration["schedule"], row.configuration["lora"]
    length = f"{schedule['steps']} steps" if schedule["steps"] else f"{schedule['epochs']:g} passes"
    how = "all weights" if lora is None else f"adapters of rank {lora['rank']}"
    loss = (
        f", {row.configuration['loss']['kind']} beta {row.configuration['loss']['beta']:g}" if row.kind == "dpo" else ""
    )
    begins = "the base" if row.start_adapter is None else f"adapter {row.start_adapter[:8]}"
    lineage = row.lineage
    return [
        f"{row.operation['base']}, from {begins}",
        f"{length}, rate {schedule['learning_rate']:g}, {how}{loss}, seed {row.configuration['seed']}",
        f"{len(lineage['people'])} people seen, lineage {'known' if lineage['known'] else 'unknown'}",
    ]


# The data


@dataclass(frozen=True, slots=True)
class DataRead:
    """What a training learns from, looked at as `data lint` does."""

    training: str
    lines: tuple[str, ...]
    changed: bool
    """Whether the store no longer holds what the training began with."""


def read_data(store: Store, row: TrainingRow) -> DataRead:
    """What a training's own selection keeps, and what it drops and why. Raises NotFound, HeldOut or SetupError."""
    from train.data import select, stored_selection
    from train.lint import lint

    selection, files = stored_selection(row.selection)
    settings = row.configuration
    found = select(store, replace(selection, evaluation=settings["evaluation"]["share"], seed=settings["seed"]), files)
    data = found.only("dpo" if row.kind == "dpo" else "sft")
    unit = "pairs" if row.kind == "dpo" else "targets"
    lines = []
    for side, what in (("train", "trained on"), ("evaluation", "held back to measure on")):
        trees = data.side("train" if side == "train" else "evaluation")
        people = {(tree.profile_id, tree.personality_id) for tree in trees}
        number = sum(len(getattr(tree, unit)) for tree in trees)
        lines.append(f"{number} {unit} in {len(trees)} trees of {len(people)} people {what}")
    lines += [f"judged by {data.judge}"] if data.judge else []
    dropped = data.dropped.get(unit, {})
    lines += [f"dropped: {number} {reason}" for reason, number in dropped.items()] or ["nothing was dropped"]
    lines += [f"{finding.severity}: {finding.what}" for finding in lint(store, data).findings]
    return DataRead(row.id, tuple(lines), data.digest != row.data_digest)
