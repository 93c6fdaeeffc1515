"""What commands have in common: the option that names the store, the one for JSON, and the examples in their
help.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

FILE = click.Path(path_type=Path, dir_okay=False)

store_option: Callable[[F], F] = click.option(
    "--store",
    "store_path",
    type=FILE,
    default="espalier.db",
    envvar="ESPALIER_STORE",
    show_default=True,
    help="The store file; ESPALIER_STORE names another default.",
)
json_option: Callable[[F], F] = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
config_option: Callable[[F], F] = click.option(
    "--config", "config_path", type=FILE, metavar="FILE", help="A configuration file."
)


def _settings(_: click.Context, __: click.Parameter, words: tuple[str, ...]) -> dict[str, Any]:
    from agents.overrides import setting

    try:
        return dict(setting(word) for word in words)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def set_option(what: str) -> Callable[[F], F]:
    """KEY=VALUE over what a file says, as a dictionary by dotted key in `given`."""
    return click.option("--set", "given", multiple=True, callback=_settings, metavar="KEY=VALUE", help=what)


def examples(*lines: str) -> str:
    """The examples of a command, as the last part of its help."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
