"""What is minimised: supervised (SFT) and preference (DPO) losses over log-probabilities of replies. Imports torch.

Values are those of flattened data: SFT is the mean over all target tokens of the accumulated batch, DPO the mean over
all of its pairs. So each function gives a row's *sum* divided by the batch's count, and the rows of a batch add up to
the mean, however they were packed.

Invariant: with weights of 1, the sum over the rows of a batch equals TRL's loss of the same name on one batch of the
flattened rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import logsigmoid

from train.packing import PackedSequence
from train.preference_form import DpoForm
from train.reply_logps import reply_sums


@dataclass(frozen=True)
class Counts:
    """What the sums over an accumulated batch are divided by."""

    target_tokens: float
    pair_weight: float
    chosen_tokens: float
    """Once a pair: a reply that is chosen in three pairs counts three times, as in flattened rows."""

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.target_tokens + other.target_tokens,
            self.pair_weight + other.pair_weight,
            self.chosen_tokens + other.chosen_tokens,
        )


@dataclass(frozen=True, eq=False)
class PairOutcome:
    """What a preference loss saw, per pair, (P,), without gradients."""

    chosen_rewards: torch.Tensor
    """beta x (log p - log p of the reference)."""
    rejected_rewards: torch.Tensor


def counts_of(sequence: PackedSequence) -> Counts:
    """A row's share of the counts."""
    chosen = sequence.reply_lengths[sequence.pairs[:, 0]].sum()
    return Counts(float(sequence.target_tokens), float(sequence.weights.sum()), float(chosen))


def sft_loss(logps: torch.Tensor, sequence: PackedSequence, counts: Counts) -> torch.Tensor:
    """The mean negative log-likelihood of the target tokens: a row's share of it.

    `logps` are those of the row's predicted tokens, (N,). Every target token counts the same, wherever it stands.
    """
    sums = reply_sums(logps, _on(sequence.reply_lengths, logps))
    return -sums[_on(sequence.targets, logps)].sum() / max(counts.target_tokens, 1.0)


def dpo_loss(
    logps: torch.Tensor, reference: torch.Tensor, sequence: PackedSequence, counts: Counts, form: DpoForm
) -> tuple[torch.Tensor, PairOutcome]:
    """The mean preference loss over pairs, weighted by their weights: a row's share of it.

    `logps` (N,) are the policy's, `reference` (R,) the sums a reply under the reference model. With the difference
    d = (log p(chosen) - log q(chosen)) - (log p(rejected) - log q(rejected)), q the reference:

    - `sigmoid`: -log sigmoid(beta d), Direct Preference Optimization (arXiv 2305.18290, equation 7); with label
      smoothing e, (1 - e) of it and e of the loss of the flipped pair (conservative DPO, arXiv 2403.00409, section 3).
    - `robust`: the same with -e, over 1 - 2e: unbiased if labels are flipped with chance e (arXiv 2403.00409,
      equation 9).
    - `sigmoid_norm`: `sigmoid` with each log-ratio over its reply's tokens (arXiv 2411.15124, equation 6).
    - `ipo`: (d - 1 / (2 beta))^2 with log-ratios over tokens (arXiv 2310.12036, equation 17).
    """
    lengths = _on(sequence.reply_lengths, logps)
    pairs = _on(sequence.pairs, logps)
    sums = reply_sums(logps, lengths)
    ratios = sums - reference.to(sums)
    scores = ratios / lengths if form.loss in ("ipo", "sigmoid_norm") else ratios
    losses = _pair_losses(scores[pairs[:, 0]] - scores[pairs[:, 1]], form)
    weights = torch.from_numpy(sequence.weights).to(losses)
    loss = (losses * weights).sum() / max(counts.pair_weight, 1e-9)
    if form.sft_weight:
        loss = loss - form.sft_weight * sums[pairs[:, 0]].sum() / max(counts.chosen_tokens, 1.0)
    rewards = form.beta * ratios.detach()
    return loss, PairOutcome(rewards[pairs[:, 0]], rewards[pairs[:, 1]])


def _pair_losses(differences: torch.Tensor, form: DpoForm) -> torch.Tensor:
    beta, smoothing = form.beta, form.label_smoothing
    if form.loss == "ipo":
        return (differences - 1 / (2 * beta)) ** 2
    right, flipped = -logsigmoid(beta * differences), -logsigmoid(-beta * differences)
    if form.loss == "robust":
        return ((1 - smoothing) * right - smoothing * flipped) / (1 - 2 * smoothing)
    return (1 - smoothing) * right + smoothing * flipped


def _on(values: object, like: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(values, device=like.device)
