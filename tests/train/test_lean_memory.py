"""What is computed again instead of kept: the same gradients, bit for bit, from far less."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the training extra is not installed")
pytest.importorskip("peft", reason="the training extra is not installed")

import torch
from peft import LoraConfig, get_peft_model

from tests.support.tiny_base import tiny_base
from tests.support.token_trees import FAMILIES, random_tree, tiny_model
from train.base_model import open_base
from train.config import TrainingConfig
from train.lean_memory import LeanMemory, Recipe
from train.memory import FRAMEWORK, what_to_lower
from train.packing import PackedSequence, pack
from train.reply_logps import row_of, token_logps
from train.tree_attention import prepare
from train.tree_model import TreeModel
from train.trial import estimate_memory, memory_on_paper, try_step


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def adapted(family: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    return get_peft_model(tiny_model(family, **changes), config).train()


def kept_bytes(model: Any, sequence: PackedSequence, lean: LeanMemory | None) -> int:
    """Bytes that the graph of a forward pass holds, each storage once, weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages: dict[int, int] = {}

    def look(kept: Any) -> Any:
        for tensor in kept.inputs[:2] if isinstance(kept, Recipe) else (kept,):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                storages[storage.data_ptr()] = storage.nbytes()
        return kept

    def give(kept: Any) -> Any:
        return kept.follow() if isinstance(kept, Recipe) else kept

    keep = (lambda tensor: look(lean.kept(tensor))) if lean is not None else look
    with lean.saving() if lean is not None else nullcontext(), torch.autograd.graph.saved_tensors_hooks(keep, give):
        total = token_logps(model, row_of(sequence)).sum()
        held = sum(storages.values())
    total.backward()
    return held


def test_far_less_is_kept() -> None:
    model = adapted("llama", intermediate_size=96, num_hidden_layers=6)
    prepare(model.get_base_model())
    (sequence,) = pack([random_tree(1, longest=60)], "dpo", 4_000)
    everything = kept_bytes(model, sequence, None)
    lean = kept_bytes(model, sequence, LeanMemory(model.get_base_model()))
    assert lean < 0.65 * everything


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_bit_for_bit_those_of_keeping_everything(family: str) -> None:
    model = adapted(family)
    prepare(model.get_base_model())
    (sequence,) = pack([random_tree(1)], "dpo", 1_000)
    found = []
    for context in (nullcontext(), LeanMemory(model.get_base_model()).saving()):
        model.zero_grad()
        with context:
            total = token_logps(model, row_of(sequence)).sum()
        total.backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert torch.equal(*found)


def test_the_estimate_grows_with_tokens_and_falls_with_recomputed_layers() -> None:
    model = adapted("llama")
    config = TrainingConfig(objective="dpo")
    short, long = (estimate_memory(model, config, tokens) for tokens in (1_000, 2_000))
    assert long.activations == 2 * short.activations
    recomputed = TrainingConfig.model_validate({"objective": "dpo", "machine": {"gradient_checkpointing": True}})
    assert estimate_memory(model, recomputed, 2_000).activations < long.activations
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert short.training == 3 * 4 * trainable


def test_a_trial_leaves_everything_as_it_was() -> None:
    model = adapted("llama")
    (sequence,) = pack([random_tree(1)], "dpo", 1_000)
    before = [p.detach().clone() for p in model.parameters()]
    state = torch.get_rng_state()
    trial = try_step(TreeModel(model, 200), sequence, TrainingConfig(objective="dpo"))
    assert trial.tokens == len(sequence)
    assert trial.seconds > 0
    assert trial.peak_bytes > 0
    assert all(torch.equal(now, then) for now, then in zip(model.parameters(), before, strict=True))
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_random_state_is_kept_where_a_trial_draws() -> None:
    model = get_peft_model(
        tiny_model("llama"), LoraConfig(r=4, lora_dropout=0.5, target_modules="all-linear", task_type="CAUSAL_LM")
    ).train()
    (sequence,) = pack([random_tree(1)], "sft", 1_000)
    tree_model = TreeModel(model, 200)
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    try_step(tree_model, sequence, TrainingConfig(objective="sft"))
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("lora", [{"rank": 4}, None])
def test_on_paper_a_base_takes_what_it_takes_when_it_is_loaded(lora: Any, tmp_path: Path) -> None:
    config = TrainingConfig.model_validate({"objective": "sft", "base": str(tiny_base(tmp_path)), "lora": lora})
    paper, loaded = memory_on_paper(config, 500), estimate_memory(open_base(config).model, config, 500)
    assert paper == loaded
    assert paper.total == paper.weights + paper.step + FRAMEWORK


def test_what_to_lower_names_what_stands_now_and_leaves_out_what_is_low() -> None:
    config = TrainingConfig.model_validate({"objective": "dpo", "tokens_per_row": 900, "lora": {"rank": 64}})
    assert what_to_lower(config) == (
        "Lower tokens_per_row (now 900) or lora.rank (now 64), set machine.gradient_checkpointing = true, "
        "set dtype = 'bfloat16', set quantised = 'nf4' on a GPU, or take a smaller base."
    )
    low = {"objective": "dpo", "dtype": "bfloat16", "lora": None, "machine": {"gradient_checkpointing": True}}
    said = what_to_lower(TrainingConfig.model_validate(low))
    assert "train an adapter and not all weights" in said
    assert "checkpointing" not in said
    assert "bfloat16" not in said
