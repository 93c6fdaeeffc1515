"""Opening the app: `app`, which `espalier` alone does too on a terminal, and `serve`, the same in a browser."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from trees.errors import SetupError
from tui.console import say
from tui.options import examples, store_option

ascii_option = click.option("--ascii", "plain", is_flag=True, help="Draw signs and bars with ASCII characters only.")


@click.command("app", epilog=examples("espalier app", "espalier app --store runs.db --theme high-contrast"))
@click.option("--theme", metavar="NAME", help="Colours: high-contrast, blue-orange, or any of Textual's.")
@ascii_option
@click.option("--fresh", is_flag=True, help="Ignore remembered theme and screen, and keys.toml.")
@store_option
def app(theme: str | None, plain: bool, fresh: bool, store_path: Path) -> None:
    """Open the app: runs, trees, prompts, all in the terminal. `espalier` alone does the same.

    A run that the app starts goes on when the app is closed. Keys may be changed in espalier/keys.toml in the folder
    of your configuration files; `?` tells about every pane.
    """
    if not (_served() or (sys.stdin.isatty() and sys.stdout.isatty())):
        raise SetupError(
            "the app needs a terminal", hint="Without one: espalier status, espalier trees, espalier show."
        )
    open_app(store_path, theme=theme, plain=plain, fresh=fresh)


def open_app(store_path: Path, *, theme: str | None = None, plain: bool = False, fresh: bool = False) -> None:
    """Run the app until it is left."""
    from tui.app.app import Start, run

    if os.environ.get("NO_COLOR"):
        theme = theme or "ansi-dark"
    server = os.getppid() if _served() else None
    run(Start(store_path.absolute(), ascii=plain or _lacks_signs(), theme=theme, fresh=fresh, server=server))


def wants_app() -> bool:
    """Whether `espalier` alone can open the app here: on a terminal that can move its cursor."""
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def _served() -> bool:
    """Whether a browser is the terminal: then a server is at the other end of stdin and stdout."""
    return "WebDriver" in os.environ.get("TEXTUAL_DRIVER", "")


def _lacks_signs() -> bool:
    """Whether the terminal's encoding has no signs beyond ASCII."""
    return not _served() and not (sys.stdout.encoding or "ascii").lower().startswith("utf")


@click.command(epilog=examples("espalier serve", "espalier serve --port 8800 --store runs.db"))
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="On this machine only.")
@store_option
def serve(port: int, store_path: Path) -> None:
    """Serve the app to browsers of this machine, at http://localhost:PORT.

    It listens on the loopback interface alone: whoever can open it can start runs as you.
    """
    try:
        from tui.app import serving
    except ImportError as error:
        raise SetupError(
            "the app cannot be served without textual-serve", hint="pip install 'espalier-lm[serve]'"
        ) from error
    say(f"the app is at http://localhost:{port}; Ctrl-C ends it")
    try:
        serving.serve(store_path.absolute(), port)
    except OSError as error:
        raise SetupError(f"port {port} cannot be had: {error.strerror}", hint="--port takes another one.") from error
