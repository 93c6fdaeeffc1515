"""`make demo` without the model: its benchmark is valid, and it ends with what there is to see.

The whole of it takes minutes on the embedded model, so its commands are written down here and not done.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from simulation.benchmark_config import load_benchmark

DEMO = Path(__file__).parents[2] / "examples" / "demo.py"


@pytest.fixture
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo", DEMO)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_ends_with_the_benchmark_and_says_where_the_report_lies(
    demo: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[str, ...]] = []
    answers = {"run": {"run": {"id": "a" * 32}}, "train": [{}, {"adapter": "b" * 32}]}
    monkeypatch.setattr(demo, "espalier", lambda *words: asked.append(words))
    monkeypatch.setattr(demo, "asked", lambda *words: json.dumps(answers[words[0]]))
    demo.main()
    assert asked[-2:] == [
        ("bench", "run", "demo/bench.toml"),
        ("report", "demo", "--html", "demo/bench.html"),
    ]
    told = capsys.readouterr().out
    assert "demo/bench.html" in told.partition("Where things lie")[2]
    bench = load_benchmark(folder / "demo" / "bench.toml")
    assert bench.name == "demo", "the report is asked for by this name"
    assert (list(bench.tested), bench.tested["trained"].adapter) == (["base", "trained"], "b" * 8)
