"""A real vLLM to serve the embedded model with, where `make test-vllm` has made its environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from agents.models.vllm import VllmConfig

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
MISSING = "there is no .venv-vllm: run `make test-vllm`"
CONTEXT = 4096
# Left to itself, vLLM keeps one core free for its HTTP server: of two, that is half.
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": f"0-{(os.cpu_count() or 1) - 1}"}


def real_config(folder: Path, **fields: Any) -> VllmConfig:
    """The embedded model's folder as two CPU cores can serve it."""
    entry = {
        "kind": "vllm",
        "model": str(folder),
        "python": str(PYTHON),
        "dtype": "bfloat16",
        "context": CONTEXT,
        "extra_args": ["--enforce-eager"],
        "environment": ENVIRONMENT,
        "start_timeout_s": 300,
    }
    return VllmConfig.model_validate({**entry, **fields})
