"""The embedded model as a folder that transformers and vLLM load: de-quantised once, kept where the caller says."""

from __future__ import annotations

import shutil
from pathlib import Path

from agents.models.weights import locate


def embedded_folder(cache: Path) -> Path:
    """The folder with config, tokenizer, chat template and bfloat16 weights. Needs torch and transformers."""
    source = locate("embedded")
    folder = cache / f"smollm2-{source.digest[:16]}"
    if not folder.exists():
        draft = cache / f"{folder.name}.draft"
        shutil.rmtree(draft, ignore_errors=True)
        _write(source.path, draft)
        draft.rename(folder)
    return folder


def _write(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
    # As de-quantised as it is, transformers refuses to save what it remembers as quantised.
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
