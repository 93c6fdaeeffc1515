"""The app: a client of one store that shows what is played, judged and kept, and has the command line do the rest.

It reads through three threads (pages for what a person waits for, figures for what is shown beside, deep for what takes
long), writes nothing but command rows and notes, and starts engines as children that outlive it. Each screen is a mode.

Invariant: closing the app, however it ends, ends no run and loses nothing but what a person was typing.
"""

from __future__ import annotations

import gc
import os
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from textual.app import App, SuspendNotSupported, SystemCommand
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.driver import Driver
from textual.drivers.linux_driver import LinuxDriver
from textual.screen import Screen
from textual.widget import Widget
from textual.worker import Worker

from trees.errors import EspalierError, StoreMissing
from trees.store import Store
from tui.app import files
from tui.app.children import Ended, OnLine, command_line
from tui.app.content import pill, styled
from tui.app.dialogs import Help, Jump, Question
from tui.app.frame import TABS, Mode, Pane, Tab, TopBar, unless_gone
from tui.app.reader import Reader
from tui.app.standing import RunLine, run_lines
from tui.app.terminal import TerminalDriver
from tui.app.themes import THEMES
from tui.sanitise import one_line

PULSE_S = 0.25
"""How often the store is looked at for changes while the app has the focus, in seconds."""
BLURRED_PULSE_S = 2.0
BEAT_S = 2.0
"""How often runs are looked at though the store did not change: an engine that is silent changes nothing."""


@dataclass(frozen=True, slots=True)
class Start:
    """What the app is started with."""

    store: Path
    ascii: bool = False
    theme: str | None = None
    mode: str | None = None
    fresh: bool = False
    """Whether what was remembered is ignored."""
    server: int | None = None
    """The process that shows the app to a browser: once it has ended, nobody can see the app."""
    clock: Callable[[], float] = time.time
    """Unix seconds; tests hold it still."""


def _home() -> Screen[None]:
    from tui.app.screens.home import HomeScreen

    return HomeScreen()


def _trees() -> Screen[None]:
    from tui.app.screens.trees import TreesScreen

    return TreesScreen()


def _monitor() -> Screen[None]:
    from tui.app.screens.monitor import MonitorScreen

    return MonitorScreen()


def _setup() -> Screen[None]:
    from tui.app.screens.setup import SetupScreen

    return SetupScreen()


def _prompts() -> Screen[None]:
    from tui.app.screens.prompts import PromptsScreen

    return PromptsScreen()


def _train() -> Screen[None]:
    from tui.app.screens.train import TrainScreen

    return TrainScreen()


def _evaluation() -> Screen[None]:
    from tui.app.screens.evaluation import EvaluationScreen

    return EvaluationScreen()


SCREENS: dict[str, Callable[[], Screen[None]]] = {
    "home": _home,
    "setup": _setup,
    "monitor": _monitor,
    "trees": _trees,
    "prompts": _prompts,
    "train": _train,
    "evaluation": _evaluation,
}


