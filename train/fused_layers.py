"""Linear layers with LoRA, computed in fewer passes over memory. Imports torch.

PEFT computes W x, then B A x, then its product with the scale, then the sum: on a CPU the passes over the output cost
about as much as the small products that they serve. Here the scaled B A x is added by the product itself, and so is
what comes back through A to the gradient of x (LoRA: arXiv 2106.09685).

Invariant: values and gradients are those of PEFT's layers, to rounding; whatever is not plain LoRA over frozen weights
in one precision is left to PEFT.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class FusedLayers:
    """Watches the layers of one model; `fusing` is entered around forward passes that are to be fused."""

    def __init__(self, causal: Any) -> None:
        """`causal` is a causal model of transformers, its LoRA layers in place."""
        self._on = False
        for part in causal.modules():
            if type(part).__module__ == "peft.tuners.lora.layer" and type(part).__name__ == "Linear":
                self._watch_linear(part)

    @contextmanager
    def fusing(self) -> Iterator[None]:
        """Layers that can be are fused in here."""
        self._on = True
        try:
            yield
        finally:
            self._on = False

    def _watch_linear(self, part: Any) -> None:
        plain = part.forward

        def forward(x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            adapter = _only_adapter(part, x) if self._on and not args and not kwargs else None
            if adapter is None:
                return plain(x, *args, **kwargs)
            down, up = part.lora_A[adapter].weight, part.lora_B[adapter].weight
            return _LowRank.apply(x, part.base_layer.weight, part.base_layer.bias, down, up, part.scaling[adapter])

        part.forward = forward


def _only_adapter(part: Any, x: torch.Tensor) -> str | None:
    """The adapter of a layer that is plain LoRA just now; None if it is anything else."""
    if part.disable_adapters or part.merged or torch.is_autocast_enabled(x.device.type):
        return None
    active = [name for name in part.active_adapters if name in part.lora_A]
    base = part.base_layer
    if len(active) != 1 or active[0] in part.lora_variant or type(base) is not torch.nn.Linear:
        return None
    down, up = part.lora_A[active[0]], part.lora_B[active[0]]
    dropped = part.training and getattr(part.lora_dropout[active[0]], "p", 0.0) > 0
    frozen = not base.weight.requires_grad and (base.bias is None or not base.bias.requires_grad)
    same = x.dtype == base.weight.dtype == down.weight.dtype == up.weight.dtype
    return active[0] if frozen and same and not dropped and up.bias is None else None


class _LowRank(torch.autograd.Function):  # type: ignore[misc]
    """x W^T + bias + scale x A^T B^T, with W and the bias frozen."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        low = torch.nn.functional.linear(x, down)
        ctx.save_for_backward(x, low, weight, down, up)
        ctx.scale = scale
        out = torch.nn.functional.linear(x, weight, bias)
        _rows(out).addmm_(_rows(low), up.T, alpha=scale)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, low, weight, down, up = ctx.saved_tensors
        grad = _rows(grads[0])
        through = torch.mm(grad, up).mul_(ctx.scale)
        by_x = torch.mm(grad, weight).addmm_(through, down).view(x.shape) if ctx.needs_input_grad[0] else None
        by_up = torch.mm(grad.T, _rows(low)).mul_(ctx.scale)
        return by_x, None, None, torch.mm(through.T, _rows(x)), by_up, None


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1, tensor.shape[-1])
