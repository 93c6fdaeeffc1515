"""Three kills and a Ctrl-C: the short form of `make torture`."""

from __future__ import annotations

import importlib.util
import random
import signal
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def torture() -> ModuleType:
    """benchmarks/torture.py, which is no package's module."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("torture", BENCHMARKS / "torture.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["torture"] = module
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_kill_9_three_times(torture: ModuleType, tmp_path: Path) -> None:
    draw = random.Random(7)
    found = torture.killed_runs(tmp_path / "kills", torture.SCRIPTED, 3, draw, signal.SIGKILL, "bytes")
    assert found["kills"] >= 3


def test_ctrl_c_keeps_the_calls_in_flight_and_says_how_to_go_on(torture: ModuleType, tmp_path: Path) -> None:
    draw = random.Random(7)
    found = torture.killed_runs(tmp_path / "interrupts", torture.SCRIPTED, 1, draw, signal.SIGINT, "bytes")
    assert found["kills"] >= 1
