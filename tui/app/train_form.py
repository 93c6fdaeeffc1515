"""A training that is being set up: its fields, the command line that they stand for, and a check before it starts.

The check is a dry run of the very command that would start it, so what it says (data kept and dropped, steps, tokens)
is what would be trained. What is left empty has the default, which the check tells.

Invariant: nothing starts from here but by the command line, and nothing is trained by a check.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, cast

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import DataTable, Static
from textual.worker import Worker

from trees.errors import EspalierError
from trees.store import Store
from tui.app.content import Cell, flat, safe
from tui.app.dialogs import Choice, Line
from tui.app.frame import Table, unless_gone
from tui.console import count
from tui.sanitise import one_line

if TYPE_CHECKING:
    from tui.app.app import EspalierApp


@dataclass(frozen=True, slots=True)
class Field:
    """Something to fill in."""

    name: str
    about: str
    option: str = ""
    """The option it is given by; empty for a key of the configuration."""
    key: str = ""
    """Where the configuration has it."""


METHOD = Field("method", "sft: winning replies are learnt; dpo: of two replies the preferred one")
FIELDS = (
    METHOD,
    Field("model", "the base: embedded, a GGUF file, a folder, or owner/repo", "--model", "base"),
    Field("run", "only what was judged in this run; all runs if left empty", "--run"),
    Field("judge", "whose verdicts; the only judge's if left empty", "--judge"),
    Field("from", "an adapter to go on from; the base if left empty", "--adapter"),
    Field("passes", "passes over the data", key="schedule.epochs"),
    Field("steps", "optimiser steps at most; 0 leaves it to the passes", key="schedule.steps"),
    Field("rate", "highest learning rate", key="schedule.learning_rate"),
    Field("rank", "rank of the adapters", key="lora.rank"),
    Field("beta", "dpo: how much moving away from the reference costs", key="loss.beta"),
    Field("held back", "share of the people who are held back to measure on", key="evaluation.share"),
    Field("seed", "of the order of rows, dropout and fresh adapters", key="seed"),
)
DEFAULTS: Mapping[str, str] = {"method": "sft", "model": "embedded"}
"""What must be given. Everything else has its default where the training is planned."""


def words_of(values: Mapping[str, str]) -> tuple[str, ...]:
    """The words after `espalier` that stand for these values."""
    words = ["train", values["method"]]
    for field in FIELDS:
        value = values.get(field.name, "").strip()
        if not value or field is METHOD:
            continue
        words += [field.option, value] if field.option else ["--set", f"{field.key}={value}"]
    return tuple(words)


def default_of(field: Field, configuration: Mapping[str, Any]) -> str:
    """What a field is where nothing is given, as a dry run tells it; empty where it tells nothing."""
    at: Any = configuration
    for key in field.key.split("."):
        at = at.get(key) if isinstance(at, Mapping) else None
    return "" if at is None or not field.key or field.option else str(at)


def told(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a dry run found, as lines with their tones."""
    data = facts["data"]
    unit = "pairs" if facts["configuration"]["objective"] == "dpo" else "targets"
    stands = "" if facts["state"] is None else f"  It is in the store already: {facts['state']}."
    lines = [
        (f"{data[unit]} {unit} in {data['trees']} trees of {data['people']} people{stands}", "bold"),
        (f"{data['measured_trees']} trees held back to measure on", ""),
        (f"{facts['steps']} steps, {count(facts['tokens'])} tokens a pass in {facts['rows']} rows", ""),
    ]
    dropped = {**data["dropped"].get(unit, {}), **facts["left_out"]}
    lines += [(f"dropped: {number} {reason}", "muted") for reason, number in dropped.items()]
    return lines + [(note, "muted") for note in data["notes"]]


@dataclass(frozen=True, slots=True)
class Offered:
    """What the store has to choose from, each with how it is called."""

    runs: tuple[tuple[str, str], ...]
    judges: tuple[tuple[str, str], ...]
    adapters: tuple[tuple[str, str], ...]


def read_offered(store: Store) -> Offered:
    """Runs, judges and adapters of a store."""
    from trees.trainings import adapters, training

    runs = ((run.id, f"{run.id[:8]} {one_line(run.name, 40)}, {run.state}") for run in store.runs())
    made = ((row.id, f"{row.id[:8]} {training(store, row.training_id).kind}") for row in adapters(store))
    judged = store.rows(
        "SELECT id, name FROM judges WHERE id IN (SELECT DISTINCT judge_id FROM judgements) ORDER BY name, id"
    )
    judges = ((judge, f"{one_line(name, 30)} ({judge[:12]})") for judge, name in judged)
    return Offered(tuple(runs), tuple(judges), tuple(made))


