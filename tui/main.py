"""The command `espalier`: the group of all commands, and what every one of them does about errors.

A command module imports click and nothing heavy at its top; what it works with it imports when it is called,
so that `espalier --help` is quick on any machine.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

import click

from trees.errors import EspalierError
from tui.commands import COMMANDS, opening
from tui.console import say
from tui.options import examples

EXIT_CODES = """\b
Exit codes:
  0    done
  1    done with failures or findings, or stopped before the end
  2    wrong usage, or an id that names nothing
  3    something to mend: a configuration, a model, a file, the store
  4    somebody else is at work on it
  130  interrupted"""


class Espalier(click.Group):
    """The group of all commands."""

    def list_commands(self, _: click.Context) -> list[str]:
        """In the order in which one comes to need them."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        _print_anything()
        try:
            return super().invoke(ctx)
        except EspalierError as error:
            say(f"error: {error}", stderr=True)
            raise click.exceptions.Exit(error.exit_code) from error
        except KeyboardInterrupt:
            raise click.exceptions.Exit(130) from None


def _print_anything() -> None:
    """On a terminal whose encoding lacks a character, print its code instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


@click.group(
    cls=Espalier,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=EXIT_CODES
    + "\n\n"
    + examples("espalier init quickstart.toml", "espalier run quickstart.toml", "espalier trees"),
)
@click.version_option(package_name="espalier-lm", prog_name="espalier")
@click.pass_context
def main(context: click.Context) -> None:
    """Grow conversation trees between simulated people and language models, judge the branches, keep what
    they teach.

    Everything is kept in one store, espalier.db in the current folder unless --store or ESPALIER_STORE names
    another. RUN, TREE and NODE are ids, or beginnings of ids that are unique. Without a command, the app opens.
    """
    if context.invoked_subcommand is not None:
        return
    if opening.wants_app():
        context.invoke(opening.app, store_path=Path(os.environ.get("ESPALIER_STORE") or "espalier.db"))
    else:
        click.echo(context.get_help())


for command in COMMANDS:
    main.add_command(command)


if __name__ == "__main__":
    main(prog_name="espalier")
