"""Losses over packed trees against TRL's trainers on the flattened rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the training extra is not installed")
pytest.importorskip("trl", reason="the training extra is not installed")
pytest.importorskip("peft", reason="the training extra is not installed")

import torch
from peft import LoraConfig, get_peft_model

from tests.support.token_trees import VOCABULARY, random_tree, tiny_model
from train.flat import dpo_trainer, sft_trainer
from train.losses import Counts, DpoForm, counts_of, dpo_loss, sft_loss
from train.packing import PackedSequence, pack
from train.reply_logps import reply_sums, row_of, token_logps
from train.token_tree import PairOf, TokenTree
from train.tree_attention import prepare

TREES = [random_tree(seed, segments=10) for seed in range(3)]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tokenizer() -> Any:
    """Names the token to pad with; nothing is tokenized."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = {str(token): token for token in range(VOCABULARY)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="0")), pad_token="0", eos_token="1"
    )


def adapted(seed: int = 0, *, fresh: bool = True) -> Any:
    torch.manual_seed(seed)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=fresh, task_type="CAUSAL_LM")
    return get_peft_model(tiny_model("llama"), config).train()


def nudge(model: Any) -> None:
    """Move the adapter away from where it is, the same way each time."""
    generator = torch.Generator().manual_seed(7)
    for name, parameter in model.named_parameters():
        if "lora_" in name and ".ref." not in name:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)


def reference_of(model: Any, sequence: PackedSequence) -> torch.Tensor:
    row = row_of(sequence)
    with torch.no_grad():
        return reply_sums(token_logps(model, row), row.lengths)


def total(sequences: list[PackedSequence]) -> Counts:
    counts = [counts_of(sequence) for sequence in sequences]
    return sum(counts[1:], counts[0])


def packed_dpo(model: Any, trees: list[TokenTree], form: DpoForm, limit: int) -> tuple[float, torch.Tensor]:
    """Loss and adapter gradients of one accumulated batch of packed rows; the reference is the model before a nudge."""
    prepare(model.get_base_model())
    sequences = pack(trees, "dpo", limit)
    references = [reference_of(model, sequence) for sequence in sequences]
    nudge(model)
    loss = 0.0
    for sequence, reference in zip(sequences, references, strict=True):
        part, _ = dpo_loss(token_logps(model, row_of(sequence)), reference, sequence, total(sequences), form)
        part.backward()
        loss += float(part.detach())
    return loss, gradient(model)


def gradient(model: Any) -> torch.Tensor:
    found = [p.grad.flatten() for n, p in model.named_parameters() if p.grad is not None and ".ref." not in n]
    return torch.cat(found)


def off(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float(((found - expected).norm() / expected.norm()).detach())


@pytest.mark.parametrize(
    ("form", "settings"),
    [
        (DpoForm(beta=0.3), {"loss_type": ["sigmoid"], "beta": 0.3}),
        (DpoForm("robust", label_smoothing=0.2), {"loss_type": ["robust"], "label_smoothing": 0.2}),
        (DpoForm("ipo"), {"loss_type": ["ipo"]}),
        (DpoForm("sigmoid_norm", beta=2.0), {"loss_type": ["sigmoid_norm"], "beta": 2.0}),
        (DpoForm(sft_weight=0.5), {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}),
    ],
)
@pytest.mark.parametrize("limit", [180, 2_000])
def test_preference_losses_and_gradients_are_trls_on_one_flattened_batch(
    form: DpoForm, settings: dict[str, Any], limit: int, tokenizer: Any, tmp_path: Path
) -> None:
    count = sum(len(tree.pairs) for tree in TREES)
    trainer = dpo_trainer(
        adapted(fresh=False), tokenizer, TREES, tmp_path, per_device_train_batch_size=count, **settings
    )
    nudge(trainer.model)
    theirs = trainer.compute_loss(trainer.model, next(iter(trainer.get_train_dataloader())))
    theirs.backward()
    loss, packed = packed_dpo(adapted(fresh=False), TREES, form, limit)
    assert loss == pytest.approx(float(theirs.detach()), rel=1e-4)
    assert off(packed, gradient(trainer.model)) < 1e-4


def test_a_target_token_counts_the_same_in_every_row(tokenizer: Any, tmp_path: Path) -> None:
    count = sum(len(tree.targets) for tree in TREES)
    trainer = sft_trainer(adapted(fresh=False), tokenizer, TREES, tmp_path, per_device_train_batch_size=count)
    theirs = trainer.compute_loss(trainer.model, next(iter(trainer.get_train_dataloader())))
    theirs.backward()
    model = adapted(fresh=False)
    prepare(model.get_base_model())
    sequences = pack(TREES, "sft", 90)
    assert len(sequences) > 1
    loss = sum(sft_loss(token_logps(model, row_of(s)), s, total(sequences)) for s in sequences)
    assert isinstance(loss, torch.Tensor)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(theirs.detach()), rel=1e-4)
    assert off(gradient(model), gradient(trainer.model)) < 1e-4


