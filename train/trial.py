"""What a training would take: memory by arithmetic, and one step tried out before the first counts. Imports torch.

The estimate counts what a step keeps per token and layer (what the backward pass of a decoder layer needs, the
attention's queries, keys and values once) beside weights, their gradients and AdamW's two moments. The trial makes the
longest row's forward and backward pass for real and looks at the clock and at peak memory.

Invariant: a trial leaves weights, gradients and random state as they were.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Any

import torch

from train.config import TrainingConfig
from train.losses import counts_of, dpo_loss, sft_loss
from train.packing import PackedSequence
from train.reply_logps import CHUNK_BYTES
from train.tree_model import TreeModel

FRAMEWORK = 600 * 2**20
"""Bytes that torch and transformers take by themselves."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes."""

    weights: int
    training: int
    """Gradients and the optimiser's moments of what is trained."""
    activations: int
    """Of the longest row."""
    logits: int

    @property
    def total(self) -> int:
        return self.weights + self.training + self.activations + self.logits + FRAMEWORK


@dataclass(frozen=True)
class Trial:
    """One forward and backward pass over one row."""

    tokens: int
    seconds: float
    peak_bytes: int
    """The most memory in use meanwhile, the model included; on a CPU of the whole process since it began."""


def estimate_memory(model: Any, config: TrainingConfig, tokens: int) -> MemoryEstimate:
    """What a step over a row of so many tokens takes. `model` is as it was opened, with its adapter."""
    sizes = [(p.numel() * p.element_size(), p.requires_grad) for p in model.parameters()]
    trained = sum(size for size, trains in sizes if trains)
    text = model.config.get_text_config()
    element = torch.finfo(getattr(torch, config.dtype)).bits // 8
    hidden, inner = int(text.hidden_size), int(text.intermediate_size)
    heads = int(text.num_attention_heads)
    head = int(getattr(text, "head_dim", None) or hidden // heads)
    keys = head * int(getattr(text, "num_key_value_heads", None) or heads)
    layers = int(text.num_hidden_layers)
    # Two residual inputs, two normalised ones, the output projection's input; queries, keys, values; gate, its
    # activation, up and their product.
    layer = 4 * hidden + 2 * heads * head + 2 * keys + 4 * inner
    per_token = layers * hidden + layer if config.machine.gradient_checkpointing else layers * layer
    return MemoryEstimate(
        weights=sum(size for size, _ in sizes),
        training=3 * trained,
        activations=tokens * per_token * element,
        logits=2 * CHUNK_BYTES,
    )


def try_step(model: TreeModel, sequence: PackedSequence, config: TrainingConfig) -> Trial:
    """Forward and backward over a row, with a reference of zeros, and nothing learnt from it."""
    state = torch.get_rng_state()
    on_gpu = model.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(model.device)
    began = time.perf_counter()
    logps = model(sequence)
    counts = counts_of(sequence)
    if config.objective == "sft":
        loss = sft_loss(logps, sequence, counts)
    else:
        nothing = torch.zeros(len(sequence.replies), device=logps.device)
        loss, _ = dpo_loss(logps, nothing, sequence, counts, config.loss.value())
    loss.backward()
    if on_gpu:
        torch.cuda.synchronize(model.device)
    seconds = time.perf_counter() - began
    model.zero_grad()
    torch.set_rng_state(state)
    peak = torch.cuda.max_memory_allocated(model.device) if on_gpu else _peak_of_process()
    return Trial(len(sequence), seconds, peak)


def _peak_of_process() -> int:
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used * (1024 if sys.platform == "linux" else 1)
