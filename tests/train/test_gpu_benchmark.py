"""The GPU part of the training benchmark on a CPU, tiny: so that what is run where a GPU is does run."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl", reason="the training extra is not installed")
pytest.importorskip("peft", reason="the training extra is not installed")

import torch

FILE = Path(__file__).parents[2] / "benchmarks" / "training.py"


@pytest.fixture
def benchmark_file(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark as a module, on a machine without CUDA, with nothing left behind."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    spec = importlib.util.spec_from_file_location("training_benchmark", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "training_benchmark", module)
    spec.loader.exec_module(module)
    return module


def test_without_cuda_it_is_not_run_and_says_so(benchmark_file: Any) -> None:
    figures, bars = benchmark_file.measure_gpu(False, 1)
    assert figures == {"gpu": "not run: torch sees no CUDA device"}
    assert bars == []


def test_quick_it_runs_the_whole_way_with_the_figures_of_a_gpu_and_no_bar(benchmark_file: Any) -> None:
    figures, bars = benchmark_file.measure_gpu(True, 1)
    told = figures["gpu"]
    assert bars == []
    assert told["trl_s"][told["trl_best"]] == min(told["trl_s"].values())
    assert told["times_faster"] == pytest.approx(told["trl_s"][told["trl_best"]] / told["packed_s"], abs=0.01)
    assert told["share_of_peak"] == pytest.approx(told["tflops"] / told["peak_tflops_measured"], abs=1e-3)
    assert told["tokens_flat"] > 3 * told["tokens_packed"]


def test_flops_are_those_of_the_products_that_a_tree_needs(benchmark_file: Any) -> None:
    """One layer, one pair, by hand."""
    shape = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    shape |= {"num_key_value_heads": 1, "vocab_size": 50}
    work = benchmark_file.Workload("cpu", torch.float32, shape, 1, 2, 1, (1,), 8, bars=False)
    (sequence,) = benchmark_file.pack(work.conversations(), "dpo", 1_000)
    user, reply = 40, 60
    weights = 2 * 8 * 8 + 2 * 8 * 4 + 3 * 8 * 16
    read = user * (user + 1) // 2 + 2 * (reply * user + reply * (reply + 1) // 2)
    expected = 4 * weights * (user + 2 * reply) + 12 * 8 * read + 4 * 8 * 50 * 2 * reply
    assert benchmark_file.flops_of(work, sequence) == expected
