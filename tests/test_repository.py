"""The repository as a whole: what is where, what loads what, and that the README tells the truth about it."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from trees.migrations import migrations
from trees.schema import MIGRATIONS

ROOT = Path(__file__).parents[1]
LAYERS = ("agents", "simulation", "trees", "train", "tui")
HEAVY = {"llama_cpp", "torch", "transformers", "trl", "peft", "datasets", "vllm", "textual"}


@pytest.mark.parametrize("name", LAYERS)
def test_each_package_is_this_projects(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__file__ is not None
    assert Path(module.__file__).parent == ROOT / name


def test_the_map_names_every_file_with_a_line_of_purpose() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    drawn = readme.split("<!-- map -->")[1].split("<!-- /map -->")[0]
    named = set(re.findall(r"^- `([\w/.]+\.py)`: \S.+$", drawn, re.MULTILINE))
    there = {
        str(p.relative_to(ROOT)) for layer in LAYERS for p in (ROOT / layer).rglob("*.py") if p.name != "__init__.py"
    }
    assert named == there, "run `python docs/make_map.py`"


def test_the_engine_loads_no_heavy_package_with_scripted_models() -> None:
    code = (
        "import sys, simulation.engine, simulation.runs, train.export, agents.rerender\n"
        f"print(sorted(set(sys.modules) & {HEAVY!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_the_names_of_migrations_are_the_migrations() -> None:
    from sqlite_utils import Database

    empty = Database(memory=True)
    assert tuple(migration.name for migration in migrations.pending(empty)) == MIGRATIONS
    empty.close()


def test_shipped_data_is_packaged() -> None:
    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"][
        "package-data"
    ]
    for layer in LAYERS:
        data = [p for p in (ROOT / layer).rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")]
        patterns = packaged.get(layer, [])
        missing = [p for p in data if not any(p.relative_to(ROOT / layer).match(pattern) for pattern in patterns)]
        assert missing == []
