"""Evaluation: benchmarks of the store, levels by turn of several models, two of them compared, and what was said.

Figures are read anew while a benchmark is played, as often as reading them allows. Measuring itself is a run like any
other: it is gone on with here, and watched in Monitor.

Invariant: no model is called better but in the words of the comparison, which claims no more than there is.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical, VerticalScroll
from textual.widgets import DataTable, Static

from trees.store import Store
from tui.app.content import Cell, drawn, flat, pill, safe
from tui.app.evaluating import (
    BenchLine,
    CaseLine,
    Evaluation,
    caveats,
    chosen,
    figure,
    in_words,
    read_case,
    read_cases,
    read_evaluation,
    read_lines,
    read_rounds,
    talk,
)
from tui.app.frame import Mode, Pane, Table
from tui.app.plot import CurvePlot
from tui.benchview import bracketed
from tui.sanitise import one_line

READ_S = 2.0
"""Between two readings of what is being played, in seconds, or longer where reading takes more than a tenth of it."""
SHARE_OF_TIME = 0.1
EMPTY = """\
No model has been measured in this store yet. A benchmark lets models talk to people they have never met,
and scores every reply.

espalier bench init bench.toml            writes a commented file, valid as it stands
espalier bench run bench.toml             measures its models; what is scored appears here as it comes"""


class EvaluationScreen(Mode):
    """Benchmarks."""

    MODE = "evaluation"
    EVERY_S = READ_S
    TOUR = (
        "Evaluation shows benchmarks: the level of each model by turn, with the 95 % interval of the two that are "
        "compared. Up and down choose the model, = sets it as the one to compare with, < and > point at a turn, enter "
        "lists the conversations from best to worst, both models side by side. t shows numbers, g the share of the gap."
    )
    CSS = """
    EvaluationScreen #both { layout: horizontal; }
    EvaluationScreen #left { width: 56; }
    EvaluationScreen.-three #left { width: 94; }
    EvaluationScreen #right { width: 1fr; }
    EvaluationScreen #benches { height: auto; max-height: 8; min-height: 4; }
    EvaluationScreen #models { height: 1fr; min-height: 5; }
    EvaluationScreen #rounds { height: auto; max-height: 12; display: none; }
    EvaluationScreen.-rounds #rounds { display: block; }
    EvaluationScreen.-narrow #rounds, EvaluationScreen.-short #rounds { display: none; }
    EvaluationScreen.-rounds.-narrow.-side #rounds { display: block; }
    EvaluationScreen #compared { height: auto; max-height: 14; }
    EvaluationScreen #levels { height: 1fr; min-height: 6; }
    EvaluationScreen #cases { height: 1fr; max-height: 14; display: none; }
    EvaluationScreen #talk { height: 2fr; display: none; }
    EvaluationScreen.-drilled #cases, EvaluationScreen.-drilled #talk { display: block; }
    EvaluationScreen.-drilled #levels { display: none; }
    EvaluationScreen.-high.-drilled #levels { display: block; }
    EvaluationScreen.-high.-three #cases, EvaluationScreen.-high.-three #talk { display: block; }
    EvaluationScreen.-narrow #both { layout: vertical; }
    EvaluationScreen.-narrow #left { width: 1fr; height: 9; }
    EvaluationScreen.-narrow #right { width: 1fr; height: 1fr; }
    EvaluationScreen.-narrow #benches, EvaluationScreen.-narrow #compared { display: none; }
    EvaluationScreen.-narrow.-drilled #left { display: none; }
    EvaluationScreen.-narrow #cases { max-height: 7; }
    EvaluationScreen.-narrow.-side #right, EvaluationScreen.-narrow.-side #models { display: none; }
    EvaluationScreen.-narrow.-side #left { height: 1fr; }
    EvaluationScreen.-narrow.-side #benches, EvaluationScreen.-narrow.-side #compared { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "deeper", "Conversations", id="evaluation.deeper"),
        Binding("escape", "back", "Back", show=False, id="evaluation.back"),
        Binding("t", "table", "Numbers", id="evaluation.table"),
        Binding("g", "gap", "Gap", id="evaluation.gap"),
        Binding("equals_sign", "base", "Compare with", key_display="=", id="evaluation.base"),
        Binding("less_than_sign", "turn(-1)", "Turn before", key_display="<", show=False, id="evaluation.before"),
        Binding("greater_than_sign", "turn(1)", "Next turn", key_display=">", show=False, id="evaluation.after"),
        Binding("x", "export", "Report", id="evaluation.export"),
        Binding("R", "resume", "Go on measuring", show=False, id="evaluation.resume"),
        Binding("Z", "side", "Side panes", id="evaluation.side"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.lines: tuple[BenchLine, ...] = ()
        self.evaluation: Evaluation | None = None
        self.base: str | None = None
        """The model that a person set to compare with."""
        self.turn: int | None = None
        """The turn that is pointed at, from 1; None for all of them."""
        self.cases: tuple[CaseLine, ...] = ()
        self.rounds: Mapping[str, Any] | None = None
        """The timeline of the rounds begun last."""
        self.case: dict[str, Any] | None = None
        """What was said in the case under the cursor."""
        self._shown: str | None = None
        """The benchmark that is shown: the first time, the cursor goes to the model that a report would show."""
        self._wanted: str | None = None
        """The benchmark that is looked at."""
        self._ranking: tuple[str | None, str, int | None] | None = None
        """What cases are ranked by: under another ranking the cursor goes to the best one."""
        self._gap = False
        self._table = False
        self._next_read = 0.0

    def panes(self) -> ComposeResult:
        with Container(id="both"):
            with Vertical(id="left"):
                yield Pane(
                    "benchmarks",
                    Table(id="bench-table"),
                    id="benches",
                    about="The benchmarks of this store, the latest first. Models of one of them were measured on "
                    "the same people by the same judge.",
                )
                yield Pane(
                    "models, enter shows what was said",
                    Table(id="model-table"),
                    id="models",
                    about="The models under test: how far each is measured, its mean and its slope (IR, a turn) with "
                    "95 % intervals. = sets the one to compare with.",
                )
                yield Pane(
                    "compared",
                    VerticalScroll(Static(id="compared-told")),
                    id="compared",
                    about="The model under the cursor against the one to compare with. A difference is called one "
                    "only if p, corrected for all tests, and the interval both say so.",
                )
                yield Pane(
                    "rounds",
                    Table(id="round-table"),
                    id="rounds",
                    about="The rounds that were begun last, step by step. enter shows what a step made: a benchmark "
                    "here, a run in Trees, a training in Train.",
                )
            with Vertical(id="right"):
                yield Pane(
                    "level by turn",
                    CurvePlot(id="level-plot", plain=self.main.plain),
                    id="levels",
                    about="The mean score of the replies at each turn, with the ends of 95 % intervals. < and > "
                    "point at a turn, t shows the numbers, g the share of the gap from floor to ceiling.",
                )
                yield Pane(
                    "conversations",
                    Table(id="case-table"),
                    id="cases",
                    about="The best and the worst conversations of the two models, at the turn pointed at or over "
                    "all of them. enter opens the tried model's in Trees.",
                )
                yield Pane(
                    "side by side",
                    VerticalScroll(Static(id="talk-told"), id="talk-scroll"),
                    id="talk",
                    about="The same person with both models.",
                )

    def on_mount(self) -> None:
        super().on_mount()
        self.query_one("#bench-table", Table).columns_are(("benchmark", 16), ("judge", 12), ("", 9), ("played", 6))
        self.query_one("#model-table", Table).columns_are(
            ("", 2), ("model", 14), ("mean", 17), ("", 9), ("IR, a turn", 23), ("scored", 9), ("how", None)
        )
        self.query_one("#case-table", Table).columns_are(
            ("case", 5), ("diff", 7), ("base", 6), ("tried", 6), ("person", None)
        )
        self.query_one("#round-table", Table).columns_are(("", 2), ("step", 11), ("", 9), ("came to", None))
        self.query_one("#model-table").focus()

    # Reading

    def refresh_view(self) -> None:
        now = time.monotonic()
        if self.evaluation is not None and now < self._next_read:
            self.set_timer(self._next_read - now + 0.01, self._again)
            return
        if self.evaluation is None:
            self.pane("levels").notice("loading", "reading the benchmarks ...")
        self._next_read = now + READ_S
        self.ask("figures", self._read, self.pane("levels"))

    def _again(self) -> None:
        if self.is_current and time.monotonic() >= self._next_read:
            self.refresh_view()

    async def _read(self) -> None:
        began, wanted = time.monotonic(), self._wanted

        def read(store: Store) -> tuple[list[BenchLine], Evaluation | None, Mapping[str, Any] | None]:
            lines = read_lines(store, self.main.clock())
            line = next((each for each in lines if each.id == wanted), next(iter(lines), None))
            return lines, None if line is None else read_evaluation(store, line), read_rounds(store)

        there = self.main.store_path.is_file()
        lines, evaluation, self.rounds = await self.main.deep.ask(read) if there else ([], None, None)
        self._next_read = time.monotonic() + max(READ_S, (time.monotonic() - began) / SHARE_OF_TIME)
        self.lines, self.evaluation = tuple(lines), evaluation
        self._show()

    # Showing

    def _show(self) -> None:
        self.query_one("#bench-table", Table).fill((line.id, self._bench(line)) for line in self.lines)
        self._show_rounds()
        evaluation = self.evaluation
        if evaluation is None:
            for pane, words in (("models", "no model yet"), ("compared", "nothing to compare yet")):
                self.pane(pane).notice("empty", words)
            # The words stand above an empty plot, which keeps the focus where nothing else is shown.
            self.pane("levels").notice("partial", EMPTY)
            self.query_one("#level-plot" if self.has_class("-narrow") else "#bench-table").focus()
            return
        for pane in ("benches", "models", "compared"):
            self.pane(pane).clear()
        self._wanted = evaluation.line.id
        table = self.query_one("#model-table", Table)
        fresh = self._shown != evaluation.line.id
        self._show_models()
        if fresh:
            self._shown = evaluation.line.id
            _, usual = chosen(evaluation, None, None)
            if usual is not None:
                table.move_cursor(row=table.get_row_index(usual.model))
        self._show_models()
        self._show_plot()
        self._read_cases()

    def _show_models(self) -> None:
        evaluation = self.evaluation
        if evaluation is not None:
            rows = [(m["model"], self._model(evaluation, n, m)) for n, m in enumerate(evaluation.shown["models"])]
            self.query_one("#model-table", Table).fill(rows)

    def _show_rounds(self) -> None:
        rounds = self.rounds
        self.set_class(rounds is not None, "-rounds")
        if rounds is not None:
            self.pane("rounds").name_it(safe(one_line(f"rounds {rounds['name']}: {rounds['state']}", 50)))
            lines = enumerate(rounds["timeline"])
            self.query_one("#round-table", Table).fill((str(at), _step(line)) for at, line in lines)

    def _bench(self, line: BenchLine) -> tuple[Cell, ...]:
        share = f"{line.share:.0%}"
        return (
            flat(line.name, 16),
            flat(line.judge, 12, "muted"),
            pill(line.word, plain=self.main.plain),
            (share, "muted"),
        )

    def _model(self, evaluation: Evaluation, number: int, model: dict[str, Any]) -> tuple[Cell, ...]:
        base, _ = self.compared()
        sign = "=" if base is not None and base.model == model["model"] else " "
        run = evaluation.run(model["model"])
        due = model["cases"] * evaluation.line.turns
        scored = sum(model["n"])
        return (
            (f"{chr(ord('A') + number % 26)}{sign}", "accent"),
            flat(model["model"], 14),
            (_short(model["mean"]), ""),
            pill(run.word, plain=self.main.plain) if run is not None else ("", ""),
            (bracketed(model["ir"]), ""),
            (f"{scored}/{due}", "warn" if scored < due else "muted"),
            flat(model["how"], 12, "muted"),
        )

    def compared(self) -> tuple[Any, Any]:
        """The results of the base (None if there is no other model) and of the model under the cursor."""
        if self.evaluation is None:
            return None, None
        table = self.query_one("#model-table", Table)
        return chosen(self.evaluation, self.base, table.at)

    def _show_plot(self) -> None:
        evaluation = self.evaluation
        if evaluation is None:
            return
        base, tried = self.compared()
        of = [result.model for result in (base, tried) if result is not None]
        plot = figure(evaluation, of, gap=self._gap, at=self.turn, plain=self.main.plain)
        self.query_one("#level-plot", CurvePlot).show(plot, as_table=self._table)
        pane = self.pane("levels")
        name = one_line(evaluation.line.name, 30)
        pane.name_it(safe(f"{name}: {'share of the gap' if self._gap else 'level by turn'}, {self._where()}"))
        if evaluation.scored < evaluation.due:
            pane.notice("partial", f"partial: {evaluation.scored} of {evaluation.due} replies are scored{self._why()}")
        else:
            pane.clear()
        lines = in_words(evaluation, *(None if r is None else r.model for r in (base, tried)))
        told = caveats(evaluation, None if tried is None else tried.model)
        self.query_one("#compared-told", Static).update(drawn([*lines, *told]))

    def _where(self) -> str:
        return "all turns" if self.turn is None else f"turn {self.turn}"

    def _why(self) -> str:
        """Why there are no more of them, and what to do."""
        assert self.evaluation is not None
        word = self.evaluation.line.word
        if word in ("running", "warming", "late"):
            return "; it is being played, and intervals narrow as scores come"
        return {"done": "; what is missing failed"}.get(
            word, f"; {word}: R goes on measuring the model under the cursor"
        )

    # Conversations

    def _read_cases(self) -> None:
        base, tried = self.compared()
        if tried is None or not self.pane("cases").display:
            return
        turn = self.turn

        async def read() -> None:
            cases = await self.main.pages.ask(lambda store: read_cases(store, base, tried, turn))
            self.cases = tuple(cases)
            against = f"{tried.model} less {base.model}" if base is not None else tried.model
            self.pane("cases").name_it(safe(one_line(f"conversations, {against}, {self._where()}", 80)))
            ranking = (self._wanted, against, turn)
            self._show_cases(anew=ranking != self._ranking)
            self._ranking = ranking

        self.ask("cases", read, self.pane("cases"))

    def _show_cases(self, *, anew: bool) -> None:
        pane, table = self.pane("cases"), self.query_one("#case-table", Table)
        if not self.cases:
            pane.notice("empty", "no reply is scored by both models here yet")
            self.pane("talk").notice("empty", "nothing to show side by side yet")
            return
        pane.clear()
        table.fill((str(case.case), _case(case)) for case in self.cases)
        if anew:
            table.move_cursor(row=0)
        self._read_talk()

    def _read_talk(self) -> None:
        base, tried = self.compared()
        case = self._case_at()
        if tried is None or case is None:
            return

        async def read() -> None:
            self.case = await self.main.pages.ask(lambda store: read_case(store, base, tried, case))
            self._show_talk()

        self.ask("talk", read, self.pane("talk"))

    def _case_at(self) -> CaseLine | None:
        at = self.query_one("#case-table", Table).at
        return next((case for case in self.cases if str(case.case) == at), None)

    def _show_talk(self) -> None:
        if self.case is None or self.evaluation is None:
            return
        pane = self.pane("talk")
        pane.clear()
        pane.name_it(f"case {self.case['case'] + 1} side by side")
        width = max(self.query_one("#talk-scroll").size.width - 3, 20)
        lines = talk(self.case, self.turn, self.evaluation.shown["unit"], width, plain=self.main.plain)
        self.query_one("#talk-told", Static).update(drawn(lines))

    def on_resize(self, _: events.Resize) -> None:
        self.call_after_refresh(self._show_talk)

    # Moving

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        if event.data_table.id == "bench-table":
            if event.row_key.value not in (None, self._wanted):
                self._wanted, self.base, self.turn = event.row_key.value, None, None
                self._next_read = 0.0
                self.refresh_view()
        elif event.data_table.id == "model-table":
            self._show_models()
            self._show_plot()
            self._read_cases()
        elif event.data_table.id == "case-table":
            self._read_talk()

    def on_data_table_row_selected(self, _: DataTable.RowSelected) -> None:
        self.action_deeper()

    def action_deeper(self) -> None:
        """From benchmarks to models, to conversations, to the tree itself."""
        focused = self.focused.id if self.focused is not None else None
        if focused == "round-table":
            self._open_step()
            return
        if self.evaluation is None:
            return
        if focused == "bench-table":
            self.remove_class("-side")
            self.call_after_refresh(self.query_one("#model-table").focus)
        elif focused in ("case-table", "talk-scroll"):
            self._open_tree()
        else:
            self.add_class("-drilled")
            self._read_cases()
            self.call_after_refresh(self.query_one("#case-table").focus)

    def _open_step(self) -> None:
        """What a step of the rounds made, where it is shown."""
        at = self.query_one("#round-table", Table).at
        step = self.rounds["timeline"][int(at)] if self.rounds is not None and at is not None else None
        if step is None or step["made"] is None:
            return
        if step["step"] == "simulate":
            self.main.run_id = step["made"]
            self.main.action_go("trees")
        elif step["step"] in ("sft", "dpo"):
            self.main.action_go("train")
        elif step["step"] == "benchmark" and any(line.id == step["made"] for line in self.lines):
            table = self.query_one("#bench-table", Table)
            table.move_cursor(row=table.get_row_index(step["made"]))
            self.call_after_refresh(self.query_one("#model-table").focus)

    def _open_tree(self) -> None:
        case, (_, tried) = self._case_at(), self.compared()
        if case is not None and tried is not None:
            self.main.look_at_tree(tried.run_id, case.tree)

    def action_back(self) -> None:
        if self.has_class("-drilled"):
            self.remove_class("-drilled")
            self.call_after_refresh(self.query_one("#model-table").focus)
        elif self.turn is not None:
            self.turn = None
            self._show_plot()
            self._read_cases()

    def action_table(self) -> None:
        self._table = not self._table
        self._show_plot()

    def action_gap(self) -> None:
        self._gap = not self._gap
        self._show_plot()

    def action_base(self) -> None:
        self.base = self.query_one("#model-table", Table).at
        self._show()

    def action_turn(self, step: int) -> None:
        if self.evaluation is None:
            return
        first = 1 if step > 0 else self.evaluation.line.turns
        self.turn = first if self.turn is None else min(max(self.turn + step, 1), self.evaluation.line.turns)
        self._show_plot()
        self._read_cases()

    def action_side(self) -> None:
        self.toggle_class("-side")
        if self.has_class("-narrow"):
            first = "#bench-table" if self.has_class("-side") else "#model-table"
            self.call_after_refresh(self.query_one(first).focus)

    def copied(self) -> str | None:
        return self.query_one("#level-plot", CurvePlot).text() if self.evaluation is not None else None

    # Having things done

    def action_export(self) -> None:
        if self.evaluation is None:
            return
        benchmark = self.evaluation.line.id
        file = self.main.store_path.with_name(f"benchmark-{benchmark[:8]}.html")

        async def export() -> None:
            ended = await self.main.have_done("writing the report", "report", benchmark, "--html", str(file), "--json")
            if ended.code == 0:
                self.main.tell(f"wrote {file}")

        self.main.set_to_work(export)

    def action_resume(self) -> None:
        _, tried = self.compared()
        run = self.evaluation.run(tried.model) if self.evaluation is not None and tried is not None else None
        if run is None or run.live:
            return
        retry = ["--retry-failed"] if run.word in ("failed", "done") else []

        async def resume() -> None:
            await self.main.have_done(f"measuring {tried.model}", "resume", run.id, *retry, "--detach", "--json")

        self.main.set_to_work(resume)


def _step(line: Mapping[str, Any]) -> tuple[Cell, ...]:
    tones = {"done": "good", "running": "accent", "crashed": "bad", "failed": "bad", "stopped": "warn"}
    return (
        (str(line["round"]), "muted"),
        flat(line["step"], 11),
        (line["standing"], tones.get(line["standing"], "muted")),
        flat(line["figure"], 80, "muted"),
    )


def _short(figure: dict[str, Any]) -> str:
    """A figure with its interval in few cells."""
    if figure["value"] is None or figure["low"] is None:
        return bracketed(figure)
    return f"{figure['value']:.2f} [{figure['low']:.2f}, {figure['high']:.2f}]"


def _case(case: CaseLine) -> tuple[Cell, ...]:
    def told(value: float | None) -> str:
        return "" if value is None else f"{value:.2f}"

    tone = "good" if case.value > 0 else "bad" if case.value < 0 else ""
    value = f"{case.value:+.2f}" if case.base is not None else f"{case.value:.2f}"
    return (
        (str(case.case + 1), "muted"),
        (value, tone if case.base is not None else ""),
        (told(case.base), ""),
        (told(case.tried), ""),
        flat(case.title, 80),
    )
