"""A folder with a small configuration on a scripted model, and the command line to run in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.support.command_line import Espalier
from tui.main import main

CONFIG = """
name = "small"
seed = 7
turns = 2

[models.s]
kind = "scripted"

[personas]
count = 2

[responders.plain]
hint = false

[responders.warm]
hint = true

[judges.likelihood]
kind = "likelihood"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of a test, with run.toml in it and no store yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("NO_COLOR", raising=False)
    (tmp_path / "run.toml").write_text(CONFIG, encoding="utf-8")
    return tmp_path


@pytest.fixture
def espalier(folder: Path) -> Espalier:
    """Run a command; the exit code is asserted."""

    def run(*arguments: str, exit_code: int = 0, stdin: str | None = None) -> Result:
        result = CliRunner().invoke(main, arguments, input=stdin, catch_exceptions=False)
        assert result.exit_code == exit_code, result.output
        return result

    return run


@pytest.fixture
def played(espalier: Espalier) -> str:
    """A store with the run of run.toml, finished; the run's id."""
    result = espalier("run", "run.toml", "--json")
    run: str = json.loads(result.stdout)["run"]["id"]
    return run
