"""Packed trees against flattened rows: the same log-probabilities and gradients, whatever the model and the shape."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("torch", reason="the training extra is not installed")
pytest.importorskip("peft", reason="the training extra is not installed")

import torch
from transformers import AutoModelForCausalLM

from agents.models.weights import locate
from tests.support.token_trees import FAMILIES, random_tree, tiny_model
from train import tree_attention
from train.packing import PackedSequence, pack
from train.reply_logps import reply_sums, row_of, separate_token_logps, token_logps
from train.token_tree import TokenTree
from train.tree_attention import NAME, obstacle, padded_length, prepare, tree_attention_forward, uses_flex

TIGHT = 1e-5


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny models spend their time on threads waiting for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def packed_sums(model: Any, sequence: PackedSequence) -> torch.Tensor:
    row = row_of(sequence)
    return reply_sums(token_logps(model, row), row.lengths)


def flat_sums(model: Any, sequence: PackedSequence) -> torch.Tensor:
    return reply_sums(separate_token_logps(model, sequence), torch.from_numpy(sequence.reply_lengths))


def gradients(model: Any, total: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    total.backward()
    found = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return torch.cat(found)


def off(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float(((found - expected).norm() / expected.norm()).detach())


def assert_equal_to_flattened(model: Any, trees: list[TokenTree], limit: int) -> None:
    """Per-reply log-probabilities, and gradients of a sum in which every reply has its own weight."""
    sequences = pack(trees, "dpo", limit)
    weights = [torch.linspace(-1, 2, len(s.replies)) for s in sequences]
    flat = [flat_sums(model, sequence) for sequence in sequences]
    flat_gradients = gradients(model, sum((w * f).sum() for w, f in zip(weights, flat, strict=True)))
    prepare(model)
    packed = [packed_sums(model, sequence) for sequence in sequences]
    packed_gradients = gradients(model, sum((w * p).sum() for w, p in zip(weights, packed, strict=True)))
    error = (torch.cat(packed) - torch.cat(flat)).abs() / torch.cat(flat).abs()
    assert float(error.detach().max()) < TIGHT
    assert off(packed_gradients, flat_gradients) < TIGHT


def with_lora(model: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    """An adapter that has learnt a little."""
    torch.manual_seed(0)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return adapted


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_reads_trees_as_it_reads_rows(family: str) -> None:
    assert_equal_to_flattened(tiny_model(family), [random_tree(seed) for seed in range(4)], 250)


@pytest.mark.parametrize("seed", range(8))
def test_shapes_that_branch_again_and_again(seed: int) -> None:
    model = tiny_model("llama", num_hidden_layers=2, num_key_value_heads=1 + seed % 2 * 3)
    assert_equal_to_flattened(with_lora(model), [random_tree(seed, segments=30, siblings=5, longest=6)], 1_000)


@pytest.mark.parametrize("seed", range(4))
def test_blocks_read_what_torch_has_no_kernels_for(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(tree_attention, "fits", lambda *_: False)
    model = tiny_model("llama", num_hidden_layers=2, num_key_value_heads=1 + seed % 2 * 3)
    assert_equal_to_flattened(with_lora(model), [random_tree(seed, segments=30, siblings=5, longest=6)], 1_000)


def test_in_bfloat16_attention_is_read_in_float32() -> None:
    """Rounding aside, packed trees are read as rows are, with gradients; attention itself is that of float32."""
    tree, model = random_tree(3), tiny_model("llama").to(torch.bfloat16)
    (sequence,) = pack([tree], "dpo", 4096)
    flat = flat_sums(model, sequence)
    flat_gradients = gradients(model, flat.sum())
    prepare(model)
    packed = packed_sums(model, sequence)
    assert off(packed, flat) < 0.01
    assert off(gradients(model, packed.sum()).float(), flat_gradients.float()) < 0.05
    rounded = [torch.randn(1, heads, len(sequence), 8, dtype=torch.bfloat16) for heads in (4, 2, 2)]
    plan = row_of(sequence).plan
    read, exact = (
        tree_attention_forward(model, *(each.to(dtype) for each in rounded), None, tree_plan=plan)[0]
        for dtype in (torch.bfloat16, torch.float32)
    )
    assert torch.equal(read, exact.to(torch.bfloat16))


def test_branches_longer_than_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_attention, "fits", lambda *_: False)
    monkeypatch.setattr(tree_attention, "BLOCK_ROWS", 16)
    assert_equal_to_flattened(tiny_model("qwen3"), [random_tree(seed, longest=70) for seed in range(2)], 3_000)


def test_recomputed_layers_give_the_same_gradients() -> None:
    (sequence,) = pack([random_tree(1)], "dpo", 1_000)
    model = with_lora(tiny_model("llama")).train()
    prepare(model)
    kept = gradients(model, packed_sums(model, sequence).sum())
    model.activation_checkpointing_enable({"use_reentrant": False})
    assert off(gradients(model, packed_sums(model, sequence).sum()), kept) < TIGHT


def test_a_prepared_model_still_reads_plain_rows() -> None:
    (sequence,) = pack([random_tree(3)], "dpo", 1_000)
    model = tiny_model("llama")
    before = flat_sums(model, sequence)
    prepare(model)
    assert off(flat_sums(model, sequence), before) < TIGHT


def test_frozen_and_trained_output_layers_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.reply_logps.CHUNK_BYTES", 4 * 97 * 7)
    (sequence,) = pack([random_tree(5)], "dpo", 1_000)
    model = tiny_model("llama")
    prepare(model)
    body = list(model.model.parameters())

    def body_gradients() -> torch.Tensor:
        found = torch.autograd.grad(packed_sums(model, sequence).square().sum(), body)
        return torch.cat([each.flatten() for each in found])

    trained = body_gradients()
    model.lm_head.weight.requires_grad_(False)
    assert off(body_gradients(), trained) < TIGHT


@pytest.mark.embedded
def test_the_embedded_model_reads_trees_as_it_reads_rows() -> None:
    path = locate("embedded").path
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    tree = random_tree(2, segments=12, siblings=3, longest=25, vocabulary=40_000)
    assert_equal_to_flattened(with_lora(model), [tree], 2_000)


@pytest.mark.parametrize(
    ("family", "changes", "longest", "words"),
    [
        ("mistral", {"sliding_window": 16}, 40, "sliding_attention see 16 tokens"),
        ("gemma3_text", {"sliding_window": 16}, 40, "sliding_attention see 16 tokens"),
        ("llama", {"attention_dropout": 0.1}, 40, "attention_dropout = 0.1"),
        ("qwen3", {"layer_types": ["linear_attention"] * 3}, 40, "linear_attention"),
    ],
)
def test_what_cannot_be_packed_is_named(family: str, changes: dict[str, Any], longest: int, words: str) -> None:
    from transformers import AutoConfig

    config = AutoConfig.for_model(family, num_hidden_layers=3)
    for name, value in changes.items():
        setattr(config, name, value)
    assert words in str(obstacle(config, longest))


def test_a_window_that_no_path_reaches_is_no_obstacle() -> None:
    assert obstacle(tiny_model("mistral", sliding_window=64).config, 64) is None


def test_padded_lengths_are_few_and_waste_little() -> None:
    lengths = range(513, 16_384)
    assert all(n <= padded_length(n) <= 1.25 * n + 128 and padded_length(n) % 128 == 0 for n in lengths)
    assert len({padded_length(n) for n in lengths}) <= 24


@pytest.mark.skipif(not uses_flex("cuda" if torch.cuda.is_available() else "cpu"), reason="no CUDA device with Triton")
def test_compiled_attention_on_a_gpu_agrees() -> None:
    model = tiny_model("llama", head_dim=16).cuda()
    (sequence,) = pack([random_tree(7, longest=60)], "dpo", 4_000)
    flat = reply_sums(separate_token_logps(model, sequence, "cuda"), torch.tensor(sequence.reply_lengths).cuda())
    prepare(model)
    row = row_of(sequence, "cuda")
    assert off(reply_sums(token_logps(model, row), row.lengths), flat) < 1e-3


def test_another_model_made_of_the_same_configuration_keeps_its_own_attention() -> None:
    model = tiny_model("llama")
    other = type(model)(model.config)
    prepare(model)
    assert model.model.layers[0].self_attn.config._attn_implementation == NAME
    assert other.config._attn_implementation != NAME
    assert other.model.layers[0].self_attn.config is other.config
