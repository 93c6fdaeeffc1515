"""TRL's own trainers on the flattened rows: the yardstick, for whoever wants to compare. Imports torch and TRL.

A row a pair (`prompt_ids`, `chosen_ids`, `rejected_ids`) or a target (`input_ids`, `labels`), as TRL's trainers read
them after tokenizing; tokens are handed over as they are, so that both sides train on the same ones.

Invariant: the rows of a tree are those that a packed sequence of it stands for, in the order of its pairs or targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from train.token_tree import TokenTree
from trees.errors import SetupError


class TokenDPOTrainer(DPOTrainer):  # type: ignore[misc]
    """TRL's trainer over rows that are tokens already."""

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset


def preference_rows(trees: Sequence[TokenTree]) -> list[dict[str, list[int]]]:
    """A row a pair. Raises SetupError for weighted pairs, which TRL knows nothing of."""
    rows = []
    for tree in trees:
        for pair in tree.pairs:
            if pair.weight != 1.0:
                raise SetupError(f"a pair of tree {tree.id} has weight {pair.weight}", hint="Train without weights.")
            rows.append(
                {
                    "prompt_ids": list(tree.row(tree.segments[pair.chosen].parent)),
                    "chosen_ids": list(tree.segments[pair.chosen].tokens),
                    "rejected_ids": list(tree.segments[pair.rejected].tokens),
                }
            )
    return rows


def target_rows(trees: Sequence[TokenTree]) -> list[dict[str, list[int]]]:
    """A row a target, with the tokens before the reply masked."""
    rows = []
    for tree in trees:
        for target in tree.targets:
            row, reply = tree.row(target), tree.segments[target].tokens
            rows.append({"input_ids": list(row), "labels": [-100] * (len(row) - len(reply)) + list(reply)})
    return rows


def dpo_trainer(
    model: Any,
    tokenizer: Any,
    trees: Sequence[TokenTree],
    out: Path,
    measured: Sequence[TokenTree] = (),
    **settings: Any,
) -> DPOTrainer:
    """TRL's DPOTrainer over the pairs of these trees, measured on those; `settings` are DPOConfig's.

    The reference is the model as it is given, its adapter included; its log-probabilities are made beforehand.
    """
    given = _common(out) | {"max_length": None, "precompute_ref_log_probs": True} | settings
    return TokenDPOTrainer(
        model=model,
        args=DPOConfig(**given),
        train_dataset=Dataset.from_list(preference_rows(trees)),
        eval_dataset=Dataset.from_list(preference_rows(measured)) if measured else None,
        processing_class=tokenizer,
    )


def sft_trainer(
    model: Any,
    tokenizer: Any,
    trees: Sequence[TokenTree],
    out: Path,
    measured: Sequence[TokenTree] = (),
    **settings: Any,
) -> SFTTrainer:
    """TRL's SFTTrainer over the targets of these trees, measured on those; `settings` are SFTConfig's."""
    given = _common(out) | {"max_length": None, "dataset_kwargs": {"skip_prepare_dataset": True}} | settings
    return SFTTrainer(
        model=model,
        args=SFTConfig(**given),
        train_dataset=Dataset.from_list(target_rows(trees)),
        eval_dataset=Dataset.from_list(target_rows(measured)) if measured else None,
        processing_class=tokenizer,
    )


def _common(out: Path) -> dict[str, Any]:
    """What makes TRL's trainers quiet, local, and exact in the order and form of their rows."""
    return {
        "output_dir": str(out),
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "bf16": False,
        "gradient_checkpointing": False,
    }
