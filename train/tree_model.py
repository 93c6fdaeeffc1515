"""A causal model that reads packed sequences, whole where it can and path by path where it cannot. Imports torch.

Whether trees can be packed for a model is asked twice: of its configuration, and of the model itself, which has to
give a small tree the log-probabilities that its own logits give to the tree's rows.

Invariant: `forward` gives the same log-probabilities packed and separate, to rounding.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import torch

from train.fused_layers import FusedLayers
from train.lean_memory import LeanMemory
from train.packing import Objective, PackedSequence, lay_out, pack, separate
from train.reply_logps import reply_sums, row_of, separate_token_logps, token_logps
from train.token_tree import PairOf, Segment, TokenTree
from train.tree_attention import obstacle, prepare
from trees.errors import SetupError

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.02}
"""Of the trial, relative to the log-probability of a reply."""


class TreeModel(torch.nn.Module):  # type: ignore[misc]
    """The module that is trained: what wraps it for several devices sees one `forward`."""

    def __init__(self, model: Any, longest: int, *, lean: bool = True, mixed: bool = False) -> None:
        """`longest` is the longest path in tokens; `lean` is left out where whole layers are computed again.

        `mixed` makes products in bfloat16 whatever the weights are: for weights of float32 that are trained themselves.

        Raises SetupError if the model's logits cannot be made here.
        """
        super().__init__()
        self.model, self.mixed = model, mixed
        self.separate_because = _reason(model, longest)
        """Why trees are read path by path; None if they are packed."""
        causal = _causal(model)
        self._savings = (LeanMemory(causal).saving, FusedLayers(causal).fusing) if lean else ()
        """What is entered around forward passes that gradients are wanted of."""

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def forward(self, sequence: PackedSequence) -> torch.Tensor:
        """log p of each predicted token, (N,)."""
        with ExitStack() as entered:
            for saving in self._savings if torch.is_grad_enabled() else ():
                entered.enter_context(saving())
            entered.enter_context(torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed))
            return self._read(sequence)

    def _read(self, sequence: PackedSequence) -> torch.Tensor:
        if self.separate_because is not None:
            return separate_token_logps(self.model, sequence, self.device)
        return token_logps(self.model, row_of(sequence, self.device))

    def sequences(self, trees: Iterable[TokenTree], objective: Objective, limit: int) -> list[PackedSequence]:
        """Trees in the form that this model reads."""
        return separate(trees, objective) if self.separate_because is not None else pack(trees, objective, limit)


def longest_path(trees: Iterable[TokenTree]) -> int:
    """Tokens of the longest path of all trees."""
    return max(
        (depth + len(each.tokens) for tree in trees for depth, each in zip(tree.depths, tree.segments, strict=True)),
        default=0,
    )


def _reason(model: Any, longest: int) -> str | None:
    causal = _causal(model)
    own = causal.config._attn_implementation
    expected, apart = _by_logits(model), _worth(model, separate_token_logps)
    tolerance = TOLERANCE.get(model.dtype, 0.05)
    if not _close(apart, expected, tolerance):
        raise SetupError(
            f"{type(causal).__name__} makes its logits in a way that is not known here",
            hint="Its replies cannot be scored: take another base model.",
        )
    reason = obstacle(causal.config, longest)
    if reason is not None:
        return reason
    try:
        prepare(causal)
        packed = _worth(model, lambda each, sequence, device: token_logps(each, row_of(sequence, device)))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = f"its attention cannot be replaced: {error}"
    else:
        if _close(packed, expected, tolerance):
            return None
        reason = "it gives packed trees other log-probabilities than their rows"
    causal.set_attn_implementation(own)
    return reason


def _causal(model: Any) -> Any:
    """The model under an adapter."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _trial(vocabulary: int) -> PackedSequence:
    """A small tree whose siblings go on, of random tokens."""
    rng = random.Random(0)

    def segment(parent: int, length: int) -> Segment:
        return Segment(parent, tuple(rng.randrange(vocabulary) for _ in range(length)), parent in (0, 3, 4), "")

    segments = (segment(-1, 5), *(segment(parent, 3) for parent in (0, 0, 1, 2, 3, 3, 4)))
    return lay_out([TokenTree("trial", "", segments, (7,), (PairOf(1, 2), PairOf(5, 6)))])


def _worth(model: Any, read: Callable[[Any, PackedSequence, torch.device], torch.Tensor]) -> torch.Tensor:
    """The replies of the small tree under the model, (R,)."""
    sequence = _trial(model.get_output_embeddings().weight.shape[0])
    training, device = model.training, next(model.parameters()).device
    model.eval()
    with torch.no_grad():
        sums = reply_sums(read(model, sequence, device), torch.from_numpy(sequence.reply_lengths).to(device))
    model.train(training)
    return sums.cpu()


def _by_logits(model: Any) -> torch.Tensor:
    """The same by the logits that the model itself makes."""

    def read(each: Any, sequence: PackedSequence, device: torch.device) -> torch.Tensor:
        found = []
        for tree, index in sequence.replies:
            row = torch.tensor(sequence.trees[tree].row(index), device=device)
            length = len(sequence.trees[tree].segments[index].tokens)
            chances = each(input_ids=row[None], use_cache=False).logits[0].float().log_softmax(-1)
            found.append(chances[-length - 1 : -1].gather(1, row[-length:, None])[:, 0])
        return torch.cat(found)

    return _worth(model, read)


def _close(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> bool:
    return bool(((found - expected).abs() <= tolerance * expected.abs()).all())
