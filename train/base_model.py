"""The model that is trained: base weights by content digest, and the adapter on them. Imports torch and its kin.

Invariant: a fresh adapter changes nothing until it is trained, so the model as it is opened is the reference of a
preference training, whether it begins from the base or from an earlier adapter.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from agents.models.model_folder import fetched, folder_digest, read_adapter
from agents.models.protocol import ModelFailure
from agents.models.weights import EMBEDDED, locate
from train.config import LoraSettings, TrainingConfig
from train.memory import is_out_of_memory
from trees.errors import SetupError


@dataclass(frozen=True, eq=False)
class OpenedBase:
    """A model ready to be trained, and what names its weights."""

    model: Any
    """A causal model of transformers, under a PEFT adapter if the configuration has one."""
    tokenizer: Any
    base_digest: str
    start_digest: str | None
    """Of the adapter that the training goes on from."""


def open_base(config: TrainingConfig) -> OpenedBase:
    """Load what a configuration trains, on its device. Raises SetupError if it cannot be loaded."""
    torch.manual_seed(config.seed)
    if config.machine.threads:
        torch.set_num_threads(config.machine.threads)
    device = device_of(config.machine.device)
    try:
        folder, options, digest = _located(config.base)
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        quantised = _quantisation(config, device)
        base = AutoModelForCausalLM.from_pretrained(folder, dtype=_dtype(config), **options, **quantised)
        start = read_adapter(config.start) if config.start else None
        model = _adapted(base, config, None if start is None else str(start.path))
    except (ModelFailure, OSError, ValueError, RuntimeError, KeyError) as error:
        if is_out_of_memory(error):
            raise
        raise SetupError(
            f"{config.base!r} cannot be opened for training: {error}", hint="Check `base`, `start` and `lora.targets`."
        ) from error
    if config.quantised == "no":
        model = model.to(device)
    return OpenedBase(model, tokenizer, digest, None if start is None else start.digest)


def base_on_paper(config: TrainingConfig) -> Any:
    """What `open_base` would load, without its weights: shapes alone. Raises SetupError if it is not known."""
    try:
        if config.base == EMBEDDED or config.base.endswith(".gguf"):
            file = locate(config.base).path
            shape = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
        else:
            shape = AutoConfig.from_pretrained(config.base.removeprefix("hf://"))
        with torch.device("meta"):
            base = AutoModelForCausalLM.from_config(shape, dtype=_dtype(config))
            if config.start is not None:
                return get_peft_model(base, PeftConfig.from_pretrained(config.start, inference_mode=False))
            return base if config.lora is None else get_peft_model(base, adapter_config(config.lora))
    except (ModelFailure, OSError, ValueError, RuntimeError, KeyError) as error:
        raise SetupError(
            f"the configuration of {config.base!r} cannot be read: {error}", hint="Check `base` and `lora.targets`."
        ) from error


def device_of(wanted: str) -> torch.device:
    """The device that a configuration names; under a launcher of several processes, this process's own."""
    if wanted not in ("auto", "cuda"):
        return torch.device(wanted)
    if wanted == "cuda" or torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def adapter_config(lora: LoraSettings) -> LoraConfig:
    """A LoRA configuration as PEFT reads it."""
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets if isinstance(lora.targets, str) else list(lora.targets),
        task_type="CAUSAL_LM",
    )


def _dtype(config: TrainingConfig) -> torch.dtype:
    found: torch.dtype = torch.float32 if config.mixed else getattr(torch, config.dtype)
    return found


def _located(base: str) -> tuple[str, dict[str, Any], str]:
    """Folder, options of from_pretrained, digest."""
    if base == EMBEDDED or base.endswith(".gguf"):
        found = locate(base)
        return str(found.path.parent), {"gguf_file": found.path.name}, found.digest
    folder = fetched(base)
    return str(folder), {}, folder_digest(folder)


def _adapted(base: Any, config: TrainingConfig, start: str | None) -> Any:
    if config.quantised != "no":
        base = prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)
    if start is not None:
        started = PeftModel.from_pretrained(base, start, is_trainable=True)
        # PEFT would look for the base under the name that the adapter gives it, on a hub too, whenever it is saved.
        started.peft_config["default"].base_model_name_or_path = base.name_or_path
        return started
    if config.lora is not None:
        return get_peft_model(base, adapter_config(config.lora))
    # What was de-quantised on loading is plain weights from here on, and has to be saved as such.
    base.hf_quantizer, base.is_quantized = None, False
    if hasattr(base.config, "quantization_config"):
        del base.config.quantization_config
    return base


def _quantisation(config: TrainingConfig, device: torch.device) -> dict[str, Any]:
    if config.quantised == "no":
        return {}
    if find_spec("bitsandbytes") is None or device.type != "cuda":
        raise SetupError(
            f"quantised = {config.quantised!r} needs CUDA and the package bitsandbytes",
            hint="pip install bitsandbytes on a machine with a GPU, or set quantised = 'no'.",
        )
    from transformers import BitsAndBytesConfig

    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {"quantization_config": settings, "device_map": {"": device}}