def test_weights_of_pairs_make_a_weighted_mean() -> None:
    tree = TREES[0]
    heavy = replace(tree, pairs=tuple(replace(p, weight=3.0 if i == 0 else 1.0) for i, p in enumerate(tree.pairs)))
    thrice = replace(tree, pairs=(tree.pairs[0], tree.pairs[0], *tree.pairs))
    weighted, slope = packed_dpo(adapted(), [heavy], DpoForm(), 2_000)
    repeated, expected = packed_dpo(adapted(), [thrice], DpoForm(), 2_000)
    assert weighted == pytest.approx(repeated, rel=1e-5)
    assert off(slope, expected) < 1e-5


def test_margins_as_weights_give_the_loss_and_gradient_computed_by_hand() -> None:
    """sum of w x -log sigmoid(beta d) over the sum of w, from plain logits of rows that share nothing."""
    margins = iter([0.2, 1.7, 0.6, 0.1, 2.4, 1.0] * 9)
    trees = [replace(tree, pairs=tuple(replace(p, weight=next(margins)) for p in tree.pairs)) for tree in TREES]
    beta = 0.3
    found, slope = packed_dpo(adapted(), trees, DpoForm(beta=beta), 180)

    model = adapted()
    pairs = [(tree, pair) for tree in trees for pair in tree.pairs]
    with torch.no_grad():
        reference = [log_ratio(model, tree, pair) for tree, pair in pairs]
    nudge(model)
    differences = [log_ratio(model, tree, pair) - q for (tree, pair), q in zip(pairs, reference, strict=True)]
    weights = [pair.weight for _, pair in pairs]
    losses = [-w * (1 / (1 + (-beta * d).exp())).log() for w, d in zip(weights, differences, strict=True)]
    expected = torch.stack(losses).sum() / sum(weights)
    expected.backward()
    assert found == pytest.approx(float(expected.detach()), rel=1e-5)
    assert off(slope, gradient(model)) < 1e-5


def log_ratio(model: Any, tree: TokenTree, pair: PairOf) -> torch.Tensor:
    """log p(chosen) - log p(rejected) from whole logits."""
    chosen, rejected = (row_logp(model, tree, side) for side in (pair.chosen, pair.rejected))
    return chosen - rejected


def row_logp(model: Any, tree: TokenTree, reply: int) -> torch.Tensor:
    row, length = torch.tensor([tree.row(reply)]), len(tree.segments[reply].tokens)
    logps = model(input_ids=row).logits[0, -length - 1 : -1].log_softmax(-1)
    return logps.gather(1, row[0, -length:, None]).sum()


def test_smoothed_labels_are_a_mixture_of_both_labels() -> None:
    tree = TREES[1]
    flipped = replace(tree, pairs=tuple(replace(p, chosen=p.rejected, rejected=p.chosen) for p in tree.pairs))
    right, _ = packed_dpo(adapted(), [tree], DpoForm(), 2_000)
    wrong, _ = packed_dpo(adapted(), [flipped], DpoForm(), 2_000)
    smooth, _ = packed_dpo(adapted(), [tree], DpoForm(label_smoothing=0.1), 2_000)
    assert smooth == pytest.approx(0.9 * right + 0.1 * wrong, rel=1e-5)
