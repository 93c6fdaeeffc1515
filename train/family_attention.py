"""Attention over packed trees by torch's own kernels for a CPU. Imports torch.

A *family* is a run of branches that read the same prefix: siblings, or one branch alone. Its rows read the prefix as
one unmasked product, and each member reads itself causally; the two parts are joined by their log-sums (the rule of
online softmax, arXiv 2205.14135). In the backward pass each part is given the joined output and log-sum, with which
its gradients are exactly its share, so they add up.

Invariant: the rows of all families are all tokens of the sequence, each once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from train.packing import Branch, Span, merged

_kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward_kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True)
class Family:
    """Branches side by side that read the same prefix."""

    prefix: tuple[Span, ...]
    members: tuple[Span, ...]
    """Each begins where the one before it ends."""

    @property
    def rows(self) -> Span:
        return Span(self.members[0].start, self.members[-1].end)


def families_of(branches: Iterable[Branch]) -> tuple[Family, ...]:
    """Branches, in the order of a sequence, as families."""
    found: list[Family] = []
    for branch in branches:
        prefix, last = merged(branch.prefix), found[-1] if found else None
        if last is not None and prefix and last.prefix == prefix and last.rows.end == branch.span.start:
            found[-1] = Family(prefix, (*last.members, branch.span))
        else:
            found.append(Family(prefix, (branch.span,)))
    return tuple(found)


def fits(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, families: Sequence[Family]) -> bool:
    """Whether the kernels take these tensors in float32, and the families are all of their tokens."""
    plain = query.device.type == "cpu" and query.dtype == key.dtype == value.dtype and query.dtype != torch.float64
    whole = bool(families) and families[-1].rows.end == query.shape[2] == key.shape[2]
    return plain and whole and query.shape[-1] == value.shape[-1]


class FamilyAttention(torch.autograd.Function):  # type: ignore[misc]
    """(1, heads, tokens, size) in, (1, tokens, heads, size) out; keys may have fewer heads (GQA)."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        families: tuple[Family, ...],
        scale: float,
    ) -> torch.Tensor:
        _, heads, tokens, size = query.shape
        out = query.new_empty(1, tokens, heads, size).transpose(1, 2)
        sums = query.new_empty(1, heads, tokens)
        for family in families:
            for member in family.members:
                own = _at(member)
                out[own], sums[own] = _kernel(query[own], key[own], value[own], 0.0, True, scale=scale)
            if family.prefix:
                rows = _at(family.rows)
                before, its_sums = _kernel(
                    query[rows], _gathered(key, family), _gathered(value, family), 0.0, False, scale=scale
                )
                joined = torch.logaddexp(sums[rows], its_sums)
                out[rows].mul_((sums[rows] - joined).exp_()[..., None])
                out[rows].addcmul_(before, (its_sums - joined).exp_()[..., None])
                sums[rows] = joined
        ctx.save_for_backward(query, key, value, out, sums)
        ctx.families, ctx.scale = families, scale
        return out.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, out, sums = ctx.saved_tensors
        grad = grads[0].transpose(1, 2)
        by_query, by_key, by_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        for family in ctx.families:
            for member in family.members:
                own = _at(member)
                given = (grad[own], query[own], key[own], value[own], out[own], sums[own])
                by_query[own], of_key, of_value = _backward_kernel(*given, 0.0, True, scale=ctx.scale)
                by_key[own] += of_key
                by_value[own] += of_value
            if family.prefix:
                rows = _at(family.rows)
                keys, values = _gathered(key, family), _gathered(value, family)
                given = (grad[rows], query[rows], keys, values, out[rows], sums[rows])
                of_query, of_key, of_value = _backward_kernel(*given, 0.0, False, scale=ctx.scale)
                by_query[rows] += of_query
                _scatter(by_key, family, of_key)
                _scatter(by_value, family, of_value)
        return by_query, by_key, by_value, None, None


def _at(span: Span) -> tuple[slice, slice, slice]:
    return slice(None), slice(None), slice(span.start, span.end)


def _gathered(states: torch.Tensor, family: Family) -> torch.Tensor:
    """The keys or values of the prefix; a view where they stand in one piece."""
    parts = [states[_at(span)] for span in family.prefix]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


def _scatter(sums: torch.Tensor, family: Family, grads: torch.Tensor) -> None:
    start = 0
    for span in family.prefix:
        sums[_at(span)] += grads[:, :, start : start + len(span)]
        start += len(span)
