"""What stands in for vLLM in tests: a package `vllm` of one program, and a model's folder for it to be given."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from agents.models.vllm import VllmConfig

HERE = Path(__file__).parent
CONFIG = {"model_type": "llama", "dtype": "bfloat16"}
TOKENIZER = {"bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>"}}


def model_folder(folder: Path, weights: bytes = b"weights") -> Path:
    """A folder with everything that is read of a model before its weights."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER))
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def adapter_folder(folder: Path, rank: int = 4, module: str = "self_attn.q_proj") -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank}))
    header = json.dumps({f"base_model.model.model.layers.0.{module}.lora_A.weight": {}}).encode()
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    return folder


def fake_config(folder: Path, order: str = "", **fields: Any) -> VllmConfig:
    """A model served by the stand-in, which notes what it is asked in `asked` beside the folder."""
    told = {"PYTHONPATH": str(HERE), "FAKE_VLLM": order, "FAKE_VLLM_LOG": str(log_of(folder))}
    return VllmConfig.model_validate({"kind": "vllm", "model": str(folder), "environment": told, **fields})


def log_of(folder: Path) -> Path:
    return folder.with_suffix(".asked")


def asked_of(folder: Path) -> list[dict[str, Any]]:
    """Everything the stand-in noted, in order."""
    return [json.loads(line) for line in log_of(folder).read_text().splitlines()]
