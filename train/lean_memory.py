"""Activations that are cheap to compute again are not kept for the backward pass. Imports torch.

A decoder layer keeps for its backward pass, per token, about four times the width of its gated feed-forward part:
the gate, the gate's activation, the other half, and the product of both, beside normalised inputs. The activation,
the product and the normalised inputs follow from what is kept anyway by one element-wise operation, so only a recipe
is kept in their place (selective recomputation, arXiv 2205.05198, applied to element-wise operations). No matrix
product is done twice: about two fifths less memory for a few hundredths of the time.

Invariant: gradients are those of keeping everything, bit for bit: a recipe repeats the same operation on the same
values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

GATED = frozenset("LlamaMLP MistralMLP Qwen2MLP Qwen3MLP Olmo2MLP GemmaMLP Gemma2MLP Gemma3MLP".split())
"""Feed-forward parts that compute down_proj(act_fn(gate_proj(x)) * up_proj(x)) and nothing else."""


@dataclass(frozen=True, eq=False)
class Recipe:
    """How a tensor is made again, and the form in which it was to be kept."""

    make: Callable[..., torch.Tensor]
    inputs: tuple[torch.Tensor, ...]
    shape: torch.Size

    def follow(self) -> torch.Tensor:
        with torch.no_grad():
            return self.make(*self.inputs).view(self.shape)


class LeanMemory:
    """Watches the layers of one model; `saving` is entered around each forward pass that is to be lean."""

    def __init__(self, causal: Any) -> None:
        """`causal` is a causal model of transformers without its adapter's wrapper."""
        self._on = False
        # A tensor is held as long as its address stands here, so that no other can come to have the same one.
        self._recipes: dict[int, tuple[torch.Tensor, Callable[..., torch.Tensor], tuple[torch.Tensor, ...]]] = {}
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
        halves: dict[str, torch.Tensor] = {}

        def activated(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            if self._on:
                halves["gate"] = inputs[0].detach()
                self._note(output, module.forward, (halves["gate"],))

        def other(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
            if self._on:
                halves["up"] = output.detach()

        def multiplied(_module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            if self._on:
                self._note(inputs[0], lambda gate, up: part.act_fn(gate) * up, (halves.pop("gate"), halves.pop("up")))

        part.act_fn.register_forward_hook(activated)
        part.up_proj.register_forward_hook(other)
        part.down_proj.register_forward_pre_hook(multiplied)

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
