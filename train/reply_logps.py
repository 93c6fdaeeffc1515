"""Log-probabilities of replies: from the last hidden states to one number a token, without whole logits. Imports torch.

Logits are made for predicted tokens only, a chunk at a time. The log-probability of token y at hidden state h is
(h W^T)_y - log sum exp(h W^T), so its gradient by h is W_y - softmax(h W^T) W: one row of the hidden size. While
the output weights are frozen (LoRA) that row is made together with the value and kept, which costs two products in
all; where they are trained too, the chunk is computed again in the backward pass.

Invariant: peak memory is a chunk of logits, whatever the vocabulary and the number of replies; log-probabilities are
those of a float32 log-softmax.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from train.packing import PackedSequence
from train.tree_attention import TreePlan, padded_length, plan_of, uses_flex
from trees.errors import SetupError

CHUNK_BYTES = 64 * 2**20
"""Of float32 logits at once."""
CACHED_BYTES = 2**20
"""Of logits that a CPU exponentiates at a time."""


@dataclass(frozen=True, eq=False)
class Row:
    """A packed sequence as a model reads it: tensors on its device."""

    tokens: torch.Tensor
    """(1, T), padded where kernels are compiled by shape."""
    positions: torch.Tensor
    plan: TreePlan
    predicted_at: torch.Tensor
    """(N,)"""
    predicted: torch.Tensor
    lengths: torch.Tensor
    """(R,)"""


def row_of(sequence: PackedSequence, device: torch.device | str = "cpu") -> Row:
    """The tensors of a packed sequence."""
    length = padded_length(len(sequence)) if uses_flex(device) else len(sequence)
    tokens = torch.zeros(1, length, dtype=torch.long)
    tokens[0, : len(sequence)] = torch.from_numpy(sequence.tokens)
    plan = plan_of(sequence, length=length, device=device)
    return Row(
        tokens=tokens.to(device),
        positions=plan.positions[None],
        plan=plan,
        predicted_at=torch.from_numpy(sequence.predicted_at).to(device),
        predicted=torch.from_numpy(sequence.predicted).to(device),
        lengths=torch.from_numpy(sequence.reply_lengths).to(device),
    )


def token_logps(model: Any, row: Row) -> torch.Tensor:
    """log p of each predicted token given its path, (N,) in nats and float32, reply after reply.

    `model` is a causal model of transformers, with a PEFT adapter or without, that `tree_attention.prepare` was
    called on.
    """
    causal = _causal(model)
    hidden = causal.get_decoder()(
        input_ids=row.tokens, position_ids=row.positions, use_cache=False, tree_plan=row.plan
    ).last_hidden_state
    return head_logps(causal, hidden[0, row.predicted_at], row.predicted)


def separate_token_logps(model: Any, sequence: PackedSequence, device: torch.device | str = "cpu") -> torch.Tensor:
    """The same as `token_logps` by the model's own attention: the path of each reply as a row by itself."""
    causal = _causal(model)
    found: list[torch.Tensor] = []
    for tree, segment in sequence.replies:
        row = torch.tensor([sequence.trees[tree].row(segment)], device=device)
        length = len(sequence.trees[tree].segments[segment].tokens)
        hidden = causal.get_decoder()(input_ids=row, use_cache=False).last_hidden_state[0]
        found.append(head_logps(causal, hidden[-length - 1 : -1], row[0, -length:]))
    return torch.cat(found)


def head_logps(causal: Any, hidden: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
    """log p of each predicted token from the hidden state that predicts it: (N, hidden size) and (N,) to (N,).

    Raises SetupError for an output layer that is more than a product with one matrix.
    """
    head, text = causal.get_output_embeddings(), causal.config.get_text_config()
    cap = getattr(text, "final_logit_softcapping", None)
    if type(head) is not torch.nn.Linear:
        raise SetupError(
            f"the output layer of {type(causal).__name__} is a {type(head).__name__}, not a plain linear layer",
            hint="Leave it out of `lora_targets`.",
        )
    factor = (getattr(text, "logit_scale", None) or 1.0) / (getattr(text, "logits_scaling", None) or 1.0)
    if factor != 1.0:
        hidden = hidden * factor
    frozen = not head.weight.requires_grad and head.bias is None and cap is None
    if frozen:
        return torch.as_tensor(_FrozenHead.apply(hidden.to(head.weight.dtype), head.weight, predicted))
    parts = [
        checkpoint(_plain_logps, head, cap, hidden[at], predicted[at], use_reentrant=False)
        for at in _chunks(hidden, len(head.weight))
    ]
    return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=torch.float32)


def reply_sums(logps: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Per reply the sum over its tokens: (N,) and (R,) to (R,)."""
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
    return torch.zeros(len(lengths), dtype=logps.dtype, device=logps.device).index_add(0, owner, logps)


def reply_means(logps: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Per reply the mean over its tokens."""
    return reply_sums(logps, lengths) / lengths


def _causal(model: Any) -> Any:
    """The model under an adapter."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


class _FrozenHead(torch.autograd.Function):  # type: ignore[misc]
    """Values and their gradients by the hidden states in one pass over the chunks."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
        logps = hidden.new_zeros(len(hidden), dtype=torch.float32)
        wanted = ctx.needs_input_grad[0]
        slopes = torch.empty_like(hidden) if wanted else None
        room = hidden.new_empty(_chunk_rows(len(weight)), len(weight)) if hidden.dtype == torch.float32 else None
        for at in _chunks(hidden, len(weight)):
            logits = _logits(hidden[at], weight, room)
            logps[at], totals = _exponentials(logits, predicted[at])
            if slopes is not None:
                slopes[at] = weight[predicted[at]] - (logits.to(weight.dtype) @ weight) / totals
        ctx.save_for_backward(*([slopes] if slopes is not None else []))
        return logps

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return (grads[0][:, None] * slopes).to(slopes.dtype), None, None


def _logits(hidden: torch.Tensor, weight: torch.Tensor, room: torch.Tensor | None) -> torch.Tensor:
    """In float32; in memory that is there already, if it is given."""
    if room is None:
        return (hidden @ weight.T).float()
    return torch.mm(hidden, weight.T, out=room[: len(hidden)])


def _exponentials(logits: torch.Tensor, predicted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of the predicted tokens, (n,), and the sums of the exponentials, (n, 1).

    `logits` (n, vocabulary) become exponentials less their row's largest, a few rows at a time on a CPU, so that
    they are read and written once.
    """
    step = max(1, CACHED_BYTES // (4 * logits.shape[1])) if logits.device.type == "cpu" else len(logits)
    logps, totals = [], []
    for start in range(0, len(logits), step):
        rows = logits[start : start + step]
        right = rows.gather(1, predicted[start : start + step, None])
        largest = rows.amax(-1, keepdim=True)
        total = rows.sub_(largest).exp_().sum(-1, keepdim=True)
        logps.append((right - largest - total.log())[:, 0])
        totals.append(total)
    return torch.cat(logps), torch.cat(totals)


def _plain_logps(head: torch.nn.Linear, cap: float | None, hidden: torch.Tensor, predicted: torch.Tensor) -> Any:
    logits = head(hidden).float()
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    return torch.log_softmax(logits, -1).gather(1, predicted[:, None])[:, 0]


def _chunks(hidden: torch.Tensor, vocabulary: int) -> list[slice]:
    rows = _chunk_rows(vocabulary)
    return [slice(start, start + rows) for start in range(0, len(hidden), rows)]


def _chunk_rows(vocabulary: int) -> int:
    return max(1, CHUNK_BYTES // (4 * vocabulary))