class EspalierApp(App[Path]):
    """The whole app. It returns the store that is to be opened next, if any."""

    TITLE = "espalier"
    MODES: ClassVar[dict[str, Any]] = SCREENS
    ENABLE_COMMAND_PALETTE = True
    CSS = """
    Toast { width: 60; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(str(number), f"go('{mode}')", name, show=False, id=f"app.{mode}")
            for number, (mode, name) in enumerate(TABS, 1)
        ),
        Binding("question_mark,f1", "help", "Help", key_display="?", id="app.help"),
        Binding("ctrl+p", "command_palette", "Palette", show=False, id="app.palette"),
        Binding("ctrl+o", "jump", "Jump", show=False, id="app.jump"),
        Binding("z", "zoom", "Maximise the pane, or back", show=False, id="app.zoom"),
        Binding("y", "copy", "Copy", show=False, id="app.copy"),
        Binding("v", "pager", "Read in $PAGER", show=False, id="app.pager"),
        Binding("r", "reread", "Read again", show=False, id="app.reread"),
        Binding("ctrl+n", "go('setup')", "New run", show=False, id="app.new"),
        Binding("ctrl+l", "redraw", "Draw the terminal anew", show=False, id="app.redraw"),
        Binding("ctrl+q", "leave", "Quit", show=False, priority=True, id="app.quit"),
    ]

    def __init__(self, start: Start) -> None:
        super().__init__()
        self.start = start
        self.clock = start.clock
        self.plain = start.ascii
        self.pages = Reader(start.store)
        self.figures = Reader(start.store)
        self.deep = Reader(start.store)
        self.runs: tuple[RunLine, ...] = ()
        """As they stood at the last beat."""
        self.run_id: str | None = None
        """The run that screens are about."""
        self.tree_id: str | None = None
        """The tree that Trees is to show when it is gone to."""
        self.at_work: dict[int, str] = {}
        """What children of the command line are doing, in words."""
        self._children = 0
        self._version: tuple[int, int] | None = None
        """The opening of the store and its `data_version` when it was last looked at; None if it cannot be read."""
        self._beaten = 0.0
        self._looking = False
        self._unseen = False
        """Whether the store changed since the screen last followed."""
        self._seen_again = 0.0
        self.looked = False
        """Whether the store was looked at once."""
        self.trouble: EspalierError | None = None
        """Why the store cannot be read, if so."""
        self._had_store = False
        self._remembered = files.State() if start.fresh else files.read_state(files.folder() / "state.toml")
        for theme in THEMES:
            self.register_theme(theme)

    @property
    def store_path(self) -> Path:
        return self.start.store

    # Beginning and end

    def get_driver_class(self) -> type[Driver]:
        driver = super().get_driver_class()
        return TerminalDriver if driver is LinuxDriver else driver

    async def on_mount(self) -> None:
        wanted = self.start.theme or self._remembered.theme
        self.theme = wanted if wanted in self.available_themes else "textual-dark"
        self._take_keys()
        self._loop_signals()
        mode = self.start.mode or self._remembered.mode
        await self.switch_mode(mode if mode in self.MODES else "home")
        self._pulse_timer = self.set_interval(PULSE_S, self.look)

    def _take_keys(self) -> None:
        path = files.folder() / "keys.toml"
        if self.start.fresh or not path.is_file():
            return
        keys, problems = files.read_keys(path, known_bindings())
        self.set_keymap(dict(keys))
        for problem in problems:
            self.tell(problem, severity="warning")

    def _loop_signals(self) -> None:
        """Being told to end restores the terminal first. Elsewhere than in the main thread there are no signals."""
        import asyncio
        import contextlib

        with contextlib.suppress(RuntimeError, ValueError, NotImplementedError):
            for told in (signal.SIGTERM, signal.SIGHUP):
                asyncio.get_running_loop().add_signal_handler(told, self.exit)

    async def on_unmount(self) -> None:
        if not self.start.fresh:
            kept = self._remembered.after(self.store_path, self.theme, self.current_mode)
            files.write_state(files.folder() / "state.toml", kept)
        self.pages.close()
        self.figures.close()
        self.deep.close()

    # Looking at the store

    async def look(self) -> None:
        """Read how runs stand if the store changed or some time passed, and let the screen follow."""
        if self.start.server not in (None, os.getppid()):
            self.exit()
        if self._looking:
            return
        self._looking = True
        version: tuple[int, int] | None = None
        lines: Iterable[RunLine] | None = None
        trouble: EspalierError | None = None
        try:
            version, lines = await self.figures.ask(self._beat)
        except StoreMissing as error:
            # Where there never was a store, the first run makes one; one that was there and is gone is a trouble.
            lines, trouble = (), error if self._had_store else None
        except EspalierError as error:
            trouble = error
        finally:
            self._looking = False
        if not self.is_running:
            return  # the screens are being taken down
        self.looked = True
        self._had_store = self._had_store or version is not None
        changed = version != self._version or str(trouble) != str(self.trouble)
        self._version, self.trouble = version, trouble
        if lines is not None:
            self.runs = tuple(lines)
        if lines is not None or changed:
            self.show_pill()
        self._unseen = self._unseen or changed
        below, now = next(iter(self.screen_stack), None), time.monotonic()
        if self._unseen and isinstance(below, Mode) and below.ready and now >= self._seen_again:
            self._unseen, self._seen_again = False, now + below.EVERY_S
            below.refresh_view()

    def _beat(self, store: Store) -> tuple[tuple[int, int], Iterable[RunLine] | None]:
        version = (self.figures.openings, int(store.rows("PRAGMA data_version")[0][0]))
        now = time.monotonic()
        if version == self._version and now - self._beaten < BEAT_S:
            return version, None
        self._beaten = now
        return version, run_lines(store, self.clock())

    def on_app_blur(self) -> None:
        self._pulse(BLURRED_PULSE_S)

    def on_app_focus(self) -> None:
        self._pulse(PULSE_S)

    def _pulse(self, seconds: float) -> None:
        self._pulse_timer.stop()
        self._pulse_timer = self.set_interval(seconds, self.look)

    def other_stores(self) -> list[str]:
        """Stores that were looked at before and are still there, the latest first."""
        others = [each for each in self._remembered.stores if each != str(self.store_path)]
        return [each for each in others if Path(each).is_file()]

    def line_of(self, run_id: str | None) -> RunLine | None:
        """How a run stood at the last beat."""
        return next((line for line in self.runs if line.id == run_id), None)

    def current_run(self) -> RunLine | None:
        """The run that screens are about: the one chosen, else the live or latest one."""
        return self.line_of(self.run_id) or next(iter(self.runs), None)

    def show_pill(self) -> None:
        """Say on top how the run stands that is looked at, and what is being done."""
        line = self.current_run()
        said = self._standing(line)
        if self.at_work:
            said = Content(f"{next(iter(self.at_work.values()))} ...  ") + said
        screen = next(iter(self.screen_stack), None)
        if isinstance(screen, Mode):
            for top in screen.query(TopBar):
                top.show(said)

    def _standing(self, line: RunLine | None) -> Content:
        if self.trouble is not None:
            return styled(("! ", "bad"), "the store cannot be read ")
        return Content("no run yet") if line is None else _pill_of(line, self.plain)

    # Having things done

    def set_to_work(self, work: Callable[[], Coroutine[None, None, None]]) -> None:
        """Do something in the background, whatever screen is shown meanwhile. Errors are told in the corner."""

        async def guarded() -> None:
            try:
                await work()
            except EspalierError as error:
                self.tell(str(error), severity="error")

        _: Worker[None] = self.run_worker(partial(unless_gone, self, guarded), group="children")

    async def have_done(
        self,
        what: str,
        *arguments: str,
        quiet: bool = False,
        on_line: OnLine | None = None,
        store: Path | None = None,
    ) -> Ended:
        """Have the command line do something with this store, or another; what it is stands on top meanwhile.

        A failure is told in the corner unless it is `quiet`: whoever asks tells it then. `on_line` takes what it prints
        for programs, line by line.
        """
        self._children += 1
        number = self._children
        self.at_work[number] = what
        self.show_pill()
        try:
            ended = await command_line([*arguments, "--store", str(store or self.store_path)], on_line)
        finally:
            del self.at_work[number]
            self.show_pill()
        if ended.code > 1 and not quiet:
            self.tell(f"{what}: {ended.reason}", severity="error")
        await self.look()
        return ended

    def tell(self, words: str, *, severity: Any = "information") -> None:
        """A word in the corner."""
        from tui.sanitise import visible

        self.notify(visible(words, longest=600), severity=severity, markup=False, timeout=8)

    # What every screen can do

    def action_go(self, mode: str) -> None:
        if mode in self.MODES:
            self.switch_mode(mode)

    def action_help(self) -> None:
        screen = self.screen
        if not isinstance(screen, Mode):
            return
        pane = screen.focused_pane()
        keys = {(self.get_key_display(b.binding), b.binding.description) for b in screen.active_bindings.values()}
        told = sorted((key, what) for key, what in keys if what)
        self.push_screen(Help(pane.about if pane is not None else screen.TOUR, told, screen.TOUR))

    async def action_jump(self) -> None:
        def go(target: Widget | None) -> None:
            if isinstance(target, Tab):
                target.on_click()
            elif target is not None:
                target.focus()

        screen = self.screen
        if isinstance(screen, Mode):
            reachable = [widget for widget in screen.focus_chain if widget.region.area]
            self.push_screen(Jump([*reachable, *screen.query(Tab)]), go)

    def action_zoom(self) -> None:
        screen = self.screen
        if screen.maximized is not None:
            screen.minimize()
        elif isinstance(screen, Mode) and (pane := screen.focused_pane()) is not None:
            screen.maximize(pane, container=False)

    def action_copy(self) -> None:
        screen = self.screen
        selected = screen.get_selected_text()
        text = selected or (screen.copied() if isinstance(screen, Mode) else None)
        if text:
            from tui.sanitise import visible

            self.copy_to_clipboard(visible(text, longest=None))
            self.tell(f"{len(text)} characters copied")
        else:
            self.tell("there is nothing to copy here")

    def action_pager(self) -> None:
        screen = self.screen
        text = screen.copied() if isinstance(screen, Mode) else None
        if text:
            self.outside(os.environ.get("PAGER", "less"), text)

    def action_reread(self) -> None:
        if isinstance(self.screen, Mode):
            self.screen.refresh_view()

    def action_redraw(self) -> None:
        self.refresh(layout=True)

    def action_leave(self) -> None:
        live = [line for line in self.runs if line.live]
        unsaved = [stack[0].unsaved for stack in self._screen_stacks.values() if stack and isinstance(stack[0], Mode)]
        told = [f"{what} is not saved and would be lost." for what in unsaved if what]
        if live:
            names = ", ".join(f"{line.name!r}" for line in live[:3])
            told.append(f"{names} is being played. It goes on without this window; `espalier` attaches to it again.")
        if not told:
            self.exit()
            return
        answers = (("detach", "Detach and quit" if live else "Quit"), ("cancel", "Cancel"))
        self.push_screen(Question("\n".join(told), answers), lambda answer: self.exit() if answer else None)

    def outside(self, program: str, text: str, suffix: str = ".txt") -> str | None:
        """A text in another program with the whole terminal; returns what it is afterwards, None if it did not run."""
        from tui.sanitise import visible

        with tempfile.NamedTemporaryFile("w+", suffix=suffix, encoding="utf-8") as file:
            file.write(visible(text, longest=None))
            file.flush()
            try:
                with self.suspend():
                    subprocess.run([*shlex.split(program), file.name], check=False)
            except SuspendNotSupported:
                self.tell(f"{program!r} needs a terminal of this machine; a browser is none", severity="warning")
                return None
            except (OSError, RuntimeError, ValueError) as error:
                self.tell(f"{program!r} did not run: {error}", severity="error")
                return None
            return Path(file.name).read_text(encoding="utf-8")

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """What the palette offers: what can be done here first, then screens, runs, themes and the rest."""
        seen = set()
        for active in screen.active_bindings.values():
            binding, node = active.binding, active.node
            if binding.id and binding.description and active.enabled and binding.description not in seen:
                seen.add(binding.description)
                keys = f"key {self.get_key_display(binding)}"
                yield SystemCommand(binding.description, keys, _doing(self, binding.action, node))
        for number, (mode, name) in enumerate(TABS, 1):
            yield SystemCommand(f"Go to {name}", f"key {number}", _doing(self, f"go('{mode}')", self))
        for line in self.runs[:50]:
            title = f"Run {line.id[:8]} {one_line(line.name, 40)}".replace("[", "(").replace("]", ")")
            yield SystemCommand(title, line.word, _choosing(self, line.id))
        yield SystemCommand("Theme", "choose other colours", self.action_change_theme)

    def choose_run(self, run_id: str) -> None:
        """Have screens be about a run: what is being played is watched, what was played is read."""
        self.run_id = run_id
        line = self.line_of(run_id)
        self.show_pill()
        wanted = "monitor" if line is not None and line.live else "trees"
        if wanted in self.MODES:
            self.switch_mode(wanted)

    def watch_run(self, run_id: str) -> None:
        """Go to Monitor for a run that was just begun: it may not be listed yet, or be done already."""
        self.run_id = run_id
        self.show_pill()
        self.switch_mode("monitor")

    def look_at_tree(self, run_id: str, tree_id: str) -> None:
        """Go to one tree of a run."""
        self.run_id, self.tree_id = run_id, tree_id
        self.switch_mode("trees")


def _doing(app: EspalierApp, action: str, node: Any) -> Callable[[], Any]:
    async def do() -> None:
        await app.run_action(action, node)

    return do


def _choosing(app: EspalierApp, run_id: str) -> Callable[[], None]:
    return lambda: app.choose_run(run_id)


def _pill_of(line: RunLine, plain: bool) -> Content:
    failed = f"  ! {line.failed}" if line.failed else ""
    return styled(pill(line.word, plain=plain), f" {line.share:.0%}{failed}  {one_line(line.name, 24)} ")


def known_bindings() -> set[str]:
    """The ids of everything that a key can be given to."""
    from tui.app.train_form import TrainForm

    found: set[str] = set()
    screens = [type(make()) for make in SCREENS.values()]
    classes: list[Any] = [EspalierApp, TrainForm, *screens, *Pane.__subclasses__()]
    for each in classes:
        found |= {b.id for b in each.BINDINGS if isinstance(b, Binding) and b.id}
    return found


def spare_pauses() -> None:
    """Have the collector of garbage pass over what was imported: going through all of it takes a tenth of a second,
    in which no key is answered."""
    gc.freeze()
    gc.set_threshold(5_000, 20, 20)


def run(start: Start) -> None:
    """Run the app until it is left. Another store that is gone to has an app of its own."""
    spare_pauses()
    wanted: Path | None = start.store
    while wanted is not None:
        wanted = EspalierApp(replace(start, store=wanted)).run()
