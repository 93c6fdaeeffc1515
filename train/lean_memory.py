"""Activations that are cheap to compute again are not kept for the backward pass. Imports torch.

A decoder layer keeps for its backward pass, per token, about four times the width of its gated feed-forward part:
the gate, the gate's activation, the other half, and the product of both, beside normalised inputs. The activation,
the product and the normalised inputs follow from what is kept anyway by element-wise operations, so only a recipe is
kept in their place (selective recomputation, arXiv 2205.05198, applied to element-wise operations). No matrix product
is done twice: about two fifths less memory for next to no time.

Invariant: gradients are those of keeping everything: a recipe repeats the same operations on the same values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

GATED = frozenset("LlamaMLP MistralMLP Qwen2MLP Qwen3MLP Olmo2MLP GemmaMLP Gemma2MLP Gemma3MLP".split())
"""Feed-forward parts that compute down_proj(act_fn(gate_proj(x)) * up_proj(x)) and nothing else."""
CACHED_BYTES = 2**20
"""Of one operand at a time on a CPU, so that what is written is read again from the cache."""


@dataclass(frozen=True, eq=False)
class Recipe:
    """How a tensor is made again, and the form in which it was to be kept."""

    make: Callable[..., torch.Tensor]
    inputs: tuple[Any, ...]
    shape: torch.Size

    def follow(self) -> torch.Tensor:
        with torch.no_grad():
            return self.make(*self.inputs).view(self.shape)


class LeanMemory:
    """Watches the layers of one model; `saving` is entered around each forward pass that is to be lean."""

    def __init__(self, causal: Any) -> None:
        """`causal` is a causal model of transformers without its adapter's wrapper."""
        self._on = False
        self._room = torch.empty(0)
        # A tensor is held as long as its address stands here, so that no other can come to have the same one.
        self._recipes: dict[int, tuple[torch.Tensor, Callable[..., torch.Tensor], tuple[Any, ...]]] = {}
        for layer in getattr(causal.get_decoder(), "layers", ()):
            self._watch(layer)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """What is saved for the backward pass in here is saved as a recipe where there is one."""
        self._on = True
        try:
            with torch.autograd.graph.saved_tensors_hooks(self.kept, _given):
                yield
        finally:
            self._on = False
            self._recipes.clear()

    def _watch(self, layer: Any) -> None:
        for part in layer.children():
            if type(part).__name__.endswith("RMSNorm"):
                part.register_forward_hook(self._normalised)
            if type(part).__name__ in GATED:
                self._watch_gated(part)
        layer.register_forward_hook(lambda *_: self._recipes.clear())

    def _watch_gated(self, part: Any) -> None:
        plain = part.forward

        def forward(x: torch.Tensor) -> Any:
            if not self._on:
                return plain(x)
            gate, up = part.gate_proj(x), part.up_proj(x)
            product = _Gated.apply(gate, up, part.act_fn, self._room_like(gate))
            self._note(product, gated, (gate.detach(), up.detach(), part.act_fn))
            return part.down_proj(product)

        part.forward = forward

    def _room_like(self, gate: torch.Tensor) -> torch.Tensor:
        """The same memory for the product of every layer: blocks that come and go would leave holes."""
        if self._room.numel() != gate.numel() or self._room.dtype != gate.dtype or self._room.device != gate.device:
            self._room = torch.empty_like(gate)
        return self._room.view(gate.shape)

    def _normalised(self, module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if self._on:
            self._note(output, module.forward, (inputs[0].detach(),))

    def _note(self, tensor: torch.Tensor, make: Callable[..., torch.Tensor], inputs: tuple[torch.Tensor, ...]) -> None:
        if tensor.is_contiguous():
            self._recipes[tensor.data_ptr()] = (tensor.detach(), make, inputs)

    def kept(self, tensor: torch.Tensor) -> torch.Tensor | Recipe:
        """What stands for a tensor that is to be saved."""
        found = self._recipes.get(tensor.data_ptr())
        if found is None:
            return tensor
        whole, make, inputs = found
        same = whole.numel() == tensor.numel() and whole.dtype == tensor.dtype and tensor.is_contiguous()
        return Recipe(make, inputs, tensor.shape) if same else tensor


def _given(kept: torch.Tensor | Recipe) -> torch.Tensor:
    return kept.follow() if isinstance(kept, Recipe) else kept


class _Gated(torch.autograd.Function):  # type: ignore[misc]
    """act(gate) * up, which keeps its two inputs and nothing else."""

    @staticmethod
    def forward(
        ctx: Any, gate: torch.Tensor, up: torch.Tensor, act: Callable[..., torch.Tensor], room: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        ctx.act = act
        return gated(gate, up, act, room.detach())

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        by_gate, by_up = torch.empty_like(gate), torch.empty_like(up)
        for gate_part, up_part, grad, into_gate, into_up in _pieces(gate, up, grads[0], by_gate, by_up):
            with torch.enable_grad():
                leaf = gate_part.detach().requires_grad_()
                active = ctx.act(leaf)
            torch.mul(grad, active.detach(), out=into_up)
            into_gate.copy_(torch.autograd.grad(active, leaf, grad * up_part)[0])
        return by_gate, by_up, None, None


def gated(
    gate: torch.Tensor, up: torch.Tensor, act: Callable[..., torch.Tensor], room: torch.Tensor | None = None
) -> torch.Tensor:
    """act(gate) * up, a piece at a time."""
    product = torch.empty_like(gate) if room is None else room
    for gate_part, up_part, into in _pieces(gate, up, product):
        torch.mul(act(gate_part), up_part, out=into)
    return product


def _pieces(*tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """The same rows of each tensor: as many as stay in a CPU's cache, all of them elsewhere."""
    flat = [tensor.reshape(-1, tensor.shape[-1]) for tensor in tensors]
    rows, width = flat[0].shape
    step = max(1, CACHED_BYTES // (width * flat[0].element_size())) if flat[0].device.type == "cpu" else rows
    for start in range(0, rows, step):
        yield tuple(each[start : start + step] for each in flat)
