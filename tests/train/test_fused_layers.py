"""LoRA layers in fewer passes: PEFT's own values and gradients, and PEFT itself for what is more than plain LoRA."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch", reason="the training extra is not installed")
pytest.importorskip("peft", reason="the training extra is not installed")

import torch
from peft import LoraConfig, get_peft_model

from tests.support.token_trees import FAMILIES, tiny_model
from train.fused_layers import FusedLayers

TOKENS = torch.arange(1, 25).view(2, 12)


def adapted(family: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, **changes)
    return get_peft_model(tiny_model(family), config).train()


def worth(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    model.zero_grad()
    total = model(input_ids=TOKENS).logits.square().sum()
    total.backward()
    return total.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def made_by_fused_layers(model: Any) -> bool:
    """Whether the graph of a forward pass has a layer of ours in it."""
    waiting, seen = [model(input_ids=TOKENS).logits.sum().grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if "LowRank" in node.name():
            return True
        seen.add(node)
        waiting += [parent for parent, _ in node.next_functions]
    return False


@pytest.mark.parametrize("family", FAMILIES)
def test_values_and_gradients_are_those_of_peft(family: str) -> None:
    model = adapted(family, lora_alpha=12)
    plain, plain_gradients = worth(model)
    fused = FusedLayers(model.get_base_model())
    with fused.fusing():
        assert made_by_fused_layers(model)
        value, gradients = worth(model)
    assert not made_by_fused_layers(model)
    assert float((value - plain).abs() / plain) < 1e-5
    assert float((gradients - plain_gradients).norm() / plain_gradients.norm()) < 1e-5


@pytest.mark.parametrize("changes", [{"lora_dropout": 0.1}, {"use_dora": True}, {"lora_bias": True}])
def test_what_is_more_than_plain_lora_is_left_to_peft(changes: dict[str, Any]) -> None:
    model = adapted("llama", **changes)
    with FusedLayers(model.get_base_model()).fusing():
        assert not made_by_fused_layers(model)


def test_an_adapter_that_is_off_adds_nothing() -> None:
    model = adapted("llama")
    fused = FusedLayers(model.get_base_model())
    with model.disable_adapter():
        expected = model(input_ids=TOKENS).logits
        with fused.fusing():
            assert torch.equal(model(input_ids=TOKENS).logits, expected)