class TrainForm(ModalScreen[tuple[str, ...] | None]):
    """The form. Dismissed with the words that start the training, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "Cancel", id="train.form.cancel"),
        Binding("enter", "change", "Change", id="train.form.change"),
        Binding("ctrl+t", "check", "Check", id="train.form.check"),
        Binding("ctrl+r", "start", "Start", id="train.form.start"),
    ]
    DEFAULT_CSS = """
    TrainForm { align: center middle; }
    TrainForm > .box { width: 96; max-width: 98%; height: auto; max-height: 96%; padding: 0 1;
        background: $panel; border: round $primary; }
    TrainForm Table { height: auto; max-height: 14; background: $panel; }
    TrainForm #checked { height: auto; max-height: 8; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, str] = dict(DEFAULTS)
        self.offered = Offered((), (), ())
        self.configuration: Mapping[str, Any] = {}
        """As the last check found it."""
        self.checked = ""
        """What the last check found, or what is wrong; empty while one is made."""
        self._checks = 0

    @property
    def main(self) -> EspalierApp:
        return cast("EspalierApp", self.app)

    def compose(self) -> ComposeResult:
        with Vertical(classes="box"):
            yield Static(safe("A new training. enter changes a field, ctrl+t checks, ctrl+r starts, escape leaves."))
            yield Table(id="train-fields")
            yield Static(id="command")
            yield VerticalScroll(Static(safe(_UNCHECKED, "muted"), id="told"), id="checked")

    def on_mount(self) -> None:
        self.query_one(Table).columns_are(("field", 10), ("value", 26), ("", None))
        self._show()
        self.query_one(Table).focus()
        _: Worker[None] = self.run_worker(partial(unless_gone, self, self._offer))

    async def _offer(self) -> None:
        try:
            self.offered = await self.main.pages.ask(read_offered)
        except EspalierError as error:
            self._tell([(str(error), "bad")])
            return
        self._show()

    def _show(self) -> None:
        self.query_one(Table).fill((field.name, self._row(field)) for field in FIELDS)
        self.query_one("#command", Static).update(safe(f"espalier {' '.join(words_of(self.values))}", "muted"))

    def _row(self, field: Field) -> tuple[Cell, ...]:
        given = self.values.get(field.name, "")
        shown = given or default_of(field, self.configuration)
        known = dict((*self.offered.runs, *self.offered.judges, *self.offered.adapters))
        value = flat(known.get(shown, shown), 26, "bold" if given else "muted")
        return flat(field.name, 10), value, flat(field.about, 60, "muted")

    def _tell(self, lines: Sequence[tuple[str, str]]) -> None:
        self.checked = "\n".join(line for line, _ in lines)
        self.query_one("#told", Static).update(Content("\n").join([safe(line, tone) for line, tone in lines]))

    # Changing a field

    def on_data_table_row_selected(self, _: DataTable.RowSelected) -> None:
        self.action_change()

    def action_change(self) -> None:
        at = self.query_one(Table).at
        field = next(field for field in FIELDS if field.name == at)
        choices = self._choices(field)
        words = f"{field.name}: {field.about}"
        if choices:
            names = [name for _, name in choices]
            self.main.push_screen(Choice(words, names), partial(self._chosen, field, choices))
        else:
            self.main.push_screen(Line(words, self.values.get(field.name, "")), partial(self._change, field))

    def _choices(self, field: Field) -> tuple[tuple[str, str], ...]:
        """What a field can be and how it is called; empty where it is written."""
        if field is METHOD:
            return (("sft", "sft"), ("dpo", "dpo"))
        offered = {"run": self.offered.runs, "judge": self.offered.judges, "from": self.offered.adapters}
        return (("", "(left empty)"), *offered[field.name]) if field.name in offered else ()

    def _chosen(self, field: Field, choices: Sequence[tuple[str, str]], name: str | None) -> None:
        self._change(field, next((value for value, each in choices if each == name), None))

    def _change(self, field: Field, value: str | None) -> None:
        if value is None or value == self.values.get(field.name, ""):
            return
        self.values[field.name] = value.strip() or DEFAULTS.get(field.name, "")
        self._show()
        self._tell([(_UNCHECKED, "muted")])

    # Checking and starting

    def action_check(self) -> None:
        self._checks += 1
        self._tell([("checking: what would be trained ...", "muted")])
        self.checked = ""
        number = self._checks

        async def check() -> None:
            await self._check(number)

        self.main.set_to_work(check)

    async def _check(self, number: int) -> None:
        ended = await self.main.have_done("checking", *words_of(self.values), "--dry-run", "--json", quiet=True)
        if number != self._checks or not self.is_running:
            return
        if ended.code != 0:
            self._tell([(ended.reason, "bad")])
            return
        self.configuration = ended.document["configuration"]
        self._show()
        self._tell(told(ended.document))

    def action_start(self) -> None:
        self.dismiss(words_of(self.values))


_UNCHECKED = "ctrl+t tells what would be trained, and what is dropped and why"
