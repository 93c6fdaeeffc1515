"""Every command explains itself, and asking for help loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from trees.store import Store
from tui.main import main

HEAVY = (
    "autogen_core",
    "aiohttp",
    "llama_cpp",
    "torch",
    "textual",
    "networkx",
    "pydantic",
    "rich",
    "sqlite_utils",
)


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command below a group with the words that call it."""
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


ALL = dict(commands(main))


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_a_command_has_help_and_an_example(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, [*words, "--help"])
    assert result.exit_code == 0
    command = ALL[words]
    assert command.help
    assert "Examples:" in result.output
    assert f"  espalier {' '.join(words)}" in result.output
    assert all(p.help for p in command.params if isinstance(p, click.Option) and p.name != "help")


def test_the_group_lists_commands_and_exit_codes() -> None:
    output = CliRunner().invoke(main, ["--help"]).output
    assert "130  interrupted" in output
    assert output.index("  init ") < output.index("  run ") < output.index("  show ")
    assert "\n  engine" not in output


def test_espalier_alone_prints_its_help() -> None:
    result = CliRunner().invoke(main, [])
    assert result.exit_code == 0
    assert "Commands:" in result.output


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys\nfrom tui.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_an_unknown_command_is_wrong_usage() -> None:
    assert CliRunner().invoke(main, ["plya"]).exit_code == 2


@pytest.mark.parametrize("words", [["status", "--json"], ["trees", "--json"], ["app"]], ids=" ".join)
def test_only_the_app_loads_textual(words: list[str], store_path: Path) -> None:
    """Not even `app`, where there is no terminal to open it on."""
    Store.open(store_path).close()
    program = (
        "import sys\nfrom tui.main import main\n"
        f"try: main([*{words!r}, '--store', {str(store_path)!r}])\nexcept SystemExit: pass\n"
        "print('textual' in sys.modules)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=True)
    assert done.stdout.splitlines()[-1] == "False"
