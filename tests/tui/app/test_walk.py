"""The short form of benchmarks/walk.py: by keys alone from an empty folder to a second run, in 80x24."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def walk(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/walk.py, which is no package's module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("walk", BENCHMARKS / "walk.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["walk"] = module
    spec.loader.exec_module(module)
    return module


def test_a_walk_by_keys_from_an_empty_folder(walk: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    seconds = walk.walk_through(folder, tmp_path / "captures", 80, 24, scripted=True)
    assert "left" in seconds
