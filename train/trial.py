"""What a training would take: memory by arithmetic, and one row tried out before the first step. Imports torch.

The estimate counts what a step keeps per token and layer (what the backward pass of a decoder layer needs, the
attention's queries, keys and values once) beside weights, their gradients and AdamW's two moments. The trial makes the
longest row's forward and backward pass for real and looks at the clock and at peak memory.

Invariant: a trial leaves weights, gradients and random state as they were.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch

from train import processes
from train.base_model import base_on_paper
from train.config import TrainingConfig
from train.losses import counts_of, dpo_loss, sft_loss
from train.memory import MemoryEstimate
from train.packing import PackedSequence
from train.points import Forecast
from train.reply_logps import CHUNK_BYTES
from train.tree_model import TreeModel

NF4_BYTES = 0.52
"""A weight in 4 bits, with its share of the scales."""
FORWARD = 1 / 3
"""Of the time of a forward and a backward pass: what only a forward pass takes."""


@dataclass(frozen=True)
class Trial:
    """One forward and backward pass over one row."""

    tokens: int
    seconds: float
    peak_bytes: int
    """The most memory in use meanwhile, the model included; on a CPU of the whole process since it began."""


def estimate_memory(model: Any, config: TrainingConfig, tokens: int) -> MemoryEstimate:
    """What a step over a row of so many tokens takes. `model` is as it was opened, with its adapter."""
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    text = model.config.get_text_config()
    element = torch.finfo(torch.float32 if config.mixed else getattr(torch, config.dtype)).bits // 8
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
        tokens=tokens,
        weights=sum(_bytes_of(name, p, config) for name, p in model.named_parameters()),
        training=3 * trained,
        activations=tokens * per_token * element,
        logits=2 * CHUNK_BYTES,
    )


def memory_on_paper(config: TrainingConfig, tokens: int) -> MemoryEstimate:
    """The same from the base's configuration alone. Raises SetupError if that cannot be read."""
    return estimate_memory(base_on_paper(config), config, tokens)


def _bytes_of(name: str, weight: torch.Tensor, config: TrainingConfig) -> int:
    """What is only there on paper is not quantised yet."""
    whole = weight.requires_grad or weight.dim() != 2 or "embed" in name or "lm_head" in name
    if weight.is_meta and config.quantised == "nf4" and not whole:
        return int(weight.numel() * NF4_BYTES)
    return int(weight.numel() * weight.element_size())


def forecast(
    model: TreeModel, rows: Sequence[PackedSequence], held: Sequence[PackedSequence], config: TrainingConfig, done: int
) -> Forecast:
    """Try the longest row, and say from it what a training takes that has made `done` steps.

    Where kernels are compiled the row is tried twice, and the second time counts.
    """
    longest = max(rows, key=len)
    if model.device.type == "cuda":
        try_step(model, longest, config)
    trial = try_step(model, longest, config)
    a_pass = ceil(len(rows) / config.schedule.rows_per_step)
    left = max(0, (config.schedule.steps or ceil(a_pass * config.schedule.epochs)) - done)
    tokens, measured = sum(map(len, rows)), sum(map(len, held))
    trained = left * tokens / a_pass
    only_read = left // config.evaluation.every * measured
    if config.objective == "dpo":
        only_read += tokens + measured
    return Forecast(
        memory=estimate_memory(model.model, config, len(longest)),
        tokens=trial.tokens,
        seconds=trial.seconds,
        peak_bytes=trial.peak_bytes,
        steps=left,
        left_s=(trained + FORWARD * only_read) * trial.seconds / trial.tokens / processes.count(),
    )


def try_step(model: TreeModel, sequence: PackedSequence, config: TrainingConfig) -> Trial:
    """Forward and backward over a row, with a reference of zeros, and nothing learnt from it."""
    on_gpu = model.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(model.device)
    with torch.random.fork_rng([model.device] if on_gpu else []):
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
    peak = torch.cuda.max_memory_allocated(model.device) if on_gpu else _peak_of_process()
    return Trial(len(sequence), seconds, peak)


def _peak_of_process() -> int:
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used * (1024 if sys.platform == "linux" else 1)
